/*
 * pool.h -- blocks for messages: size classes carved from slabs, a cache per thread, a depot of
 * full magazines per class. A block may be freed by any thread. No malloc on a hot path.
 */
#ifndef RK_MEMORY_POOL_H
#define RK_MEMORY_POOL_H

#include <stddef.h>
#include <stdint.h>

/* A block of at least `size` bytes, 64-byte aligned (cache line), not zeroed; NULL: out of memory.
 * Sizes above the largest class (64 KiB) go to aligned_alloc. thread: any. blocks: no */
void *rk__pool_alloc(size_t size);
/* Bytes usable behind what rk__pool_alloc(size) returns. */
size_t rk__pool_usable(size_t size);
/* `size` as given to rk__pool_alloc. NULL is fine. thread: any. blocks: no */
void rk__pool_free(void *block, size_t size);

typedef struct rk__pool_stats {
    uint64_t slab_bytes;  /* carved from the system so far */
    uint64_t depot_moves; /* magazines exchanged with the depots */
    uint64_t large;       /* allocations above the largest class */
    int64_t live;         /* blocks out, exact when no other thread is allocating */
} rk__pool_stats;
void rk__pool_stats_get(rk__pool_stats *out);

/* For tests: the n-th allocation of the process from now on fails (0 turns it off). */
void rk__pool_fail_after(uint64_t n);

#endif
