/* Unit tests of src/memory/pool.c. */
#include "memory/pool.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

static rk__pool_stats stats(void)
{
    rk__pool_stats s;
    rk__pool_stats_get(&s);
    return s;
}

Test(pool, usable_is_tight_and_covers)
{
    size_t before = 0;
    for (size_t size = 0; size <= 70000; size++) {
        size_t usable = rk__pool_usable(size);
        cr_assert_geq(usable, size);
        cr_assert_geq(usable, before);
        cr_assert(size <= 128 || usable <= size + size / 2, "%zu for %zu", usable, size);
        cr_assert_eq(usable % 64, 0);
        before = usable;
    }
    cr_assert_eq(rk__pool_usable(0), 128);
    cr_assert_eq(rk__pool_usable(128), 128);
    cr_assert_eq(rk__pool_usable(129), 192);
    cr_assert_eq(rk__pool_usable(65536), 65536);
    cr_assert_eq(rk__pool_usable(65537), 65600);
}

enum { BLOCKS = 3000 };

static size_t some_size(unsigned i)
{
    return (size_t)i * 7919 % 9000;
}

/* Every block is filled to its last usable byte and looked at when all are out. */
Test(pool, blocks_are_aligned_and_apart)
{
    static unsigned char *blocks[BLOCKS];
    for (unsigned i = 0; i < BLOCKS; i++) {
        blocks[i] = rk__pool_alloc(some_size(i));
        cr_assert_not_null(blocks[i]);
        cr_assert_eq((uintptr_t)blocks[i] % 64, 0);
        memset(blocks[i], (int)(i * 13 % 256), rk__pool_usable(some_size(i)));
    }
    cr_assert_eq(stats().live, BLOCKS);
    cr_assert_gt(stats().slab_bytes, 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        for (size_t k = 0; k < rk__pool_usable(some_size(i)); k++) {
            cr_assert_eq(blocks[i][k], i * 13 % 256);
        }
        rk__pool_free(blocks[i], some_size(i));
    }
    cr_assert_eq(stats().live, 0);
}

Test(pool, memory_is_used_again)
{
    for (int round = 0; round < 50; round++) {
        void *blocks[200];
        for (int i = 0; i < 200; i++) {
            blocks[i] = rk__pool_alloc(300);
        }
        for (int i = 0; i < 200; i++) {
            rk__pool_free(blocks[i], 300);
        }
    }
    cr_assert_eq(stats().slab_bytes, 131072 + 65536, "200 blocks of 384 bytes need two slabs");
    void *last = rk__pool_alloc(300);
    rk__pool_free(last, 300);
    cr_assert_eq(rk__pool_alloc(300), last, "the block freed last is the warmest");
    cr_assert_eq(stats().live, 1);
}

Test(pool, large_blocks)
{
    unsigned char *block = rk__pool_alloc(65537);
    cr_assert_not_null(block);
    cr_assert_eq((uintptr_t)block % 64, 0);
    memset(block, 1, rk__pool_usable(65537));
    cr_assert_eq(stats().large, 1);
    cr_assert_eq(stats().live, 1);
    cr_assert_eq(stats().slab_bytes, 0);
    rk__pool_free(block, 65537);
    cr_assert_eq(stats().live, 0);
    cr_assert_null(rk__pool_alloc(SIZE_MAX));
    cr_assert_null(rk__pool_alloc(SIZE_MAX - 63));
    rk__pool_free(NULL, 100);
    cr_assert_eq(stats().live, 0);
}

Test(pool, the_nth_allocation_fails)
{
    void *a, *b;
    rk__pool_fail_after(2);
    cr_assert_not_null(a = rk__pool_alloc(100));
    cr_assert_null(rk__pool_alloc(100));
    cr_assert_not_null(b = rk__pool_alloc(100000));
    rk__pool_fail_after(1);
    cr_assert_null(rk__pool_alloc(100000));
    rk__pool_fail_after(1);
    rk__pool_fail_after(0);
    rk__pool_free(a, 100);
    cr_assert_not_null(a = rk__pool_alloc(100));
    cr_assert_eq(stats().live, 2);
    rk__pool_free(a, 100);
    rk__pool_free(b, 100000);
}

static void *free_all(void *arg)
{
    void **blocks = arg;
    for (int i = 0; i < BLOCKS; i++) {
        rk__pool_free(blocks[i], 128);
    }
    return NULL;
}

/* What a thread freed is there for others, through full magazines and through its end. */
Test(pool, remote_frees_come_back)
{
    static void *blocks[BLOCKS];
    uint64_t slabs = 0;
    for (int round = 0; round < 20; round++) {
        pthread_t thread;
        for (int i = 0; i < BLOCKS; i++) {
            blocks[i] = rk__pool_alloc(128);
        }
        slabs = round == 0 ? stats().slab_bytes : slabs;
        pthread_create(&thread, NULL, free_all, blocks);
        pthread_join(thread, NULL);
        cr_assert_eq(stats().live, 0);
    }
    cr_assert_eq(stats().slab_bytes, slabs, "nothing was lost between the threads");
    cr_assert_gt(stats().depot_moves, 20 * 2 * (BLOCKS / 64 - 2));
}

static pthread_key_t late_key;
static void *late_block;

/* A destructor is called again while it sets its value again, so the last round comes after the
 * pool's own destructor. */
static void use_late(void *value)
{
    uintptr_t round = (uintptr_t)value;
    if (round < 3) {
        pthread_setspecific(late_key, (void *)(round + 1));
        return;
    }
    void *temporary = rk__pool_alloc(200);
    late_block = rk__pool_alloc(200);
    memset(late_block, 7, 200);
    rk__pool_free(temporary, 200);
}

static void *end_late(void *arg)
{
    pthread_setspecific(late_key, (void *)1);
    rk__pool_free(rk__pool_alloc(200), 200);
    return arg;
}

Test(pool, works_after_the_thread_destructors)
{
    pthread_key_create(&late_key, use_late);
    pthread_t thread;
    pthread_create(&thread, NULL, end_late, NULL);
    pthread_join(thread, NULL);
    cr_assert_not_null(late_block);
    cr_assert_eq(((unsigned char *)late_block)[199], 7);
    cr_assert_eq(stats().live, 1);
    rk__pool_free(late_block, 200);
    cr_assert_eq(stats().live, 0);
}
