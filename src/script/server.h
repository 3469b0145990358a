/* server.h -- the loop of handler tables: what server.c shares with handlers.c and forgotten.c. */
#ifndef RK_SCRIPT_SERVER_H
#define RK_SCRIPT_SERVER_H

#include "script/scheduler.h"

enum {
    RK__SERVER_HANDLERS = 1000, /* at the same time, when `reentrant` is true */
    RK__SERVER_STASH = 1000,    /* messages in the stash, when nothing is said */
    RK__SERVER_MOST = 1000000   /* the most either may be */
};

/* handlers.c: `reentrant` and `stash` of the handler table at index (absolute): handlers at the same
 * time, 0: one by one; messages. Raise for what they cannot be. owner only */
uint32_t rk__lua_reentrant(lua_State *L, int index);
uint32_t rk__lua_stash_bound(lua_State *L, int index);

static inline bool rk__is_call(const rk_message *m)
{
    return (m->flags & RK__CALL) != 0;
}

/* ---- handling.c (owner only) ---- */

/* That of the running handler; the body's when none runs in a task of its own. */
rk__handling *rk__handling_of(rk__lua_host *host);
/* Makes the value on top, which stays there, the one that is handled. */
void rk__handling_keep(lua_State *L, rk__handling *h);
void rk__handling_forget_value(lua_State *L, rk__handling *h);
/* It is over: a call that nobody answered or kept is released, which answers it. */
void rk__handling_forget(lua_State *L, rk__handling *h);
/* The delivery that is being handled; NULL with the error set: there is none (any more). borrows */
rk_message *rk__handling_delivery(lua_State *L, rk__handling *h);
/* The same, taken away from the value that holds it. gives */
rk_message *rk__handling_take(lua_State *L, rk__handling *h);
/* Counts what is no call and ends unfinished with its handler. */
void rk__handling_unfinished(lua_State *L, rk__lua_host *host, rk__handling *h);
/* Adds answer, refuse and reject to the table on top, for rk/server.lua. */
void rk__lua_add_answers(lua_State *L);

/* ---- stash.c (owner only) ---- */

/* The next message that was unstashed; NULL: there is none, or what there was had expired. gives */
rk_message *rk__stash_next(rk__lua_host *host);
/* The actor ends: calls are answered RK_EDEAD with the reason, the rest are dead letters. */
void rk__stash_lose(rk__lua_host *host, const char *reason);
/* Adds stash and unstash to the methods of ctx in the table on top. */
void rk__lua_add_stash(lua_State *L);

/* ---- forgotten.c (owner only) ---- */

/* Dropped requests are answered when their values are collected, which an idle state would never do:
 * the deadline of a park, made shorter when there may be some, and the look for them after it. */
int64_t rk__sweep_deadline(rk__lua_host *host, int64_t deadline);
void rk__sweep(rk__lua_host *host);
/* forgotten.c: the hook of rk__actor: a call is released unanswered. borrows m. owner only */
void rk__lua_forgotten(rk__actor *self, const rk_message *m);
/* One line in the log for the calls an actor still owes that ended normally. owner only */
void rk__lua_still_owed(const rk__actor *self, const char *reason);
/* False when this text was said already in this state. owner only */
bool rk__lua_say_once(rk__lua_host *host, const void *text, size_t size);

/* luaactor.c: answers a call with RK_EDEAD and the reason. owner only */
void rk__lua_answer_dead(rk__actor *self, rk_message *request, const char *reason);

#endif
