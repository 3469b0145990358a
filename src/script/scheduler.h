/*
 * scheduler.h -- what host, scheduler, mail, coroutine, calls, control, server and luaactor.c
 * share.
 *
 * Words: a task is a coroutine that the scheduler itself resumes (the body, forks, timer
 * callbacks); a waiter is one wait for one thing (mail, the reply with a token, a point in time). A
 * task that yields waits through its own waiter. Code that cannot yield has a waiter on the C stack
 * and runs the loop on top of itself until it is done.
 */
#ifndef RK_SCRIPT_SCHEDULER_H
#define RK_SCRIPT_SCHEDULER_H

#include <signal.h>
#include "actor/timer.h"
#include "script/script.h"

enum { RK__TOKEN_BUCKETS = 32 };

/* A sleep is cut short by a stop request, a pause is not. */
typedef enum rk__wait_kind {
    RK__WAIT_NOTHING,
    RK__WAIT_MAIL,
    RK__WAIT_REPLY,
    RK__WAIT_SLEEP,
    RK__WAIT_PAUSE
} rk__wait_kind;
typedef enum rk__filter {
    RK__FILTER_NONE,
    RK__FILTER_TYPE,
    RK__FILTER_NAME,
    RK__FILTER_FUNCTION
} rk__filter;
/* What the data of a timer begins with. */
typedef enum rk__fires { RK__FIRES_WAITER, RK__FIRES_CALLBACK } rk__fires;
/* What a task was told about a stop request: each way of waiting reports it once. */
enum { RK__TOLD_RECEIVE = 1, RK__TOLD_SLEEP = 2 };

typedef struct rk__task rk__task;
typedef struct rk__upgrade rk__upgrade; /* upgrade.c */

typedef struct rk__waiter {
    rk__fires fires;
    rk__wait_kind kind;
    rk__filter filter;
    bool done;
    bool listed;     /* in host->receivers or host->tokens */
    bool raise;      /* the filter failed: its error is on top of L's stack */
    bool room;       /* waits with a ticket for room in the mailbox of `to` */
    int code;        /* 0 or why the wait ended */
    int stage, mode; /* calls.c */
    rk__task *task;  /* woken when done; NULL: a loop looks at `done` */
    lua_State *L;    /* whose stack has the filter */
    int filter_index;
    union {
        const rk_type *type;
        const char *name;
    } wanted;
    uint64_t seen; /* mail up to this arrival was offered already */
    uint64_t token;
    struct rk__waiter *previous, *next; /* receivers, oldest first; or the chain of a bucket */
    rk_message *message;                /* what came */
    rk_message *outgoing;               /* what calls.c is sending */
    rk_pid to;
    int64_t deadline, timeout;
    rk__timer_id timer;
} rk__waiter;

typedef struct rk__callback {
    rk__fires fires;
    bool running;       /* its last call has not returned yet */
    bool cancelled;     /* a call that is due but has not begun is left out */
    rk__timer_id timer; /* 0: fired or cancelled */
    double period;
} rk__callback; /* userdata; user value 1 is the function */

/* The message that a handler of a handler table works on. */
typedef struct rk__handling {
    rk_message *request; /* by name, and no Lua value holds it; NULL: none */
    bool valued;  /* the registry has its value (message or request object) at this address */
    bool stashed; /* it is in the stash: what the handler returns means nothing */
} rk__handling;

/* What server.c keeps for the loop of a handler table. */
typedef struct rk__server {
    rk__handling handling; /* of the body: handlers that are no tasks of their own */
    bool serving;          /* the body is a handler table */
    bool stopping;         /* the stop request was read: nothing new begins */
    bool again;            /* next() shall give the loop a turn without a message */
    bool changed;          /* something next() looks at is not as it was when it began to wait */
    uint32_t running;      /* handlers in tasks of their own */
    uint32_t most;         /* of them at the same time; 0: not reentrant */
    uint32_t stash_bound;
    uint32_t held_calls;     /* in stash and replay */
    rk__queue stash, replay; /* put aside; put aside once and to be handled before newer mail */
    rk__queue owed;          /* of handlers that were cut off: answered when the actor ends */
    rk__upgrade *upgrades;   /* asked for, oldest first */
    rk__waiter *waiting;     /* next()'s, while it waits */
} rk__server;

/* Hashes of what the log was told once (forgotten.c). */
typedef struct rk__said {
    uint64_t *hashes;
    uint32_t count, room;
} rk__said;

struct rk__task { /* userdata; user value 1 is the coroutine */
    lua_State *co;
    int reference; /* anchor in the registry */
    int arguments; /* on co's stack, for the first resume */
    uint8_t told;
    bool handler; /* of a reentrant handler table; it works on `handling` */
    rk__handling handling;
    rk__task *previous, *next; /* all tasks of the host; idle ones: next only */
    rk__task *ready_next;
    rk__callback *callback; /* whose call this is */
    int callback_reference;
    rk__waiter waiter;
};

struct rk__lua_host {
    lua_State *L; /* main state */
    rk__actor *self;
    pthread_t thread;
    /* Read by the signal handler on the same thread. */
    lua_State *volatile running;
    volatile sig_atomic_t interrupted; /* the hook is armed again at every switch */
    volatile sig_atomic_t killed;      /* for good */

    lua_State *resumed;   /* innermost coroutine resumed through us; NULL: none */
    rk__waiter *yielding; /* set just before the scheduler's own yield: the private marker */
    rk__task *task;       /* the task that runs; NULL: the unmanaged main chunk, or the loop */
    rk__task *tasks;
    rk__task *idle; /* finished coroutines, for reuse */
    unsigned idle_count;
    rk__task *ready, *ready_last;
    rk__waiter *receivers, *receivers_last;
    rk__waiter *tokens[RK__TOKEN_BUCKETS];
    unsigned token_count;
    unsigned room_count; /* of them: waiters with a ticket for room */
    rk__timers timers;
    rk__task *body; /* NULL: the main chunk is not managed */
    bool body_done, closing;
    int body_status;
    uint8_t told; /* of the unmanaged main chunk */
    uint8_t stop_announced;
    unsigned filtering; /* filter functions that run now: they must not wait */
    unsigned streak;    /* messages received without looking at anything else */
    uint64_t route_seen;
    unsigned routes;    /* type names with a function */
    size_t *memory_out; /* atomic: told the size of the Lua heap at each park; may be NULL */
    rk__server server;
    rk__said said;
    int64_t sweep_at;    /* when to look for dropped requests; 0: the state has just become idle */
    int64_t sweep_after; /* not before: what the last look cost, many times over */
    bool swept;          /* since the state became idle */
};

/* ---- host.c ---- */

/* Marks that execution moves to co; arms the hook there when an interrupt is pending. Gives what
 * to hand to rk__leave. */
typedef struct rk__switch {
    lua_State *running, *resumed;
} rk__switch;
rk__switch rk__enter(rk__lua_host *host, lua_State *co);
void rk__leave(rk__lua_host *host, rk__switch before);
/* Lets go of an interrupt that has done its work (a REPL's chunk that Ctrl-C stopped). */
void rk__lua_host_calm(rk__lua_host *host);
/* The host whose code the calling thread runs; NULL: none. */
rk__lua_host *rk__lua_host_current(void);
/* In the signal handler of a host's thread: it is killed. */
void rk__lua_interrupt_here(void);

/* ---- mail.c ---- */

void rk__take_replies(rk__lua_host *host);
/* rk__actor's claim: C code on this thread waits for one reply and finds others. */
bool rk__lua_claim(rk__actor *self, rk_message *m);
void rk__fire_timers(rk__lua_host *host);
/* Offers mail to everybody, or to `only`. What comes in while later receivers look has not been
 * seen by earlier ones: then once more, because parking waits for intake, not for what was taken
 * in. When nobody listens, mail stays where it is and only stop requests are read. */
void rk__offer_mail(rk__lua_host *host, rk__waiter *only);
/* Whether anybody (`only`: that waiter) wants mail. */
bool rk__listening(const rk__lua_host *host, const rk__waiter *only);
/* Everybody who waits for mail or time hears of a stop request, once. */
void rk__announce_stop(rk__lua_host *host, rk__waiter *until);
/* Whether m passes the filter of a waiter. */
bool rk__accepts(const rk_message *m, void *waiter);
/* A stop request this task was not told about yet by this way of waiting. */
bool rk__stop_news(rk__lua_host *host, uint8_t way);
/* True when receive may take mail without going through the loop. */
bool rk__may_take(rk__lua_host *host);

/* ---- scheduler.c ---- */

static inline rk__waiter **rk__token_bucket(rk__lua_host *host, uint64_t token)
{
    return &host->tokens[token % RK__TOKEN_BUCKETS];
}
/* Ends a wait: `code` says why, or 0. takes m */
void rk__finish_wait(rk__lua_host *host, rk__waiter *w, int code, rk_message *m);

/* Whether L may yield to the scheduler now. */
bool rk__can_yield(const rk__lua_host *host, lua_State *L);
/* The waiter to use: the task's own when L can yield, else `local`. Cleared. Raises when waiting is
 * not possible at all (inside a filter function). */
rk__waiter *rk__waiter_get(rk__lua_host *host, lua_State *L, rk__waiter *local);
/* Waits with w (kind, token, filter, deadline are set) until w->done. Yields when L can, and then
 * continues in k with context w; otherwise blocks and returns. */
void rk__suspend(rk__lua_host *host, lua_State *L, rk__waiter *w, lua_KFunction k);
/* Goes on waiting for a waiter that an inner coroutine has begun (coroutine.c). */
void rk__suspend_again(rk__lua_host *host, lua_State *L, rk__waiter *w, lua_KContext context,
                       lua_KFunction k);
/* A task for the function and its arguments on top of L (popped), ready to run. Raises on memory.
 */
rk__task *rk__task_start(rk__lua_host *host, lua_State *L, int arguments);
/* Ends the tasks that are handlers, but not the running one: to-be-closed variables run. */
void rk__tasks_cut(rk__lua_host *host);
/* Replaces the value on top of L, an error of `co`, by a string with the traceback of co. */
void rk__traceback(lua_State *L, lua_State *co);

/* ---- calls.c, control.c ---- */

#define RK__CALL_TIMEOUT INT64_C(5000000000) /* ns, when nothing is said */

void rk__lua_add_control(lua_State *L); /* stop, kill, info... into the table on top */

/* Mail of w's filter that is there already: 1, and *out is it, marked as received; 0: none;
 * RK_ESTOP: asked to stop; RK_ELUA: the filter failed. gives */
int rk__take_mail(rk__lua_host *host, rk__waiter *w, rk_message **out);

/* ---- coroutine.c, timers.c, server.c, forgotten.c, upgrade.c ---- */

/* Replaces the functions of the `coroutine` library by ones that let the runtime's yields pass. */
void rk__lua_open_coroutines(lua_State *L);
/* Puts after, every and cancel into the table on top. */
void rk__lua_open_timers(lua_State *L);
/* Pushes the table of functions that rk/server.lua is built on; from now on the host serves. */
void rk__lua_push_server(lua_State *L);
/* `ctx.request`: pushes the request that is being handled, or nil. */
void rk__lua_push_current_request(lua_State *L);
/* The delivery of a request object of server.c; NULL: not one. */
rk_message *rk__lua_server_request(lua_State *L, int index);
/* A handler's task has ended. `finished`: by itself; else its request stays owed. */
void rk__server_task_ended(rk__lua_host *host, rk__task *task, bool finished);
/* Lets next() look again when something has changed. Only where no receiver is being served. */
void rk__server_rouse(rk__lua_host *host);
/* The calls that handlers work on or that were put aside: nobody has forgotten those. */
uint32_t rk__server_held_calls(const rk__lua_host *host);
/* At the end of the actor: calls that were put aside are answered, other messages lost. */
void rk__server_end(rk__lua_host *host, const char *reason);
/* What host_gc frees. */
void rk__server_free(rk__lua_host *host);
/* Adds stash, unstash, become... to the methods of ctx in the table on top. */
void rk__lua_add_server_methods(lua_State *L);
void rk__lua_push_noreply(lua_State *L); /* rk.noreply */

#endif
