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

# The cuda device is built where there are headers of CUDA 12.4 or newer; nothing is linked with it.
TOOLKIT  := $(if $(filter-out off,$(CUDA)),$(shell for d in $(CUDA_HOME) /usr/local/cuda; do \
              v=$$(sed -n 's/^.define CUDA_VERSION //p' $$d/include/cuda.h 2>/dev/null); \
              [ "$${v:-0}" -ge 12040 ] && [ -f $$d/include/nvrtc.h ] && \
              [ -f $$d/include/nvJitLink.h ] && echo $$d && break; done))
DEFS     += $(if $(TOOLKIT),-DRK_HAVE_CUDA=1 -isystem $(TOOLKIT)/include)
BUILT    := $(OUT)/obj/.cuda-$(if $(TOOLKIT),on,off)

LIB_SRC  := $(wildcard src/base/*.c src/message/*.c src/memory/*.c src/telemetry/*.c \
              src/actor/*.c src/device/*.c src/device/cpu/*.c src/script/*.c \
              $(if $(TOOLKIT),src/device/cuda/*.c))
LIB_OBJ  := $(LIB_SRC:%.c=$(OUT)/obj/%.o) $(OUT)/obj/kernels/resident.o $(OUT)/obj/gen/embedded.o
MAIN_OBJ := $(patsubst %.c,$(OUT)/obj/%.o,$(wildcard src/rklua/*.c))
EMBED    := $(wildcard kernels/*.h kernels/*.cu lua/rk/*.lua lua/rk/*/*.lua)
UNIT     := $(patsubst tests/unit/%.c,$(OUT)/tests/unit/%,$(wildcard tests/unit/*.c))
STRESS   := $(patsubst tests/stress/%.c,$(OUT)/tests/stress/%,$(wildcard tests/stress/*.c))
ifneq ($(TOOLKIT),)
  FAKECUDA := $(addprefix $(OUT)/tests/fakecuda/,libcuda.so.1 libnvrtc.so.13 libnvJitLink.so.13 \
                libnvidia-ml.so.1)
else
  UNIT   := $(filter-out %/cudacompile %/extents,$(UNIT))
  STRESS := $(filter-out %/fakecuda $(OUT)/tests/stress/cuda_%,$(STRESS))
endif
C_EXAMPLES := $(patsubst examples/embed/%.c,$(OUT)/examples/%,$(wildcard examples/embed/*.c))
BENCH    := $(patsubst bench/%.c,$(OUT)/bench/%,$(wildcard bench/*.c))
GPU_BENCH := $(if $(TOOLKIT),$(patsubst %,$(OUT)/bench/gpu/%,bare driver idle compile trips flow swap))

all: $(OUT)/rklua $(OUT)/librk.a $(OUT)/librk.so $(OUT)/rk.so $(C_EXAMPLES) kernels-ready

run: all ## install what is missing, build, and run the main job on this machine's own counters
	$(Q)$(OUT)/rklua examples/stream.lua

unit-programs: $(UNIT)
stress-programs: $(STRESS)

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

gpu-bench: all $(GPU_BENCH) ## the programs of bench/gpu

gpu-bundle: gpu-bench ## what a machine with a GPU needs to check and measure, in build/gpu-bundle
	$(Q)RK_BUILD=$(OUT) scripts/gpu-bundle

install: all ## into PREFIX (DESTDIR is honoured)
	$(Q)RK_BUILD=$(OUT) PREFIX=$(PREFIX) scripts/install

clean: ## remove build/
	rm -rf $(BUILD)

help: ## this list
	@grep -hE '^[a-z -]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 18
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

# Says so once, and what was compiled the other way is compiled again.
$(LIB_OBJ): $(BUILT)
$(BUILT):
	@mkdir -p $(@D) && rm -f $(@D)/.cuda-* && touch $@
	@$(if $(TOOLKIT),,echo "  $(if $(filter off,$(CUDA)),CUDA=off,no CUDA Toolkit): building" \
	  "without the cuda device")

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

# The stand-in for a GPU: libraries with NVIDIA's names around one of its own. Never installed.
FAKE_CC   = $(CC) $(SAN) -shared -pthread -Wl,-z,nodelete,--disable-new-dtags,-rpath,'$$ORIGIN' \
            -Wl,-soname,$(@F) -o $@ $(filter %.o,$^)
FAKE_LIB  := $(OUT)/tests/fakecuda/libfakecuda.so
FAKE_OBJ   = $(patsubst %,$(OUT)/obj/tests/fakecuda/%.o,$(1))
$(UNIT) $(STRESS): | $(FAKECUDA)
$(call FAKE_OBJ,tool): DEFS += -DFAKECUDA_SANITIZER='"$(SAN)"'
$(call FAKE_OBJ,jitlink): DEFS += -DJITLINK_VERSION=$(if $(TOOLKIT),$(shell sed -n \
  's/.*__nvJitLinkCreate\(_[0-9_]*\).*/\1/p' $(TOOLKIT)/include/nvJitLink.h | head -n 1))
$(FAKE_LIB): $(call FAKE_OBJ,fault record tool)
	@mkdir -p $(@D) && echo "  FAKE    $@"
	$(Q)$(FAKE_CC)
$(OUT)/tests/fakecuda/libcuda.so.1: $(call FAKE_OBJ,context device memory stream graph kernel module)
$(OUT)/tests/fakecuda/libnvrtc.so.13: $(call FAKE_OBJ,nvrtc)
$(OUT)/tests/fakecuda/libnvJitLink.so.13: $(call FAKE_OBJ,jitlink)
$(OUT)/tests/fakecuda/libnvidia-ml.so.1: $(call FAKE_OBJ,nvml)
$(FAKECUDA): $(FAKE_LIB) tests/fakecuda/standin.h
	@echo "  FAKE    $@"
	$(Q)cp tests/fakecuda/standin.h $(@D)/ && $(FAKE_CC) $(FAKE_LIB)

$(OUT)/bench/%: bench/%.c $(OUT)/librk.a
	@mkdir -p $(@D) && echo "  BENCH   $@"
	$(Q)$(COMPILE) -o $@ $< $(OUT)/librk.a $(LIBS)

# Benchmarks of the cuda device; objects of their own, which scripts/gpu-bundle links again.
GPU_OBJ  := $(patsubst %,$(OUT)/obj/bench/gpu/%.o,gpu out rig)
$(GPU_BENCH): $(OUT)/bench/gpu/%: $(OUT)/obj/bench/gpu/%.o $(GPU_OBJ) $(OUT)/librk.a
	@mkdir -p $(@D) && echo "  BENCH   $@"
	$(Q)$(CC) $(SAN) -pthread -o $@ $< $(GPU_OBJ) $(OUT)/librk.a $(LIBS)

# An embedder's view: only rk.h and librk, no Lua, CK or internal header.
$(OUT)/examples/%: examples/embed/%.c $(OUT)/librk.a
	@mkdir -p $(@D) && echo "  EXAMPLE $@"
	$(Q)$(CC) -std=c11 $(CFLAGS) $(SAN) $(WARN) -D_GNU_SOURCE -I$(OUT)/include -MMD -MP -o $@ $< \
	  $(OUT)/librk.a $(LIBS)
$(C_EXAMPLES): | $(OUT)/include/rk.h
$(OUT)/include/rk.h: src/rk.h
	@mkdir -p $(@D) && cp $< $@

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
.PHONY: all run test ci lint asan ubsan tsan fuzz bench gpu-bench gpu-bundle install clean help kernels-ready \
  unit-programs stress-programs
