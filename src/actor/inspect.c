/* inspect.c -- looking at actors and runtimes from any thread; counters are relaxed. */
#include "actor/runtime.h"

#include <stdlib.h>
#include <string.h>
#include "base/error.h"

static uint64_t counter(const uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_RELAXED);
}

int rk_inspect(rk_pid pid, rk_info *out)
{
    rk__actor *a;
    rk_info info;
    int code = rk__forked() ? rk__fork_error() : rk__actor_get(pid, &a);
    if (code < 0) {
        return code;
    }
    memset(&info, 0, sizeof info);
    pthread_mutex_lock(&a->lock);
    info.pid = pid;
    strcpy(info.name, a->name);
    strcpy(info.kind, a->class->kind);
    strcpy(info.device, "host");
    info.state = rk__actor_state(a);
    info.cpu = a->cpu;
    rk__mailbox_depth(&a->mailbox, info.depth);
    info.received = counter(&a->received);
    info.sent = counter(&a->sent);
    info.dropped = counter(&a->mailbox.dropped);
    info.failed = counter(&a->failed);
    rk__histogram *waits = __atomic_load_n(&a->waits, __ATOMIC_ACQUIRE);
    if (waits != NULL) {
        info.p50 = rk__histogram_quantile(waits, 0.5);
        info.p99 = rk__histogram_quantile(waits, 0.99);
    }
    if (a->impl != NULL && a->class->describe != NULL) {
        a->class->describe(a, &info);
    }
    bool current = rk__actor_find(pid) == a;
    pthread_mutex_unlock(&a->lock);
    if (!current) {
        return rk__actor_dead(pid);
    }
    *out = info;
    return 0;
}

size_t rk_actors(rk_runtime *rt, rk_pid *pids, size_t capacity)
{
    return rk__actor_list(rt, pids, capacity);
}

/* What the actors that live have done; the others have left their numbers with the runtime. */
static void add_living(rk_runtime *rt, rk_stats *out)
{
    size_t capacity = rk__actor_list(rt, NULL, 0) + 16;
    rk_pid *pids = calloc(capacity, sizeof *pids);
    size_t n = pids != NULL ? rk__actor_list(rt, pids, capacity) : 0;
    for (size_t i = 0; i < n && i < capacity; i++) {
        const rk__actor *a = rk__actor_find(pids[i]);
        out->messages_sent += a != NULL ? counter(&a->sent) : 0;
        out->messages_received += a != NULL ? counter(&a->received) : 0;
    }
    free(pids);
}

int rk_runtime_stats(rk_runtime *rt, rk_stats *out)
{
    if (rk__forked()) {
        return rk__fork_error();
    }
    memset(out, 0, sizeof *out);
    out->actors = __atomic_load_n(&rt->live, __ATOMIC_RELAXED);
    out->spawned = counter(&rt->spawned);
    out->terminated = counter(&rt->terminated);
    out->failed = counter(&rt->failed);
    out->messages_sent = counter(&rt->messages_sent);
    out->messages_received = counter(&rt->messages_received);
    out->unfinished = counter(&rt->unfinished);
    add_living(rt, out);
    out->dropped = counter(&rt->dropped);
    out->dead_letters = counter(&rt->dead_letters);
    out->expired = counter(&rt->expired);
    out->rejected = counter(&rt->rejected);
    out->late_replies = counter(&rt->late_replies);
    out->forgotten = counter(&rt->forgotten);
    out->kernels_compiled = counter(&rt->kernels_compiled);
    out->cache_hits = counter(&rt->cache_hits);
    return 0;
}
