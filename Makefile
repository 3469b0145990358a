# Settings. `make help` lists the targets.
CC        ?= cc
BUILD     ?= build
CFLAGS    ?= -O2 -g
SANITIZER ?=
CUDA      ?= auto
PREFIX    ?= /usr/local
V         ?= 0

OUT  := $(BUILD)$(if $(SANITIZER),/$(SANITIZER))
SAN  := $(if $(SANITIZER),-fsanitize=$(SANITIZER) -fno-omit-frame-pointer -fno-sanitize-recover=all)
Q    := $(if $(filter 1,$(V)),,@)
PKGS := lua5.4 ck mpack hwloc libxxhash libedit

# Installs what is missing, once, before anything is compiled.
GOALS := $(or $(MAKECMDGOALS),all)
ifneq ($(filter-out clean help,$(GOALS)),)
  NEEDS := $(if $(filter test ci lint asan ubsan tsan fuzz bench,$(GOALS)),test,build)
  HAVE  := pkg-config --exists $(PKGS) $(if $(filter test,$(NEEDS)),criterion && command -v busted \
             && command -v luacheck && command -v clang-format && command -v python3)
  ifneq ($(shell { $(HAVE); } >/dev/null 2>&1 && echo yes),yes)
    $(if $(shell scripts/setup $(NEEDS) 1>&2 && echo yes),,$(error scripts/setup failed: see above))
  endif
endif

WARN     := -Wall -Wextra -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wshadow
DEFS     := -D_GNU_SOURCE -Isrc -Ikernels -I$(OUT)/gen
INCS     := $(shell pkg-config --cflags $(PKGS))
LIBS     := $(shell pkg-config --libs lua5.4 ck mpack hwloc libxxhash) -ldl -lm -pthread
COMPILE   = $(CC) -std=gnu11 $(CFLAGS) $(SAN) $(WARN) $(DEFS) $(INCS) -fPIC -fvisibility=hidden \
            -pthread -MMD -MP

LIB_SRC  := $(wildcard src/base/*.c src/message/*.c src/memory/*.c src/telemetry/*.c \
              src/actor/*.c src/device/*.c src/device/cpu/*.c src/script/*.c)
LIB_OBJ  := $(LIB_SRC:%.c=$(OUT)/obj/%.o) $(OUT)/obj/kernels/resident.o $(OUT)/obj/gen/embedded.o
MAIN_OBJ := $(patsubst %.c,$(OUT)/obj/%.o,$(wildcard src/rklua/*.c))
EMBED    := $(wildcard kernels/*.h kernels/*.cu lua/rk/*.lua lua/rk/*/*.lua)
UNIT     := $(patsubst tests/unit/%.c,$(OUT)/tests/unit/%,$(wildcard tests/unit/*.c))
STRESS   := $(patsubst tests/stress/%.c,$(OUT)/tests/stress/%,$(wildcard tests/stress/*.c))
C_EXAMPLES := $(patsubst examples/embed/%.c,$(OUT)/examples/%,$(wildcard examples/embed/*.c))
BENCH    := $(patsubst bench/%.c,$(OUT)/bench/%,$(wildcard bench/*.c))

all: $(OUT)/rklua $(OUT)/librk.a $(OUT)/librk.so $(OUT)/rk.so $(C_EXAMPLES) kernels-ready

run: all ## install what is missing, build, and run the main job on this machine's own counters
	$(Q)$(OUT)/rklua examples/stream.lua

test: all $(UNIT) $(STRESS) ## set up, build, run every test
	$(Q)RK_BUILD=$(OUT) scripts/test

ci: ## what CI runs: tests, lint, sanitizers, examples
	$(Q)scripts/ci

lint: ## clang-format, luacheck, header and layering checks
	$(Q)scripts/lint

asan ubsan tsan: ## the tests that make sense under a sanitizer
	$(Q)scripts/sanitize $@

fuzz: ## the decoder fuzzer for 60 s
	$(Q)scripts/fuzz 60

bench: all $(BENCH) ## round trips and throughput beside a raw ring, in one run
	$(Q)RK_BUILD=$(OUT) scripts/bench

install: all ## into PREFIX (DESTDIR is honoured)
	$(Q)RK_BUILD=$(OUT) PREFIX=$(PREFIX) scripts/install

clean: ## remove build/
	rm -rf $(BUILD)

help: ## this list
	@grep -hE '^[a-z ]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 18
	@echo 'Settings: V=1 SANITIZER=address|undefined|thread CUDA=auto|off CC= CFLAGS= BUILD= PREFIX='

# Ready-made kernels, compiled with the build so that they run where there is no compiler.
kernels-ready: $(OUT)/kernels/.ready
$(OUT)/kernels/.ready: $(OUT)/rklua scripts/precompile.lua
	@echo "  KERNELS $(OUT)/kernels"
	$(Q)$(OUT)/rklua scripts/precompile.lua $(OUT)/kernels
	$(Q)CUDA=$(CUDA) RK_BUILD=$(OUT) scripts/check-kernels
	@touch $@

$(OUT)/rklua: $(MAIN_OBJ) $(OUT)/librk.a
	@echo "  LINK    $@"
	$(Q)$(CC) $(SAN) -rdynamic -o $@ $(MAIN_OBJ) -Wl,--whole-archive $(OUT)/librk.a \
	  -Wl,--no-whole-archive $(LIBS) $(shell pkg-config --libs libedit)

$(OUT)/librk.a: $(LIB_OBJ)
	@echo "  AR      $@"
	$(Q)rm -f $@ && ar rcs $@ $^

$(OUT)/librk.so $(OUT)/rk.so: $(LIB_OBJ)
	@echo "  LINK    $@"
	$(Q)$(CC) $(SAN) -shared -Wl,-soname,$(notdir $@),-z,nodelete -o $@ $^ $(LIBS)

$(OUT)/obj/%.o: %.c
	@mkdir -p $(@D) && echo "  CC      $<"
	$(Q)$(COMPILE) -c -o $@ $<

$(OUT)/obj/kernels/resident.o: kernels/resident.cu
	@mkdir -p $(@D) && echo "  CC      $<"
	$(Q)$(COMPILE) -x c -c -o $@ $<

$(OUT)/obj/gen/embedded.o: $(OUT)/gen/embedded.c
	@mkdir -p $(@D)
	$(Q)$(COMPILE) -c -o $@ $<

$(OUT)/gen/embedded.c: $(EMBED) scripts/embed Makefile
	@mkdir -p $(@D) && echo "  EMBED   $@"
	$(Q)scripts/embed $(EMBED) > $@.tmp && mv $@.tmp $@

$(OUT)/tests/unit/%: tests/unit/%.c $(OUT)/librk.a
	@mkdir -p $(@D) && echo "  TEST    $@"
	$(Q)$(COMPILE) -Wno-missing-prototypes -Itests -o $@ $< $(OUT)/librk.a -lcriterion $(LIBS)

$(OUT)/tests/stress/%: tests/stress/%.c $(OUT)/librk.a
	@mkdir -p $(@D) && echo "  TEST    $@"
	$(Q)$(COMPILE) -Itests -o $@ $< $(OUT)/librk.a $(LIBS)

$(OUT)/bench/%: bench/%.c $(OUT)/librk.a
	@mkdir -p $(@D) && echo "  BENCH   $@"
	$(Q)$(COMPILE) -o $@ $< $(OUT)/librk.a $(LIBS)

# An embedder's view: only rk.h and librk, no Lua, CK or internal header.
$(OUT)/examples/%: examples/embed/%.c $(OUT)/librk.a
	@mkdir -p $(@D) && echo "  EXAMPLE $@"
	$(Q)$(CC) -std=c11 $(CFLAGS) $(SAN) $(WARN) -D_GNU_SOURCE -I$(OUT)/include -MMD -MP -o $@ $< \
	  $(OUT)/librk.a $(LIBS)
$(C_EXAMPLES): | $(OUT)/include/rk.h
$(OUT)/include/rk.h: src/rk.h
	@mkdir -p $(@D) && cp $< $@

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
.PHONY: all run test ci lint asan ubsan tsan fuzz bench install clean help kernels-ready
