/*
 * warden.c -- kills that were asked for by actors that end (monitor.c).
 *
 * Killing takes the lifecycle lock of the actor to be killed, and whoever asks may hold another one,
 * or be a thread that the holder of that lock waits for. The warden holds nothing and nobody waits
 * for it but the close of the runtime, after all actors are gone.
 *
 * Threads: rk__warden_kill from any; the warden's own thread, started by the first one that needs it;
 * stop by the thread that closes the runtime. Order: kills are done in the order of asking.
 */
#include "actor/warden.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/log.h"

enum { STACK = 128 * 1024 };

struct rk__sentence {
    struct rk__sentence *next;
    rk_pid pid;
    char reason[];
};

/* w->lock is held. NULL: none. */
static struct rk__sentence *take(rk__warden *w)
{
    struct rk__sentence *s = w->first;
    if (s != NULL) {
        w->first = s->next;
        w->last = w->first != NULL ? w->last : NULL;
    }
    return s;
}

static void *warden_main(void *arg)
{
    rk__warden *w = arg;
    rk__thread_enter(-1, "rk-warden");
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct rk__sentence *s = take(w);
        if (s != NULL) {
            pthread_mutex_unlock(&w->lock);
            rk__actor_kill(s->pid, s->reason, 0);
            free(s);
            pthread_mutex_lock(&w->lock);
        } else if (w->stopping) {
            break;
        } else {
            pthread_cond_wait(&w->changed, &w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    rk__thread_leave(-1);
    return NULL;
}

/* w->lock is held. */
static bool started(rk__warden *w)
{
    pthread_attr_t attributes;
    sigset_t all, old;
    if (w->running) {
        return true;
    }
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&all); /* signals are the embedder's, or for the threads of actors */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&w->thread, &attributes, warden_main, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attributes);
    w->running = !failed;
    return w->running;
}

static void append(rk__warden *w, struct rk__sentence *s)
{
    s->next = NULL;
    if (w->last != NULL) {
        w->last->next = s;
    } else {
        w->first = s;
    }
    w->last = s;
}

void rk__warden_kill(rk_pid pid, const char *reason)
{
    rk__actor *a = rk__actor_find(pid);
    rk_runtime *rt = a != NULL ? __atomic_load_n(&a->runtime, __ATOMIC_ACQUIRE) : NULL;
    if (rt == NULL) {
        return;
    }
    size_t size = strlen(reason) + 1;
    struct rk__sentence *s = malloc(sizeof *s + size);
    bool up = false;
    if (s != NULL) {
        s->pid = pid;
        memcpy(s->reason, reason, size);
        pthread_mutex_lock(&rt->warden.lock);
        up = started(&rt->warden);
        if (up) {
            append(&rt->warden, s);
            pthread_cond_signal(&rt->warden.changed);
        }
        pthread_mutex_unlock(&rt->warden.lock);
    }
    if (!up) {
        char text[RK_PID_TEXT];
        free(s);
        rk__log(RK__LOG_ERROR, rk_pid_format(pid, text),
                "is not killed, though it should be (%s): no memory or no thread for it", reason);
    }
}

void rk__warden_init(rk__warden *w)
{
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
}

void rk__warden_stop(rk__warden *w)
{
    pthread_mutex_lock(&w->lock);
    bool join = w->running;
    w->stopping = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (join) {
        pthread_join(w->thread, NULL);
    }
    w->running = w->stopping = false;
}
