/*
 * cuda.c -- the back end's table: an instance's memory on both sides, and its words.
 *
 * Threads: as instance.c calls, but for poll and rest, which belong to whatever thread waits. No
 * function here makes a CUDA call: what needs one is asked of the driver thread.
 *
 * An instance has one piece of pinned memory (blocks as the host wrote them, wires, slots, the arena
 * of its answers, the staging area of long messages) and one of device memory (its blocks' own
 * copies, timers, state, and places for long payloads on their way in and out).
 *
 * Spinning. A thread that has handed mail to a GPU looks at that channel itself while it waits for
 * whatever it waits for: so an answer costs no hand-over between threads. When it gives up spinning
 * it brings the bridge back, which may be resting.
 */
#include "device/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "device/cuda/compile.h"
#include "device/cuda/driver.h"
#include "device/cuda/gpu.h"

static rk__gpu *gpu_of(const rk_runtime *rt)
{
    return rk__device_handle(rt);
}

/* ---- what an instance needs ----------------------------------------------------------------- */

static int settle(const rk_options *options, rk__kernel_actor *k, const rk__kernel *kernel)
{
    const rk__gpu *gpu = gpu_of(k->runtime);
    uint32_t threads = options->block != 0 ? options->block : kernel->block;
    uint32_t whole = (threads + gpu->warp - 1) / gpu->warp * gpu->warp;
    if (whole > gpu->block_max) {
        return rk__fail(RK_ERANGE, "ring kernel \"%s\": block = %u; %s takes up to %u threads",
                        kernel->base.name, threads, gpu->name, gpu->block_max);
    }
    k->threads = whole;
    return 0;
}

static int build(rk_runtime *rt, const rk__kernel *kernel, uint32_t threads, rk__module **out)
{
    return rk__cuda_module_build(rt, &gpu_of(rt)->target, kernel, threads, out);
}

/* Largest payload among types [from, to), on a border; inline ones count as nothing on the way in.
 */
static uint64_t largest(const rk__kernel *kernel, uint32_t from, uint32_t to, uint32_t above)
{
    uint64_t size = 0;
    for (uint32_t i = from; i < to; i++) {
        uint64_t s = kernel->types[i]->size;
        size = s > above && s > size ? s : size;
    }
    return (size + 63) & ~(uint64_t)63;
}

static uint64_t staging_size(const rk__kernel *kernel)
{
    uint64_t most = largest(kernel, 0, kernel->accepts, RK_PACKET_INLINE), size = 16384;
    while (size < 4 * most) {
        size *= 2;
    }
    return most > 0 ? size : 0;
}

/* ---- laying it out -------------------------------------------------------------------------- */

/* Pieces of a reservation, each on a border of 64 bytes; from 0 it only counts. */
typedef struct carving {
    uint64_t base, used;
} carving;

static void *carve(carving *c, uint64_t size)
{
    uint64_t at = c->base + c->used;
    c->used += (size + 63) & ~(uint64_t)63;
    return (void *)(uintptr_t)at;
}

typedef struct layout {
    carving pinned, near;
    uint64_t zeroed; /* bytes of device memory that begin as zeroes */
} layout;

/* Device memory of a block; what must be zero comes first, for all blocks. */
static void lay_out_near(layout *l, const rk__kernel_actor *k, rk_block *blocks, rk_block **homes,
                         void **state)
{
    const rk_entry *entry = k->module->entry;
    uint64_t in = largest(k->kernel, 0, k->kernel->accepts, RK_PACKET_INLINE);
    uint64_t out = largest(k->kernel, 0, k->kernel->type_count, 0);
    *homes = carve(&l->near, k->grid * sizeof **homes);
    uint64_t align = entry->state_align > 64 ? entry->state_align : 64;
    l->near.used = (l->near.used + align - 1) / align * align;
    *state = carve(&l->near, entry->state_size);
    l->zeroed = l->near.used;
    for (uint32_t i = 0; i < k->grid; i++) {
        /* The turns, then a copy of the periods. */
        void *due = carve(&l->near, 2 * entry->every_count * sizeof(int64_t));
        void *incoming = carve(&l->near, in), *outgoing = carve(&l->near, out);
        if (blocks != NULL) {
            blocks[i].due = due;
            blocks[i].incoming = incoming;
            blocks[i].outgoing = outgoing;
        }
    }
}

static void lay_out_pinned(layout *l, const rk__kernel_actor *k, bool write, rk_block **blocks,
                           uint8_t **staging)
{
    uint32_t inbox = rk__channel_inbox_slots(k), outbox = rk__channel_outbox_slots(k);
    uint32_t every = k->module->entry->every_count;
    *blocks = carve(&l->pinned, k->grid * sizeof **blocks);
    int64_t *periods = carve(&l->pinned, every * sizeof *periods);
    rk_slot *out = carve(&l->pinned, outbox * sizeof *out);
    uint8_t *arena = carve(&l->pinned, k->arena_size);
    *staging = carve(&l->pinned, staging_size(k->kernel));
    if (write && every > 0) {
        memcpy(periods, k->module->entry->every_periods, every * sizeof *periods);
    }
    for (uint32_t i = 0; i < k->grid; i++) {
        rk_wire *wire = carve(&l->pinned, sizeof *wire);
        rk_slot *in = carve(&l->pinned, inbox * sizeof *in);
        if (write) {
            (*blocks)[i] = (rk_block){.inbox = in,
                                      .inbox_mask = inbox - 1,
                                      .wire = wire,
                                      .every_periods = periods,
                                      .every_count = every,
                                      .state_size = k->module->entry->state_size,
                                      .index = i,
                                      .blocks = k->grid,
                                      .threads = k->threads};
        }
    }
    if (write) {
        (*blocks)[0].outbox = out;
        (*blocks)[0].outbox_mask = outbox - 1;
        (*blocks)[0].arena = arena;
        (*blocks)[0].arena_size = k->arena_size;
    }
}

/* ---- the table ------------------------------------------------------------------------------ */

static void release(rk__kernel_actor *k)
{
    rk__tenant *t = k->device;
    if (t != NULL) {
        rk__gpu_give(t->gpu, t);
        free(t);
    }
    k->device = NULL;
    k->blocks = NULL;
    k->state = NULL;
}

static int zero(rk__gpu *gpu, uint64_t near, uint64_t size)
{
    rk__request request = {.kind = RK__REQUEST_ZERO, .near = near, .size = size};
    return rk__gpu_ask(gpu, &request);
}

static int prepare(rk__kernel_actor *k)
{
    rk__gpu *gpu = gpu_of(k->runtime);
    rk__tenant *t = k->device = calloc(1, sizeof *t);
    layout count = {{0}, {0}, 0}, l;
    rk_block *blocks;
    uint8_t *staging;
    void *state;
    if (t == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for ring kernel \"%s\"", k->kernel->base.name);
    }
    t->gpu = gpu;
    t->kernel = k;
    t->threads = k->threads;
    lay_out_pinned(&count, k, false, &blocks, &staging);
    lay_out_near(&count, k, NULL, &t->homes, &state);
    int code = rk__gpu_take(gpu, count.pinned.used, count.near.used, k->kernel->base.name, t);
    code = code < 0 ? code : zero(gpu, t->near, count.zeroed);
    if (code < 0) {
        release(k);
        return code;
    }
    l = (layout){{t->pinned, 0}, {t->near, 0}, 0};
    memset((void *)(uintptr_t)t->pinned, 0, count.pinned.used);
    lay_out_pinned(&l, k, true, &blocks, &staging);
    lay_out_near(&l, k, blocks, &t->homes, &state);
    for (uint32_t i = 0; i < k->grid; i++) {
        blocks[i].siblings = t->homes;
        blocks[i].state = state;
    }
    k->blocks = blocks;
    k->state = state;
    k->channel.staging_size = staging_size(k->kernel);
    k->channel.staging = k->channel.staging_size > 0 ? staging : NULL;
    __atomic_store_n(&k->memory, count.pinned.used + count.near.used, __ATOMIC_RELAXED);
    return 0;
}

/* The runtime stays until the bridge is done with the instance: let_go in bridge.c. */
static int start(rk__kernel_actor *k)
{
    rk__tenant *t = k->device;
    rk__request request = {.kind = RK__REQUEST_ADMIT, .tenant = t};
    __atomic_add_fetch(&k->runtime->threads, 1, __ATOMIC_RELAXED);
    int code = rk__gpu_ask(t->gpu, &request);
    if (code < 0) {
        /* Release: as in let_go; pairs with the acquire of rk__runtime_close. */
        __atomic_sub_fetch(&k->runtime->threads, 1, __ATOMIC_RELEASE);
    }
    return code;
}

/* The caller may have seen a status before the bridge has, and wait for one that the bridge told long
 * ago: it tells them all again. */
static void command(rk__kernel_actor *k, enum rk_command word)
{
    rk__tenant *t = k->device;
    for (uint32_t i = 0; i < k->grid; i++) {
        /* Release: pairs with the look in loop_orders. */
        __atomic_store_n(&k->blocks[i].wire->command, word, __ATOMIC_RELEASE);
    }
    pthread_mutex_lock(&t->gpu->lock);
    for (uint32_t i = 0; i < k->grid; i++) {
        t->seen[i] = RK__UNSEEN;
    }
    pthread_mutex_unlock(&t->gpu->lock);
    rk__gpu_stir(t->gpu);
    rk__park_kick(&t->gpu->bridge_park);
}

static void poll(void *arg)
{
    rk__kernel_actor *k = arg;
    rk__channel_drain(&k->channel);
}

static void parking(void *arg)
{
    rk__gpu *gpu = arg;
    rk__park_notify(&gpu->bridge_park);
}

/* Resident blocks look by themselves; grids that have ended must be launched. */
static void wake(rk__kernel_actor *k)
{
    rk__tenant *t = k->device;
    if (t->gpu->mode == RK_MODE_PERSISTENT) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* for rk__devices_stir, which loads `asleep` */
    } else {
        rk__gpu_stir(t->gpu);
    }
    rk__park_meanwhile(poll, k, parking, t->gpu);
}

static int read_state(const rk__kernel_actor *k, void *to, size_t size)
{
    rk__tenant *t = k->device;
    rk__request request = {
        .kind = RK__REQUEST_READ, .near = (uint64_t)(uintptr_t)k->state, .size = size, .to = to};
    return rk__gpu_ask(t->gpu, &request);
}

const rk__backend rk__backend_cuda = {.name = "cuda",
                                      .settle = settle,
                                      .build = build,
                                      .prepare = prepare,
                                      .start = start,
                                      .command = command,
                                      .wake = wake,
                                      .read_state = read_state,
                                      .release = release};

int rk__cuda_open(int ordinal, const rk_runtime *rt, enum rk_mode mode, void **out)
{
    rk__gpu *gpu;
    int code = rk__gpu_open(ordinal, rt, mode, &gpu);
    if (code == 0) {
        *out = gpu;
    }
    return code;
}

void rk__cuda_close(void *gpu)
{
    rk__gpu_close(gpu);
}

int rk__cuda_present(void)
{
    return rk__cuda_load();
}
