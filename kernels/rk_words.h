/*
 * rk_words.h -- what is different between a GPU, the cpu device and the stand-in of a GPU: words that
 * cross the border or go between threads, waiting, the clock, the barrier of a block.
 *
 * Everything else in rk_kernel.h and resident.cu is one text on top of this. Handlers do not call
 * what is here but through rk_kernel.h.
 */
#ifndef RK_WORDS_H
#define RK_WORDS_H

#define RK_DEVICE_SIDE 1
#include "rk_abi.h"

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define RK_CUDA 1
#define RK_FN   static __device__ __inline__ __attribute__((unused))
/* For what is long and happens once in a message: a call costs little there, a copy in every place
 * costs the compiler's time and the image's size. */
#define RK_CALLED_FN static __device__ __noinline__ __attribute__((unused))
#else
#include <math.h>
#include <sched.h>
#include <string.h>
#include <time.h>
#define RK_FN        static inline __attribute__((unused))
#define RK_CALLED_FN RK_FN
#endif
/* A GPU made of threads, for tests of the cuda device (tests/fakecuda): C, but in an image. */
#if defined(RK_STANDIN)
#include "standin.h"
#endif

/* ---- words shared with the host and with other threads -------------------------------------- */

#if defined(RK_CUDA)

RK_FN uint32_t rk__load_u32(const uint32_t *word)
{
    uint32_t value;
    asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

RK_FN uint64_t rk__load_u64(const uint64_t *word)
{
    uint64_t value;
    asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

RK_FN void rk__store_u32(uint32_t *word, uint32_t value)
{
    asm volatile("st.release.sys.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

/* The same with nothing ordered by them; a store that nobody waits for. */
RK_FN uint64_t rk__peek_u64(const uint64_t *word)
{
    uint64_t value;
    asm volatile("ld.relaxed.sys.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
    return value;
}

RK_FN void rk__post_u64(uint64_t *word, uint64_t value)
{
    asm volatile("st.relaxed.sys.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

/* Between the blocks of one GPU: nothing crosses PCIe. */
RK_FN uint32_t rk__load_near(const uint32_t *word)
{
    uint32_t value;
    asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
    return value;
}

RK_FN void rk__store_near(uint32_t *word, uint32_t value)
{
    asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

/* One access of 16 bytes each: whole, on the device and across PCIe. */
RK_FN uint32_t rk__load_unit(const rk_unit *unit, uint32_t words[RK_UNIT_WORDS])
{
    uint64_t low, high;
    asm volatile("{ .reg .b128 unit; ld.relaxed.sys.global.b128 unit, [%2];"
                 " mov.b128 {%0, %1}, unit; }"
                 : "=l"(low), "=l"(high)
                 : "l"(__cvta_generic_to_global(unit))
                 : "memory");
    words[0] = (uint32_t)low;
    words[1] = (uint32_t)(low >> 32);
    words[2] = (uint32_t)high;
    return (uint32_t)(high >> 32);
}

RK_FN void rk__store_unit(rk_unit *unit, const uint32_t words[RK_UNIT_WORDS], uint32_t stamp)
{
    uint64_t low = words[0] | (uint64_t)words[1] << 32, high = words[2] | (uint64_t)stamp << 32;
    asm volatile("{ .reg .b128 unit; mov.b128 unit, {%1, %2};"
                 " st.relaxed.sys.global.b128 [%0], unit; }" ::"l"(__cvta_generic_to_global(unit)),
                 "l"(low), "l"(high)
                 : "memory");
}

/* Before a stamp that vouches for what stands elsewhere; after one that was read. Costs a round
 * trip over PCIe, so small packets do without. */
RK_FN void rk__fence_system(void)
{
    asm volatile("fence.acq_rel.sys;" ::: "memory");
}

/* Backs off from 32 ns to about 1 us. */
RK_FN void rk__pause(uint32_t spins)
{
    __nanosleep(32u << (spins < 5 ? spins : 5));
}

RK_FN int64_t rk__device_clock(void)
{
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return (int64_t)now;
}

#else

RK_FN uint32_t rk__load_u32(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

RK_FN uint64_t rk__load_u64(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

RK_FN void rk__store_u32(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

RK_FN uint64_t rk__peek_u64(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

RK_FN void rk__post_u64(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

RK_FN uint32_t rk__load_near(const uint32_t *word)
{
    return rk__load_u32(word);
}

RK_FN void rk__store_near(uint32_t *word, uint32_t value)
{
    rk__store_u32(word, value);
}

/* Stamp, then data; data, then stamp: acquire and release of the stamp order them. The data is
 * meaningless when the stamp is not the one that was waited for. */
RK_FN uint32_t rk__load_unit(const rk_unit *unit, uint32_t words[RK_UNIT_WORDS])
{
    uint32_t stamp = rk__load_u32(&unit->stamp);
    memcpy(words, unit->words, sizeof unit->words);
    return stamp;
}

RK_FN void rk__store_unit(rk_unit *unit, const uint32_t words[RK_UNIT_WORDS], uint32_t stamp)
{
    memcpy(unit->words, words, sizeof unit->words);
    rk__store_u32(&unit->stamp, stamp);
}

RK_FN void rk__fence_system(void)
{
    /* The stamps' release and acquire order everything before and after them. */
}

#if defined(RK_STANDIN)

RK_FN void rk__pause(uint32_t spins)
{
    standin_sleep(spins < 16 ? 32u : 1000u << (spins / 16 < 9 ? spins / 16 : 9));
}

RK_FN int64_t rk__device_clock(void)
{
    return standin_clock();
}

#else

/* Whoever is waited for may need this very core, so spinning is short. */
RK_FN void rk__pause(uint32_t spins)
{
    if (spins % 64 == 63) {
        sched_yield();
        return;
    }
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

RK_FN int64_t rk__device_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif
#endif

/* ---- the block's barrier -------------------------------------------------------------------- */

#if !defined(RK_CUDA) && !defined(RK_STANDIN)

/*
 * ctx->barrier on the cpu: one per block. The last thread to arrive opens it by a new `sense`.
 * `full` is called, by thread 0, when the outbox or the arena has no room: on the cpu device the
 * block's own thread moves its outbox to the mailboxes. NULL: somebody else does.
 */
typedef struct rk_barrier {
    uint32_t count;   /* threads of the block */
    uint32_t waiting; /* atomic: threads that arrived */
    uint32_t sense;   /* atomic: times the barrier opened */
    uint32_t spare;
    void (*full)(struct rk_block *block);
} rk_barrier;

RK_FN void rk_barrier_init(rk_barrier *barrier, uint32_t count, void (*full)(struct rk_block *))
{
    barrier->count = count;
    barrier->waiting = 0;
    barrier->sense = 0;
    barrier->spare = 0;
    barrier->full = full;
}

RK_FN void rk_barrier_wait(rk_barrier *barrier)
{
    /* Acquire: with the release store below, by the thread that opened the barrier last time. */
    uint32_t sense = rk__load_u32(&barrier->sense);
    /* Release: what this thread wrote before; acquire: what the threads before it wrote. */
    uint32_t arrived = __atomic_add_fetch(&barrier->waiting, 1, __ATOMIC_ACQ_REL);
    if (arrived == barrier->count) {
        __atomic_store_n(&barrier->waiting, 0, __ATOMIC_RELAXED);
        rk__store_u32(&barrier->sense, sense + 1); /* pairs with the loads of `sense` */
        return;
    }
    for (uint32_t spins = 0; rk__load_u32(&barrier->sense) == sense; spins++) {
        rk__pause(spins);
    }
}

#endif

#if defined(RK_SINGLE)
#define rk_sync(ctx) ((void)(ctx))
#elif defined(RK_CUDA)
#define rk_sync(ctx) ((void)(ctx), __syncthreads())
#elif defined(RK_STANDIN)
#define rk_sync(ctx) ((void)(ctx), standin_sync())
#else
#define rk_sync(ctx) rk_barrier_wait((rk_barrier *)(ctx)->barrier)
#endif

#endif
