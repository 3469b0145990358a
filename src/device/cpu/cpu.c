/*
 * cpu.c -- the cpu device: blocks are threads that run kernels/resident.cu.
 *
 * Threads. prepare, release: who launches or ends the instance. start: the activating thread.
 * command, wake: any. The rest: the block's own threads; thread 0 polls, idles and delivers, the
 * others take its decisions.
 *
 * Waking. Thread 0 of a block parks with the loop's own predicate; whoever makes it true (a commit
 * to the inbox, a command, mail left behind, a sibling's progress) notifies its park afterwards.
 * The other threads park on a counter of decisions. rk__park has the Dekker argument. So an idle
 * instance costs nothing, and there is no bridge thread.
 *
 * Spinning comes first where it pays (rk__park_rest), as for host actors.
 *
 * Life. Threads wait at a gate until all of them exist. The last thread of a block to leave its
 * loop reports the block; the report of the last block ends the instance and frees all of this, so
 * nothing here is touched after it, only the thread's own record.
 */
#include "device/cpu/cpu.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/park.h"
#include "base/topology.h"
#include "device/instance.h"
#include "rk_kernel.h"

enum {
    STACK = 512 * 1024 /* bytes: a handler keeps its replies on the stack */
};

enum { PAGE = 4096, ONE_SLOT = RK_SLOT_DATA - RK_PACKET_HEAD };

enum gate { GATE_CLOSED, GATE_OPEN, GATE_CANCELLED };

/* Written by its own thread only, but for the constants. */
typedef struct cpu_thread {
    struct cpu_block *block;
    uint32_t index;
    int cpu;       /* -1: not pinned */
    bool seat;     /* the seat on cpu is ours to give back (block 0's is the actor's) */
    rk__park park; /* threads other than 0 */
    rk_ctx ctx;
} cpu_thread;

typedef struct cpu_block {
    rk_block *block;
    rk__kernel_actor *kernel;
    cpu_thread *threads;
    uint64_t *reduce;
    rk_packet *packets;
    rk_barrier barrier;
    /* Thread 0. */
    rk__park park __attribute__((aligned(64)));
    uint32_t decision;  /* written before `decisions` */
    uint32_t decisions; /* atomic: how many there were */
    uint32_t inside;    /* atomic: threads that have not left */
} cpu_block;

/* What prepare makes for an instance. */
typedef struct cpu_device {
    cpu_block *blocks;
    cpu_thread *threads; /* of all blocks */
    uint64_t *reduce;
    void *allocation; /* holds rk_blocks, links, slots, arenas, state, scratch */
    uint32_t gate;    /* atomic: enum gate */
    uint32_t waiting; /* atomic: threads that have not passed the gate */
} cpu_device;

/* ---- the loop's calls ----------------------------------------------------------------------- */

static cpu_block *cpu_of(const rk_block *block)
{
    return block->host;
}

typedef struct idling {
    cpu_block *block;
    bool (*ready)(void *arg);
    void *arg;
} idling;

static bool wants_attention(const cpu_block *b)
{
    return b->block->index == 0 && rk__channel_wants_attention(&b->kernel->channel);
}

static bool awake(void *arg)
{
    idling *i = arg;
    return i->ready(i->arg) || wants_attention(i->block);
}

void rk__cpu_idle(rk_block *block, bool (*ready)(void *arg), void *arg, int64_t until)
{
    cpu_block *b = cpu_of(block);
    idling i = {b, ready, arg};
    rk__park_rest(&b->park, awake, &i, until);
    if (wants_attention(b)) {
        rk__channel_pump(&b->kernel->channel);
        if (wants_attention(b)) {
            sched_yield(); /* the holder of the pump lock has our mark and needs a core */
        }
    }
}

void rk__cpu_told(rk_block *block)
{
    cpu_block *b = cpu_of(block);
    if (block->index == 0) {
        rk__channel_drain(&b->kernel->channel);
    } else {
        rk__park_notify(&cpu_of(&block->siblings[0])->park);
    }
}

void rk__cpu_status(rk_block *block)
{
    rk__kernel_status_changed(cpu_of(block)->kernel);
}

static bool decided(void *arg)
{
    cpu_thread *t = arg;
    /* Pairs with the release in rk__cpu_share. */
    return __atomic_load_n(&t->block->decisions, __ATOMIC_ACQUIRE) != t->ctx.seen;
}

static void await_decision(cpu_thread *t)
{
    rk__park_rest(&t->park, decided, t, RK__FOREVER);
}

uint32_t rk__cpu_share(rk_block *block, uint32_t thread, uint32_t decision)
{
    cpu_block *b = cpu_of(block);
    cpu_thread *t = &b->threads[thread];
    if (thread != 0) {
        await_decision(t);
        t->ctx.seen++;
        return b->decision;
    }
    b->decision = decision;
    /* Release: the decision and what thread 0 acquired before it; pairs with decided. */
    __atomic_store_n(&b->decisions, b->decisions + 1, __ATOMIC_RELEASE);
    for (uint32_t i = 1; i < block->threads; i++) {
        rk__park_notify(&b->threads[i].park);
    }
    return decision;
}

/* By thread 0 when a handler finds the outbox full: nobody else empties it. */
static void outbox_full(rk_block *block)
{
    rk__cpu_told(block);
}

/* ---- threads -------------------------------------------------------------------------------- */

static void pass_gate(cpu_device *d, uint32_t *state)
{
    /* Pairs with the release in open_gate. */
    while ((*state = __atomic_load_n(&d->gate, __ATOMIC_ACQUIRE)) == GATE_CLOSED) {
        sched_yield();
    }
}

static void leave_seat(const cpu_thread *t)
{
    if (t->seat) {
        rk__cpu_leave(t->cpu);
    }
}

static void *thread_main(void *arg)
{
    cpu_thread *t = arg;
    cpu_block *b = t->block;
    rk__kernel_actor *k = b->kernel;
    cpu_device *d = k->device;
    uint32_t state, index = b->block->index;
    int cpu = t->cpu;
    rk__thread_enter(cpu, k->kernel->base.name);
    if (t->index == 0) {
        b->park.cpu = cpu;
    }
    t->park.cpu = cpu;
    pass_gate(d, &state);
    if (state == GATE_OPEN) {
        rk__resident(&t->ctx);
    }
    leave_seat(t);
    rk__thread_leave(cpu);
    if (state != GATE_OPEN) {
        /* Release: nothing of the instance is touched any more; pairs with cancel. */
        __atomic_sub_fetch(&d->waiting, 1, __ATOMIC_RELEASE);
    } else if (__atomic_sub_fetch(&b->inside, 1, __ATOMIC_ACQ_REL) == 0) {
        /* The last thread of the block has acquired what the others released. */
        rk__kernel_block_left(k, index);
    }
    return NULL;
}

static void seat(cpu_thread *t, rk__kernel_actor *k, bool first)
{
    t->seat = !first;
    t->cpu = first ? k->actor->cpu : rk__cpu_seat(&k->runtime->pin);
    if (t->cpu < 0) {
        t->seat = false;
    }
}

/* Those that exist leave without having run; waits for that. */
static void cancel(cpu_device *d)
{
    __atomic_store_n(&d->gate, GATE_CANCELLED, __ATOMIC_RELEASE); /* pairs with pass_gate */
    /* Acquire: pairs with thread_main. */
    while (__atomic_load_n(&d->waiting, __ATOMIC_ACQUIRE) != 0) {
        sched_yield();
    }
    __atomic_store_n(&d->gate, GATE_CLOSED, __ATOMIC_RELAXED);
}

static int start(rk__kernel_actor *k)
{
    cpu_device *d = k->device;
    int code = 0;
    for (uint32_t i = 0; i < k->grid * k->threads && code == 0; i++) {
        cpu_thread *t = &d->threads[i];
        seat(t, k, i == 0);
        __atomic_add_fetch(&d->waiting, 1, __ATOMIC_RELAXED);
        code = rk__devices_thread(k->runtime, STACK, thread_main, t);
        if (code < 0) {
            __atomic_sub_fetch(&d->waiting, 1, __ATOMIC_RELAXED);
            leave_seat(t);
        }
    }
    if (code < 0) {
        cancel(d);
        return code;
    }
    __atomic_store_n(&d->gate, GATE_OPEN, __ATOMIC_RELEASE); /* pairs with pass_gate */
    return 0;
}

static void wake(rk__kernel_actor *k)
{
    cpu_device *d = k->device;
    for (uint32_t i = 0; i < k->grid; i++) {
        rk__park_notify(&d->blocks[i].park);
    }
}

static void command(rk__kernel_actor *k, enum rk_command word)
{
    for (uint32_t i = 0; i < k->grid; i++) {
        /* Release: what the caller did before; the loop only looks (loop_orders). */
        __atomic_store_n(&k->blocks[i].wire->command, word, __ATOMIC_RELEASE);
    }
    wake(k);
}

/* ---- memory --------------------------------------------------------------------------------- */

/* Carves pieces from one block of memory, each on a cache line; with bytes NULL it only counts. */
typedef struct carving {
    uint8_t *bytes;
    size_t used;
} carving;

static void *carve(carving *c, size_t size)
{
    size_t at = c->used;
    c->used += (size + 63) & ~(size_t)63;
    return c->bytes != NULL ? c->bytes + at : NULL;
}

/* Two packets per block: the pending one and the window. */
static void carve_block(carving *c, rk__kernel_actor *k, uint32_t index, rk_block *b,
                        rk_packet **packets)
{
    const rk_entry *entry = k->module->entry;
    uint32_t inbox = rk__channel_inbox_slots(k), outbox = rk__channel_outbox_slots(k);
    memset(b, 0, sizeof *b);
    b->wire = carve(c, sizeof *b->wire);
    b->inbox = carve(c, inbox * sizeof *b->inbox);
    b->inbox_mask = inbox - 1;
    if (index == 0) {
        b->outbox = carve(c, outbox * sizeof *b->outbox);
        b->outbox_mask = outbox - 1;
        b->arena = carve(c, k->arena_size);
        b->arena_size = k->arena_size;
    } else {
        b->outgoing = carve(c, k->arena_size / 4); /* at least the largest payload */
    }
    b->shared = carve(c, RK_SHARED_SIZE);
    b->due = carve(c, entry->every_count * sizeof *b->due + 8);
    *packets = carve(c, 2 * sizeof **packets);
    b->entry = entry;
    b->every_count = entry->every_count;
    b->every_periods = entry->every_periods;
    b->state_size = entry->state_size;
    b->index = index;
    b->blocks = k->grid;
    b->threads = k->threads;
}

/* Two passes over the same layout: the first only counts. */
static size_t lay_out(rk__kernel_actor *k, uint8_t *memory)
{
    const rk_entry *entry = k->module->entry;
    carving c = {memory, 0};
    rk_block *blocks = carve(&c, k->grid * sizeof *blocks);
    size_t align = entry->state_align > 64 ? entry->state_align : 64;
    c.used = (c.used + align - 1) & ~(align - 1);
    void *state = carve(&c, entry->state_size);
    for (uint32_t i = 0; i < k->grid; i++) {
        rk_block b;
        rk_packet *packets;
        carve_block(&c, k, i, &b, &packets);
        if (memory != NULL) {
            cpu_device *d = k->device;
            b.state = state;
            blocks[i] = b;
            d->blocks[i].packets = packets;
        }
    }
    k->blocks = blocks;
    k->state = state;
    return c.used;
}

static void connect(rk__kernel_actor *k, cpu_device *d, uint32_t i)
{
    cpu_block *b = &d->blocks[i];
    rk_block *block = &k->blocks[i];
    block->siblings = k->blocks;
    block->host = b;
    b->block = block;
    b->kernel = k;
    b->threads = &d->threads[i * k->threads];
    b->reduce = &d->reduce[i * k->threads];
    b->inside = k->threads;
    rk__park_init(&b->park);
    rk_barrier_init(&b->barrier, k->threads, outbox_full);
    for (uint32_t n = 0; n < k->threads; n++) {
        cpu_thread *t = &b->threads[n];
        t->block = b;
        t->index = n;
        t->cpu = -1;
        rk__park_init(&t->park);
        t->ctx = (rk_ctx){.block = block,
                          .pending = b->packets,
                          .barrier = &b->barrier,
                          .reduce = b->reduce,
                          .thread = n,
                          .threads = k->threads};
    }
}

static void release(rk__kernel_actor *k)
{
    cpu_device *d = k->device;
    if (d != NULL) {
        free(d->blocks);
        free(d->threads);
        free(d->reduce);
        free(d->allocation);
        free(d);
    }
    k->device = NULL;
    k->blocks = NULL;
    k->state = NULL;
}

static int prepare(rk__kernel_actor *k)
{
    size_t count = (size_t)k->grid * k->threads, size;
    k->channel.inline_max = ONE_SLOT; /* handlers read the body itself, which is cheaper to tell */
    size = lay_out(k, NULL);
    cpu_device *d = k->device = calloc(1, sizeof *d);
    if (d != NULL) {
        d->blocks = aligned_alloc(64, k->grid * sizeof *d->blocks);
        d->threads = calloc(count, sizeof *d->threads);
        d->reduce = calloc(count, sizeof *d->reduce);
        d->allocation = calloc(1, size + PAGE); /* large, so its pages come zeroed when touched */
    }
    if (d == NULL || !d->blocks || !d->threads || !d->reduce || !d->allocation) {
        release(k);
        return rk__fail(RK_ENOMEM, "no memory for ring kernel \"%s\": %zu bytes for %u blocks",
                        k->kernel->base.name, size, k->grid);
    }
    memset(d->blocks, 0, k->grid * sizeof *d->blocks);
    lay_out(k, (uint8_t *)(((uintptr_t)d->allocation + PAGE - 1) & ~(uintptr_t)(PAGE - 1)));
    __atomic_store_n(&k->memory, size, __ATOMIC_RELAXED); /* for describe */
    for (uint32_t i = 0; i < k->grid; i++) {
        connect(k, d, i);
    }
    return 0;
}

/* The number of threads says what is compiled, and is the definition's or the instance's own. */
static int settle(const rk_options *options, rk__kernel_actor *k, const rk__kernel *kernel)
{
    k->threads = options->cpu_threads != 0 ? options->cpu_threads : kernel->cpu_threads;
    k->threads = k->threads != 0 ? k->threads : 1;
    return k->threads <= RK__BLOCKS_MAX
               ? 0
               : rk__fail(RK_ERANGE,
                          "ring kernel \"%s\": blocks of %u threads; the cpu device takes up to %d",
                          kernel->base.name, k->threads, RK__BLOCKS_MAX);
}

static int read_state(const rk__kernel_actor *k, void *to, size_t size)
{
    memcpy(to, k->state, size);
    return 0;
}

const rk__backend rk__backend_cpu = {.name = "cpu",
                                     .settle = settle,
                                     .build = rk__module_build,
                                     .prepare = prepare,
                                     .start = start,
                                     .command = command,
                                     .wake = wake,
                                     .read_state = read_state,
                                     .release = release};
