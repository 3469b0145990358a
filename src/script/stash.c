/*
 * stash.c -- messages of a handler table that are put aside, to be handled again before newer mail.
 *
 * They are deliveries that were received once and gave their credit back, in a queue of the host; a
 * call among them stays on its actor's list of unanswered ones.
 *
 * Threads: the state's own. Order: in the order of stashing; what is unstashed goes before what was
 * unstashed earlier and waits still, for it came earlier.
 */
#include "script/server.h"

#include "base/error.h"
#include "script/values.h"

/* Whose handler runs here; raises in a fork, a timer, init and terminate. */
static rk__handling *check_handling(lua_State *L, rk__lua_host *host)
{
    rk__handling *h = rk__handling_of(host);
    bool inside = host->task && (host->task->handler || host->task == host->body);
    if (!host->server.serving || !inside || !(h->request || h->valued || h->stashed)) {
        luaL_error(L,
                   "stash: no message is being handled here; it is for the handlers of a handler "
                   "table, not for init, terminate, forks and timers");
    }
    return h;
}

/* ctx:stash() */
static int stash(lua_State *L)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__server *s = &host->server;
    rk__handling *h = check_handling(L, host);
    if (h->stashed) {
        return luaL_error(L, "stash: this message is in the stash already");
    }
    rk_message *m = rk__handling_delivery(L, h);
    if (!m) {
        return rk__lua_raise(L, RK_EINVAL, RK_NOBODY);
    }
    if (rk__is_call(m) && m->flags & RK__ANSWERED) {
        return luaL_error(L, "stash: this call has its answer, it cannot be handled again");
    }
    if (s->stash.count >= s->stash_bound) {
        rk__fail(RK_EFULL,
                 "the stash is full (%u messages): unstash, or give the handler table a "
                 "larger 'stash'",
                 s->stash_bound);
        return rk__lua_raise(L, RK_EFULL, RK_NOBODY);
    }
    rk__queue_append(&s->stash, rk__handling_take(L, h));
    s->held_calls += rk__is_call(m);
    h->stashed = true;
    host->self->handling = false;
    return 0;
}

/* Moves all of `from` behind what is in `to`. */
static void append_all(rk__queue *to, rk__queue *from)
{
    if (from->first) {
        if (to->last) {
            to->last->link.next = &from->first->link;
        } else {
            to->first = from->first;
        }
        to->last = from->last;
        to->count += from->count;
        *from = (rk__queue){0};
    }
}

/* ctx:unstash() -> number of messages. What is put aside now came before what waits already. */
static int unstash(lua_State *L)
{
    rk__server *s = &rk__lua_host_of(L)->server;
    lua_pushinteger(L, s->stash.count);
    append_all(&s->stash, &s->replay);
    append_all(&s->replay, &s->stash);
    s->changed = true;
    return 1;
}

/* It waited in the stash for longer than its sender allowed. takes m */
static void expire(rk__lua_host *host, rk_message *m)
{
    char who[RK_PID_TEXT];
    rk_pid self = rk__actor_pid(host->self);
    rk__fail(RK_EEXPIRED, "expired: %s kept the message in its stash for too long",
             rk_pid_format(self, who));
    if (rk__is_call(m)) {
        rk__reply(host->self, m, rk__message_error(RK_EEXPIRED, rk_errdetail()));
    }
    rk__bury(self, m, RK_EEXPIRED);
}

rk_message *rk__stash_next(rk__lua_host *host)
{
    rk__server *s = &host->server;
    while (s->replay.first) {
        rk_message *m = rk__queue_pop(&s->replay);
        s->held_calls -= rk__is_call(m);
        if (m->deadline == 0 || m->deadline > rk__now()) {
            host->self->handling = !rk__is_call(m);
            return m;
        }
        expire(host, m);
    }
    return NULL;
}

/* ---- the end ---- */

static void lose(rk__lua_host *host, rk__queue *q, const char *reason)
{
    rk_message *m;
    while ((m = rk__queue_pop(q)) != NULL) {
        if (rk__is_call(m)) {
            rk__lua_answer_dead(host->self, m, reason);
            rk_message_release(m);
        } else {
            rk__bury(rk__actor_pid(host->self), m, RK_EDEAD);
        }
    }
}

void rk__stash_lose(rk__lua_host *host, const char *reason)
{
    lose(host, &host->server.replay, reason);
    lose(host, &host->server.stash, reason);
    host->server.held_calls = 0;
}

void rk__lua_add_stash(lua_State *L)
{
    static const luaL_Reg methods[] = {{"stash", stash}, {"unstash", unstash}, {NULL, NULL}};
    luaL_setfuncs(L, methods, 0);
}
