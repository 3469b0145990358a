/* Lua values as messages and received messages as Lua values: what travels, who can be answered,
 * and that nothing is lost when an error comes between. */
#include <criterion/criterion.h>
#include <lualib.h>
#include <string.h>
#include "base/error.h"
#include "memory/pool.h"
#include "script/values.h"

static void open_values(lua_State *L)
{
    luaL_openlibs(L);
    lua_newtable(L);
    rk__lua_open_values(L);
    rk__lua_open_types(L);
    rk__lua_open_messages(L);
    rk__lua_open_pids(L);
    lua_setglobal(L, "rk");
}

static lua_State *new_state(void)
{
    lua_State *L = luaL_newstate();
    open_values(L);
    return L;
}

/* Leaves the value of the expression at the top. */
static void eval(lua_State *L, const char *expression)
{
    lua_pushfstring(L, "return %s", expression);
    cr_assert_eq(luaL_dostring(L, lua_tostring(L, -1)), LUA_OK, "%s", lua_tostring(L, -1));
    lua_remove(L, -2);
}

/* The value at the top, sent to this thread itself and received by its mailbox; a call when *token
 * is given. */
static rk_message *received(lua_State *L, uint64_t *token)
{
    rk__actor *self = rk__self_get();
    rk_message *m = rk__lua_to_delivery(L, -1);
    cr_assert_not_null(m, "%s", rk_errdetail());
    if (token) {
        *token = m->token = rk__token_new(self);
        m->flags |= RK__CALL;
    }
    m->from = rk__actor_pid(self);
    cr_assert_eq(rk__post(rk__actor_pid(self), m), 0, "%s", rk_errdetail());
    m = rk__next_mail(self, NULL, NULL, NULL);
    cr_assert_not_null(m);
    rk__received(self, m);
    lua_pop(L, 1);
    return m;
}

static void receive(lua_State *L, const char *expression, uint64_t *token)
{
    eval(L, expression);
    rk__lua_push_delivery(L, received(L, token));
}

/* Answers as they came, by token: waiting for one would throw the others away as late. */
static struct {
    uint64_t token;
    int code;
} answers[4096];
static size_t answer_count;

/* The code of the answer that is there for this token, 1 for a value, 0 when there is none yet. */
static int answer_code(uint64_t token)
{
    rk_message *m;
    while ((m = rk__mailbox_reply(&rk__self_get()->mailbox)) != NULL) {
        cr_assert_lt(answer_count, 4096);
        answers[answer_count].token = m->token;
        answers[answer_count++].code =
            m->flags & RK__ERROR ? rk__answer_error(m) : (rk_message_release(m), 1);
    }
    for (size_t i = 0; i < answer_count; i++) {
        if (answers[i].token == token) {
            return answers[i].code;
        }
    }
    return 0;
}

static void collect(lua_State *L)
{
    lua_gc(L, LUA_GCCOLLECT);
    lua_gc(L, LUA_GCCOLLECT);
}

Test(value, plain_values_arrive_as_they_are)
{
    lua_State *L = new_state();
    receive(L, "{ 1, 'two', { three = 3.0 } }", NULL);
    lua_setglobal(L, "t");
    eval(L, "t[1] == 1 and t[2] == 'two' and math.type(t[3].three) == 'float'");
    cr_assert(lua_toboolean(L, -1));
    receive(L, "'text'", NULL);
    cr_assert_str_eq(lua_tostring(L, -1), "text");
    receive(L, "7", NULL);
    cr_assert(lua_isinteger(L, -1));
    cr_assert_eq(lua_tointeger(L, -1), 7);
    lua_close(L);
}

Test(value, a_typed_message_shares_its_body)
{
    lua_State *L = new_state();
    eval(L, "rk.message('ValueShared', { x = 'f64' }) { x = 3, priority = 200 }");
    const rk__lua_message *sent = rk__lua_to_message(L, -1);
    lua_pushvalue(L, -1);
    rk__lua_push_delivery(L, received(L, NULL));
    const rk__lua_message *got = rk__lua_to_message(L, -1);
    cr_assert_not_null(got);
    cr_assert_eq(got->body, sent->body);
    lua_getfield(L, -1, "x");
    cr_assert_eq(lua_tonumber(L, -1), 3.0);
    lua_getfield(L, -2, "priority");
    cr_assert_eq(lua_tointeger(L, -1), 200);
    lua_getfield(L, -3, "from");
    rk_pid from;
    cr_assert(rk__lua_to_pid(L, -1, &from));
    cr_assert_eq(from, rk_self());
    lua_close(L);
}

Test(value, a_nested_message_travels_alone)
{
    lua_State *L = new_state();
    eval(L, "rk.message('ValueOuter', { a = 'u8', inner = rk.message('ValueInner', { x = 'f64', "
            "v = 'u8[3]' }) }) { a = 1, inner = { x = 4, v = { 7, 8 } } }.inner");
    rk_message *m = received(L, NULL);
    cr_assert_str_eq(rk_message_type(m)->name, "ValueInner");
    cr_assert_eq(rk_message_size(m), rk_message_type(m)->size);
    rk__lua_push_delivery(L, m);
    lua_setglobal(L, "m");
    eval(L, "m.x == 4 and #m.v == 2 and m.v[2] == 8");
    cr_assert(lua_toboolean(L, -1));
    lua_close(L);
}

Test(value, what_cannot_be_sent_gives_an_error_and_an_unchanged_stack)
{
    lua_State *L = new_state();
    eval(L, "{ a = { b = { 1, 2, print } } }");
    int top = lua_gettop(L);
    cr_assert_null(rk__lua_to_delivery(L, -1));
    cr_assert(strstr(rk_errdetail(), "field .a.b[3] is a function"), "%s", rk_errdetail());
    cr_assert_eq(lua_gettop(L), top);
    lua_pushinteger(L, 1);
    lua_pushcfunction(L, luaopen_base);
    cr_assert_null(rk__lua_to_delivery_array(L, top + 1, top + 2));
    cr_assert(strstr(rk_errdetail(), "argument 2: the value is a function"), "%s", rk_errdetail());
    lua_close(L);
}

Test(value, arguments_travel_as_an_array)
{
    lua_State *L = new_state();
    lua_pushinteger(L, 1);
    lua_pushnil(L);
    lua_pushliteral(L, "x");
    rk_message *m = rk__lua_to_delivery_array(L, 1, 3);
    cr_assert_eq(rk_message_size(m), 5);
    cr_assert_eq(memcmp(rk_message_data(m), "\x93\x01\xc0\xa1x", 5), 0);
    rk_message_release(m);
    m = rk__lua_to_delivery_array(L, 1, 0);
    cr_assert_eq(memcmp(rk_message_data(m), "\x90", 1), 0);
    rk_message_release(m);
    lua_close(L);
}

Test(value, calls_by_name_are_no_plain_values)
{
    lua_State *L = new_state();
    rk__token name, verb;
    rk__reader args;
    uint32_t count;
    lua_pushinteger(L, 5);
    lua_pushliteral(L, "x");
    rk_message *m = rk__lua_to_entry_call(L, "add", 3, "call", 1, 2);
    cr_assert(rk__lua_entry_call(m, &name, &verb, &args, &count));
    cr_assert_eq(name.size, 3);
    cr_assert_eq(memcmp(name.bytes, "add", 3), 0);
    cr_assert_eq(memcmp(verb.bytes, "call", verb.size), 0);
    cr_assert_eq(count, 2);
    cr_assert_eq(rk__lua_unpack(L, &args), 0);
    cr_assert_eq(lua_tointeger(L, -1), 5);
    cr_assert_eq(rk__lua_unpack(L, &args), 0);
    cr_assert_str_eq(lua_tostring(L, -1), "x");
    rk_message_release(m);
    eval(L, "{ 'add', 'call', 5 }");
    m = rk__lua_to_delivery(L, -1);
    cr_assert_not(rk__lua_entry_call(m, &name, &verb, &args, &count));
    rk_message_release(m);
    eval(L, "{ add = 'call' }");
    m = rk__lua_to_delivery(L, -1);
    cr_assert_not(rk__lua_entry_call(m, &name, &verb, &args, &count));
    rk_message_release(m);
    lua_close(L);
}

Test(value, the_last_value_leads_to_its_delivery)
{
    lua_State *L = new_state();
    uint64_t first, second;
    eval(L, "'x'");
    rk_message *a = received(L, &first);
    rk__lua_push_delivery(L, a);
    cr_assert_eq(rk__lua_request(L, -1), a);
    eval(L, "'x'");
    rk_message *b = received(L, &second);
    cr_assert_eq(answer_code(first), 0);
    rk__lua_push_delivery(L, b);
    /* A string that is not the last can no longer be answered, so its caller hears of it now. */
    cr_assert_eq(answer_code(first), RK_ENOREPLY);
    cr_assert_eq(rk__lua_request(L, -1), b);
    lua_pushliteral(L, "y");
    cr_assert_null(rk__lua_request(L, -1));
    cr_assert(strstr(rk_errdetail(), "only until the next"), "%s", rk_errdetail());
    lua_close(L);
    cr_assert_eq(answer_code(second), RK_ENOREPLY);
}

Test(value, tables_can_be_answered_later)
{
    lua_State *L = new_state();
    rk_message *m[5];
    uint64_t tokens[5];
    for (int i = 0; i < 5; i++) {
        eval(L, "{ 1 }");
        m[i] = received(L, &tokens[i]);
        rk__lua_push_delivery(L, m[i]);
    }
    collect(L);
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(rk__lua_request(L, i + 1), m[i]);
    }
    for (int i = 4; i >= 0; i--) {
        lua_pushinteger(L, i);
        cr_assert_eq(
            rk__reply(rk__self_get(), rk__lua_request(L, i + 1), rk__lua_to_delivery(L, -1)), 0);
        lua_pop(L, 1);
        cr_assert_eq(answer_code(tokens[i]), 1);
    }
    eval(L, "{ 1 }");
    cr_assert_null(rk__lua_request(L, -1));
    cr_assert(strstr(rk_errdetail(), "not a message that was received here"));
    lua_close(L);
}

Test(value, a_table_that_is_dropped_answers_its_caller)
{
    lua_State *L = new_state();
    uint64_t dropped, kept, last;
    receive(L, "{ 'dropped' }", &dropped);
    lua_pop(L, 1);
    receive(L, "{ 'kept' }", &kept);
    receive(L, "{ 'last' }", &last);
    collect(L);
    cr_assert_eq(answer_code(dropped), RK_ENOREPLY);
    cr_assert_eq(answer_code(kept), 0);
    cr_assert_eq(answer_code(last), 0);
    lua_close(L);
    cr_assert_eq(answer_code(kept), RK_ENOREPLY);
    cr_assert_eq(answer_code(last), RK_ENOREPLY);
}

Test(value, a_typed_message_that_is_dropped_answers_its_caller)
{
    lua_State *L = new_state();
    uint64_t token;
    receive(L, "rk.message('ValueDropped', { x = 'u8' })()", &token);
    cr_assert_not_null(rk__lua_request(L, -1));
    collect(L);
    cr_assert_eq(answer_code(token), 0);
    lua_pop(L, 1);
    collect(L);
    cr_assert_eq(answer_code(token), RK_ENOREPLY);
    eval(L, "rk.message('ValueDropped')()");
    cr_assert_null(rk__lua_request(L, -1));
    cr_assert(strstr(rk_errdetail(), "it was made here"), "%s", rk_errdetail());
    lua_close(L);
}

Test(value, bytes_that_are_no_lua_value_arrive_as_bytes)
{
    lua_State *L = new_state();
    rk_message *m;
    cr_assert_eq(rk_message_new_packed(&m, "\x81\xc0\x01", 3), 0);
    rk__lua_push_delivery(L, m);
    size_t size;
    cr_assert_eq(memcmp(lua_tolstring(L, -1, &size), "\x81\xc0\x01", 3), 0);
    cr_assert_eq(size, 3);
    lua_close(L);
}

Test(value, pids_are_unique_and_do_not_pile_up)
{
    lua_State *L = new_state();
    rk__lua_push_pid(L, 0x1000005);
    rk__lua_push_pid(L, 0x1000005);
    cr_assert(lua_rawequal(L, 1, 2));
    rk__lua_push_pid(L, 0x2000005);
    cr_assert_not(lua_rawequal(L, 1, 3));
    lua_newtable(L);
    lua_pushvalue(L, 1);
    lua_pushboolean(L, true);
    lua_rawset(L, 4);
    collect(L);
    rk__lua_push_pid(L, 0x1000005);
    lua_rawget(L, 4);
    cr_assert(lua_toboolean(L, -1));
    for (int i = 0; i < 100000; i++) {
        rk__lua_push_pid(L, (rk_pid)i);
        lua_pop(L, 1);
    }
    collect(L);
    cr_assert_lt(lua_gc(L, LUA_GCCOUNT), 4096);
    rk_pid pid;
    lua_pushinteger(L, 5);
    cr_assert_not(rk__lua_to_pid(L, -1, &pid));
    lua_pushlightuserdata(L, &pid);
    cr_assert_not(rk__lua_to_pid(L, -1, &pid));
    lua_newuserdatauv(L, 0, 0);
    cr_assert_not(rk__lua_to_pid(L, -1, &pid));
    lua_close(L);
}

/* ---- memory that runs out ---- */

static void *failing(void *arg, void *block, size_t old, size_t size)
{
    long *left = arg;
    (void)old;
    if (size == 0) {
        free(block);
        return NULL;
    }
    if (*left == 0) {
        return NULL;
    }
    *left -= *left > 0;
    return realloc(block, size);
}

static int push_it(lua_State *L)
{
    rk_message *m = lua_touserdata(L, 1);
    rk__lua_push_delivery(L, m);
    return 1;
}

/* Receives a call with every allocation failing in turn; its caller must always be answered. */
static void survives(const char *expression)
{
    int failures = 0;
    for (long n = 0; n < 500; n++) {
        long left = -1;
        uint64_t before, token;
        lua_State *L = lua_newstate(failing, &left);
        open_values(L);
        receive(L, "{}", &before);
        eval(L, expression);
        rk_message *m = received(L, &token);
        lua_pushcfunction(L, push_it);
        lua_pushlightuserdata(L, m);
        left = n;
        int status = lua_pcall(L, 1, 1, 0);
        left = -1;
        cr_assert(status == LUA_OK || status == LUA_ERRMEM);
        failures += status != LUA_OK;
        lua_close(L);
        cr_assert_eq(answer_code(token), RK_ENOREPLY);
        cr_assert_eq(answer_code(before), RK_ENOREPLY);
        if (status == LUA_OK) {
            break;
        }
    }
    cr_assert_gt(failures, 0);
}

Test(value, a_call_is_answered_when_lua_has_no_memory)
{
    rk__pool_stats stats;
    rk__self_get();
    survives("{ 1, 'two', { 3, x = 'y', { 'z' } } }");
    survives("rk.message('ValueMemory', { x = 'u8' })()");
    survives("{ at = rk.message('ValueMemory', { x = 'u8' })() }");
    rk__pool_stats_get(&stats);
    cr_assert_eq(stats.live, 0);
}

static int construct(lua_State *L)
{
    eval(L, "rk.message('ValueMemory2', { v = 'u8[9]' }) { v = { 1, 2, 3 } }:pack()");
    return 1;
}

Test(value, a_body_that_cannot_be_had_is_an_error)
{
    lua_State *L = new_state();
    for (uint64_t n = 1; n < 4; n++) {
        rk__pool_fail_after(n);
        eval(L, "pcall(function() return rk.message('ValueMemory2', { v = 'u8[9]' })() end)");
        rk__pool_fail_after(0);
    }
    rk__pool_fail_after(1);
    cr_assert_null((eval(L, "{ 1 }"), rk__lua_to_delivery(L, -1)));
    rk__pool_fail_after(0);
    lua_pushcfunction(L, construct);
    cr_assert_eq(lua_pcall(L, 0, 1, 0), LUA_OK, "%s", lua_tostring(L, -1));
    lua_close(L);
}
