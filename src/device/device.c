/*
 * device.c -- the device of a runtime, its threads, and the watchdog.
 *
 * Threads. open: any; enter, leave, thread: who activates or ends an instance; stir: who pumps.
 * The watchdog is one thread per runtime, made with its first instance that has a handler_timeout.
 *
 * Watchdog. It samples what each block is busy with (enum rk_busy) and how many handlers it has
 * begun: the same pair for longer than handler_timeout is one handler that hangs, and is reported
 * once. While something goes on anywhere it looks every half of the shortest handler_timeout of all
 * instances; one that enters ends the wait, which may be too long for it. When nothing did since
 * the last look it sleeps without a deadline until a pump stirs it: it stores `asleep`, then looks
 * for messages under way once more (rk__park_wait has a full fence in between); the pump counts its
 * message, has a full fence in its wake, then loads `asleep`. One of them sees the other.
 *
 * Threads that end hand their handle over and are joined by the next thread that is started, or by
 * close.
 */
#include "device/device.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "device/instance.h"
#if defined(RK_HAVE_CUDA)
#include "device/cuda/cuda.h"
#endif

enum { TICK_MIN = 1000000 }; /* ns */

typedef struct device_thread {
    rk_runtime *runtime;
    void *(*fn)(void *);
    void *arg;
    pthread_t handle;
    struct device_thread *next;
} device_thread;

typedef struct devices {
    rk_runtime *runtime;
    const rk__backend *backend; /* atomic; NULL: "auto", not yet settled */
    enum rk_mode mode;
    char name[16]; /* "cpu", "cuda:0" */
    void *gpu;     /* the cuda back end's */
    pthread_mutex_t settling;
    pthread_mutex_t lock;
    device_thread *ended;        /* under lock */
    rk__kernel_actor *instances; /* under lock */
    uint32_t arrivals;           /* atomic: how often an instance entered */
    /* Watchdog. */
    bool watching; /* under lock */
    pthread_t watchdog;
    rk__park park;
    uint32_t seen;    /* `arrivals` at the last look; watchdog only */
    uint32_t asleep;  /* atomic */
    uint32_t closing; /* atomic */
} devices;

static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;

static devices *devices_of(const rk_runtime *rt)
{
    /* Pairs with the release in rk__devices_open. */
    return __atomic_load_n(&rt->devices, __ATOMIC_ACQUIRE);
}

/* ---- threads -------------------------------------------------------------------------------- */

static void *thread_main(void *arg)
{
    device_thread *t = arg;
    rk_runtime *rt = t->runtime;
    devices *d = devices_of(rt);
    t->fn(t->arg);
    t->handle = pthread_self();
    pthread_mutex_lock(&d->lock);
    t->next = d->ended;
    d->ended = t;
    pthread_mutex_unlock(&d->lock);
    /* Release: pairs with the acquire of rk__runtime_close, which joins us before it frees rt. */
    __atomic_sub_fetch(&rt->threads, 1, __ATOMIC_RELEASE);
    rk__runtime_changed(rt);
    return NULL;
}

static void reap(devices *d)
{
    pthread_mutex_lock(&d->lock);
    device_thread *list = d->ended;
    d->ended = NULL;
    pthread_mutex_unlock(&d->lock);
    while (list != NULL) {
        device_thread *t = list;
        list = t->next;
        pthread_join(t->handle, NULL);
        free(t);
    }
}

/* A device's thread takes no signals: they are the embedder's. */
static int create(pthread_t *handle, size_t stack, void *(*fn)(void *), void *arg)
{
    pthread_attr_t attributes;
    sigset_t all, old;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(handle, &attributes, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    return failed ? rk__fail(RK_ENOMEM, "cannot start a thread for a ring kernel: %s",
                             strerror(failed))
                  : 0;
}

int rk__devices_thread(rk_runtime *rt, size_t stack, void *(*fn)(void *), void *arg)
{
    pthread_t handle;
    reap(devices_of(rt));
    device_thread *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for a thread of a ring kernel");
    }
    t->runtime = rt;
    t->fn = fn;
    t->arg = arg;
    __atomic_add_fetch(&rt->threads, 1, __ATOMIC_RELAXED);
    int code = create(&handle, stack, thread_main, t);
    if (code < 0) {
        __atomic_sub_fetch(&rt->threads, 1, __ATOMIC_RELAXED);
        free(t);
    }
    return code;
}

/* ---- watchdog ------------------------------------------------------------------------------- */

/* A handler that hangs, and its actor is to fail for it. */
typedef struct hung {
    rk__kernel_actor *kernel;
    rk_pid pid;
    char reason[256];
} hung;

static void report(rk__kernel_actor *k, uint32_t block, uint32_t busy, int64_t since, hung *found)
{
    char who[RK_PID_TEXT], what[96], text[256];
    snprintf(text, sizeof text,
             "%s has been running for %.3g s in block %u (handler_timeout is %.3g s)",
             rk__kernel_busy_text(k, busy, what), (double)(rk__now() - since) / 1e9, block,
             (double)k->kernel->handler_timeout / 1e9);
    rk__log(RK__LOG_WARN, rk_pid_format(k->pid, who), "%s", text);
    if (k->kernel->timeout_fails && found->kernel == NULL) {
        found->kernel = k;
        found->pid = k->pid;
        snprintf(found->reason, sizeof found->reason, "%s", text);
    }
}

/* Looks at one block; true: something goes on there. */
static bool look(rk__kernel_actor *k, uint32_t i, hung *found)
{
    struct rk__watch_sample *s = &k->samples[i];
    /* Pairs with the stores in loop_busy and loop_finish. */
    uint64_t activity = __atomic_load_n(&k->blocks[i].wire->activity, __ATOMIC_ACQUIRE);
    uint32_t busy = (uint32_t)activity, steps = (uint32_t)(activity >> 32);
    if (busy != s->busy || steps != s->steps || busy == 0) {
        bool moved = steps != s->steps;
        *s = (struct rk__watch_sample){busy, steps, false, rk__now()};
        return moved || busy != 0;
    }
    if (!s->reported && rk__now() - s->since >= k->kernel->handler_timeout) {
        s->reported = !k->kernel->timeout_fails || found->kernel == NULL; /* one at a time */
        report(k, i, busy, s->since, found);
    }
    return true;
}

/* RK_ON_START or RK_ON_STOP is still to run: no message announces them. */
static bool changes(const rk_block *block)
{
    /* Pair with the releases in loop_status and the back end's command. */
    uint32_t status = __atomic_load_n(&block->wire->status, __ATOMIC_ACQUIRE);
    uint32_t command = __atomic_load_n(&block->wire->command, __ATOMIC_ACQUIRE);
    return status == RK_STATUS_NEW || (command >= RK_COMMAND_STOP && status < RK_STATUS_STOPPED);
}

/* Looks at everything; returns how long it may wait for the next time, RK__FOREVER: nothing to do.
 */
static int64_t round_of(devices *d)
{
    hung found = {.kernel = NULL};
    int64_t shortest = RK__FOREVER;
    bool stirs = false;
    pthread_mutex_lock(&d->lock);
    d->seen = d->arrivals;
    for (rk__kernel_actor *k = d->instances; k != NULL; k = k->next) {
        int64_t half = k->kernel->handler_timeout / 2;
        stirs |= k->module->entry->every_count > 0;
        for (uint32_t i = 0; i < k->grid; i++) {
            stirs |= look(k, i, &found);
            stirs |= changes(&k->blocks[i]);
        }
        shortest = half < shortest ? half : shortest;
    }
    pthread_mutex_unlock(&d->lock);
    if (found.kernel != NULL) {
        rk__kernel_hung(found.kernel, found.pid, found.reason);
    }
    return !stirs ? RK__FOREVER : shortest < TICK_MIN ? TICK_MIN : shortest;
}

static bool closing(void *arg)
{
    devices *d = arg;
    return __atomic_load_n(&d->closing, __ATOMIC_ACQUIRE) != 0; /* pairs with close_devices */
}

/* Out of a sleep until the next tick, which was reckoned without those who came since. */
static bool outdated(void *arg)
{
    devices *d = arg;
    /* Pairs with rk__devices_enter. */
    return closing(d) || __atomic_load_n(&d->arrivals, __ATOMIC_ACQUIRE) != d->seen;
}

/* Out of a sleep without a deadline. */
static bool stirred(void *arg)
{
    devices *d = arg;
    bool found = outdated(d) || !__atomic_load_n(&d->asleep, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&d->lock);
    for (rk__kernel_actor *k = d->instances; k != NULL && !found; k = k->next) {
        found = rk__channel_under_way(&k->channel) > 0;
    }
    pthread_mutex_unlock(&d->lock);
    return found;
}

static void *watch(void *arg)
{
    devices *d = arg;
    rk__thread_enter(-1, "rk-watchdog");
    while (!closing(d)) {
        int64_t tick = round_of(d);
        if (tick != RK__FOREVER) {
            rk__park_wait(&d->park, outdated, d, rk__now() + tick);
        } else {
            /* seq_cst: pairs with rk__devices_stir, see the head. */
            __atomic_store_n(&d->asleep, 1, __ATOMIC_SEQ_CST);
            rk__park_wait(&d->park, stirred, d, RK__FOREVER);
            __atomic_store_n(&d->asleep, 0, __ATOMIC_SEQ_CST);
        }
    }
    return NULL;
}

void rk__devices_stir(rk_runtime *rt)
{
    devices *d = devices_of(rt);
    if (__atomic_load_n(&d->asleep, __ATOMIC_SEQ_CST) &&
        __atomic_exchange_n(&d->asleep, 0, __ATOMIC_SEQ_CST)) {
        rk__park_notify(&d->park);
    }
}

void rk__devices_enter(rk__kernel_actor *k)
{
    devices *d = devices_of(k->runtime);
    if (k->kernel->handler_timeout <= 0) {
        return;
    }
    pthread_mutex_lock(&d->lock);
    k->next = d->instances;
    d->instances = k;
    __atomic_store_n(&d->arrivals, d->arrivals + 1, __ATOMIC_RELEASE); /* pairs with outdated */
    if (!d->watching) {
        d->watching = create(&d->watchdog, PTHREAD_STACK_MIN + 65536, watch, d) == 0;
        if (!d->watching) {
            rk__log(RK__LOG_WARN, NULL, "no watchdog: handlers that hang are not reported: %s",
                    rk_errdetail());
        }
    }
    pthread_mutex_unlock(&d->lock);
    rk__park_notify(&d->park);
}

void rk__devices_leave(rk__kernel_actor *k)
{
    devices *d = devices_of(k->runtime);
    pthread_mutex_lock(&d->lock);
    rk__kernel_actor **at = &d->instances;
    while (*at != NULL && *at != k) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        *at = k->next;
    }
    pthread_mutex_unlock(&d->lock);
}

/* ---- open and close ------------------------------------------------------------------------- */

static void close_cuda(void *gpu);

static void close_devices(rk_runtime *rt)
{
    devices *d = devices_of(rt);
    __atomic_store_n(&d->closing, 1, __ATOMIC_RELEASE); /* pairs with closing */
    if (d->watching) {
        rk__park_kick(&d->park);
        pthread_join(d->watchdog, NULL);
    }
    reap(d);
    if (d->gpu != NULL) {
        close_cuda(d->gpu);
    }
    pthread_mutex_destroy(&d->settling);
    pthread_mutex_destroy(&d->lock);
    free(d);
    rt->devices = NULL;
}

/* "cuda" or "cuda:N". */
static bool names_cuda(const char *device)
{
    if (strncmp(device, "cuda", 4) != 0) {
        return false;
    }
    const char *number = device + 5;
    return device[4] == '\0' || (device[4] == ':' && number[0] != '\0' && strlen(number) < 4 &&
                                 strspn(number, "0123456789") == strlen(number));
}

static int unknown_device(const char *device)
{
    return rk__fail(RK_EINVAL,
                    "unknown device \"%s\": use \"auto\", \"cpu\", \"cuda\" or \"cuda:N\"", device);
}

static int check_mode(const rk_runtime *rt, enum rk_mode *out)
{
    const char *mode = rt->mode != NULL ? rt->mode : "persistent";
    for (int m = 0; m < RK_MODES; m++) {
        if (strcmp(mode, rk_mode_name((enum rk_mode)m)) == 0) {
            *out = (enum rk_mode)m;
            return 0;
        }
    }
    return rk__fail(RK_EINVAL, "unknown mode \"%s\": use \"persistent\", \"bounded\" or \"batch\"",
                    mode);
}

/* ---- choosing a device ---------------------------------------------------------------------- */

static int use_cpu(devices *d)
{
    if (d->mode != RK_MODE_PERSISTENT) {
        return rk__fail(RK_EUNSUPPORTED,
                        "mode \"%s\" is for GPUs: on the cpu device kernels are always "
                        "\"persistent\" and cost nothing while idle",
                        rk_mode_name(d->mode));
    }
    snprintf(d->name, sizeof d->name, "cpu");
    __atomic_store_n(&d->backend, &rk__backend_cpu, __ATOMIC_RELEASE); /* pairs with backend_of */
    return 0;
}

#if defined(RK_HAVE_CUDA)

static int use_cuda(devices *d, int ordinal)
{
    int code = rk__cuda_open(ordinal, d->runtime, d->mode, &d->gpu);
    if (code == 0) {
        snprintf(d->name, sizeof d->name, "cuda:%d", ordinal);
        __atomic_store_n(&d->backend, &rk__backend_cuda, __ATOMIC_RELEASE); /* as in use_cpu */
    }
    return code;
}

static void close_cuda(void *gpu)
{
    rk__cuda_close(gpu);
}

static bool cuda_is_likely(void)
{
    return rk__cuda_present() == 0;
}

#else

static int use_cuda(devices *d, int ordinal)
{
    (void)d;
    (void)ordinal;
    return rk__fail(RK_EDEVICE,
                    "this library was built without the CUDA back end, because the CUDA Toolkit's "
                    "headers were not found (or CUDA=off was given); use \"cpu\" or \"auto\"");
}

static void close_cuda(void *gpu)
{
    (void)gpu;
}

static bool cuda_is_likely(void)
{
    rk__fail(RK_EDEVICE, "this library was built without the CUDA back end");
    return false;
}

#endif

static const rk__backend *backend_of(const devices *d)
{
    /* Acquire: pairs with the release in use_cpu and use_cuda. */
    return __atomic_load_n(&d->backend, __ATOMIC_ACQUIRE);
}

/* CUDA when it passes its self-test, else the cpu; the log says why. No driver at all is the usual
 * thing on most machines, and told only to who asks for it. */
static int settle_auto(devices *d)
{
    bool likely = cuda_is_likely();
    if (likely && use_cuda(d, 0) == 0) {
        rk__log(RK__LOG_INFO, NULL, "device \"auto\": ring kernels run on %s", d->name);
        return 0;
    }
    int code = use_cpu(d);
    if (code == 0) {
        rk__log(likely ? RK__LOG_WARN : RK__LOG_INFO, NULL,
                "device \"auto\": ring kernels run on the cpu: %s", rk_errdetail());
    }
    return code;
}

int rk__devices_settle(rk_runtime *rt)
{
    int code = rk__devices_open(rt);
    devices *d = devices_of(rt);
    if (code < 0 || backend_of(d) != NULL) {
        return code;
    }
    pthread_mutex_lock(&d->settling);
    code = backend_of(d) == NULL ? settle_auto(d) : 0;
    pthread_mutex_unlock(&d->settling);
    return code;
}

/* A device that was named is opened at once, so that the error comes early. */
static int choose(devices *d)
{
    const char *device = d->runtime->device != NULL ? d->runtime->device : "auto";
    if (strcmp(device, "auto") == 0) {
        return 0;
    }
    if (strcmp(device, "cpu") == 0) {
        return use_cpu(d);
    }
    if (!names_cuda(device)) {
        return unknown_device(device);
    }
    int code = use_cuda(d, device[4] == ':' ? atoi(device + 5) : 0);
    return code < 0 ? rk__fail_prefix(code, "device \"%s\"", device) : 0;
}

static int open_devices(rk_runtime *rt)
{
    enum rk_mode mode = RK_MODE_PERSISTENT;
    int code = check_mode(rt, &mode);
    devices *d = code < 0 ? NULL : calloc(1, sizeof *d);
    if (d == NULL) {
        return code < 0 ? code : rk__fail(RK_ENOMEM, "no memory for the devices of a runtime");
    }
    d->runtime = rt;
    d->mode = mode;
    code = choose(d);
    if (code < 0) {
        free(d);
        return code;
    }
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->settling, NULL);
    rk__park_init(&d->park);
    rt->devices_close = close_devices;
    __atomic_store_n(&rt->devices, d, __ATOMIC_RELEASE); /* pairs with devices_of */
    return 0;
}

int rk__devices_open(rk_runtime *rt)
{
    pthread_mutex_lock(&open_lock);
    int code = rt->devices != NULL ? 0 : open_devices(rt);
    pthread_mutex_unlock(&open_lock);
    return code;
}

const rk__backend *rk__device_backend(const rk_runtime *rt)
{
    return backend_of(devices_of(rt));
}

void *rk__device_handle(const rk_runtime *rt)
{
    return devices_of(rt)->gpu;
}

const char *rk__device_name(const rk_runtime *rt)
{
    const devices *d = devices_of(rt);
    return d == NULL ? "none" : backend_of(d) == NULL ? "auto" : d->name;
}
