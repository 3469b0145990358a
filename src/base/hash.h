/* hash.h -- xxHash (XXH3), the stable 64- and 128-bit variants. thread: any. blocks: no */
#ifndef RK_BASE_HASH_H
#define RK_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t rk__hash64(const void *bytes, size_t size);

typedef struct rk__hash128 {
    uint64_t high, low;
} rk__hash128;
rk__hash128 rk__hash128_of(const void *bytes, size_t size);
const char *rk__hash128_hex(rk__hash128 h, char text[33]);

#endif
