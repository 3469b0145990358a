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
 * Threads: the host's own; rk__lua_host_interrupt any. Order: receivers are served in the order in
 * which they began to wait, tasks run in the order in which they became ready.
 */
#include "script/scheduler.h"

#include <string.h>
#include "base/error.h"
#include "base/log.h"

enum { IDLE_MAX = 16, STREAK_MAX = 64 };

static const char host_key, routes_key; /* their addresses are keys in the registry */

/* The host whose code this thread runs; read by the signal handler, hence initial-exec. */
static __thread rk__lua_host *current __attribute__((tls_model("initial-exec")));

/* ---- the host of a state ---- */

rk__lua_host *rk__lua_host_of(lua_State *L)
{
    /* A coroutine has a copy of the main thread's word, with bit 0 set while it waits. A coroutine
     * older than the host has anything there, so the word is only compared, never followed. */
    uintptr_t word = *(uintptr_t *)lua_getextraspace(L) & ~(uintptr_t)1;
    if (current && word == (uintptr_t)current) {
        return current;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &host_key);
    rk__lua_host *host = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (host) {
        *(rk__lua_host **)lua_getextraspace(L) = host;
        current = host;
    }
    return host;
}

rk__actor *rk__lua_self(lua_State *L)
{
    return rk__lua_host_of(L)->self;
}

static void waiter_release(rk__waiter *w)
{
    rk_message_release(w->message);
    rk_message_release(w->outgoing);
    w->message = w->outgoing = NULL;
}

/* Runs at lua_close: what C owns goes, no Lua code is started any more. */
static int host_gc(lua_State *L)
{
    rk__lua_host *host = lua_touserdata(L, 1);
    rk_message_release(host->request);
    host->request = NULL;
    rk__timers_free(&host->timers);
    if (current == host) {
        current = NULL;
    }
    return 0;
}

static int host_new(lua_State *L)
{
    rk__lua_host *host = lua_newuserdatauv(L, sizeof *host, 0);
    memset(host, 0, sizeof *host);
    host->timers = (rk__timers)RK__TIMERS_INIT;
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    host->L = lua_tothread(L, -1);
    host->running = host->L;
    host->self = lua_touserdata(L, 1);
    host->thread = pthread_self();
    lua_pop(L, 1);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, host_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &host_key);
    /* A kill that came before there was anything to interrupt. Pairs with the store in kill. */
    if (host->self->runtime && __atomic_load_n(&host->self->interrupted, __ATOMIC_SEQ_CST)) {
        host->killed = host->interrupted = 1;
    }
    *(rk__lua_host **)lua_getextraspace(host->L) = host;
    current = host;
    return 0;
}

int rk__lua_host_open(lua_State *L, rk__actor *self)
{
    rk__lua_host *host = rk__lua_host_of(L);
    if (host) {
        host->self = self;
        return 0;
    }
    if (!lua_checkstack(L, 4)) {
        return rk__fail(RK_ENOMEM, "out of memory for the scheduler of a Lua state");
    }
    lua_pushcfunction(L, host_new);
    lua_pushlightuserdata(L, self);
    if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
        lua_pop(L, 1);
        return rk__fail(RK_ENOMEM, "out of memory for the scheduler of a Lua state");
    }
    return 0;
}

/* ---- interrupts ---- */

static void interrupt_hook(lua_State *L, lua_Debug *where)
{
    (void)where;
    rk__lua_host *host = rk__lua_host_of(L);
    luaL_error(L, host->killed ? "killed" : "interrupted");
}

static void arm(lua_State *L)
{
    lua_sethook(L, interrupt_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

void rk__lua_host_interrupt(rk__lua_host *host)
{
    if (!pthread_equal(pthread_self(), host->thread)) {
        /* Only the thread itself may set a hook; its signal handler comes back here. */
        rk_runtime *rt = host->self->runtime;
        host->interrupted = 1;
        pthread_kill(host->thread, rt ? rt->kill_signal : SIGINT);
        return;
    }
    /* Written before running is read; rk__enter writes running, then reads this. Same thread, so
     * the volatile accesses keep their order. */
    host->interrupted = 1;
    arm(host->running);
}

rk__lua_host *rk__lua_host_current(void)
{
    return current;
}

void rk__lua_interrupt_here(void)
{
    rk__lua_host *host = current;
    if (host) {
        host->killed = 1;
        host->interrupted = 1;
        arm(host->running);
    }
}

void rk__lua_host_calm(rk__lua_host *host)
{
    if (!host->killed) {
        host->interrupted = 0;
        lua_sethook(host->running, NULL, 0, 0);
    }
}

static void switch_to(rk__lua_host *host, lua_State *running)
{
    host->running = running;
    if (host->interrupted) {
        arm(running);
    } else if (lua_gethook(running) == interrupt_hook) {
        lua_sethook(running, NULL, 0, 0);
    }
}

rk__switch rk__enter(rk__lua_host *host, lua_State *co)
{
    rk__switch before = {host->running, host->resumed};
    host->resumed = co;
    switch_to(host, co);
    return before;
}

void rk__leave(rk__lua_host *host, rk__switch before)
{
    host->resumed = before.resumed;
    switch_to(host, before.running);
}

/* ---- waiters ---- */

static rk__waiter **bucket_of(rk__lua_host *host, uint64_t token)
{
    return &host->tokens[token % RK__TOKEN_BUCKETS];
}

static void list_waiter(rk__lua_host *host, rk__waiter *w)
{
    w->listed = true;
    w->previous = w->next = NULL;
    if (w->kind == RK__WAIT_REPLY) {
        rk__waiter **bucket = bucket_of(host, w->token);
        w->next = *bucket;
        if (w->next) {
            w->next->previous = w;
        }
        *bucket = w;
        host->token_count++;
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
        *bucket_of(host, w->token) = w->next;
    }
    host->token_count -= w->kind == RK__WAIT_REPLY;
}

static void make_ready(rk__lua_host *host, rk__task *task)
{
    task->ready_next = NULL;
    *(host->ready ? &host->ready_last->ready_next : &host->ready) = task;
    host->ready_last = task;
}

/* Ends a wait: `code` says why, or 0. Takes m. */
static void finish(rk__lua_host *host, rk__waiter *w, int code, rk_message *m)
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
            finish(host, w, rk__fail(RK_ENOMEM, "out of memory for a timer"), NULL);
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

/* ---- replies, timers, mail ---- */

static void take_replies(rk__lua_host *host)
{
    rk_message *m;
    while ((m = rk__mailbox_reply(&host->self->mailbox)) != NULL) {
        rk__waiter *w = *bucket_of(host, m->token);
        while (w && w->token != m->token) {
            w = w->next;
        }
        if (w && m->to_generation == host->self->generation) {
            finish(host, w, 0, m);
        } else {
            rk__late_reply(host->self, m);
        }
    }
}

/* Under pcall: starts the coroutine of a timer callback (light userdata at 1). */
static int start_callback(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__callback *callback = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, callback);
    lua_pushvalue(L, -1);
    int reference = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getiuservalue(L, -1, 1);
    rk__task *task = rk__task_start(host, L, 0);
    task->callback = callback;
    task->callback_reference = reference;
    callback->running = true;
    if (callback->period <= 0) {
        callback->timer = 0;
        lua_pushnil(L);
        lua_rawsetp(L, LUA_REGISTRYINDEX, callback);
    }
    return 0;
}

static int start_routed(lua_State *L)
{
    rk_message *m = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &routes_key);
    lua_getfield(L, -1, m->body->type->name);
    rk__lua_push_delivery(L, m);
    rk__task_start(rk__lua_host_of(L), L, 1);
    return 0;
}

/* Runs one of the two above where no memory error may get out. */
static bool protected_start(rk__lua_host *host, lua_CFunction start, void *what)
{
    lua_State *L = host->running;
    lua_pushcfunction(L, start);
    lua_pushlightuserdata(L, what);
    if (lua_pcall(L, 1, 0, 0) == LUA_OK) {
        return true;
    }
    rk__log(RK__LOG_ERROR, NULL, "cannot start a coroutine: %s", luaL_optstring(L, -1, "?"));
    lua_pop(L, 1);
    return false;
}

static void fire_timers(rk__lua_host *host)
{
    int64_t nearest = rk__timers_next(&host->timers), now;
    void *data;
    if (nearest == RK__FOREVER || nearest > (now = rk__now())) {
        return;
    }
    while (rk__timers_pop(&host->timers, now, &data)) {
        if (*(rk__fires *)data == RK__FIRES_CALLBACK) {
            rk__callback *callback = data;
            if (!callback->running) { /* a tick is left out while the last call still runs */
                protected_start(host, start_callback, callback);
            }
        } else {
            rk__waiter *w = data;
            w->timer = 0;
            finish(host, w, w->kind >= RK__WAIT_SLEEP ? 0 : RK_ETIMEOUT, NULL);
        }
    }
}

static int call_filter(lua_State *L)
{
    const rk_message *m = lua_touserdata(L, 1);
    rk_message *copy;
    lua_settop(L, 2); /* the filter itself */
    if (rk_message_share(&copy, (rk_message *)m) < 0) {
        return luaL_error(L, "%s", rk_errdetail());
    }
    copy->from = m->from;
    copy->correlation = m->correlation;
    if (!copy->body->type) {
        copy->flags |= RK__REPLY; /* nobody can answer it, so nothing need be remembered */
    }
    rk__lua_push_delivery(L, copy);
    rk__lua_push_pid(L, m->from);
    lua_call(L, 2, 1);
    lua_pushboolean(L, lua_toboolean(L, -1));
    return 1;
}

/* A function looks at a copy of the candidate: nothing is consumed. Its error ends the wait. */
static bool accepted_by_function(rk__waiter *w, const rk_message *m)
{
    rk__lua_host *host = rk__lua_host_of(w->L);
    lua_State *L = host->running;
    if (w->raise || !lua_checkstack(L, 8) || !lua_checkstack(w->L, 4)) {
        return false;
    }
    lua_pushcfunction(L, call_filter);
    lua_pushlightuserdata(L, (void *)m);
    lua_pushvalue(w->L, w->filter_index);
    if (L != w->L) {
        lua_xmove(w->L, L, 1);
    }
    host->filtering++;
    bool failed = lua_pcall(L, 2, 1, 0) != LUA_OK;
    host->filtering--;
    if (failed) {
        w->raise = true;
        if (L != w->L) {
            lua_xmove(L, w->L, 1);
        }
        return false;
    }
    bool taken = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return taken;
}

bool rk__accepts(const rk_message *m, void *waiter)
{
    rk__waiter *w = waiter;
    const rk_type *type = m->body->type;
    switch (w->filter) {
    case RK__FILTER_TYPE:
        return type == w->wanted.type;
    case RK__FILTER_NAME:
        return type && strcmp(type->name, w->wanted.name) == 0;
    case RK__FILTER_FUNCTION:
        return accepted_by_function(w, m);
    default:
        return true;
    }
}

static bool routed(const rk_message *m, void *arg)
{
    rk__lua_host *host = arg;
    if (!m->body->type || (m->flags & RK__SYSTEM && m->flags & RK__STOP)) {
        return false;
    }
    lua_State *L = host->running;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &routes_key);
    lua_pushstring(L, m->body->type->name);
    bool found = lua_rawget(L, -2) != LUA_TNIL;
    lua_pop(L, 2);
    return found;
}

static bool nobody(const rk_message *m, void *arg)
{
    (void)m, (void)arg;
    return false;
}

static void offer_to(rk__lua_host *host, rk__waiter *w)
{
    rk_message *m = rk__next_mail(host->self, w->filter ? rk__accepts : NULL, w, &w->seen);
    if (m) {
        rk__received(host->self, m);
        finish(host, w, 0, m);
    } else if (w->raise) {
        finish(host, w, RK_ELUA, NULL);
    }
}

bool rk__stop_news(rk__lua_host *host, uint8_t way)
{
    uint8_t *told = host->task ? &host->task->told : &host->told;
    if (!__atomic_load_n(&host->self->stop_requested, __ATOMIC_RELAXED) || *told & way) {
        return false;
    }
    *told |= way;
    host->self->stop_reported = true;
    return true;
}

static void tell_stop(rk__lua_host *host, rk__waiter *w, uint8_t *told)
{
    uint8_t way = w->kind == RK__WAIT_MAIL    ? RK__TOLD_RECEIVE
                  : w->kind == RK__WAIT_SLEEP ? RK__TOLD_SLEEP
                                              : 0;
    if (way && !w->done && !(*told & way)) {
        *told |= way;
        host->self->stop_reported = true;
        finish(host, w, RK_ESTOP, NULL);
    }
}

/* Everybody who waits for mail or time hears of a stop request, once. */
static void announce_stop(rk__lua_host *host, rk__waiter *until)
{
    if (!__atomic_load_n(&host->self->stop_requested, __ATOMIC_RELAXED)) {
        return;
    }
    if (until && !until->task) {
        tell_stop(host, until, host->task ? &host->task->told : &host->told);
    }
    if (!host->stop_announced && (!until || !host->task)) {
        host->stop_announced = 1;
        for (rk__task *t = host->tasks; t; t = t->next) {
            if (t->waiter.kind != RK__WAIT_NOTHING && t->waiter.task == t) {
                tell_stop(host, &t->waiter, &t->told);
            }
        }
    }
}

/* Offers what is there: routes first, then the receivers in the order of waiting. */
static void offer_round(rk__lua_host *host)
{
    rk_message *m;
    while (host->routes &&
           (m = rk__next_mail(host->self, routed, host, &host->route_seen)) != NULL) {
        rk__received(host->self, m);
        protected_start(host, start_routed, m);
    }
    for (rk__waiter *w = host->receivers, *next; w; w = next) {
        next = w->next;
        offer_to(host, w);
    }
}

/* Takes intake in (stop requests are seen by that) and offers it; `only`: to that waiter alone.
 * What comes while later receivers look has not been seen by earlier ones: then once more, because
 * parking waits for intake, not for what has been taken in. */
static void offer_mail(rk__lua_host *host, rk__waiter *only)
{
    const rk__mailbox *mailbox = &host->self->mailbox;
    uint64_t arrived;
    do {
        rk__next_mail(host->self, nobody, NULL, &host->seen);
        arrived = mailbox->sequence;
        if (!only) {
            offer_round(host);
        } else if (only->kind == RK__WAIT_MAIL && !only->done) {
            offer_to(host, only);
        }
    } while (mailbox->sequence != arrived);
}

bool rk__may_take(rk__lua_host *host)
{
    return ++host->streak < STREAK_MAX && !host->ready && !host->receivers && !host->routes &&
           rk__actor_state(host->self) != RK_DEACTIVATED;
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
        finish(host, w, rk__fail(RK_EINTR, "interrupted"), NULL);
    }
}

static int64_t park_deadline(rk__lua_host *host, const rk__waiter *until, bool others)
{
    return others ? rk__timers_next(&host->timers) : until->deadline;
}

static void expire(rk__lua_host *host, rk__waiter *w)
{
    if (!w->done && w->deadline != RK__FOREVER && w->deadline <= rk__now()) {
        finish(host, w, w->kind >= RK__WAIT_SLEEP ? 0 : RK_ETIMEOUT, NULL);
    }
}

static void tell_memory(rk__lua_host *host)
{
    if (host->memory_out) {
        size_t bytes = (size_t)lua_gc(host->L, LUA_GCCOUNT) * 1024;
        __atomic_store_n(host->memory_out, bytes, __ATOMIC_RELAXED);
    }
}

/* Until `until` is done (NULL: the body has ended). others: tasks, callbacks and other receivers go
 * on meanwhile; else everything that is not for `until` is left for later. */
static void loop(rk__lua_host *host, rk__waiter *until, bool others)
{
    rk__task *task = host->task;
    for (;;) {
        if (others) {
            run_ready(host, until);
        }
        if (finished(host, until)) {
            return;
        }
        if (host->killed) {
            if (until) {
                finish(host, until, rk__fail(RK_EINTR, "killed"), NULL);
            }
            return;
        }
        take_replies(host);
        bool border = host->token_count == 0;
        if (!border || rk__actor_state(host->self) != RK_DEACTIVATED) {
            /* Mail before timers: a receive that polls gets what is there. */
            offer_mail(host, others ? NULL : until);
            announce_stop(host, until);
            if (others) {
                fire_timers(host);
            } else {
                expire(host, until);
            }
        }
        if (finished(host, until) || (others && host->ready)) {
            continue;
        }
        tell_memory(host);
        int rc = rk__wait(host->self, park_deadline(host, until, others), false, border);
        host->task = task;
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

/* Ends every coroutine: their to-be-closed variables run, blocking where they wait. */
static void close_tasks(rk__lua_host *host)
{
    host->closing = true;
    host->ready = host->ready_last = NULL;
    while (host->tasks) {
        rk__task *task = host->tasks;
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

/* ---- routes ---- */

void rk__lua_route(lua_State *L, const char *type_name)
{
    rk__lua_host *host = rk__lua_host_of(L);
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &routes_key) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &routes_key);
    }
    lua_insert(L, -2);
    lua_setfield(L, -2, type_name);
    lua_pop(L, 1);
    host->routes++;
}
