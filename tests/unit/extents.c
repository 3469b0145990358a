/*
 * extents.c -- taken parts of a reservation: no two overlap, gaps are found again, nothing is lost.
 */
#include "device/cuda/extents.h"

#include <criterion/criterion.h>
#include <stdlib.h>

enum { SIZE = 64 * RK__EXTENT_GRAIN };
static const uint64_t base = 0x10000;

Test(extents, first_fit_and_gaps)
{
    rk__extents e = {.base = base, .size = SIZE};
    uint64_t a = rk__extents_take(&e, 1), b = rk__extents_take(&e, 300);
    uint64_t c = rk__extents_take(&e, 0);
    cr_assert_eq(a, base);
    cr_assert_eq(b, base + RK__EXTENT_GRAIN);
    cr_assert_eq(c, base + 3 * RK__EXTENT_GRAIN);
    rk__extents_give(&e, b);
    cr_assert_eq(rk__extents_take(&e, 513), base + 4 * RK__EXTENT_GRAIN, "does not fit the gap");
    cr_assert_eq(rk__extents_take(&e, 512), b, "does");
    rk__extents_give(&e, 0);
    rk__extents_clear(&e);
    cr_assert_eq(e.taken, 0);
    cr_assert_eq(rk__extents_largest(&e), SIZE);
}

Test(extents, exhausted_and_whole_again)
{
    rk__extents e = {.base = base, .size = SIZE};
    cr_assert_eq(rk__extents_take(&e, SIZE + 1), 0);
    uint64_t all = rk__extents_take(&e, SIZE);
    cr_assert_eq(all, base);
    cr_assert_eq(rk__extents_take(&e, 1), 0);
    cr_assert_eq(rk__extents_largest(&e), 0);
    rk__extents_give(&e, all);
    cr_assert_eq(rk__extents_largest(&e), SIZE);
}

Test(extents, random_pieces_never_overlap)
{
    enum { PIECES = 40, STEPS = 20000 };
    rk__extents e = {.base = base, .size = SIZE};
    uint64_t at[PIECES] = {0}, size[PIECES] = {0}, sum = 0;
    srand(7);
    for (int step = 0; step < STEPS; step++) {
        int i = rand() % PIECES;
        if (at[i] != 0) {
            rk__extents_give(&e, at[i]);
            sum -= size[i];
            at[i] = 0;
            continue;
        }
        uint64_t wanted = (uint64_t)(1 + rand() % 8) * RK__EXTENT_GRAIN;
        uint64_t largest = rk__extents_largest(&e);
        at[i] = rk__extents_take(&e, wanted);
        cr_assert_eq(at[i] != 0, largest >= wanted);
        size[i] = wanted;
        sum += at[i] != 0 ? wanted : 0;
        cr_assert_eq(e.taken, sum);
        for (int j = 0; j < PIECES && at[i] != 0; j++) {
            cr_assert(j == i || at[j] == 0 || at[i] + wanted <= at[j] || at[j] + size[j] <= at[i]);
        }
    }
    rk__extents_clear(&e);
}
