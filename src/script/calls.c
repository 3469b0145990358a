/*
 * calls.c -- everything in Lua that sends, waits or is called back: methods of pids (send, cast,
 * call, try_call), receive, reply, sleep, timers, fork; the same for `rk` and
 * `ctx`.
 *
 * A wait is a small machine: a step function that is entered again after each wait, as the
 * continuation of a yield or by simply going on. What C owns across a wait sits in the waiter,
 * which the scheduler empties when a coroutine is closed.
 *
 * Threads: the state's own.
 */
#include "script/scheduler.h"

#include <string.h>
#include "base/error.h"
#include "script/values.h"

enum { MODE_SEND, MODE_CALL, MODE_TRY };
enum { STAGE_POST, STAGE_ROOM, STAGE_ANSWER };

static const char proxy_class[] = "rk.timeout", ctx_class[] = "rk.ctx";
static const char context_key; /* registry: the `ctx` object */

/* userdata: pid:timeout(s), pid:ttl(s); how a message goes to an actor */
typedef struct proxy {
    rk_pid pid;
    int64_t timeout;
    int64_t ttl; /* negative: for ever */
} proxy;

static int give_true(lua_State *L)
{
    lua_pushboolean(L, 1);
    return 1;
}

static int verb_result(lua_State *L, int code)
{
    return code < 0 ? rk__lua_fail(L, code) : give_true(L);
}

/* ---- sending and calling ---- */

static int send_failed(lua_State *L, rk__waiter *w, int code)
{
    rk_message *m = w->outgoing;
    w->outgoing = NULL;
    if (m && code == RK_EDEAD && w->mode == MODE_SEND) {
        rk__bury(w->to, m, code); /* few look at what a send returns: it is a dead letter, too */
        rk__actor_dead(w->to);    /* the sentence again */
    } else {
        rk_message_release(m);
    }
    w->kind = RK__WAIT_NOTHING;
    return w->mode == MODE_CALL  ? rk__lua_raise(L, code, w->to)
           : w->mode == MODE_TRY ? rk__lua_fail_detail(L, code)
                                 : rk__lua_fail(L, code);
}

static int timed_out(const rk__waiter *w, const char *what)
{
    char text[RK_PID_TEXT];
    return rk__fail(RK_ETIMEOUT, "timeout: %s %s within %g s", rk_pid_format(w->to, text), what,
                    (double)w->timeout / 1e9);
}

/* Posts once. 0: sent; 1: a ticket for room was left; RK__AGAIN: there is room now. */
enum { QUEUED = 1, AGAIN = 2 };

static int post(rk__lua_host *host, rk__waiter *w)
{
    int code = rk__post(w->to, w->outgoing);
    rk__actor *target = code == RK_EFULL ? rk__actor_find(w->to) : NULL;
    if (code == 0) {
        w->outgoing = NULL;
        return 0;
    }
    if (!target || target->mailbox.full != RK_FULL_BLOCK) {
        return code;
    }
    if (target == host->self) {
        return rk__fail(RK_ESELF,
                        "the actor's own mailbox is full (%u messages): waiting for room "
                        "in it would wait for ever",
                        target->mailbox.bound);
    }
    if (w->deadline <= rk__now()) {
        return rk__fail(RK_ETIMEOUT, "timeout: the mailbox is full (%u messages)",
                        target->mailbox.bound);
    }
    rk_message *ticket = rk__room_ticket(host->self);
    if (!ticket) {
        return rk__fail(RK_ENOMEM, "no memory to wait for a full mailbox");
    }
    w->token = ticket->token;
    if (!rk__mailbox_await_room(&target->mailbox, ticket)) {
        rk__delivery_free(ticket);
        return AGAIN;
    }
    return QUEUED;
}

/* Gives the place in the line up; if our turn came just now, the next one gets it. */
static int no_room(rk__lua_host *host, rk__waiter *w)
{
    rk__actor *target = rk__actor_find(w->to);
    if (target) {
        rk_message *ticket =
            rk__mailbox_cancel_room(&target->mailbox, rk__actor_pid(host->self), w->token);
        if (ticket) {
            rk__delivery_free(ticket);
        } else {
            rk__mailbox_signal_room(&target->mailbox);
        }
    }
    char text[RK_PID_TEXT];
    return w->code == RK_ETIMEOUT    ? timed_out(w, "had no room in its mailbox")
           : w->code == RK_EDEADLOCK ? rk__fail(w->code,
                                                "deadlock: the mailbox of %s is full, and it waits "
                                                "for room in the full mailbox of this actor (the "
                                                "log names all on the circle)",
                                                rk_pid_format(w->to, text))
                                     : rk__fail(w->code, "interrupted");
}

static int answered(lua_State *L, rk__waiter *w)
{
    rk_message *m = w->message;
    w->message = NULL;
    w->kind = RK__WAIT_NOTHING;
    if (w->code < 0) {
        return send_failed(L, w,
                           w->code == RK_ETIMEOUT ? timed_out(w, "did not answer")
                                                  : rk__fail(w->code, "interrupted"));
    }
    if (m->flags & RK__ERROR) {
        return send_failed(L, w, rk__answer_error(m));
    }
    rk__lua_push_delivery(L, m);
    return 1;
}

static int send_step(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter *w = (rk__waiter *)context;
    for (;;) {
        if (w->stage == STAGE_ANSWER) {
            return answered(L, w);
        }
        if (w->stage == STAGE_ROOM) {
            rk__delivery_free(w->message); /* the ticket */
            w->message = NULL;
            if (w->code < 0) {
                return send_failed(L, w, no_room(host, w));
            }
        }
        uint64_t token = w->outgoing->token;
        int code = post(host, w);
        if (code < 0) {
            return send_failed(L, w, code);
        }
        if (code == 0 && w->mode == MODE_SEND) {
            w->kind = RK__WAIT_NOTHING;
            return give_true(L);
        }
        w->stage = code == AGAIN ? STAGE_POST : code == QUEUED ? STAGE_ROOM : STAGE_ANSWER;
        if (code != AGAIN) {
            w->token = code == QUEUED ? w->token : token;
            w->kind = RK__WAIT_REPLY;
            w->room = code == QUEUED;
            rk__suspend(host, L, w, send_step);
        }
    }
}

/* takes m */
static int send_message(lua_State *L, rk_pid to, rk_message *m, int mode, int64_t timeout)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter local;
    if (!m) {
        return rk__lua_raise(L, RK_ETYPE, to); /* a value that cannot travel */
    }
    if (host->filtering) {
        rk_message_release(m); /* waiter_get refuses */
    }
    rk__waiter *w = rk__waiter_get(host, L, &local);
    w->outgoing = m;
    w->to = to;
    w->mode = mode;
    w->timeout = timeout;
    w->deadline = rk__deadline(timeout);
    m->from = rk__actor_pid(host->self);
    if (mode != MODE_SEND) {
        if (to == m->from) {
            return send_failed(
                L, w, rk__fail(RK_ESELF, "an actor that calls itself would wait for ever"));
        }
        m->flags |= RK__CALL;
        m->token = rk__token_new(host->self);
    }
    return send_step(L, LUA_OK, (lua_KContext)w);
}

int rk__lua_send_output(lua_State *L, rk_pid to, rk_message *m, int64_t timeout)
{
    if (m) {
        m->flags |= RK__OUTPUT;
    }
    return send_message(L, to, m, MODE_SEND, timeout);
}

/* Stage ROOM: a ticket is in the line for output. */
static int output_step(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter *w = (rk__waiter *)context;
    for (;;) {
        rk_message *m = NULL, *ticket;
        rk__delivery_free(w->message);
        w->message = NULL;
        if (w->stage == STAGE_ROOM && w->code < 0) {
            w->kind = RK__WAIT_NOTHING;
            rk__output_cancel(w->to, rk__actor_pid(host->self), w->token);
            return rk__lua_fail(L, w->code == RK_ETIMEOUT ? timed_out(w, "had no output")
                                                          : rk__fail(w->code, "interrupted"));
        }
        ticket = rk__room_ticket(host->self);
        w->token = ticket ? ticket->token : 0;
        int code = ticket ? rk__output_try(w->to, &m, ticket)
                          : rk__fail(RK_ENOMEM, "no memory to wait for output");
        if (code != 1) {
            rk__delivery_free(ticket);
            w->kind = RK__WAIT_NOTHING;
            if (code < 0) {
                return rk__lua_fail(L, code);
            }
            rk__lua_push_delivery(L, m);
            return 1;
        }
        w->stage = STAGE_ROOM;
        w->kind = RK__WAIT_REPLY;
        rk__suspend(host, L, w, output_step);
    }
}

int rk__lua_receive_output(lua_State *L, rk_pid from, int64_t timeout)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter local;
    rk__waiter *w = rk__waiter_get(host, L, &local);
    w->to = from;
    w->timeout = timeout;
    w->deadline = rk__deadline(timeout);
    w->stage = STAGE_POST;
    return output_step(L, LUA_OK, (lua_KContext)w);
}

/* The target of a method: a pid, or what pid:timeout(s) or pid:ttl(s) gave. */
static proxy target_of(lua_State *L)
{
    proxy p = {RK_NOBODY, RK__CALL_TIMEOUT, -1};
    return rk__lua_to_pid(L, 1, &p.pid) ? p : *(proxy *)luaL_checkudata(L, 1, proxy_class);
}

/* takes m */
static int send_to(lua_State *L, const proxy *p, rk_message *m, int mode, int64_t timeout)
{
    if (m && p->ttl >= 0) {
        rk_message_set_ttl(m, p->ttl);
    }
    return send_message(L, p->pid, m, mode, timeout);
}

static int pid_send(lua_State *L)
{
    proxy to = target_of(L);
    luaL_checkany(L, 2);
    int64_t timeout = rk__lua_timeout(L, 3, to.timeout);
    return send_to(L, &to, rk__lua_to_delivery(L, 2), MODE_SEND, timeout);
}

static int pid_cast(lua_State *L)
{
    size_t size;
    proxy to = target_of(L);
    if (lua_type(L, 2) != LUA_TSTRING) {
        return pid_send(L);
    }
    const char *name = lua_tolstring(L, 2, &size);
    rk_message *m = rk__lua_to_entry_call(L, name, size, "cast", 3, lua_gettop(L));
    return send_to(L, &to, m, MODE_SEND, to.timeout);
}

static int call(lua_State *L, int mode)
{
    proxy to = target_of(L);
    luaL_checkany(L, 2);
    if (lua_type(L, 2) == LUA_TSTRING) {
        size_t size;
        const char *name = lua_tolstring(L, 2, &size);
        rk_message *m = rk__lua_to_entry_call(L, name, size, "call", 3, lua_gettop(L));
        return send_to(L, &to, m, mode, to.timeout);
    }
    int64_t timeout = rk__lua_timeout(L, 3, to.timeout);
    return send_to(L, &to, rk__lua_to_delivery(L, 2), mode, timeout);
}

static int pid_call(lua_State *L)
{
    return call(L, MODE_CALL);
}

static int pid_try_call(lua_State *L)
{
    return call(L, MODE_TRY);
}

static int push_proxy(lua_State *L, proxy p)
{
    *(proxy *)lua_newuserdatauv(L, sizeof p, 0) = p;
    luaL_setmetatable(L, proxy_class);
    return 1;
}

static int pid_timeout(lua_State *L)
{
    proxy p = target_of(L);
    p.timeout = rk__lua_timeout(L, 2, -1);
    return push_proxy(L, p);
}

static int pid_ttl(lua_State *L)
{
    proxy p = target_of(L);
    p.ttl = rk__lua_timeout(L, 2, -1);
    return push_proxy(L, p);
}

/* ---- receiving ---- */

static void parse_filter(lua_State *L, rk__waiter *w, int index)
{
    w->filter_index = index;
    w->wanted.type = rk__lua_to_type(L, index);
    if (w->wanted.type) {
        w->filter = RK__FILTER_TYPE;
    } else if (lua_type(L, index) == LUA_TSTRING) {
        w->filter = RK__FILTER_NAME;
        w->wanted.name = lua_tostring(L, index);
    } else if (lua_type(L, index) == LUA_TFUNCTION) {
        w->filter = RK__FILTER_FUNCTION;
    } else if (!lua_isnil(L, index)) {
        luaL_typeerror(L, index, "message type, its name, function or timeout");
    }
}

static void push_sender(lua_State *L, rk_pid from)
{
    if (from == RK_NOBODY) {
        lua_pushnil(L);
    } else {
        rk__lua_push_pid(L, from);
    }
}

static int received(lua_State *L, rk_message *m)
{
    rk_pid from = m->from;
    rk__lua_push_delivery(L, m);
    push_sender(L, from);
    return 2;
}

static int receive_end(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    rk__waiter *w = (rk__waiter *)context;
    rk_message *m = w->message;
    w->message = NULL;
    w->kind = RK__WAIT_NOTHING;
    if (w->raise) {
        return lua_error(L);
    }
    if (w->code < 0) {
        return rk__lua_fail(L, rk__fail(w->code, "%s", rk_strerror(w->code)));
    }
    return received(L, m);
}

int rk__take_mail(rk__lua_host *host, rk__waiter *w, rk_message **out)
{
    rk_should_terminate(); /* looks for a stop request */
    if (rk__stop_news(host, RK__TOLD_RECEIVE)) {
        return RK_ESTOP;
    }
    rk_message *m = rk__next_mail(host->self, w->filter ? rk__accepts : NULL, w, &w->seen);
    if (m) {
        rk__received(host->self, m);
        *out = m;
        return 1;
    }
    return w->raise ? RK_ELUA : 0;
}

static int receive(lua_State *L, int first)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter local, *w = rk__waiter_get(host, L, &local);
    bool filtered = lua_type(L, first) != LUA_TNUMBER && !lua_isnone(L, first);
    if (filtered) {
        parse_filter(L, w, first);
    }
    int64_t timeout = rk__lua_timeout(L, filtered ? first + 1 : first, -1);
    if (rk__may_take(host)) {
        int code = rk__take_mail(host, w, &w->message);
        if (code != 0) {
            w->code = code < 0 ? code : 0;
            return receive_end(L, LUA_OK, (lua_KContext)w);
        }
    } else if (rk__stop_news(host, RK__TOLD_RECEIVE)) {
        return rk__lua_fail(L, RK_ESTOP);
    }
    w->kind = RK__WAIT_MAIL;
    w->deadline = rk__deadline(timeout);
    rk__suspend(host, L, w, receive_end);
    return receive_end(L, LUA_OK, (lua_KContext)w);
}

static int module_receive(lua_State *L)
{
    return receive(L, 1);
}

static int ctx_receive(lua_State *L)
{
    return receive(L, 2);
}

/* A generic for keeps the message of the last round in a hidden variable, where it would hold a
 * request that nobody else has any more. The next round sets it again. */
static void forget_control(lua_State *L)
{
    lua_Debug frame;
    const char *name;
    int found = 0;
    if (!lua_getstack(L, 1, &frame)) {
        return;
    }
    for (int i = 1; (name = lua_getlocal(L, &frame, i)) != NULL; i++) {
        if (strcmp(name, "(for state)") == 0 && lua_rawequal(L, -1, 2)) {
            found = i; /* of the innermost loop in the end */
        }
        lua_pop(L, 1);
    }
    if (found) {
        lua_pushnil(L);
        lua_setlocal(L, &frame, found);
    }
}

/* The iterator of messages(): receives until a stop request, then ends. */
static int next_message(lua_State *L)
{
    if (rk__lua_self(L)->outstanding_count > 0 && lua_gettop(L) == 2 && !lua_isnil(L, 2)) {
        forget_control(L);
    }
    lua_settop(L, 0);
    return receive(L, 1);
}

static int messages(lua_State *L)
{
    lua_pushcfunction(L, next_message);
    return 1;
}

/* ---- answering ---- */

static int reply(lua_State *L, int request_index)
{
    rk__lua_host *host = rk__lua_host_of(L);
    luaL_checkany(L, request_index);
    lua_settop(L, request_index + 1);
    rk_message *request = rk__lua_server_request(L, request_index);
    if (!request) {
        request = rk__lua_request(L, request_index);
    }
    if (!request) {
        return rk__lua_raise(L, RK_EINVAL, RK_NOBODY);
    }
    rk_message *answer = rk__lua_to_delivery(L, request_index + 1);
    if (!answer) {
        return rk__lua_raise(L, RK_ETYPE, RK_NOBODY);
    }
    int code = rk__reply(host->self, request, answer);
    return code == RK_EINVAL ? rk__lua_raise(L, code, RK_NOBODY) : verb_result(L, code);
}

static int module_reply(lua_State *L)
{
    return reply(L, 1);
}

static int ctx_reply(lua_State *L)
{
    return reply(L, 2);
}

/* ---- time ---- */

static int sleep_end(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    rk__waiter *w = (rk__waiter *)context;
    w->kind = RK__WAIT_NOTHING;
    return verb_result(L, w->code < 0 ? rk__fail(w->code, "%s", rk_strerror(w->code)) : 0);
}

static int sleep_for(lua_State *L)
{
    luaL_checknumber(L, 1);
    int64_t duration = rk__lua_timeout(L, 1, -1);
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter local, *w = rk__waiter_get(host, L, &local);
    if (rk__stop_news(host, RK__TOLD_SLEEP)) {
        return rk__lua_fail(L, RK_ESTOP);
    }
    w->kind = RK__WAIT_SLEEP;
    w->deadline = rk__deadline(duration);
    rk__suspend(host, L, w, sleep_end);
    return sleep_end(L, LUA_OK, (lua_KContext)w);
}

static int fork_task(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    rk__task_start(rk__lua_host_of(L), L, lua_gettop(L) - 1);
    return 0;
}

/* ---- self ---- */

static int self(lua_State *L)
{
    rk__lua_push_pid(L, rk__actor_pid(rk__lua_self(L)));
    return 1;
}

static int should_terminate(lua_State *L)
{
    lua_pushboolean(L, rk_should_terminate());
    return 1;
}

static int ctx_log(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_replace(L, 1);
    lua_call(L, lua_gettop(L) - 1, 0);
    return 0;
}

/* Fields of ctx that are no methods. */
static int ctx_field(lua_State *L)
{
    const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
    if (strcmp(key, "should_terminate") == 0) {
        return should_terminate(L);
    }
    if (strcmp(key, "request") == 0) {
        rk__lua_push_current_request(L);
        return 1;
    }
    return 0;
}

void rk__lua_push_context(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &context_key);
}

/* ---- opening ---- */

/* Of pids, and of what pid:timeout and pid:ttl give. */
static const luaL_Reg pid_methods[] = {
    {"send", pid_send},       {"cast", pid_cast}, {"call", pid_call}, {"try_call", pid_try_call},
    {"timeout", pid_timeout}, {"ttl", pid_ttl},   {NULL, NULL}};
static const luaL_Reg module_functions[] = {{"self", self},
                                            {"receive", module_receive},
                                            {"messages", messages},
                                            {"reply", module_reply},
                                            {"sleep", sleep_for},
                                            {"fork", fork_task},
                                            {"should_terminate", should_terminate},
                                            {NULL, NULL}};
static const luaL_Reg ctx_methods[] = {{"self", self},
                                       {"receive", ctx_receive},
                                       {"messages", messages},
                                       {"reply", ctx_reply},
                                       {NULL, NULL}};

static void open_class(lua_State *L, const char *name, const luaL_Reg *methods)
{
    luaL_newmetatable(L, name);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

/* The rk table is on top: ctx:log is its `log`. */
static void open_context(lua_State *L)
{
    lua_newuserdatauv(L, 0, 0);
    luaL_newmetatable(L, ctx_class);
    luaL_newlib(L, ctx_methods);
    rk__lua_add_server_methods(L);
    lua_getfield(L, -4, "log");
    lua_pushcclosure(L, ctx_log, 1);
    lua_setfield(L, -2, "log");
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, ctx_field);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &context_key);
}

void rk__lua_open_calls(lua_State *L)
{
    luaL_setfuncs(L, module_functions, 0);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, "rk.pid");
    luaL_setfuncs(L, pid_methods, 0);
    rk__lua_add_control(L);
    lua_pop(L, 1);
    open_class(L, proxy_class, pid_methods);
    open_context(L);
    rk__lua_open_timers(L);
    rk__lua_open_coroutines(L);
}
