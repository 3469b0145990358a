/*
 * restore.c -- makes a captured value in a lua_State.
 *
 * Entered by the thread of the lua_State; images are only read, so many threads may restore one at
 * the same time. Three passes over the records: the objects are made empty, then filled (so cycles
 * need no care), then get their metatables (so that __gc is seen). An upvalue belongs to the first
 * function that mentions its cell; later ones are joined to it.
 *
 * An error raised on the way (memory, the code of a module that is required) is caught here.
 */
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "script/handles.h"
#include "script/launch.h"
#include "script/transfer.h"

struct cell {
    uint32_t function; /* object number */
    int upvalue;
};

struct restore {
    const rk__image *image;
    const char *at;
    struct cell *cells; /* of cell i at i - 1 */
    uint32_t next_cell;
    int rc;
};

enum { OBJECTS = 2 }; /* stack of the protected function: object number -> value */

/* ---- reading ---- */

static const void *take(struct restore *r, size_t size)
{
    const char *at = r->at;
    r->at += size;
    rk_assert(r->at <= r->image->bytes.bytes + r->image->bytes.size);
    return at;
}

static uint8_t take_u8(struct restore *r)
{
    return *(const uint8_t *)take(r, 1);
}

static uint32_t take_u32(struct restore *r)
{
    uint32_t value;
    memcpy(&value, take(r, sizeof value), sizeof value);
    return value;
}

static uint64_t take_u64(struct restore *r)
{
    uint64_t value;
    memcpy(&value, take(r, sizeof value), sizeof value);
    return value;
}

/* Raises; the caught error is the one that was set. */
static void fail(lua_State *L, struct restore *r, int rc)
{
    r->rc = rc;
    luaL_error(L, "%s", rk_errdetail());
}

/* ---- values ---- */

static void skip_value(struct restore *r)
{
    static const uint8_t sizes[] = {
        [RK__IMAGE_INTEGER] = 8,
        [RK__IMAGE_FLOAT] = 8,
        [RK__IMAGE_OBJECT] = 4,
        [RK__IMAGE_TYPE] = sizeof(const rk_type *),
        [RK__IMAGE_PID] = sizeof(rk_pid),
        [RK__IMAGE_RUNTIME] = sizeof(rk_runtime *) + 8,
        [RK__IMAGE_MESSAGE] = 4 + 1 + sizeof(rk__id),
        [RK__IMAGE_DEFINITION] = 4,
    };
    uint8_t tag = take_u8(r);
    if (tag == RK__IMAGE_STRING || tag == RK__IMAGE_NAMED) {
        uint64_t size = take_u64(r);
        take(r, size);
    } else {
        take(r, sizes[tag]);
    }
}

/* Pushes a module: the loaded one, else what require gives. */
static void push_module(lua_State *L, struct restore *r, const char *name)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    if (lua_getfield(L, -1, name) != LUA_TNIL) {
        lua_remove(L, -2);
        return;
    }
    lua_pop(L, 2);
    lua_getglobal(L, "require");
    lua_pushstring(L, name);
    int status = lua_pcall(L, 1, 1, 0);
    if (status != LUA_OK) {
        fail(L, r,
             rk__fail(status == LUA_ERRMEM ? RK_ENOMEM : RK_ENOENT,
                      "module '%s', which the function uses, cannot be required "
                      "in the other actor: %s",
                      name, luaL_tolstring(L, -1, NULL)));
    }
}

static void push_named(lua_State *L, struct restore *r)
{
    uint64_t size = take_u64(r);
    const char *text = take(r, size), *part = text;
    /* The parts end with NUL, the last with the end of the text: a copy that has it. */
    char name[256];
    while (part < text + size) {
        size_t length = strnlen(part, (size_t)(text + size - part));
        snprintf(name, sizeof name, "%.*s", (int)length, part);
        if (part == text && strcmp(name, "_G") == 0) {
            lua_pushglobaltable(L);
        } else if (part == text) {
            push_module(L, r, name);
        } else if (!lua_istable(L, -1) || lua_getfield(L, -1, name) == LUA_TNIL) {
            fail(L, r,
                 rk__fail(RK_ENOENT, "module '%s' has no '%s' in the other actor", text, name));
        } else {
            lua_remove(L, -2);
        }
        part += length + 1;
    }
}

static void push_runtime(lua_State *L, struct restore *r)
{
    rk_runtime *rt;
    memcpy(&rt, take(r, sizeof rt), sizeof rt);
    const rk__handle *handle = rk__handle_of(rt);
    if ((handle ? handle->serial : 0) != take_u64(r)) {
        fail(L, r, rk__fail(RK_ESTATE, "a runtime that the function uses was closed"));
    }
    rk__lua_push_runtime(L, rt);
}

static void push_message(lua_State *L, struct restore *r)
{
    rk__id correlation;
    rk__body *body = r->image->bodies[take_u32(r)];
    uint8_t priority = take_u8(r);
    memcpy(&correlation, take(r, sizeof correlation), sizeof correlation);
    rk__body_retain(body);
    rk_message *m = rk__delivery_new(body);
    if (!m) {
        rk__body_release(body);
        fail(L, r, rk__fail(RK_ENOMEM, "out of memory for a message"));
    }
    m->priority = priority;
    m->correlation = correlation;
    rk__lua_push_unsent(L, m);
}

/* Types, pids and the like need what luaopen_rk sets up; a state may not have required it yet. */
static void need_rk(lua_State *L)
{
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    bool loaded = lua_getfield(L, -1, "rk") != LUA_TNIL;
    lua_pop(L, 2);
    if (!loaded) {
        luaL_requiref(L, "rk", luaopen_rk, 0);
        lua_pop(L, 1);
    }
}

static void push_handle(lua_State *L, struct restore *r, uint8_t tag)
{
    const rk_type *type;
    need_rk(L);
    switch (tag) {
    case RK__IMAGE_TYPE:
        memcpy(&type, take(r, sizeof type), sizeof type);
        rk__lua_push_type(L, type);
        break;
    case RK__IMAGE_PID:
        rk__lua_push_pid(L, take_u64(r));
        break;
    case RK__IMAGE_RUNTIME:
        push_runtime(L, r);
        break;
    case RK__IMAGE_DEFINITION:
        rk__lua_push_definition_object(L, r->image->definitions[take_u32(r)]);
        break;
    default:
        rk_assert(tag == RK__IMAGE_MESSAGE);
        push_message(L, r);
        break;
    }
}

static void push_value(lua_State *L, struct restore *r)
{
    uint64_t size;
    lua_Number number;
    uint8_t tag = take_u8(r);
    switch (tag) {
    case RK__IMAGE_NIL:
        lua_pushnil(L);
        break;
    case RK__IMAGE_FALSE:
    case RK__IMAGE_TRUE:
        lua_pushboolean(L, tag == RK__IMAGE_TRUE);
        break;
    case RK__IMAGE_INTEGER:
        lua_pushinteger(L, (lua_Integer)take_u64(r));
        break;
    case RK__IMAGE_FLOAT:
        memcpy(&number, take(r, sizeof number), sizeof number);
        lua_pushnumber(L, number);
        break;
    case RK__IMAGE_STRING:
        size = take_u64(r);
        lua_pushlstring(L, take(r, size), size);
        break;
    case RK__IMAGE_OBJECT:
        lua_rawgeti(L, OBJECTS, take_u32(r));
        break;
    case RK__IMAGE_GLOBALS:
        lua_pushglobaltable(L);
        break;
    case RK__IMAGE_NAMED:
        push_named(L, r);
        break;
    default:
        push_handle(L, r, tag);
        break;
    }
}

/* ---- records ---- */

enum pass { MAKE, FILL, METATABLES };

static void read_table(lua_State *L, struct restore *r, enum pass pass, uint32_t number)
{
    uint32_t items = take_u32(r), pairs = take_u32(r);
    if (pass == MAKE) {
        lua_createtable(L, (int)items, (int)(pairs > items ? pairs - items : 0));
        lua_rawseti(L, OBJECTS, number);
    } else {
        lua_rawgeti(L, OBJECTS, number);
    }
    if (pass == METATABLES && *r->at != RK__IMAGE_NIL) {
        push_value(L, r);
        lua_setmetatable(L, -2);
    } else {
        skip_value(r);
    }
    for (; pairs; pairs--) {
        if (pass == FILL) {
            push_value(L, r);
            push_value(L, r);
            lua_rawset(L, -3);
        } else {
            skip_value(r);
            skip_value(r);
        }
    }
    lua_settop(L, OBJECTS);
}

static void make_function(lua_State *L, struct restore *r, const char *dump, uint64_t size,
                          uint32_t number)
{
    int status = luaL_loadbufferx(L, dump, size, "function", "b");
    if (status != LUA_OK) {
        fail(L, r,
             rk__fail(status == LUA_ERRMEM ? RK_ENOMEM : RK_ELUA,
                      "a function cannot be loaded in the other actor: %s", lua_tostring(L, -1)));
    }
    lua_rawseti(L, OBJECTS, number);
}

/* The function is at the top. */
static void read_upvalue(lua_State *L, struct restore *r, enum pass pass, uint32_t number, int n)
{
    uint32_t cell = take_u32(r);
    if (cell == r->next_cell) {
        r->next_cell++;
        if (pass == FILL) {
            r->cells[cell - 1] = (struct cell){number, n};
            push_value(L, r);
            lua_setupvalue(L, -2, n);
        } else {
            skip_value(r);
        }
    } else if (pass == FILL) {
        const struct cell *owner = &r->cells[cell - 1];
        lua_rawgeti(L, OBJECTS, owner->function);
        lua_upvaluejoin(L, -2, n, -1, owner->upvalue);
        lua_pop(L, 1);
    }
}

static void read_function(lua_State *L, struct restore *r, enum pass pass, uint32_t number)
{
    uint64_t size = take_u64(r);
    const char *dump = take(r, size);
    uint8_t upvalues = take_u8(r);
    if (pass == MAKE) {
        make_function(L, r, dump, size, number);
    }
    lua_rawgeti(L, OBJECTS, number);
    for (int n = 1; n <= upvalues; n++) {
        read_upvalue(L, r, pass, number, n);
    }
    lua_settop(L, OBJECTS);
}

static void read_records(lua_State *L, struct restore *r, enum pass pass)
{
    r->at = r->image->bytes.bytes;
    r->next_cell = 1;
    skip_value(r);
    for (uint32_t number = 1; number <= r->image->objects; number++) {
        if (take_u8(r) == RK__IMAGE_TABLE) {
            read_table(L, r, pass, number);
        } else {
            read_function(L, r, pass, number);
        }
    }
}

static int protected_restore(lua_State *L)
{
    struct restore *r = lua_touserdata(L, 1);
    luaL_checkstack(L, 20, "function from another actor");
    lua_createtable(L, (int)(r->image->objects < 4096 ? r->image->objects : 4096), 0);
    read_records(L, r, MAKE);
    read_records(L, r, FILL);
    read_records(L, r, METATABLES);
    r->at = r->image->bytes.bytes;
    push_value(L, r);
    return 1;
}

int rk__lua_restore(lua_State *L, const rk__image *image)
{
    struct restore r = {.image = image, .cells = calloc(image->cells + 1, sizeof *r.cells)};
    if (!r.cells || !lua_checkstack(L, 4)) {
        free(r.cells);
        return rk__fail(RK_ENOMEM, "out of memory for a value from another actor");
    }
    lua_pushcfunction(L, protected_restore);
    lua_pushlightuserdata(L, &r);
    int status = lua_pcall(L, 1, 1, 0);
    free(r.cells);
    if (status == LUA_OK) {
        return 0;
    }
    if (!r.rc) {
        r.rc = rk__fail(status == LUA_ERRMEM ? RK_ENOMEM : RK_ELUA,
                        "cannot make a value from another actor: %s", lua_tostring(L, -1));
    }
    lua_pop(L, 1);
    return r.rc;
}
