/*
 * luaactor.c -- Lua code as an actor: rk.actor, and what runs on the actor's thread.
 *
 * A definition keeps its value as an image. When the state that registered it starts it, the value
 * is captured afresh, so upvalues set since are seen; every other state gets the image, or the
 * reason why there is none. The thread makes a state of its own, restores image and arguments,
 * tells the host that it started (a handler table: after init), and runs the body until it ends.
 *
 * Kill: a real-time signal to the thread; its handler arms a hook on whatever coroutine runs there.
 * A read or sleep in C returns with EINTR. A C function that never returns cannot be stopped.
 *
 * Threads: rk.actor and launches on any; run on the actor's own.
 */
#include "script/scheduler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/log.h"
#include "script/launch.h"
#include "script/server.h"

typedef struct lua_definition {
    rk__definition base;
    rk__image *image; /* NULL: it could not be captured, `problem` says why */
    char *problem;
    int code;
    const lua_State *origin; /* main state of who registered it; only compared */
} lua_definition;

typedef struct actor_body {
    rk__image *image;           /* owned; NULL: definition's */
    lua_definition *definition; /* retained; may be NULL. Neither: a supervisor */
    rk__image *arguments;
    char name[RK_NAME_MAX];
    size_t memory; /* atomic: bytes of the Lua heap */
} actor_body;

/* ---- on the actor's thread ---- */

/* Pushes the function to run and its first arguments: a body gets ctx, the loop of a handler table
 * its C half and the table. */
static void push_body(lua_State *L, const rk__image *image)
{
    if (rk__lua_restore(L, image) < 0) {
        luaL_error(L, "%s", rk_errdetail());
    }
    if (lua_type(L, -1) == LUA_TSTRING) {
        lua_getglobal(L, "require");
        lua_insert(L, -2);
        lua_call(L, 1, 1);
    }
    if (lua_type(L, -1) == LUA_TFUNCTION) {
        rk__lua_push_context(L);
    } else if (lua_type(L, -1) == LUA_TTABLE) {
        rk__lua_check_handlers(L, lua_gettop(L));
        lua_getglobal(L, "require");
        lua_pushliteral(L, "rk.server");
        lua_call(L, 1, 1);
        lua_insert(L, -2);
        rk__lua_push_server(L);
        lua_insert(L, -2);
    } else {
        luaL_error(L, "an actor is a function or a handler table, not a %s", luaL_typename(L, -1));
    }
}

/* It tells itself that it has started, as the loop of a handler table does. */
static void push_supervisor(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "rk.supervisor.loop");
    lua_call(L, 1, 1);
}

static void push_arguments(lua_State *L, const rk__image *arguments)
{
    if (rk__lua_restore(L, arguments) < 0) {
        luaL_error(L, "args: %s", rk_errdetail());
    }
    int list = lua_gettop(L);
    lua_getfield(L, list, "n");
    lua_Integer n = lua_tointeger(L, -1);
    lua_pop(L, 1);
    luaL_checkstack(L, (int)n + 4, "too many arguments of an actor");
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, list, i);
    }
    lua_remove(L, list);
}

/* Leaves the function to run and its arguments on the stack. Raises what spawn shall report. A
 * handler table has started only after its init: rk/server.lua says so. */
static int prepare(lua_State *L)
{
    actor_body *body = lua_touserdata(L, 1);
    lua_settop(L, 0);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "rk");
    lua_call(L, 1, 1);
    lua_setglobal(L, "rk"); /* code typed into the REPL or -e finds it there, so its actors do */
    if (!body->image && !body->definition) {
        push_supervisor(L);
    } else {
        push_body(L, body->image ? body->image : body->definition->image);
    }
    bool is_function = lua_gettop(L) == 2;
    if (body->arguments) {
        push_arguments(L, body->arguments);
    }
    if (is_function) {
        rk__host_started(rk__lua_self(L));
    }
    return lua_gettop(L);
}

/* The exit reason a value means. */
static int stringify(lua_State *L)
{
    bool failed = lua_toboolean(L, 2);
    if (failed && lua_isnil(L, 1)) {
        lua_pushliteral(L, "nil error");
    } else if (!failed || lua_type(L, 1) != LUA_TTABLE ||
               luaL_getmetafield(L, 1, "__tostring") != LUA_TNIL) {
        luaL_tolstring(L, 1, NULL);
    } else {
        lua_pushliteral(L, "error object: ");
        lua_getglobal(L, "require");
        lua_pushliteral(L, "rk.pretty");
        lua_call(L, 1, 1);
        lua_getfield(L, -1, "format");
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
        lua_remove(L, -2);
        lua_concat(L, 2);
    }
    return 1;
}

/* Of the value on top, which is replaced. A failure's has its traceback behind the message. */
static char *reason_of(lua_State *L, bool failed)
{
    if (lua_isnil(L, -1) && !failed) {
        return NULL;
    }
    lua_pushcfunction(L, stringify);
    lua_insert(L, -2);
    lua_pushboolean(L, failed);
    bool ok = lua_pcall(L, 2, 1, 0) == LUA_OK;
    const char *text = ok ? lua_tostring(L, -1) : NULL;
    return strdup(text ? text : "error that has no text");
}

static int run_in(lua_State *L, rk__actor *self, actor_body *body, char **reason)
{
    int code = rk__lua_host_open(L, self);
    if (code < 0) {
        return code;
    }
    rk__lua_host *host = rk__lua_host_of(L);
    host->memory_out = &body->memory;
    lua_pushcfunction(L, prepare);
    lua_pushlightuserdata(L, body);
    code = lua_pcall(L, 1, LUA_MULTRET, 0) == LUA_OK ? 0 : RK_ELUA;
    if (code == 0) {
        code = rk__lua_host_run(L, lua_gettop(L) - 1);
    }
    if (host->killed) {
        rk_should_terminate(); /* reads the request that came with the kill: its reason */
        return RK_ESTOP;
    }
    *reason = reason_of(L, code < 0);
    return code;
}

/* Closing the state releases the requests it holds; who sent them shall hear that the actor ended
 * and why, not that a request was dropped. */
static void refuse_outstanding(rk__actor *self, const char *reason)
{
    while (self->outstanding_count > 0) {
        rk__lua_answer_dead(self, self->outstanding[self->outstanding_count - 1], reason);
    }
}

void rk__lua_answer_dead(rk__actor *self, rk_message *request, const char *reason)
{
    char who[RK_PID_TEXT];
    rk__fail(RK_EDEAD, "actor %s is dead: %s", rk_pid_format(rk__actor_pid(self), who), reason);
    rk__reply(self, request, rk__message_error(RK_EDEAD, rk_errdetail()));
}

static int run(rk__actor *self, void *data, char **reason)
{
    char who[RK_PID_TEXT];
    lua_State *L = rk__lua_state_new();
    if (!L) {
        return rk__fail(RK_ENOMEM, "out of memory for the Lua state of an actor");
    }
    int code = run_in(L, self, data, reason);
    if (code < 0 && code != RK_ESTOP) {
        rk__log(RK__LOG_ERROR, rk_pid_format(rk__actor_pid(self), who), "failed: %s",
                *reason ? *reason : rk_errdetail());
    }
    const char *why = *reason ? *reason : self->stop_reason ? self->stop_reason : "normal";
    rk__server_end(rk__lua_host_of(L), why);
    if (code == 0) {
        rk__lua_still_owed(self, why);
    }
    refuse_outstanding(self, why);
    lua_close(L);
    return code;
}

static void body_free(void *data)
{
    actor_body *body = data;
    rk__lua_image_free(body->image);
    rk__lua_image_free(body->arguments);
    if (body->definition) {
        rk__definition_release(&body->definition->base);
    }
    free(body);
}

static size_t body_memory(void *data)
{
    return __atomic_load_n(&((actor_body *)data)->memory, __ATOMIC_RELAXED);
}

/* ---- kill ---- */

static void on_kill_signal(int number)
{
    int saved = errno;
    (void)number;
    rk__lua_interrupt_here();
    errno = saved;
}

/* Once per signal number, the first time something is launched that may need it. */
static void install_handler(int number)
{
    static uint64_t installed;
    if (number <= 0 || number > 64 ||
        __atomic_fetch_or(&installed, UINT64_C(1) << (number - 1), __ATOMIC_RELAXED) &
            UINT64_C(1) << (number - 1)) {
        return;
    }
    struct sigaction action = {.sa_handler = on_kill_signal};
    sigemptyset(&action.sa_mask); /* no SA_RESTART: a blocking read must come back */
    sigaction(number, &action, NULL);
}

static void kill_body(rk__actor *self, void *data)
{
    (void)data;
    pthread_kill(rk__host_thread(self), self->runtime->kill_signal);
}

/* ---- launching ---- */

static const rk__host_body lua_body = {.kind = "lua",
                                       .handshake = true,
                                       .run = run,
                                       .kill = kill_body,
                                       .free = body_free,
                                       .memory = body_memory};

static const rk__host_body supervisor_body = {.kind = "supervisor",
                                              .handshake = true,
                                              .run = run,
                                              .kill = kill_body,
                                              .free = body_free,
                                              .memory = body_memory};

/* Takes image and arguments on success; retains the definition. */
static int launch(rk_runtime *rt, rk__image *image, lua_definition *definition,
                  rk__image *arguments, const char *name, const rk_options *options,
                  rk__actor **out)
{
    actor_body *body = calloc(1, sizeof *body);
    if (!body) {
        return rk__fail(RK_ENOMEM, "out of memory for an actor");
    }
    body->image = image;
    body->arguments = arguments;
    body->definition = definition;
    strncpy(body->name, name ? name : "", sizeof body->name - 1);
    install_handler(rt->kill_signal);
    if (definition) {
        __atomic_fetch_add(&definition->base.refs, 1, __ATOMIC_RELAXED);
    }
    const rk__host_body *ops = image || definition ? &lua_body : &supervisor_body;
    int code = rk__host_launch(out, rt, ops, body, options);
    if (code < 0) {
        body->image = body->arguments = NULL;
        body_free(body);
    }
    return code;
}

int rk__lua_launch(rk_runtime *rt, rk__image *image, rk__image *arguments, const char *kind_name,
                   const rk_options *options, rk__actor **out)
{
    return launch(rt, image, NULL, arguments, kind_name, options, out);
}

int rk__lua_launch_supervisor(rk_runtime *rt, rk__image *arguments, const rk_options *options,
                              rk__actor **out)
{
    return launch(rt, NULL, NULL, arguments, NULL, options, out);
}

bool rk__lua_definition_value(lua_State *L, const rk__definition *base)
{
    const lua_definition *definition = (const lua_definition *)base;
    if (strcmp(base->kind, "lua") != 0 || definition->origin != rk__lua_host_of(L)->L) {
        lua_pushnil(L);
    } else {
        lua_rawgetp(L, LUA_REGISTRYINDEX, definition);
    }
    bool found = lua_isfunction(L, -1) || lua_istable(L, -1);
    lua_pop(L, found ? 0 : 1);
    return found;
}

/* The value as it is now, when the running state is the one that registered it. 1: captured. */
static int capture_again(lua_definition *definition, rk__image **out)
{
    rk__lua_host *host = rk__lua_host_current();
    if (!host || host->L != definition->origin || !lua_checkstack(host->running, 4)) {
        return 0;
    }
    lua_State *L = host->running;
    int code = 0;
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, definition) != LUA_TNIL) {
        code = rk__lua_capture(L, -1, out);
        code = code < 0 ? code : 1;
    }
    lua_pop(L, 1);
    return code;
}

int rk__lua_definition_image(rk__definition *base, const rk__image **out, rk__image **own)
{
    lua_definition *definition = (lua_definition *)base;
    int code = capture_again(definition, own);
    if (code == 0 && !definition->image) {
        return rk__fail(definition->code, "%s", definition->problem);
    }
    *out = code > 0 ? *own : definition->image;
    return code;
}

int rk__lua_definition_launch(rk_runtime *rt, rk__definition *base, rk__image *arguments,
                              const rk_options *options, rk__actor **out)
{
    lua_definition *definition = (lua_definition *)base;
    const rk__image *used;
    rk__image *image = NULL;
    int code = rk__lua_definition_image(base, &used, &image);
    if (code < 0) {
        return code;
    }
    code = launch(rt, image, definition, arguments, base->name, options, out);
    if (code < 0) {
        rk__lua_image_free(image);
    }
    return code;
}

static int launch_by_name(rk_runtime *rt, rk__definition *base, const rk_options *options,
                          rk__actor **out)
{
    return rk__lua_definition_launch(rt, base, NULL, options, out);
}

/* ---- rk.actor ---- */

static void definition_free(rk__definition *base)
{
    lua_definition *definition = (lua_definition *)base;
    rk__lua_image_free(definition->image);
    free(definition->problem);
    free(definition);
}

static lua_definition *definition_new(lua_State *L, const char *name)
{
    lua_definition *definition = calloc(1, sizeof *definition);
    if (!definition) {
        return NULL;
    }
    strcpy(definition->base.name, name);
    definition->base.kind = "lua";
    definition->base.launch = launch_by_name;
    definition->base.free = definition_free;
    definition->base.refs = 1;
    definition->origin = rk__lua_host_of(L)->L;
    definition->code = rk__lua_capture(L, 2, &definition->image);
    if (definition->code < 0) {
        definition->problem = strdup(rk_errdetail());
    }
    return definition;
}

/* rk.actor(name, function | handler table | module name) */
static int define_actor(lua_State *L)
{
    size_t size;
    const char *name = luaL_checklstring(L, 1, &size);
    luaL_argcheck(L, size > 0 && size < RK_NAME_MAX && strlen(name) == size, 1,
                  "a name has 1 to 63 bytes");
    int type = lua_type(L, 2);
    luaL_argexpected(L, type == LUA_TFUNCTION || type == LUA_TTABLE || type == LUA_TSTRING, 2,
                     "function, handler table or module name");
    if (type == LUA_TTABLE) {
        rk__lua_check_handlers(L, 2);
    }
    lua_settop(L, 2);
    luaL_checkstack(L, 8, "rk.actor");
    lua_definition *definition = definition_new(L, name);
    int code = definition ? rk__definition_set(&definition->base) : RK_ENOMEM;
    if (code < 0) {
        if (definition) {
            rk__definition_release(&definition->base);
        }
        return rk__lua_raise(L, code, RK_NOBODY);
    }
    lua_pushvalue(L, 2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, definition);
    rk__lua_push_definition(L, name);
    return 1;
}

void rk__lua_open_actors(lua_State *L)
{
    lua_pushcfunction(L, define_actor);
    lua_setfield(L, -2, "actor");
    rk__lua_push_noreply(L);
    lua_setfield(L, -2, "noreply");
}
