/*
 * names.c -- names of a runtime's actors: a libc search tree under the runtime's lock.
 *
 * Threads: any.
 */
#include "actor/runtime.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"

struct name {
    char text[RK_NAME_MAX];
    rk_pid pid;
};

static int compare(const void *a, const void *b)
{
    return strcmp(((const struct name *)a)->text, ((const struct name *)b)->text);
}

static struct name *find(rk_runtime *rt, const char *text)
{
    struct name key;
    if (strlen(text) >= RK_NAME_MAX) {
        return NULL;
    }
    strcpy(key.text, text);
    struct name **node = tfind(&key, &rt->names, compare);
    return node != NULL ? *node : NULL;
}

static int insert(rk_runtime *rt, const char *text, rk_pid pid)
{
    struct name *name = malloc(sizeof *name);
    if (name == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for the name \"%s\"", text);
    }
    strcpy(name->text, text);
    name->pid = pid;
    if (tsearch(name, &rt->names, compare) == NULL) {
        free(name);
        return rk__fail(RK_ENOMEM, "no memory for the name \"%s\"", text);
    }
    return 0;
}

int rk__name_set(rk_runtime *rt, const char *text, rk_pid pid)
{
    int code = 0;
    if (text[0] == '\0' || strlen(text) >= RK_NAME_MAX) {
        return rk__fail(RK_EINVAL, "a name has 1 to %d bytes", RK_NAME_MAX - 1);
    }
    pthread_mutex_lock(&rt->lock);
    struct name *name = find(rt, text);
    if (name == NULL) {
        code = insert(rt, text, pid);
    } else if (rk__actor_find(name->pid) == NULL) {
        name->pid = pid; /* its owner ended without giving it up (a port, or a foreign runtime) */
    } else if (name->pid != pid) {
        code = rk__fail(RK_EEXIST,
                        "the name \"%s\" belongs to actor <%u.%u> already: take another "
                        "name, or stop that actor first",
                        text, rk__pid_generation(name->pid), (unsigned)(name->pid & 0xffffff));
    }
    pthread_mutex_unlock(&rt->lock);
    return code;
}

void rk__name_drop(rk_runtime *rt, const char *text, rk_pid pid)
{
    pthread_mutex_lock(&rt->lock);
    struct name *name = text[0] != '\0' ? find(rt, text) : NULL;
    if (name != NULL && name->pid == pid) {
        tdelete(name, &rt->names, compare);
        free(name);
    }
    pthread_mutex_unlock(&rt->lock);
}

static void list_one(const char *text, rk_pid pid, void *arg)
{
    rk__strbuf *s = arg;
    (void)pid;
    rk__strbuf_addf(s, "%s\"%s\"", s->size != 0 ? ", " : "", text);
}

int rk__name_get(rk_runtime *rt, const char *text, rk_pid *out)
{
    pthread_mutex_lock(&rt->lock);
    struct name *name = find(rt, text);
    bool found = name != NULL && rk__actor_find(name->pid) != NULL;
    if (found) {
        *out = name->pid;
    }
    pthread_mutex_unlock(&rt->lock);
    if (found) {
        return 0;
    }
    rk__strbuf known = RK__STRBUF_INIT;
    rk__name_each(rt, list_one, &known);
    int code = rk__fail(RK_ENOENT, "no actor is named \"%s\"; there are: %s", text,
                        known.size != 0 ? known.bytes : "none");
    rk__strbuf_free(&known);
    return code;
}

struct each {
    void (*fn)(const char *name, rk_pid pid, void *arg);
    void *arg;
};

static void visit(const void *node, VISIT order, void *closure)
{
    struct each *each = closure;
    const struct name *name = *(struct name *const *)node;
    if ((order == postorder || order == leaf) && rk__actor_find(name->pid) != NULL) {
        each->fn(name->text, name->pid, each->arg);
    }
}

void rk__name_each(rk_runtime *rt, void (*fn)(const char *name, rk_pid pid, void *arg), void *arg)
{
    struct each each = {fn, arg};
    pthread_mutex_lock(&rt->lock);
    twalk_r(rt->names, visit, &each);
    pthread_mutex_unlock(&rt->lock);
}

void rk__names_free(rk_runtime *rt)
{
    tdestroy(rt->names, free);
    rt->names = NULL;
}

int rk_register(rk_runtime *rt, const char *name, rk_pid pid)
{
    rk__actor *a;
    int code = rk__forked() ? rk__fork_error() : rk__actor_get(pid, &a);
    if (code == 0) {
        code = rk__name_set(rt, name, pid);
    }
    if (code == 0) {
        pthread_mutex_lock(&a->lock);
        if (a->name[0] == '\0' && rk__actor_find(pid) == a) {
            strcpy(a->name, name);
        }
        pthread_mutex_unlock(&a->lock);
    }
    return code;
}

int rk_whereis(rk_runtime *rt, const char *name, rk_pid *out)
{
    return rk__forked() ? rk__fork_error() : rk__name_get(rt, name, out);
}
