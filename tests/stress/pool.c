/*
 * Stress of the pool: threads allocate blocks of random sizes, fill them with a canary, exchange
 * them through a shared table, and check and free what others allocated. Threads end and start
 * anew all the time, so that caches are drained while others work.
 * usage: pool [seed] [seconds]
 */
#include "base/clock.h"
#include "memory/pool.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS = 4, TABLE = 2048, OPERATIONS = 40000 };

typedef struct block {
    uint64_t size;
    uint64_t canary;
    unsigned char fill[];
} block;

typedef struct worker {
    pthread_t thread;
    uint64_t random;
    uint64_t allocated;
} worker;

static block *table[TABLE];
static unsigned long long seed;
static double seconds = 2;

static void failed(const char *what)
{
    fprintf(stderr, "stress/pool: %s; rerun: pool %llu %g\n", what, seed, seconds);
    exit(1);
}

/* xorshift64* (Vigna, 2016). */
static uint64_t next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static uint64_t canary_of(const block *b)
{
    return (uintptr_t)b * UINT64_C(0x9E3779B97F4A7C15) ^ b->size;
}

/* Mostly small; one in 64 up to the largest class and beyond. */
static size_t random_size(uint64_t r)
{
    size_t extra = r % 64 == 0 ? (r >> 8) % 80000 : (r >> 8) % 1200;
    return sizeof(block) + extra;
}

static block *make(worker *w)
{
    uint64_t r = next(&w->random);
    size_t size = random_size(r);
    block *b = rk__pool_alloc(size);
    if (b == NULL) {
        failed("out of memory");
    }
    b->size = size;
    b->canary = canary_of(b);
    memset(b->fill, (int)(b->canary & 255), size - sizeof *b);
    w->allocated++;
    return b;
}

static void check_and_free(block *b)
{
    if (b == NULL) {
        return;
    }
    if (b->canary != canary_of(b)) {
        failed("a canary is broken: a block was given out twice or overwritten");
    }
    for (size_t i = 0; i < b->size - sizeof *b; i++) {
        if (b->fill[i] != (b->canary & 255)) {
            failed("bytes of a block changed while it was out");
        }
    }
    size_t size = b->size;
    memset(b, 0xDD, size);
    rk__pool_free(b, size);
}

static void *work(void *arg)
{
    worker *w = arg;
    for (int i = 0; i < OPERATIONS; i++) {
        block *mine = make(w);
        size_t at = next(&w->random) % TABLE;
        /* Acquire and release: each side pairs with the same exchange by another worker. */
        check_and_free(__atomic_exchange_n(&table[at], mine, __ATOMIC_ACQ_REL));
    }
    return NULL;
}

static uint64_t round_of_workers(worker *workers)
{
    uint64_t allocated = 0;
    for (int i = 0; i < WORKERS; i++) {
        workers[i].allocated = 0;
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            failed("no thread");
        }
    }
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        allocated += workers[i].allocated;
    }
    return allocated;
}

static int64_t blocks_in_table(void)
{
    int64_t n = 0;
    for (int i = 0; i < TABLE; i++) {
        n += table[i] != NULL;
    }
    return n;
}

int main(int argc, char **argv)
{
    static worker workers[WORKERS];
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (unsigned long long)rk__now();
    seconds = argc > 2 ? atof(argv[2]) : seconds;
    for (int i = 0; i < WORKERS; i++) {
        workers[i].random = (seed + (unsigned)i + 1) * UINT64_C(0x9E3779B97F4A7C15) | 1;
    }
    rk__pool_stats s;
    uint64_t allocated = 0;
    int64_t deadline = rk__deadline(rk__seconds(seconds));
    do {
        allocated += round_of_workers(workers);
        rk__pool_stats_get(&s);
        if (s.live != blocks_in_table()) {
            failed("the live count differs from the blocks that are out");
        }
    } while (rk__now() < deadline);
    for (int i = 0; i < TABLE; i++) {
        check_and_free(table[i]);
    }
    rk__pool_stats_get(&s);
    if (s.live != 0) {
        failed("blocks are counted live after all were freed");
    }
    if (s.slab_bytes > (uint64_t)64 << 20) {
        failed("slabs grew beyond what can be out at one time");
    }
    printf("stress/pool: seed %llu, %llu blocks, %llu KiB of slabs, %llu depot moves\n", seed,
           (unsigned long long)allocated, (unsigned long long)s.slab_bytes / 1024,
           (unsigned long long)s.depot_moves);
    return 0;
}
