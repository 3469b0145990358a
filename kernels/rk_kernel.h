/*
 * rk_kernel.h -- what a handler of a ring kernel may call.
 *
 * The same handler text is compiled as C11 (cpu device) and as CUDA C++ by NVRTC (cuda device);
 * this header hides the difference and brings nothing else along. kernels/README.md is the guide.
 *
 * All threads of a block run a handler together. Calls marked + are made by all of them together
 * ("together": every thread reaches the call), and every thread gets the same result. A definition
 * compiled with RK_SINGLE runs in blocks of one thread: indices are constants, barriers vanish and
 * reductions are the identity, so plain loops vectorise.
 *
 * With a grid of several blocks every block runs the message, and only block 0 publishes: in the
 * others rk_reply, rk_send, rk_forward and rk_log do nothing.
 */
#ifndef RK_KERNEL_H
#define RK_KERNEL_H

#include "rk_words.h"

/* ---- a definition: handlers, state ---------------------------------------------------------- */

#if defined(RK_CUDA)
#define RK_ENTRY_FN    static __device__
#define RK_ENTRY_CONST static __device__ const
#else
#define RK_ENTRY_FN    static
#define RK_ENTRY_CONST static const
#endif

/* RK_ON(Type, name) { ... }: the handler of one message type; `name` is a const Type *. */
#define RK_ON(T, name) RK_ENTRY_FN void rk_on_##T(rk_ctx *ctx, const T *name)
/* At activation and before termination; at most one each. */
#define RK_ON_START RK_ENTRY_FN void rk_at_start(rk_ctx *ctx)
#define RK_ON_STOP  RK_ENTRY_FN void rk_at_stop(rk_ctx *ctx)
/* RK_EVERY(0.5) { ... }: periodically while active; several are told apart by their lines. */
#define RK_EVERY(seconds) RK_EVERY_1(__LINE__)
#define RK_EVERY_1(line)  RK_EVERY_2(line)
#define RK_EVERY_2(line)  RK_ENTRY_FN void rk_every_##line(rk_ctx *ctx)
/* RK_STATE { int64_t total; }; then rk_state *s = rk_get_state(ctx); zeroed at launch. */
#define RK_STATE                                                                                   \
    typedef struct rk_state rk_state;                                                              \
    struct rk_state
#define rk_get_state(ctx) ((rk_state *)(ctx)->block->state)

/* ---- indices and loops ---------------------------------------------------------------------- */

#if defined(RK_SINGLE)
#define rk_thread(ctx)  ((void)(ctx), 0u)
#define rk_threads(ctx) ((void)(ctx), 1u)
#else
#define rk_thread(ctx)  ((ctx)->thread)
#define rk_threads(ctx) ((ctx)->threads)
#endif
#define rk_block(ctx)  ((ctx)->block->index)
#define rk_blocks(ctx) ((ctx)->block->blocks)

/* RK_FOR (i, n): i is an int from 0 to n - 1, strided over the threads of the block. */
#define RK_FOR(i, n)                                                                               \
    for (int i = (int)rk_thread(ctx), rk_end_##i = (int)(n); i < rk_end_##i;                       \
         i += (int)rk_threads(ctx))

/* ---- envelope of the message being handled -------------------------------------------------- */

/* In RK_ON_START, RK_ON_STOP and RK_EVERY there is no message: nobody, and priority 128. */
#define rk_from(ctx)     ((ctx)->message ? (ctx)->message->peer : (rk_pid)0)
#define rk_priority(ctx) ((ctx)->message ? (int)(ctx)->message->priority : 128)
#define rk_self(ctx)     ((ctx)->block->self)

/* Nanoseconds on the host's monotonic clock. */
RK_FN int64_t rk__now_of(const rk_ctx *ctx)
{
    const uint64_t *offset = (const uint64_t *)&ctx->block->wire->clock_offset;
    return rk__device_clock() + (int64_t)rk__peek_u64(offset);
}
#define rk_now(ctx) rk__now_of(ctx)

/* ---- block-shared scratch ------------------------------------------------------------------- */

/*
 * RK_SHARED(float, tile, [256]): scratch that all threads of a block share, 46 KiB in all; its
 * contents are undefined when a handler begins. Each use has its place, told by its line: the
 * generated head of a definition has an RK_PLACE_line for each.
 */
#define RK__PLACE(line)   RK__PLACE_1(line)
#define RK__PLACE_1(line) RK_PLACE_##line
#define RK__PLACES(size)  (((size) + 15) / 16 * 16)
#if defined(RK_CUDA)
/* The loop's own part comes first: packets, words of reductions, decisions. */
extern __shared__ __align__(16) unsigned char rk__dynamic[];
#define RK_SHARED(T, name, dims)                                                                   \
    T(&name) dims = *(T(*) dims)(void *)(rk__dynamic + RK_LOOP_SHARED + RK__PLACE(__LINE__))
#else
#define RK_SHARED(T, name, dims)                                                                   \
    __typeof__(&(*(T(*) dims)0)[0]) name =                                                         \
        (__typeof__(&(*(T(*) dims)0)[0]))(void *)(ctx->block->shared + RK__PLACE(__LINE__))
#endif
/* Of shared memory in an image: the pending packet, the window, a word per warp (per thread in the
 * stand-in, whose blocks are small), and a decision. */
enum { RK__LOOP_PACKETS = 2 * (int)sizeof(rk_packet), RK__REDUCE_WORDS = 128 };
RK_ABI_ASSERT(RK__LOOP_PACKETS + 8 * (int)RK__REDUCE_WORDS + 64 <= (int)RK_LOOP_SHARED,
              "the loop's shared memory");

/* ---- reductions over the block -------------------------------------------------------------- */

#define RK__NUMBERS(X)                                                                             \
    X(int, int)                                                                                    \
    X(unsigned, uint)                                                                              \
    X(long, long)                                                                                  \
    X(unsigned long, ulong)                                                                        \
    X(long long, llong)                                                                            \
    X(unsigned long long, ullong)                                                                  \
    X(float, float)                                                                                \
    X(double, double)

#define RK__ADD(a, b) ((a) + (b))
#define RK__MIN(a, b) ((b) < (a) ? (b) : (a))
#define RK__MAX(a, b) ((a) < (b) ? (b) : (a))

/* C++ tells the versions apart by overloading, C by suffix and _Generic. */
#if defined(__cplusplus)
#define RK__NAME(name, suffix) name
#else
#define RK__NAME(name, suffix) name##_##suffix
#endif

#if defined(RK_SINGLE)

#define RK__REDUCE(name, T, suffix, OP)                                                            \
    RK_FN T RK__NAME(name, suffix)(rk_ctx * ctx, T x)                                              \
    {                                                                                              \
        (void)ctx;                                                                                 \
        return x;                                                                                  \
    }
#define RK__SCAN(T, suffix) RK__REDUCE(rk__scan, T, suffix, RK__ADD)
#define RK__BROADCAST(T, suffix)                                                                   \
    RK_FN T RK__NAME(rk__broadcast, suffix)(rk_ctx * ctx, T x, uint32_t thread)                    \
    {                                                                                              \
        (void)ctx, (void)thread;                                                                   \
        return x;                                                                                  \
    }

#else

/* One 8-byte word per thread (cpu) or per warp (cuda), read as the type it was written as. */
#define RK__WORD(T, word) (*(T *)(void *)(word))

#if defined(RK_CUDA)

/* The last warp of a block may have fewer lanes than 32; all its lanes call. */
RK_FN unsigned rk__lanes(const rk_ctx *ctx)
{
    unsigned rest = ctx->threads - (ctx->thread & ~31u);
    return rest < 32 ? rest : 32;
}

RK_FN unsigned rk__lane_mask(unsigned lanes)
{
    return lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
}

/* Shuffles inside each warp, then every thread folds the results of all warps in their order. */
#define RK__REDUCE(name, T, suffix, OP)                                                            \
    RK_FN T RK__NAME(name, suffix)(rk_ctx * ctx, T x)                                              \
    {                                                                                              \
        uint64_t *words = ctx->reduce;                                                             \
        unsigned lane = ctx->thread & 31u, lanes = rk__lanes(ctx),                                 \
                 warps = (ctx->threads + 31) / 32;                                                 \
        for (unsigned step = 16; step > 0; step /= 2) {                                            \
            T other = __shfl_down_sync(rk__lane_mask(lanes), x, step);                             \
            x = lane + step < lanes ? OP(x, other) : x;                                            \
        }                                                                                          \
        if (lane == 0) {                                                                           \
            RK__WORD(T, words + ctx->thread / 32) = x;                                             \
        }                                                                                          \
        __syncthreads();                                                                           \
        T result = RK__WORD(T, words);                                                             \
        for (unsigned warp = 1; warp < warps; warp++) {                                            \
            result = OP(result, RK__WORD(T, words + warp));                                        \
        }                                                                                          \
        __syncthreads();                                                                           \
        return result;                                                                             \
    }
#define RK__SCAN(T, suffix)                                                                        \
    RK_FN T RK__NAME(rk__scan, suffix)(rk_ctx * ctx, T x)                                          \
    {                                                                                              \
        uint64_t *words = ctx->reduce;                                                             \
        unsigned lane = ctx->thread & 31u, lanes = rk__lanes(ctx), warp = ctx->thread / 32;        \
        for (unsigned step = 1; step < 32; step *= 2) {                                            \
            T other = __shfl_up_sync(rk__lane_mask(lanes), x, step);                               \
            x = lane >= step ? x + other : x;                                                      \
        }                                                                                          \
        if (lane == lanes - 1) {                                                                   \
            RK__WORD(T, words + warp) = x;                                                         \
        }                                                                                          \
        __syncthreads();                                                                           \
        T before = 0;                                                                              \
        for (unsigned i = 0; i < warp; i++) {                                                      \
            before += RK__WORD(T, words + i);                                                      \
        }                                                                                          \
        __syncthreads();                                                                           \
        return before + x;                                                                         \
    }
#define RK__BROADCAST(T, suffix)                                                                   \
    RK_FN T RK__NAME(rk__broadcast, suffix)(rk_ctx * ctx, T x, uint32_t thread)                    \
    {                                                                                              \
        uint64_t *words = ctx->reduce;                                                             \
        if (ctx->thread == thread) {                                                               \
            RK__WORD(T, words) = x;                                                                \
        }                                                                                          \
        __syncthreads();                                                                           \
        T result = RK__WORD(T, words);                                                             \
        __syncthreads();                                                                           \
        return result;                                                                             \
    }

#else

/* Every thread folds the words of the first `count` threads, in their order. The second barrier
 * keeps a fast thread from writing its next word while a slow one still reads. */
#define RK__FOLD(name, T, suffix, OP, count)                                                       \
    RK_FN T RK__NAME(name, suffix)(rk_ctx * ctx, T x)                                              \
    {                                                                                              \
        __builtin_memcpy(ctx->reduce + ctx->thread, &x, sizeof x);                                 \
        rk_sync(ctx);                                                                              \
        T result, next;                                                                            \
        __builtin_memcpy(&result, ctx->reduce, sizeof result);                                     \
        for (uint32_t i = 1; i < (count); i++) {                                                   \
            __builtin_memcpy(&next, ctx->reduce + i, sizeof next);                                 \
            result = OP(result, next);                                                             \
        }                                                                                          \
        rk_sync(ctx);                                                                              \
        return result;                                                                             \
    }
#define RK__REDUCE(name, T, suffix, OP) RK__FOLD(name, T, suffix, OP, ctx->threads)
#define RK__SCAN(T, suffix)             RK__FOLD(rk__scan, T, suffix, RK__ADD, ctx->thread + 1)
#define RK__BROADCAST(T, suffix)                                                                   \
    RK_FN T RK__NAME(rk__broadcast, suffix)(rk_ctx * ctx, T x, uint32_t thread)                    \
    {                                                                                              \
        T result;                                                                                  \
        __builtin_memcpy(ctx->reduce + ctx->thread, &x, sizeof x);                                 \
        rk_sync(ctx);                                                                              \
        __builtin_memcpy(&result, ctx->reduce + thread, sizeof result);                            \
        rk_sync(ctx);                                                                              \
        return result;                                                                             \
    }

#endif
#endif

#define RK__REDUCTIONS(T, suffix)                                                                  \
    RK__REDUCE(rk__sum, T, suffix, RK__ADD)                                                        \
    RK__REDUCE(rk__min, T, suffix, RK__MIN)                                                        \
    RK__REDUCE(rk__max, T, suffix, RK__MAX)                                                        \
    RK__SCAN(T, suffix)                                                                            \
    RK__BROADCAST(T, suffix)
RK__NUMBERS(RK__REDUCTIONS)

/* Sum, least, greatest of one value per thread +; scan gives the sum over this and the threads
 * before it (inclusive); broadcast gives thread `from`'s value. Narrow integers count as int. The
 * order of float additions is fixed for a number of threads, and differs between such numbers. */
#if defined(__cplusplus)
#define RK__PICK(name, x) name
#else
#define RK__PICK(name, x)                                                                          \
    _Generic((x) + 0, int                                                                          \
             : name##_int, unsigned                                                                \
             : name##_uint, long                                                                   \
             : name##_long, unsigned long                                                          \
             : name##_ulong, long long                                                             \
             : name##_llong, unsigned long long                                                    \
             : name##_ullong, float                                                                \
             : name##_float, double                                                                \
             : name##_double)
#endif
#define rk_block_sum(ctx, x)       RK__PICK(rk__sum, x)(ctx, x)
#define rk_block_min(ctx, x)       RK__PICK(rk__min, x)(ctx, x)
#define rk_block_max(ctx, x)       RK__PICK(rk__max, x)(ctx, x)
#define rk_block_scan(ctx, x)      RK__PICK(rk__scan, x)(ctx, x)
#define rk_broadcast(ctx, x, from) RK__PICK(rk__broadcast, x)(ctx, x, from)
/* Whether a condition holds in any, in all threads +; 0 or 1. */
#define rk_block_any(ctx, condition) rk_block_max(ctx, (condition) ? 1 : 0)
#define rk_block_all(ctx, condition) rk_block_min(ctx, (condition) ? 1 : 0)

/* ---- publishing: the outbox and its arena --------------------------------------------------- */

enum { RK__ARENA_BORDER = 16, RK__TEXT_MAX = RK_FAILURE_MAX - 1 };

/* Only thread 0 of block 0 writes the outbox: it is its single producer. */
RK_FN bool rk__publishes(const rk_ctx *ctx)
{
    return rk_thread(ctx) == 0 && ctx->block->index == 0;
}

/* One round of waiting until the host has taken something out. */
#if defined(RK_CUDA) || defined(RK_STANDIN)
RK_FN void rk__wait_for_host(rk_ctx *ctx, uint32_t spins)
{
    (void)ctx;
    rk__pause(spins);
}
#else
RK_FN void rk__wait_for_host(rk_ctx *ctx, uint32_t spins)
{
    rk_barrier *barrier = (rk_barrier *)ctx->barrier;
    if (barrier && barrier->full) {
        barrier->full(ctx->block);
    }
    rk__pause(spins);
}
#endif

/* A word of whatever it is. */
#if defined(RK_CUDA)
typedef uint64_t rk__word;
#else
typedef uint64_t rk__word __attribute__((may_alias));
#endif

/* Both places on a border of 16 bytes; size need not be. */
RK_FN void rk__copy(void *to, const void *from, uint32_t size)
{
    rk__word *out = (rk__word *)to;
    const rk__word *in = (const rk__word *)from;
    uint32_t words = size / 8;
    for (uint32_t i = 0; i < words; i++) {
        out[i] = in[i];
    }
    if (size % 8) {
        memcpy(out + words, in + words, size % 8);
    }
}

/* Waits until n slots of the outbox are free. */
RK_CALLED_FN void rk__outbox_room(rk_ctx *ctx, uint32_t n)
{
    rk_block *block = ctx->block;
    for (uint32_t spins = 0; block->produced + n - block->consumed > block->outbox_mask + 1;
         spins++) {
        if (spins > 0) {
            rk__wait_for_host(ctx, spins - 1);
        }
        /* Acquire: with the host's release store after it has read the slots. */
        block->consumed = rk__load_u32(&block->wire->consumed);
    }
}

/* The pending packet goes out; by thread 0. All units are written, so that an old stamp cannot come
 * round again. */
RK_CALLED_FN void rk__flush(rk_ctx *ctx, uint32_t flags)
{
    rk_block *block = ctx->block;
    rk_packet *packet = ctx->pending;
    uint32_t units = rk_packet_slots(packet) * RK_SLOT_UNITS;
    packet->flags |= (uint8_t)flags;
    rk__outbox_room(ctx, units / RK_SLOT_UNITS);
    if (packet->flags & RK_PACKET_REF) {
        rk__fence_system(); /* release: what all threads wrote before the last rk_sync, too */
    }
    for (uint32_t i = 0; i < units; i++) {
        uint32_t at = block->produced + i / RK_SLOT_UNITS;
        rk__store_unit(&block->outbox[at & block->outbox_mask].units[i % RK_SLOT_UNITS],
                       (const uint32_t *)(const void *)packet + i * RK_UNIT_WORDS, at + 1);
    }
    block->produced += units / RK_SLOT_UNITS;
    ctx->waiting = 0;
}

/* The next packet, to be filled; the one before it leaves. By thread 0. */
RK_CALLED_FN rk_packet *rk__compose(rk_ctx *ctx, int kind, uint32_t type, rk_pid peer, uint32_t size)
{
    rk_packet *packet = ctx->pending;
    if (ctx->waiting) {
        rk__flush(ctx, 0);
    }
    packet->kind = (uint8_t)kind;
    packet->flags = (uint8_t)((ctx->message ? 0u : (uint32_t)RK_PACKET_UNBOUND) |
                              ctx->block->silent << RK_PACKET_SILENT_SHIFT);
    ctx->block->silent = 0;
    packet->priority = (uint8_t)rk_priority(ctx);
    packet->type = (uint8_t)type;
    packet->size = size;
    packet->peer = peer;
    ctx->waiting = 1;
    return packet;
}

/*
 * Room for a payload, whole: one that would wrap goes to the start of the arena and the bytes it
 * skips count as written. Waits until the host has read enough. Gives the offset; *end is the head
 * behind it. The arena is twice as large as the largest payload, so skipped bytes and payload fit
 * together; false: it is not.
 */
RK_CALLED_FN bool rk__arena_reserve(rk_ctx *ctx, uint32_t size, uint64_t *at, uint64_t *end)
{
    rk_block *block = ctx->block;
    uint64_t capacity = block->arena_size, head = block->arena_head;
    uint64_t room = ((uint64_t)size + RK__ARENA_BORDER - 1) & ~(uint64_t)(RK__ARENA_BORDER - 1);
    uint64_t offset = head & (capacity - 1);
    if (room > capacity / 2) {
        return false;
    }
    if (offset + room > capacity) {
        head += capacity - offset;
        offset = 0;
    }
    if (ctx->waiting) {
        rk__flush(ctx, 0); /* the host may have to read its payload to make room for this one */
    }
    for (uint32_t spins = 0; head + room - block->arena_tail > capacity; spins++) {
        if (spins > 0) {
            rk__wait_for_host(ctx, spins - 1);
        }
        /* Acquire: with the host's release store after it has read the payloads. */
        block->arena_tail = rk__load_u64(&block->wire->arena_tail);
    }
    *at = offset;
    *end = block->arena_head = head + room;
    return true;
}

RK_FN void rk__refer(rk_packet *packet, uint64_t at, uint64_t end)
{
    packet->flags |= RK_PACKET_REF;
    packet->payload.words[0] = at;
    packet->payload.words[1] = end;
}

RK_FN uint32_t rk__text_size(const char *text)
{
    uint32_t size = 0;
    while (size < RK__TEXT_MAX && text[size]) {
        size++;
    }
    return size;
}

/* A payload of two parts, the first on a border of 16 bytes (the second may be empty), as a packet;
 * by thread 0 of block 0. False: it is larger than the arena takes. */
RK_CALLED_FN bool rk__put(rk_ctx *ctx, int kind, uint32_t type, rk_pid peer, const void *first,
                   uint32_t first_size, const void *second, uint32_t second_size)
{
    uint32_t size = first_size + second_size;
    uint64_t at = 0, end = 0;
    if (size > RK_PACKET_INLINE && !rk__arena_reserve(ctx, size, &at, &end)) {
        return false;
    }
    rk_packet *packet = rk__compose(ctx, kind, type, peer, size);
    uint8_t *payload = packet->payload.bytes;
    if (size > RK_PACKET_INLINE) {
        rk__refer(packet, at, end);
        payload = ctx->block->arena + at;
    }
    rk__copy(payload, first, first_size);
    if (second_size) {
        memcpy(payload + first_size, second, second_size);
    }
    return true;
}

/* The text goes to whoever waits for the message, and the actor becomes FAILED with it. */
RK_CALLED_FN void rk__fail_now(rk_ctx *ctx, const char *why)
{
    uint32_t size = rk__text_size(why);
    ctx->failed = 1;
    ctx->open_size = 0;
    if (rk__publishes(ctx)) {
        rk__put(ctx, RK_PACKET_FAIL, 0, 0, (const void *)0, 0, why, size);
    } else if (rk_thread(ctx) == 0) { /* the host looks there when block 0 has said nothing */
        memcpy(ctx->block->wire->failure, why, size);
        ctx->block->wire->failure[size] = 0;
    }
}

/* By all threads; the first one of block 0 does it. */
RK_CALLED_FN void rk__publish(rk_ctx *ctx, int kind, uint32_t type, rk_pid peer, const void *first,
                       uint32_t first_size, const void *second, uint32_t second_size)
{
    if (ctx->failed) {
        return;
    }
    if (ctx->open_size) {
        rk__fail_now(ctx, "published something between rk_reply_begin and rk_reply_end");
        return;
    }
    if (rk__publishes(ctx) &&
        !rk__put(ctx, kind, type, peer, first, first_size, second, second_size)) {
        rk__fail_now(ctx, "a payload is larger than half of the outbox arena");
    }
}

/* ---- answers and messages ------------------------------------------------------------------- */

RK_FN void rk__reply_with(rk_ctx *ctx, uint32_t type, const void *payload, uint32_t size)
{
    if (ctx->message) {
        ctx->replied = 1;
        rk__publish(ctx, RK_PACKET_REPLY, type, ctx->message->peer, payload, size, 0, 0);
    }
}

RK_FN void rk__forward_to(rk_ctx *ctx, rk_pid peer)
{
    if (ctx->message) {
        ctx->replied = 1;
        rk__publish(ctx, RK_PACKET_FORWARD, ctx->message->type, peer, 0, 0, 0, 0);
    }
}

/* Room in the arena for the open reply, known to all threads. */
RK_FN void rk__reply_place(rk_ctx *ctx, uint32_t size)
{
    unsigned long long at = 0, end = 0;
    if (rk__publishes(ctx)) {
        uint64_t offset = 0, head = 0;
        rk__arena_reserve(ctx, size, &offset, &head);
        at = offset;
        end = head;
    }
    ctx->open_at = rk_broadcast(ctx, at, 0);
    ctx->open_end = rk_broadcast(ctx, end, 0);
}

/* Where a large answer is filled, zeroed by all threads: in the arena when that is near, else in
 * memory of the block's own (blocks that do not publish, and GPUs), to be copied at the end. */
RK_FN void *rk__reply_open(rk_ctx *ctx, uint32_t type, uint32_t size)
{
    rk_block *block = ctx->block;
    if (ctx->open_size) {
        rk__fail_now(ctx, "rk_reply_begin twice without rk_reply_end");
    }
    ctx->open_type = type;
    ctx->open_size = size;
    if (!block->outgoing) {
        rk__reply_place(ctx, size);
    }
    uint8_t *payload = block->outgoing ? block->outgoing : block->arena + ctx->open_at;
    rk__word *words = (rk__word *)(void *)payload;
    RK_FOR (i, (size + 7) / 8) {
        words[i] = 0;
    }
    rk_sync(ctx);
    return payload;
}

/* From the block's own memory into the arena, by all threads of block 0. */
RK_CALLED_FN void rk__reply_move(rk_ctx *ctx, uint32_t size)
{
    rk__reply_place(ctx, size);
    const rk__word *from = (const rk__word *)(void *)ctx->block->outgoing;
    rk__word *to = (rk__word *)(void *)(ctx->block->arena + ctx->open_at);
    RK_FOR (i, (size + 7) / 8) {
        to[i] = from[i];
    }
    rk_sync(ctx);
}

RK_FN void rk__reply_close(rk_ctx *ctx)
{
    uint32_t size = ctx->open_size;
    rk_sync(ctx); /* all threads have written their part */
    ctx->open_size = 0;
    if (ctx->failed || !size || ctx->block->index != 0) {
        return;
    }
    if (!ctx->message) {
        if (!ctx->block->outgoing && rk__publishes(ctx)) { /* the host gives the room back */
            rk__refer(rk__compose(ctx, RK_PACKET_DONE, 0, 0, 0), ctx->open_at, ctx->open_end);
        }
        return;
    }
    ctx->replied = 1;
    if (ctx->block->outgoing && size <= RK_PACKET_INLINE) {
        rk__publish(ctx, RK_PACKET_REPLY, ctx->open_type, ctx->message->peer, ctx->block->outgoing,
                    size, 0, 0);
        rk_sync(ctx); /* nobody fills the next one before this one was read */
        return;
    }
    if (ctx->block->outgoing) {
        rk__reply_move(ctx, size);
    }
    if (rk__publishes(ctx)) {
        rk__refer(rk__compose(ctx, RK_PACKET_REPLY, ctx->open_type, ctx->message->peer, size),
                  ctx->open_at, ctx->open_end);
    }
}

/* RK__EACH(M, a, b, c): M(a) M(b) M(c), up to 32. */
#define RK__EACH(M, ...)                                                                           \
    RK__SELECT(_, ##__VA_ARGS__, RK__32, RK__31, RK__30, RK__29, RK__28, RK__27, RK__26, RK__25,   \
               RK__24, RK__23, RK__22, RK__21, RK__20, RK__19, RK__18, RK__17, RK__16, RK__15,     \
               RK__14, RK__13, RK__12, RK__11, RK__10, RK__9, RK__8, RK__7, RK__6, RK__5, RK__4,   \
               RK__3, RK__2, RK__1, RK__0)                                                         \
    (M, ##__VA_ARGS__)
#define RK__SELECT(_, _1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, _17,  \
                   _18, _19, _20, _21, _22, _23, _24, _25, _26, _27, _28, _29, _30, _31, _32, N,   \
                   ...)                                                                            \
    N
#define RK__0(M)
#define RK__1(M, a)       M(a)
#define RK__2(M, a, ...)  M(a) RK__1(M, __VA_ARGS__)
#define RK__3(M, a, ...)  M(a) RK__2(M, __VA_ARGS__)
#define RK__4(M, a, ...)  M(a) RK__3(M, __VA_ARGS__)
#define RK__5(M, a, ...)  M(a) RK__4(M, __VA_ARGS__)
#define RK__6(M, a, ...)  M(a) RK__5(M, __VA_ARGS__)
#define RK__7(M, a, ...)  M(a) RK__6(M, __VA_ARGS__)
#define RK__8(M, a, ...)  M(a) RK__7(M, __VA_ARGS__)
#define RK__9(M, a, ...)  M(a) RK__8(M, __VA_ARGS__)
#define RK__10(M, a, ...) M(a) RK__9(M, __VA_ARGS__)
#define RK__11(M, a, ...) M(a) RK__10(M, __VA_ARGS__)
#define RK__12(M, a, ...) M(a) RK__11(M, __VA_ARGS__)
#define RK__13(M, a, ...) M(a) RK__12(M, __VA_ARGS__)
#define RK__14(M, a, ...) M(a) RK__13(M, __VA_ARGS__)
#define RK__15(M, a, ...) M(a) RK__14(M, __VA_ARGS__)
#define RK__16(M, a, ...) M(a) RK__15(M, __VA_ARGS__)
#define RK__17(M, a, ...) M(a) RK__16(M, __VA_ARGS__)
#define RK__18(M, a, ...) M(a) RK__17(M, __VA_ARGS__)
#define RK__19(M, a, ...) M(a) RK__18(M, __VA_ARGS__)
#define RK__20(M, a, ...) M(a) RK__19(M, __VA_ARGS__)
#define RK__21(M, a, ...) M(a) RK__20(M, __VA_ARGS__)
#define RK__22(M, a, ...) M(a) RK__21(M, __VA_ARGS__)
#define RK__23(M, a, ...) M(a) RK__22(M, __VA_ARGS__)
#define RK__24(M, a, ...) M(a) RK__23(M, __VA_ARGS__)
#define RK__25(M, a, ...) M(a) RK__24(M, __VA_ARGS__)
#define RK__26(M, a, ...) M(a) RK__25(M, __VA_ARGS__)
#define RK__27(M, a, ...) M(a) RK__26(M, __VA_ARGS__)
#define RK__28(M, a, ...) M(a) RK__27(M, __VA_ARGS__)
#define RK__29(M, a, ...) M(a) RK__28(M, __VA_ARGS__)
#define RK__30(M, a, ...) M(a) RK__29(M, __VA_ARGS__)
#define RK__31(M, a, ...) M(a) RK__30(M, __VA_ARGS__)
#define RK__32(M, a, ...) M(a) RK__31(M, __VA_ARGS__)

/* `.field = value` after the name of the struct is an assignment: no designated initialisers, which
 * C++ wants in the order of declaration. */
#define RK__ASSIGN(assignment) rk_out assignment;
#define RK__FILL(T, ...)                                                                           \
    (void)rk_type_##T; /* T must be among the accepts or replies of the kernel */                  \
    T rk_out __attribute__((aligned(16)));                                                         \
    memset(&rk_out, 0, sizeof rk_out);                                                             \
    RK__EACH(RK__ASSIGN, ##__VA_ARGS__)

/* Answers the message being handled +. All threads evaluate the values, so block reductions may
 * stand among them; thread 0's values go out. For types above 1 KiB and for arrays use
 * rk_reply_begin: this one fills a T on every thread's stack. */
#define rk_reply(ctx, T, ...)                                                                      \
    do {                                                                                           \
        RK__FILL(T, ##__VA_ARGS__)                                                                 \
        rk__reply_with(ctx, rk_type_##T, &rk_out, (uint32_t)sizeof rk_out);                        \
    } while (0)
/* A message of its own to any actor +. */
#define rk_send(ctx, pid, T, ...)                                                                  \
    do {                                                                                           \
        RK__FILL(T, ##__VA_ARGS__)                                                                 \
        rk__publish(ctx, RK_PACKET_SEND, rk_type_##T, pid, &rk_out, (uint32_t)sizeof rk_out, 0, 0);  \
    } while (0)
/* Passes the message being handled on, sender and correlation kept +. */
#define rk_forward(ctx, pid) rk__forward_to(ctx, pid)
/* T *r = rk_reply_begin(ctx, T) gives a zeroed T to be filled by all threads +, the same for all;
 * rk_reply_end(ctx) answers with it +. Nothing else may be published in between. */
#define rk_reply_begin(ctx, T) ((T *)rk__reply_open(ctx, rk_type_##T, (uint32_t)sizeof(T)))
#define rk_reply_end(ctx)      rk__reply_close(ctx)

/* Topics belong to a later version: a sentence instead of a guess. */
#define rk_publish(...)                                                                            \
    do {                                                                                           \
        RK_ABI_ASSERT(0, "rk_publish: topics come with a later version; use rk_send");             \
    } while (0)

/* ---- log and failure ------------------------------------------------------------------------ */

enum rk_log_level { RK_LOG_DEBUG, RK_LOG_INFO, RK_LOG_WARN, RK_LOG_ERROR };

RK_FN void rk__log_int(rk_log_record *record, long long number)
{
    if (record->count < RK_LOG_NUMBERS) {
        record->numbers[record->count++].i = number;
    }
}

RK_FN void rk__log_double(rk_log_record *record, double number)
{
    if (record->count < RK_LOG_NUMBERS) {
        record->floating |= 1u << record->count;
        record->numbers[record->count++].d = number;
    }
}

#if defined(__cplusplus)
template <typename T> RK_FN void rk__log_number(rk_log_record *record, T number)
{
    rk__log_int(record, (long long)number);
}
RK_FN void rk__log_number(rk_log_record *record, double number)
{
    rk__log_double(record, number);
}
RK_FN void rk__log_number(rk_log_record *record, float number)
{
    rk__log_double(record, number);
}
#define RK__LOG_PUT(number) rk__log_number(&rk_record, number);
#else
#define RK__LOG_PUT(number)                                                                        \
    _Generic((number) + 0, float                                                                   \
             : rk__log_double, double                                                              \
             : rk__log_double, default                                                             \
             : rk__log_int)(&rk_record, number);
#endif

RK_CALLED_FN void rk__log_publish(rk_ctx *ctx, rk_log_record *record, uint32_t level, const char *text)
{
    record->level = level;
    record->text = rk__text_size(text);
    rk__publish(ctx, RK_PACKET_LOG, 0, 0, record, (uint32_t)sizeof *record, text, record->text);
}

/* rk_log(ctx, RK_LOG_INFO, "sum %g of %d", sum, n) +: formatted on the host from up to 8 numbers; a
 * length in the format (%lld) is not needed. */
#define rk_log(ctx, log_level, text, ...)                                                          \
    do {                                                                                           \
        rk_log_record rk_record;                                                                   \
        memset(&rk_record, 0, sizeof rk_record);                                                   \
        RK__EACH(RK__LOG_PUT, ##__VA_ARGS__)                                                       \
        rk__log_publish(ctx, &rk_record, log_level, text);                                         \
    } while (0)

/* rk_fail(ctx, "why") + ends the handler: the caller gets the error, the actor becomes FAILED with
 * this reason. It returns, so it must stand in the handler itself, not in a helper function. */
#define rk_fail(ctx, why)                                                                          \
    do {                                                                                           \
        rk__fail_now(ctx, why);                                                                    \
        return;                                                                                    \
    } while (0)

/* ---- used by the generated end of a definition ---------------------------------------------- */

RK_FN void rk__enter(rk_ctx *ctx)
{
    ctx->replied = 0;
    ctx->failed = 0;
    ctx->open_size = 0;
}

RK_FN void rk__leave(rk_ctx *ctx)
{
    if (ctx->open_size) {
        rk__fail_now(ctx, "rk_reply_begin without rk_reply_end");
    }
}

#if defined(RK_SINGLE)
#define RK_ENTRY_THREADS 1
#else
#define RK_ENTRY_THREADS 0
#endif
#if defined(RK_IMAGE)
/* Several definitions are linked into an image, each under a name of its own: RK_DEFINITION. */
#define RK__NAME_OF(end)         RK__NAME_OF_1(RK_DEFINITION, end)
#define RK__NAME_OF_1(name, end) RK__NAME_OF_2(name, end)
#define RK__NAME_OF_2(name, end) name##end
#if defined(RK_CUDA)
#define RK__IMAGE_FN    extern "C" __device__
#define RK__IMAGE_CONST extern "C" __device__ const
#else
#define RK__IMAGE_FN
#define RK__IMAGE_CONST const
#endif
#endif

#endif
