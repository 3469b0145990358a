/*
 * handling.c -- the message that a handler of a handler table works on: ctx.request, its answer, its
 * refusal.
 *
 * The delivery of a call or cast by name waits in the handling of whoever works on it, and becomes a
 * Lua object only when the handler asks for ctx.request. Other messages are Lua values that hold
 * their delivery, and the registry keeps the value at the address of the handling. A call that is
 * still there when its handling ends was not answered by anybody: releasing it tells the caller so.
 *
 * Threads: the state's own.
 */
#include "script/server.h"

#include "base/error.h"
#include "base/log.h"
#include "script/values.h"

static const char request_class[] = "rk.request";

typedef struct request {
    rk_message *delivery;
} request;

rk__handling *rk__handling_of(rk__lua_host *host)
{
    return host->task && host->task->handler ? &host->task->handling : &host->server.handling;
}

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

/* Keeps the value on top, which stays there. */
void rk__handling_keep(lua_State *L, rk__handling *h)
{
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, h);
    h->valued = true;
}

void rk__lua_push_current_request(lua_State *L)
{
    rk__handling *h = rk__handling_of(rk__lua_host_of(L));
    if (h->request && h->request->flags & RK__CALL) {
        request *r = lua_newuserdatauv(L, sizeof *r, 0);
        r->delivery = NULL;
        if (luaL_newmetatable(L, request_class)) {
            lua_pushcfunction(L, request_gc);
            lua_setfield(L, -2, "__gc");
        }
        lua_setmetatable(L, -2);
        rk__handling_keep(L, h);
        r->delivery = h->request;
        h->request = NULL;
    } else if (h->valued) {
        lua_rawgetp(L, LUA_REGISTRYINDEX, h);
    } else {
        lua_pushnil(L);
    }
}

void rk__handling_forget_value(lua_State *L, rk__handling *h)
{
    if (h->valued) {
        h->valued = false;
        lua_pushnil(L);
        lua_rawsetp(L, LUA_REGISTRYINDEX, h);
    }
}

void rk__handling_forget(lua_State *L, rk__handling *h)
{
    rk_message *unanswered = h->request;
    h->request = NULL;
    h->stashed = false;
    rk_message_release(unanswered);
    rk__handling_forget_value(L, h);
}

/* The delivery that is being handled; NULL with the error set: there is none (any more). */
rk_message *rk__handling_delivery(lua_State *L, rk__handling *h)
{
    rk_message *m = h->request;
    if (m) {
        return m;
    }
    if (!h->valued) {
        rk__fail(RK_EINVAL, "no message is being handled");
        return NULL;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, h);
    m = rk__lua_server_request(L, -1);
    m = m ? m : rk__lua_request(L, -1);
    lua_pop(L, 1);
    return m;
}

/* The same, taken away from the value that holds it. gives */
rk_message *rk__handling_take(lua_State *L, rk__handling *h)
{
    rk_message *m = h->request;
    h->request = NULL;
    if (m || !h->valued) {
        return m;
    }
    lua_rawgetp(L, LUA_REGISTRYINDEX, h);
    request *r = luaL_testudata(L, -1, request_class);
    if (r) {
        m = r->delivery;
        r->delivery = NULL;
    } else {
        m = rk__lua_take_delivery(L, -1);
    }
    lua_pop(L, 1);
    rk__handling_forget_value(L, h);
    return m;
}

/* The call to answer; NULL: there is none, or it has its answer. */
static rk_message *open_request(lua_State *L, rk__lua_host *host)
{
    rk__handling *h = rk__handling_of(host);
    rk_message *m = h->request || h->valued ? rk__handling_delivery(L, h) : NULL;
    return m && m->flags & RK__CALL && !(m->flags & RK__ANSWERED) ? m : NULL;
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

/* What is handled, stashed and refused by itself does not end unfinished with the actor. */
void rk__handling_unfinished(lua_State *L, rk__lua_host *host, rk__handling *h)
{
    const rk_message *m = h->request || h->valued ? rk__handling_delivery(L, h) : NULL;
    if (m && !(m->flags & RK__CALL) && host->self->runtime) {
        __atomic_add_fetch(&host->self->runtime->unfinished, 1, __ATOMIC_RELAXED);
    }
}

/* reject(text): nobody here takes this message, it is a dead letter; the log hears of it once. */
static int reject(lua_State *L)
{
    size_t size;
    char who[RK_PID_TEXT];
    rk__lua_host *host = rk__lua_host_of(L);
    const char *text = luaL_checklstring(L, 1, &size);
    rk_pid self = rk__actor_pid(host->self);
    rk_message *m = rk__handling_take(L, rk__handling_of(host));
    if (m) {
        host->self->handling = false;
        if (rk__lua_say_once(host, text, size)) {
            rk__log(RK__LOG_WARN, rk_pid_format(self, who), "rejected: %s; said once for it", text);
        }
        rk__bury(self, m, rk__fail(RK_EREJECTED, "%s", text));
    }
    return 0;
}

void rk__lua_add_answers(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"answer", answer}, {"refuse", refuse}, {"reject", reject}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
