/*
 * host.c -- host actors: one pinned pthread each.
 *
 * Threads: launch and the class entries from any thread (class entries under the slot's lifecycle
 * lock); run on the actor's own thread, which ends with rk__actor_exit and then hands its record to
 * the runtime for joining. The record (struct rk__host) outlives the slot's use by this actor.
 */
#include "actor/runtime.h"

#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "actor/host.h"

enum { STACK_DEFAULT = 256 * 1024, MAILBOX_DEFAULT = 4096 };

/* NULL once the actor is ending. Under the lifecycle lock the record stays while it is not NULL:
 * the ending thread lets go of it only after the slot's release, which takes that lock. */
static struct rk__host *host_of(rk__actor *a)
{
    return __atomic_load_n(&a->impl, __ATOMIC_ACQUIRE);
}

static void unref(struct rk__host *h)
{
    /* Pairs with the other release: the last one sees everything the others did. */
    if (__atomic_sub_fetch(&h->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        pthread_mutex_destroy(&h->lock);
        free(h->failure);
        free(h);
    }
}

/* ---- the thread ---------------------------------------------------------------------------- */

static void publish_start(struct rk__host *h, int result, int code, const char *reason)
{
    if (__atomic_load_n(&h->started, __ATOMIC_RELAXED) != 0) {
        return;
    }
    h->code = code;
    h->failure = reason != NULL ? strdup(reason) : NULL;
    /* Pairs with the acquire in started(). */
    __atomic_store_n(&h->started, result, __ATOMIC_RELEASE);
    rk__runtime_changed(h->runtime);
}

void rk__host_started(rk__actor *self)
{
    publish_start(host_of(self), 1, 0, NULL);
}

static char *exit_reason(rk__actor *a, int code, char *reason)
{
    if (code == RK_ESTOP || (code == 0 && reason == NULL && a->stop_reason != NULL)) {
        free(reason);
        return strdup(a->stop_reason != NULL ? a->stop_reason : "stopped");
    }
    if (reason == NULL) {
        const char *detail = rk_errdetail();
        reason = strdup(code == 0 ? "normal" : detail[0] != '\0' ? detail : rk_strerror(code));
    }
    return reason;
}

/* Cuts a reason in two: the traceback Lua puts behind it is the second part. */
static char *cut_traceback(char *reason)
{
    static const char mark[] = "\nstack traceback:\n";
    char *at = reason != NULL ? strstr(reason, mark) : NULL;
    if (at == NULL) {
        return NULL;
    }
    *at = '\0';
    return at + sizeof mark - 1;
}

static void *thread_main(void *arg)
{
    struct rk__host *h = arg;
    rk__actor *a = h->actor;
    char *reason = NULL;
    rk__self_set(a);
    int cpu = a->cpu;
    rk__thread_enter(cpu, a->name[0] != '\0' ? a->name : h->ops->kind);
    a->mailbox.park.cpu = cpu;
    if (!h->ops->handshake) {
        rk__host_started(a);
    }
    int code = h->ops->run(a, h->body, &reason);
    rk_should_terminate(); /* takes notice of a stop request that came last: its reason */
    if (code == RK_EINTR && __atomic_load_n(&a->interrupted, __ATOMIC_SEQ_CST)) {
        code = RK_ESTOP; /* killed: pairs with the store in rk__actor_kill */
    }
    reason = exit_reason(a, code, reason);
    pthread_mutex_lock(&h->lock); /* from here on nobody interrupts us */
    h->running = false;
    pthread_mutex_unlock(&h->lock);
    h->ops->free(h->body);
    rk__end end = {.traceback = cut_traceback(reason),
                   .reason = reason != NULL ? reason : "normal",
                   .failed = code < 0 && code != RK_ESTOP,
                   .normal = true};
    publish_start(h, -1, code < 0 ? code : RK_EHANDLER, reason); /* unless it had started */
    rk__actor_exit(a, &end);
    unref(h); /* the slot's */
    free(reason);
    rk__self_set(NULL);
    rk__thread_leave(cpu);
    rk_runtime *rt = h->runtime;
    pthread_mutex_lock(&rt->lock);
    h->next = rt->finished;
    rt->finished = h;
    pthread_mutex_unlock(&rt->lock);
    rk__runtime_changed(rt);
    return NULL;
}

void rk__runtime_reap(rk_runtime *rt)
{
    pthread_mutex_lock(&rt->lock);
    struct rk__host *list = rt->finished;
    rt->finished = NULL;
    pthread_mutex_unlock(&rt->lock);
    while (list != NULL) {
        struct rk__host *h = list;
        list = h->next;
        pthread_join(h->thread, NULL);
        __atomic_sub_fetch(&rt->threads, 1, __ATOMIC_RELEASE);
        unref(h);
    }
}

/* ---- the class ----------------------------------------------------------------------------- */

static void pushed(rk__actor *a)
{
    rk__park_notify(&a->mailbox.park);
}

struct starting {
    struct rk__host *host;
    rk__actor *self; /* who activates; NULL: a thread without an actor */
};

static bool has_started(const struct rk__host *h)
{
    /* Pairs with the release in publish_start. */
    return __atomic_load_n(&h->started, __ATOMIC_ACQUIRE) != 0;
}

bool rk__host_has_started(const rk__actor *self)
{
    return has_started(__atomic_load_n(&self->impl, __ATOMIC_ACQUIRE));
}

static bool started_or_interrupted(void *arg)
{
    const struct starting *s = arg;
    return has_started(s->host) ||
           (s->self != NULL && __atomic_load_n(&s->self->interrupted, __ATOMIC_SEQ_CST) != 0);
}

/* Waits for the handshake. The slot is unlocked meanwhile, so that an actor whose start hangs can
 * be killed; afterwards only the record may be looked at. */
static int await_start(rk__actor *a, struct rk__host *h, const char *name)
{
    struct starting s = {h, rk__self_peek()};
    pthread_mutex_unlock(&a->lifecycle);
    rk__runtime_wait(h->runtime, started_or_interrupted, &s, RK__FOREVER);
    pthread_mutex_lock(&a->lifecycle);
    if (!has_started(h)) {
        return rk__fail(RK_EINTR, "interrupted while actor %s was starting", name);
    }
    return h->started > 0 ? 0 : rk__fail(h->code, "actor %s did not start: %s", name, h->failure);
}

static int create_thread(struct rk__host *h)
{
    pthread_attr_t attributes;
    sigset_t all, old;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, h->stack);
    /* An actor's thread takes no signals of the embedder, only the runtime's own. */
    sigfillset(&all);
    if (h->runtime->kill_signal != 0) {
        sigdelset(&all, h->runtime->kill_signal);
    }
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_mutex_lock(&h->lock);
    h->running = true;
    pthread_mutex_unlock(&h->lock);
    __atomic_add_fetch(&h->refs, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&h->runtime->threads, 1, __ATOMIC_RELAXED);
    int failed = pthread_create(&h->thread, &attributes, thread_main, h);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    if (failed) {
        h->running = false;
        __atomic_sub_fetch(&h->refs, 1, __ATOMIC_RELAXED);
        __atomic_sub_fetch(&h->runtime->threads, 1, __ATOMIC_RELAXED);
        return rk__fail(RK_ENOMEM, "cannot start a thread for actor \"%s\": %s", h->actor->name,
                        strerror(failed));
    }
    return 0;
}

/* The lifecycle lock is held, so `a` stays this actor's slot until the state says otherwise; but
 * the thread may end at once, and then only the record may be looked at. */
static int activate(rk__actor *a)
{
    struct rk__host *h = host_of(a);
    char name[RK_PID_TEXT];
    int code = 0;
    rk_pid_format(rk__actor_pid(a), name);
    h->actor = a;
    rk__actor_set_state(a, RK_ACTIVE);
    __atomic_add_fetch(&h->refs, 1, __ATOMIC_RELAXED); /* ours, while we look at `started` */
    code = create_thread(h);
    if (code < 0) {
        rk__actor_set_state(a, RK_LAUNCHED);
    } else if (h->ops->handshake) {
        code = await_start(a, h, name);
    }
    unref(h);
    return code;
}

struct pausing {
    rk__actor *actor;
    rk_pid pid;
    uint32_t request;
};

static bool paused(void *arg)
{
    struct pausing *p = arg;
    /* Pairs with the store in rk__border. */
    return __atomic_load_n(&p->actor->paused, __ATOMIC_SEQ_CST) == p->request ||
           rk__actor_find(p->pid) != p->actor;
}

/* As for the start: the slot is unlocked while we wait, so that a stop or kill need not. */
static int pause_host(rk__actor *a, int64_t deadline)
{
    char text[RK_PID_TEXT];
    struct pausing p = {a, rk__actor_pid(a),
                        __atomic_add_fetch(&a->pause_requests, 1, __ATOMIC_SEQ_CST)};
    rk__actor_set_state(a, RK_DEACTIVATED);
    rk__park_kick(&a->mailbox.park);
    pthread_mutex_unlock(&a->lifecycle);
    bool done = rk__runtime_wait(a->runtime, paused, &p, deadline);
    pthread_mutex_lock(&a->lifecycle);
    if (rk__actor_find(p.pid) != a) {
        return rk__actor_dead(p.pid);
    }
    if (done || rk__actor_state(a) != RK_DEACTIVATED) {
        return 0;
    }
    rk__actor_set_state(a, RK_ACTIVE);
    rk__park_kick(&a->mailbox.park);
    return rk__fail(RK_ETIMEOUT, "%s reached no message border in time and stays ACTIVE",
                    rk_pid_format(p.pid, text));
}

static int resume(rk__actor *a)
{
    rk__actor_set_state(a, RK_ACTIVE);
    rk__park_kick(&a->mailbox.park);
    return 0;
}

static void stop(rk__actor *a, const char *reason)
{
    struct rk__host *h = host_of(a);
    rk_pid pid = rk__actor_pid(a);
    if (h == NULL) {
        return;
    }
    if (rk__actor_state(a) == RK_LAUNCHED) { /* it never ran: we are its owner */
        h->ops->free(h->body);
        rk__actor_exit(a, &(rk__end){.reason = reason, .normal = true});
        unref(h);
        return;
    }
    rk_message *m = rk__message_end(pid, &(rk__end){.reason = reason, .normal = true}, false);
    rk__actor_set_state(a, RK_TERMINATING);
    if (m != NULL) {
        m->flags |= RK__SYSTEM | RK__STOP;
        m->priority = 255;
        rk__post_or_bury(pid, m);
    }
    rk__park_kick(&a->mailbox.park);
}

static void kill_host(rk__actor *a)
{
    struct rk__host *h = host_of(a);
    if (h == NULL) {
        return;
    }
    rk__park_kick(&a->mailbox.park);
    pthread_mutex_lock(&h->lock); /* holds off the freeing of body */
    if (h->running && h->ops->kill != NULL) {
        h->ops->kill(a, h->body);
    }
    pthread_mutex_unlock(&h->lock);
}

pthread_t rk__host_thread(rk__actor *a)
{
    return host_of(a)->thread;
}

static void describe(rk__actor *a, rk_info *info)
{
    struct rk__host *h = host_of(a);
    strcpy(info->kind, h->ops->kind);
    strcpy(info->device, "host");
    info->memory = h->stack;
    pthread_mutex_lock(&h->lock);
    if (h->running && h->ops->memory != NULL) {
        info->memory += h->ops->memory(h->body);
    }
    pthread_mutex_unlock(&h->lock);
}

static const rk__actor_class host_class = {.kind = "host",
                                           .pushed = pushed,
                                           .activate = activate,
                                           .pause = pause_host,
                                           .resume = resume,
                                           .stop = stop,
                                           .kill = kill_host,
                                           .describe = describe};

/* ---- launch -------------------------------------------------------------------------------- */

static size_t stack_size(const rk_options *options)
{
    size_t size = options->stack != 0 ? options->stack : STACK_DEFAULT;
    size = (size + 4095) & ~(size_t)4095;
    return size < (size_t)PTHREAD_STACK_MIN ? (size_t)PTHREAD_STACK_MIN : size;
}

static struct rk__host *host_new(rk_runtime *rt, const rk__host_body *ops, void *body,
                                 const rk_options *options)
{
    struct rk__host *h = calloc(1, sizeof *h);
    if (h == NULL) {
        return NULL;
    }
    pthread_mutex_init(&h->lock, NULL);
    h->refs = 1;
    h->runtime = rt;
    h->ops = ops;
    h->body = body;
    h->stack = stack_size(options);
    return h;
}

int rk__host_launch(rk__actor **out, rk_runtime *rt, const rk__host_body *ops, void *body,
                    const rk_options *options)
{
    rk__actor *a;
    rk__runtime_reap(rt);
    struct rk__host *h = host_new(rt, ops, body, options);
    if (h == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for an actor");
    }
    int code = rk__actor_launch(&a, rt, &host_class, h, MAILBOX_DEFAULT, options);
    if (code < 0) {
        unref(h);
        return code;
    }
    *out = a;
    return 0;
}

/* ---- C actors ------------------------------------------------------------------------------ */

struct c_body {
    rk_actor_fn fn;
    void *arg;
};

static int run_c(rk__actor *self, void *body, char **reason)
{
    struct c_body *c = body;
    (void)self;
    (void)reason;
    return c->fn(c->arg);
}

static const rk__host_body c_ops = {.kind = "c", .run = run_c, .free = free};

static int launch_c(rk_runtime *rt, rk_actor_fn fn, void *arg, const rk_options *options,
                    rk__actor **out)
{
    struct c_body *body = malloc(sizeof *body);
    if (body == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for an actor");
    }
    *body = (struct c_body){fn, arg};
    int code = rk__host_launch(out, rt, &c_ops, body, options);
    if (code < 0) {
        free(body);
    }
    return code;
}

int rk_spawn_c(rk_runtime *rt, rk_pid *out, rk_actor_fn fn, void *arg, const rk_options *options)
{
    static const rk_options defaults = RK_OPTIONS_INIT;
    rk__actor *a;
    RK_CHECK(rt != NULL && fn != NULL, "rk_spawn_c needs a runtime and a function");
    if (rk__forked()) {
        return rk__fork_error();
    }
    int code = launch_c(rt, fn, arg, options != NULL ? options : &defaults, &a);
    return code < 0 ? code : rk__actor_start(a, out);
}

struct c_definition {
    rk__definition base;
    rk_actor_fn fn;
    void *arg;
};

static int launch_defined(rk_runtime *rt, rk__definition *base, const rk_options *options,
                          rk__actor **out)
{
    const struct c_definition *definition = (const struct c_definition *)base;
    return launch_c(rt, definition->fn, definition->arg, options, out);
}

static void free_defined(rk__definition *base)
{
    free(base);
}

int rk_actor_define(const char *name, rk_actor_fn fn, void *arg)
{
    RK_CHECK(name != NULL && fn != NULL, "rk_actor_define needs a name and a function");
    if (name[0] == '\0' || strlen(name) >= RK_NAME_MAX) {
        return rk__fail(RK_EINVAL, "a definition's name has 1 to %d bytes", RK_NAME_MAX - 1);
    }
    struct c_definition *definition = calloc(1, sizeof *definition);
    if (definition == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for definition \"%s\"", name);
    }
    strcpy(definition->base.name, name);
    definition->base.kind = "c";
    definition->base.launch = launch_defined;
    definition->base.free = free_defined;
    definition->base.refs = 1;
    definition->fn = fn;
    definition->arg = arg;
    int code = rk__definition_set(&definition->base);
    if (code < 0) {
        free(definition);
    }
    return code;
}
