/* upgrade.h -- new handlers for a Lua actor that runs: what upgrade.c gives to server.c and others. */
#ifndef RK_SCRIPT_UPGRADE_H
#define RK_SCRIPT_UPGRADE_H

#include "script/scheduler.h"

/* pid:upgrade(definition) for actors of kind "lua": the definition (a registered name, a definition
 * object, a handler table, a module's name) is at index, an argument of the running C function, above
 * which nothing is needed. Yields; results: true, or nil, message with traceback, code. Raises for
 * a value that is no definition. owner only */
int rk__lua_upgrade_actor(lua_State *L, rk_pid pid, int index);
/* The attend hook of a Lua host: takes the parcel of an upgrade. takes m when true. owner only */
bool rk__lua_attend(rk__actor *self, rk_message *m);
/* Pushes "upgrade" and the oldest one that nobody has withdrawn: 2, or 0: there is none. */
int rk__lua_push_upgrade(lua_State *L, rk__lua_host *host);
/* Everybody who waits for an upgrade hears that there will be none. owner only */
void rk__lua_refuse_upgrades(rk__lua_host *host, const char *why);
/* Adds load and upgraded to the table on top, for rk/server.lua. */
void rk__lua_add_upgrade(lua_State *L);

#endif
