/*
 * histogram.h -- log-linear histogram of non-negative 64-bit values (nanoseconds, mostly): 32
 * sub-buckets per power of two, relative error at most 1/32 (the HdrHistogram layout, G. Tene).
 * One writer; readers may look at any time and see counts that lag.
 */
#ifndef RK_TELEMETRY_HISTOGRAM_H
#define RK_TELEMETRY_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

enum { RK__HISTOGRAM_BUCKETS = 32 + 59 * 32 };

typedef struct rk__histogram {
    uint64_t count, sum, min, max;
    uint64_t buckets[RK__HISTOGRAM_BUCKETS];
} rk__histogram;

void rk__histogram_reset(rk__histogram *h);
void rk__histogram_add(rk__histogram *h, int64_t value); /* negative counts as 0 */
void rk__histogram_merge(rk__histogram *into, const rk__histogram *from);
/* The value below or at which the fraction q (0..1) of all values lies: the upper edge of its
 * bucket, never above max; 0 when empty. */
int64_t rk__histogram_quantile(const rk__histogram *h, double q);
double rk__histogram_mean(const rk__histogram *h);

#endif
