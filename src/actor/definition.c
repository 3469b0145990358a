/*
 * definition.c -- what can be launched by name: ring kernels and Lua actors, process-wide.
 *
 * Threads: any, under one lock; a definition that is replaced lives on until its last user is gone.
 */
#include "actor/runtime.h"

#include <stdlib.h>
#include <string.h>
#include "base/error.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rk__definition **definitions; /* sorted by name */
static size_t count, capacity;

/* Where a name is, or belongs; under the lock. */
static size_t place_of(const char *name, bool *found)
{
    size_t low = 0, high = count;
    *found = false;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(definitions[middle]->name, name);
        if (order == 0) {
            *found = true;
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static bool make_room(void)
{
    if (count < capacity) {
        return true;
    }
    size_t more = capacity != 0 ? capacity * 2 : 16;
    rk__definition **grown = realloc(definitions, more * sizeof *grown);
    if (grown == NULL) {
        return false;
    }
    definitions = grown;
    capacity = more;
    return true;
}

int rk__definition_set(rk__definition *definition)
{
    bool found;
    pthread_mutex_lock(&lock);
    size_t at = place_of(definition->name, &found);
    rk__definition *old = found ? definitions[at] : NULL;
    if (!found && !make_room()) {
        pthread_mutex_unlock(&lock);
        return rk__fail(RK_ENOMEM, "no memory for definition \"%s\"", definition->name);
    }
    if (!found) {
        memmove(&definitions[at + 1], &definitions[at], (count - at) * sizeof *definitions);
        count++;
    }
    definitions[at] = definition;
    pthread_mutex_unlock(&lock);
    rk__definition_release(old);
    return 0;
}

static void list_one(const rk__definition *definition, void *arg)
{
    rk__strbuf *s = arg;
    rk__strbuf_addf(s, "%s\"%s\"", s->size != 0 ? ", " : "", definition->name);
}

int rk__definition_get(const char *name, rk__definition **out)
{
    bool found;
    pthread_mutex_lock(&lock);
    size_t at = place_of(name, &found);
    if (found) {
        *out = definitions[at];
        __atomic_add_fetch(&definitions[at]->refs, 1, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&lock);
    if (found) {
        return 0;
    }
    rk__strbuf known = RK__STRBUF_INIT;
    rk__definition_each(list_one, &known);
    int code = rk__fail(RK_ENOENT, "nothing is defined as \"%s\"; defined are: %s", name,
                        known.size != 0 ? known.bytes : "none");
    rk__strbuf_free(&known);
    return code;
}

void rk__definition_release(rk__definition *definition)
{
    /* Pairs with the other releases: the last one frees what all have finished with. */
    if (definition != NULL && __atomic_sub_fetch(&definition->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        definition->free(definition);
    }
}

void rk__definition_each(void (*fn)(const rk__definition *definition, void *arg), void *arg)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < count; i++) {
        fn(definitions[i], arg);
    }
    pthread_mutex_unlock(&lock);
}

int rk_launch(rk_runtime *rt, rk_pid *out, const char *name, const rk_options *options)
{
    static const rk_options defaults = RK_OPTIONS_INIT;
    rk__definition *definition;
    rk__actor *a;
    if (rk__forked()) {
        return rk__fork_error();
    }
    int code = rk__definition_get(name, &definition);
    if (code < 0) {
        return code;
    }
    code = definition->launch(rt, definition, options != NULL ? options : &defaults, &a);
    rk__definition_release(definition);
    if (code == 0) {
        *out = rk__actor_pid(a);
    }
    return code;
}

int rk_spawn(rk_runtime *rt, rk_pid *out, const char *name, const rk_options *options)
{
    rk_pid pid;
    int code = rk_launch(rt, &pid, name, options);
    if (code < 0) {
        return code;
    }
    rk__actor *a = rk__actor_find(pid);
    return a != NULL ? rk__actor_start(a, out) : rk__actor_dead(pid);
}
