/*
 * monitor.c -- who wants to know when an actor ends.
 *
 * Threads: watch from any thread; tell by the owner of the actor that ends. The list is under the
 * slot's lock. The end makes the pid stale (or the state FAILED) first and takes the list
 * afterwards, and watch looks at both under the same lock: so a watcher is either on the list that
 * is told, or finds the actor gone and is told at once. Never both, never neither.
 */
#include "actor/runtime.h"

#include <stdlib.h>
#include "base/error.h"

struct rk__watch {
    struct rk__watch *next;
    rk_pid watcher;
};

static void tell(rk_pid watcher, rk_pid target, const char *reason)
{
    rk_message *m = rk__message_down(target, reason);
    if (m == NULL) {
        return; /* out of memory: the watcher's own calls to the dead still answer */
    }
    m->flags |= RK__UNBOUNDED;
    m->from = target;
    m->priority = 255;
    rk__post_or_bury(watcher, m);
}

/* Whether it watches already; forgets watchers that are gone. a->lock is held. */
static bool watches(rk__actor *a, rk_pid watcher)
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
        found = found || watch->watcher == watcher;
        at = &watch->next;
    }
    return found;
}

int rk__watch(rk_pid target, rk_pid watcher)
{
    if (target == watcher) {
        return rk__fail(RK_ESELF, "an actor cannot monitor itself");
    }
    struct rk__watch *watch = malloc(sizeof *watch);
    if (watch == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for a monitor");
    }
    *watch = (struct rk__watch){NULL, watcher};
    rk__actor *a = rk__actor_find(target);
    if (a != NULL) {
        pthread_mutex_lock(&a->lock);
        bool alive = rk__actor_find(target) == a && rk__actor_state(a) != RK_FAILED;
        if (alive && watches(a, watcher)) {
            pthread_mutex_unlock(&a->lock);
            free(watch);
            return 0;
        }
        if (alive) {
            watch->next = a->watchers;
            a->watchers = watch;
            watch = NULL;
        }
        pthread_mutex_unlock(&a->lock);
    }
    if (watch != NULL) {
        free(watch);
        char *reason = rk__actor_reason(target);
        tell(watcher, target, reason != NULL ? reason : "no such actor");
        free(reason);
    }
    return 0;
}

void rk__tell_watchers(rk__actor *a, rk_pid pid, const char *reason)
{
    pthread_mutex_lock(&a->lock);
    struct rk__watch *list = a->watchers;
    a->watchers = NULL;
    pthread_mutex_unlock(&a->lock);
    while (list != NULL) {
        struct rk__watch *watch = list;
        list = watch->next;
        tell(watch->watcher, pid, reason);
        free(watch);
    }
}

int rk_monitor(rk_pid pid)
{
    rk__actor *self = rk__self_get();
    return self == NULL ? rk__self_error() : rk__watch(pid, rk__actor_pid(self));
}
