/*
 * context.c -- objects behind handles, contexts, and the gate that every call of the driver goes
 * through: it keeps the record, and ends the program when a call is made that may not be made while
 * a kernel runs.
 *
 * Threads: any. A context's sticky error is atomic, because kernel threads look at it.
 */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

static fc_object *objects;
static unsigned running[FC_DEVICES];
static bool initialised;
static __thread fc_context *current FC_TLS;

/* What may be called while a kernel runs. */
static const char *const allowed[] = {
    "cuCtxSetCurrent",         "cuCtxGetCurrent",      "cuEventQuery",     "cuEventRecord",
    "cuStreamQuery",           "cuMemcpyHtoDAsync_v2", "cuLaunchKernel",   "cuMemcpyDtoHAsync_v2",
    "cuStreamWriteValue32_v2", "cuGetErrorName",       "cuGetErrorString", "cuDeviceGetAttribute",
};

/* ---- objects ---- */

void fc_object_add(fc_object *o, enum fc_kind kind, fc_context *context)
{
    *o = (fc_object){.kind = kind, .next = objects, .context = context};
    objects = o;
}

void fc_object_remove(fc_object *o)
{
    for (fc_object **at = &objects; *at != NULL; at = &(*at)->next) {
        if (*at == o) {
            *at = o->next;
            return;
        }
    }
}

void *fc_object_find(const void *handle, enum fc_kind kind)
{
    for (fc_object *o = objects; o != NULL; o = o->next) {
        if (o == handle && o->kind == kind) {
            return o;
        }
    }
    return NULL;
}

void *fc_object_any(const fc_context *context, enum fc_kind kind)
{
    for (fc_object *o = objects; o != NULL; o = o->next) {
        if (o->context == context && o->kind == kind) {
            return o;
        }
    }
    return NULL;
}

fc_object *fc_objects(void)
{
    return objects;
}

/* ---- kernels that run ---- */

void fc_running_add(fc_context *context)
{
    context->running++;
    running[context->device]++;
}

void fc_running_remove(fc_context *context)
{
    if (context->running > 0) { /* 0 when it died meanwhile */
        context->running--;
        running[context->device]--;
    }
}

unsigned fc_running_on(CUdevice device)
{
    unsigned sum = 0;
    for (int i = 0; i < FC_DEVICES; i++) {
        sum += device < 0 || device == i ? running[i] : 0;
    }
    return sum;
}

int fc_dead(const fc_context *context)
{
    return __atomic_load_n(&context->dead, __ATOMIC_ACQUIRE); /* pairs with fc_kill */
}

void fc_kill(fc_context *context, CUresult error)
{
    if (context->dead != 0) {
        return;
    }
    running[context->device] -= context->running;
    context->running = 0;
    __atomic_store_n(&context->dead, (int)error, __ATOMIC_RELEASE); /* pairs with fc_dead */
    fc_kernel_wake(context);
    fc_broadcast();
}

static void kill_all(CUresult error, bool only_running)
{
    for (fc_object *o = objects; o != NULL; o = o->next) {
        fc_context *c = (fc_context *)o;
        if (o->kind == FC_CONTEXT && (!only_running || c->running > 0)) {
            fc_kill(c, error);
        }
    }
}

/* A sticky error hits what runs, once; when nothing does it waits for the next launch. */
static void fault_changed(void)
{
    if (fc_fault(FC_fallen)) {
        kill_all(CUDA_ERROR_UNKNOWN, false);
    }
    if (fc_fault(FC_sticky) && fc_running_on(-1) > 0) {
        kill_all((CUresult)fc_fault(FC_sticky), true);
        fc_fault_reset(FC_sticky);
    }
}

__attribute__((constructor)) static void begin(void)
{
    fc_on_fault(fault_changed);
}

/* ---- the gate ---- */

static bool is_allowed(const char *name)
{
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        if (strcmp(allowed[i], name) == 0) {
            return true;
        }
    }
    return false;
}

static void check_running(const char *name, CUdevice device)
{
    if (!is_allowed(name) && fc_running_on(device) > 0 && !fc_fault(FC_allow)) {
        fc_fatal("%s is forbidden while a kernel runs", name);
    }
}

/* In the record, and allowed, before it is looked at whether it can be done. */
static CUresult enter(const char *name, unsigned stream, int needs, CUdevice device,
                      fc_context **context)
{
    fc_context *c = fc_object_find(current, FC_CONTEXT);
    fc_called(name, stream);
    check_running(name, needs >= FC_NEEDS_CONTEXT && c != NULL ? c->device : device);
    if (needs >= FC_NEEDS_INIT && !initialised) {
        return CUDA_ERROR_NOT_INITIALIZED;
    }
    if (needs >= FC_NEEDS_CONTEXT && c == NULL) {
        return current != NULL ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_ERROR_INVALID_CONTEXT;
    }
    if (needs == FC_NEEDS_ALIVE && c->dead != 0) {
        return (CUresult)c->dead;
    }
    if (context != NULL) {
        *context = c;
    }
    return CUDA_SUCCESS;
}

CUresult fc_enter(const char *name, int needs, CUdevice device, fc_context **context)
{
    fc_lock();
    CUresult result = enter(name, 0, needs, device, context);
    return result == CUDA_SUCCESS ? result : fc_leave(result);
}

CUresult fc_enter_stream(const char *name, CUstream handle, fc_stream **stream)
{
    fc_context *c = NULL;
    fc_lock();
    *stream = fc_object_find(handle, FC_STREAM);
    CUresult result = enter(name, *stream ? (*stream)->number : 0, FC_NEEDS_ALIVE, -1, &c);
    if (handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD) {
        fc_fatal("%s on the NULL stream, which waits for every other", name);
    }
    if (result == CUDA_SUCCESS && (*stream == NULL || (*stream)->object.context != c)) {
        fc_misuse("%s: no stream of this context", name);
        result = CUDA_ERROR_INVALID_HANDLE;
    }
    return result == CUDA_SUCCESS ? result : fc_leave(result);
}

CUresult fc_leave(CUresult result)
{
    fc_unlock();
    return result;
}

/* ---- starting ---- */

CUresult cuInit(unsigned flags)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_NOTHING, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (fc_fault(FC_init)) {
        return fc_leave((CUresult)fc_fault(FC_init));
    }
    initialised = flags == 0;
    return fc_leave(flags == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

/* ---- contexts ---- */

CUresult cuCtxCreate_v2(CUcontext *out, unsigned flags, CUdevice device)
{
    (void)flags;
    CUresult result = fc_enter(__func__, FC_NEEDS_INIT, device, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (out == NULL || device < 0 || device >= fc_fault(FC_devices) || device >= FC_DEVICES) {
        return fc_leave(out == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_DEVICE);
    }
    if (fc_fault(FC_ctx) || fc_fault(FC_fallen)) {
        return fc_leave(fc_fault(FC_ctx) ? (CUresult)fc_fault(FC_ctx) : CUDA_ERROR_UNKNOWN);
    }
    if (fc_fault(FC_compute_mode) == CU_COMPUTEMODE_PROHIBITED) {
        return fc_leave(CUDA_ERROR_INVALID_DEVICE);
    }
    fc_context *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    fc_object_add(&c->object, FC_CONTEXT, NULL);
    c->device = device;
    *out = current = c;
    return fc_leave(CUDA_SUCCESS);
}

/* Threads of a dead kernel end at their next call of the stand-in; one that makes none never does. */
static void wait_for_threads(fc_context *c)
{
    long long until = fc_now() + 20000000000ll;
    while (c->live > 0) {
        if (!fc_wait_until(until) && fc_now() >= until) {
            fc_fatal("cuCtxDestroy_v2: a kernel makes no call, so it cannot be ended");
        }
    }
}

CUresult cuCtxDestroy_v2(CUcontext handle)
{
    fc_lock();
    fc_context *c = fc_object_find(handle, FC_CONTEXT);
    CUresult result = enter(__func__, 0, FC_NEEDS_INIT, c != NULL ? c->device : -1, NULL);
    if (result == CUDA_SUCCESS && c == NULL) {
        fc_misuse("cuCtxDestroy_v2: no such context");
        result = CUDA_ERROR_INVALID_CONTEXT;
    }
    if (result != CUDA_SUCCESS) {
        return fc_leave(result);
    }
    for (fc_stream *s; (s = fc_object_any(c, FC_STREAM)) != NULL;) {
        fc_stream_close(s);
    }
    wait_for_threads(c);
    for (CUevent e; (e = fc_object_any(c, FC_EVENT)) != NULL;) {
        fc_event_end(e);
    }
    fc_graphs_free(c);
    fc_links_free(c);
    fc_memory_free_all(c);
    fc_modules_free(c);
    fc_object_remove(&c->object);
    current = current == c ? NULL : current;
    free(c);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuCtxSetCurrent(CUcontext handle)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_INIT, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle != NULL && fc_object_find(handle, FC_CONTEXT) == NULL) {
        fc_misuse("cuCtxSetCurrent: no such context");
        return fc_leave(CUDA_ERROR_INVALID_CONTEXT);
    }
    current = handle;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuCtxGetCurrent(CUcontext *out)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_INIT, -1, NULL);
    if (result == CUDA_SUCCESS) {
        *out = current;
        return fc_leave(CUDA_SUCCESS);
    }
    return result;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value)
{
    fc_context *c;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if ((unsigned)limit >= CU_LIMIT_MAX) {
        return fc_leave(CUDA_ERROR_UNSUPPORTED_LIMIT);
    }
    c->limits[limit] = value;
    return fc_leave(CUDA_SUCCESS);
}

static bool is_busy(const fc_context *c)
{
    for (fc_object *o = objects; o != NULL; o = o->next) {
        if (o->kind == FC_STREAM && o->context == c && ((fc_stream *)o)->first != NULL) {
            return true;
        }
    }
    return false;
}

CUresult cuCtxSynchronize(void)
{
    fc_context *c;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    while (is_busy(c) && c->dead == 0) {
        fc_wait();
    }
    return fc_leave((CUresult)c->dead);
}
