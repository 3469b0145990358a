/*
 * server.c -- the C half of lua/rk/server.lua: the next request taken apart, and its answer.
 *
 * A call by name goes straight from its MessagePack array to arguments on the stack; its delivery
 * waits in host->request for the answer, and becomes a Lua object only when the handler asks for
 * ctx.request. A request that is still there when the next one is taken was not answered by
 * anybody: releasing it tells the caller so.
 *
 * Threads: the state's own.
 */
#include "script/scheduler.h"

#include "base/error.h"
#include "script/values.h"

static const char request_class[] = "rk.request";
static const char request_key; /* registry: the value of the present request, when it is one */
static const char noreply_mark;

typedef struct request {
    rk_message *delivery;
} request;

/* ---- the present request ---- */

static int request_gc(lua_State *L)
{
    request *r = lua_touserdata(L, 1);
    rk_message_release(r->delivery);
    r->delivery = NULL;
    return 0;
}

rk_message *rk__lua_server_request(lua_State *L, int index)
{
    request *r = luaL_testudata(L, index, request_class);
    return r ? r->delivery : NULL;
}

void rk__lua_push_current_request(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    if (host->request) {
        request *r = lua_newuserdatauv(L, sizeof *r, 0);
        r->delivery = NULL;
        if (luaL_newmetatable(L, request_class)) {
            lua_pushcfunction(L, request_gc);
            lua_setfield(L, -2, "__gc");
        }
        lua_setmetatable(L, -2);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &request_key);
        r->delivery = host->request;
        host->request = NULL;
        return;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, &request_key);
}

static void forget_request(lua_State *L, rk__lua_host *host)
{
    rk_message *unanswered = host->request;
    host->request = NULL;
    rk_message_release(unanswered);
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &request_key);
}

/* The delivery to answer; NULL: there is none, or it has its answer. */
static rk_message *open_request(lua_State *L, rk__lua_host *host)
{
    rk_message *m = host->request;
    if (!m && lua_rawgetp(L, LUA_REGISTRYINDEX, &request_key) != LUA_TNIL) {
        m = rk__lua_server_request(L, -1);
        m = m ? m : rk__lua_request(L, -1);
    }
    return m && !(m->flags & RK__ANSWERED) ? m : NULL;
}

/* answer(value): true, or nil and why the value cannot travel. */
static int answer(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    lua_settop(L, 1);
    rk_message *m = open_request(L, host);
    if (m) {
        rk_message *value = rk__lua_to_delivery(L, 1);
        if (!value) {
            return rk__lua_fail(L, RK_ETYPE);
        }
        rk__reply(host->self, m, value);
    }
    lua_pushboolean(L, 1);
    return 1;
}

/* refuse(code name, text): the caller gets this error. */
static int refuse(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    int code = rk__err_code(luaL_checkstring(L, 1));
    const char *text = luaL_checkstring(L, 2);
    rk_message *m = open_request(L, host);
    if (m) {
        rk__reply(host->self, m, rk__message_error(code, text));
    }
    return 0;
}

/* ---- the next one ---- */

static int push_stop(lua_State *L, rk__lua_host *host)
{
    lua_pushliteral(L, "stop");
    lua_pushstring(L, host->self->stop_reason ? host->self->stop_reason : "stopped");
    return 2;
}

/* "call"|"cast", entry, arguments... Negative: an argument cannot be read. */
static int push_named(lua_State *L, rk__lua_host *host, rk__token *name, rk__reader *r,
                      uint32_t count)
{
    int top = lua_gettop(L);
    bool waits = host->request->flags & RK__CALL;
    if (count > INT16_MAX || !lua_checkstack(L, (int)count + 8)) {
        return rk__fail(RK_ELIMIT, "a call with %u arguments", (unsigned)count);
    }
    lua_pushstring(L, waits ? "call" : "cast");
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

/* "message", whether the sender waits, type name or nil, message, sender or nil. */
static int push_message(lua_State *L, rk_message *m)
{
    rk_pid from = m->from;
    const rk_type *type = m->body->type;
    luaL_checkstack(L, 8, "a message");
    lua_pushliteral(L, "message");
    lua_pushboolean(L, (m->flags & RK__CALL) != 0);
    if (type) {
        lua_pushstring(L, type->name);
    } else {
        lua_pushnil(L);
    }
    rk__lua_host_of(L)->request = NULL;
    rk__lua_push_delivery(L, m);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &request_key);
    if (from == RK_NOBODY) {
        lua_pushnil(L);
    } else {
        rk__lua_push_pid(L, from);
    }
    return 5;
}

/* host->request is what came. 0: nothing for the handlers in it. */
static int push_request(lua_State *L, rk__lua_host *host)
{
    rk__token name, verb;
    rk__reader r;
    uint32_t count;
    if (!rk__lua_entry_call(host->request, &name, &verb, &r, &count)) {
        return push_message(L, host->request);
    }
    int pushed = push_named(L, host, &name, &r, count);
    rk_message *m = host->request;
    if (pushed < 0 && m->flags & RK__CALL) {
        rk__reply(host->self, m, rk__message_error(pushed, rk_errdetail()));
    }
    if (pushed < 0 || !(m->flags & RK__CALL)) {
        host->request = NULL;
        rk_message_release(m);
    }
    return pushed < 0 ? 0 : pushed;
}

static int next_step(lua_State *L, int status, lua_KContext context);

/* Takes what is there, or waits with w. */
static int next_take(lua_State *L, rk__lua_host *host, rk__waiter *w)
{
    for (;;) {
        int code = 0;
        if (rk__may_take(host)) {
            code = rk__take_mail(host, w, &w->message);
        } else if (rk__stop_news(host, RK__TOLD_RECEIVE)) {
            code = RK_ESTOP;
        }
        if (code == 0) {
            w->kind = RK__WAIT_MAIL;
            rk__suspend(host, L, w, next_step);
            code = w->code;
        }
        w->kind = RK__WAIT_NOTHING;
        if (code < 0) {
            return push_stop(L, host);
        }
        host->request = w->message;
        w->message = NULL;
        int pushed = push_request(L, host);
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
    w->kind = RK__WAIT_NOTHING;
    if (w->code < 0) {
        return push_stop(L, host);
    }
    host->request = w->message;
    w->message = NULL;
    int pushed = push_request(L, host);
    return pushed > 0 ? pushed : next_take(L, host, w);
}

static int next(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter local, *w = rk__waiter_get(host, L, &local);
    forget_request(L, host);
    return next_take(L, host, w);
}

/* ---- opening ---- */

static int started(lua_State *L)
{
    rk__host_started(rk__lua_self(L));
    return 0;
}

void rk__lua_push_noreply(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)&noreply_mark);
}

void rk__lua_push_server(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"next", next}, {"answer", answer}, {"refuse", refuse}, {"started", started}, {NULL, NULL}};
    luaL_newlib(L, functions);
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
