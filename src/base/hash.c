/*
 * hash.c -- xxHash's XXH3, whose results are the same on every machine and version since 0.8.
 *
 * Threads: any; no state, no ordering.
 */
#include "base/hash.h"

#include <inttypes.h>
#include <stdio.h>
#include <xxhash.h>

uint64_t rk__hash64(const void *bytes, size_t size)
{
    return XXH3_64bits(bytes, size);
}

rk__hash128 rk__hash128_of(const void *bytes, size_t size)
{
    XXH128_hash_t h = XXH3_128bits(bytes, size);
    return (rk__hash128){h.high64, h.low64};
}

const char *rk__hash128_hex(rk__hash128 h, char text[33])
{
    snprintf(text, 33, "%016" PRIx64 "%016" PRIx64, h.high, h.low);
    return text;
}
