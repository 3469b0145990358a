/*
 * handles.c -- the list of open runtimes.
 *
 * Threads: any. Entries are reused and never freed, so a signal handler may walk the list at any
 * time; a handler follows only the runtimes of its own thread, which that thread cannot be closing
 * behind the handler's back: it leaves the list first. Writers hold `lock`.
 */
#include "script/handles.h"

#include <stdlib.h>
#include <string.h>
#include "actor/runtime.h"
#include "base/error.h"
#include "device/device.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rk__handle *entries; /* atomic head */
static uint64_t last_serial;

static rk__handle *free_entry(void)
{
    for (rk__handle *e = entries; e != NULL; e = e->next) {
        if (e->rt == NULL) {
            return e;
        }
    }
    rk__handle *e = calloc(1, sizeof *e);
    if (e != NULL) {
        e->next = entries;
        /* Release: pairs with the acquire in rk__handle_interrupt; the entry is filled before. */
        __atomic_store_n(&entries, e, __ATOMIC_RELEASE);
    }
    return e;
}

static int list(rk_runtime *rt)
{
    pthread_mutex_lock(&lock);
    rk__handle *e = free_entry();
    if (e != NULL) {
        e->serial = ++last_serial;
        e->reader = RK_NOBODY;
        e->thread = pthread_self();
        /* Release: pairs with the acquire in rk__handle_interrupt, which then reads `thread`. */
        __atomic_store_n(&e->rt, rt, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
    return e != NULL ? 0 : rk__fail(RK_ENOMEM, "out of memory for a runtime");
}

static void unlist(const rk_runtime *rt)
{
    pthread_mutex_lock(&lock);
    for (rk__handle *e = entries; e != NULL; e = e->next) {
        if (e->rt == rt) {
            __atomic_store_n(&e->rt, NULL, __ATOMIC_RELAXED);
        }
    }
    pthread_mutex_unlock(&lock);
}

int rk__handle_open(rk_runtime **out, const rk_config *config)
{
    rk_runtime *rt;
    int rc = rk__runtime_open(&rt, config);
    if (rc < 0) {
        return rc;
    }
    rc = rk__devices_open(rt);
    if (rc == 0) {
        rc = list(rt);
    }
    if (rc == 0) {
        *out = rt;
        return 0;
    }
    char *why = strdup(rk_errdetail());
    rk__runtime_close(rt, NULL);
    rk__fail(rc, "%s", why != NULL ? why : "out of memory");
    free(why);
    return rc;
}

int rk__handle_close(rk_runtime *rt, rk__strbuf *killed)
{
    unlist(rt);
    return rk__runtime_close(rt, killed);
}

rk__handle *rk__handle_of(const rk_runtime *rt)
{
    pthread_mutex_lock(&lock);
    rk__handle *e = rt != NULL ? entries : NULL;
    while (e != NULL && e->rt != rt) {
        e = e->next;
    }
    pthread_mutex_unlock(&lock);
    return e;
}

void rk__handle_interrupt(void)
{
    /* Acquire: pairs with the release in free_entry. */
    for (rk__handle *e = __atomic_load_n(&entries, __ATOMIC_ACQUIRE); e != NULL; e = e->next) {
        /* Acquire: pairs with the release in list. */
        rk_runtime *rt = __atomic_load_n(&e->rt, __ATOMIC_ACQUIRE);
        if (rt != NULL && pthread_equal(e->thread, pthread_self())) {
            rk_interrupt(rt);
        }
    }
}

void rk__handle_calm(void)
{
    pthread_mutex_lock(&lock);
    for (rk__handle *e = entries; e != NULL; e = e->next) {
        if (e->rt != NULL && pthread_equal(e->thread, pthread_self())) {
            /* The partners are the waits of this same thread. */
            __atomic_store_n(&e->rt->interrupted, 0, __ATOMIC_SEQ_CST);
        }
    }
    pthread_mutex_unlock(&lock);
}
