/*
 * runtime.c -- opening and closing, waiting for changes, forks.
 *
 * Threads: open and close by the embedder; the rest from any thread.
 *
 * Close: no launches any more; actors are stopped one after the other, newest first (supervised ones by
 * their supervisor), each after it has worked off its mail while the time for that lasts; what does
 * not stop in time is killed; what cannot be killed (a C function that never returns) is reported, and
 * the runtime's memory is then kept, since that thread may still look at it.
 */
#include "actor/runtime.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "actor/host.h"
#include "actor/letters.h"
#include "actor/warden.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

int rk__forked_flag;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static rk_runtime *newest; /* open ones, under list_lock */
static rk_runtime *spare;  /* closed ones: see dispose */

enum { KILL_GRACE = 1000000000 }; /* ns a killed actor gets before it is reported */
enum { DRAIN_PAUSE = 1000 };      /* us between two looks at a mailbox that drains */

static void mark_child(void)
{
    rk__forked_flag = 1;
}

static void install_fork_handler(void)
{
    pthread_atfork(NULL, NULL, mark_child);
}

int rk__fork_error(void)
{
    return rk__fail(RK_EFORK, "this process is a fork of one that used the runtime: open a runtime "
                              "after fork, or call exec");
}

void rk__fork_guard(void)
{
    pthread_once(&fork_once, install_fork_handler);
}

/* ---- open ---------------------------------------------------------------------------------- */

static int choice(const char *what, const char *value, const char *const *known)
{
    rk__strbuf s = RK__STRBUF_INIT;
    for (int i = 0; known[i] != NULL; i++) {
        if (strcmp(value, known[i]) == 0) {
            rk__strbuf_free(&s);
            return 0;
        }
        rk__strbuf_addf(&s, "%s\"%s\"", i != 0 ? ", " : "", known[i]);
    }
    int code = rk__fail(RK_EINVAL, "%s \"%s\": it is one of %s", what, value,
                        s.bytes != NULL ? s.bytes : "");
    rk__strbuf_free(&s);
    return code;
}

static int fill(rk_runtime *rt, const rk_config *config)
{
    static const char *const modes[] = {"persistent", "bounded", "batch", NULL};
    const char *mode = config->mode != NULL ? config->mode : "persistent";
    int code = choice("execution mode", mode, modes);
    if (code == 0) {
        code = rk__pin_parse(config->pin, &rt->pin);
    }
    if (code < 0) {
        return code;
    }
    rt->device = strdup(config->device != NULL ? config->device : "auto");
    rt->mode = strdup(mode);
    rt->cache = config->cache != NULL ? strdup(config->cache) : NULL;
    if (rt->device == NULL || rt->mode == NULL || (config->cache != NULL && rt->cache == NULL)) {
        return rk__fail(RK_ENOMEM, "no memory for a runtime");
    }
    rt->device_timeout = config->device_timeout > 0 ? config->device_timeout : 5000000000;
    rt->pinned_memory = config->pinned_memory;
    rt->device_memory = config->device_memory;
    rt->stop_timeout = config->stop_timeout >= 0 ? config->stop_timeout : RK__FOREVER;
    rt->kill_signal = config->kill_signal != 0 ? config->kill_signal : SIGRTMIN + 3;
    rt->drain = config->drain >= 0 ? config->drain : RK__FOREVER;
    return rk__letters_open(rt, config->dead_letters);
}

/* The object is kept for the next runtime and never unmapped: slots and late messages of its actors
 * may still point to it, and then only count in the wrong book. */
static void dispose(rk_runtime *rt)
{
    rk_on_dead_letter(rt, NULL, NULL);
    rk__letters_close(rt);
    rk__names_free(rt);
    free(rt->device);
    free(rt->mode);
    free(rt->cache);
    pthread_mutex_lock(&list_lock);
    rt->older = spare;
    spare = rt;
    pthread_mutex_unlock(&list_lock);
}

static void reset(rk_runtime *rt)
{
    rt->device = rt->mode = rt->cache = NULL;
    rt->closing = rt->interrupted = rt->live = rt->threads = 0;
    rt->names = rt->script = rt->devices = NULL;
    rt->script_close = rt->devices_close = NULL;
    rt->finished = NULL;
    rt->spawned = rt->terminated = rt->failed = 0;
    rt->messages_sent = rt->messages_received = rt->unfinished = 0;
    rt->dropped = rt->dead_letters = rt->late_replies = rt->expired = rt->rejected = 0;
    rt->forgotten = 0;
    rt->kernels_compiled = rt->cache_hits = 0;
}

static rk_runtime *object_new(void)
{
    pthread_mutex_lock(&list_lock);
    rk_runtime *rt = spare;
    if (rt != NULL) {
        spare = rt->older;
    }
    pthread_mutex_unlock(&list_lock);
    if (rt != NULL) {
        reset(rt);
        return rt;
    }
    rt = calloc(1, sizeof *rt);
    if (rt != NULL) {
        pthread_mutex_init(&rt->lock, NULL);
        pthread_rwlock_init(&rt->hook_lock, NULL);
        rk__park_init(&rt->changed);
        rk__warden_init(&rt->warden);
        pthread_mutex_init(&rt->letters.lock, NULL);
    }
    return rt;
}

int rk__runtime_open(rk_runtime **out, const rk_config *config)
{
    if (config->size != sizeof *config) {
        return rk__fail(RK_EINVAL,
                        "rk_config has size %zu, this library expects %zu: start from "
                        "RK_CONFIG_INIT of the rk.h that belongs to it",
                        config->size, sizeof *config);
    }
    rk__fork_guard();
    rk__actor *owner = rk__self_get();
    if (owner == NULL) {
        return rk__forked() ? rk__fork_error() : RK_ENOMEM;
    }
    rk_runtime *rt = object_new();
    if (rt == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for a runtime");
    }
    rt->owner = rk__actor_pid(owner);
    int code = fill(rt, config);
    if (code < 0) {
        dispose(rt);
        return code;
    }
    pthread_mutex_lock(&list_lock);
    rt->older = newest;
    newest = rt;
    pthread_mutex_unlock(&list_lock);
    *out = rt;
    return 0;
}

/* ---- close --------------------------------------------------------------------------------- */

/* A pid goes stale before its actor is counted out and its thread has ended: wait for both. */
static bool all_gone(void *arg)
{
    rk_runtime *rt = arg;
    rk__runtime_reap(rt);
    return __atomic_load_n(&rt->live, __ATOMIC_SEQ_CST) == 0 &&
           __atomic_load_n(&rt->threads, __ATOMIC_ACQUIRE) == 0;
}

struct closing {
    rk_runtime *rt;
    int64_t drain_end;  /* until then mail is worked off */
    rk__strbuf *killed; /* names of whom we had to kill, each with its NUL; may be NULL */
    int count;          /* of them */
};

/* Until it has no mail any more, or the time for that is over. What is being handled when the stop is
 * asked for is finished anyway. */
static void drain(const struct closing *c, rk_pid pid)
{
    rk_info info;
    while (rk__now() < c->drain_end && rk_inspect(pid, &info) == 0 && info.state == RK_ACTIVE &&
           info.depth[0] + info.depth[1] + info.depth[2] + info.depth[3] > 0) {
        usleep(DRAIN_PAUSE);
    }
}

struct ending {
    rk_runtime *rt;
    rk_pid pid;
    uint32_t live;
};

/* It is gone, or somebody else is: a supervisor ends when its last child has. */
static bool progressed(void *arg)
{
    const struct ending *e = arg;
    return rk__actor_find(e->pid) == NULL ||
           __atomic_load_n(&e->rt->live, __ATOMIC_SEQ_CST) < e->live;
}

/* As long as actors end one after the other, a supervisor has its time. */
static bool ends_in_time(rk_runtime *rt, rk_pid pid)
{
    rk__actor *a = rk__actor_find(pid);
    int64_t patience = a != NULL ? __atomic_load_n(&a->patience, __ATOMIC_RELAXED) : 0;
    patience = patience != 0 && (patience < 0 || patience > rt->stop_timeout) ? patience
                                                                              : rt->stop_timeout;
    for (;;) {
        struct ending e = {rt, pid, __atomic_load_n(&rt->live, __ATOMIC_SEQ_CST)};
        if (rk__actor_find(pid) == NULL) {
            return true;
        }
        if (!rk__runtime_wait(rt, progressed, &e, rk__deadline(patience))) {
            return false;
        }
    }
}

static void stop_one(struct closing *c, rk_pid pid)
{
    char text[RK_PID_TEXT];
    drain(c, pid);
    rk_pid_format(pid, text);
    int code = rk__actor_verb(pid, RK__TERMINATE, "runtime closed", 0);
    if (code < 0 && rk__actor_find(pid) == NULL) {
        return;
    }
    if (ends_in_time(c->rt, pid)) {
        return;
    }
    rk__log(RK__LOG_WARN, text, "did not stop in %.1f s: killing it",
            (double)c->rt->stop_timeout / 1e9);
    c->count++;
    if (c->killed != NULL) {
        rk__strbuf_add(c->killed, text, strlen(text) + 1);
    }
    if (rk__actor_kill(pid, "killed: runtime closed", KILL_GRACE) == RK_ETIMEOUT) {
        rk__log(RK__LOG_ERROR, text,
                "cannot be stopped: its code does not come back to the runtime (a C function, or "
                "a finalizer); its thread and the runtime's memory are left behind");
    }
}

/* Its supervisor stops it, in the order and with the patience it was told. */
static bool left_to_parent(rk_pid pid)
{
    rk__actor *a = rk__actor_find(pid);
    return a != NULL && __atomic_load_n(&a->supervised, __ATOMIC_ACQUIRE) &&
           rk__actor_find(a->parent) != NULL;
}

/* Twice: an actor that was being launched may have missed the first list, and what a supervisor left
 * behind is stopped here. */
static void stop_all(struct closing *c)
{
    rk_runtime *rt = c->rt;
    for (int pass = 0; pass < 2 && __atomic_load_n(&rt->live, __ATOMIC_SEQ_CST) != 0; pass++) {
        size_t count = rk__actor_list(rt, NULL, 0) + 16;
        rk_pid *pids = calloc(count, sizeof *pids);
        size_t listed = pids != NULL ? rk__actor_list(rt, pids, count) : 0;
        for (size_t i = 0; i < count && i < listed; i++) {
            if (pass > 0 || !left_to_parent(pids[i])) {
                stop_one(c, pids[i]);
            }
        }
        free(pids);
    }
}

static void unlist(rk_runtime *rt)
{
    pthread_mutex_lock(&list_lock);
    rk_runtime **at = &newest;
    while (*at != NULL && *at != rt) {
        at = &(*at)->older;
    }
    if (*at != NULL) {
        *at = rt->older;
    }
    pthread_mutex_unlock(&list_lock);
}

int rk__runtime_close(rk_runtime *rt, rk__strbuf *killed)
{
    rk__actor *self = rk__self_peek();
    if (rk__forked()) {
        return rk__fork_error();
    }
    if (self != NULL && self->runtime == rt) {
        return rk__fail(RK_ESELF, "an actor cannot close the runtime it runs in");
    }
    /* Pairs with the load in rk__runtime_actor_new: whoever is counted before this is listed below
     * or ends on its own; whoever comes later is refused. */
    __atomic_store_n(&rt->closing, 1, __ATOMIC_SEQ_CST);
    struct closing closing = {rt, rk__deadline(rt->drain), killed, 0};
    stop_all(&closing);
    bool clean = rk__runtime_wait(rt, all_gone, rt, rk__deadline(KILL_GRACE));
    rk__warden_stop(&rt->warden);
    if (rt->script_close != NULL) {
        rt->script_close(rt);
    }
    if (!clean) {
        unlist(rt);
        return rk__fail(RK_ETIMEOUT, "%u actors of the runtime would not stop; the log names them",
                        __atomic_load_n(&rt->live, __ATOMIC_RELAXED));
    }
    if (rt->devices_close != NULL) {
        rt->devices_close(rt);
    }
    unlist(rt);
    dispose(rt);
    return closing.count;
}

/* ---- changes ------------------------------------------------------------------------------- */

bool rk__runtime_wait(rk_runtime *rt, bool (*done)(void *arg), void *arg, int64_t deadline)
{
    return done(arg) || rk__park_wait(&rt->changed, done, arg, deadline);
}

void rk__runtime_changed(rk_runtime *rt)
{
    rk__park_kick(&rt->changed);
}

int rk__runtime_actor_new(rk_runtime *rt)
{
    __atomic_add_fetch(&rt->live, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&rt->closing, __ATOMIC_SEQ_CST)) {
        rk__runtime_actor_gone(rt);
        return rk__fail(RK_ESTATE, "the runtime is closing: nothing can be launched");
    }
    return 0;
}

void rk__runtime_actor_gone(rk_runtime *rt)
{
    __atomic_sub_fetch(&rt->live, 1, __ATOMIC_SEQ_CST);
    rk__runtime_changed(rt);
}

static bool idle(void *arg)
{
    rk_runtime *rt = arg;
    return __atomic_load_n(&rt->live, __ATOMIC_SEQ_CST) == 0 ||
           __atomic_load_n(&rt->interrupted, __ATOMIC_SEQ_CST) != 0;
}

int rk_wait(rk_runtime *rt, int64_t timeout)
{
    if (rk__forked()) {
        return rk__fork_error();
    }
    bool done = rk__runtime_wait(rt, idle, rt, rk__deadline(timeout));
    if (__atomic_exchange_n(&rt->interrupted, 0, __ATOMIC_SEQ_CST) != 0) {
        rk__actor *self = rk__self_peek();
        if (self != NULL && rk__actor_pid(self) == rt->owner) {
            __atomic_store_n(&self->interrupted, 0,
                             __ATOMIC_SEQ_CST); /* one interrupt, one EINTR */
        }
        return rk__fail(RK_EINTR, "interrupted while waiting for the actors to stop");
    }
    return done ? 0
                : rk__fail(RK_ETIMEOUT, "timeout: %u actors still run",
                           __atomic_load_n(&rt->live, __ATOMIC_RELAXED));
}

void rk_interrupt(rk_runtime *rt)
{
    __atomic_store_n(&rt->interrupted, 1, __ATOMIC_SEQ_CST);
    rk__park_kick(&rt->changed);
    rk__actor *owner = rk__actor_find(rt->owner);
    if (owner != NULL && owner->runtime == NULL) { /* a port that still is */
        __atomic_store_n(&owner->interrupted, 1, __ATOMIC_SEQ_CST);
        rk__park_kick(&owner->mailbox.park);
    }
}

void rk__runtime_calm(rk__actor *port)
{
    __atomic_store_n(&port->interrupted, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_lock(&list_lock);
    for (rk_runtime *rt = newest; rt != NULL; rt = rt->older) {
        if (rt->owner == rk__actor_pid(port)) {
            __atomic_store_n(&rt->interrupted, 0, __ATOMIC_SEQ_CST);
        }
    }
    pthread_mutex_unlock(&list_lock);
}

/* ---- which runtime ------------------------------------------------------------------------- */

rk_runtime *rk__runtime_current(void)
{
    rk__actor *self = rk__self_peek();
    if (self != NULL && self->runtime != NULL) {
        return self->runtime;
    }
    pthread_mutex_lock(&list_lock);
    rk_runtime *rt = newest;
    pthread_mutex_unlock(&list_lock);
    if (rt == NULL) {
        rk__fail(RK_ENOENT, "no runtime is open: rk.runtime() opens one");
    }
    return rt;
}

rk_runtime *rk__runtime_of(rk_pid pid)
{
    rk__actor *a = rk__actor_slot(pid);
    rk_runtime *rt = a != NULL ? __atomic_load_n(&a->runtime, __ATOMIC_ACQUIRE) : NULL;
    return rt != NULL ? rt : rk__runtime_current();
}

void rk_on_dead_letter(rk_runtime *rt, rk_dead_letter_fn fn, void *arg)
{
    pthread_rwlock_wrlock(&rt->hook_lock);
    rt->dead_letter = fn;
    rt->dead_letter_arg = arg;
    pthread_rwlock_unlock(&rt->hook_lock);
}
