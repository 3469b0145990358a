/*
 * delivery.c -- received messages as Lua values, Lua values as messages, and which delivery a plain
 * value came from.
 *
 * Entered by the thread of the lua_State. A delivery belongs to exactly one place: while it is
 * being made into a value to the C frame that runs this in a protected call, afterwards to a
 * userdata or to `last`. So an error that Lua raises on the way loses nothing.
 *
 * A plain value has no room for its delivery. The last one received is kept in `last`, together
 * with the value; when the next comes and the earlier could still be answered, a table goes to a
 * weak-keyed table and its delivery with it; strings, numbers and booleans can be answered only
 * while they are the last. When such a table is collected its delivery is released, which answers
 * a caller with RK_ENOREPLY.
 */
#include <string.h>
#include "base/error.h"
#include "base/log.h"
#include "script/values.h"

enum { LAST_VALUE = 1, EARLIER = 2 }; /* user values of rk__lua_values */
enum { ACCOUNT_STEP = 16384 };        /* bytes between two words with the collector */
enum { SCRATCH_KEPT = 1 << 20 };      /* a larger scratch buffer is given back */

static const char values_key = 0;
static const char delivery_tag = 0;

/* ---- what a state keeps ---- */

rk__lua_values *rk__lua_values_of(lua_State *L, bool push)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &values_key);
    rk__lua_values *v = lua_touserdata(L, -1);
    rk_assert(v);
    if (!push) {
        lua_pop(L, 1);
    }
    return v;
}

static int values_gc(lua_State *L)
{
    rk__lua_values *v = lua_touserdata(L, 1);
    rk_message_release(v->last);
    v->last = NULL;
    rk__strbuf_free(&v->scratch);
    return 0;
}

void rk__lua_account(lua_State *L, size_t bytes)
{
    rk__lua_values *v = rk__lua_values_of(L, false);
    v->unseen += bytes;
    if (v->unseen >= ACCOUNT_STEP) {
        size_t kilobytes = v->unseen / 1024;
        v->unseen = 0;
        if (lua_gc(L, LUA_GCISRUNNING)) {
            lua_gc(L, LUA_GCSTEP,
                   (int)(kilobytes < INT32_MAX / 1024 ? kilobytes : INT32_MAX / 1024));
        }
    }
}

/* ---- earlier deliveries ---- */

struct holder {
    const char *tag;
    rk_message *delivery;
};

static int holder_gc(lua_State *L)
{
    struct holder *h = lua_touserdata(L, 1);
    rk_message_release(h->delivery);
    h->delivery = NULL;
    return 0;
}

static bool may_be_answered(const rk_message *m)
{
    return m->from != RK_NOBODY && !(m->flags & (RK__REPLY | RK__ANSWERED));
}

/* Moves the last delivery to the table of earlier ones. Making a userdata may run a finalizer that
 * receives, so `last` is looked at again when nothing can come between any more. */
static void move_last(lua_State *L, int values, rk__lua_values *v)
{
    rk_message *moving = v->last;
    lua_getiuservalue(L, values, EARLIER);
    lua_getiuservalue(L, values, LAST_VALUE);
    struct holder *h = lua_newuserdatauv(L, sizeof *h, 0);
    h->tag = &delivery_tag;
    h->delivery = NULL;
    luaL_setmetatable(L, "rk.delivery");
    lua_rawset(L, -3);
    if (v->last == moving) {
        h->delivery = moving;
        v->last = NULL;
        v->unseen += sizeof(rk__body) + moving->body->capacity;
    }
}

/* Makes room in `last`. The values are at index `values`, which is the top. */
static void retire_last(lua_State *L, int values, rk__lua_values *v)
{
    while (v->last) {
        if (may_be_answered(v->last) && lua_getiuservalue(L, values, LAST_VALUE) == LUA_TTABLE) {
            move_last(L, values, v);
        } else {
            rk_message_release(v->last);
            v->last = NULL;
        }
        lua_settop(L, values);
    }
}

bool rk__lua_retire_last(lua_State *L)
{
    rk__lua_values *v = rk__lua_values_of(L, true);
    int values = lua_gettop(L);
    bool moves = v->last && may_be_answered(v->last) &&
                 lua_getiuservalue(L, values, LAST_VALUE) == LUA_TTABLE;
    if (moves) {
        move_last(L, values, v);
        lua_pushnil(L);
        lua_setiuservalue(L, values, LAST_VALUE);
    }
    lua_settop(L, values - 1);
    return moves;
}

static rk_message *earlier(lua_State *L, int values, int index)
{
    lua_getiuservalue(L, values, EARLIER);
    lua_pushvalue(L, index);
    lua_rawget(L, -2);
    const struct holder *h = rk__lua_tagged(L, -1, &delivery_tag, sizeof *h);
    lua_pop(L, 2);
    return h ? h->delivery : NULL;
}

static rk_message *plain_request(lua_State *L, int index)
{
    rk__lua_values *v = rk__lua_values_of(L, true);
    rk_message *m = NULL;
    int values = lua_gettop(L);
    lua_getiuservalue(L, values, LAST_VALUE);
    if (v->last && lua_rawequal(L, index, -1)) {
        m = v->last;
    } else if (lua_istable(L, index)) {
        m = earlier(L, values, index);
    }
    lua_settop(L, values - 1);
    return m;
}

rk_message *rk__lua_request(lua_State *L, int index)
{
    index = lua_absindex(L, index);
    const rk__lua_message *m = rk__lua_to_message(L, index);
    rk_message *delivery = m ? m->delivery : plain_request(L, index);
    if (!delivery && m) {
        rk__fail(RK_EINVAL, "cannot reply: this '%s' was not received here, it was made here",
                 m->type->name);
    } else if (!delivery) {
        rk__fail(RK_EINVAL, "cannot reply: this %s is not a message that was received here%s",
                 luaL_typename(L, index),
                 lua_istable(L, index)
                     ? ""
                     : "; a plain string, number or boolean can be answered only until the next "
                       "message is received");
    }
    return delivery;
}

static rk_message *take_plain_delivery(lua_State *L, int index)
{
    rk__lua_values *v = rk__lua_values_of(L, true);
    rk_message *m = NULL;
    int values = lua_gettop(L);
    lua_getiuservalue(L, values, LAST_VALUE);
    if (v->last && lua_rawequal(L, index, -1)) {
        m = v->last;
        v->last = NULL;
    } else if (lua_istable(L, index)) {
        lua_getiuservalue(L, values, EARLIER);
        lua_pushvalue(L, index);
        lua_rawget(L, -2);
        struct holder *h = rk__lua_tagged(L, -1, &delivery_tag, sizeof *h);
        m = h ? h->delivery : NULL;
        if (h) {
            h->delivery = NULL;
        }
    }
    lua_settop(L, values - 1);
    return m;
}

rk_message *rk__lua_take_delivery(lua_State *L, int index)
{
    index = lua_absindex(L, index);
    rk__lua_message *u = rk__lua_to_message(L, index);
    if (!u) {
        return take_plain_delivery(L, index);
    }
    rk_message *m = u->delivery;
    if (m) {
        rk__body_retain(u->body); /* the value's own reference from now on */
        u->delivery = NULL;
    }
    return m;
}

/* ---- receiving ---- */

static void take_typed(lua_State *L, rk_message *m, bool received)
{
    rk__lua_push_meta(L, m->body->type);
    rk__lua_message *u = rk__lua_new_message(L, lua_gettop(L), m->body->type);
    u->base = (const char *)m->body->payload;
    u->body = m->body;
    u->priority = m->priority;
    u->correlation = m->correlation;
    if (received) {
        u->delivery = m;
    } else {
        rk__body_retain(u->body);
    }
}

/* Bytes that are no Lua value (from C: a map with nil as a key) arrive as they are. */
static void take_plain(lua_State *L, const rk_message *m)
{
    rk__reader r;
    rk__reader_init(&r, m->body->payload, m->body->size);
    if (rk__lua_unpack(L, &r) < 0) {
        rk__log(RK__LOG_WARN, NULL, "a received message is kept as bytes: %s", rk_errdetail());
        lua_pushlstring(L, (const char *)m->body->payload, m->body->size);
    }
}

/* Argument: where the delivery is; cleared once somebody else owns it, for a kill raises its error
 * also when this returns. */
static int protected_push(lua_State *L)
{
    rk_message **slot = lua_touserdata(L, 1), *m = *slot;
    if (m->body->type) {
        take_typed(L, m, true);
        *slot = NULL;
        return 1;
    }
    take_plain(L, m);
    rk__lua_values *v = rk__lua_values_of(L, true);
    if (m->flags & RK__REPLY) {
        *slot = NULL;
        rk_message_release(m);
    } else {
        retire_last(L, 3, v);
        lua_pushvalue(L, 2);
        lua_setiuservalue(L, 3, LAST_VALUE);
        *slot = NULL;
        v->last = m;
    }
    lua_settop(L, 2);
    return 1;
}

static int protected_push_unsent(lua_State *L)
{
    take_typed(L, *(rk_message **)lua_touserdata(L, 1), false);
    return 1;
}

/* Runs fn on m; on an error what is left of m is released before it goes on. */
static void push_protected(lua_State *L, lua_CFunction fn, rk_message *m)
{
    size_t bytes = sizeof(rk__body) + m->body->capacity;
    bool typed = m->body->type;
    if (!lua_checkstack(L, 8)) {
        rk_message_release(m);
        luaL_error(L, "the Lua stack is full");
    }
    lua_pushcfunction(L, fn);
    lua_pushlightuserdata(L, &m);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) {
        rk_message_release(m);
        lua_error(L);
    }
    rk__delivery_free(m); /* of push_unsent */
    if (typed) {
        rk__lua_account(L, bytes);
    }
}

void rk__lua_push_delivery(lua_State *L, rk_message *m)
{
    if (m->flags & RK__PARCEL) {
        rk__lua_push_parcel(L, m);
    } else {
        push_protected(L, protected_push, m);
    }
}

void rk__lua_push_unsent(lua_State *L, rk_message *m)
{
    push_protected(L, protected_push_unsent, m);
}

/* ---- sending ---- */

/* takes the caller's reference, also on failure. */
static rk_message *deliver(rk__body *body)
{
    rk_message *m = rk__delivery_new(body);
    if (!m) {
        rk__body_release(body);
        rk__fail(RK_ENOMEM, "out of memory for a message");
    }
    return m;
}

static rk_message *deliver_message(const rk__lua_message *u)
{
    rk__body *body = rk__lua_message_body(u);
    rk_message *m = body ? deliver(body) : NULL;
    if (m) {
        m->priority = rk__lua_message_priority(u);
        /* A message that is passed on answers nobody: only a correlation set here travels. */
        if (!u->delivery) {
            m->correlation = u->correlation;
        }
    }
    return m;
}

static rk_message *deliver_bytes(const rk__strbuf *bytes)
{
    if (bytes->size > INT32_MAX) {
        rk__fail(RK_ELIMIT, "a message of %zu bytes; at most 2 GiB are possible", bytes->size);
        return NULL;
    }
    rk__body *body = rk__body_new(NULL, (uint32_t)bytes->size);
    if (!body) {
        rk__fail(RK_ENOMEM, "out of memory for a message of %zu bytes", bytes->size);
        return NULL;
    }
    memcpy(body->payload, bytes->bytes, bytes->size);
    return deliver(body);
}

static rk__strbuf *scratch(lua_State *L)
{
    rk__strbuf *s = &rk__lua_values_of(L, false)->scratch;
    if (s->capacity > SCRATCH_KEPT) {
        rk__strbuf_free(s);
    }
    rk__strbuf_clear(s);
    return s;
}

rk_message *rk__lua_to_delivery(lua_State *L, int index)
{
    const rk__lua_message *u = rk__lua_to_message(L, index);
    if (u) {
        return deliver_message(u);
    }
    rk_message *parcel = lua_isuserdata(L, index) ? rk__lua_take_parcel(L, index) : NULL;
    if (parcel) {
        return parcel;
    }
    rk__strbuf *s = scratch(L);
    return rk__lua_pack(L, index, s) < 0 ? NULL : deliver_bytes(s);
}

static int pack_all(lua_State *L, int first, int last, rk__strbuf *out)
{
    int rc = 0;
    for (int i = first; rc == 0 && i <= last; i++) {
        rc = rk__lua_pack(L, i, out);
        if (rc < 0) {
            rk__fail_prefix(rc, "argument %d", i - first + 1);
        }
    }
    return rc;
}

static uint32_t items(int first, int last)
{
    return last >= first ? (uint32_t)(last - first + 1) : 0;
}

rk_message *rk__lua_to_delivery_array(lua_State *L, int first, int last)
{
    rk__strbuf *s = scratch(L);
    rk__pack_array(s, items(first, last));
    return pack_all(L, first, last, s) < 0 ? NULL : deliver_bytes(s);
}

rk_message *rk__lua_to_entry_call(lua_State *L, const char *name, size_t size, const char *verb,
                                  int first, int last)
{
    rk__strbuf *s = scratch(L);
    rk__pack_array(s, 2 + items(first, last));
    rk__pack_ext(s, RK__EXT_ENTRY, name, size);
    rk__pack_str(s, verb, strlen(verb));
    return pack_all(L, first, last, s) < 0 ? NULL : deliver_bytes(s);
}

/* ---- opening ---- */

static void push_gc_metatable(lua_State *L, const char *name, lua_CFunction gc)
{
    luaL_newmetatable(L, name);
    lua_pushcfunction(L, gc);
    lua_setfield(L, -2, "__gc");
}

void rk__lua_open_deliveries(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &values_key) != LUA_TNIL) {
        lua_pop(L, 1);
        return;
    }
    lua_pop(L, 1);
    push_gc_metatable(L, "rk.delivery", holder_gc);
    rk__lua_values *v = lua_newuserdatauv(L, sizeof *v, 2);
    *v = (rk__lua_values){.scratch = RK__STRBUF_INIT};
    push_gc_metatable(L, "rk.values", values_gc);
    lua_setmetatable(L, -2);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_setiuservalue(L, -2, EARLIER);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &values_key);
    lua_pop(L, 1);
}
