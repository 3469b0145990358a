/*
 * capture.c -- freezes a Lua value outside any state, so that another state can restore it.
 *
 * Entered by the thread of the lua_State. The walk is a queue, not a recursion: a value that is a
 * table or a Lua function gets a number and its record is written later. The memo table maps each
 * such object to its number and each upvalue (by lua_upvalueid) to its cell; list holds the objects
 * by number.
 *
 * What has a name in package.loaded goes by name (modnames.c).
 */
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "script/handles.h"
#include "script/launch.h"
#include "script/transfer.h"

/* Where an object was met first. */
struct edge {
    uint32_t parent; /* 0: the root */
    uint32_t label;  /* offset of the text in labels */
};

struct capture {
    lua_State *L;
    rk__image *image;
    struct edge *edges; /* of object i at i - 1 */
    uint32_t edge_capacity;
    rk__strbuf labels;
    rk__strbuf label; /* of the value being written */
    uint32_t parent;  /* object being written */
    bool names_fresh; /* made by this capture */
    int rc;
};

enum { VALUE = 2, MEMO, LIST, NAMES, WORK }; /* stack of the protected function */

/* ---- writing ---- */

static void put(struct capture *c, const void *bytes, size_t size)
{
    rk__strbuf_add(&c->image->bytes, bytes, size);
}

static void put_tag(struct capture *c, enum rk__image_tag tag)
{
    rk__strbuf_addc(&c->image->bytes, (char)tag);
}

static void put_text(struct capture *c, enum rk__image_tag tag, const char *bytes, uint64_t size)
{
    put_tag(c, tag);
    put(c, &size, sizeof size);
    put(c, bytes, size);
}

/* ---- errors ---- */

/* What the value at index is, for people. */
static void describe(lua_State *L, int index, rk__strbuf *text)
{
    if (lua_iscfunction(L, index)) {
        rk__strbuf_adds(text, "a C function that no module has");
    } else if (luaL_getmetafield(L, index, "__name") == LUA_TSTRING) {
        rk__strbuf_addf(text, "a %s (%s)", luaL_typename(L, index), lua_tostring(L, -1));
        lua_pop(L, 1);
    } else {
        rk__strbuf_addf(text, "a %s", luaL_typename(L, index));
    }
}

static int refuse(struct capture *c, int index)
{
    rk__strbuf text = RK__STRBUF_INIT;
    describe(c->L, index, &text);
    rk__strbuf_addf(&text, "%s%s", c->label.size ? ": " : "", c->label.size ? c->label.bytes : "");
    for (uint32_t at = c->parent; at; at = c->edges[at - 1].parent) {
        const char *label = c->labels.bytes + c->edges[at - 1].label;
        if (*label) {
            rk__strbuf_addf(&text, " in %s", label);
        }
    }
    c->rc = rk__fail(RK_ETYPE,
                     "cannot go to another actor: %s; Lua functions, plain data, "
                     "modules and their functions, message types, messages, pids, definitions and "
                     "runtimes can",
                     text.bytes ? text.bytes : "a value");
    rk__strbuf_free(&text);
    return c->rc;
}

static int no_memory(struct capture *c)
{
    return c->rc = rk__fail(RK_ENOMEM, "out of memory while copying a value for another actor");
}

/* ---- names ---- */

/* Writes the value at index by its name if it has one. */
static bool put_named(struct capture *c, int index)
{
    size_t size;
    const char *name = rk__lua_name_of(c->L, NAMES, index, &size);
    if (name) {
        put_text(c, RK__IMAGE_NAMED, name, size);
    }
    return name;
}

/* For what cannot go by value: also what became part of a module after the names were made. */
static bool put_named_now(struct capture *c, int index)
{
    if (put_named(c, index)) {
        return true;
    }
    if (c->names_fresh) {
        return false;
    }
    rk__lua_make_names(c->L);
    lua_replace(c->L, NAMES);
    c->names_fresh = true;
    return put_named(c, index);
}

/* ---- values ---- */

static int add_edge(struct capture *c)
{
    uint32_t count = c->image->objects;
    if (count == c->edge_capacity) {
        uint32_t capacity = count ? 2 * count : 16;
        struct edge *edges = realloc(c->edges, capacity * sizeof *edges);
        if (!edges) {
            return no_memory(c);
        }
        c->edges = edges;
        c->edge_capacity = capacity;
    }
    c->edges[count] = (struct edge){c->parent, (uint32_t)c->labels.size};
    rk__strbuf_add(&c->labels, c->label.bytes ? c->label.bytes : "", c->label.size);
    rk__strbuf_addc(&c->labels, '\0');
    return c->labels.failed || c->labels.size > INT32_MAX ? no_memory(c) : 0;
}

/* A table or Lua function: its number, a new one when it is met for the first time. */
static int put_object(struct capture *c, int index)
{
    lua_State *L = c->L;
    lua_pushvalue(L, index);
    uint32_t number = lua_rawget(L, MEMO) == LUA_TNUMBER ? (uint32_t)lua_tointeger(L, -1) : 0;
    lua_pop(L, 1);
    if (!number) {
        if (add_edge(c) < 0) {
            return c->rc;
        }
        number = ++c->image->objects;
        lua_pushvalue(L, index);
        lua_pushinteger(L, number);
        lua_rawset(L, MEMO);
        lua_pushvalue(L, index);
        lua_rawseti(L, LIST, number);
    }
    put_tag(c, RK__IMAGE_OBJECT);
    put(c, &number, sizeof number);
    return 0;
}

static int put_table(struct capture *c, int index)
{
    lua_rawgeti(c->L, LUA_REGISTRYINDEX, LUA_RIDX_GLOBALS);
    bool globals = lua_rawequal(c->L, index, -1);
    lua_pop(c->L, 1);
    if (globals) {
        put_tag(c, RK__IMAGE_GLOBALS);
        return 0;
    }
    return put_named(c, index) ? 0 : put_object(c, index);
}

static int put_function(struct capture *c, int index)
{
    if (!lua_iscfunction(c->L, index)) {
        return put_named(c, index) ? 0 : put_object(c, index);
    }
    return put_named_now(c, index) ? 0 : refuse(c, index);
}

static int put_message(struct capture *c, const rk__lua_message *m)
{
    rk__image *image = c->image;
    uint8_t priority = rk__lua_message_priority(m);
    rk__id correlation = m->delivery ? (rk__id){0, 0} : m->correlation;
    rk__body **bodies = realloc(image->bodies, (image->body_count + 1) * sizeof *bodies);
    if (!bodies) {
        return no_memory(c);
    }
    image->bodies = bodies;
    bodies[image->body_count] = rk__lua_message_body(m);
    if (!bodies[image->body_count]) {
        return c->rc = m->base ? RK_ENOMEM : RK_EINVAL;
    }
    put_tag(c, RK__IMAGE_MESSAGE);
    put(c, &image->body_count, sizeof image->body_count);
    put(c, &priority, sizeof priority);
    put(c, &correlation, sizeof correlation);
    image->body_count++;
    return 0;
}

static int put_definition(struct capture *c, rk__definition *definition)
{
    rk__image *image = c->image;
    size_t size = (image->definition_count + 1) * sizeof *image->definitions;
    rk__definition **definitions = realloc(image->definitions, size);
    if (!definitions) {
        return no_memory(c);
    }
    image->definitions = definitions;
    __atomic_fetch_add(&definition->refs, 1, __ATOMIC_RELAXED);
    definitions[image->definition_count] = definition;
    put_tag(c, RK__IMAGE_DEFINITION);
    put(c, &image->definition_count, sizeof image->definition_count);
    image->definition_count++;
    return 0;
}

static int check_runtime(lua_State *L)
{
    lua_pushlightuserdata(L, rk__lua_check_runtime(L, 1));
    return 1;
}

/* The runtime behind the userdata at index, or NULL when it is something else or closed. */
static rk_runtime *to_runtime(lua_State *L, int index)
{
    lua_pushcfunction(L, check_runtime);
    lua_pushvalue(L, index);
    rk_runtime *rt = lua_pcall(L, 1, 1, 0) == LUA_OK ? lua_touserdata(L, -1) : NULL;
    lua_pop(L, 1);
    return rt;
}

static int put_runtime(struct capture *c, int index)
{
    rk_runtime *rt = to_runtime(c->L, index);
    const rk__handle *handle = rt ? rk__handle_of(rt) : NULL;
    if (!handle) {
        return refuse(c, index);
    }
    put_tag(c, RK__IMAGE_RUNTIME);
    put(c, &rt, sizeof rt);
    put(c, &handle->serial, sizeof handle->serial);
    return 0;
}

static int put_userdata(struct capture *c, int index)
{
    rk_pid pid;
    lua_State *L = c->L;
    const rk__lua_message *m = rk__lua_to_message(L, index);
    const rk_type *type = rk__lua_to_type(L, index);
    rk__definition *definition = rk__lua_to_definition(L, index);
    if (definition) {
        return put_definition(c, definition);
    }
    if (m) {
        return put_message(c, m);
    }
    if (type) {
        put_tag(c, RK__IMAGE_TYPE);
        put(c, &type, sizeof type);
        return 0;
    }
    if (rk__lua_to_pid(L, index, &pid)) {
        put_tag(c, RK__IMAGE_PID);
        put(c, &pid, sizeof pid);
        return 0;
    }
    return put_named_now(c, index) ? 0 : put_runtime(c, index);
}

static int put_number(struct capture *c, int index)
{
    lua_Integer integer = lua_tointeger(c->L, index);
    lua_Number number = lua_tonumber(c->L, index);
    bool whole = lua_isinteger(c->L, index);
    put_tag(c, whole ? RK__IMAGE_INTEGER : RK__IMAGE_FLOAT);
    put(c, whole ? (const void *)&integer : (const void *)&number, 8);
    return 0;
}

/* Writes the value at index (absolute), which c->label says where to find. */
static int put_value(struct capture *c, int index)
{
    size_t size;
    const char *bytes;
    switch (lua_type(c->L, index)) {
    case LUA_TNIL:
        put_tag(c, RK__IMAGE_NIL);
        return 0;
    case LUA_TBOOLEAN:
        put_tag(c, lua_toboolean(c->L, index) ? RK__IMAGE_TRUE : RK__IMAGE_FALSE);
        return 0;
    case LUA_TNUMBER:
        return put_number(c, index);
    case LUA_TSTRING:
        bytes = lua_tolstring(c->L, index, &size);
        put_text(c, RK__IMAGE_STRING, bytes, size);
        return 0;
    case LUA_TTABLE:
        return put_table(c, index);
    case LUA_TFUNCTION:
        return put_function(c, index);
    case LUA_TUSERDATA:
        return put_userdata(c, index);
    default:
        return refuse(c, index);
    }
}

/* ---- records ---- */

static void label_key(struct capture *c, int key)
{
    rk__strbuf_clear(&c->label);
    if (lua_type(c->L, key) == LUA_TSTRING) {
        rk__strbuf_addf(&c->label, "field \"%.60s\"", lua_tostring(c->L, key));
    } else if (lua_isinteger(c->L, key)) {
        rk__strbuf_addf(&c->label, "item [%lld]", (long long)lua_tointeger(c->L, key));
    } else {
        rk__strbuf_addf(&c->label, "the field with a %s as key", luaL_typename(c->L, key));
    }
}

static int put_metatable(struct capture *c, int table)
{
    rk__strbuf_clear(&c->label);
    rk__strbuf_adds(&c->label, "the metatable");
    if (!lua_getmetatable(c->L, table)) {
        put_tag(c, RK__IMAGE_NIL);
        return 0;
    }
    int rc = put_table(c, lua_gettop(c->L));
    lua_pop(c->L, 1);
    return rc;
}

static int put_pairs(struct capture *c, int table, uint32_t *pairs)
{
    lua_State *L = c->L;
    int key = lua_gettop(L) + 1, rc = 0;
    lua_pushnil(L);
    while (rc == 0 && lua_next(L, table)) {
        label_key(c, key);
        rc = put_value(c, key);
        if (rc == 0) {
            rc = put_value(c, key + 1);
        }
        if (++*pairs == INT32_MAX) {
            rc = no_memory(c);
        }
        lua_settop(L, key);
    }
    lua_settop(L, key - 1);
    return rc;
}

static int put_table_record(struct capture *c, int table)
{
    lua_Unsigned length = lua_rawlen(c->L, table);
    uint32_t items = length < INT32_MAX ? (uint32_t)length : INT32_MAX, pairs = 0;
    put_tag(c, RK__IMAGE_TABLE);
    put(c, &items, sizeof items);
    size_t at = c->image->bytes.size;
    put(c, &pairs, sizeof pairs);
    int rc = put_metatable(c, table);
    if (rc == 0) {
        rc = put_pairs(c, table, &pairs);
    }
    if (rc == 0 && !c->image->bytes.failed) {
        memcpy(c->image->bytes.bytes + at, &pairs, sizeof pairs);
    }
    return rc;
}

static int write_dump(lua_State *L, const void *bytes, size_t size, void *arg)
{
    (void)L;
    rk__strbuf *out = arg;
    rk__strbuf_add(out, bytes, size);
    return out->failed;
}

static void put_dump(struct capture *c, int function)
{
    rk__strbuf *out = &c->image->bytes;
    uint64_t size = 0;
    size_t at = out->size;
    put(c, &size, sizeof size);
    lua_pushvalue(c->L, function);
    lua_dump(c->L, write_dump, out, 0);
    lua_pop(c->L, 1);
    if (!out->failed) {
        size = out->size - at - sizeof size;
        memcpy(out->bytes + at, &size, sizeof size);
    }
}

static int put_upvalue(struct capture *c, int function, int n)
{
    lua_State *L = c->L;
    void *id = lua_upvalueid(L, function, n);
    uint32_t cell = lua_rawgetp(L, MEMO, id) == LUA_TNUMBER ? (uint32_t)lua_tointeger(L, -1) : 0;
    lua_pop(L, 1);
    if (cell) {
        put(c, &cell, sizeof cell);
        return 0;
    }
    cell = ++c->image->cells;
    put(c, &cell, sizeof cell);
    lua_pushinteger(L, cell);
    lua_rawsetp(L, MEMO, id);
    lua_Debug info;
    lua_pushvalue(L, function);
    lua_getinfo(L, ">S", &info);
    const char *name = lua_getupvalue(L, function, n);
    rk__strbuf_clear(&c->label);
    rk__strbuf_addf(&c->label, "upvalue \"%s\" of function <%s:%d>", name, info.short_src,
                    info.linedefined);
    int rc = put_value(c, lua_gettop(L));
    lua_pop(L, 1);
    return rc;
}

static int put_function_record(struct capture *c, int function)
{
    int rc = 0;
    lua_Debug info;
    put_tag(c, RK__IMAGE_FUNCTION);
    put_dump(c, function);
    lua_pushvalue(c->L, function);
    lua_getinfo(c->L, ">u", &info);
    put(c, &info.nups, 1);
    for (int n = 1; rc == 0 && n <= info.nups; n++) {
        rc = put_upvalue(c, function, n);
    }
    return rc;
}

/* ---- putting it together ---- */

static int put_all(struct capture *c)
{
    lua_State *L = c->L;
    int rc = put_value(c, VALUE);
    for (uint32_t i = 1; rc == 0 && i <= c->image->objects; i++) {
        c->parent = i;
        lua_rawgeti(L, LIST, i);
        rc = lua_istable(L, -1) ? put_table_record(c, WORK) : put_function_record(c, WORK);
        lua_settop(L, WORK - 1);
    }
    return rc == 0 && c->image->bytes.failed ? no_memory(c) : rc;
}

/* Arguments: the capture, the value. What was taken is freed by the caller. */
static int protected_capture(lua_State *L)
{
    struct capture *c = lua_touserdata(L, 1);
    luaL_checkstack(L, 20, "function for another actor");
    lua_newtable(L);
    lua_newtable(L);
    c->names_fresh = rk__lua_find_names(L);
    put_all(c);
    return 0;
}

int rk__lua_capture(lua_State *L, int index, rk__image **out)
{
    struct capture c = {.L = L, .image = calloc(1, sizeof *c.image)};
    index = lua_absindex(L, index);
    if (!c.image || !lua_checkstack(L, 4)) {
        free(c.image);
        return no_memory(&c);
    }
    lua_pushcfunction(L, protected_capture);
    lua_pushlightuserdata(L, &c);
    lua_pushvalue(L, index);
    if (lua_pcall(L, 2, 0, 0) != LUA_OK) {
        c.rc =
            rk__fail(RK_ENOMEM, "cannot copy a value for another actor: %s", lua_tostring(L, -1));
        lua_pop(L, 1);
    }
    free(c.edges);
    rk__strbuf_free(&c.labels);
    rk__strbuf_free(&c.label);
    if (c.rc < 0) {
        rk__lua_image_free(c.image);
        return c.rc;
    }
    *out = c.image;
    return 0;
}

void rk__lua_image_free(rk__image *image)
{
    if (!image) {
        return;
    }
    for (uint32_t i = 0; i < image->body_count; i++) {
        rk__body_release(image->bodies[i]);
    }
    free(image->bodies);
    for (uint32_t i = 0; i < image->definition_count; i++) {
        rk__definition_release(image->definitions[i]);
    }
    free(image->definitions);
    rk__strbuf_free(&image->bytes);
    free(image);
}
