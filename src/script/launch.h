/* launch.h -- what runtime.c, launch.c, kernel.c and embed.c share: starting actors from Lua. */
#ifndef RK_SCRIPT_LAUNCH_H
#define RK_SCRIPT_LAUNCH_H

#include "script/script.h"

/* Pushes the definition of this name as a Lua value ("rk.definition"), which holds a reference, so
 * it starts what was defined here even when the name was defined again since. RK_ENOENT: the value
 * pushed is empty. */
int rk__lua_push_definition(lua_State *L, const char *name);
/* The same for a definition one has; the value holds a reference of its own. */
void rk__lua_push_definition_object(lua_State *L, rk__definition *definition);
/* borrows from the value at index; NULL: no definition */
rk__definition *rk__lua_to_definition(lua_State *L, int index);
void rk__lua_open_definitions(lua_State *L);

/* Methods of runtime objects that live in launch.c. */
int rk__lua_runtime_launch(lua_State *L);
int rk__lua_runtime_spawn(lua_State *L);
int rk__lua_runtime_wait(lua_State *L);

/* For supervise.c, functions for Lua. Starts a supervisor: runtime, checked tree, options -> pid. */
int rk__lua_start_supervisor(lua_State *L);
/* Starts a child of the supervisor that runs here: runtime, what, options, whether it is a tree ->
 * pid. It is linked, monitored and marked before it runs. Raises. */
int rk__lua_start_child(lua_State *L);
/* What to launch, its kind and its name: of a name, definition, function or handler table. Raises
 * when there is nothing of the kind. */
int rk__lua_resolve(lua_State *L);
/* Raises for bad options of spawn, in the table at 1. */
int rk__lua_check_options(lua_State *L);
/* Pushes the list of the options of spawn. */
void rk__lua_push_spawn_options(lua_State *L);
/* luaactor.c: pushes the function or handler table as it is now, when the running state is the one
 * that registered the definition; false: nothing pushed. */
bool rk__lua_definition_value(lua_State *L, const rk__definition *definition);

/* luaactor.c: the image of a definition of kind "lua", borrowed while the definition lives; *own is it
 * when it was made for this call. gives *own. 0 or 1; negative: cannot be captured. */
int rk__lua_definition_image(rk__definition *base, const rk__image **out, rk__image **own);
/* Whether `require` would find the module whose name is at index: loaded or preloaded here, or found
 * by one of the searchers (which find, and do not run). */
bool rk__lua_module_exists(lua_State *L, int index);

/* handlers.c: raises when the table at index (absolute) is no handler table: names the entry and
 * what is allowed there. */
void rk__lua_check_handlers(lua_State *L, int index);

/* state.c: from now on new states look for modules where this one does. */
void rk__lua_share_paths(lua_State *L);

/* Raises for a key of the table at index that is not in `known` (ends with NULL), listing those. */
void rk__lua_check_keys(lua_State *L, int index, const char *what, const char *const *known);
/* "block" "reject" "drop_oldest" "drop_newest" in the field `full` of the table at index; absent:
 * `otherwise`. Raises for anything else. */
enum rk_full rk__lua_full(lua_State *L, int index, enum rk_full otherwise);
/* A whole number from low to high in a field of the table at index; absent: `otherwise`. */
lua_Integer rk__lua_whole(lua_State *L, int index, const char *key, lua_Integer low,
                          lua_Integer high, lua_Integer otherwise);

/* A runtime option, on top of the stack, as text (`pin` may be false or a table of cpus); borrows
 * from what is on the stack. Raises for other types. */
const char *rk__lua_setting_text(lua_State *L, const char *name);

/* Registry key of the runtime (a light userdata) whose embedding program owns this state. */
extern const char rk__embedded_runtime_key;

#endif
