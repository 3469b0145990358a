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

#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "device/instance.h"

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
    const rk__backend *backend;
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

static void report(const rk__kernel_actor *k, uint32_t block, uint32_t busy, int64_t since)
{
    char who[RK_PID_TEXT], what[96];
    rk__log(RK__LOG_WARN, rk_pid_format(k->pid, who),
            "%s has been running for %.3g s in block %u (handler_timeout is %.3g s)",
            rk__kernel_busy_text(k, busy, what), (double)(rk__now() - since) / 1e9, block,
            (double)k->kernel->handler_timeout / 1e9);
}

/* Looks at one block; true: something goes on there. */
static bool look(rk__kernel_actor *k, uint32_t i)
{
    struct rk__watch_sample *s = &k->samples[i];
    /* Both pair with the releases in loop_busy and loop_finish. */
    uint32_t busy = __atomic_load_n(&k->blocks[i].busy, __ATOMIC_ACQUIRE);
    uint32_t steps = __atomic_load_n(&k->blocks[i].steps, __ATOMIC_ACQUIRE);
    if (busy != s->busy || steps != s->steps || busy == 0) {
        bool moved = steps != s->steps;
        *s = (struct rk__watch_sample){busy, steps, false, rk__now()};
        return moved || busy != 0;
    }
    if (!s->reported && rk__now() - s->since >= k->kernel->handler_timeout) {
        s->reported = true;
        report(k, i, busy, s->since);
    }
    return true;
}

/* RK_ON_START or RK_ON_STOP is still to run: no message announces them. */
static bool changes(const rk_block *block)
{
    /* Pair with the releases in loop_status and the back end's command. */
    uint32_t status = __atomic_load_n(&block->status, __ATOMIC_ACQUIRE);
    uint32_t command = __atomic_load_n(&block->command, __ATOMIC_ACQUIRE);
    return status == RK_STATUS_NEW || (command >= RK_COMMAND_STOP && status < RK_STATUS_STOPPED);
}

/* Looks at everything; returns how long it may wait for the next time, RK__FOREVER: nothing to do.
 */
static int64_t round_of(devices *d)
{
    int64_t shortest = RK__FOREVER;
    bool stirs = false;
    pthread_mutex_lock(&d->lock);
    d->seen = d->arrivals;
    for (rk__kernel_actor *k = d->instances; k != NULL; k = k->next) {
        int64_t half = k->kernel->handler_timeout / 2;
        stirs |= k->module->entry->every_count > 0;
        for (uint32_t i = 0; i < k->grid; i++) {
            stirs |= look(k, i);
            stirs |= changes(&k->blocks[i]);
        }
        shortest = half < shortest ? half : shortest;
    }
    pthread_mutex_unlock(&d->lock);
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

static void close_devices(rk_runtime *rt)
{
    devices *d = devices_of(rt);
    __atomic_store_n(&d->closing, 1, __ATOMIC_RELEASE); /* pairs with closing */
    if (d->watching) {
        rk__park_kick(&d->park);
        pthread_join(d->watchdog, NULL);
    }
    reap(d);
    pthread_mutex_destroy(&d->lock);
    free(d);
    rt->devices = NULL;
}

static int no_cuda(const char *device)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    int code;
    if (driver != NULL) {
        code = rk__fail(RK_EDEVICE,
                        "device \"%s\": the CUDA driver (libcuda.so.1) is there, but "
                        "this version has no CUDA back end yet; use \"cpu\" or \"auto\"",
                        device);
        dlclose(driver);
        return code;
    }
    return rk__fail(RK_EDEVICE,
                    "device \"%s\": looked for the CUDA driver: %s; this version has no "
                    "CUDA back end yet either; use \"cpu\" or \"auto\"",
                    device, dlerror());
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

static int check(const rk_runtime *rt)
{
    const char *device = rt->device != NULL ? rt->device : "auto";
    const char *mode = rt->mode != NULL ? rt->mode : "persistent";
    if (names_cuda(device)) {
        return no_cuda(device);
    }
    if (strcmp(device, "auto") != 0 && strcmp(device, "cpu") != 0) {
        return rk__fail(RK_EINVAL,
                        "unknown device \"%s\": use \"auto\", \"cpu\", \"cuda\" or "
                        "\"cuda:N\"",
                        device);
    }
    if (strcmp(mode, "bounded") == 0 || strcmp(mode, "batch") == 0) {
        return rk__fail(RK_EUNSUPPORTED,
                        "mode \"%s\" is for GPUs: on the cpu device kernels are "
                        "always \"persistent\" and cost nothing while idle",
                        mode);
    }
    if (strcmp(mode, "persistent") != 0) {
        return rk__fail(RK_EINVAL,
                        "unknown mode \"%s\": use \"persistent\", \"bounded\" or "
                        "\"batch\"",
                        mode);
    }
    return 0;
}

static int open_devices(rk_runtime *rt)
{
    int code = check(rt);
    devices *d = code < 0 ? NULL : calloc(1, sizeof *d);
    if (d == NULL) {
        return code < 0 ? code : rk__fail(RK_ENOMEM, "no memory for the devices of a runtime");
    }
    d->runtime = rt;
    d->backend = &rk__backend_cpu;
    pthread_mutex_init(&d->lock, NULL);
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
    return devices_of(rt)->backend;
}

const char *rk__device_name(const rk_runtime *rt)
{
    const devices *d = devices_of(rt);
    return d != NULL ? d->backend->name : "none";
}
