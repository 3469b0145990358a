/*
 * gpu.c -- opening and closing a GPU, its memory, and the thread that makes all CUDA calls.
 *
 * Threads. open, close: any, one at a time under registry_lock (opening takes long, and a second
 * runtime that wants the same GPU waits for it). take, give, ask, stir, lose: any. The rest: the
 * driver thread.
 *
 * Driver thread. Waits for requests, for grids that end, and for the next heartbeat; everything
 * that touches the context happens here, so a call that blocks in the driver blocks nobody else:
 * who waits for an answer gives up after a while and declares the device lost.
 *
 * Waking it. `wanted` is set before rk__park_notify and taken before the state is looked at, so a
 * change is either seen by that look or leaves `wanted` set for the next wait.
 *
 * The loss of a device is final for this object. Its actors are failed by the bridge; a new one is
 * opened when its last runtime has closed. A kernel that will not end keeps the context: it is left
 * behind, with a line in the log.
 */
#include "device/cuda/gpu.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/topology.h"
#include "device/cuda/driver.h"

enum {
    HEARTBEAT = 200000000, /* ns between pings */
    TICK_BUSY = 5000000,   /* ns between looks at grids while tenants are there */
    TICK_FREE = 200000000, /* and while there are none */
    IDLE_END = 1000000000, /* ns after which grids without tenants end */
    TICK_FIRST = 20000,    /* ns: between looks at a grid that may end any moment, */
    TICK_ENDING = 1000000, /* growing to this */
    STACK = 1024 * 1024
};

static const uint64_t MEBI = 1024 * 1024;
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static const char unnamed[] = "the device is lost"; /* when there is no memory for a reason */
static rk__gpu *registry;                           /* those that are open; under registry_lock, */
static rk__gpu *spare;                              /* as those that were */

/* ---- memory --------------------------------------------------------------------------------- */

static int no_room(const char *what, const char *option, const rk__extents *e, uint64_t size,
                   const char *who)
{
    return rk__fail(RK_ENOMEM,
                    "%s wants %llu KiB of %s; the reservation of %llu MiB has %llu KiB in one "
                    "piece: open the runtime with a larger %s",
                    who, (unsigned long long)(size + 1023) / 1024, what,
                    (unsigned long long)(e->size / MEBI),
                    (unsigned long long)rk__extents_largest(e) / 1024, option);
}

int rk__gpu_take(rk__gpu *gpu, uint64_t pinned, uint64_t near, const char *who, rk__tenant *t)
{
    int code = 0;
    pthread_mutex_lock(&gpu->lock);
    t->pinned = rk__extents_take(&gpu->pinned, pinned);
    t->near = rk__extents_take(&gpu->near, near);
    if (t->pinned == 0) {
        code = no_room("pinned memory", "pinned_memory", &gpu->pinned, pinned, who);
    } else if (t->near == 0) {
        code = no_room("device memory", "device_memory", &gpu->near, near, who);
    }
    pthread_mutex_unlock(&gpu->lock);
    if (code < 0) {
        rk__gpu_give(gpu, t);
    }
    return code;
}

void rk__gpu_give(rk__gpu *gpu, rk__tenant *t)
{
    pthread_mutex_lock(&gpu->lock);
    rk__extents_give(&gpu->pinned, t->pinned);
    rk__extents_give(&gpu->near, t->near);
    pthread_mutex_unlock(&gpu->lock);
    t->pinned = t->near = 0;
}

/* ---- stirring and losing it ---------------------------------------------------------------------- */

void rk__gpu_stir(rk__gpu *gpu)
{
    __atomic_store_n(&gpu->wanted, 1, __ATOMIC_SEQ_CST); /* pairs with wanted, and drive's store */
    rk__park_notify(&gpu->park);
}

const char *rk__gpu_lost(const rk__gpu *gpu)
{
    return __atomic_load_n(&gpu->lost, __ATOMIC_ACQUIRE); /* pairs with rk__gpu_lose */
}

void rk__gpu_lose(rk__gpu *gpu, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char *reason = strdup(text);
    pthread_mutex_lock(&gpu->lock);
    bool first = gpu->lost == NULL;
    if (first) {
        /* Release: pairs with rk__gpu_lost. */
        __atomic_store_n(&gpu->lost, reason != NULL ? reason : unnamed, __ATOMIC_RELEASE);
    }
    pthread_cond_broadcast(&gpu->answered);
    pthread_mutex_unlock(&gpu->lock);
    if (first) {
        rk__log(RK__LOG_ERROR, gpu->name, "the device is lost: %s", text);
        rk__park_kick(&gpu->bridge_park);
    } else {
        free(reason);
    }
}

struct timespec rk__gpu_in(int64_t ns)
{
    int64_t t = rk__now() + ns;
    return (struct timespec){.tv_sec = t / 1000000000, .tv_nsec = t % 1000000000};
}

/* ---- opening: the driver thread ------------------------------------------------------------- */

static int open_context(rk__gpu *gpu)
{
    CUresult result = rk__cuda->CtxCreate(&gpu->context, 0, gpu->device);
    if (result != CUDA_SUCCESS) {
        gpu->context = NULL;
        return rk__cuda_fail(result, "%s: creating a context", gpu->name);
    }
    return 0;
}

static int reserve(rk__gpu *gpu)
{
    size_t available = 0, all = 0;
    CUdeviceptr near = 0;
    void *pinned = NULL;
    CUresult result = rk__cuda->MemGetInfo(&available, &all);
    if (gpu->near.size == 0) {
        uint64_t quarter = available / 4 / MEBI * MEBI;
        gpu->near.size = quarter < 256 * MEBI ? quarter : 256 * MEBI;
    }
    if (result == CUDA_SUCCESS) {
        result = rk__cuda->MemAlloc(&near, gpu->near.size);
    }
    if (result != CUDA_SUCCESS) {
        return rk__cuda_fail(result, "%s: reserving %llu MiB of device memory (device_memory)",
                             gpu->name, (unsigned long long)(gpu->near.size / MEBI));
    }
    gpu->near.base = near;
    result = rk__cuda->MemHostAlloc(&pinned, gpu->pinned.size,
                                    CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP);
    if (result != CUDA_SUCCESS) {
        return rk__cuda_fail(result, "%s: reserving %llu MiB of pinned memory (pinned_memory)",
                             gpu->name, (unsigned long long)(gpu->pinned.size / MEBI));
    }
    gpu->pinned.base = (uint64_t)(uintptr_t)pinned;
    gpu->zeros = (void *)(uintptr_t)rk__extents_take(&gpu->pinned, RK__GPU_ZEROS);
    return gpu->zeros != NULL ? 0 : rk__fail(RK_ENOMEM, "no memory for the books of %s", gpu->name);
}

static int open_streams(rk__gpu *gpu)
{
    const unsigned plain = CU_STREAM_NON_BLOCKING, quiet = CU_EVENT_DISABLE_TIMING;
    CUresult result = rk__cuda->StreamCreateWithPriority(&gpu->copies, plain, 0);
    result = result != CUDA_SUCCESS ? result : rk__cuda->EventCreate(&gpu->copied, quiet);
    for (int i = 0; i < RK__CUDA_CLASSES && result == CUDA_SUCCESS; i++) {
        rk__gpu_class *c = &gpu->classes[i];
        result = rk__cuda->StreamCreateWithPriority(&c->stream, plain, 0);
        result = result != CUDA_SUCCESS ? result : rk__cuda->EventCreate(&c->ended, quiet);
        if (result == CUDA_SUCCESS) {
            c->grid = (rk_grid *)(uintptr_t)rk__extents_take(&gpu->pinned, sizeof *c->grid);
        }
    }
    return result == CUDA_SUCCESS ? 0 : rk__cuda_fail(result, "%s: creating streams", gpu->name);
}

static int open_all(rk__gpu *gpu)
{
    rk__cuda_image image = {0};
    int code = open_context(gpu);
    code = code < 0 ? code : reserve(gpu);
    code = code < 0 ? code : open_streams(gpu);
    code = code < 0 ? code : rk__cuda_image_link(gpu->cache, &gpu->target, NULL, 0, &image);
    code = code < 0 ? code : rk__grid_load(gpu, &image);
    return code < 0 ? code : rk__grid_self_test(gpu);
}

/* ---- the driver thread ---------------------------------------------------------------------- */

static bool closing(const rk__gpu *gpu)
{
    return __atomic_load_n(&gpu->closing, __ATOMIC_ACQUIRE) != 0; /* pairs with stop_threads */
}

static bool wanted(void *arg)
{
    rk__gpu *gpu = arg;
    return closing(gpu) || __atomic_load_n(&gpu->wanted, __ATOMIC_SEQ_CST) != 0;
}

/* Grids that nobody lives in end after a while: the GPU is free for others then, and cool. */
static void rest(rk__gpu *gpu)
{
    pthread_mutex_lock(&gpu->lock);
    bool empty = gpu->tenants == NULL;
    pthread_mutex_unlock(&gpu->lock);
    if (!empty) {
        gpu->idle_since = 0;
    } else if (gpu->idle_since == 0) {
        gpu->idle_since = rk__now();
    } else if (rk__now() - gpu->idle_since > IDLE_END && rk__grid_any_running(gpu)) {
        rk__grid_quiesce(gpu);
    }
}

/* How long until grids are looked at again. A grid that ends by itself may leave work behind, and
 * nothing tells when it ends: looks come close together at first. */
static int64_t next_look(rk__gpu *gpu, bool may_end)
{
    if (!may_end) {
        gpu->tick = 0;
        return gpu->idle_since != 0 && !rk__grid_any_running(gpu) ? TICK_FREE : TICK_BUSY;
    }
    gpu->tick = gpu->tick == 0 ? TICK_FIRST : 2 * gpu->tick;
    gpu->tick = gpu->tick < TICK_ENDING ? gpu->tick : TICK_ENDING;
    return gpu->tick;
}

static void drive(rk__gpu *gpu)
{
    int64_t next_ping = 0;
    while (!closing(gpu) && rk__gpu_lost(gpu) == NULL) {
        __atomic_store_n(&gpu->wanted, 0, __ATOMIC_SEQ_CST); /* before looking, see the head */
        rk__gpu_serve(gpu);
        if (!rk__grid_look(gpu)) {
            break;
        }
        bool may_end = gpu->mode != RK_MODE_PERSISTENT && rk__grid_relaunch(gpu);
        if (rk__now() >= next_ping) {
            rk__grid_heartbeat(gpu);
            next_ping = rk__now() + HEARTBEAT;
        }
        rk__grid_slew(gpu);
        rest(gpu);
        rk__park_wait(&gpu->park, wanted, gpu, rk__now() + next_look(gpu, may_end));
    }
}

/* What the context holds goes with it. */
static void close_context(rk__gpu *gpu)
{
    if (gpu->context == NULL) {
        return;
    }
    bool still =
        rk__gpu_lost(gpu) == NULL && rk__grid_any_running(gpu) && rk__grid_quiesce(gpu) < 0;
    if (rk__gpu_lost(gpu) != NULL) {
        rk__grid_look(gpu); /* a grid that was only slow may have ended by now */
        still = rk__grid_any_running(gpu);
    }
    if (still) {
        rk__log(RK__LOG_WARN, gpu->name,
                "a kernel does not end: its context stays until the process ends");
        return;
    }
    rk__cuda->CtxDestroy(gpu->context);
    gpu->context = NULL;
}

static void *driver_main(void *arg)
{
    rk__gpu *gpu = arg;
    rk__thread_enter(-1, "rk-cuda");
    int code = open_all(gpu);
    pthread_mutex_lock(&gpu->lock);
    gpu->open_code = code;
    if (code < 0) {
        snprintf(gpu->open_text, sizeof gpu->open_text, "%s", rk_errdetail());
    }
    gpu->opened = true;
    pthread_cond_broadcast(&gpu->answered);
    pthread_mutex_unlock(&gpu->lock);
    if (code == 0) {
        drive(gpu);
        while (!closing(gpu)) { /* lost: nothing more to do here, but the context waits for close */
            rk__gpu_refuse_all(gpu);
            __atomic_store_n(&gpu->wanted, 0, __ATOMIC_SEQ_CST); /* as in drive */
            rk__park_wait(&gpu->park, wanted, gpu, rk__now() + TICK_FREE);
        }
    }
    close_context(gpu);
    pthread_mutex_lock(&gpu->lock);
    gpu->ended = true;
    pthread_cond_broadcast(&gpu->answered);
    pthread_mutex_unlock(&gpu->lock);
    return NULL;
}

/* ---- opening and closing -------------------------------------------------------------------- */

/* Under registry_lock. The object itself is kept for the next one: a thread that once sent to it may
 * still bring the bridge back when it goes to sleep (cuda.c). */
static void free_gpu(rk__gpu *gpu)
{
    rk__extents_clear(&gpu->pinned);
    rk__extents_clear(&gpu->near);
    for (uint32_t i = 0; i < gpu->resident_count; i++) {
        rk__module_release(gpu->residents[i].module);
    }
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        free(gpu->classes[i].owners);
    }
    rk__cuda_image_free(&gpu->image);
    free(gpu->residents);
    free(gpu->cache);
    if (gpu->lost != unnamed) {
        free((char *)gpu->lost);
    }
    pthread_mutex_destroy(&gpu->lock);
    pthread_cond_destroy(&gpu->answered);
    gpu->next = spare;
    spare = gpu;
    rk__cuda_probe_hold(false);
}

/* It cannot be freed, and the device must not be opened again: who tries is told why. */
static void leave_behind(rk__gpu *gpu, const char *why)
{
    if (rk__gpu_lost(gpu) == NULL) {
        rk__gpu_lose(gpu, "%s", why);
    }
    gpu->users = 0;
    gpu->next = registry;
    registry = gpu;
}

/* False: the driver thread is stuck in a call, and is left behind with everything it may touch. */
static bool stop_threads(rk__gpu *gpu)
{
    struct timespec until = rk__gpu_in(4 * gpu->timeout);
    int late = 0;
    __atomic_store_n(&gpu->closing, 1, __ATOMIC_RELEASE); /* pairs with closing */
    rk__park_kick(&gpu->park);
    pthread_mutex_lock(&gpu->lock);
    while (!gpu->ended && !late) {
        late = pthread_cond_timedwait(&gpu->answered, &gpu->lock, &until);
    }
    bool ended = gpu->ended;
    pthread_mutex_unlock(&gpu->lock);
    rk__park_kick(&gpu->bridge_park);
    pthread_join(gpu->bridge, NULL);
    if (ended) {
        pthread_join(gpu->driver, NULL);
    } else {
        pthread_detach(gpu->driver);
        rk__log(RK__LOG_ERROR, gpu->name, "the driver does not return: its thread is left behind");
    }
    return ended;
}

/* The threads of a device take no signals: they are the embedder's. */
static int start_threads(rk__gpu *gpu)
{
    pthread_attr_t attributes;
    sigset_t all, old;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&gpu->bridge, &attributes, rk__gpu_bridge, gpu);
    if (!failed) {
        failed = pthread_create(&gpu->driver, &attributes, driver_main, gpu);
        if (failed) {
            gpu->ended = true;
            __atomic_store_n(&gpu->closing, 1, __ATOMIC_RELEASE); /* pairs with closing */
            rk__park_kick(&gpu->bridge_park);
            pthread_join(gpu->bridge, NULL);
        }
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    return failed ? rk__fail(RK_ENOMEM, "cannot start the threads of %s: %s", gpu->name,
                             strerror(failed))
                  : 0;
}

static rk__gpu *make_gpu(const rk__cuda_device *found, const rk_runtime *rt, enum rk_mode mode)
{
    pthread_condattr_t monotonic;
    rk__gpu *gpu = spare != NULL ? spare : malloc(sizeof *gpu);
    if (gpu == NULL) {
        return NULL;
    }
    spare = gpu == spare ? gpu->next : spare;
    memset(gpu, 0, sizeof *gpu);
    rk__cuda_probe_hold(true);
    gpu->ordinal = found->ordinal;
    gpu->device = found->handle;
    snprintf(gpu->name, sizeof gpu->name, "cuda:%d", found->ordinal);
    gpu->mode = mode;
    gpu->timeout = rt->device_timeout;
    gpu->target = found->target;
    gpu->cache = rt->cache != NULL ? strdup(rt->cache) : NULL;
    gpu->processors = found->facts.processors;
    gpu->warp = found->facts.warp > 0 ? found->facts.warp : 32;
    gpu->block_max = found->facts.threads_per_block;
    gpu->pinned.size = rt->pinned_memory / MEBI * MEBI;
    gpu->near.size = rt->device_memory / MEBI * MEBI;
    pthread_mutex_init(&gpu->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&gpu->answered, &monotonic);
    pthread_condattr_destroy(&monotonic);
    rk__park_init(&gpu->park);
    rk__park_init(&gpu->bridge_park);
    return gpu;
}

/* Until the driver thread has come through; the compiler may have to make the loop first. */
static int await_open(rk__gpu *gpu)
{
    static const int64_t compiling = 60000000000;
    struct timespec until = rk__gpu_in(4 * gpu->timeout + compiling);
    int late = 0;
    pthread_mutex_lock(&gpu->lock);
    while (!gpu->opened && !late) {
        late = pthread_cond_timedwait(&gpu->answered, &gpu->lock, &until);
    }
    int code = gpu->opened ? gpu->open_code : RK_EDEVICE;
    if (code < 0) {
        rk__fail(code, "%s", gpu->opened ? gpu->open_text : "the driver does not return");
    }
    pthread_mutex_unlock(&gpu->lock);
    return code;
}

static int open_new(const rk__cuda_device *found, const rk_runtime *rt, enum rk_mode mode,
                    rk__gpu **out)
{
    rk__gpu *gpu = make_gpu(found, rt, mode);
    if (gpu == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for cuda:%d", found->ordinal);
    }
    int code = start_threads(gpu);
    if (code < 0) {
        free_gpu(gpu);
        return code;
    }
    code = await_open(gpu);
    if (code < 0) {
        char text[1024];
        snprintf(text, sizeof text, "%s", rk_errdetail());
        if (stop_threads(gpu) && gpu->context == NULL) {
            free_gpu(gpu);
        } else {
            leave_behind(gpu, text);
        }
        return rk__fail(code, "%s", text);
    }
    gpu->users = 1;
    gpu->next = registry;
    registry = gpu;
    *out = gpu;
    return 0;
}

/* One that is open already serves further runtimes that want the same of it. */
static int share(rk__gpu *gpu, enum rk_mode mode, rk__gpu **out)
{
    const char *lost = rk__gpu_lost(gpu);
    if (lost != NULL) {
        return rk__fail(RK_EDEVICE, "%s was lost (%s): %s", gpu->name, lost,
                        gpu->users > 0 ? "close the runtimes that used it first"
                                       : "this process cannot use it any more");
    }
    if (gpu->mode != mode) {
        return rk__fail(RK_ESTATE,
                        "%s is open in mode \"%s\" in this process: a second runtime must use the "
                        "same mode, not \"%s\"",
                        gpu->name, rk_mode_name(gpu->mode), rk_mode_name(mode));
    }
    gpu->users++;
    *out = gpu;
    return 0;
}

static int open_found(const rk__cuda_device *list, size_t count, int ordinal, const rk_runtime *rt,
                      enum rk_mode mode, rk__gpu **out)
{
    for (size_t i = 0; i < count; i++) {
        const char *refused = list[i].facts.refused[mode];
        if (list[i].ordinal != ordinal) {
            continue;
        }
        return refused[0] != '\0'
                   ? rk__fail(RK_EDEVICE, "cuda:%d (%s) cannot run mode \"%s\": %s", ordinal,
                              list[i].facts.name, rk_mode_name(mode), refused)
                   : open_new(&list[i], rt, mode, out);
    }
    return rk__fail(RK_EDEVICE,
                    "device \"cuda:%d\": there are %zu CUDA devices, the last is cuda:%zu", ordinal,
                    count, count - 1);
}

int rk__gpu_open(int ordinal, const rk_runtime *rt, enum rk_mode mode, rk__gpu **out)
{
    rk__cuda_device *list = NULL;
    size_t count = 0;
    pthread_mutex_lock(&registry_lock);
    rk__gpu *gpu = registry;
    while (gpu != NULL && gpu->ordinal != ordinal) {
        gpu = gpu->next;
    }
    int code = gpu != NULL ? share(gpu, mode, out) : rk__cuda_probe(&list, &count);
    if (gpu == NULL && code == 0) {
        code = open_found(list, count, ordinal, rt, mode, out);
    }
    free(list);
    pthread_mutex_unlock(&registry_lock);
    return code;
}

void rk__gpu_close(rk__gpu *gpu)
{
    pthread_mutex_lock(&registry_lock);
    bool last = --gpu->users == 0;
    rk__gpu **at = &registry;
    while (last && *at != gpu) {
        at = &(*at)->next;
    }
    if (last) {
        *at = gpu->next;
        if (stop_threads(gpu) && gpu->context == NULL) {
            free_gpu(gpu);
        } else {
            leave_behind(gpu, "a kernel does not end");
        }
    }
    pthread_mutex_unlock(&registry_lock);
}
