/*
 * kernels.cu -- kernels without a runtime: the least that can be done between a host and a GPU, and
 * what single accesses cost. Compiled by NVRTC when a program of bench/gpu starts (and as C by the
 * stand-in, where the PTX has twins that only have to be right).
 *
 * One parameter: the box (box.h) of block 0. Kernels that answer messages run in one block: of one
 * thread (word, unit) or of one warp. They end when a message begins with BOX_STOP. The box is in
 * the host's memory, a round trip away: what is constant is read before a loop, never in it.
 */
#include "rk_kernel.h"
#include "box.h"

#if defined(RK_CUDA)

#define KERNEL    extern "C" __global__ void
#define THREAD()  threadIdx.x
#define THREADS() blockDim.x
#define BLOCK()   blockIdx.x
#define BLOCKS()  gridDim.x
#define WARP_SYNC() __syncwarp()
/* The units of this thread: one at most in a warp, all of them in a block of one thread. */
enum { MINE = 1 };
/* Waiting is tight here: it is the limit that is asked for. */
#define SPIN() ((void)0)

RK_FN uint32_t peek(const uint32_t *word)
{
    uint32_t value;
    asm volatile("ld.relaxed.sys.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

RK_FN void post(uint32_t *word, uint32_t value)
{
    asm volatile("st.relaxed.sys.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

RK_FN bool all_lanes(bool mine)
{
    return __all_sync(0xffffffffu, mine);
}

RK_FN uint32_t first_lane(uint32_t value)
{
    return __shfl_sync(0xffffffffu, value, 0);
}

#else

#define KERNEL      __attribute__((visibility("default"))) void
#define THREAD()    standin_thread()
#define THREADS()   standin_threads()
#define BLOCK()     standin_block()
#define BLOCKS()    standin_blocks()
#define WARP_SYNC() ((void)0)
enum { MINE = RK_SLOT_UNITS };
#define SPIN()      standin_sleep(32)

RK_FN uint32_t peek(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

RK_FN void post(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

RK_FN bool all_lanes(bool mine)
{
    return mine;
}

RK_FN uint32_t first_lane(uint32_t value)
{
    return value;
}

#endif

RK_FN box *box_of(void *argument)
{
    return (box *)(void *)((unsigned char *)argument + (uint64_t)BLOCK() * BOX_SIZE);
}

RK_FN rk_slot *slot_of(rk_slot *ring, uint32_t at)
{
    return ring + (at & (BOX_SLOTS - 1));
}

/* ---- the limit: one thread, one word or one unit there and back ----------------------------- */

KERNEL bare_word(void *argument)
{
    box *b = box_of(argument);
    uint32_t last = 0;
    while (last != BOX_STOP) {
        uint32_t now = peek(&b->there);
        if (now == last) {
            SPIN();
            continue;
        }
        last = now;
        post(&b->back, now);
    }
}

KERNEL bare_unit(void *argument)
{
    const box *b = box_of(argument);
    const rk_unit *in = b->in->units;
    rk_unit *out = b->out->units;
    uint32_t words[RK_UNIT_WORDS] = {0, 0, 0};
    for (uint32_t at = 1; words[0] != BOX_STOP; at++) {
        while (rk__load_unit(in, words) != at) {
            SPIN();
        }
        rk__store_unit(out, words, at);
    }
}

/* ---- (a), (d): a stamp per 16-byte unit, no fence -------------------------------------------- */

KERNEL bare_units(void *argument)
{
    const box *b = box_of(argument);
    rk_slot *ring_in = b->in, *ring_out = b->out;
    uint32_t units = b->units, first = THREAD(), words[MINE][RK_UNIT_WORDS];
    bool going = true;
    for (uint32_t at = 0; going; at++) {
        const rk_slot *in = slot_of(ring_in, at);
        rk_slot *out = slot_of(ring_out, at);
        bool whole = false;
        while (!all_lanes(whole)) {
            whole = true;
            for (uint32_t i = 0; i < MINE && first + i < units; i++) {
                whole = rk__load_unit(&in->units[first + i], words[i]) == at + 1 && whole;
            }
            if (!whole) {
                SPIN();
            }
        }
        for (uint32_t i = 0; i < MINE && first + i < units; i++) {
            rk__store_unit(&out->units[first + i], words[i], at + 1);
        }
        going = first_lane(words[0][0]) != BOX_STOP;
    }
}

/* ---- (b): a stamp in the line, acquire after it, release before it --------------------------- */

/* From line to line by the warp; gives the first word. `n`: words of the payload. */
RK_FN uint32_t echo(const box_line *in, box_line *out, uint32_t n)
{
    uint32_t word = 0;
    for (uint32_t i = THREAD(); i < n; i += THREADS()) {
        uint32_t mine = peek(&in->words[i]);
        word = i == 0 ? mine : word;
        post(&out->words[i], mine);
    }
    word = first_lane(word);
    WARP_SYNC();
    return word;
}

RK_FN box_line *line_of(rk_slot *ring, uint32_t at)
{
    return (box_line *)(void *)slot_of(ring, at);
}

KERNEL bare_acquire(void *argument)
{
    const box *b = box_of(argument);
    rk_slot *ring_in = b->in, *ring_out = b->out;
    uint32_t n = b->units > 1 ? (uint32_t)BOX_INLINE : 1u, word = 0;
    for (uint32_t at = 0; word != BOX_STOP; at++) {
        const box_line *in = line_of(ring_in, at);
        box_line *out = line_of(ring_out, at);
        while (peek(&in->stamp) != at + 1) {
            SPIN();
        }
        rk__fence_system();
        word = echo(in, out, n);
        if (THREAD() == 0) {
            rk__fence_system();
            post(&out->stamp, at + 1);
        }
    }
}

/* ---- (c): a pair of indices, and slots without stamps ---------------------------------------- */

KERNEL bare_index(void *argument)
{
    box *b = box_of(argument);
    rk_slot *ring_in = b->in, *ring_out = b->out;
    uint32_t n = b->units > 1 ? (uint32_t)BOX_INLINE : 1u, word = 0;
    for (uint32_t at = 0; word != BOX_STOP; at++) {
        while (peek(&b->there) == at) {
            SPIN();
        }
        rk__fence_system();
        word = echo(line_of(ring_in, at), line_of(ring_out, at), n);
        if (THREAD() == 0) {
            rk__fence_system();
            post(&b->back, at + 1);
        }
    }
}

/* ---- today's practice: a launch per message -------------------------------------------------- */

/* The parameter is no box, but the line of the question with the line of the answer behind it. */
KERNEL bare_launch(void *argument)
{
    const box_line *in = (const box_line *)argument;
    box_line *out = (box_line *)argument + 1;
    for (uint32_t i = THREAD(); i < BOX_INLINE; i += THREADS()) {
        out->words[i] = in->words[i] + 1;
    }
}

/* ---- neighbours ------------------------------------------------------------------------------ */

/* Looks for mail as an idle ring kernel does, a window of 8 slots at a time, until stopped. */
KERNEL idle_poll(void *argument)
{
    box *b = box_of(argument);
    uint32_t words[RK_UNIT_WORDS], unit = THREAD() % (8 * RK_SLOT_UNITS), found = 0;
    const rk_unit *mine = &b->in[unit / RK_SLOT_UNITS].units[unit % RK_SLOT_UNITS];
    if (THREAD() == 0) {
        post(&b->alive, 1);
    }
    for (uint32_t spins = 0; first_lane(peek(&b->stop)) == 0; spins++) {
        found += rk__load_unit(mine, words) == 1;
        rk__pause(spins);
    }
    if (!all_lanes(found == 0) && THREAD() == 0) {
        b->results[0] = 1; /* there never is any: kept so that the reads are */
    }
}

/* Stays, and asks only now and then whether it should go. */
KERNEL idle_stay(void *argument)
{
    box *b = box_of(argument);
    if (THREAD() == 0) {
        post(&b->alive, 1);
    }
    for (uint32_t spins = 0; first_lane(peek(&b->stop)) == 0; spins++) {
        rk__pause(100);
    }
}

/* bytes / 16 units from one place of device memory to another, by the whole grid; the first box. */
typedef struct bench_pair {
    uint64_t a, b;
} __attribute__((aligned(16))) bench_pair;

KERNEL neighbour_copy(void *argument)
{
    const box *b = (const box *)argument;
    const bench_pair *from = (const bench_pair *)b->from;
    bench_pair *to = (bench_pair *)b->to;
    uint64_t step = (uint64_t)BLOCKS() * THREADS(), n = b->bytes / 16;
    for (uint64_t i = (uint64_t)BLOCK() * THREADS() + THREAD(); i < n; i += step) {
        to[i] = from[i];
    }
}

/* ---- single accesses: results[0] is how many ns `count` of them took ------------------------- */

KERNEL cost_sleep(void *argument)
{
    box *b = box_of(argument);
    uint32_t count = b->count, wait = b->wait;
    int64_t begin = rk__device_clock();
    for (uint32_t i = 0; i < count; i++) {
#if defined(RK_CUDA)
        __nanosleep(wait);
#else
        standin_sleep(wait);
#endif
    }
    b->results[0] = rk__device_clock() - begin;
}

/* Each address depends on what was read before. The words of `from` are 0. */
KERNEL cost_read(void *argument)
{
    box *b = box_of(argument);
    uint32_t count = b->count;
    uint64_t *word = (uint64_t *)b->from;
    int64_t begin = rk__device_clock();
    for (uint32_t i = 0; i < count; i++) {
        word += rk__peek_u64(word);
    }
    b->results[0] = rk__device_clock() - begin;
    b->results[1] = word - (uint64_t *)b->from;
}

KERNEL cost_fence(void *argument)
{
    box *b = box_of(argument);
    uint32_t count = b->count;
    int64_t begin = rk__device_clock();
    for (uint32_t i = 0; i < count; i++) {
        rk__fence_system();
    }
    b->results[0] = rk__device_clock() - begin;
}

/* The fence has a write of this thread to wait for. */
KERNEL cost_write_fence(void *argument)
{
    box *b = box_of(argument);
    uint32_t count = b->count, *to = (uint32_t *)b->to;
    int64_t begin = rk__device_clock();
    for (uint32_t i = 0; i < count; i++) {
        post(to, i);
        rk__fence_system();
    }
    b->results[0] = rk__device_clock() - begin;
}

KERNEL cost_release(void *argument)
{
    box *b = box_of(argument);
    uint32_t count = b->count, *to = (uint32_t *)b->to;
    int64_t begin = rk__device_clock();
    for (uint32_t i = 0; i < count; i++) {
        rk__store_u32(to + i % BOX_SLOTS, i);
    }
    b->results[0] = rk__device_clock() - begin;
}

/* Stores nobody waits for, as the answers of (a) are. */
KERNEL cost_write(void *argument)
{
    box *b = box_of(argument);
    uint32_t count = b->count, *to = (uint32_t *)b->to;
    int64_t begin = rk__device_clock();
    for (uint32_t i = 0; i < count; i++) {
        post(to + i % BOX_SLOTS, i);
    }
    b->results[0] = rk__device_clock() - begin;
}
