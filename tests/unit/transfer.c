/* Values that go from one Lua state to another: what arrives, and what is refused by which name. */
#include <criterion/criterion.h>
#include <lualib.h>
#include <pthread.h>
#include <string.h>
#include "base/error.h"
#include "script/values.h"

static void open_rk(lua_State *L)
{
    luaL_openlibs(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_newtable(L);
    rk__lua_open_values(L);
    rk__lua_open_types(L);
    rk__lua_open_messages(L);
    rk__lua_open_pids(L);
    lua_setfield(L, -2, "rk");
    lua_settop(L, 0);
}

static lua_State *new_state(void)
{
    lua_State *L = luaL_newstate();
    open_rk(L);
    return L;
}

/* Leaves the result of the chunk at the top. */
static void run(lua_State *L, const char *chunk, int arguments)
{
    int status = luaL_loadbuffer(L, chunk, strlen(chunk), "=app.lua");
    lua_insert(L, -1 - arguments);
    if (status == LUA_OK) {
        status = lua_pcall(L, arguments, 1, 0);
    }
    cr_assert_eq(status, LUA_OK, "%s", lua_tostring(L, -1));
}

/* What `make` returns is captured in one state, restored in another, and given to `check` there,
 * which must return true. */
static void moves(const char *make, const char *check)
{
    lua_State *from = new_state(), *to = new_state();
    rk__image *image;
    run(from, make, 0);
    int top = lua_gettop(from);
    cr_assert_eq(rk__lua_capture(from, -1, &image), 0, "%s", rk_errdetail());
    cr_assert_eq(lua_gettop(from), top);
    lua_close(from);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(rk__lua_restore(to, image), 0, "%s", rk_errdetail());
        cr_assert_eq(lua_gettop(to), 1);
        run(to, check, 1);
        cr_assert(lua_toboolean(to, -1), "%s", check);
        lua_settop(to, 0);
        lua_gc(to, LUA_GCCOLLECT);
    }
    rk__lua_image_free(image);
    lua_close(to);
}

static void refuses(const char *make, const char *expected)
{
    lua_State *L = new_state();
    rk__image *image = NULL;
    run(L, make, 0);
    int top = lua_gettop(L);
    cr_assert_eq(rk__lua_capture(L, -1, &image), RK_ETYPE, "%s", make);
    cr_assert_null(image);
    cr_assert_eq(lua_gettop(L), top);
    cr_assert(strstr(rk_errdetail(), expected), "expected '%s' in: %s", expected, rk_errdetail());
    lua_close(L);
}

Test(transfer, plain_data)
{
    moves("return nil", "return ... == nil");
    moves("return true", "return ... == true");
    moves("return 42", "return ... == 42 and math.type(...) == 'integer'");
    moves("return 42.0", "return math.type(...) == 'float'");
    moves("return 'a\\0b'", "return ... == 'a\\0b'");
    moves("return ('x'):rep(1000000)", "return ... == ('x'):rep(1000000)");
    moves("return { 1, 2, { x = { [true] = 'y', [1.5] = false } } }",
          "local t = ... return t[2] == 2 and t[3].x[true] == 'y' and t[3].x[1.5] == false "
          "and #t == 3");
}

Test(transfer, cycles_and_shared_references)
{
    moves("local t = {} t.self = t t.list = { t, t } t[t] = t return t",
          "local t = ... return t.self == t and t.list[2] == t and t[t] == t");
    moves("local a = {} return { a, a, { a } }",
          "local t = ... return t[1] == t[2] and t[3][1] == t[1] and t[1] ~= t[3]");
}

Test(transfer, a_long_list_needs_no_stack)
{
    moves("local list for i = 1, 200000 do list = { next = list } end return list",
          "local n, list = 0, ... while list do n, list = n + 1, list.next end return n == 200000");
}

Test(transfer, metatables)
{
    moves("local C = {} C.__index = C function C.get(o) return o.v end "
          "return { setmetatable({ v = 3 }, C), setmetatable({ v = 4 }, C) }",
          "local t = ... return t[1]:get() == 3 and t[2]:get() == 4 "
          "and getmetatable(t[1]) == getmetatable(t[2])");
    moves("return setmetatable({ 'kept' }, { __mode = 'k', __metatable = false })",
          "return getmetatable(...) == false and (...)[1] == 'kept'");
}

Test(transfer, finalizers_are_seen)
{
    lua_State *from = new_state(), *to = new_state();
    rk__image *image;
    run(from, "return setmetatable({}, { __gc = function() collected = true end })", 0);
    cr_assert_eq(rk__lua_capture(from, -1, &image), 0);
    cr_assert_eq(rk__lua_restore(to, image), 0);
    rk__lua_image_free(image);
    lua_settop(to, 0);
    lua_gc(to, LUA_GCCOLLECT);
    lua_getglobal(to, "collected");
    cr_assert(lua_toboolean(to, -1));
    lua_close(from);
    lua_close(to);
}

Test(transfer, functions_and_upvalues)
{
    moves("local n = 10 return function(k) n = n + k return n end",
          "local f = ... return f(1) == 11 and f(2) == 13");
    moves("return function() return print, _G, _ENV end",
          "local p, g, e = (...)() return p == print and g == _G and e == _G");
    moves("local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end "
          "return fib",
          "return (...)(10) == 55");
    moves("return function(...) return select('#', ...) end", "return (...)(1, nil, 3) == 3");
}

Test(transfer, shared_upvalues_stay_shared)
{
    moves("local n = 0 return { inc = function() n = n + 1 end, get = function() return n end }",
          "local t = ... t.inc() t.inc() return t.get() == 2");
    moves("local fs = {} for i = 1, 3 do local n = i fs[i] = function() n = n + 1 return n end end "
          "return fs",
          "local fs = ... fs[1]() return fs[1]() == 3 and fs[2]() == 3 and fs[3]() == 4");
    moves("local even, odd function even(n) return n == 0 or odd(n - 1) end "
          "function odd(n) return n ~= 0 and even(n - 1) end return { even, odd }",
          "local t = ... return t[1](10) and not t[2](10)");
}

Test(transfer, debug_information_is_kept)
{
    moves("\n\nreturn function() error('here') end",
          "local ok, err = pcall(...) return err:find('app.lua:3: here', 1, true)");
}

Test(transfer, library_functions_and_modules_by_name)
{
    moves("local f, s, p = string.format, string, print return function() return f, s, p end",
          "local f, s, p = (...)() return f == string.format and s == string and p == print");
    moves("return { math.sin, io.stdout, os, require, _G, package.loaded }",
          "local t = ... return t[1] == math.sin and t[2] == io.stdout and t[3] == os "
          "and t[4] == require and t[5] == _G and t[6] == package.loaded");
    moves("local rk = require 'rk' local pack = rk.pack return function() return rk, pack end",
          "local a, b = (...)() return a == require 'rk' and b == a.pack");
    moves("function helper() return 'global' end local h = helper return function() return h() end",
          "return (...)() == 'global' and helper == nil");
    moves("package.loaded.late = { f = string.rep } local keep = string.rep "
          "package.loaded.late = nil return keep",
          "return ... == string.rep");
}

Test(transfer, lua_modules_are_required)
{
    lua_State *from = new_state(), *to = new_state();
    rk__image *image;
    run(from,
        "package.loaded['work.util'] = { add = function() return 'theirs' end } "
        "local add = package.loaded['work.util'].add return function() return add() end",
        0);
    cr_assert_eq(rk__lua_capture(from, -1, &image), 0);
    lua_close(from);
    cr_assert_eq(rk__lua_restore(to, image), RK_ENOENT);
    cr_assert(strstr(rk_errdetail(), "'work.util'"), "%s", rk_errdetail());
    cr_assert_eq(lua_gettop(to), 0);
    run(to, "package.preload['work.util'] = function() error 'broken' end", 0);
    cr_assert_eq(rk__lua_restore(to, image), RK_ENOENT);
    cr_assert(strstr(rk_errdetail(), "broken"), "%s", rk_errdetail());
    run(to, "package.preload['work.util'] = function() return {} end", 0);
    cr_assert_eq(rk__lua_restore(to, image), RK_ENOENT);
    cr_assert(strstr(rk_errdetail(), "has no 'add'"), "%s", rk_errdetail());
    run(to, "package.loaded['work.util'] = { add = function() return 'mine' end }", 0);
    lua_settop(to, 0);
    cr_assert_eq(rk__lua_restore(to, image), 0, "%s", rk_errdetail());
    cr_assert_eq(lua_pcall(to, 0, 1, 0), LUA_OK);
    cr_assert_str_eq(lua_tostring(to, -1), "mine");
    rk__lua_image_free(image);
    lua_close(to);
}

Test(transfer, functions_added_to_a_module_later_are_found)
{
    lua_State *L = new_state();
    rk__image *image;
    run(L, "return 1", 0);
    cr_assert_eq(rk__lua_capture(L, -1, &image), 0);
    rk__lua_image_free(image);
    run(L, "local c = coroutine.wrap(function() end) string.later = c return c", 0);
    cr_assert_eq(rk__lua_capture(L, -1, &image), 0, "%s", rk_errdetail());
    rk__lua_image_free(image);
    run(L, "local c = string.later string.later = nil return c", 0);
    cr_assert_eq(rk__lua_capture(L, -1, &image), RK_ETYPE);
    lua_close(L);
}

Test(transfer, types_messages_and_pids)
{
    moves("local rk = require 'rk' local T = rk.message('MoveT', { x = 'f64', v = 'f32[4]' }) "
          "return { T, T { x = 3, v = { 1, 2 }, priority = 9 } }",
          "local rk, t = require 'rk', ... return t[1] == rk.message('MoveT') and t[2].x == 3 "
          "and t[2].v[2] == 2 and t[2].priority == 9 and t[2].type == 'MoveT'");
    lua_State *from = new_state(), *to = new_state();
    rk__image *image;
    rk_pid pid;
    rk__lua_push_pid(from, 0x1000007);
    cr_assert_eq(rk__lua_capture(from, -1, &image), 0);
    cr_assert_eq(rk__lua_restore(to, image), 0);
    rk__lua_image_free(image);
    cr_assert(rk__lua_to_pid(to, -1, &pid));
    cr_assert_eq(pid, 0x1000007);
    lua_close(from);
    lua_close(to);
}

Test(transfer, runtimes_go_as_handles)
{
    lua_State *from = rk__lua_state_new(), *to = rk__lua_state_new();
    rk__image *image;
    rk_runtime *rt;
    run(from,
        "runtime = require('rk').runtime { device = 'cpu' } local r = runtime "
        "return function() return r end",
        0);
    lua_getglobal(from, "runtime");
    rt = rk__lua_check_runtime(from, -1);
    lua_pop(from, 1);
    cr_assert_eq(rk__lua_capture(from, -1, &image), 0, "%s", rk_errdetail());
    cr_assert_eq(rk__lua_restore(to, image), 0, "%s", rk_errdetail());
    cr_assert_eq(lua_pcall(to, 0, 1, 0), LUA_OK);
    cr_assert_eq(rk__lua_check_runtime(to, -1), rt);
    run(from, "runtime:close()", 0);
    cr_assert_eq(rk__lua_restore(to, image), RK_ESTATE);
    cr_assert(strstr(rk_errdetail(), "was closed"), "%s", rk_errdetail());
    rk__lua_image_free(image);
    lua_close(to);
    lua_close(from);
}

Test(transfer, what_cannot_go_is_named)
{
    refuses("local socket = io.tmpfile() return function() return socket end",
            "upvalue \"socket\" of function <app.lua:1>");
    refuses("local config = { log = { file = io.tmpfile() } } return function() return config end",
            "field \"file\" in field \"log\" in upvalue \"config\" of function <app.lua:1>");
    refuses("local co = coroutine.create(print) local function inner() return co end\n"
            "return function() return inner end",
            "upvalue \"co\" of function <app.lua:1> in upvalue \"inner\" of function <app.lua:2>");
    refuses("local c = coroutine.wrap(print) return function() return c end",
            "a C function that no module has: upvalue \"c\"");
    refuses("return { 1, 2, coroutine.create(print) }", "a thread: item [3]");
    refuses("return { [coroutine.create(print)] = 1 }", "the field with a thread as key");
    refuses("return setmetatable({}, { __index = io.tmpfile() })",
            "field \"__index\" in the metatable");
    refuses("return io.tmpfile()", "FILE*");
}

Test(transfer, messages_that_were_closed_are_refused)
{
    lua_State *L = new_state();
    rk__image *image;
    run(L,
        "local rk = require 'rk' local kept do local m <close> = rk.message('MoveC', "
        "{ x = 'u8' })() kept = m end return { kept }",
        0);
    cr_assert_eq(rk__lua_capture(L, -1, &image), RK_EINVAL);
    lua_close(L);
}

struct job {
    const rk__image *image;
    int good;
};

static void *restore_many(void *arg)
{
    struct job *job = arg;
    for (int i = 0; i < 50; i++) {
        lua_State *L = new_state();
        if (rk__lua_restore(L, job->image) == 0 && lua_pcall(L, 0, 1, 0) == LUA_OK) {
            job->good += lua_tointeger(L, -1) == 7;
        }
        lua_close(L);
    }
    return NULL;
}

Test(transfer, one_image_for_many_threads)
{
    lua_State *L = new_state();
    rk__image *image;
    struct job jobs[3];
    pthread_t threads[3];
    run(L,
        "local rk = require 'rk' local m = rk.message('MoveM', { x = 'u8' }) { x = 3 } "
        "local t = { 1, { 3 } } return function() return t[1] + t[2][1] + m.x end",
        0);
    cr_assert_eq(rk__lua_capture(L, -1, &image), 0);
    lua_close(L);
    for (int i = 0; i < 3; i++) {
        jobs[i] = (struct job){image, 0};
        cr_assert_eq(pthread_create(&threads[i], NULL, restore_many, &jobs[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
        cr_assert_eq(jobs[i].good, 50);
    }
    rk__lua_image_free(image);
}

/* An allocator that fails from the n-th allocation on. */
static void *failing(void *arg, void *block, size_t old, size_t size)
{
    long *left = arg;
    (void)old;
    if (size == 0) {
        free(block);
        return NULL;
    }
    if (*left >= 0 && (*left)-- == 0) {
        *left = 0;
        return NULL;
    }
    return realloc(block, size);
}

Test(transfer, memory_that_runs_out_is_an_error_and_loses_nothing)
{
    lua_State *L = new_state();
    rk__image *image;
    int failures = 0;
    run(L,
        "local rk = require 'rk' local m = rk.message('MoveF', { x = 'u8' }) { x = 3 } "
        "local t = { 1, { 3 } } return function() return t[1] + t[2][1] + m.x end",
        0);
    cr_assert_eq(rk__lua_capture(L, -1, &image), 0);
    for (long n = 0; n < 1000; n += 3) {
        long left = -1;
        lua_State *to = lua_newstate(failing, &left);
        open_rk(to);
        left = n;
        int rc = rk__lua_restore(to, image);
        left = -1;
        cr_assert(rc == 0 || rc == RK_ENOMEM, "%d: %s", rc, rk_errdetail());
        failures += rc < 0;
        lua_close(to);
        if (rc == 0) {
            break;
        }
    }
    cr_assert_gt(failures, 2);
    rk__lua_image_free(image);
    lua_close(L);
}
