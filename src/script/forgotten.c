/*
 * forgotten.c -- calls that nobody answered: dropped by a handler that meant to answer later, or
 * still owed when the actor ended: finding them, warning of them.
 *
 * A call that was dropped is answered with RK_ENOREPLY by its release; here the log hears of it, once
 * for each entry. What was said is kept as hashes of names, a few bytes each.
 *
 * Threads: the state's own, also inside finalizers.
 */
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "script/server.h"
#include "script/values.h"

/* ---- dropped requests ---- */

#define SWEEP_IDLE  INT64_C(100000000) /* ns without work before a look */
#define SWEEP_SHARE 20                 /* at most one part in so many of the time goes into it */

static int retire_last(lua_State *L)
{
    rk__lua_retire_last(L);
    return 0;
}

/* Requests the collector may find dropped: not those a handler is working on. */
static bool owes_answers(rk__lua_host *host)
{
    return host->self->outstanding_count > 0 &&
           host->self->outstanding_count > rk__server_held_calls(host) &&
           lua_gc(host->L, LUA_GCISRUNNING);
}

/* The deadline of a park. A request that Lua code dropped is answered when its value is collected,
 * which an idle state would never do: so the first park of an idle time is a short one. */
int64_t rk__sweep_deadline(rk__lua_host *host, int64_t deadline)
{
    if (host->swept || !owes_answers(host)) {
        return deadline;
    }
    if (host->sweep_at == 0) {
        lua_State *L = host->running;
        lua_pushcfunction(L, retire_last);
        if (lua_pcall(L, 0, 0, 0) != LUA_OK) {
            lua_pop(L, 1);
        }
        host->sweep_at = rk__now() + SWEEP_IDLE;
        if (host->sweep_at < host->sweep_after) {
            host->sweep_at = host->sweep_after;
        }
    }
    return host->sweep_at < deadline ? host->sweep_at : deadline;
}

void rk__sweep(rk__lua_host *host)
{
    int64_t start = host->sweep_at > 0 ? rk__now() : 0;
    if (host->swept || start == 0 || start < host->sweep_at) {
        return;
    }
    host->swept = true; /* before finalizers run, which may wait */
    lua_gc(host->running, LUA_GCCOLLECT);
    int64_t end = rk__now();
    host->sweep_after = end + (end - start) * SWEEP_SHARE;
}

/* ---- warnings ---- */

/* `call "get"` for a call by name, else the type of its message. */
static void describe(const rk_message *m, rk__strbuf *out)
{
    rk__token name, verb;
    rk__reader r;
    uint32_t count;
    if (rk__lua_entry_call(m, &name, &verb, &r, &count)) {
        rk__strbuf_addf(out, "call \"%.*s\"", (int)(name.size < 100 ? name.size : 100), name.bytes);
    } else if (m->body->type) {
        rk__strbuf_addf(out, "call with a '%s'", m->body->type->name);
    } else {
        rk__strbuf_adds(out, "call with a plain value");
    }
}

enum { SAID_MOST = 1000 }; /* names come from anybody; afterwards the log hears no more */

bool rk__lua_say_once(rk__lua_host *host, const void *name, size_t size)
{
    rk__said *said = &host->said;
    uint64_t hash = rk__hash64(name, size);
    for (uint32_t i = 0; i < said->count; i++) {
        if (said->hashes[i] == hash) {
            return false;
        }
    }
    if (said->count == SAID_MOST) {
        return false;
    }
    if (said->count == said->room) {
        uint32_t room = said->room ? 2 * said->room : 8;
        uint64_t *hashes = realloc(said->hashes, room * sizeof *hashes);
        if (!hashes) {
            return false;
        }
        said->hashes = hashes;
        said->room = room;
    }
    said->hashes[said->count++] = hash;
    return true;
}

void rk__lua_forgotten(rk__actor *self, const rk_message *m)
{
    char who[RK_PID_TEXT], from[RK_PID_TEXT];
    rk__lua_host *host = rk__lua_host_current();
    rk__strbuf what = RK__STRBUF_INIT;
    describe(m, &what);
    if (host && host->self == self && what.bytes && rk__lua_say_once(host, what.bytes, what.size)) {
        rk__log(RK__LOG_WARN, rk_pid_format(rk__actor_pid(self), who),
                "forgot to answer: a %s from %s was dropped unanswered, the caller hears ENOREPLY; "
                "said once for it",
                what.bytes, rk_pid_format(m->from, from));
    }
    rk__strbuf_free(&what);
}

void rk__lua_still_owed(const rk__actor *self, const char *reason)
{
    enum { SHOWN = 3 };
    char who[RK_PID_TEXT], from[RK_PID_TEXT];
    rk__strbuf list = RK__STRBUF_INIT;
    uint32_t owed = self->outstanding_count;
    for (uint32_t i = 0; i < owed && i < SHOWN; i++) {
        const rk_message *m = self->outstanding[i];
        rk__strbuf_adds(&list, i > 0 ? ", a " : "a ");
        describe(m, &list);
        rk__strbuf_addf(&list, " from %s", rk_pid_format(m->from, from));
    }
    if (owed > 0 && list.bytes) {
        rk__log(RK__LOG_WARN, rk_pid_format(rk__actor_pid(self), who),
                "ended (%s) and still owed %u answer%s: %s%s; the callers hear EDEAD", reason, owed,
                owed == 1 ? "" : "s", list.bytes, owed > SHOWN ? "..." : "");
    }
    rk__strbuf_free(&list);
}
