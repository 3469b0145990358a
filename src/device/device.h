/*
 * device.h -- places where ring kernels run, and what runs there.
 *
 *   lexer.c       steps through the user's source
 *   source.c      what a handler text contains: RK_ON, RK_EVERY...
 *   variables.c   which variables of it keep a value
 *   definition.c  rk_kernel_define: checks, the rk__definition of kind "kernel"
 *   build.c       definition -> translation unit -> compiler -> shared object
 *   compiler.c    the system C compiler as a child process
 *   cache.c       shared objects on disk
 *   symbols.c     ELF objects: no mutable file-scope variables; numbers of a definition
 *   channel.c     the rings of one instance: pump (host -> device) and drain (device -> host)
 *   logline.c     text of rk_log
 *   launch.c      a ring kernel as an actor: options, memory, its slot of the registry
 *   instance.c    activate, pause, stop, fail
 *   read.c        a copy of its state
 *   object.c      the objects behind instances, kept for reuse
 *   device.c      the device of a runtime, its threads, the watchdog for handlers that hang
 *   devices.c     rk_devices: what there is
 *   cpu/cpu.c     back end: blocks are threads running kernels/resident.cu
 *   cuda/         back end: blocks live in a grid of the same loop on a GPU (cuda/gpu.h)
 */
#ifndef RK_DEVICE_DEVICE_H
#define RK_DEVICE_DEVICE_H

#include "actor/runtime.h"
#include "base/hash.h"
#include "rk_abi.h"

/* ---- source.c ---- */

typedef struct rk__handler {
    char type[RK_NAME_MAX]; /* RK_ON(type, ...) */
    int line;
} rk__handler;

typedef struct rk__shared_use {
    int line, last_line; /* of RK_SHARED( and of its ) */
    char *type, *dims;   /* as written: "float", "[256]" */
} rk__shared_use;

typedef struct rk__source {
    rk__handler *handlers;
    size_t handler_count;
    rk__shared_use *shared; /* in the order of their lines */
    size_t shared_count;
    int *every_lines;     /* one per RK_EVERY, in the user's line numbers */
    char **every_periods; /* their arguments as written: "0.5" */
    size_t every_count;
    int start_line, stop_line, state_line; /* 0: none */
} rk__source;

/* Looks at the text outside comments and string literals. Line numbers start at first_line.
 * RK_ECOMPILE: unbalanced, two handlers of one type (both lines named), RK_STATE twice... */
int rk__source_scan(const char *name, const char *text, int first_line, rk__source *out);
void rk__source_free(rk__source *source);

/* Variables that keep a value and are not const: at file scope, or static in a function. */
typedef struct rk__variable {
    char name[RK_NAME_MAX]; /* cut when longer */
    int line;
} rk__variable;

/* Finds them in a text that rk__source_scan accepted: a reading of declarations, without macros and
 * without types, so one that hides in a macro is not found. RK_ENOMEM. gives (free) */
int rk__source_variables(const char *text, int first_line, rk__variable **out, size_t *count);

/* ---- definition.c ---- */

typedef struct rk__kernel {
    rk__definition base; /* kind "kernel" */
    char *text;          /* the handlers */
    char *source_name;   /* for compiler messages */
    int source_line;
    const rk_type **types; /* accepts, then replies (each once) */
    uint32_t accepts, type_count;
    rk_field *state_fields;       /* schema of the state, or NULL */
    const rk_type *state;         /* struct type of the schema as handlers see it, or NULL */
    const rk_type *state_message; /* the same with a name for readers: "summer.state" */
    uint32_t block, grid, queue_size, cpu_threads;
    int64_t handler_timeout;
    bool timeout_fails;
    enum rk_full full;
    rk__source source;
} rk__kernel;

/* ---- build.c, cache.c, symbols.c ---- */

/* A compiled definition, shared by its instances; kept loaded until its last user is gone. Both
 * back ends have theirs, as the first member of a larger struct. */
typedef struct rk__module {
    uint32_t refs; /* atomic */
    const rk_entry *entry;
    rk__hash128 key;
    void (*unload)(struct rk__module *module); /* frees everything */
    struct rk__module *next;                   /* of the modules in this process */
} rk__module;

/* Compiles (or finds in the cache, or among the precompiled kernels) and loads. threads: of a block
 * on the cpu (1 gets a variant where loops vectorise and barriers vanish). RK_ECOMPILE with the
 * compiler's text in the user's line numbers, RK_ENOCOMPILER says what was looked for, RK_EIO.
 * gives. thread: any. blocks: yes (the compiler) */
int rk__module_build(rk_runtime *rt, const rk__kernel *kernel, uint32_t threads, rk__module **out);
void rk__module_release(rk__module *module); /* of NULL: nothing */

/* What back ends share. The module of this process that has the key, retained, or NULL. */
rk__module *rk__module_find(rk__hash128 key);
/* Makes a module with one reference known. takes it, gives the one to use: another thread may have
 * been faster, and then this one is unloaded. */
rk__module *rk__module_enter(rk__module *module);
/* Whether a compiled definition is what it should be and does what may be done. `from` names where
 * it was read. RK_EIO: it is not; RK_ECOMPILE: RK_SHARED, timer periods. */
int rk__module_check(const rk_entry *entry, const rk__kernel *kernel, uint32_t threads,
                     const char *from);
void rk__module_count_hit(rk_runtime *rt);      /* rt may be NULL */
void rk__module_count_compiled(rk_runtime *rt); /* here, too */

/* The headers that the translation unit includes: names ("rk_kernel.h"), and their text, which the
 * library carries. thread: any */
enum { RK__KERNEL_HEADERS = 3 };
extern const char *const rk__kernel_headers[RK__KERNEL_HEADERS];
const char *rk__kernel_header(size_t i);
#define RK__GENERATED "rk-generated" /* file name of what stands behind the user's text */
/* The translation unit that is compiled, the same for every device (rk_kernel.h makes the
 * difference); for tests, checks with NVRTC and curious users. gives */
int rk__kernel_text(const rk__kernel *kernel, char **out);
/* The same with another name and first line for the user's text: cache keys want neither. */
int rk__kernel_unit(const rk__kernel *kernel, const char *name, int line, rk__strbuf *out);
/* Compiles into `folder` in the form that is found without a compiler (build time). */
int rk__module_precompile(const rk__kernel *kernel, const char *folder);
/* The same for a definition registered under `name`. RK_ENOENT, RK_ETYPE */
int rk__kernel_precompile(const char *name, const char *folder);

/* One entry of the cache: bytes under a key, in a folder. Files are written to a temporary name and
 * renamed; a header with length and checksum is verified on read, a bad file is removed and counts
 * as a miss; the folder is kept below `limit` bytes, least recently used first. An unwritable
 * folder is a warning once, never a failure. */
/* given: rk_config.cache, or NULL; creates the folder. RK_EIO. borrows given */
int rk__cache_folder(const char *given, char *path, size_t size);
/* A path that dlopen can load, or RK_ENOENT. */
int rk__cache_get(const char *folder, rk__hash128 key, char *path, size_t size);
/* Stores the file `from` (moved or copied) and gives its path as rk__cache_get would. */
int rk__cache_put(const char *folder, rk__hash128 key, const char *from, char *path, size_t size);

/* RK_ECOMPILE naming each mutable object (file-scope or static local) of a compiled object, with
 * the line in the user's text when the name is found there. */
int rk__symbols_check(const char *object_path, const rk__kernel *kernel);
/* The same where sections do not tell constants from variables (objects for a GPU, in memory): what
 * the user's text declares (rk__source_variables) and the object has. */
int rk__symbols_check_text(const void *bytes, size_t size, const rk__kernel *kernel);
/* Whether an object calls functions that are not in it. */
bool rk__symbols_calls_out(const void *bytes, size_t size);
/* Copies the object called `name`, of exactly `out_size` bytes, out of an ELF object in memory (aligned
 * to 8); addresses in it are 0. RK_ENOENT: it has none such. thread: any. blocks: no */
int rk__symbols_read(const void *bytes, size_t size, const char *name, void *out, size_t out_size);

/* ---- back ends ---- */

struct rk__kernel_actor; /* instance.h */

typedef struct rk__backend {
    const char *name; /* "cpu", "cuda" */
    /* Threads of a block, into k->threads, and whether they can be had. RK_ERANGE. */
    int (*settle)(const rk_options *options, struct rk__kernel_actor *k, const rk__kernel *kernel);
    /* Compiles and loads a definition, or finds it; see rk__module_build. */
    int (*build)(rk_runtime *rt, const rk__kernel *kernel, uint32_t threads, rk__module **out);
    /* Allocates rings, arena, state and blocks for an instance. RK_ENOMEM, RK_EDEVICE. */
    int (*prepare)(struct rk__kernel_actor *k);
    /* The resident loops begin, under the command that was given before. */
    int (*start)(struct rk__kernel_actor *k);
    void (*command)(struct rk__kernel_actor *k, enum rk_command command); /* and wakes the blocks */
    void (*wake)(struct rk__kernel_actor *k); /* after slots were committed; has a full fence */
    /* Bytes of the state, at a message border. RK_EDEVICE. */
    int (*read_state)(const struct rk__kernel_actor *k, void *to, size_t size);
    void (*release)(struct rk__kernel_actor *k); /* frees what prepare made; NULL-safe */
} rk__backend;

extern const rk__backend rk__backend_cpu;

/* ---- instance.c ---- */

/* rk__definition.launch of ring kernels. RK_EINVAL, RK_EEXIST, RK_ECOMPILE, RK_ENOMEM... */
int rk__kernel_launch(rk_runtime *rt, rk__definition *definition, const rk_options *options,
                      rk__actor **out);
/* A copy of the state of an instance whose definition has a state schema, taken between two
 * messages; the type of the message is called "NAME.state". RK_EUNSUPPORTED: no schema, or no ring
 * kernel; RK_EDEAD; RK_ETIMEOUT: no message border within 5 s. gives. thread: any. blocks: yes */
int rk__kernel_read_state(rk_pid pid, rk_message **out);

/* ---- device.c ---- */

/* Chooses the device of a runtime by its options; again: nothing. rk_open calls it, so that a bad
 * option is told early. RK_EDEVICE says what was looked for, RK_EINVAL, RK_EUNSUPPORTED (mode).
 * thread: any. blocks: no */
int rk__devices_open(rk_runtime *rt);
const char *rk__device_name(const rk_runtime *rt); /* "cpu", "cuda:0"; "auto" until it is settled */
const rk__backend *rk__device_backend(const rk_runtime *rt);
/* Before the first ring kernel of a runtime: "auto" takes CUDA when it passes its self-test, else the
 * cpu, and says which and why in the log. thread: any. blocks: yes */
int rk__devices_settle(rk_runtime *rt);
void *rk__device_handle(const rk_runtime *rt); /* the back end's own: what rk__cuda_open gave */

/* The instances of a runtime, for the watchdog. enter: when it is activated; leave: at its end. */
void rk__devices_enter(struct rk__kernel_actor *k);
void rk__devices_leave(struct rk__kernel_actor *k);
/* Messages were handed to a device: the watchdog is up if it has to be. After a full fence. */
void rk__devices_stir(rk_runtime *rt);
/* Starts a thread of a device; it is joined by rk__runtime_close or sooner. RK_ENOMEM. */
int rk__devices_thread(rk_runtime *rt, size_t stack, void *(*fn)(void *), void *arg);

#endif
