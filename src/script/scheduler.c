/*
 * scheduler.c -- the coroutines of one Lua state: who runs, who waits for what.
 *
 * The loop: run ready tasks; take replies and wake who waits for their tokens; fire timers; offer
 * mail to the waiting receivers, oldest first (routed types go to their function before that);
 * park until something of this comes. Mail nobody wants stays in the mailbox, in order.
 *
 * A coroutine yields to the scheduler by lua_yieldk with host->yielding set: no Lua code runs
 * between the two, so a resume (ours, coroutine.c) that comes back from LUA_YIELD and finds it set
 * knows that the yield is the runtime's and passes it on. Where yielding is impossible the loop
 * runs on top of the code that waits, serving only that one waiter; on a main chunk that is no
 * coroutine it serves everybody meanwhile.
 *
 * Threads: the host's own. Order: receivers are served in the order in
 * which they began to wait, tasks run in the order in which they became ready.
 */
#include "script/scheduler.h"

#include <string.h>
#include "base/error.h"
#include "base/log.h"
#include "script/server.h"

enum { IDLE_MAX = 16 }; /* ended coroutines that are kept for reuse */

/* ---- waiters ---- */

static void waiter_release(rk__waiter *w)
{
    rk_message_release(w->message);
    rk_message_release(w->outgoing);
    w->message = w->outgoing = NULL;
}

static void list_waiter(rk__lua_host *host, rk__waiter *w)
{
    w->listed = true;
    w->previous = w->next = NULL;
    if (w->kind == RK__WAIT_REPLY) {
        rk__waiter **bucket = rk__token_bucket(host, w->token);
        w->next = *bucket;
        if (w->next) {
            w->next->previous = w;
        }
        *bucket = w;
        host->token_count++;
        host->room_count += w->room;
    } else if (w->kind == RK__WAIT_MAIL) {
        w->previous = host->receivers_last;
        *(w->previous ? &w->previous->next : &host->receivers) = w;
        host->receivers_last = w;
    }
}

static void unlist_waiter(rk__lua_host *host, rk__waiter *w)
{
    if (!w->listed) {
        return;
    }
    w->listed = false;
    if (w->next) {
        w->next->previous = w->previous;
    } else if (w->kind == RK__WAIT_MAIL) {
        host->receivers_last = w->previous;
    }
    if (w->previous) {
        w->previous->next = w->next;
    } else if (w->kind == RK__WAIT_MAIL) {
        host->receivers = w->next;
    } else if (w->kind == RK__WAIT_REPLY) {
        *rk__token_bucket(host, w->token) = w->next;
    }
    host->token_count -= w->kind == RK__WAIT_REPLY;
    host->room_count -= w->kind == RK__WAIT_REPLY && w->room;
}

static void make_ready(rk__lua_host *host, rk__task *task)
{
    task->ready_next = NULL;
    *(host->ready ? &host->ready_last->ready_next : &host->ready) = task;
    host->ready_last = task;
}

void rk__finish_wait(rk__lua_host *host, rk__waiter *w, int code, rk_message *m)
{
    unlist_waiter(host, w);
    rk__timers_cancel(&host->timers, w->timer);
    w->timer = 0;
    w->code = code;
    w->message = m;
    w->done = true;
    if (w->task) {
        make_ready(host, w->task);
    }
}

bool rk__can_yield(const rk__lua_host *host, lua_State *L)
{
    return host->task && host->resumed == L && !host->closing && lua_isyieldable(L);
}

rk__waiter *rk__waiter_get(rk__lua_host *host, lua_State *L, rk__waiter *local)
{
    if (host->filtering) {
        luaL_error(L, "a filter function of receive cannot wait: it only looks at the message");
    }
    rk__waiter *w = rk__can_yield(host, L) ? &host->task->waiter : local;
    memset(w, 0, sizeof *w);
    w->L = L;
    w->deadline = RK__FOREVER;
    return w;
}

static void loop(rk__lua_host *host, rk__waiter *until, bool others);

static void begin(rk__lua_host *host, rk__waiter *w, bool with_timer)
{
    list_waiter(host, w);
    if (with_timer && w->deadline != RK__FOREVER) {
        w->timer = rk__timers_add(&host->timers, w->deadline, 0, w);
        if (!w->timer) {
            rk__finish_wait(host, w, rk__fail(RK_ENOMEM, "out of memory for a timer"), NULL);
        }
    }
}

/* Waits for w on top of the running code. */
static void block(rk__lua_host *host, lua_State *L, rk__waiter *w)
{
    rk__task *task = host->task;
    lua_State *running = host->running;
    bool others = !task && !host->closing;
    host->running = L;
    loop(host, w, others);
    host->running = running;
    host->task = task;
}

void rk__suspend(rk__lua_host *host, lua_State *L, rk__waiter *w, lua_KFunction k)
{
    host->streak = 0;
    w->done = false;
    w->code = 0;
    if (rk__can_yield(host, L)) {
        begin(host, w, true);
        w->task = host->task;
        host->yielding = w;
        lua_yieldk(L, 0, (lua_KContext)w, k);
    }
    bool others = !host->task && !host->closing;
    bool shared = others || w->kind == RK__WAIT_REPLY;
    if (shared) {
        begin(host, w, others);
    }
    block(host, L, w);
}

void rk__suspend_again(rk__lua_host *host, lua_State *L, rk__waiter *w, lua_KContext context,
                       lua_KFunction k)
{
    if (rk__can_yield(host, L)) {
        host->yielding = w;
        lua_yieldk(L, 0, context, k);
    }
    w->task = NULL; /* it is looked at here; the task must not be resumed for it */
    block(host, L, w);
}

/* ---- tasks ---- */

static rk__task *task_new(rk__lua_host *host, lua_State *L)
{
    rk__task *task = host->idle;
    if (task) {
        host->idle = task->next;
        host->idle_count--;
    } else {
        task = lua_newuserdatauv(L, sizeof *task, 1);
        memset(task, 0, sizeof *task);
        task->co = lua_newthread(L);
        lua_setiuservalue(L, -2, 1);
        task->reference = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    task->previous = NULL;
    task->next = host->tasks;
    if (task->next) {
        task->next->previous = task;
    }
    host->tasks = task;
    task->told = 0;
    task->handler = false;
    task->handling = (rk__handling){0};
    task->callback = NULL;
    task->waiter.kind = RK__WAIT_NOTHING;
    task->waiter.done = false;
    return task;
}

rk__task *rk__task_start(rk__lua_host *host, lua_State *L, int arguments)
{
    luaL_checkstack(L, 4, "too many arguments for a coroutine");
    rk__task *task = task_new(host, L);
    if (!lua_checkstack(task->co, arguments + 4)) {
        luaL_error(L, "too many arguments for a coroutine");
    }
    lua_xmove(L, task->co, arguments + 1);
    task->arguments = arguments;
    make_ready(host, task);
    return task;
}

/* Takes an ended task off the lists; keeps its coroutine for the next one, or lets it go. */
static void task_end(rk__lua_host *host, rk__task *task)
{
    if (task->handler) {
        rk__server_task_ended(host, task, !host->closing);
    }
    *(task->previous ? &task->previous->next : &host->tasks) = task->next;
    if (task->next) {
        task->next->previous = task->previous;
    }
    if (task->callback) {
        task->callback->running = false;
        task->callback = NULL;
        luaL_unref(host->L, LUA_REGISTRYINDEX, task->callback_reference);
    }
    lua_settop(task->co, 0);
    if (host->idle_count < IDLE_MAX && lua_status(task->co) == LUA_OK) {
        task->next = host->idle;
        host->idle = task;
        host->idle_count++;
    } else {
        luaL_unref(host->L, LUA_REGISTRYINDEX, task->reference);
    }
}

void rk__traceback(lua_State *L, lua_State *co)
{
    if (lua_type(L, -1) == LUA_TSTRING && !strstr(lua_tostring(L, -1), "stack traceback:")) {
        luaL_traceback(L, co, lua_tostring(L, -1), 0);
        lua_remove(L, -2);
    }
}

static int log_task_error(lua_State *L)
{
    char who[RK_PID_TEXT];
    const char *text = luaL_tolstring(L, -1, NULL);
    rk__log(RK__LOG_ERROR, rk_pid_format(rk__actor_pid(rk__lua_self(L)), who),
            "error in a coroutine of this actor: %s", text);
    return 0;
}

/* An error in a fork or a timer callback is logged and counted; the actor goes on. */
static void task_failed(rk__lua_host *host, rk__task *task)
{
    lua_State *L = host->running;
    __atomic_fetch_add(&host->self->failed, 1, __ATOMIC_RELAXED);
    lua_pushcfunction(L, log_task_error);
    lua_xmove(task->co, L, 1);
    rk__traceback(L, task->co);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
        lua_pop(L, 1);
    }
    lua_resetthread(task->co);
}

/* Runs a task until it waits or ends. */
static void run_task(rk__lua_host *host, rk__task *task)
{
    if (task->callback && task->callback->cancelled && lua_status(task->co) == LUA_OK) {
        task_end(host, task); /* cancelled between its time and its turn */
        return;
    }
    int results = 0, arguments = task->arguments;
    rk__task *before_task = host->task;
    rk__switch before = rk__enter(host, task->co);
    host->task = task;
    task->arguments = 0;
    int status = lua_resume(task->co, host->L, arguments, &results);
    host->task = before_task;
    rk__leave(host, before);
    if (status == LUA_YIELD && host->yielding) {
        host->yielding = NULL;
        return;
    }
    if (status == LUA_YIELD) {
        lua_resetthread(task->co);
        lua_settop(task->co, 0);
        lua_pushliteral(task->co, "attempt to yield from outside a coroutine");
        status = LUA_ERRRUN;
    }
    if (task == host->body) {
        host->body_done = true;
        host->body_status = status;
        return; /* its value and its stack are host_run's */
    }
    if (status != LUA_OK) {
        task_failed(host, task);
    }
    task_end(host, task);
}

static bool finished(const rk__lua_host *host, const rk__waiter *until)
{
    return until ? until->done : host->body_done;
}

static void run_ready(rk__lua_host *host, rk__waiter *until)
{
    rk__task *last = host->ready_last, *task = host->ready;
    while (task && !finished(host, until) && !host->killed) {
        host->ready = task->ready_next;
        run_task(host, task);
        if (task == last) {
            break;
        }
        task = host->ready;
    }
}

/* ---- the loop ---- */

static void interrupted(rk__lua_host *host, rk__waiter *until)
{
    if (host->self->runtime) {
        host->killed = host->interrupted = 1;
        return;
    }
    rk__waiter *w = until ? until : &host->body->waiter;
    if (!w->done && (until || w->kind != RK__WAIT_NOTHING)) {
        rk__finish_wait(host, w, rk__fail(RK_EINTR, "interrupted"), NULL);
    }
}

static void expire(rk__lua_host *host, rk__waiter *w)
{
    if (!w->done && w->deadline != RK__FOREVER && w->deadline <= rk__now()) {
        rk__finish_wait(host, w, w->kind >= RK__WAIT_SLEEP ? 0 : RK_ETIMEOUT, NULL);
    }
}

static void tell_memory(rk__lua_host *host)
{
    if (host->memory_out) {
        size_t bytes = (size_t)lua_gc(host->L, LUA_GCCOUNT) * 1024;
        __atomic_store_n(host->memory_out, bytes, __ATOMIC_RELAXED);
    }
}

/* The wait for room on which all of a state depends that takes no mail meanwhile; NULL: there is none,
 * or something else may set it going. */
static rk__waiter *room_waiter(const rk__lua_host *host)
{
    if (host->room_count != 1 || host->token_count != 1) {
        return NULL;
    }
    for (int i = 0; i < RK__TOKEN_BUCKETS; i++) {
        if (host->tokens[i]) {
            return host->tokens[i];
        }
    }
    return NULL;
}

static int wait_for_news(rk__lua_host *host, bool listening, int64_t deadline, bool border)
{
    return listening ? rk__wait(host->self, deadline, false, border)
                     : rk__wait_urgent(host->self, deadline, border);
}

/* Parks; says so to others when it takes no mail until there is room somewhere. */
static int park(rk__lua_host *host, const rk__waiter *until, int64_t deadline, bool border)
{
    bool listening = rk__listening(host, until);
    rk__waiter *w = host->receivers && !until ? NULL : room_waiter(host);
    if (!w) {
        return wait_for_news(host, listening, deadline, border);
    }
    int rc = rk__blocked(host->self, w->to);
    if (rc < 0) {
        rk__finish_wait(host, w, rc, NULL);
        return 0;
    }
    rc = wait_for_news(host, listening, deadline, border);
    rk__unblocked(host->self);
    return rc;
}

static void begin_idle(rk__lua_host *host)
{
    host->swept = false;
    host->sweep_at = 0;
}

/* Until `until` is done (NULL: the body has ended). others: tasks, callbacks and other receivers go
 * on meanwhile; else everything that is not for `until` is left for later. */
static void loop(rk__lua_host *host, rk__waiter *until, bool others)
{
    rk__task *task = host->task;
    begin_idle(host);
    for (;;) {
        if (others && host->ready) {
            run_ready(host, until);
            begin_idle(host);
        }
        if (finished(host, until)) {
            return;
        }
        if (host->killed) {
            if (until) {
                rk__finish_wait(host, until, rk__fail(RK_EINTR, "killed"), NULL);
            }
            return;
        }
        rk__take_replies(host);
        bool border = host->token_count == 0; /* nobody is in the middle of a call */
        if (border) {
            rk__border(host->self);
        }
        /* Mail before timers: a receive that polls gets what is there. */
        rk__offer_mail(host, others ? NULL : until);
        rk__announce_stop(host, until);
        if (others) {
            rk__fire_timers(host);
            rk__server_rouse(host);
        } else {
            expire(host, until);
        }
        if (finished(host, until) || (others && host->ready)) {
            continue;
        }
        tell_memory(host);
        int64_t deadline = others ? rk__timers_next(&host->timers) : until->deadline;
        deadline = rk__sweep_deadline(host, deadline);
        int rc = park(host, others ? NULL : until, deadline, border);
        host->task = task;
        rk__sweep(host);
        if (rc == RK_EINTR) {
            interrupted(host, until);
        }
    }
}

/* ---- the body ---- */

static int start_body(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    host->body = rk__task_start(host, L, lua_gettop(L) - 1);
    return 0;
}

static void close_task(rk__lua_host *host, rk__task *task)
{
    if (task->waiter.kind != RK__WAIT_NOTHING) {
        unlist_waiter(host, &task->waiter);
        rk__timers_cancel(&host->timers, task->waiter.timer);
        waiter_release(&task->waiter);
        task->waiter.kind = RK__WAIT_NOTHING;
    }
    rk__switch before = rk__enter(host, task->co);
    lua_resetthread(task->co);
    rk__leave(host, before);
    task_end(host, task);
}

/* Takes handlers off the ready list. */
static void unready_handlers(rk__lua_host *host)
{
    rk__task *task = host->ready, *next;
    host->ready = host->ready_last = NULL;
    for (; task; task = next) {
        next = task->ready_next;
        if (!task->handler) {
            make_ready(host, task);
        }
    }
}

static rk__task *other_handler(const rk__lua_host *host)
{
    rk__task *task = host->tasks;
    while (task && (!task->handler || task == host->task)) {
        task = task->next;
    }
    return task;
}

void rk__tasks_cut(rk__lua_host *host)
{
    bool closing = host->closing;
    host->closing = true;
    unready_handlers(host);
    for (rk__task *task; (task = other_handler(host)) != NULL;) {
        close_task(host, task);
    }
    host->closing = closing;
}

/* Ends every coroutine: their to-be-closed variables run, blocking where they wait. */
static void close_tasks(rk__lua_host *host)
{
    host->closing = true;
    host->ready = host->ready_last = NULL;
    while (host->tasks) {
        close_task(host, host->tasks);
    }
    rk__timers_free(&host->timers);
    host->closing = false;
}

/* The body's first result or its error, onto L. */
static int take_outcome(rk__lua_host *host, lua_State *L)
{
    lua_State *co = host->body->co;
    if (!host->body_done) {
        lua_pushliteral(L, "killed");
        return rk__fail(RK_EINTR, "killed");
    }
    if (host->body_status == LUA_OK) {
        lua_settop(co, 1);
        lua_xmove(co, L, 1);
        return 0;
    }
    lua_xmove(co, L, 1);
    rk__traceback(L, co);
    return rk__fail(RK_ELUA, "%s", lua_isstring(L, -1) ? lua_tostring(L, -1) : "Lua error");
}

int rk__lua_host_run(lua_State *L, int arguments)
{
    rk__lua_host *host = rk__lua_host_of(L);
    if (host->body || host->task) {
        /* A body runs already: this is a plain call inside it. */
        return lua_pcall(L, arguments, 1, 0) == LUA_OK ? 0 : rk__fail(RK_ELUA, "Lua error");
    }
    lua_pushcfunction(L, start_body);
    lua_insert(L, -(arguments + 2));
    if (lua_pcall(L, arguments + 1, 0, 0) != LUA_OK) {
        return rk__fail(RK_ENOMEM, "out of memory for a coroutine");
    }
    host->body_done = false;
    loop(host, NULL, true);
    int rc = take_outcome(host, L);
    if (!host->killed) {
        rk__lua_host_calm(host);
    }
    if (host->self->runtime) {
        close_tasks(host); /* the actor ends with its body */
    } else {
        lua_resetthread(host->body->co);
        task_end(host, host->body);
    }
    host->body = NULL;
    return rc;
}
