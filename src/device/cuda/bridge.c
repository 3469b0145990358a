/*
 * bridge.c -- the bridge thread of a GPU: what the device said reaches mailboxes and callers.
 *
 * A GPU cannot wake anybody. Who waits for an answer drains the channel it waits on while it spins
 * (cuda.c); everything else is found here: answers for threads that sleep, messages of the device's
 * own, statuses, blocks that have left. A look at an instance is a look at one line of its outbox in
 * host memory, which changes only when the device has written it.
 *
 * How often. Looks follow each other while there is something to deliver, then come further and
 * further apart: up to 20 us while messages are under way, up to 1 ms while none are. A thread that
 * stops spinning and goes to sleep brings it back at once.
 *
 * Threads. The bridge is the only one that takes tenants off the list, so what is on it stays while
 * a round lasts. Channels are looked at without the lock (they have their own); statuses and seats
 * under it, and what follows from them is done after it is released. Ending an instance (its last
 * block has left) frees the tenant.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "base/log.h"
#include "base/topology.h"
#include "device/cuda/cuda.h"
#include "device/cuda/gpu.h"

enum {
    LOOKS = 200,          /* without a pause, after there was something */
    PAUSE_BUSY = 20000,   /* ns between looks, at most, while messages are under way */
    PAUSE_FREE = 1000000, /* and while none are */
    PAUSE_MIN = 1000,
    EVENTS = 64 /* of a round; the rest comes with the next */
};

typedef struct event {
    rk__kernel_actor *kernel;
    rk_runtime *runtime;
    uint32_t block;
    bool left, last;
} event;

typedef struct bridge {
    rk__gpu *gpu;
    rk__kernel_actor **kernels; /* on the list when the round began */
    size_t count, capacity;
    event events[EVENTS];
    size_t event_count;
    bool under_way;
} bridge;

/* ---- channels ------------------------------------------------------------------------------- */

static bool grow(bridge *b)
{
    size_t capacity = b->capacity > 0 ? 2 * b->capacity : 64;
    rk__kernel_actor **grown = realloc(b->kernels, capacity * sizeof *grown);
    if (grown != NULL) {
        b->kernels = grown;
        b->capacity = capacity;
    }
    return grown != NULL;
}

static void list_kernels(bridge *b)
{
    pthread_mutex_lock(&b->gpu->lock);
    b->count = 0;
    for (rk__tenant *t = b->gpu->tenants; t != NULL; t = t->next) {
        if (b->count < b->capacity || grow(b)) {
            b->kernels[b->count++] = t->kernel;
        }
    }
    pthread_mutex_unlock(&b->gpu->lock);
}

static bool serve_channels(bridge *b)
{
    bool found = false;
    b->under_way = false;
    list_kernels(b);
    for (size_t i = 0; i < b->count; i++) {
        rk__channel *c = &b->kernels[i]->channel;
        found |= rk__channel_drain(c);
        if (rk__channel_wants_attention(c)) {
            rk__channel_pump(c);
        }
        b->under_way |= rk__channel_under_way(c) > 0;
    }
    return found;
}

/* ---- statuses and seats --------------------------------------------------------------------- */

static void note(bridge *b, rk__tenant *t, uint32_t block, bool left, bool last)
{
    b->events[b->event_count++] = (event){t->kernel, t->kernel->runtime, block, left, last};
}

static void look_at(bridge *b, rk__tenant *t)
{
    const rk__gpu_class *c = &b->gpu->classes[t->class];
    for (uint32_t i = 0; i < t->kernel->grid && b->event_count < EVENTS; i++) {
        const rk_seat *seat = &c->seats[t->seats[i]];
        /* Both pair with the device's releases. */
        uint32_t left = __atomic_load_n(&seat->left, __ATOMIC_ACQUIRE);
        uint32_t status = __atomic_load_n(&t->kernel->blocks[i].wire->status, __ATOMIC_ACQUIRE);
        if (!t->left[i] && left == seat->turn) {
            note(b, t, i, true, rk__gpu_vacate(b->gpu, t, i));
        } else if (status != t->seen[i]) {
            t->seen[i] = status;
            note(b, t, i, false, false);
        }
    }
}

static void look_at_all(bridge *b)
{
    b->event_count = 0;
    pthread_mutex_lock(&b->gpu->lock);
    for (rk__tenant *t = b->gpu->tenants, *next; t != NULL; t = next) {
        next = t->next;
        look_at(b, t);
    }
    pthread_mutex_unlock(&b->gpu->lock);
}

/* What an instance holds of its runtime: close waits until the bridge is done with it. */
static void let_go(rk_runtime *rt)
{
    /* Release: pairs with the acquire of rk__runtime_close. */
    __atomic_sub_fetch(&rt->threads, 1, __ATOMIC_RELEASE);
    rk__runtime_changed(rt);
}

static bool handle_events(bridge *b)
{
    for (size_t i = 0; i < b->event_count; i++) {
        event *e = &b->events[i];
        if (e->left) {
            rk__kernel_block_left(e->kernel, e->block);
        } else {
            rk__kernel_status_changed(e->kernel);
        }
        if (e->last) {
            let_go(e->runtime);
        }
    }
    return b->event_count > 0;
}

/* ---- the loss of the device ----------------------------------------------------------------- */

static rk__tenant *take_tenant(rk__gpu *gpu)
{
    pthread_mutex_lock(&gpu->lock);
    rk__tenant *t = gpu->tenants;
    if (t != NULL) {
        gpu->tenants = t->next;
    }
    pthread_mutex_unlock(&gpu->lock);
    return t;
}

/* What was said before is still delivered; then every actor fails with the reason. */
static void fail_all(rk__gpu *gpu)
{
    rk__tenant *t;
    while ((t = take_tenant(gpu)) != NULL) {
        rk__kernel_actor *k = t->kernel;
        rk_runtime *rt = k->runtime;
        rk__kernel_lost(k, rk__gpu_lost(gpu));
        let_go(rt);
    }
}

/* ---- the thread ----------------------------------------------------------------------------- */

static bool stirred(void *arg)
{
    (void)arg;
    return false; /* a kick is enough */
}

static void rest(const bridge *b, int64_t *pause)
{
    int64_t most = b->under_way ? PAUSE_BUSY : PAUSE_FREE;
    *pause = *pause < PAUSE_MIN ? PAUSE_MIN : *pause * 2;
    *pause = *pause > most ? most : *pause;
    rk__park_wait(&b->gpu->bridge_park, stirred, NULL, rk__now() + *pause);
}

void *rk__gpu_bridge(void *arg)
{
    bridge b = {.gpu = arg};
    int64_t pause = 0;
    uint32_t looks = 0;
    rk__thread_enter(-1, "rk-bridge");
    /* Acquire: pairs with stop_threads. */
    while (__atomic_load_n(&b.gpu->closing, __ATOMIC_ACQUIRE) == 0) {
        bool found = serve_channels(&b);
        look_at_all(&b);
        found |= handle_events(&b);
        if (rk__gpu_lost(b.gpu) != NULL) {
            fail_all(b.gpu);
        }
        looks = found ? 0 : looks + 1;
        pause = found ? 0 : pause;
        if (looks > LOOKS || (b.count == 0 && !found)) {
            rest(&b, &pause);
        }
    }
    free(b.kernels);
    return NULL;
}
