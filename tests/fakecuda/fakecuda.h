/*
 * fakecuda.h -- a CUDA driver, NVRTC, nvJitLink and NVML for machines without a GPU. README.md says
 * what it is for. First what tests call (found by dlsym in libcuda.so.1), then what the files of the
 * stand-in share.
 *
 * Everything that is not said to be atomic is guarded by one lock, fc_lock. There is one condition,
 * told at every change (fc_broadcast): clear before fast.
 */
#ifndef FAKECUDA_H
#define FAKECUDA_H

#include <stdarg.h>
#include <stddef.h>

#define FC_API __attribute__((visibility("default")))

/* ---- for tests; thread: any, blocks: no ---- */

/* Sets a fault (README.md has the list) while things run. 0, or -1: there is none of that name. */
FC_API int fakecuda_set(const char *name, long value);

/* All calls in order, one "NAME STREAM TIMES\n" each, like calls in a row taken together and the
 * oldest forgotten after 64 Ki lines; stream 0: none. Fills out[size] and returns the length of the
 * whole text, like snprintf. */
FC_API size_t fakecuda_calls(char *out, size_t size);

/* How often a function was called since the start or fakecuda_clear. */
FC_API size_t fakecuda_count(const char *name);
FC_API void fakecuda_clear(void);

/* What was done wrong without being fatal, one line each; the number of lines. */
FC_API size_t fakecuda_errors(char *out, size_t size);

/* ---- faults ---- */

/* X(name, value at the start) */
#define FC_FAULTS(X)                                                                               \
    X(no_device, 0)                                                                                \
    X(init, 0)                                                                                     \
    X(ctx, 0)                                                                                      \
    X(oom_host, 0)                                                                                 \
    X(oom_device, 0)                                                                               \
    X(blocks, 0)                                                                                   \
    X(compile_fail, 0)                                                                             \
    X(link_fail, 0)                                                                                \
    X(load_blocks, 0)                                                                              \
    X(load_fail, 0)                                                                                \
    X(never_start, 0)                                                                              \
    X(stall, 0)                                                                                    \
    X(sticky, 0)                                                                                   \
    X(fallen, 0)                                                                                   \
    X(timeout_attr, 0)                                                                             \
    X(compute_mode, 0)                                                                             \
    X(cc, 90)                                                                                      \
    X(devices, 1)                                                                                  \
    X(lazy, 0)                                                                                     \
    X(warp, 1)                                                                                     \
    X(sms, 4)                                                                                      \
    X(allow, 0)                                                                                    \
    X(keep, 0)
#define FC_FAULT_NAME(name, value) FC_##name,
enum fc_fault { FC_FAULTS(FC_FAULT_NAME) FC_FAULT_COUNT };

/* Atomic; thread: any, with the lock or without. */
FC_API long fc_fault(enum fc_fault which);
FC_API void fc_fault_reset(enum fc_fault which);
/* Called with the lock held after every fakecuda_set. Set once, when libcuda is loaded. */
FC_API void fc_on_fault(void (*changed)(void));

/* ---- the lock ---- */

FC_API void fc_lock(void);
FC_API void fc_unlock(void);
FC_API void fc_wait(void); /* until the next change; with the lock; blocks: yes */
FC_API int fc_wait_until(
    long long t); /* the same, at most until t (CLOCK_MONOTONIC, ns); 0: late */
FC_API void fc_broadcast(void);
FC_API long long fc_now(void);

/* ---- records; with the lock ---- */

FC_API void fc_called(const char *name, unsigned stream); /* keeps name: a constant */
FC_API void fc_noted(const char *name); /* the same, without the lock and a stream */
FC_API void fc_misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
FC_API void fc_fatal(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* ---- the system's compiler; without the lock; blocks: yes ---- */

typedef struct fc_blob {
    char *data; /* from malloc, NUL after it; the holder's to free */
    size_t size;
} fc_blob;

FC_API char *fc_folder_make(void);          /* gives a new folder's path, NULL: none */
FC_API void fc_folder_remove(char *folder); /* takes the path; everything in it goes */
FC_API int fc_file_write(const char *folder, const char *name, const void *data, size_t size);
FC_API int fc_file_read(const char *folder, const char *name, fc_blob *out);
/* Runs the compiler there with arguments (up to a NULL, borrowed) behind its own words and the
 * sanitizer's flags; *said gives what it wrote. 0: it ended well. */
FC_API int fc_compile(const char *folder, const char *const *arguments, fc_blob *said);
/* Links objects into a shared object for `arch` ("sm_90"). 0, or -1 and *log says why. */
FC_API int fc_link(const fc_blob *objects, const char *const *names, size_t count, const char *arch,
                   fc_blob *image, fc_blob *log);
/* A printf that replaces the blob. */
FC_API void fc_print(fc_blob *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- what an image is for ---- */

FC_API size_t fc_elf_size(const void *data); /* 0: no ELF file; reads what its header points to */
FC_API int fc_elf_is_object(const void *data);
/* Whether everything in an object or image can run on capability cc (90 is 9.0). */
FC_API int fc_fits(const void *data, size_t size, long cc);

#define FC_MARK  "standin-arch="  /* in every object: sm_NN or compute_NN and a semicolon */
#define FC_IMAGE "standin-image=" /* in every linked image, likewise */

#endif
