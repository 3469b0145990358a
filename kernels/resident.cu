/*
 * resident.cu -- the loop that a block of a ring kernel lives in, on every device.
 *
 * One text: compiled as C into librk, where a block is one or more threads of the cpu device; as
 * CUDA C++ for the GPU; and as C for the stand-in of a GPU that tests use. All threads of a block
 * run it together: the deciders (thread 0; on a GPU the first warp, in step) poll and decide, the
 * others take over the decision, all run the handler, the deciders publish. So a block never splits
 * over "is there work" or "must we stop".
 *
 * Order.
 *   Message: found by its stamps (rk_abi.h), copied into the window, handled there. The deciders'
 *   copy reaches the other threads through loop_share. A payload by reference was written before
 *   the stamps; the fence after them orders the reads.
 *   Answers: packets leave in the order of publishing; the last one of a message says so, and who
 *   reads them in order knows what was said about which message and when it was finished. Messages
 *   that end without a word are counted and told with the next packet, or alone when nothing else
 *   is to do.
 *   Several blocks: each runs every message. Block 0 is the one that publishes, and it begins a
 *   message only when all siblings have finished it (acquire of their `progress`), so an answer
 *   leaves when every block is done. While it waits it still obeys commands.
 *   Commands and holds are looked at between messages only: that is a message border.
 *
 * Timers run on the device's clock without drift: a turn that comes late is made up for once, turns
 * missed entirely are left out, and the next one is a whole number of periods after the first.
 *
 * Images (RK_IMAGE: GPU and stand-in). rk_resident is a grid of seats. A block of the grid takes
 * the instance's block that the host puts on its seat, lives in the loop until that has left it,
 * and waits for the next. An image ends when all blocks hold at a border and are told to leave; in
 * bounded and batch mode each leaves by itself after a time or when idle. What a block must know
 * afterwards is in its rk_block, in memory that outlives the grid.
 */
#if !defined(RK_IMAGE)
#include "device/cpu/cpu.h" /* before rk_kernel.h, which has its own rk_send and others */
#endif
#include "rk_kernel.h"

/* ---- platform ------------------------------------------------------------------------------- */

#if defined(RK_CUDA)

#define LOOP_FN               static __device__
#define LOOP_CHECK(condition) ((void)0)
#define LOOP_UNROLL           _Pragma("unroll")
enum { LOOP_WARP = 32 };

LOOP_FN bool loop_decides(const rk_ctx *ctx)
{
    return ctx->thread < LOOP_WARP;
}

/* The decision in all threads; the barrier orders what the deciders read before. */
LOOP_FN uint32_t loop_share(rk_ctx *ctx, uint32_t decision)
{
    uint32_t *shared = (uint32_t *)(ctx->reduce + RK__REDUCE_WORDS);
    if (ctx->threads <= LOOP_WARP) {
        __syncwarp();
        return decision;
    }
    if (ctx->thread == 0) {
        *shared = decision;
    }
    __syncthreads();
    return *shared;
}

LOOP_FN void loop_gather(rk_ctx *ctx)
{
    if (ctx->threads <= LOOP_WARP) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}

/* Every lane one unit, and the last lane the orders when there are some to be had, so that all of it
 * comes with one read. Returns how many whole slots now stand at the start of the window. */
LOOP_FN uint32_t loop_fetch(rk_ctx *ctx, uint32_t at, uint32_t slots, uint64_t *orders)
{
    const rk_block *block = ctx->block;
    uint32_t lane = ctx->thread, slot = at + lane / RK_SLOT_UNITS, words[RK_UNIT_WORDS] = {0, 0, 0};
    uint32_t *window = (uint32_t *)(void *)(ctx->pending + 1) + lane * RK_UNIT_WORDS;
    uint32_t stamp = 0;
    bool mine = lane < slots * RK_SLOT_UNITS, last = orders && lane == LOOP_WARP - 1;
    const rk_unit *from =
        last ? (const rk_unit *)(const void *)block->wire
             : &block->inbox[slot & block->inbox_mask].units[lane % RK_SLOT_UNITS];
    __syncwarp(); /* nobody reads the window any more */
    if (mine || last) {
        stamp = rk__load_unit(from, words);
    }
    bool whole = mine && !last && stamp == slot + 1;
    if (whole) {
        window[0] = words[0];
        window[1] = words[1];
        window[2] = words[2];
    }
    if (orders) {
        uint64_t both = words[0] | (uint64_t)words[1] << 32;
        *orders = __shfl_sync(0xffffffffu, (unsigned long long)both, LOOP_WARP - 1);
    }
    unsigned missing = ~__ballot_sync(0xffffffffu, whole); /* also orders the window's words */
    __syncwarp();
    return missing ? (uint32_t)(__ffs((int)missing) - 1) / RK_SLOT_UNITS : RK_PACKET_SLOTS;
}

/* Each lane one unit of the pending packet: a whole slot leaves as one write. */
LOOP_FN void loop_flush(rk_ctx *ctx, uint32_t flags)
{
    rk_block *block = ctx->block;
    rk_packet *packet = ctx->pending;
    __syncwarp();
    if (ctx->thread == 0) {
        packet->flags |= (uint8_t)flags;
        rk__outbox_room(ctx, rk_packet_slots(packet));
        if (packet->flags & RK_PACKET_REF) {
            rk__fence_system();
        }
    }
    __syncwarp();
    uint32_t lane = ctx->thread, units = rk_packet_slots(packet) * RK_SLOT_UNITS;
    uint32_t at = block->produced + lane / RK_SLOT_UNITS;
    if (lane < units) {
        rk__store_unit(&block->outbox[at & block->outbox_mask].units[lane % RK_SLOT_UNITS],
                       (const uint32_t *)(const void *)packet + lane * RK_UNIT_WORDS, at + 1);
    }
    __syncwarp();
    if (ctx->thread == 0) {
        block->produced += units / RK_SLOT_UNITS;
    }
    ctx->waiting = 0;
    __syncwarp();
}

/* What the first lane says, in all lanes of the warp: a clock, a word that changes meanwhile, or
 * something only that lane knows. What it wrote before is seen by all. */
LOOP_FN uint64_t loop_agree(uint64_t value)
{
    return __shfl_sync(0xffffffffu, (unsigned long long)value, 0);
}

LOOP_FN void loop_settle(void)
{
    __syncwarp();
}

#else

#define LOOP_FN               static
#define LOOP_CHECK(condition) rk_assert(condition)
#define LOOP_UNROLL

LOOP_FN bool loop_decides(const rk_ctx *ctx)
{
    return ctx->thread == 0;
}

/* One message at a time: its first slot says how many it has. Returns whole slots at hand. */
LOOP_FN uint32_t loop_fetch(rk_ctx *ctx, uint32_t at, uint32_t slots, uint64_t *orders)
{
    const rk_block *block = ctx->block;
    uint32_t *window = (uint32_t *)(void *)(ctx->pending + 1);
    uint32_t wanted = 1;
    (void)slots;
    if (orders) {
        *orders = rk__peek_u64((const uint64_t *)(const void *)&block->wire->command);
    }
    for (uint32_t n = 0; n < wanted; n++) {
        const rk_slot *slot = block->inbox + ((at + n) & block->inbox_mask);
        /* The last unit was written last, so mostly this is the only look in vain. */
        if (rk__load_u32(&slot->units[RK_SLOT_UNITS - 1].stamp) != at + n + 1) {
            return 0;
        }
        for (uint32_t u = 0; u < RK_SLOT_UNITS; u++, window += RK_UNIT_WORDS) {
            if (rk__load_unit(&slot->units[u], window) != at + n + 1) {
                return 0;
            }
        }
        wanted = n == 0 ? rk_packet_slots(&ctx->pending[1]) : wanted;
    }
    return wanted;
}

LOOP_FN void loop_flush(rk_ctx *ctx, uint32_t flags)
{
    rk__flush(ctx, flags);
}

LOOP_FN uint64_t loop_agree(uint64_t value)
{
    return value;
}

LOOP_FN void loop_settle(void) {}

#endif

#if defined(RK_STANDIN)

#undef LOOP_CHECK
#define LOOP_CHECK(condition) ((void)0)

LOOP_FN uint32_t loop_share(rk_ctx *ctx, uint32_t decision)
{
    uint32_t *shared = (uint32_t *)(void *)(ctx->reduce + RK__REDUCE_WORDS);
    if (ctx->thread == 0) {
        *shared = decision;
    }
    rk_sync(ctx);
    return *shared;
}

LOOP_FN void loop_gather(rk_ctx *ctx)
{
    rk_sync(ctx);
}

#endif

#if defined(RK_IMAGE)

/* Nobody can wake a GPU: it looks again after a while that grows. */
LOOP_FN void loop_idle(rk_ctx *ctx, uint32_t *spins, bool (*ready)(void *), void *arg,
                       int64_t until)
{
    enum { EAGER = 64 }; /* looks without a pause after there was something to do */
    (void)ctx, (void)ready, (void)arg, (void)until;
    if (++*spins > EAGER) {
        rk__pause((*spins - EAGER) / 8);
    }
}

/* The host polls. */
LOOP_FN void loop_told(rk_ctx *ctx)
{
    (void)ctx;
}

LOOP_FN void loop_told_status(rk_ctx *ctx)
{
    (void)ctx;
}

/* Written by the linker's side of the host: a switch over the definitions of the image. */
#define LOOP_CAT(a, b)   LOOP_CAT_1(a, b)
#define LOOP_CAT_1(a, b) a##b
#define LOOP_HANDLE      LOOP_CAT(rk_image_handle_, RK_CLASS)
#define LOOP_HOOK        LOOP_CAT(rk_image_hook_, RK_CLASS)
#if !defined(RK_CLASS)
#define RK_CLASS 0
#endif
#if defined(RK_CUDA)
#define LOOP_EXTERN extern "C" __device__
#else
#define LOOP_EXTERN extern
#endif
LOOP_EXTERN void LOOP_HANDLE(uint32_t definition, rk_ctx *ctx, uint32_t type, const void *payload);
LOOP_EXTERN void LOOP_HOOK(uint32_t definition, rk_ctx *ctx, uint32_t step, uint32_t index);

LOOP_FN void loop_handle(rk_ctx *ctx, uint32_t type, const void *payload)
{
    LOOP_HANDLE(ctx->block->definition, ctx, type, payload);
}

LOOP_FN void loop_hook(rk_ctx *ctx, uint32_t step, uint32_t index)
{
    LOOP_HOOK(ctx->block->definition, ctx, step, index);
}

#else

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

LOOP_FN void loop_handle(rk_ctx *ctx, uint32_t type, const void *payload)
{
    ctx->block->entry->handle(ctx, type, payload);
}

LOOP_FN void loop_hook(rk_ctx *ctx, uint32_t step, uint32_t index)
{
    ctx->block->entry->hook(ctx, step, index);
}

#endif

/* ---- the loop ------------------------------------------------------------------------------- */

/* A decision: the kind, and above it the index of a timer or the message's slot in the window. */
enum { STEP_MESSAGE = 1, STEP_EVERY, STEP_START, STEP_STOP, STEP_LEAVE, STEP_YIELD, STEP_BITS = 3 };
#define STEP_KIND(step)  ((step) & ((1u << STEP_BITS) - 1))
#define STEP_INDEX(step) ((step) >> STEP_BITS)

enum { SILENT_MAX = 16 }; /* messages that may be finished before the host is told */
RK_ABI_ASSERT((int)SILENT_MAX <= (int)RK_PACKET_SILENT_MAX, "the count has five bits");

/* Of the deciders; the same in all of them. */
struct loop_state {
    rk_ctx *ctx;
    uint32_t first, ready; /* slots of the window: the next message's, and those at hand */
    uint32_t command;      /* the last ones seen: enum rk_command, */
    uint32_t hold;         /* enum rk_hold */
    uint32_t spins;        /* looks since there was something to do */
    int64_t until;         /* device clock at which the block leaves the grid */
    int64_t idle;          /* ns without work after which it does */
    int64_t last;          /* device clock of the last work; kept when `idle` is finite */
};

LOOP_FN bool loop_leads(const struct loop_state *s)
{
    return s->ctx->thread == 0;
}

LOOP_FN const rk_packet *loop_message(const rk_ctx *ctx, uint32_t slot)
{
    const uint8_t *window = (const uint8_t *)(ctx->pending + 1);
    return (const rk_packet *)(const void *)(window + slot * RK_SLOT_DATA);
}

LOOP_FN void loop_status(struct loop_state *s, uint32_t status)
{
    rk_block *block = s->ctx->block;
    if (loop_leads(s) && block->status != status) {
        block->status = status;
        rk__store_u32(&block->wire->status, status); /* pairs with the host's acquire load */
        loop_told_status(s->ctx);
    }
}

LOOP_FN bool loop_siblings_done(const struct loop_state *s)
{
    const rk_block *block = s->ctx->block;
    bool done = true;
    if (block->index != 0 || block->blocks == 1) {
        return true;
    }
    for (uint32_t i = 1; i < block->blocks && done; i++) {
        /* Pairs with the release store in loop_finish_message of that block. */
        done = (int32_t)(rk__load_near(&block->siblings[i].progress) - block->progress) > 0;
    }
    return loop_agree(done) != 0;
}

/* Whether the whole next message is in the window. */
LOOP_FN bool loop_at_hand(const struct loop_state *s)
{
    return s->first < s->ready &&
           s->ready - s->first >= rk_packet_slots(loop_message(s->ctx, s->first));
}

/* A new command is acquired: the host may have read the state before it gave it. */
LOOP_FN void loop_take_orders(struct loop_state *s, uint64_t orders)
{
    s->hold = (uint32_t)(orders >> 32);
    if (s->command != (uint32_t)orders) {
        s->command = (uint32_t)loop_agree(rk__load_u32(&s->ctx->block->wire->command));
    }
}

LOOP_FN uint64_t loop_orders(const struct loop_state *s)
{
    return loop_agree(rk__peek_u64((const uint64_t *)(const void *)&s->ctx->block->wire->command));
}

/* One look across the border: the next message, on a GPU what stands behind it, and the orders. One
 * slot when little goes on, so that idle blocks leave PCIe to others. */
LOOP_FN void loop_look(struct loop_state *s, uint64_t *orders)
{
    enum { LITTLE = 16, MANY = RK_PACKET_SLOTS - 1 };
    uint32_t at = s->ctx->block->at;
    s->first = 0;
    s->ready = loop_fetch(s->ctx, at, s->spins < LITTLE ? MANY : 1, orders);
    if (s->ready > 0 && !loop_at_hand(s)) {
        s->ready = loop_fetch(s->ctx, at, RK_PACKET_SLOTS, (uint64_t *)0);
    }
}

/* What stands in the window already is handled first: it is little, and came with orders. */
LOOP_FN void loop_refresh(struct loop_state *s)
{
    uint64_t orders = 0;
    if (!loop_at_hand(s)) {
        loop_look(s, &orders);
        loop_take_orders(s, orders);
    } else if (s->spins > 0) {
        loop_take_orders(s, loop_orders(s));
    }
}

LOOP_FN bool loop_commanded(const struct loop_state *s)
{
    uint64_t orders = loop_orders(s);
    return (uint32_t)orders != s->command || orders >> 32 != RK_HOLD_NONE;
}

/* For a look outside of loop_decide. */
LOOP_FN bool loop_has_message(struct loop_state *s)
{
    if (!loop_at_hand(s)) {
        loop_look(s, (uint64_t *)0);
    }
    return loop_at_hand(s) && loop_siblings_done(s);
}

/* Whether it is worth looking again: with messages (running), without (paused, not yet begun). */
LOOP_FN bool loop_ready(void *arg)
{
    struct loop_state *s = (struct loop_state *)arg;
    return loop_commanded(s) || loop_has_message(s);
}

LOOP_FN bool loop_ready_paused(void *arg)
{
    return loop_commanded((const struct loop_state *)arg);
}

/* The timer whose turn it is; every_count: none. *next: when to look. */
LOOP_FN uint32_t loop_timer_of(const struct loop_state *s, int64_t *next)
{
    const rk_block *block = s->ctx->block;
    int64_t *due = block->due, now = rk__device_clock();
    uint32_t turn = block->every_count;
    *next = INT64_MAX;
    for (uint32_t i = 0; i < block->every_count; i++) {
        if (turn == block->every_count && due[i] <= now) {
            turn = i;
        }
        *next = due[i] < *next ? due[i] : *next;
    }
    return turn;
}

LOOP_FN uint32_t loop_timer(const struct loop_state *s, int64_t *next)
{
    *next = INT64_MAX;
    return s->ctx->block->every_count == 0 ? 0 : (uint32_t)loop_agree(loop_timer_of(s, next));
}

/* By the leader, so that the lanes of a warp do not see each other's. */
LOOP_FN void loop_move_timer(const struct loop_state *s, uint32_t i)
{
    const rk_block *block = s->ctx->block;
    int64_t now = rk__device_clock(), period = block->every_periods[i];
    block->due[i] += period * (1 + (now - block->due[i]) / period);
}

LOOP_FN void loop_begin_timers(const struct loop_state *s)
{
    const rk_block *block = s->ctx->block;
    for (uint32_t i = 0; i < block->every_count; i++) {
        block->due[i] = rk__device_clock() + block->every_periods[i];
    }
}

/* Tells the host of messages that are finished and had nothing to say. */
LOOP_FN void loop_confess(struct loop_state *s)
{
    rk_ctx *ctx = s->ctx;
    if (!loop_agree(ctx->block->silent != 0)) {
        return;
    }
    if (loop_leads(s)) {
        rk__compose(ctx, RK_PACKET_DONE, 0, 0, 0);
    }
    loop_flush(ctx, 0);
    if (loop_leads(s)) {
        loop_told(ctx);
    }
}

/* At a message border: all blocks of the image wait here, then leave or go on. True: leave. */
LOOP_FN bool loop_hold(struct loop_state *s)
{
    rk_wire *wire = s->ctx->block->wire;
    uint32_t hold = s->hold;
    loop_confess(s);
    if (hold == RK_HOLD_WAIT && loop_leads(s)) {
        rk__store_u32(&wire->held, RK_HOLD_WAIT); /* pairs with the host's acquire load */
    }
    for (uint32_t spins = 0; hold == RK_HOLD_WAIT; spins++) {
        rk__pause(spins);
        hold = (uint32_t)(loop_orders(s) >> 32);
    }
    s->hold = RK_HOLD_NONE;
    if (hold == RK_HOLD_NONE && loop_leads(s)) {
        rk__store_u32(&wire->held, RK_HOLD_NONE);
    }
    return hold == RK_HOLD_LEAVE;
}

/* Bounded and batch mode: whether it is time to leave the grid to others. */
LOOP_FN bool loop_expired(struct loop_state *s)
{
    if (s->until == INT64_MAX) {
        return false;
    }
    int64_t now = (int64_t)loop_agree((uint64_t)rk__device_clock());
    if (s->spins == 0) {
        s->last = now;
    }
    return now >= s->until;
}

/* Does nothing, for a while or until there may be something to do. True: the block leaves the grid.
 */
LOOP_FN bool loop_rest(struct loop_state *s, bool (*ready)(void *), int64_t until)
{
    loop_confess(s);
    s->spins = s->spins > 0 ? s->spins : 1;
    if (s->until != INT64_MAX &&
        (int64_t)loop_agree((uint64_t)rk__device_clock()) - s->last > s->idle) {
        return true;
    }
    loop_idle(s->ctx, &s->spins, ready, s, until);
    return false;
}

/* The deciders: what the block does next; waits until there is something. */
LOOP_FN uint32_t loop_decide(struct loop_state *s)
{
    rk_block *block = s->ctx->block;
    int64_t next;
    for (;;) {
        loop_settle();
        loop_refresh(s);
        if (s->command == RK_COMMAND_ABORT || block->stopped || s->ctx->failed) {
            return STEP_LEAVE;
        }
        if ((s->hold != RK_HOLD_NONE && loop_hold(s)) || loop_expired(s)) {
            return STEP_YIELD;
        }
        if (s->command == RK_COMMAND_STOP) {
            return block->started ? STEP_STOP : STEP_LEAVE;
        }
        if (s->command != RK_COMMAND_RUN) {
            if (block->started) {
                loop_confess(s);
                loop_status(s, RK_STATUS_PAUSED);
            }
            if (loop_rest(s, loop_ready_paused, INT64_MAX)) {
                return STEP_YIELD;
            }
            continue;
        }
        if (!block->started) {
            return STEP_START;
        }
        loop_status(s, RK_STATUS_RUNNING);
        uint32_t timer = loop_timer(s, &next);
        if (timer < block->every_count) {
            return STEP_EVERY | timer << STEP_BITS;
        }
        if (loop_at_hand(s) && loop_siblings_done(s)) {
            return STEP_MESSAGE | s->first << STEP_BITS;
        }
        if (loop_rest(s, loop_ready, next)) {
            return STEP_YIELD;
        }
    }
}

/* A payload that stands on the host comes into the block's own memory, by all threads. */
LOOP_FN const void *loop_payload(rk_ctx *ctx, const rk_packet *packet)
{
    if (!(packet->flags & RK_PACKET_REF)) {
        return packet->payload.bytes;
    }
    const rk_unit *from = (const rk_unit *)(uintptr_t)packet->payload.words[0];
    rk_unit *to = (rk_unit *)(void *)ctx->block->incoming;
    if (!to) {
        return from;
    }
    enum { AT_ONCE = 4 }; /* loads on their way before the first is waited for */
    uint32_t units = (packet->size + (uint32_t)sizeof *from - 1) / (uint32_t)sizeof *from;
    for (uint32_t i = ctx->thread; i < units; i += AT_ONCE * ctx->threads) {
        uint32_t words[AT_ONCE][RK_UNIT_WORDS], last[AT_ONCE];
        LOOP_UNROLL
        for (uint32_t j = 0; j < AT_ONCE; j++) {
            if (i + j * ctx->threads < units) {
                last[j] = rk__load_unit(&from[i + j * ctx->threads], words[j]);
            }
        }
        LOOP_UNROLL
        for (uint32_t j = 0; j < AT_ONCE; j++) {
            if (i + j * ctx->threads < units) {
                rk_unit *unit = &to[i + j * ctx->threads];
                unit->words[0] = words[j][0];
                unit->words[1] = words[j][1];
                unit->words[2] = words[j][2];
                unit->stamp = last[j];
            }
        }
    }
    rk_sync(ctx);
    return to;
}

/* All threads: the user's code. */
LOOP_FN void loop_run(rk_ctx *ctx, uint32_t step)
{
    const rk_packet *packet = (const rk_packet *)0;
    if (STEP_KIND(step) == STEP_MESSAGE) {
        packet = loop_message(ctx, STEP_INDEX(step));
    }
    ctx->replied = ctx->failed = ctx->open_size = 0;
    ctx->message = packet;
    switch (STEP_KIND(step)) {
    case STEP_MESSAGE:
        LOOP_CHECK(packet->kind == RK_PACKET_MESSAGE && packet->type < ctx->block->entry->accepts);
        loop_handle(ctx, packet->type, loop_payload(ctx, packet));
        break;
    case STEP_EVERY:
        loop_hook(ctx, RK_BUSY_EVERY, STEP_INDEX(step));
        break;
    case STEP_START:
        loop_hook(ctx, RK_BUSY_START, 0);
        break;
    default:
        loop_hook(ctx, RK_BUSY_STOP, 0);
        break;
    }
}

/* The deciders, before: what the block is busy with, for whoever watches for handlers that hang. */
LOOP_FN void loop_busy(const struct loop_state *s, uint32_t step)
{
    rk_block *block = s->ctx->block;
    uint32_t busy = RK_BUSY_STOP;
    switch (STEP_KIND(step)) {
    case STEP_MESSAGE: {
        const rk_packet *packet = loop_message(s->ctx, s->first);
        busy = 1u + packet->type;
        if (packet->flags & RK_PACKET_REF) {
            rk__fence_system(); /* acquire: the stamps that were read vouch for the payload */
        }
        break;
    }
    case STEP_EVERY:
        busy = RK_BUSY_EVERY + STEP_INDEX(step);
        break;
    case STEP_START:
        busy = RK_BUSY_START;
        break;
    default:
        break;
    }
    if (loop_leads(s)) {
        if (STEP_KIND(step) == STEP_EVERY) {
            loop_move_timer(s, STEP_INDEX(step));
        }
        block->steps++;
        /* The watchdog looks at it; nothing is ordered by it. */
        rk__post_u64(&block->wire->activity, (uint64_t)block->steps << 32 | busy);
    }
}

/* The deciders, after a message that did not fail: the host learns that it is finished, with its
 * last packet or with others'. */
LOOP_FN void loop_finish_message(struct loop_state *s, bool pending)
{
    rk_block *block = s->ctx->block;
    const rk_packet *packet = loop_message(s->ctx, s->first);
    uint32_t slots = rk_packet_slots(packet);
    bool awaited = packet->flags & RK_PACKET_CALL;
    s->first += slots;
    if (pending) {
        loop_flush(s->ctx, RK_PACKET_LAST);
    }
    if (loop_leads(s)) {
        block->at += slots;
        block->silent += !pending && block->index == 0;
        if (block->blocks > 1) {
            rk__store_near(&block->progress, block->progress + 1); /* pairs with loop_siblings_done */
        } else {
            block->progress++;
        }
    }
    loop_settle();
    if ((awaited && !pending) || loop_agree(block->silent) >= SILENT_MAX) {
        loop_confess(s);
    }
}

LOOP_FN void loop_finish_hook(const struct loop_state *s, uint32_t step)
{
    rk_block *block = s->ctx->block;
    if (STEP_KIND(step) == STEP_START) {
        block->started = 1;
        loop_begin_timers(s);
    } else if (STEP_KIND(step) == STEP_STOP) {
        block->stopped = 1;
    }
}

LOOP_FN void loop_finish(struct loop_state *s, uint32_t step)
{
    rk_block *block = s->ctx->block;
    /* The first thread speaks for all: should only it have failed, the others leave with it. */
    bool failed = loop_agree(s->ctx->failed) != 0, pending = loop_agree(s->ctx->waiting) != 0;
    s->ctx->failed = failed;
    s->spins = 0;
    if (STEP_KIND(step) == STEP_MESSAGE && !failed) {
        loop_finish_message(s, pending);
    } else if (pending) {
        loop_flush(s->ctx, 0);
    }
    if (loop_leads(s)) {
        rk__post_u64(&block->wire->activity, (uint64_t)block->steps << 32);
        if (STEP_KIND(step) != STEP_MESSAGE && !failed) {
            loop_finish_hook(s, step);
        }
        if (pending || failed || block->index != 0) {
            loop_told(s->ctx); /* of a failure, too: its caller need not wait for the siblings */
        }
    }
}

/* The deciders, at the end: true when the block has left for good. */
LOOP_FN void loop_leave(struct loop_state *s, bool gone)
{
    rk_wire *wire = s->ctx->block->wire;
    loop_confess(s);
    if (gone) {
        loop_status(s, s->ctx->failed ? RK_STATUS_FAILED : RK_STATUS_STOPPED);
    } else if (loop_leads(s)) {
        int64_t next;
        loop_timer_of(s, &next);
        rk__post_u64((uint64_t *)&wire->due, (uint64_t)next);
        rk__store_u32(&wire->held, RK_HOLD_LEAVE); /* pairs with the host's acquire load */
    }
}

/* All threads of a block, until a command or a failure ends it (true), or it leaves the grid. */
LOOP_FN bool loop_live(rk_ctx *ctx, int64_t until, int64_t idle)
{
    struct loop_state s = {ctx, 0, 0, 0, 0, 0, until, idle, 0};
    uint32_t step;
    for (;;) {
        step = 0;
        if (loop_decides(ctx)) {
            step = loop_decide(&s);
            if (STEP_KIND(step) < STEP_LEAVE) {
                loop_busy(&s, step);
            }
        }
        step = loop_share(ctx, step);
        if (STEP_KIND(step) >= STEP_LEAVE) {
            break;
        }
        loop_run(ctx, step);
        loop_gather(ctx);
        if (loop_decides(ctx)) {
            loop_finish(&s, step);
        }
    }
    if (loop_decides(ctx)) {
        loop_leave(&s, STEP_KIND(step) == STEP_LEAVE);
    }
    return STEP_KIND(step) == STEP_LEAVE;
}

/* ---- ways in -------------------------------------------------------------------------------- */

#if defined(RK_IMAGE)

#if defined(RK_CUDA)
#define SEAT_ENTRY     extern "C" __global__
#define SEAT_INDEX()   blockIdx.x
#define SEAT_THREAD()  threadIdx.x
#define SEAT_THREADS() blockDim.x
#define SEAT_SHARED()  rk__dynamic
#else
#define SEAT_ENTRY     __attribute__((visibility("default")))
#define SEAT_INDEX()   standin_block()
#define SEAT_THREAD()  standin_thread()
#define SEAT_THREADS() standin_threads()
#define SEAT_SHARED()  ((unsigned char *)standin_shared())
#endif

enum { SEAT_WAIT, SEAT_TAKE, SEAT_RESUME, SEAT_LEAVE };

/* Seat 0: by one thread. Answers pings with the device's clock, so that the host knows that the
 * grid is alive and what its clock says. */
LOOP_FN void seat_serve(rk_seat *seat, int64_t until, int64_t idle)
{
    uint32_t pong = seat->pong;
    int64_t last = rk__device_clock();
    for (uint32_t spins = 0;; spins++) {
        uint32_t ping = rk__load_u32(&seat->ping); /* pairs with the host's release store */
        if (ping != pong) {
            last = rk__device_clock();
            rk__post_u64((uint64_t *)&seat->clock, (uint64_t)last);
            rk__store_u32(&seat->pong, pong = ping); /* pairs with the host's acquire load */
            spins = 0;
        }
        int64_t now = rk__device_clock();
        if (rk__load_u32(&seat->hold) == RK_HOLD_LEAVE || now >= until || now - last > idle) {
            return;
        }
        rk__pause(spins);
    }
}

/* The deciders: whether somebody sits here, or waits to; until the grid ends. */
LOOP_FN uint32_t seat_await(const rk_seat *seat, int64_t until, int64_t idle)
{
    int64_t begin = rk__device_clock();
    uint32_t left = seat->left, taken = seat->taken; /* words of ours */
    for (uint32_t spins = 0;; spins++) {
        uint32_t turn = rk__load_u32(&seat->turn); /* pairs with the host's release store */
        uint32_t found = turn == left ? SEAT_WAIT : turn == taken ? SEAT_RESUME : SEAT_TAKE;
        if (found == SEAT_WAIT) {
            int64_t now = rk__device_clock();
            bool over = now >= until || (until != INT64_MAX && now - begin > idle);
            found = over || rk__load_u32(&seat->hold) == RK_HOLD_LEAVE ? SEAT_LEAVE : SEAT_WAIT;
        }
        found = (uint32_t)loop_agree(found);
        if (found != SEAT_WAIT) {
            return found;
        }
        for (uint32_t i = 0; i < 16; i++) { /* nobody is in a hurry here */
            rk__pause(spins);
        }
    }
}

/* All threads: the block of the instance moves from the host's memory into the device's. */
LOOP_FN void seat_take(rk_seat *seat, uint32_t thread, uint32_t threads)
{
    const rk_unit *from = (const rk_unit *)(const void *)seat->block;
    rk_unit *to = (rk_unit *)(void *)seat->home;
    for (uint32_t i = thread; i < sizeof(rk_block) / sizeof(rk_unit); i += threads) {
        to[i].stamp = rk__load_unit(&from[i], to[i].words);
    }
}

/* One thread: what else must be near, and what changes with the grid. */
LOOP_FN void seat_settle(rk_seat *seat, uint32_t found, unsigned char *shared)
{
    rk_block *block = seat->home;
    block->shared = shared;
    if (found == SEAT_TAKE) {
        int64_t *periods = block->due + block->every_count; /* room for both is there */
        for (uint32_t i = 0; i < block->every_count; i++) {
            periods[i] = block->every_periods[i];
        }
        block->every_periods = periods;
        rk__store_u32(&seat->taken, seat->turn);
    }
}

/* A grid of seats, one per block of the grid; see rk_grid. */
SEAT_ENTRY void LOOP_CAT(rk_resident_, RK_CLASS)(const rk_grid *launch)
{
    rk_seat *seat = launch->seats + SEAT_INDEX();
    unsigned char *shared = SEAT_SHARED();
    int64_t idle = launch->idle, begin = rk__device_clock();
    int64_t until = launch->run == INT64_MAX ? INT64_MAX : begin + launch->run;
    rk_ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    ctx.thread = SEAT_THREAD();
    ctx.threads = SEAT_THREADS();
    ctx.pending = (rk_packet *)(void *)shared;
    ctx.reduce = (uint64_t *)(void *)(shared + RK__LOOP_PACKETS);
    if (SEAT_INDEX() == 0) {
        if (ctx.thread == 0) {
            seat_serve(seat, until, idle);
        }
        return;
    }
    for (;;) {
        uint32_t found = loop_share(&ctx, loop_decides(&ctx) ? seat_await(seat, until, idle) : 0);
        if (found == SEAT_LEAVE) {
            return;
        }
        loop_gather(&ctx);
        if (found == SEAT_TAKE) {
            seat_take(seat, ctx.thread, ctx.threads);
            loop_gather(&ctx);
        }
        if (ctx.thread == 0) {
            seat_settle(seat, found, shared + RK_LOOP_SHARED);
        }
        loop_gather(&ctx);
        ctx.block = seat->home;
        ctx.failed = ctx.waiting = 0;
        if (!loop_live(&ctx, until, idle)) {
            return;
        }
        if (ctx.thread == 0) {
            rk__store_u32(&seat->left, seat->turn); /* pairs with the host's acquire load */
        }
        loop_gather(&ctx);
    }
}

#else

void rk__resident(rk_ctx *ctx)
{
    loop_live(ctx, INT64_MAX, INT64_MAX);
}

#endif
