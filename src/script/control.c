/*
 * control.c -- methods of pids that steer an actor and look at it: stop, kill, activate, info...
 *
 * Waiting for an actor's end is looking again and again, less and less often: the wait belongs to
 * the coroutine, and nothing appears in the mailbox for it.
 *
 * Threads: the state's own.
 */
#include "script/scheduler.h"

#include "base/error.h"
#include "device/device.h"
#include "script/upgrade.h"

static int give_true(lua_State *L)
{
    lua_pushboolean(L, 1);
    return 1;
}

/* ---- stopping ---- */

enum { STOPPING, KILLED };
#define PAUSE_FIRST   INT64_C(50000)
#define PAUSE_LONGEST INT64_C(5000000)
#define KILL_GRACE    INT64_C(2000000000)

/* Looks again and again, less and less often, whether the actor is gone; kills it when its time is
 * over. seen is the end of that time, timeout the pause between two looks. */
static int stop_step(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter *w = (rk__waiter *)context;
    while (rk__actor_find(w->to)) {
        char text[RK_PID_TEXT];
        int64_t now = rk__now(), end = (int64_t)w->seen;
        if (w->code < 0 || (now >= end && w->stage == KILLED)) {
            int code = w->code < 0 ? w->code : RK_ETIMEOUT;
            w->kind = RK__WAIT_NOTHING;
            rk__fail(code, "%s does not stop", rk_pid_format(w->to, text));
            return rk__lua_fail(L, code);
        }
        if (now >= end) {
            w->stage = KILLED;
            end = now + KILL_GRACE;
            w->seen = (uint64_t)end;
            rk__actor_kill(w->to, "killed", 0);
        }
        w->deadline = now + w->timeout < end ? now + w->timeout : end;
        w->timeout = w->timeout * 2 < PAUSE_LONGEST ? w->timeout * 2 : PAUSE_LONGEST;
        w->kind = RK__WAIT_PAUSE;
        rk__suspend(host, L, w, stop_step);
    }
    w->kind = RK__WAIT_NOTHING;
    return give_true(L);
}

static int wait_until_gone(lua_State *L, rk_pid pid, int stage, int64_t timeout)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter local, *w = rk__waiter_get(host, L, &local);
    w->to = pid;
    w->stage = stage;
    w->seen = (uint64_t)rk__deadline(timeout);
    w->timeout = PAUSE_FIRST;
    return stop_step(L, LUA_OK, (lua_KContext)w);
}

static rk_pid check_pid(lua_State *L)
{
    rk_pid pid = RK_NOBODY;
    luaL_argexpected(L, rk__lua_to_pid(L, 1, &pid), 1, "pid");
    return pid;
}

static int pid_stop(lua_State *L)
{
    rk_pid pid = check_pid(L);
    const char *reason = luaL_optstring(L, 2, "stopped");
    int64_t timeout = rk__lua_timeout(L, 3, RK__CALL_TIMEOUT);
    int code = timeout != 0 ? rk__actor_may_await(pid) : 0;
    code = code < 0 ? code : rk__actor_verb(pid, RK__TERMINATE, reason, 0);
    if (code < 0 && code != RK_ETIMEOUT) {
        return rk__lua_fail(L, code);
    }
    if (timeout == 0 || pid == rk__actor_pid(rk__lua_self(L))) {
        return give_true(L); /* it reads the request at its next receive */
    }
    return wait_until_gone(L, pid, STOPPING, timeout);
}

static int pid_kill(lua_State *L)
{
    rk_pid pid = check_pid(L);
    int code = rk__actor_kill(pid, luaL_optstring(L, 2, "killed"), 0);
    if (code < 0 && code != RK_ETIMEOUT) {
        return rk__lua_fail(L, code);
    }
    if (pid == rk__actor_pid(rk__lua_self(L))) {
        return give_true(L);
    }
    return wait_until_gone(L, pid, KILLED, KILL_GRACE);
}

static int verb_result(lua_State *L, int code)
{
    return code < 0 ? rk__lua_fail(L, code) : give_true(L);
}

static int pid_activate(lua_State *L)
{
    return verb_result(L, rk_activate(check_pid(L)));
}

static int pid_deactivate(lua_State *L)
{
    return verb_result(L, rk_deactivate(check_pid(L)));
}

static int pid_reactivate(lua_State *L)
{
    return verb_result(L, rk_reactivate(check_pid(L)));
}

/* pid:upgrade(definition) */
static int pid_upgrade(lua_State *L)
{
    rk_pid pid = check_pid(L);
    luaL_checkany(L, 2);
    return rk__lua_upgrade_actor(L, pid, 2);
}

/* ---- looking ---- */

static void set_integer(lua_State *L, const char *key, lua_Integer value)
{
    lua_pushinteger(L, value);
    lua_setfield(L, -2, key);
}

static void set_string(lua_State *L, const char *key, const char *value)
{
    lua_pushstring(L, value);
    lua_setfield(L, -2, key);
}

static int pid_info(lua_State *L)
{
    static const char *const bands[] = {"low", "normal", "high", "system"};
    rk_info info;
    int code = rk_inspect(check_pid(L), &info);
    if (code < 0) {
        return rk__lua_fail(L, code);
    }
    lua_createtable(L, 0, 16);
    lua_pushvalue(L, 1);
    lua_setfield(L, -2, "pid");
    if (info.name[0]) {
        set_string(L, "name", info.name);
    }
    set_string(L, "kind", info.kind);
    set_string(L, "device", info.device);
    set_string(L, "state", rk_state_name(info.state));
    set_integer(L, "cpu", info.cpu);
    lua_createtable(L, 0, 4);
    for (int i = 0; i < 4; i++) {
        set_integer(L, bands[i], info.depth[i]);
    }
    lua_setfield(L, -2, "mailbox");
    set_integer(L, "received", (lua_Integer)info.received);
    set_integer(L, "sent", (lua_Integer)info.sent);
    set_integer(L, "dropped", (lua_Integer)info.dropped);
    set_integer(L, "failed", (lua_Integer)info.failed);
    set_integer(L, "memory", (lua_Integer)info.memory);
    lua_pushnumber(L, (lua_Number)info.p50 / 1e9);
    lua_setfield(L, -2, "p50");
    lua_pushnumber(L, (lua_Number)info.p99 / 1e9);
    lua_setfield(L, -2, "p99");
    return 1;
}

/* The state of a ring kernel that has a schema for it, as a message. */
static int pid_state(lua_State *L)
{
    rk_message *m = NULL;
    int code = rk__kernel_read_state(check_pid(L), &m);
    if (code < 0) {
        return rk__lua_fail(L, code);
    }
    rk__lua_push_delivery(L, m);
    return 1;
}

void rk__lua_add_control(lua_State *L)
{
    static const luaL_Reg methods[] = {{"stop", pid_stop},
                                       {"terminate", pid_stop},
                                       {"kill", pid_kill},
                                       {"info", pid_info},
                                       {"state", pid_state},
                                       {"upgrade", pid_upgrade},
                                       {"activate", pid_activate},
                                       {"deactivate", pid_deactivate},
                                       {"reactivate", pid_reactivate},
                                       {NULL, NULL}};
    luaL_setfuncs(L, methods, 0);
}
