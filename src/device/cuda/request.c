/*
 * request.c -- what other threads ask of a GPU's driver thread: zeroed memory, a copy of a state, seats.
 *
 * Threads. rk__gpu_ask: any but the driver; it waits. The rest: the driver thread.
 *
 * Who waits gives up when the device is lost, or when the driver has not returned from a call for so
 * long that it must be. Then the driver thread may still be at work on the request: so that lives on
 * the heap, who gives up marks it under the lock, and from then on nothing it points to is touched.
 * A tenant that has been seated by then is the bridge's: it fails with all the others.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "base/error.h"
#include "device/cuda/driver.h"
#include "device/cuda/gpu.h"

/* ---- asking --------------------------------------------------------------------------------- */

/* Takes a request off the list, if nobody has yet. Under the lock. */
static bool withdraw(rk__gpu *gpu, const rk__request *request)
{
    rk__request **at = &gpu->requests;
    while (*at != NULL && *at != request) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        *at = request->next;
        return true;
    }
    return false;
}

static rk__request *enqueue(rk__gpu *gpu, const rk__request *given)
{
    rk__request *request = malloc(sizeof *request), **at = &gpu->requests;
    if (request == NULL) {
        return NULL;
    }
    *request = *given;
    pthread_mutex_lock(&gpu->lock);
    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = request;
    pthread_mutex_unlock(&gpu->lock);
    rk__gpu_stir(gpu);
    return request;
}

/* Under the lock. Hold, leave, load and launch each get the device's time; linking has its own. */
static void await_answer(rk__gpu *gpu, const rk__request *request)
{
    struct timespec until = rk__gpu_in(4 * gpu->timeout);
    int late = 0;
    while (!request->done && gpu->lost == NULL && !late) {
        late = pthread_cond_timedwait(&gpu->answered, &gpu->lock, &until);
        if (late && gpu->linking) {
            until = rk__gpu_in(4 * gpu->timeout);
            late = 0;
        }
    }
}

/* Who has not got an answer: gives up, and says whether the tenant sits all the same. Under the lock;
 * takes the request. */
static bool give_up(rk__gpu *gpu, rk__request *request)
{
    bool seated = request->seated;
    request->given_up = true;
    if (withdraw(gpu, request)) {
        free(request);
    }
    return seated;
}

int rk__gpu_ask(rk__gpu *gpu, const rk__request *given)
{
    rk__request *request = enqueue(gpu, given);
    if (request == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for a request to %s", gpu->name);
    }
    pthread_mutex_lock(&gpu->lock);
    await_answer(gpu, request);
    bool done = request->done;
    bool seated = !done && give_up(gpu, request);
    pthread_mutex_unlock(&gpu->lock);
    if (done) {
        int code = request->code < 0 ? rk__fail(request->code, "%s", request->text) : 0;
        free(request);
        return code;
    }
    if (rk__gpu_lost(gpu) == NULL) {
        rk__gpu_lose(gpu, "the driver has not returned from a call for %.3g s",
                     4 * (double)gpu->timeout / 1e9);
    }
    return seated ? 0 : rk__fail(RK_EDEVICE, "%s is lost: %s", gpu->name, rk__gpu_lost(gpu));
}

void rk__gpu_answer(rk__gpu *gpu, rk__request *request, int code)
{
    pthread_mutex_lock(&gpu->lock);
    bool mine = request->given_up;
    request->code = code;
    if (code < 0) {
        snprintf(request->text, sizeof request->text, "%s", rk_errdetail());
    }
    request->done = true;
    pthread_cond_broadcast(&gpu->answered);
    pthread_mutex_unlock(&gpu->lock);
    if (mine) {
        free(request); /* nobody waits for it */
    }
}

/* ---- copies --------------------------------------------------------------------------------- */

static int await_copies(rk__gpu *gpu)
{
    int64_t deadline = rk__now() + gpu->timeout;
    CUresult result = rk__cuda->EventRecord(gpu->copied, gpu->copies);
    for (int i = 0; result == CUDA_SUCCESS; i++) {
        result = rk__cuda->EventQuery(gpu->copied);
        if (result != CUDA_ERROR_NOT_READY) {
            break;
        }
        if (rk__now() > deadline) {
            return rk__fail(RK_EDEVICE, "%s: a copy of %d bytes does not end", gpu->name,
                            RK__GPU_ZEROS);
        }
        result = CUDA_SUCCESS;
        if (i > 100) {
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        }
    }
    return result == CUDA_SUCCESS ? 0 : rk__cuda_fail(result, "%s: copying", gpu->name);
}

/* Device memory is zeroed and read through the same pinned piece, in turns. */
static int copy(rk__gpu *gpu, const rk__request *r)
{
    int code = 0;
    for (uint64_t done = 0; done < r->size && code == 0; done += RK__GPU_ZEROS) {
        uint64_t size = r->size - done < RK__GPU_ZEROS ? r->size - done : RK__GPU_ZEROS;
        if (r->kind == RK__REQUEST_ZERO) {
            memset(gpu->zeros, 0, size);
        }
        CUresult result =
            r->kind == RK__REQUEST_ZERO
                ? rk__cuda->MemcpyHtoDAsync(r->near + done, gpu->zeros, size, gpu->copies)
                : rk__cuda->MemcpyDtoHAsync(gpu->zeros, r->near + done, size, gpu->copies);
        code = result == CUDA_SUCCESS ? await_copies(gpu)
                                      : rk__cuda_fail(result, "%s: copying", gpu->name);
        if (code == 0 && r->kind == RK__REQUEST_READ) {
            pthread_mutex_lock(&gpu->lock);
            if (!r->given_up) {
                memcpy((uint8_t *)r->to + done, gpu->zeros, size);
            }
            pthread_mutex_unlock(&gpu->lock);
        }
    }
    return code;
}

/* ---- serving -------------------------------------------------------------------------------- */

/* Requests of the kinds wanted, oldest first. */
static rk__request *take_requests(rk__gpu *gpu, bool admissions)
{
    rk__request *taken = NULL, **last = &taken;
    pthread_mutex_lock(&gpu->lock);
    for (rk__request **at = &gpu->requests; *at != NULL;) {
        rk__request *r = *at;
        if ((r->kind == RK__REQUEST_ADMIT) == admissions) {
            *at = r->next;
            r->next = NULL;
            *last = r;
            last = &r->next;
        } else {
            at = &r->next;
        }
    }
    pthread_mutex_unlock(&gpu->lock);
    return taken;
}

rk__request *rk__gpu_more(rk__gpu *gpu)
{
    return take_requests(gpu, true);
}

void rk__gpu_serve(rk__gpu *gpu)
{
    rk__request *copies = take_requests(gpu, false), *admit = take_requests(gpu, true);
    while (copies != NULL) {
        rk__request *r = copies;
        copies = r->next;
        rk__gpu_answer(gpu, r, copy(gpu, r));
    }
    if (admit != NULL) {
        rk__gpu_admit(gpu, admit);
    }
}

void rk__gpu_refuse_all(rk__gpu *gpu)
{
    for (int kind = 0; kind < 2; kind++) {
        rk__request *list = take_requests(gpu, kind != 0);
        while (list != NULL) {
            rk__request *r = list;
            list = r->next;
            rk__gpu_answer(gpu, r,
                           rk__fail(RK_EDEVICE, "%s is lost: %s", gpu->name, rk__gpu_lost(gpu)));
        }
    }
}
