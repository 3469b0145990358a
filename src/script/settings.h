/*
 * settings.h -- what the program decided before any script ran: options of runtimes from the
 * command line and from --config, and how Lua states are made.
 *
 * Written by the main thread before the first runtime is open, read by any thread afterwards.
 */
#ifndef RK_SCRIPT_SETTINGS_H
#define RK_SCRIPT_SETTINGS_H

#include "rk.h"

enum rk__layer { RK__LAYER_CONFIG, RK__LAYER_COMMAND_LINE, RK__LAYERS };

/* The options of rk.runtime, sorted, ends with NULL. */
extern const char *const rk__setting_names[];

/* Remembers an option as text; the command line wins over what a script says, which wins over the
 * configuration. copies. RK_EINVAL lists the names; RK_ENOMEM. thread: main, at start. blocks: no
 */
int rk__setting_set(enum rk__layer layer, const char *name, const char *value);
/* NULL: not set. borrows from the store. thread: any. blocks: no */
const char *rk__setting_get(enum rk__layer layer, const char *name);

/* How every Lua state of this process is made: without LUA_PATH and its like (-E), with warnings
 * switched on (-W). */
typedef struct rk__state_settings {
    bool no_environment, warnings;
} rk__state_settings;
extern rk__state_settings rk__state_settings_now;

#endif
