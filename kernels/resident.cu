/*
 * resident.cu -- the loop that a block of a ring kernel lives in, on every device.
 *
 * One text: compiled as C into librk, where a block is one or more threads of the cpu device, and
 * as CUDA C++ for the GPU. All threads of a block run it together: thread 0 polls and decides, the
 * others take over its decision, all run the handler, thread 0 publishes. So a block never splits
 * over "is there work" or "must we stop".
 *
 * Order.
 *   Message: the host writes a slot, then stores `produced` with release; thread 0 loads it with
 *   acquire; loop_share passes that on to the block's threads. `consumed` goes back with release
 *   after the handler, because handlers read their payload in the slot, and only now and then: the
 *   host bounds what is under way by `progress`, so the ring (twice that bound) never fills.
 *   Answers: outgoing slots are committed by the handler, then `progress` is stored with release;
 *   who loads `progress` with acquire and then empties the outbox has everything that messages
 *   below it have said.
 *   Several blocks: each runs every message. Block 0 is the one that publishes, and it begins a
 *   message only when all siblings have finished it (acquire of their `progress`), so an answer
 *   leaves when every block is done. While it waits it still obeys commands.
 *   Commands are looked at between messages only: pause and stop happen at a message border.
 *
 * Timers run on the device's clock without drift: a turn that comes late is made up for once, turns
 * missed entirely are left out, and the next one is a whole number of periods after the first.
 */

/* ---- platform ------------------------------------------------------------------------------- */

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

#include "rk_kernel.h"

#define LOOP_FN               static __device__
#define LOOP_ENTRY            extern "C" __global__
#define LOOP_CHECK(condition) ((void)0)

/* The decision of thread 0 in all threads; the barrier orders what thread 0 acquired before. */
LOOP_FN uint32_t loop_share(rk_ctx *ctx, uint32_t decision)
{
    __shared__ uint32_t shared;
    if (ctx->thread == 0) {
        shared = decision;
    }
    __syncthreads();
    return shared;
}

LOOP_FN void loop_gather(rk_ctx *ctx)
{
    (void)ctx;
    __syncthreads();
}

/* Nobody can wake a GPU: it looks again after a while that grows. */
LOOP_FN void loop_idle(rk_ctx *ctx, uint32_t *spins, bool (*ready)(void *), void *arg,
                       int64_t until)
{
    (void)ctx, (void)ready, (void)arg, (void)until;
    rk__pause((*spins)++);
}

/* The host polls progress and status. */
LOOP_FN void loop_told(rk_ctx *ctx)
{
    (void)ctx;
}

LOOP_FN void loop_told_status(rk_ctx *ctx)
{
    (void)ctx;
}

#else

#include "device/cpu/cpu.h"
#include "rk_kernel.h"

#define LOOP_FN static
#define LOOP_ENTRY
#define LOOP_CHECK(condition) rk_assert(condition)

LOOP_FN uint32_t loop_share(rk_ctx *ctx, uint32_t decision)
{
    return ctx->threads == 1 ? decision : rk__cpu_share(ctx->block, ctx->thread, decision);
}

LOOP_FN void loop_gather(rk_ctx *ctx)
{
    if (ctx->threads > 1) {
        rk_barrier_wait((rk_barrier *)ctx->barrier);
    }
}

/* Spins, then parks until somebody wakes the block. */
LOOP_FN void loop_idle(rk_ctx *ctx, uint32_t *spins, bool (*ready)(void *), void *arg,
                       int64_t until)
{
    (void)spins;
    rk__cpu_idle(ctx->block, ready, arg, until);
}

/* There is no bridge: the block's own thread delivers what it published. */
LOOP_FN void loop_told(rk_ctx *ctx)
{
    rk__cpu_told(ctx->block);
}

LOOP_FN void loop_told_status(rk_ctx *ctx)
{
    rk__cpu_status(ctx->block);
}

#endif

/* ---- the loop ------------------------------------------------------------------------------- */

/* A decision: the kind, and in the upper bits the index of a timer. */
enum { STEP_MESSAGE = 1, STEP_EVERY, STEP_START, STEP_STOP, STEP_LEAVE, STEP_BITS = 3 };
#define STEP_KIND(step)  ((step) & ((1u << STEP_BITS) - 1))
#define STEP_INDEX(step) ((step) >> STEP_BITS)

struct loop_state {
    rk_ctx *ctx;
    uint32_t taken;    /* messages finished by this block; also its position in the inbox */
    uint32_t returned; /* `consumed` as the host knows it */
    uint32_t command;  /* the last one seen */
    bool started, stopped;
    uint32_t spins; /* polls since the last message */
};

LOOP_FN void loop_status(struct loop_state *s, uint32_t status)
{
    rk_block *block = s->ctx->block;
    if (block->status != status) {
        rk__store_u32(&block->status, status); /* pairs with the host's acquire load */
        loop_told_status(s->ctx);
    }
}

LOOP_FN bool loop_siblings_done(const struct loop_state *s)
{
    const rk_block *block = s->ctx->block;
    if (block->index != 0) {
        return true;
    }
    for (uint32_t i = 1; i < s->ctx->instance->blocks; i++) {
        /* Pairs with the release store in loop_finish of that block. */
        if ((int32_t)(rk__load_u32(&block->siblings[i].progress) - s->taken) <= 0) {
            return false;
        }
    }
    return true;
}

LOOP_FN bool loop_has_message(const struct loop_state *s)
{
    /* Pairs with the host's commit: the slot is there. */
    return rk__load_u32(&s->ctx->block->inbox->produced) != s->taken && loop_siblings_done(s);
}

LOOP_FN bool loop_commanded(const struct loop_state *s)
{
    /* Pairs with the host's release store. */
    return rk__load_u32(&s->ctx->block->command) != s->command;
}

/* Whether it is worth looking again: with messages (running), without (paused, not yet begun). */
LOOP_FN bool loop_ready(void *arg)
{
    const struct loop_state *s = (const struct loop_state *)arg;
    return loop_commanded(s) || loop_has_message(s);
}

LOOP_FN bool loop_ready_paused(void *arg)
{
    return loop_commanded((const struct loop_state *)arg);
}

/* The timer whose turn it is, moved on to its next turn; every_count: none. *next: when to look. */
LOOP_FN uint32_t loop_timer(const struct loop_state *s, int64_t *next)
{
    const rk_entry *entry = s->ctx->instance->entry;
    int64_t *due = s->ctx->block->due;
    *next = INT64_MAX;
    if (entry->every_count == 0) {
        return 0;
    }
    int64_t now = rk__device_clock();
    for (uint32_t i = 0; i < entry->every_count; i++) {
        if (due[i] <= now) {
            int64_t period = entry->every_periods[i];
            due[i] += period * (1 + (now - due[i]) / period);
            return i;
        }
        *next = due[i] < *next ? due[i] : *next;
    }
    return entry->every_count;
}

LOOP_FN void loop_begin_timers(const struct loop_state *s)
{
    const rk_entry *entry = s->ctx->instance->entry;
    for (uint32_t i = 0; i < entry->every_count; i++) {
        s->ctx->block->due[i] = rk__device_clock() + entry->every_periods[i];
    }
}

/* Thread 0: what the block does next; waits until there is something. */
LOOP_FN uint32_t loop_decide(struct loop_state *s)
{
    rk_block *block = s->ctx->block;
    int64_t next;
    for (;; block->polls_empty++) {
        s->command = rk__load_u32(&block->command); /* pairs with the host's release store */
        if (s->command == RK_COMMAND_ABORT || s->stopped || s->ctx->failed) {
            return STEP_LEAVE;
        }
        if (s->command == RK_COMMAND_STOP) {
            return s->started ? STEP_STOP : STEP_LEAVE;
        }
        if (s->command != RK_COMMAND_RUN) {
            if (s->started) {
                loop_status(s, RK_STATUS_PAUSED);
            }
            loop_idle(s->ctx, &s->spins, loop_ready_paused, s, INT64_MAX);
            continue;
        }
        if (!s->started) {
            return STEP_START;
        }
        loop_status(s, RK_STATUS_RUNNING);
        uint32_t timer = loop_timer(s, &next);
        if (timer < s->ctx->instance->entry->every_count) {
            return STEP_EVERY | timer << STEP_BITS;
        }
        if (loop_has_message(s)) {
            s->spins = 0;
            return STEP_MESSAGE;
        }
        loop_idle(s->ctx, &s->spins, loop_ready, s, next);
    }
}

/* All threads: the user's code. */
LOOP_FN void loop_run(rk_ctx *ctx, uint32_t step, uint32_t taken)
{
    const rk_entry *entry = ctx->instance->entry;
    const rk_block *block = ctx->block;
    const rk_slot *slot = block->inbox_slots + (taken & block->inbox->mask);
    ctx->replied = ctx->failed = ctx->open_size = 0;
    ctx->message = STEP_KIND(step) == STEP_MESSAGE ? slot : (const rk_slot *)0;
    switch (STEP_KIND(step)) {
    case STEP_MESSAGE:
        LOOP_CHECK(slot->stamp == taken + 1 && slot->token == taken);
        entry->handle(ctx, slot->type,
                      slot->flags & RK_SLOT_REF ? (const void *)slot->payload.address
                                                : (const void *)slot->payload.inline_bytes);
        break;
    case STEP_EVERY:
        entry->every(ctx, STEP_INDEX(step));
        break;
    case STEP_START:
        if (entry->start) {
            entry->start(ctx);
        }
        break;
    default:
        if (entry->stop) {
            entry->stop(ctx);
        }
        break;
    }
}

/* Thread 0, before: what the block is busy with, for whoever watches for handlers that hang. */
LOOP_FN void loop_busy(const struct loop_state *s, uint32_t step)
{
    rk_block *block = s->ctx->block;
    uint32_t busy = RK_BUSY_STOP;
    switch (STEP_KIND(step)) {
    case STEP_MESSAGE:
        busy = 1u + block->inbox_slots[s->taken & block->inbox->mask].type;
        break;
    case STEP_EVERY:
        busy = RK_BUSY_EVERY + STEP_INDEX(step);
        break;
    case STEP_START:
        busy = RK_BUSY_START;
        break;
    default:
        break;
    }
    rk__store_u32(&block->steps, block->steps + 1); /* pairs with the watchdog's loads */
    rk__store_u32(&block->busy, busy);
}

LOOP_FN void loop_return_slots(struct loop_state *s)
{
    rk_ring *inbox = s->ctx->block->inbox;
    if (s->taken - s->returned >= inbox->size / 4) {
        s->returned = s->taken;
        rk__store_u32(&inbox->consumed, s->taken); /* pairs with the host's load before it writes */
    }
}

/* Thread 0, after: what happened becomes visible. */
LOOP_FN void loop_finish(struct loop_state *s, uint32_t step)
{
    rk_block *block = s->ctx->block;
    rk__store_u32(&block->busy, 0);
    if (s->ctx->failed) {
        loop_told(s->ctx); /* the caller need not wait until the siblings have left */
        return;
    }
    switch (STEP_KIND(step)) {
    case STEP_MESSAGE:
        s->taken++;
        loop_return_slots(s);
        rk__store_u32(&block->progress, s->taken); /* pairs with host and siblings, see the head */
        break;
    case STEP_START:
        s->started = true;
        loop_begin_timers(s);
        break;
    case STEP_STOP:
        s->stopped = true;
        break;
    default:
        break;
    }
    loop_told(s->ctx);
}

/* All threads of a block, until a command or a failure ends it. */
LOOP_FN void loop_live(rk_ctx *ctx)
{
    struct loop_state s = {ctx, ctx->block->progress, 0, 0, false, false, 0};
    s.returned = ctx->block->inbox->consumed;
    uint32_t taken = s.taken;
    for (;;) {
        uint32_t step = 0;
        if (ctx->thread == 0) {
            step = loop_decide(&s);
            if (step != STEP_LEAVE) {
                loop_busy(&s, step);
            }
        }
        step = loop_share(ctx, step);
        if (step == STEP_LEAVE) {
            break;
        }
        loop_run(ctx, step, taken);
        taken += STEP_KIND(step) == STEP_MESSAGE;
        loop_gather(ctx);
        if (ctx->thread == 0) {
            loop_finish(&s, step);
        }
    }
    if (ctx->thread == 0) {
        loop_status(&s, ctx->failed ? RK_STATUS_FAILED : RK_STATUS_STOPPED);
    }
}

/* ---- ways in -------------------------------------------------------------------------------- */

#if defined(RK_CUDA)

/* One CUDA block per rk_block. */
LOOP_ENTRY void rk_resident(rk_block *const *blocks)
{
    rk_ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    ctx.block = blocks[blockIdx.x];
    ctx.instance = ctx.block->instance;
    ctx.thread = threadIdx.x;
    ctx.threads = blockDim.x;
    loop_live(&ctx);
}

#else

LOOP_ENTRY void rk__resident(rk_ctx *ctx)
{
    loop_live(ctx);
}

#endif
