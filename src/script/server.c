/*
 * server.c -- the C half of lua/rk/server.lua: the next message taken apart, handlers in tasks of
 * their own. A call or cast by name goes straight from its MessagePack array to arguments on the
 * stack.
 *
 * next() gives, in this order: a turn that was asked for, the stop request (once no handler runs any
 * more), upgrades (likewise), what was unstashed, mail. What another coroutine, a handler that ends
 * or an arriving upgrade changes while next() waits is only noted (`changed`): the scheduler's loop
 * rouses next() where no receiver is being served.
 *
 * Threads: the state's own.
 */
#include "script/scheduler.h"

#include <stdlib.h>
#include "base/error.h"
#include "base/log.h"
#include "script/launch.h"
#include "script/server.h"
#include "script/upgrade.h"
#include "script/values.h"

static const char noreply_mark;

/* The part that keeps subscriptions; without it nothing is published. */
bool rk__topic_matches(const char *pattern, const char *topic) __attribute__((weak));

/* ---- the next message ---- */

static int push_stop(lua_State *L, rk__lua_host *host)
{
    lua_pushliteral(L, "stop");
    lua_pushstring(L, host->self->stop_reason ? host->self->stop_reason : "stopped");
    return 2;
}

/* "call"|"cast", entry, arguments... Negative: an argument cannot be read. */
static int push_named(lua_State *L, const rk_message *m, rk__token *name, rk__reader *r,
                      uint32_t count)
{
    int top = lua_gettop(L);
    if (count > INT16_MAX || !lua_checkstack(L, (int)count + 8)) {
        return rk__fail(RK_ELIMIT, "a call with %u arguments", (unsigned)count);
    }
    lua_pushstring(L, rk__is_call(m) ? "call" : "cast");
    lua_pushlstring(L, name->bytes, name->size);
    for (uint32_t i = 0; i < count; i++) {
        int code = rk__lua_unpack(L, r);
        if (code < 0) {
            lua_settop(L, top);
            return code;
        }
    }
    return (int)count + 2;
}

/* "message", whether the sender waits, type name or nil, message, sender or nil; for what was
 * published "topic" and the topic's name instead of the first two. */
static int push_message(lua_State *L, rk__handling *h)
{
    rk_message *m = h->request;
    rk_pid from = m->from;
    const rk_type *type = m->body->type;
    luaL_checkstack(L, 8, "a message");
    if (m->flags & RK__TOPIC) {
        lua_pushliteral(L, "topic");
        lua_pushstring(L, rk_message_topic(m));
    } else {
        lua_pushliteral(L, "message");
        lua_pushboolean(L, rk__is_call(m));
    }
    if (type) {
        lua_pushstring(L, type->name);
    } else {
        lua_pushnil(L);
    }
    h->request = NULL;
    rk__lua_push_delivery(L, m);
    rk__handling_keep(L, h);
    if (from == RK_NOBODY) {
        lua_pushnil(L);
    } else {
        rk__lua_push_pid(L, from);
    }
    return 5;
}

/* The body's handling has what came. 0: nothing for the handlers in it. */
static int push_request(lua_State *L, rk__lua_host *host)
{
    rk__token name, verb;
    rk__reader r;
    uint32_t count;
    rk__handling *h = &host->server.handling;
    rk_message *m = h->request;
    int pushed = RK_EUNSUPPORTED;
    if (m->flags & RK__PARCEL) {
        rk__fail(pushed, "this actor is a handler table: what was asked is for supervisors");
    } else if (!rk__lua_entry_call(m, &name, &verb, &r, &count)) {
        return push_message(L, h);
    } else {
        pushed = push_named(L, m, &name, &r, count);
    }
    if (pushed >= 0) {
        return pushed;
    }
    h->request = NULL;
    if (rk__is_call(m)) {
        rk__reply(host->self, m, rk__message_error(pushed, rk_errdetail()));
        rk_message_release(m);
    } else {
        rk__bury(rk__actor_pid(host->self), m, pushed);
    }
    return 0;
}

/* What goes before mail; 0: nothing. */
static int push_news(lua_State *L, rk__lua_host *host)
{
    rk__server *s = &host->server;
    if (s->again) {
        s->again = false;
        lua_pushliteral(L, "again");
        return 1;
    }
    if (s->running > 0) {
        return 0;
    }
    return s->stopping ? push_stop(L, host) : s->upgrades ? rk__lua_push_upgrade(L, host) : 0;
}

/* Reentrant: whether a further handler may begin. A deactivated actor comes to rest. */
static bool may_begin(const rk__lua_host *host)
{
    const rk__server *s = &host->server;
    return s->running == 0 ||
           (s->running < s->most && !s->upgrades && rk__actor_state(host->self) != RK_DEACTIVATED);
}

/* How next() waits: for mail, for a turn of the loop before what was unstashed, or for handlers. */
static void set_wait(rk__lua_host *host, rk__waiter *w)
{
    rk__server *s = &host->server;
    w->deadline = RK__FOREVER;
    if (s->stopping) {
        w->kind = RK__WAIT_PAUSE;
    } else if (!may_begin(host)) {
        w->kind = RK__WAIT_SLEEP;
    } else if (s->replay.first) {
        w->kind = RK__WAIT_PAUSE;
        w->deadline = rk__now();
    } else {
        w->kind = RK__WAIT_MAIL;
    }
    s->waiting = w;
}
/* As rk__take_mail, but first what was unstashed. */
static int take(rk__lua_host *host, rk__waiter *w)
{
    if (!host->server.replay.first) {
        return rk__take_mail(host, w, &w->message);
    }
    rk_should_terminate(); /* looks for a stop request */
    if (rk__stop_news(host, RK__TOLD_RECEIVE)) {
        return RK_ESTOP;
    }
    w->message = rk__stash_next(host);
    return w->message ? 1 : rk__take_mail(host, w, &w->message);
}

/* The end of a wait or of a look; 0: nothing for Lua yet. */
static int came(lua_State *L, rk__lua_host *host, rk__waiter *w, int code)
{
    host->server.waiting = NULL;
    w->kind = RK__WAIT_NOTHING;
    if (code < 0) {
        host->server.stopping = true;
        if (host->task) {
            host->task->told = RK__TOLD_RECEIVE; /* terminate may still sleep */
        }
        return 0;
    }
    if (!w->message) {
        return 0;
    }
    host->server.handling.request = w->message;
    w->message = NULL;
    return push_request(L, host);
}

static int next_step(lua_State *L, int status, lua_KContext context);

/* Takes what is there, or waits with w. */
static int next_take(lua_State *L, rk__lua_host *host, rk__waiter *w)
{
    rk__server *s = &host->server;
    for (;;) {
        int code = 0, pushed;
        s->changed = false;
        if ((s->again || s->stopping || s->upgrades) && (pushed = push_news(L, host)) > 0) {
            return pushed;
        }
        if (s->stopping) {
            code = 0;
        } else if (may_begin(host) && rk__may_take(host)) {
            code = take(host, w);
        } else if (rk__stop_news(host, RK__TOLD_RECEIVE)) {
            code = RK_ESTOP;
        }
        if (code == 0) {
            set_wait(host, w);
            rk__suspend(host, L, w, next_step);
            code = w->code;
        }
        pushed = came(L, host, w, code);
        if (pushed > 0) {
            return pushed;
        }
    }
}

static int next_step(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter *w = (rk__waiter *)context;
    int pushed = came(L, host, w, w->code);
    return pushed > 0 ? pushed : next_take(L, host, w);
}

static int next(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter local, *w = rk__waiter_get(host, L, &local);
    rk__handling_forget(L, &host->server.handling);
    return next_take(L, host, w);
}

void rk__server_rouse(rk__lua_host *host)
{
    rk__server *s = &host->server;
    if (s->changed && s->waiting && !s->waiting->done) {
        s->changed = false;
        rk__finish_wait(host, s->waiting, 0, NULL);
    }
}

/* ---- handlers in tasks of their own ---- */

/* start(handle, what next() gave...): a task that handles it. */
static int start(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__handling *ours = &host->server.handling;
    rk__task *task = rk__task_start(host, L, lua_gettop(L) - 1);
    if (ours->valued) {
        lua_rawgetp(L, LUA_REGISTRYINDEX, ours);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &task->handling);
    }
    task->handling = *ours;
    task->handler = true;
    host->server.running++;
    host->self->handling = false; /* the task answers for it */
    ours->request = NULL;
    rk__handling_forget_value(L, ours);
    return 0;
}

void rk__server_task_ended(rk__lua_host *host, rk__task *task, bool finished)
{
    rk__server *s = &host->server;
    task->handler = false;
    s->running--;
    s->changed |= s->waiting && s->waiting->kind != RK__WAIT_MAIL;
    if (finished) {
        rk__handling_forget(host->L, &task->handling);
        return;
    }
    rk__handling_unfinished(host->L, host, &task->handling);
    if (task->handling.request) {
        rk__queue_append(&s->owed, task->handling.request);
        task->handling.request = NULL;
    }
}

/* failed(): the handler in this task; next() gives "again". */
static int failed(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__handling_unfinished(L, host, rk__handling_of(host));
    host->server.again = host->server.changed = true;
    return 0;
}

/* cut(): ends all handlers. */
static int cut(lua_State *L)
{
    rk__tasks_cut(rk__lua_host_of(L));
    return 0;
}

static bool works_on_call(const rk__handling *h)
{
    return h->request && rk__is_call(h->request) && !(h->request->flags & RK__ANSWERED);
}

uint32_t rk__server_held_calls(const rk__lua_host *host)
{
    const rk__server *s = &host->server;
    uint32_t count = s->held_calls + works_on_call(&s->handling);
    for (const rk__task *task = s->running ? host->tasks : NULL; task; task = task->next) {
        count += task->handler && works_on_call(&task->handling);
    }
    return count;
}
/* ---- the end ---- */

void rk__server_end(rk__lua_host *host, const char *reason)
{
    rk__server *s = &host->server;
    rk__stash_lose(host, reason);
    rk__lua_refuse_upgrades(host, "the actor has ended");
    s->serving = false;
}

static void drop(rk__queue *q)
{
    rk_message *m;
    while ((m = rk__queue_pop(q)) != NULL) {
        rk_message_release(m);
    }
}

void rk__server_free(rk__lua_host *host)
{
    rk__server *s = &host->server;
    rk_message_release(s->handling.request);
    s->handling.request = NULL;
    drop(&s->owed);
    drop(&s->replay);
    drop(&s->stash);
    free(host->said.hashes);
    host->said = (rk__said){0};
    rk__lua_refuse_upgrades(host, "the actor has ended");
}
/* ---- opening ---- */

static int started(lua_State *L)
{
    rk__host_started(rk__lua_self(L));
    return 0;
}

/* limits(handlers) -> reentrant: takes over how many handlers may run at a time, and the stash's
 * bound. */
static int limits(lua_State *L)
{
    rk__server *s = &rk__lua_host_of(L)->server;
    luaL_checktype(L, 1, LUA_TTABLE);
    s->most = rk__lua_reentrant(L, 1);
    s->stash_bound = rk__lua_stash_bound(L, 1);
    lua_pushboolean(L, s->most > 0);
    return 1;
}

/* matches(pattern, topic) */
static int matches(lua_State *L)
{
    lua_pushboolean(L, rk__topic_matches &&
                           rk__topic_matches(luaL_checkstring(L, 1), luaL_checkstring(L, 2)));
    return 1;
}

/* check(handlers): raises what rk.actor would. */
static int check(lua_State *L)
{
    rk__lua_check_handlers(L, 1);
    return 0;
}

void rk__lua_push_noreply(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)&noreply_mark);
}

/* Where no handler table runs. */
static int not_here(lua_State *L)
{
    return luaL_error(L, "ctx:%s is for actors that are handler tables",
                      lua_tostring(L, lua_upvalueindex(1)));
}

void rk__lua_add_server_methods(lua_State *L)
{
    static const char *const names[] = {"become", "unbecome"};
    rk__lua_add_stash(L);
    for (int i = 0; i < 2; i++) {
        lua_pushstring(L, names[i]);
        lua_pushcclosure(L, not_here, 1);
        lua_setfield(L, -2, names[i]);
    }
}

/* method(name, function): a method of ctx. */
static int method(lua_State *L)
{
    lua_settop(L, 2);
    rk__lua_push_context(L);
    luaL_getmetafield(L, -1, "__index");
    lua_insert(L, 1);
    lua_settop(L, 3);
    lua_rawset(L, 1);
    return 0;
}

void rk__lua_push_server(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"next", next},       {"started", started}, {"limits", limits}, {"check", check},
        {"start", start},     {"failed", failed},   {"cut", cut},       {"method", method},
        {"matches", matches}, {NULL, NULL}};
    rk__lua_host_of(L)->server.serving = true;
    luaL_newlib(L, functions);
    rk__lua_add_answers(L);
    rk__lua_add_upgrade(L);
    rk__lua_push_noreply(L);
    lua_setfield(L, -2, "noreply");
    rk__lua_push_context(L);
    lua_setfield(L, -2, "ctx");
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, "rk");
    lua_getfield(L, -1, "log");
    lua_setfield(L, -4, "log");
    lua_pop(L, 2);
}
