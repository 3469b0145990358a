/* chunk.h -- running a chunk in a state that belongs to the calling thread. */
#ifndef RK_SCRIPT_CHUNK_H
#define RK_SCRIPT_CHUNK_H

#include <lua.h>

/* Message handler for lua_pcall: any error value becomes its text and the traceback. */
int rk__lua_explain(lua_State *L);
/* Calls the function below its `arguments` with rk__lua_explain (or `handler`, when not NULL); as
 * lua_pcall with this many results. */
int rk__lua_run(lua_State *L, int arguments, int results, lua_CFunction handler);

#endif
