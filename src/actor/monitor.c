/*
 * monitor.c -- who wants to know when an actor ends: monitors and links.
 *
 * Threads: watch, link and their undoing from any thread; tell by the owner of the actor that ends.
 * The list is under the slot's lock. The end makes the pid stale (or the state FAILED) first and
 * takes the list afterwards, and watch looks at both under the same lock: so a watcher is either on
 * the list that is told, or finds the actor gone and is told at once. Never both, never neither.
 *
 * A link is an entry in both lists, entered one after the other since no thread holds two locks. One
 * side may end in between. If the side entered first does, it tells the other, which is found by the
 * entry; the entry made afterwards names a stale pid, which is dropped when it is met. If the other
 * side does, the second entry finds it gone, and the first side is told at once.
 *
 * An actor that does not trap exits is killed, which takes its lifecycle lock. Whoever ends may hold
 * one of its own, or be a thread that a holder waits for: so the warden does it (warden.c).
 */
#include "actor/warden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"

struct rk__watch {
    struct rk__watch *next;
    rk_pid watcher;
    bool link;
};

/* A child goes with a supervisor that could not stop it, also when it traps exits; a supervisor is
 * told, since it has children to stop. */
static bool goes_with(const rk__actor *a, rk_pid target)
{
    return __atomic_load_n(&a->supervised, __ATOMIC_RELAXED) == RK__WORKER &&
           __atomic_load_n(&a->parent, __ATOMIC_RELAXED) == target;
}

static bool told_by_message(const rk__actor *a, rk_pid target)
{
    if (goes_with(a, target)) {
        return false;
    }
    /* Pairs with rk_trap_exit: who traps before it links is not killed by that link. */
    return __atomic_load_n(&a->runtime, __ATOMIC_ACQUIRE) == NULL ||
           __atomic_load_n(&a->trap_exit, __ATOMIC_SEQ_CST) != 0;
}

static void post_end(rk_pid watcher, rk_pid target, const rk__end *end, bool as_exit)
{
    rk_message *m = rk__message_end(target, end, as_exit);
    if (m == NULL) {
        return; /* out of memory: the watcher's own calls to the dead still answer */
    }
    m->flags |= RK__UNBOUNDED;
    m->from = target;
    m->priority = 255;
    rk__post_or_bury(watcher, m);
}

/* What the end of `target`, called `who`, means to an actor that is linked with it. */
static void tell_linked(rk_pid linked, rk_pid target, const char *who, const rk__end *end)
{
    rk__actor *a = rk__actor_find(linked);
    if (a == NULL) {
        return;
    }
    if (told_by_message(a, target)) {
        post_end(linked, target, end, true);
        return;
    }
    if (!end->normal) {
        rk__strbuf reason = RK__STRBUF_INIT;
        rk__strbuf_addf(&reason, "linked actor %s ended: %s", who, end->reason);
        rk__warden_kill(linked, reason.bytes != NULL ? reason.bytes : "a linked actor ended");
        rk__strbuf_free(&reason);
    }
}

static void tell(const struct rk__watch *watch, rk_pid target, const char *who, const rk__end *end)
{
    if (watch->link) {
        tell_linked(watch->watcher, target, who, end);
    } else {
        post_end(watch->watcher, target, end, false);
    }
}

/* Whether it is on the list already; forgets watchers that are gone. a->lock is held. */
static bool watches(rk__actor *a, rk_pid watcher, bool link)
{
    struct rk__watch **at = &a->watchers;
    bool found = false;
    while (*at != NULL) {
        struct rk__watch *watch = *at;
        if (rk__actor_find(watch->watcher) == NULL) {
            *at = watch->next;
            free(watch);
            continue;
        }
        found = found || (watch->watcher == watcher && watch->link == link);
        at = &watch->next;
    }
    return found;
}

/* Takes watch when the actor is there and has not failed: true. */
static bool enter(rk_pid target, struct rk__watch *watch)
{
    rk__actor *a = rk__actor_find(target);
    if (a == NULL) {
        return false;
    }
    pthread_mutex_lock(&a->lock);
    bool alive = rk__actor_find(target) == a && rk__actor_state(a) != RK_FAILED;
    bool known = alive && watches(a, watch->watcher, watch->link);
    if (alive && !known) {
        watch->next = a->watchers;
        a->watchers = watch;
    }
    pthread_mutex_unlock(&a->lock);
    if (known) {
        free(watch);
    }
    return alive;
}

static int watch_new(struct rk__watch **out, rk_pid watcher, bool link)
{
    *out = malloc(sizeof **out);
    if (*out == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for a %s", link ? "link" : "monitor");
    }
    **out = (struct rk__watch){NULL, watcher, link};
    return 0;
}

/* The target is gone already. takes watch */
static void tell_at_once(struct rk__watch *watch, rk_pid target)
{
    char *reason = rk__actor_reason(target);
    char who[RK_PID_TEXT];
    rk__end end = {.reason = reason != NULL ? reason : "no such actor"};
    tell(watch, target, rk_pid_format(target, who), &end);
    free(reason);
    free(watch);
}

int rk__watch(rk_pid target, rk_pid watcher)
{
    struct rk__watch *watch;
    if (target == watcher) {
        return rk__fail(RK_ESELF, "an actor cannot monitor itself");
    }
    int code = watch_new(&watch, watcher, false);
    if (code == 0 && !enter(target, watch)) {
        tell_at_once(watch, target);
    }
    return code;
}

/* Takes one off the list of an actor. */
static void forget(rk_pid target, rk_pid watcher, bool link)
{
    rk__actor *a = rk__actor_find(target);
    struct rk__watch *gone = NULL;
    if (a == NULL) {
        return;
    }
    pthread_mutex_lock(&a->lock);
    struct rk__watch **at = rk__actor_find(target) == a ? &a->watchers : NULL;
    while (at != NULL && *at != NULL && ((*at)->watcher != watcher || (*at)->link != link)) {
        at = &(*at)->next;
    }
    if (at != NULL && *at != NULL) {
        gone = *at;
        *at = gone->next;
    }
    pthread_mutex_unlock(&a->lock);
    free(gone);
}

void rk__tell_watchers(rk__actor *a, rk_pid pid, const rk__end *end)
{
    char who[RK_PID_TEXT];
    pthread_mutex_lock(&a->lock);
    struct rk__watch *list = a->watchers;
    a->watchers = NULL;
    snprintf(who, sizeof who, a->name[0] != '\0' ? "<%u.%u \"%s\">" : "<%u.%u>",
             rk__pid_generation(pid), a->index, a->name); /* the pid itself is stale already */
    pthread_mutex_unlock(&a->lock);
    while (list != NULL) {
        struct rk__watch *watch = list;
        list = watch->next;
        if (watch->link) {
            forget(watch->watcher, pid, true);
        }
        tell(watch, pid, who, end);
        free(watch);
    }
}

size_t rk__watchers(const rk__actor *a, bool links, rk_pid *pids, size_t capacity)
{
    size_t count = 0;
    for (const struct rk__watch *watch = a->watchers; watch != NULL; watch = watch->next) {
        if (watch->link == links && rk__actor_find(watch->watcher) != NULL) {
            if (count < capacity) {
                pids[count] = watch->watcher;
            }
            count++;
        }
    }
    return count;
}

/* ---- the public face ----------------------------------------------------------------------- */

int rk_monitor(rk_pid pid)
{
    rk__actor *self = rk__self_get();
    return self == NULL ? rk__self_error() : rk__watch(pid, rk__actor_pid(self));
}

int rk_demonitor(rk_pid pid)
{
    rk__actor *self = rk__self_get();
    if (self == NULL) {
        return rk__self_error();
    }
    forget(pid, rk__actor_pid(self), false);
    return 0;
}

/* Both sides of a link: the caller for RK_NOBODY. */
static int sides(rk_pid *other)
{
    rk__actor *self = rk__self_get();
    if (self == NULL) {
        return rk__self_error();
    }
    *other = *other == RK_NOBODY ? rk__actor_pid(self) : *other;
    return 0;
}

int rk_link(rk_pid pid, rk_pid other)
{
    struct rk__watch *there, *here = NULL;
    char text[RK_PID_TEXT];
    int code = sides(&other);
    if (code == 0 && pid == other) {
        code = rk__fail(RK_ESELF, "%s cannot be linked to itself", rk_pid_format(pid, text));
    }
    if (code == 0) {
        code = watch_new(&there, other, true);
    }
    if (code < 0) {
        return code;
    }
    code = watch_new(&here, pid, true);
    if (code < 0) {
        free(there);
        return code;
    }
    if (!enter(pid, there)) {
        tell_at_once(there, pid);
        free(here);
        return 0;
    }
    if (!enter(other, here)) {
        forget(pid, other, true);
        tell_at_once(here, other);
    }
    return 0;
}

int rk_unlink(rk_pid pid, rk_pid other)
{
    int code = sides(&other);
    if (code == 0) {
        forget(pid, other, true);
        forget(other, pid, true);
    }
    return code;
}

int rk_trap_exit(bool on, bool *before)
{
    rk__actor *self = rk__self_get();
    if (self == NULL) {
        return rk__self_error();
    }
    if (self->runtime == NULL) {
        if (before != NULL) {
            *before = true;
        }
        return on ? 0
                  : rk__fail(RK_EINVAL, "a port (the main script, a thread of the embedder) cannot "
                                        "be killed by a link: it always gets `exit` messages");
    }
    /* Pairs with told_by_message. */
    uint32_t was = __atomic_exchange_n(&self->trap_exit, on, __ATOMIC_SEQ_CST);
    if (before != NULL) {
        *before = was != 0;
    }
    return 0;
}

int rk_label(const char *text)
{
    rk__actor *self = rk__self_get();
    if (self == NULL) {
        return rk__self_error();
    }
    pthread_mutex_lock(&self->lock);
    snprintf(self->label, sizeof self->label, "%s", text != NULL ? text : "");
    pthread_mutex_unlock(&self->lock);
    return 0;
}
