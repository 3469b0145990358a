/*
 * stream.c -- streams and events: each stream has a worker thread that runs what is queued, in order.
 *
 * Threads: any calls in; a stream's worker takes from its queue with the lock held, and releases it
 * while it copies or runs a kernel. An operation leaves the queue only when it is done, so a stream
 * is idle when its queue is empty. In a context that has died, what is queued is dropped: events
 * stay unfinished, and whoever asks gets the sticky error instead.
 */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

enum { WORKER_STACK = 1 << 20 };

typedef struct CUevent_st {
    fc_object object;
    uint64_t recorded, done;
    unsigned pending; /* operations that name it */
    bool ended;       /* destroyed; the last operation frees it */
} fc_event;

static unsigned stream_count;

/* ---- events ---- */

void fc_event_end(fc_event *e)
{
    fc_object_remove(&e->object);
    e->ended = true;
    if (e->pending == 0) {
        free(e);
    }
}

static void event_release(fc_event *e)
{
    e->pending--;
    if (e->ended && e->pending == 0) {
        free(e);
    }
}

CUresult cuEventCreate(CUevent *out, unsigned flags)
{
    fc_context *c;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_event *e = calloc(1, sizeof *e);
    if (e == NULL || flags > 7) {
        free(e);
        return fc_leave(flags > 7 ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_OUT_OF_MEMORY);
    }
    fc_object_add(&e->object, FC_EVENT, c);
    *out = e;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuEventDestroy(CUevent event)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_event *e = fc_object_find(event, FC_EVENT);
    if (e == NULL) {
        fc_misuse("cuEventDestroy_v2: no such event");
        return fc_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    fc_event_end(e);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuEventQuery(CUevent event)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_event *e = fc_object_find(event, FC_EVENT);
    if (e == NULL) {
        fc_misuse("cuEventQuery: no such event");
        return fc_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    return fc_leave(e->done == e->recorded ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    fc_stream *s;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_event *e = fc_object_find(event, FC_EVENT);
    if (e == NULL || e->object.context != s->object.context) {
        fc_misuse("cuEventRecord: no such event in this context");
        return fc_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    if (s->capturing) {
        return fc_leave(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    fc_op op = {.kind = FC_RECORD, .event = e, .turn = e->recorded + 1};
    result = fc_stream_push(s, &op);
    if (result == CUDA_SUCCESS) {
        e->recorded++;
        e->pending++;
    }
    return fc_leave(result);
}

/* ---- operations ---- */

static void copy(fc_context *c, const fc_op *op)
{
    /* Freed since it was queued: the device would fault. */
    if (!fc_is_reachable("a queued copy", op->to, op->size) ||
        !fc_is_reachable("a queued copy", op->from, op->size)) {
        fc_kill(c, CUDA_ERROR_ILLEGAL_ADDRESS);
        return;
    }
    fc_unlock();
    memcpy(op->to, op->from, op->size);
    fc_lock();
}

static void run(fc_context *c, const fc_op *op)
{
    switch (op->kind) {
    case FC_LAUNCH:
        fc_kernel_run(c, &op->launch);
        break;
    case FC_COPY:
        copy(c, op);
        break;
    case FC_WRITE:
        /* After everything before it in the stream; a kernel pairs it with its acquire load. */
        __atomic_store_n((uint32_t *)op->to, op->value, __ATOMIC_RELEASE);
        break;
    case FC_RECORD:
        op->event->done = op->turn;
        break;
    }
}

static void op_free(fc_op *op)
{
    if (op->kind == FC_RECORD) {
        event_release(op->event);
    }
    free(op);
}

void fc_ops_free(fc_op *first)
{
    while (first != NULL) {
        fc_op *next = first->next;
        op_free(first);
        first = next;
    }
}

static void *work(void *arg)
{
    fc_stream *s = arg;
    fc_context *c = s->object.context;
    fc_lock();
    for (;;) {
        while (s->first == NULL && !s->closing) {
            fc_wait();
        }
        fc_op *op = s->first;
        if (op == NULL) {
            break;
        }
        if (c->dead == 0) {
            run(c, op);
        }
        s->first = op->next;
        s->last = s->first != NULL ? s->last : &s->first;
        op_free(op);
        fc_broadcast();
    }
    s->gone = true;
    c->live--;
    fc_broadcast();
    fc_unlock();
    return NULL;
}

CUresult fc_stream_push(fc_stream *s, const fc_op *op)
{
    fc_op *copied = malloc(sizeof *copied);
    if (copied == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *copied = *op;
    copied->next = NULL;
    if (s->capturing) {
        *s->captured_last = copied;
        s->captured_last = &copied->next;
        return CUDA_SUCCESS;
    }
    if (op->kind == FC_LAUNCH) {
        fc_running_add(s->object.context);
    }
    *s->last = copied;
    s->last = &copied->next;
    fc_broadcast();
    return CUDA_SUCCESS;
}

void fc_stream_close(fc_stream *s)
{
    s->closing = true;
    fc_broadcast();
    while (!s->gone) {
        fc_wait();
    }
    fc_ops_free(s->captured);
    fc_object_remove(&s->object);
    free(s);
}

/* ---- streams ---- */

CUresult cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
    fc_context *c;
    (void)priority;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (out == NULL || flags != CU_STREAM_NON_BLOCKING) {
        fc_misuse("cuStreamCreateWithPriority: a stream must be non-blocking");
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    fc_stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    s->last = &s->first;
    s->captured_last = &s->captured;
    s->number = ++stream_count;
    fc_object_add(&s->object, FC_STREAM, c);
    if (fc_thread_start(WORKER_STACK, work, s) != 0) {
        fc_object_remove(&s->object);
        free(s);
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    c->live++;
    *out = s;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuStreamDestroy(CUstream stream)
{
    fc_stream *s;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_stream_close(s);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuStreamQuery(CUstream stream)
{
    fc_stream *s;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    return fc_leave(s->first == NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY);
}

CUresult cuStreamSynchronize(CUstream stream)
{
    fc_stream *s;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_context *c = s->object.context;
    while (s->first != NULL && c->dead == 0) {
        fc_wait();
    }
    return fc_leave((CUresult)c->dead);
}

/* ---- work that is queued ---- */

CUresult cuMemcpyHtoDAsync(CUdeviceptr address, const void *from, size_t size, CUstream stream)
{
    fc_stream *s;
    void *to = (void *)(uintptr_t)address;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!fc_is_device("cuMemcpyHtoDAsync_v2", to, size) ||
        !fc_is_pinned("cuMemcpyHtoDAsync_v2", from, size)) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    fc_op op = {.kind = FC_COPY, .to = to, .from = from, .size = size};
    return fc_leave(fc_stream_push(s, &op));
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr address, size_t size, CUstream stream)
{
    fc_stream *s;
    const void *from = (const void *)(uintptr_t)address;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!fc_is_device("cuMemcpyDtoHAsync_v2", from, size) ||
        !fc_is_pinned("cuMemcpyDtoHAsync_v2", to, size)) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    fc_op op = {.kind = FC_COPY, .to = to, .from = from, .size = size};
    return fc_leave(fc_stream_push(s, &op));
}

CUresult cuStreamWriteValue32(CUstream stream, CUdeviceptr address, cuuint32_t value,
                              unsigned flags)
{
    fc_stream *s;
    void *to = (void *)(uintptr_t)address;
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (flags > CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER || address % 4 != 0 ||
        !fc_is_reachable("cuStreamWriteValue32_v2", to, 4)) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    fc_op op = {.kind = FC_WRITE, .to = to, .value = value};
    return fc_leave(fc_stream_push(s, &op));
}
