/*
 * deadletter.c -- lost messages shown to Lua: runtime:on_dead_letter(fn), the queue of the last ones.
 *
 * The C hook runs on the thread that lost a message and posts a `dead_letter` message to the state
 * that asked; there the route calls fn. The post is bounded by that state's mailbox: when it is
 * full, letters are lost, and a letter about a lost letter is never written.
 *
 * Threads: the hook, any; the rest, the state's own.
 */
#include "script/script.h"

#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "script/handles.h"
#include "script/values.h"

static const char letter_name[] = "dead_letter";
static const char functions_key; /* registry: table of serial -> fn */

static const rk_type *letter_type(void)
{
    static const rk_field fields[] = {{"target", "pid"},
                                      {"sender", "pid"},
                                      {"code", "i32"},
                                      {"name", "string[64]"},
                                      {"runtime", "u64"}};
    static const rk_type *cached;
    /* Acquire and release pair with each other: the type is complete before the pointer. */
    const rk_type *type = __atomic_load_n(&cached, __ATOMIC_ACQUIRE);
    if (type == NULL &&
        rk_message_define(&type, letter_name, fields, sizeof fields / sizeof fields[0]) == 0) {
        __atomic_store_n(&cached, type, __ATOMIC_RELEASE);
    }
    return type;
}

static rk_message *letter_new(rk_message *lost, rk_pid to, int code, uint64_t serial)
{
    const rk_type *type = letter_type(), *lost_type = rk_message_type(lost);
    rk_message *m;
    if (type == NULL || lost_type == type || rk_message_new(&m, type) < 0) {
        return NULL;
    }
    const char *name = lost_type != NULL ? rk_type_name(lost_type) : "";
    size_t size = strnlen(name, 64);
    if (rk_set_int(m, "target", (int64_t)to) < 0 ||
        rk_set_int(m, "sender", (int64_t)rk_message_from(lost)) < 0 ||
        rk_set_int(m, "code", code) < 0 || rk_set_bytes(m, "name", name, size) < 0 ||
        rk_set_int(m, "runtime", (int64_t)serial) < 0) {
        rk_message_release(m);
        return NULL;
    }
    return m;
}

/* The C hook. Its argument is the runtime's entry, which outlives the hook. */
static void forward(void *arg, rk_message *lost, rk_pid to, int code)
{
    static __thread bool busy __attribute__((tls_model("initial-exec")));
    rk__handle *handle = arg;
    rk_pid reader = __atomic_load_n(&handle->reader, __ATOMIC_RELAXED);
    if (busy || to == reader) {
        return; /* the reader's own mailbox is what overflows: one letter more would not fit */
    }
    busy = true;
    rk_message *letter = letter_new(lost, to, code, handle->serial);
    if (letter != NULL && rk__post(reader, letter) < 0) {
        rk_message_release(letter);
    }
    busy = false;
}

/* ---- in the reader's state ---- */

static void push_functions(lua_State *L)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &functions_key) == LUA_TNIL) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &functions_key);
    }
}

static void push_pid_field(lua_State *L, const rk_message *m, const char *field, const char *key)
{
    int64_t pid = 0;
    if (rk_get_int(m, field, &pid) == 0 && pid != 0) {
        rk__lua_push_pid(L, (rk_pid)pid);
        lua_setfield(L, -2, key);
    }
}

static void set_code(lua_State *L, int code)
{
    lua_pushstring(L, rk_err_name(code));
    lua_setfield(L, -2, "code");
    lua_pushstring(L, rk_dead_letter_reason(code));
    lua_setfield(L, -2, "reason");
}

static void push_letter(lua_State *L, const rk_message *m)
{
    int64_t code = 0;
    const void *name = "";
    size_t size = 0;
    rk_get_int(m, "code", &code);
    rk_get_bytes(m, "name", &name, &size);
    lua_createtable(L, 0, 5);
    push_pid_field(L, m, "target", "to");
    push_pid_field(L, m, "sender", "from");
    set_code(L, (int)code);
    if (size > 0) {
        lua_pushlstring(L, name, size);
        lua_setfield(L, -2, "type");
    }
}

/* Called by the scheduler with each `dead_letter` mail: finds the function of its runtime. */
static int deliver(lua_State *L)
{
    rk_message *m = rk__lua_request(L, 1);
    int64_t serial = 0;
    if (m == NULL || rk_get_int(m, "runtime", &serial) < 0) {
        return 0;
    }
    push_functions(L);
    if (lua_rawgeti(L, -1, serial) != LUA_TFUNCTION) {
        return 0; /* taken off while the letter was under way */
    }
    push_letter(L, m);
    lua_call(L, 1, 0);
    return 0;
}

/* runtime:on_dead_letter(fn | nil) */
static int on_dead_letter(lua_State *L)
{
    rk_runtime *rt = rk__lua_check_runtime(L, 1);
    if (!lua_isnoneornil(L, 2)) {
        luaL_checktype(L, 2, LUA_TFUNCTION);
    }
    lua_settop(L, 2);
    rk__handle *handle = rk__handle_of(rt);
    if (handle == NULL || letter_type() == NULL) {
        return luaL_error(L, "cannot watch dead letters: %s", rk_errdetail());
    }
    if (!lua_isnil(L, 2)) {
        lua_pushcfunction(L, deliver);
        rk__lua_route(L, letter_name);
    }
    push_functions(L);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, (lua_Integer)handle->serial);
    __atomic_store_n(&handle->reader, rk__actor_pid(rk__lua_self(L)), __ATOMIC_RELAXED);
    rk_on_dead_letter(rt, lua_isnil(L, 2) ? NULL : forward, handle);
    return 0;
}

/* ---- the queue ---- */

/* Arguments: a letter. Leaves its table. */
static void set_pid(lua_State *L, rk_pid pid, const char *key)
{
    if (pid != RK_NOBODY) {
        rk__lua_push_pid(L, pid);
        lua_setfield(L, -2, key);
    }
}

/* A call or cast by an entry's name shows the name and the list of arguments. */
static bool push_entry(lua_State *L, rk_message *m)
{
    rk__token name, verb;
    rk__reader r;
    uint32_t count;
    if (!rk__lua_entry_call(m, &name, &verb, &r, &count)) {
        return false;
    }
    lua_pushlstring(L, name.bytes, name.size);
    lua_setfield(L, -2, "entry");
    lua_newtable(L);
    for (uint32_t i = 1; i <= count && rk__lua_unpack(L, &r) >= 0; i++) {
        lua_rawseti(L, -2, i);
    }
    return true;
}

static void push_body(lua_State *L, rk_message *m)
{
    rk__reader r;
    if (push_entry(L, m)) {
        return;
    }
    rk__reader_init(&r, rk_message_data(m), rk_message_size(m));
    if (rk__lua_unpack(L, &r) < 0) {
        lua_pushlstring(L, rk_message_data(m), rk_message_size(m));
    }
}

/* The message of a letter, made a value; what is typed takes the letter's handle. */
static void set_message(lua_State *L, rk_dead_letter *letter)
{
    rk_message *m = letter->message;
    const char *topic = rk_message_topic(m);
    const rk_type *type = rk_message_type(m);
    if (topic != NULL) {
        lua_pushstring(L, topic);
        lua_setfield(L, -2, "topic");
    }
    if (type != NULL) {
        lua_pushstring(L, rk_type_name(type));
        lua_setfield(L, -2, "type");
        letter->message = NULL;
        rk__lua_push_unsent(L, m);
    } else {
        push_body(L, m);
    }
    lua_setfield(L, -2, "message");
}

struct letters {
    rk_dead_letter *list;
    int count;
};

/* Argument: struct letters. Every message is released by its owner, whatever is raised here. */
static int push_letters(lua_State *L)
{
    struct letters *letters = lua_touserdata(L, 1);
    lua_createtable(L, letters->count, 0);
    for (int i = 0; i < letters->count; i++) {
        rk_dead_letter *letter = &letters->list[i];
        lua_createtable(L, 0, 9);
        lua_pushinteger(L, (lua_Integer)letter->number);
        lua_setfield(L, -2, "number");
        set_pid(L, letter->to, "to");
        set_pid(L, letter->from, "from");
        set_code(L, letter->code);
        lua_pushnumber(L, (lua_Number)letter->age / 1e9);
        lua_setfield(L, -2, "age");
        if (letter->to_name[0] != '\0') {
            lua_pushstring(L, letter->to_name);
            lua_setfield(L, -2, "name");
        }
        set_message(L, letter);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* runtime:dead_letters([after]) */
static int dead_letters(lua_State *L)
{
    rk_runtime *rt = rk__lua_check_runtime(L, 1);
    uint64_t after = (uint64_t)luaL_optinteger(L, 2, 0);
    int room = rk_dead_letters(rt, after, NULL, 0) + 16;
    struct letters letters = {calloc((size_t)(room > 0 ? room : 1), sizeof *letters.list), 0};
    int count = letters.list != NULL ? rk_dead_letters(rt, after, letters.list, (size_t)room)
                                     : rk__fail(RK_ENOMEM, "no memory for a list of letters");
    if (count < 0) {
        free(letters.list);
        return rk__lua_fail(L, count);
    }
    letters.count = count < room ? count : room;
    lua_pushcfunction(L, push_letters);
    lua_pushlightuserdata(L, &letters);
    int status = lua_pcall(L, 1, 1, 0);
    for (int i = 0; i < letters.count; i++) {
        rk_message_release(letters.list[i].message);
    }
    free(letters.list);
    return status == LUA_OK ? 1 : lua_error(L);
}

/* runtime:replay(letter | number [, pid | name]) */
static int replay(lua_State *L)
{
    rk_runtime *rt = rk__lua_check_runtime(L, 1);
    rk_pid to = RK_NOBODY;
    lua_settop(L, 3);
    if (lua_istable(L, 2)) {
        lua_getfield(L, 2, "number");
        lua_replace(L, 2);
    }
    luaL_argexpected(L, lua_isinteger(L, 2), 2, "letter of runtime:dead_letters, or its number");
    int code = lua_isnil(L, 3) ? 0 : rk__lua_check_target(L, 3, &to);
    if (code == 0) {
        code = rk_dead_letter_replay(rt, (uint64_t)lua_tointeger(L, 2), to);
    }
    if (code < 0) {
        return rk__lua_fail(L, code);
    }
    lua_pushboolean(L, 1);
    return 1;
}

static int clear_dead_letters(lua_State *L)
{
    rk_dead_letters_clear(rk__lua_check_runtime(L, 1));
    return 0;
}

void rk__lua_open_deadletters(lua_State *L)
{
    static const luaL_Reg methods[] = {{"on_dead_letter", on_dead_letter},
                                       {"dead_letters", dead_letters},
                                       {"replay", replay},
                                       {"clear_dead_letters", clear_dead_letters},
                                       {NULL, NULL}};
    luaL_getmetatable(L, "rk.runtime");
    lua_getfield(L, -1, "__index");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 2);
}
