/*
 * mail.c -- what comes to a host and who gets it: replies by token, timers, mail by filter, stop
 * requests.
 *
 * Threads: the host's own. Order: receivers are offered mail in the order in which they began to
 * wait; a routed type goes to its function before anybody else sees it.
 */
#include "script/scheduler.h"

#include <string.h>
#include "base/error.h"
#include "base/log.h"

enum { STREAK_MAX = 64 }; /* messages in a row before timers and other coroutines get a look */

static const char routes_key; /* registry: table of type name -> function */

/* ---- replies, timers, mail ---- */

/* Gives a reply to the coroutine that waits for it. */
static bool claim_reply(rk__lua_host *host, rk_message *m)
{
    rk__waiter *w = *rk__token_bucket(host, m->token);
    while (w && w->token != m->token) {
        w = w->next;
    }
    if (!w || m->to_generation != host->self->generation) {
        return false;
    }
    rk__finish_wait(host, w, 0, m);
    return true;
}

void rk__take_replies(rk__lua_host *host)
{
    rk_message *m;
    while ((m = rk__mailbox_reply(&host->self->mailbox)) != NULL) {
        if (!claim_reply(host, m)) {
            rk__late_reply(host->self, m);
        }
    }
}

bool rk__lua_claim(rk__actor *self, rk_message *m)
{
    rk__lua_host *host = rk__lua_host_current();
    return host && host->self == self && claim_reply(host, m);
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

void rk__fire_timers(rk__lua_host *host)
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
            rk__finish_wait(host, w, w->kind >= RK__WAIT_SLEEP ? 0 : RK_ETIMEOUT, NULL);
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

static void offer_to(rk__lua_host *host, rk__waiter *w)
{
    rk_message *m = rk__next_mail(host->self, w->filter ? rk__accepts : NULL, w, &w->seen);
    if (m) {
        rk__received(host->self, m);
        rk__finish_wait(host, w, 0, m);
    } else if (w->raise) {
        rk__finish_wait(host, w, RK_ELUA, NULL);
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
        rk__finish_wait(host, w, RK_ESTOP, NULL);
    }
}

/* Everybody who waits for mail or time hears of a stop request, once. */
void rk__announce_stop(rk__lua_host *host, rk__waiter *until)
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

/* Whether anybody here wants mail; `only`: as below. */
bool rk__listening(const rk__lua_host *host, const rk__waiter *only)
{
    return only ? only->kind == RK__WAIT_MAIL && !only->done : host->receivers || host->routes;
}

/* Offers mail to everybody, or to `only`. What comes in while later receivers look has not been
 * seen by earlier ones: then once more, because parking waits for intake, not for what was taken
 * in. When nobody listens, mail stays where it is and only stop requests are read. */
void rk__offer_mail(rk__lua_host *host, rk__waiter *only)
{
    const rk__mailbox *mailbox = &host->self->mailbox;
    uint32_t arrived;
    if (!rk__listening(host, only)) {
        rk_should_terminate();
        return;
    }
    do {
        arrived = mailbox->sequence;
        if (only) {
            offer_to(host, only);
        } else {
            offer_round(host);
        }
    } while (mailbox->sequence != arrived && rk__listening(host, only));
}

bool rk__may_take(rk__lua_host *host)
{
    return ++host->streak < STREAK_MAX && !host->ready && !host->receivers && !host->routes &&
           rk__actor_state(host->self) != RK_DEACTIVATED;
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
    host->routes += lua_getfield(L, -1, type_name) == LUA_TNIL;
    lua_pop(L, 1);
    lua_insert(L, -2);
    lua_setfield(L, -2, type_name);
    lua_pop(L, 1);
}
