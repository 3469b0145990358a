/*
 * settings.c -- the small store behind settings.h.
 *
 * Threads: the main thread writes before there are others; everybody reads. So there is no lock.
 */
#include "script/settings.h"

#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/strbuf.h"

const char *const rk__setting_names[] = {
    "cache",       "dead_letters", "device", "device_memory", "device_timeout", "drain",
    "kill_signal", "mode",         "pin",    "pinned_memory", "stop_timeout",   NULL};
enum { SETTING_COUNT = sizeof rk__setting_names / sizeof rk__setting_names[0] - 1 };

static char *values[RK__LAYERS][SETTING_COUNT];

rk__state_settings rk__state_settings_now;

static int setting_index(const char *name)
{
    for (int i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(rk__setting_names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

int rk__setting_set(enum rk__layer layer, const char *name, const char *value)
{
    int i = setting_index(name);
    if (i < 0) {
        rk__strbuf known = RK__STRBUF_INIT;
        for (int k = 0; k < SETTING_COUNT; k++) {
            rk__strbuf_addf(&known, "%s%s", k > 0 ? ", " : "", rk__setting_names[k]);
        }
        int rc = rk__fail(RK_EINVAL, "unknown runtime option \"%s\"; known options: %s", name,
                          known.bytes != NULL ? known.bytes : "");
        rk__strbuf_free(&known);
        return rc;
    }
    char *copy = strdup(value);
    if (copy == NULL) {
        return rk__fail(RK_ENOMEM, "out of memory for the runtime option \"%s\"", name);
    }
    free(values[layer][i]);
    values[layer][i] = copy;
    return 0;
}

const char *rk__setting_get(enum rk__layer layer, const char *name)
{
    int i = setting_index(name);
    return i < 0 ? NULL : values[layer][i];
}
