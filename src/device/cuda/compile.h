/*
 * compile.h -- from a definition to an object that can be linked into an image, by NVRTC. Includes
 * no CUDA header.
 */
#ifndef RK_DEVICE_CUDA_COMPILE_H
#define RK_DEVICE_CUDA_COMPILE_H

#include "device/cuda/probe.h"
#include "device/device.h"

enum { RK__CUDA_NAME = 40 }; /* bytes of a definition's name in an image, with its end */

/* What was compiled: machine code (an ELF object), or PTX with its NUL. */
typedef struct rk__cuda_object {
    unsigned char *bytes; /* malloc */
    size_t size;
} rk__cuda_object;

/* Registers that a thread may have in a block of so many threads: 255, 128 or 64. Pure. */
uint32_t rk__cuda_registers(uint32_t threads);

/* Compiles (or finds in this process, or in the cache). threads: of a block; definitions that get
 * the same registers share the result. The module's `entry` is on the host, numbers only, with
 * every_periods. RK_ECOMPILE with the compiler's text in the user's line numbers, also for what a
 * cpu's linker or symbols would refuse; RK_EDEVICE: no NVRTC or nvJitLink; RK_EIO, RK_ENOMEM.
 * gives: rk__module_release. thread: any. blocks: yes (the compiler) */
int rk__cuda_module_build(rk_runtime *rt, const rk__cuda_target *target, const rk__kernel *kernel,
                          uint32_t threads, rk__module **out);
/* Of modules made by rk__cuda_module_build; they live as long as the module. thread: any. */
const char *rk__cuda_module_name(const rk__module *module); /* what stands before _handle */
const void *rk__cuda_module_bytes(const rk__module *module, size_t *size);
uint32_t rk__cuda_module_registers(const rk__module *module);

/* The resident loop as kernel rk_resident_CLASS, 0 to 3. Lives as long as the process. cache: as
 * rk__cache_folder takes it. RK_EDEVICE: NVRTC says something about it. blocks: yes */
int rk__cuda_loop_build(const char *cache, const rk__cuda_target *target, unsigned class,
                        uint32_t registers, const rk__cuda_object **out);
/* Any text that stands on rk_kernel.h with RK_IMAGE; `what` names it in errors. gives out->bytes.
 * RK_EDEVICE. blocks: yes */
int rk__cuda_text_build(const char *cache, const rk__cuda_target *target, const char *what,
                        const char *text, uint32_t registers, rk__cuda_object *out);

/* Adds the name of the compiler: "NVRTC 13.0". RK_EDEVICE: there is none. blocks: yes (loads it) */
int rk__cuda_compiler_name(rk__strbuf *out);

/* ---- between compile.c, link.c, module.c and image.c ---- */

/* What NVRTC is asked for. */
typedef struct rk__cuda_order {
    const char *who;  /* begins sentences: the resident loop */
    const char *name; /* of the text, for the compiler */
    const char *text;
    rk__cuda_target target;
    uint32_t registers;
    char define[64];          /* "" or an option */
    const rk__kernel *kernel; /* whose text it is, or NULL */
    rk__cuda_object out;
    rk__strbuf log;
} rk__cuda_order;

/* The key of what `text` gives under the order's options. RK_EDEVICE: no NVRTC; RK_ENOMEM */
int rk__cuda_order_key(const rk__cuda_order *order, const char *text, rk__hash128 *out);
/* On the calling thread, which is rk__cuda_work's. gives order->out. RK_ECOMPILE, RK_EDEVICE */
int rk__cuda_compile(rk__cuda_order *order);
/* Runs fn(arg) on a thread with the stack that NVIDIA's compilers want, one at a time in this
 * process, and gives its result and its error text. thread: any. blocks: yes */
int rk__cuda_work(int (*fn)(void *arg), void *arg);

/* Adds what tells the file that a function of a library is in: name, size, time. */
void rk__cuda_add_file(void *function, rk__strbuf *out);

/* The parts of one file of the cache. get: RK_ENOENT, RK_ENOMEM; gives. put: a warning when it
 * cannot be kept. blocks: yes (files) */
int rk__cuda_cache_get(const char *cache, rk__hash128 key, rk__cuda_object *parts, uint32_t count);
void rk__cuda_cache_put(const char *cache, rk__hash128 key, const rk__cuda_object *parts,
                        uint32_t count);

typedef struct rk__cuda_input {
    const char *name;
    const rk__cuda_object *object; /* machine code */
} rk__cuda_input;

/* Objects -> an image of machine code, by nvJitLink; on the calling thread, which is
 * rk__cuda_work's. kernel: whose errors they are, or NULL. gives out->bytes. RK_ECOMPILE names what
 * is missing, RK_EDEVICE */
int rk__cuda_link(int arch, const rk__kernel *kernel, const rk__cuda_input *inputs, size_t count,
                  rk__cuda_object *out);

#endif
