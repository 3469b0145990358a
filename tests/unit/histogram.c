/* Unit tests of src/telemetry/histogram.c. */
#include "telemetry/histogram.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static rk__histogram h;

Test(histogram, small_values_are_exact)
{
    for (int64_t v = 1; v <= 31; v++) {
        rk__histogram_add(&h, v);
    }
    cr_assert_eq(h.count, 31);
    cr_assert_eq(rk__histogram_quantile(&h, 0), 1);
    cr_assert_eq(rk__histogram_quantile(&h, 0.5), 16);
    cr_assert_eq(rk__histogram_quantile(&h, 1), 31);
    cr_assert_eq(rk__histogram_quantile(&h, 7), 31);
    cr_assert_float_eq(rk__histogram_mean(&h), 16, 1e-12);
    cr_assert(h.min == 1 && h.max == 31);
}

Test(histogram, empty_and_negative)
{
    cr_assert_eq(rk__histogram_quantile(&h, 0.5), 0);
    cr_assert_eq(rk__histogram_mean(&h), 0);
    rk__histogram_add(&h, -5);
    cr_assert(h.count == 1 && h.min == 0 && h.max == 0 && h.buckets[0] == 1);
    rk__histogram_add(&h, 100);
    rk__histogram_reset(&h);
    cr_assert_eq(h.count, 0);
    rk__histogram_add(&h, 9);
    cr_assert(h.min == 9 && h.max == 9, "the old extremes are forgotten");
    cr_assert_eq(rk__histogram_quantile(&h, 1), 9);
}

/* Each value alone in its bucket below a huge one: the median is the upper edge of its bucket. */
Test(histogram, relative_error_is_at_most_one_32nd)
{
    for (int shift = 0; shift < 63; shift++) {
        for (int k = 0; k < 70; k++) {
            int64_t v = (INT64_C(1) << shift) + (INT64_C(1) << shift) / 70 * k;
            rk__histogram_reset(&h);
            rk__histogram_add(&h, v);
            rk__histogram_add(&h, INT64_MAX);
            int64_t q = rk__histogram_quantile(&h, 0.5);
            cr_assert_geq(q, v);
            cr_assert_leq(q - v, v / 32, "%ld for %ld", (long)q, (long)v);
        }
    }
    cr_assert_eq(rk__histogram_quantile(&h, 1), INT64_MAX);
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

Test(histogram, quantiles_agree_with_sorting)
{
    enum { N = 20000 };
    static int64_t values[N];
    srand(7);
    for (int i = 0; i < N; i++) {
        values[i] = (int64_t)rand() << rand() % 20;
        rk__histogram_add(&h, values[i]);
    }
    qsort(values, N, sizeof *values, compare);
    const double qs[] = {0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999};
    for (size_t i = 0; i < sizeof qs / sizeof *qs; i++) {
        int64_t exact = values[(int)(qs[i] * N + 0.5) - 1], got = rk__histogram_quantile(&h, qs[i]);
        cr_assert(got >= exact && got <= exact + exact / 32, "q %g: %ld, exact %ld", qs[i],
                  (long)got, (long)exact);
    }
    cr_assert_eq(rk__histogram_quantile(&h, 1), values[N - 1]);
    cr_assert_eq(h.min, (uint64_t)values[0]);
}

Test(histogram, merge_equals_adding_all)
{
    static rk__histogram a, b;
    for (int64_t v = 1; v < 5000; v++) {
        rk__histogram_add(v % 3 ? &a : &b, v * v);
        rk__histogram_add(&h, v * v);
    }
    static rk__histogram sum, none;
    rk__histogram_merge(&sum, &a);
    rk__histogram_merge(&sum, &none);
    rk__histogram_merge(&sum, &b);
    cr_assert_eq(memcmp(&sum, &h, sizeof h), 0);
}

Test(histogram, sum_saturates)
{
    for (int i = 0; i < 3; i++) {
        rk__histogram_add(&h, INT64_MAX);
    }
    cr_assert_eq(h.sum, UINT64_MAX);
    cr_assert_eq(h.count, 3);
}
