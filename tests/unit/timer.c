/* timer.c -- the heap of deadlines against a sorted array, and the rules of periods and ids. */
#include "actor/timer.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static int data[1000];

Test(timer, fires_by_deadline_then_by_order_of_adding)
{
    rk__timers t = RK__TIMERS_INIT;
    void *got;
    cr_assert_eq(rk__timers_next(&t), RK__FOREVER);
    cr_assert_not(rk__timers_pop(&t, RK__FOREVER, &got), "an empty heap has nothing, ever");
    rk__timers_add(&t, 30, 0, &data[3]);
    rk__timers_add(&t, 10, 0, &data[1]);
    rk__timers_add(&t, 20, 0, &data[20]);
    rk__timers_add(&t, 20, 0, &data[21]);
    rk__timers_add(&t, 20, 0, &data[22]);
    cr_assert_eq(rk__timers_next(&t), 10);
    cr_assert_not(rk__timers_pop(&t, 9, &got), "not before its time");
    int *expected[] = {&data[1], &data[20], &data[21], &data[22], &data[3]};
    for (int i = 0; i < 5; i++) {
        cr_assert(rk__timers_pop(&t, 30, &got));
        cr_assert_eq(got, expected[i], "position %d", i);
    }
    cr_assert_not(rk__timers_pop(&t, 30, &got));
    rk__timers_free(&t);
}

Test(timer, a_stale_id_cancels_nothing)
{
    rk__timers t = RK__TIMERS_INIT;
    void *got;
    rk__timer_id first = rk__timers_add(&t, 1, 0, &data[0]);
    cr_assert(rk__timers_pop(&t, 1, &got));
    rk__timer_id second = rk__timers_add(&t, 2, 0, &data[1]);
    cr_assert_neq(first, second);
    cr_assert_not(rk__timers_cancel(&t, first), "it fired; its slot is somebody else's now");
    cr_assert_eq(t.count, 1);
    cr_assert(rk__timers_cancel(&t, second));
    cr_assert_not(rk__timers_cancel(&t, second));
    cr_assert_not(rk__timers_cancel(&t, 0));
    cr_assert_eq(rk__timers_next(&t), RK__FOREVER);
    rk__timers_free(&t);
}

Test(timer, a_period_keeps_its_grid)
{
    rk__timers t = RK__TIMERS_INIT;
    void *got;
    rk__timer_id id = rk__timers_add(&t, 100, 10, &data[0]);
    cr_assert(rk__timers_pop(&t, 103, &got));
    cr_assert_eq(rk__timers_next(&t), 110, "late by 3, yet the next tick is on the grid");
    cr_assert_not(rk__timers_pop(&t, 103, &got));
    cr_assert(rk__timers_pop(&t, 145, &got), "four ticks late: one call");
    cr_assert_eq(rk__timers_next(&t), 150);
    cr_assert(rk__timers_pop(&t, 150, &got));
    cr_assert_eq(rk__timers_next(&t), 160);
    cr_assert(rk__timers_cancel(&t, id), "the id of a periodic timer stays good");
    cr_assert_eq(t.count, 0);
    rk__timers_free(&t);
}

/* Random adds, cancels and pops beside a plain array that is searched from end to end. */
Test(timer, agrees_with_a_plain_array)
{
    enum { N = 1000, STEPS = 20000 };
    rk__timers t = RK__TIMERS_INIT;
    rk__timer_id ids[N] = {0};
    int64_t deadlines[N], now = 0;
    uint64_t order[N], added = 0;
    srand(7);
    for (int step = 0; step < STEPS; step++) {
        int i = rand() % N;
        if (ids[i]) {
            cr_assert(rk__timers_cancel(&t, ids[i]));
            ids[i] = 0;
        } else {
            deadlines[i] = now + rand() % 500;
            order[i] = added++;
            ids[i] = rk__timers_add(&t, deadlines[i], 0, &data[i]);
        }
        now += rand() % 3;
        void *got;
        while (rk__timers_pop(&t, now, &got)) {
            int best = -1;
            for (int k = 0; k < N; k++) {
                if (ids[k] && (best < 0 || deadlines[k] < deadlines[best] ||
                               (deadlines[k] == deadlines[best] && order[k] < order[best]))) {
                    best = k;
                }
            }
            cr_assert_eq(got, &data[best]);
            cr_assert(deadlines[best] <= now);
            ids[best] = 0;
        }
    }
    rk__timers_free(&t);
}
