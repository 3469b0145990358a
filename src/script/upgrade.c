/*
 * upgrade.c -- pid:upgrade(definition): new handlers for a Lua actor that runs.
 *
 * The caller captures the definition in its own state and sends it as a parcel of system mail. The
 * actor's host takes it between two looks at its mail (rk__lua_attend) and keeps it in a list, and
 * next() of server.c gives it to the loop of the handler table when no handler runs. The loop
 * restores the image, checks it, runs migrate, and tells the caller.
 *
 * An upgrade has two owners, the caller and the parcel, later the actor. `state` says who decides:
 * the caller withdraws one that WAITS, the actor takes one that WAITS, and whoever loses the race
 * leaves it alone. So what a caller was told has not happened will not happen later.
 *
 * Threads: the caller's; the actor's; free_parcel any.
 */
#include "script/upgrade.h"

#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "script/launch.h"
#include "script/transfer.h"

enum { WAITS, TAKEN, OVER }; /* rk__upgrade.state */

static const char class_name[] = "rk.upgrade";

struct rk__upgrade {
    uint32_t refs; /* atomic */
    uint32_t
        state; /* atomic: read-modify-writes on one word, whoever changes WAITS owns the answer */
    rk_pid to, from;
    uint64_t token;             /* of the answer */
    rk__definition *definition; /* retained; NULL: none was named */
    const rk__image *image;
    rk__image *own; /* the image, unless it is the definition's */
    rk__upgrade *next;
};

/* ---- one upgrade ---- */

static void unref(rk__upgrade *u)
{
    /* Pairs with the other release: the last one sees everything the others did. */
    if (__atomic_sub_fetch(&u->refs, 1, __ATOMIC_ACQ_REL) > 0) {
        return;
    }
    rk__lua_image_free(u->own);
    if (u->definition) {
        rk__definition_release(u->definition);
    }
    free(u);
}

/* Moves it on from WAITS; false: somebody else did. */
static bool decide(rk__upgrade *u, uint32_t state)
{
    uint32_t waits = WAITS;
    return __atomic_compare_exchange_n(&u->state, &waits, state, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

/* takes m; NULL: out of memory, the caller's time runs out. */
static void tell(const rk__upgrade *u, rk_message *m)
{
    if (m) {
        m->token = u->token;
        m->flags |= RK__REPLY;
        m->from = u->to;
        rk__post_or_bury(u->from, m);
    }
}

static void tell_done(const rk__upgrade *u)
{
    rk__body *body = rk__body_new(NULL, 1);
    rk_message *m = body ? rk__delivery_new(body) : NULL;
    if (m) {
        body->payload[0] = 0xc3; /* MessagePack: true */
    } else if (body) {
        rk__body_release(body);
    }
    tell(u, m);
}

static void refuse(rk__upgrade *u, int code, const char *text)
{
    if (decide(u, OVER)) {
        tell(u, rk__message_error(code, text));
    }
}

/* The parcel goes unopened: its mailbox was closed. */
static void free_parcel(void *data)
{
    rk__upgrade *u = data;
    rk__actor_dead(u->to);
    refuse(u, RK_EDEAD, rk_errdetail());
    unref(u);
}

/* A userdata that has a reference; on the actor's side it also owes the answer. */
typedef struct holder {
    rk__upgrade *upgrade;
    bool owes;
} holder;

static int holder_gc(lua_State *L)
{
    holder *h = lua_touserdata(L, 1);
    rk__upgrade *u = h->upgrade;
    h->upgrade = NULL;
    if (u && h->owes) {
        tell(u, rk__message_error(RK_EDEAD, "the actor ended in the middle of its upgrade"));
    } else if (u) {
        decide(u, OVER); /* the coroutine that waited is closed */
    }
    if (u) {
        unref(u);
    }
    return 0;
}

static holder *push_holder(lua_State *L)
{
    holder *h = lua_newuserdatauv(L, sizeof *h, 0);
    *h = (holder){0};
    if (luaL_newmetatable(L, class_name)) {
        lua_pushcfunction(L, holder_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return h;
}

/* ---- the caller's side: what to send ---- */

static int function_refused(void)
{
    return rk__fail(RK_EUNSUPPORTED,
                    "a function cannot replace what an actor runs: only an actor that is a handler "
                    "table can be upgraded, with a handler table");
}

/* The image of a definition; u->definition is it, retained. */
static int use_definition(rk__upgrade *u)
{
    const rk__definition *d = u->definition;
    if (strcmp(d->kind, "lua") != 0) {
        return rk__fail(RK_EUNSUPPORTED,
                        "\"%s\" is a definition of kind %s: a Lua actor takes a handler table",
                        d->name, d->kind);
    }
    int code = rk__lua_definition_image(u->definition, &u->image, &u->own);
    return code < 0 ? code : 0;
}

static int use_value(lua_State *L, rk__upgrade *u, int index)
{
    int code = rk__lua_capture(L, index, &u->own);
    u->image = u->own;
    return code;
}

static int find_module(lua_State *L)
{
    lua_pushboolean(L, rk__lua_module_exists(L, 1));
    return 1;
}

/* A searcher that fails has found something: the actor's own require will say what is wrong. */
static bool is_module(lua_State *L, int index)
{
    lua_pushcfunction(L, find_module);
    lua_pushvalue(L, index);
    bool found = lua_pcall(L, 1, 1, 0) != LUA_OK || lua_toboolean(L, -1);
    lua_pop(L, 1);
    return found;
}

/* The value at index is a name: of a definition, else of a module. */
static int use_name(lua_State *L, rk__upgrade *u, int index)
{
    if (rk__definition_get(lua_tostring(L, index), &u->definition) == 0) {
        return use_definition(u);
    }
    lua_pushstring(L, rk_errdetail());
    if (!is_module(L, index)) {
        return rk__fail(RK_ENOENT, "%s; and require finds no module of this name",
                        lua_tostring(L, -1));
    }
    lua_pop(L, 1);
    return use_value(L, u, index);
}

/* Raises for what is no definition at all. */
static int use_definition_at(lua_State *L, rk__upgrade *u, int index)
{
    rk__definition **slot = luaL_testudata(L, index, "rk.definition");
    if (slot && *slot) {
        __atomic_fetch_add(&(*slot)->refs, 1, __ATOMIC_RELAXED);
        u->definition = *slot;
        return use_definition(u);
    }
    switch (lua_type(L, index)) {
    case LUA_TSTRING:
        return use_name(L, u, index);
    case LUA_TTABLE:
        rk__lua_check_handlers(L, index);
        return use_value(L, u, index);
    case LUA_TFUNCTION:
        return function_refused();
    default:
        return luaL_typeerror(L, index, "name, definition or handler table");
    }
}

/* ---- the caller's side: asking ---- */

/* nil, message with its traceback, code. */
static int failed(lua_State *L, int code)
{
    const char *detail = rk_errdetail();
    lua_pushnil(L);
    lua_pushstring(L, detail[0] ? detail : rk_strerror(code));
    lua_pushstring(L, rk_err_name(code));
    return 3;
}

static int ran_out(rk__upgrade *u)
{
    char who[RK_PID_TEXT];
    rk_info info;
    rk_pid_format(u->to, who);
    if (!decide(u, OVER)) {
        return rk__fail(RK_ETIMEOUT, "timeout: %s has begun the upgrade, its migrate is not done",
                        who);
    }
    const char *state = rk_inspect(u->to, &info) == 0 ? rk_state_name(info.state) : "gone";
    return rk__fail(
        RK_ETIMEOUT,
        "timeout: %s (%s) came to no place between two messages within %g s; the upgrade "
        "was withdrawn",
        who, state, (double)RK__CALL_TIMEOUT / 1e9);
}

static int asked(lua_State *L, int status, lua_KContext context)
{
    (void)status;
    rk__waiter *w = (rk__waiter *)context;
    rk__upgrade *u = ((holder *)lua_touserdata(L, w->filter_index))->upgrade;
    rk_message *m = w->message;
    w->message = NULL;
    w->kind = RK__WAIT_NOTHING;
    if (w->code < 0) {
        bool late = w->code == RK_ETIMEOUT;
        return failed(L, late ? ran_out(u) : rk__fail(w->code, "interrupted"));
    }
    if (m->flags & RK__ERROR) {
        return failed(L, rk__answer_error(m));
    }
    rk_message_release(m);
    lua_pushboolean(L, 1);
    return 1;
}

/* Sends the parcel; its reference is a second one. */
static int post(rk__upgrade *u)
{
    u->refs++;
    rk_message *m = rk__message_parcel(u, free_parcel);
    if (!m) {
        u->refs--;
        return rk__fail(RK_ENOMEM, "out of memory for an upgrade");
    }
    m->from = u->from;
    m->flags |= RK__SYSTEM;
    m->priority = 255;
    int code = rk__post(u->to, m);
    if (code < 0) {
        decide(u, OVER);
        rk__delivery_free(m);
    }
    return code;
}

static int check_target(lua_State *L, rk_pid pid)
{
    char who[RK_PID_TEXT];
    rk_info info;
    int code = rk_inspect(pid, &info);
    if (code < 0) {
        return code;
    }
    if (strcmp(info.kind, "lua") != 0) {
        return rk__fail(RK_EUNSUPPORTED,
                        "%s is an actor of kind %s: handlers of Lua are for Lua actors",
                        rk_pid_format(pid, who), info.kind);
    }
    if (pid == rk__actor_pid(rk__lua_self(L))) {
        return rk__fail(RK_ESELF, "an actor that upgrades itself would wait for ever: inside it, "
                                  "self.ctx:become(handlers) replaces its handlers");
    }
    return 0;
}

int rk__lua_upgrade_actor(lua_State *L, rk_pid pid, int index)
{
    rk__lua_host *host = rk__lua_host_of(L);
    rk__waiter local;
    lua_settop(L, index);
    holder *h = push_holder(L);
    int code = check_target(L, pid);
    rk__upgrade *u = code == 0 ? h->upgrade = calloc(1, sizeof *u) : NULL;
    if (code < 0 || !u) {
        return failed(L, code < 0 ? code : rk__fail(RK_ENOMEM, "out of memory for an upgrade"));
    }
    u->refs = 1;
    u->to = pid;
    u->from = rk__actor_pid(host->self);
    code = use_definition_at(L, u, index);
    if (code < 0) {
        return failed(L, code);
    }
    rk__waiter *w = rk__waiter_get(host, L, &local);
    w->token = u->token = rk__token_new(host->self);
    w->filter_index = index + 1;
    code = post(u);
    if (code < 0) {
        return failed(L, code);
    }
    w->kind = RK__WAIT_REPLY;
    w->deadline = rk__deadline(RK__CALL_TIMEOUT);
    rk__suspend(host, L, w, asked);
    return asked(L, LUA_OK, (lua_KContext)w);
}

/* ---- the actor's side ---- */

bool rk__lua_attend(rk__actor *self, rk_message *m)
{
    rk__parcel *parcel = m->flags & RK__PARCEL ? (rk__parcel *)m->body->payload : NULL;
    rk__lua_host *host = rk__lua_host_current();
    if (!parcel || parcel->free != free_parcel || !host || host->self != self) {
        return false;
    }
    rk__upgrade *u = parcel->data, **end = &host->server.upgrades;
    parcel->data = NULL;
    rk__delivery_free(m);
    if (host->body && !host->server.serving) {
        char text[RK_PID_TEXT + 120], who[RK_PID_TEXT];
        snprintf(text, sizeof text,
                 "%s runs a function: only an actor that is a handler table can be upgraded",
                 rk_pid_format(u->to, who));
        refuse(u, RK_EUNSUPPORTED, text);
        unref(u);
        return true;
    }
    while (*end) {
        end = &(*end)->next;
    }
    *end = u;
    host->server.changed = true;
    return true;
}

int rk__lua_push_upgrade(lua_State *L, rk__lua_host *host)
{
    while (host->server.upgrades) {
        holder *h = push_holder(L);
        rk__upgrade *u = host->server.upgrades;
        host->server.upgrades = u->next;
        if (decide(u, TAKEN)) {
            h->upgrade = u;
            h->owes = true;
            lua_pushliteral(L, "upgrade");
            lua_insert(L, -2);
            return 2;
        }
        unref(u);
        lua_pop(L, 1);
    }
    return 0;
}

void rk__lua_refuse_upgrades(rk__lua_host *host, const char *why)
{
    rk__upgrade *u;
    while ((u = host->server.upgrades) != NULL) {
        host->server.upgrades = u->next;
        refuse(u, RK_EDEAD, why);
        unref(u);
    }
}

static holder *check_holder(lua_State *L)
{
    holder *h = luaL_checkudata(L, 1, class_name);
    luaL_argcheck(L, h->upgrade, 1, "this upgrade is over");
    return h;
}

/* A module goes by its name, and restoring gives what this actor has loaded long ago: the name of
 * such a definition, else NULL. */
static const char *module_name(const rk__image *image, size_t *size)
{
    const char *bytes = image->bytes.bytes;
    uint64_t length;
    if (*bytes != RK__IMAGE_NAMED) {
        return NULL;
    }
    memcpy(&length, bytes + 1, sizeof length);
    const char *name = bytes + 1 + sizeof length;
    *size = length > 0 && name[length - 1] == '\0' ? length - 1 : length;
    return memchr(name, '\0', *size) ? NULL : name;
}

/* load(upgrade): the new definition in this state, or the name of its module. */
static int load(lua_State *L)
{
    rk__upgrade *u = check_holder(L)->upgrade;
    size_t size;
    const char *name = module_name(u->image, &size);
    if (name) {
        lua_pushlstring(L, name, size);
    } else if (rk__lua_restore(L, u->image) < 0) {
        return luaL_error(L, "%s", rk_errdetail());
    }
    return 1;
}

/* upgraded(upgrade [, code name, text]): done, or why not. */
static int upgraded(lua_State *L)
{
    holder *h = check_holder(L);
    rk__upgrade *u = h->upgrade;
    const char *code = luaL_optstring(L, 2, NULL), *text = luaL_optstring(L, 3, "");
    h->upgrade = NULL;
    if (code) {
        tell(u, rk__message_error(rk__err_code(code), text));
    } else {
        tell_done(u);
    }
    unref(u);
    return 0;
}

void rk__lua_add_upgrade(lua_State *L)
{
    static const luaL_Reg functions[] = {{"load", load}, {"upgraded", upgraded}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
