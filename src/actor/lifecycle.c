/*
 * lifecycle.c -- states and the verbs that change them.
 *
 * Threads: verbs from any thread, one at a time per actor (the slot's lifecycle lock, which a verb
 * that waits for the owner gives up meanwhile); exit and fail by the actor's owner, who takes that
 * lock only at the very end, when the slot is freed.
 *
 *   CREATED -> LAUNCHED -> ACTIVE <-> DEACTIVATED -> TERMINATING -> TERMINATED, and FAILED
 */
#include "actor/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"

static const char *const state_names[] = {"CREATED",     "LAUNCHED",   "ACTIVE", "DEACTIVATED",
                                          "TERMINATING", "TERMINATED", "FAILED"};

const char *rk_state_name(enum rk_state state)
{
    return (unsigned)state <= RK_FAILED ? state_names[state] : "?";
}

void rk__actor_set_state(rk__actor *a, enum rk_state state)
{
    /* Pairs with the acquire in rk__actor_state. */
    __atomic_store_n(&a->state, (uint32_t)state, __ATOMIC_RELEASE);
}

/* Legal states of each verb, and the words of its errors. */
static const struct {
    const char *verb, *from_text;
    uint32_t from; /* bit set of states */
} verbs[] = {
    [RK__ACTIVATE] = {"activate", "LAUNCHED", 1 << RK_LAUNCHED},
    [RK__DEACTIVATE] = {"deactivate", "ACTIVE", 1 << RK_ACTIVE},
    [RK__REACTIVATE] = {"reactivate", "DEACTIVATED", 1 << RK_DEACTIVATED},
    [RK__TERMINATE] = {"terminate", "LAUNCHED, ACTIVE, DEACTIVATED or FAILED",
                       1 << RK_LAUNCHED | 1 << RK_ACTIVE | 1 << RK_DEACTIVATED | 1 << RK_FAILED |
                           1 << RK_TERMINATING},
};

static int illegal(rk_pid pid, enum rk__verb verb, enum rk_state state)
{
    char text[RK_PID_TEXT];
    return rk__fail(RK_ESTATE, "cannot %s %s: it is %s; %s is legal from %s", verbs[verb].verb,
                    rk_pid_format(pid, text), rk_state_name(state), verbs[verb].verb,
                    verbs[verb].from_text);
}

static int apply(rk__actor *a, enum rk__verb verb, const char *reason, int64_t deadline)
{
    enum rk_state state = rk__actor_state(a);
    int code;
    if (state == RK_TERMINATED) {
        return rk__actor_dead(rk__actor_pid(a));
    }
    if (!(verbs[verb].from & 1u << state)) {
        return illegal(rk__actor_pid(a), verb, state);
    }
    switch (verb) {
    case RK__ACTIVATE:
        code = a->class->activate(a);
        break;
    case RK__DEACTIVATE:
        code = a->class->pause(a, deadline);
        break;
    case RK__REACTIVATE:
        code = a->class->resume(a);
        break;
    default:
        a->class->stop(a, reason);
        return 0;
    }
    return code;
}

static bool gone(void *arg)
{
    return rk__actor_find(*(rk_pid *)arg) == NULL;
}

static int wait_gone(rk_runtime *rt, rk_pid pid, int64_t deadline)
{
    char text[RK_PID_TEXT];
    if (!rk__runtime_wait(rt, gone, &pid, deadline)) {
        return rk__fail(RK_ETIMEOUT, "actor %s did not stop in time", rk_pid_format(pid, text));
    }
    return 0;
}

bool rk__actor_is_below(rk_pid pid, rk_pid top)
{
    rk__actor *a = rk__actor_find(pid);
    while (a != NULL) {
        /* Pairs with the release in rk__actor_supervise. */
        bool supervised = __atomic_load_n(&a->supervised, __ATOMIC_ACQUIRE) != RK__UNSUPERVISED;
        rk_pid parent = __atomic_load_n(&a->parent, __ATOMIC_RELAXED);
        if (!supervised || rk__actor_find(pid) != a) {
            return false;
        }
        if (parent == top) {
            return true;
        }
        pid = parent;
        a = rk__actor_find(pid);
    }
    return false;
}

int rk__actor_may_await(rk_pid pid)
{
    rk__actor *self = rk__self_peek();
    char who[RK_PID_TEXT], child[RK_PID_TEXT];
    if (self == NULL || !rk__actor_is_below(rk__actor_pid(self), pid)) {
        return 0;
    }
    return rk__fail(
        RK_ESELF,
        "%s is stopped by its own child %s, which it stops first: waiting for that would "
        "wait for ever; ask with timeout 0, or let the child return or fail",
        rk_pid_format(pid, who), rk_pid_format(rk__actor_pid(self), child));
}

int rk__actor_verb(rk_pid pid, enum rk__verb verb, const char *reason, int64_t timeout)
{
    rk__actor *a, *self = rk__self_peek();
    int64_t deadline = rk__deadline(timeout);
    char text[RK_PID_TEXT];
    int code = rk__actor_get(pid, &a);
    if (code < 0) {
        return code;
    }
    rk_runtime *rt = a->runtime;
    if (rt == NULL) {
        return rk__fail(RK_EINVAL, "%s is a port: it lives as long as its thread",
                        rk_pid_format(pid, text));
    }
    if (a == self && verb == RK__DEACTIVATE) {
        return rk__fail(RK_ESELF, "an actor cannot deactivate itself");
    }
    if (verb == RK__TERMINATE && timeout != 0 && rk__actor_may_await(pid) < 0) {
        return RK_ESELF;
    }
    pthread_mutex_lock(&a->lifecycle);
    code = rk__actor_find(pid) == a ? apply(a, verb, reason != NULL ? reason : "stopped", deadline)
                                    : rk__actor_dead(pid);
    pthread_mutex_unlock(&a->lifecycle);
    if (code < 0 || verb != RK__TERMINATE || a == self || timeout == 0) {
        return code;
    }
    return wait_gone(rt, pid, deadline);
}

int rk__actor_kill(rk_pid pid, const char *reason, int64_t timeout)
{
    rk__actor *a;
    int code = rk__actor_get(pid, &a);
    if (code < 0) {
        return code;
    }
    rk_runtime *rt = a->runtime;
    if (rt == NULL) {
        return rk__fail(RK_EINVAL, "a port cannot be killed: it lives as long as its thread");
    }
    pthread_mutex_lock(&a->lifecycle);
    if (rk__actor_find(pid) == a) {
        __atomic_store_n(&a->interrupted, 1, __ATOMIC_SEQ_CST);
        a->class->stop(a, reason != NULL ? reason : "killed");
        if (rk__actor_find(pid) == a && a->class->kill != NULL) {
            a->class->kill(a);
        }
    }
    pthread_mutex_unlock(&a->lifecycle);
    return a == rk__self_peek() || timeout == 0 ? 0 : wait_gone(rt, pid, rk__deadline(timeout));
}

/* Closes the mailbox, then refuses what is in it and what was taken but not answered. */
static void refuse_mail(rk__actor *a)
{
    rk_pid pid = rk__actor_pid(a);
    rk__mailbox_close(&a->mailbox);
    rk_message *list = rk__mailbox_drain(&a->mailbox, true);
    while (list != NULL) {
        rk_message *m = list;
        list = rk__next(m);
        rk__bury(pid, m, RK_EDEAD);
    }
    while (a->outstanding_count > 0) {
        rk__actor_dead(pid); /* sets the sentence with the reason */
        rk__reply(a, a->outstanding[a->outstanding_count - 1],
                  rk__message_error(RK_EDEAD, rk_errdetail()));
    }
}

/* Undoes a launch that failed half-way. */
static void give_up(rk__actor *a)
{
    if (a->cpu >= 0) {
        rk__cpu_leave(a->cpu);
    }
    rk_runtime *rt = a->runtime;
    rk__actor_set_state(a, RK_TERMINATED);
    refuse_mail(a); /* a name may have been found, and used, already */
    rk__actor_retire(a);
    rk__actor_release(a);
    rk__runtime_actor_gone(rt);
}

static int check_options(const rk_options *options)
{
    if (options->size != sizeof *options) {
        return rk__fail(RK_EINVAL,
                        "rk_options has size %zu, this library expects %zu: start from "
                        "RK_OPTIONS_INIT of the rk.h that belongs to it",
                        options->size, sizeof *options);
    }
    if (options->name != NULL && strlen(options->name) >= RK_NAME_MAX) {
        return rk__fail(RK_EINVAL, "the name \"%.20s...\" is longer than %d bytes", options->name,
                        RK_NAME_MAX - 1);
    }
    if (options->name != NULL && options->name[0] == '\0') {
        return rk__fail(RK_EINVAL, "an actor's name cannot be empty");
    }
    if ((unsigned)options->full > RK_FULL_DROP_NEWEST) {
        return rk__fail(RK_EINVAL, "unknown full-mailbox policy %d", (int)options->full);
    }
    if (options->mailbox > 1u << 30) {
        return rk__fail(RK_ERANGE, "a mailbox of %u messages: at most %u", options->mailbox,
                        1u << 30);
    }
    if (options->dedup > 1u << 20) {
        return rk__fail(RK_ERANGE, "dedup: %u message ids to remember: at most %u", options->dedup,
                        1u << 20);
    }
    return 0;
}

static int settle_options(rk__actor *a, rk_runtime *rt, const rk_options *options)
{
    int code = 0;
    if (options->cpu >= 0) {
        code = rk__cpu_take(options->cpu);
        a->cpu = code < 0 ? -1 : options->cpu;
    } else {
        a->cpu = rk__cpu_seat(&rt->pin);
    }
    if (code == 0 && options->dedup != 0) {
        code = rk__seen_open(a, options->dedup);
    }
    if (code == 0 && options->name != NULL) {
        pthread_mutex_lock(&a->lock);
        strcpy(a->name, options->name);
        pthread_mutex_unlock(&a->lock);
        code = rk__name_set(rt, options->name, rk__actor_pid(a));
    }
    return code;
}

int rk__actor_launch(rk__actor **out, rk_runtime *rt, const rk__actor_class *class, void *impl,
                     uint32_t bound, const rk_options *options)
{
    rk__actor *a;
    int code = check_options(options);
    if (code < 0) {
        return code;
    }
    code = rk__runtime_actor_new(rt);
    if (code < 0) {
        return code;
    }
    code = rk__actor_new(&a, rt, class, impl, options->mailbox != 0 ? options->mailbox : bound,
                         options->full != RK_FULL_DEFAULT ? options->full : RK_FULL_BLOCK);
    if (code < 0) {
        rk__runtime_actor_gone(rt);
        return code;
    }
    rk__actor *self = rk__self_peek();
    pthread_mutex_lock(&a->lock);
    __atomic_store_n(&a->parent,
                     self != NULL && self->runtime == rt ? rk__actor_pid(self) : RK_NOBODY,
                     __ATOMIC_RELAXED);
    pthread_mutex_unlock(&a->lock);
    code = settle_options(a, rt, options);
    if (code < 0) {
        give_up(a);
        return code;
    }
    rk__actor_set_state(a, RK_LAUNCHED);
    /* Pairs with the store in rk__runtime_close: either close lists this actor, or we see it here.
     */
    if (__atomic_load_n(&rt->closing, __ATOMIC_SEQ_CST)) {
        rk__name_drop(rt, a->name, rk__actor_pid(a));
        give_up(a);
        return rk__fail(RK_ESTATE, "the runtime is closing: nothing can be launched");
    }
    __atomic_add_fetch(&rt->spawned, 1, __ATOMIC_RELAXED);
    *out = a;
    return 0;
}

int rk__actor_start(rk__actor *a, rk_pid *out)
{
    rk_pid pid = rk__actor_pid(a);
    int code = rk__actor_verb(pid, RK__ACTIVATE, NULL, -1);
    if (code == 0) {
        *out = pid;
        return 0;
    }
    char *why = strdup(rk_errdetail()); /* the terminate below may set its own */
    if (rk__actor_find(pid) != NULL) {
        rk__actor_verb(pid, RK__TERMINATE, "did not start", 0);
    }
    rk__fail(code, "%s", why != NULL ? why : rk_strerror(code));
    free(why);
    return code;
}

int rk__actor_supervise(rk_pid child, enum rk__supervised as)
{
    rk__actor *a, *self = rk__self_peek();
    char text[RK_PID_TEXT];
    int code = rk__actor_get(child, &a);
    if (code == 0 && (self == NULL || a->parent != rk__actor_pid(self))) {
        code = rk__fail(RK_EINVAL,
                        "%s was launched by somebody else: only who launched it can be "
                        "its supervisor",
                        rk_pid_format(child, text));
    }
    if (code == 0) {
        /* Release: pairs with left_to_parent in runtime.c, which then reads parent. */
        __atomic_store_n(&a->supervised, (uint32_t)as, __ATOMIC_RELEASE);
    }
    return code;
}

void rk__actor_patience(rk__actor *self, int64_t patience)
{
    __atomic_store_n(&self->patience, patience, __ATOMIC_RELAXED);
}

static void set_reason(rk__actor *a, const char *reason)
{
    char *copy = strdup(reason);
    pthread_mutex_lock(&a->lock);
    free(a->exit_reason);
    a->exit_reason = copy;
    pthread_mutex_unlock(&a->lock);
}

void rk__actor_fail(rk__actor *a, const char *reason)
{
    rk__end end = {.reason = reason, .failed = true};
    set_reason(a, reason);
    rk__actor_set_state(a, RK_FAILED);
    __atomic_add_fetch(&a->runtime->failed, 1, __ATOMIC_RELAXED);
    refuse_mail(a);
    rk__tell_watchers(a, rk__actor_pid(a), &end);
}

void rk__actor_exit(rk__actor *a, const rk__end *given)
{
    rk_runtime *rt = a->runtime;
    rk_pid pid = rk__actor_pid(a);
    rk__end end = *given;
    bool was_failed = rk__actor_state(a) == RK_FAILED;
    /* Pairs with the store in rk__actor_kill, which asks for the end that this is. */
    end.normal = end.normal && !end.failed && !__atomic_load_n(&a->interrupted, __ATOMIC_SEQ_CST);
    if (!was_failed) {
        set_reason(a, end.reason);
        rk__actor_set_state(a, end.failed ? RK_FAILED : RK_TERMINATING);
        refuse_mail(a);
    }
    pthread_mutex_lock(&a->lock); /* rk_inspect looks at impl under it */
    __atomic_store_n(&a->impl, NULL, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&a->lock);
    rk__name_drop(rt, a->name, pid);
    rk__actor_set_state(a, RK_TERMINATED); /* before the pid changes: the next one is nobody yet */
    rk__actor_retire(a);
    rk__runtime_changed(rt); /* a verb may wait for this with the lock that release takes */
    if (!was_failed) {
        rk__tell_watchers(a, pid, &end);
        __atomic_add_fetch(end.failed ? &rt->failed : &rt->terminated, 1, __ATOMIC_RELAXED);
    }
    if (a->cpu >= 0) {
        rk__cpu_leave(a->cpu);
    }
    __atomic_add_fetch(&rt->messages_sent, a->sent, __ATOMIC_RELAXED);
    __atomic_add_fetch(&rt->messages_received, a->received, __ATOMIC_RELAXED);
    __atomic_add_fetch(&rt->unfinished, a->handling && !end.normal, __ATOMIC_RELAXED);
    rk__actor_release(a);
    rk__runtime_actor_gone(rt);
}

void rk__port_close(rk__actor *a)
{
    rk__end end = {.reason = "its thread ended", .normal = true};
    set_reason(a, end.reason);
    rk__actor_set_state(a, RK_TERMINATING);
    refuse_mail(a);
    rk_pid pid = rk__actor_pid(a);
    rk__actor_set_state(a, RK_TERMINATED);
    rk__actor_retire(a);
    rk__tell_watchers(a, pid, &end);
    rk__actor_release(a);
}

int rk_activate(rk_pid pid)
{
    return rk__forked() ? rk__fork_error() : rk__actor_verb(pid, RK__ACTIVATE, NULL, -1);
}

int rk_deactivate(rk_pid pid)
{
    return rk__forked() ? rk__fork_error() : rk__actor_verb(pid, RK__DEACTIVATE, NULL, 5000000000);
}

int rk_reactivate(rk_pid pid)
{
    return rk__forked() ? rk__fork_error() : rk__actor_verb(pid, RK__REACTIVATE, NULL, -1);
}

int rk_terminate(rk_pid pid, const char *reason, int64_t timeout)
{
    return rk__forked() ? rk__fork_error() : rk__actor_verb(pid, RK__TERMINATE, reason, timeout);
}
