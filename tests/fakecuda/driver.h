/*
 * driver.h -- what the files of the stand-in's driver share. Everything is guarded by fc_lock unless
 * said otherwise; functions here are called with it held. Thread: any. Blocks: no, unless said.
 */
#ifndef FAKECUDA_DRIVER_H
#define FAKECUDA_DRIVER_H

#include "fakecuda.h"
#include "standin.h"

#include <stdbool.h>
#include <stdint.h>

/* What this header declares is exported, and one function whose symbol has an older signature than
 * what the header calls cuCtxCreate. */
#pragma GCC visibility push(default)
#include <cuda.h>
CUresult cuCtxCreate_v2(CUcontext *out, unsigned flags, CUdevice device);
#pragma GCC visibility pop

enum {
    FC_DEVICES = 16,
    FC_SMS = 256,
    FC_THREADS_PER_SM = 2048,
    FC_BLOCKS_PER_SM = 16,
    FC_SHARED_PER_SM = 160 * 1024,
    FC_SHARED_RESERVED = 1024, /* of it, for each block */
    FC_SHARED_PLAIN = 48 * 1024,
    FC_SHARED_OPTIN = FC_SHARED_PER_SM - FC_SHARED_RESERVED,
    FC_THREADS_PER_BLOCK = 1024
};

/* LeakSanitizer guesses the bounds of thread-local data that is allocated late, and guesses wrong. */
#define FC_TLS __attribute__((tls_model("initial-exec")))

/* ---- objects: everything a handle points to begins with one ---- */

enum fc_kind {
    FC_CONTEXT,
    FC_STREAM,
    FC_EVENT,
    FC_MEMORY,
    FC_MODULE,
    FC_FUNCTION,
    FC_LINK,
    FC_GRAPH,
    FC_GRAPH_EXEC
};

typedef struct fc_object {
    enum fc_kind kind;
    struct fc_object *next;
    struct CUctx_st *context;
} fc_object;

void fc_object_add(fc_object *o, enum fc_kind kind, struct CUctx_st *context);
/* Takes it off the list; the memory is the caller's to free. */
void fc_object_remove(fc_object *o);
/* The object behind a handle, NULL: there is none of this kind. */
void *fc_object_find(const void *handle, enum fc_kind kind);
/* Any object of a kind and context, NULL: none is left. */
void *fc_object_any(const struct CUctx_st *context, enum fc_kind kind);
fc_object *fc_objects(void);

/* ---- contexts ---- */

typedef struct CUctx_st {
    fc_object object;
    CUdevice device;
    int dead;         /* atomic: the error that every call gets from now on; kernel threads end */
    unsigned running; /* kernels accepted and not ended; 0 once dead */
    unsigned live;    /* threads of kernels and of streams that are still there */
    size_t limits[CU_LIMIT_MAX];
} fc_context;

enum { FC_NEEDS_NOTHING, FC_NEEDS_INIT, FC_NEEDS_CONTEXT, FC_NEEDS_ALIVE };

/* Begins a call: takes the lock, records it, refuses it fatally when it is forbidden, and checks
 * what it needs (ALIVE: a current context that has no sticky error). On an error the lock is
 * released and the error is the call's result. `device`: what the call is about when it needs no
 * context, -1: all of them. */
CUresult fc_enter(const char *name, int needs, CUdevice device, fc_context **context);
/* The same for a call about a stream, which is found and must not be NULL. */
CUresult fc_enter_stream(const char *name, CUstream handle, struct CUstream_st **stream);
/* Ends it. */
CUresult fc_leave(CUresult result);

/* A kernel was accepted; a kernel has ended. */
void fc_running_add(fc_context *context);
void fc_running_remove(fc_context *context);
unsigned fc_running_on(CUdevice device);
/* The sticky error. Kernels count as ended from here on. */
void fc_kill(fc_context *context, CUresult error);
int fc_dead(const fc_context *context); /* without the lock too */

/* ---- memory ---- */

enum fc_where { FC_ON_DEVICE, FC_ON_HOST, FC_IN_MODULE };

typedef struct fc_memory {
    fc_object object;
    enum fc_where where;
    char *base;
    size_t size, mapped;
    struct CUmod_st *module; /* FC_IN_MODULE */
} fc_memory;

/* Whether the range lies inside one block of device memory (or a module's variable), or of host
 * memory from cuMemHostAlloc; says on stderr what is wrong when not. */
bool fc_is_device(const char *name, const void *base, size_t size);
bool fc_is_pinned(const char *name, const void *base, size_t size);
/* Either of the two. */
bool fc_is_reachable(const char *name, const void *base, size_t size);
/* A module's variable becomes device memory. */
CUresult fc_memory_of_module(struct CUmod_st *module, void *base, size_t size);
void fc_memory_forget_module(struct CUmod_st *module);
void fc_memory_free_all(fc_context *context);

/* ---- streams ---- */

typedef struct CUmod_st fc_module;

typedef struct fc_launch {
    struct CUfunc_st *function;
    void *argument;
    unsigned blocks, threads;
    size_t shared;
} fc_launch;

enum fc_op_kind { FC_LAUNCH, FC_COPY, FC_WRITE, FC_RECORD };

typedef struct fc_op {
    enum fc_op_kind kind;
    struct fc_op *next;
    fc_launch launch;
    void *to; /* FC_COPY, FC_WRITE */
    const void *from;
    size_t size;
    uint32_t value;
    CUevent event;
    uint64_t turn; /* FC_RECORD: the number of the recording */
} fc_op;

typedef struct CUstream_st {
    fc_object object;
    unsigned number; /* 1, 2, ... in order of creation, for the records */
    fc_op *first, **last;
    bool closing, gone, capturing;
    fc_op *captured, **captured_last;
} fc_stream;

/* Copies op to the end of the stream's queue, or of what it captures. */
CUresult fc_stream_push(fc_stream *s, const fc_op *op);
/* Blocks until its worker has ended; what is queued is run first, or dropped in a dead context. */
void fc_stream_close(fc_stream *s);
void fc_ops_free(fc_op *first);
void fc_event_end(CUevent event);
void fc_graphs_free(fc_context *context);

/* ---- kernels ---- */

void fc_kernel_limits(int *sms, int *blocks_per_sm);
unsigned fc_kernel_fits(unsigned threads, size_t shared); /* blocks per SM */
/* Runs a grid to its end; releases the lock meanwhile. Blocks: yes. */
void fc_kernel_run(fc_context *context, const fc_launch *launch);
/* Wakes the threads that sleep in a barrier, so that they see that they shall end. */
void fc_kernel_wake(fc_context *context);
/* A detached thread with all signals blocked that runs where the process may. 0, or errno. */
int fc_thread_start(size_t stack, void *(*run)(void *), void *arg);

/* ---- modules ---- */

struct CUmod_st {
    fc_object object;
    void *handle; /* from dlopen */
};

typedef struct CUfunc_st {
    fc_object object;
    fc_module *module;
    void (*entry)(void *);
    int shared_max; /* dynamic shared memory a launch may ask for */
    bool loaded;
} fc_function;

extern const struct standin_calls fc_standin_calls;
bool fc_lazy(void);
void fc_modules_free(fc_context *context);
void fc_links_free(fc_context *context);

#endif
