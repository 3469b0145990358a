/*
 * signals.c -- Ctrl-C and SIGTERM.
 *
 * The handler runs on the main thread (another thread that catches the signal hands it on). It
 * wakes what waits and arms a hook, so that the running chunk ends with an error; its to-be-closed
 * variables then run in peace, because the hook is let go of as soon as the error is on its way out
 * of the chunk.
 *
 * Threads: main.
 */
#include "rklua/rklua.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include "base/clock.h"
#include "script/chunk.h"
#include "script/handles.h"
#include "script/scheduler.h"

enum { PATIENCE = 2000000000 }; /* ns in which a second signal ends the process */

static pthread_t main_thread;
static rk__lua_host *host;
static volatile sig_atomic_t caught, running;
static int64_t caught_at; /* main thread and its handler only */

static void interrupt_chunk(void)
{
    rk__actor *self = host->self;
    rk__handle_interrupt();
    /* Pairs with the load in the wait loop of the actor layer, which the kick starts again. */
    __atomic_store_n(&self->interrupted, 1, __ATOMIC_SEQ_CST);
    rk__park_kick(&self->mailbox.park);
    rk__lua_host_interrupt(host);
}

static void on_signal(int number)
{
    int saved = errno;
    if (!pthread_equal(pthread_self(), main_thread)) {
        pthread_kill(main_thread, number);
        errno = saved;
        return;
    }
    int64_t now = rk__now();
    if (caught && now - caught_at < PATIENCE) {
        _exit(128 + number);
    }
    caught = number;
    caught_at = now;
    if (running) {
        interrupt_chunk();
    }
    errno = saved;
}

void rk__signals_open(lua_State *L)
{
    /* No SA_RESTART: a read that waits for input must return. */
    struct sigaction action = {.sa_handler = on_signal};
    main_thread = pthread_self();
    host = rk__lua_host_of(L);
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    sigaddset(&action.sa_mask, SIGHUP);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* The message handler: what ends the chunk has done its work, so clean-up is not interrupted too.
 */
static int explain(lua_State *L)
{
    if (caught) {
        rk__lua_host_calm(host);
        lua_pushstring(L, caught == SIGINT ? "interrupted" : "terminated");
        lua_replace(L, 1);
    }
    return rk__lua_explain(L);
}

int rk__signals_run(lua_State *L, int argument_count, int results)
{
    running = !caught;
    int status = running ? rk__lua_run(L, argument_count, results, explain) : LUA_ERRRUN;
    if (!running) {
        lua_settop(L, lua_gettop(L) - argument_count - 1);
        lua_pushliteral(L, "interrupted");
    }
    running = 0;
    rk__lua_host_calm(host);
    if (caught) {
        /* The partners are the waits of this same thread. */
        __atomic_store_n(&host->self->interrupted, 0, __ATOMIC_SEQ_CST);
        rk__handle_calm();
    }
    return status;
}

bool rk__signals_wait(int fd)
{
    sigset_t ours, before;
    sigemptyset(&ours);
    sigaddset(&ours, SIGINT);
    sigaddset(&ours, SIGTERM);
    sigaddset(&ours, SIGHUP);
    /* Blocked until ppoll waits, so that a signal just before it is not slept through. */
    pthread_sigmask(SIG_BLOCK, &ours, &before);
    while (!caught && ppoll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, NULL, &before) < 0 &&
           errno == EINTR) {}
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return !caught;
}

int rk__signals_caught(void)
{
    return caught;
}

void rk__signals_clear(void)
{
    caught = 0;
}
