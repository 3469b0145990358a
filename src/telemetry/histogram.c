/*
 * histogram.c -- log-linear histogram: values below 32 have a bucket each, every further power of
 * two has 32 of equal width, so a bucket is at most 1/32 of its lower edge wide.
 *
 * Threads: one writer; any reader. All accesses are relaxed atomics: a reader sees counts that lag
 * and that may disagree by the values just being added, so a quantile counts the buckets itself
 * instead of trusting `count`.
 */
#include "telemetry/histogram.h"

#include <stdbool.h>

enum { SUB_BITS = 5, SUBS = 1 << SUB_BITS };

static uint64_t load(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static void store(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static unsigned bucket_of(uint64_t value)
{
    if (value < SUBS) {
        return (unsigned)value;
    }
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - SUB_BITS;
    return SUBS + shift * SUBS + (unsigned)(value >> shift & (SUBS - 1));
}

/* The largest value that falls into the bucket. */
static uint64_t upper_edge(unsigned bucket)
{
    if (bucket < SUBS) {
        return bucket;
    }
    unsigned shift = bucket / SUBS - 1;
    uint64_t lower = (uint64_t)(SUBS + bucket % SUBS) << shift;
    return lower + ((UINT64_C(1) << shift) - 1);
}

static void add_saturated(uint64_t *word, uint64_t more)
{
    uint64_t sum;
    store(word, __builtin_add_overflow(load(word), more, &sum) ? UINT64_MAX : sum);
}

static void widen(rk__histogram *h, uint64_t min, uint64_t max)
{
    bool empty = load(&h->count) == 0;
    if (empty || min < load(&h->min)) {
        store(&h->min, min);
    }
    if (empty || max > load(&h->max)) {
        store(&h->max, max);
    }
}

void rk__histogram_reset(rk__histogram *h)
{
    store(&h->count, 0);
    store(&h->sum, 0);
    store(&h->min, 0);
    store(&h->max, 0);
    for (unsigned i = 0; i < RK__HISTOGRAM_BUCKETS; i++) {
        store(&h->buckets[i], 0);
    }
}

void rk__histogram_add(rk__histogram *h, int64_t value)
{
    uint64_t v = value > 0 ? (uint64_t)value : 0;
    widen(h, v, v);
    uint64_t *bucket = &h->buckets[bucket_of(v)];
    store(bucket, load(bucket) + 1);
    add_saturated(&h->sum, v);
    store(&h->count, load(&h->count) + 1);
}

void rk__histogram_merge(rk__histogram *into, const rk__histogram *from)
{
    uint64_t count = load(&from->count);
    if (count == 0) {
        return;
    }
    widen(into, load(&from->min), load(&from->max));
    for (unsigned i = 0; i < RK__HISTOGRAM_BUCKETS; i++) {
        uint64_t n = load(&from->buckets[i]);
        if (n > 0) {
            store(&into->buckets[i], load(&into->buckets[i]) + n);
        }
    }
    add_saturated(&into->sum, load(&from->sum));
    store(&into->count, load(&into->count) + count);
}

/* The rank of the wanted value, 1 for the smallest: the least r with r/total >= q. */
static uint64_t rank_of(double q, uint64_t total)
{
    if (!(q > 0)) {
        return 1;
    }
    double exact = (q < 1 ? q : 1) * (double)total;
    uint64_t rank = (uint64_t)exact;
    rank += (double)rank < exact;
    return rank < 1 ? 1 : rank > total ? total : rank;
}

int64_t rk__histogram_quantile(const rk__histogram *h, double q)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < RK__HISTOGRAM_BUCKETS; i++) {
        total += load(&h->buckets[i]);
    }
    if (total == 0) {
        return 0;
    }
    uint64_t rank = rank_of(q, total), seen = 0, max = load(&h->max);
    for (unsigned i = 0; i < RK__HISTOGRAM_BUCKETS; i++) {
        seen += load(&h->buckets[i]);
        if (seen >= rank) {
            uint64_t edge = upper_edge(i);
            return (int64_t)(edge < max ? edge : max);
        }
    }
    return (int64_t)max;
}

double rk__histogram_mean(const rk__histogram *h)
{
    uint64_t count = load(&h->count);
    return count > 0 ? (double)load(&h->sum) / (double)count : 0;
}
