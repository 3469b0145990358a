/*
 * timer.c -- the timing wheels against a plain array, the rules of periods and ids, and what happens
 * without memory. The code under test is included, so that its allocations can be made to fail.
 */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static bool fail_slots;
static size_t wheels_at_most = SIZE_MAX; /* a larger array of wheels cannot be had */
static unsigned allocations;

static bool is_too_many_wheels(size_t size);

static void *test_realloc(void *block, size_t size)
{
    allocations++;
    return fail_slots || is_too_many_wheels(size) ? NULL : realloc(block, size);
}
#define realloc test_realloc
#include "actor/timer.c"
#undef realloc

/* No number of slots, doubled from four, is as large as some number of wheels. */
static bool is_too_many_wheels(size_t size)
{
    return size % sizeof(timer_wheel) == 0 && size / sizeof(timer_wheel) > wheels_at_most;
}

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

Test(timer, equal_deadlines_keep_the_order_of_adding_however_far_away)
{
    enum { N = 200, PERIODIC = 3 };
    rk__timers t = RK__TIMERS_INIT;
    void *got;
    int64_t deadline = INT64_C(86400000000000) * 30;
    /* Older than all others, they come back before them each time. */
    for (int i = 0; i < PERIODIC; i++) {
        cr_assert(rk__timers_add(&t, deadline - 10, 10, &data[i]));
    }
    for (int i = PERIODIC; i < N; i++) {
        cr_assert(rk__timers_add(&t, deadline, 0, &data[i]));
    }
    for (int i = 0; i < PERIODIC; i++) {
        cr_assert(rk__timers_pop(&t, deadline - 1, &got));
        cr_assert_eq(got, &data[i]);
    }
    cr_assert_eq(rk__timers_next(&t), deadline);
    for (int i = 0; i < N; i++) {
        cr_assert(rk__timers_pop(&t, deadline, &got));
        cr_assert_eq(got, &data[i], "position %d", i);
    }
    cr_assert_not(rk__timers_pop(&t, deadline, &got));
    cr_assert_eq(t.count, PERIODIC);
    rk__timers_free(&t);
}

Test(timer, the_ends_of_the_clock)
{
    rk__timers t = RK__TIMERS_INIT;
    void *got;
    const int64_t deadlines[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX - 1};
    enum { N = sizeof deadlines / sizeof *deadlines };
    for (int i = N; i-- > 0;) {
        cr_assert(rk__timers_add(&t, deadlines[i], 0, &data[i]));
    }
    rk__timer_id never = rk__timers_add(&t, RK__FOREVER, 0, &data[N]);
    for (int i = 0; i < N; i++) {
        cr_assert_eq(rk__timers_next(&t), deadlines[i]);
        cr_assert(rk__timers_pop(&t, deadlines[i], &got));
        cr_assert_eq(got, &data[i]);
    }
    cr_assert_eq(rk__timers_next(&t), RK__FOREVER);
    cr_assert_not(rk__timers_pop(&t, RK__FOREVER, &got), "for ever has no end");
    cr_assert(rk__timers_cancel(&t, never));
    /* A grid that leaves the clock behind. */
    rk__timer_id id = rk__timers_add(&t, INT64_MIN, INT64_MAX, &data[0]);
    cr_assert(rk__timers_pop(&t, INT64_MAX - 2, &got));
    cr_assert_eq(rk__timers_next(&t), INT64_MAX - 1, "INT64_MIN + 2 * INT64_MAX is -2 + 2^63");
    cr_assert(rk__timers_pop(&t, INT64_MAX - 1, &got));
    cr_assert_eq(rk__timers_next(&t), RK__FOREVER);
    cr_assert_not(rk__timers_pop(&t, RK__FOREVER, &got));
    cr_assert(rk__timers_cancel(&t, id));
    rk__timers_free(&t);
}

Test(timer, tells_when_a_timer_is_due)
{
    rk__timers t = RK__TIMERS_INIT;
    void *got;
    int64_t due = 77;
    cr_assert_not(rk__timers_due(&t, 0, &due));
    rk__timer_id once = rk__timers_add(&t, 5, 0, &data[0]);
    rk__timer_id often = rk__timers_add(&t, 6, 4, &data[1]);
    cr_assert(rk__timers_due(&t, once, &due));
    cr_assert_eq(due, 5);
    cr_assert(rk__timers_pop(&t, 7, &got));
    cr_assert(rk__timers_pop(&t, 7, &got));
    due = 77;
    cr_assert_not(rk__timers_due(&t, once, &due));
    cr_assert_eq(due, 77, "left alone");
    cr_assert(rk__timers_due(&t, often, &due));
    cr_assert_eq(due, 10);
    rk__timers_free(&t);
}

Test(timer, costs_nothing_before_the_first_and_little_for_one)
{
    rk__timers t = RK__TIMERS_INIT;
    void *got;
    allocations = 0;
    cr_assert_eq(rk__timers_next(&t), RK__FOREVER);
    cr_assert_not(rk__timers_pop(&t, 1, &got));
    cr_assert_not(rk__timers_cancel(&t, 1));
    cr_assert_eq(allocations, 0);
    for (int64_t i = 1; i < 100; i++) {
        cr_assert(rk__timers_add(&t, i * 1000003, 0, &data[0]));
        cr_assert_eq(rk__timers_next(&t), i * 1000003);
        cr_assert(rk__timers_pop(&t, i * 1000003, &got));
    }
    cr_assert_eq(allocations, 1, "four slots, no wheel");
    rk__timers_free(&t);
}

/* ---- against a plain array ---- */

/* The model: every timer in an array that is searched from end to end. */
enum { N = 600 };

typedef struct model_timer {
    rk__timer_id id; /* 0: unused */
    int64_t deadline, period;
    uint64_t order;
} model_timer;

typedef struct model {
    rk__timers t;
    model_timer timers[N];
    uint64_t added;
    uint32_t count;
    uint64_t random;
    int64_t now;
} model;

static uint64_t draw(model *m, uint64_t below)
{
    m->random = m->random * 6364136223846793005u + 1442695040888963407u;
    return (m->random >> 33 | (m->random << 31 & ~(UINT64_MAX >> 1))) % below;
}

/* Any size of number is as likely as any other. */
static int64_t draw_span(model *m)
{
    uint64_t bits = draw(m, 63);
    return (int64_t)(draw(m, UINT64_C(1) << 31) << 32 | draw(m, UINT64_C(1) << 32)) >> bits;
}

static int64_t plus(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (b < 0 ? INT64_MIN : RK__FOREVER) : sum;
}

static int model_first(const model *m)
{
    int best = -1;
    for (int i = 0; i < N; i++) {
        const model_timer *x = &m->timers[i], *y = &m->timers[best < 0 ? 0 : best];
        if (x->id && (best < 0 || x->deadline < y->deadline ||
                      (x->deadline == y->deadline && x->order < y->order))) {
            best = i;
        }
    }
    return best;
}

static int64_t draw_deadline(model *m)
{
    switch (draw(m, 16)) {
    case 0: /* the very same as another one */
        return m->timers[draw(m, N)].deadline;
    case 1: /* long past */
        return plus(m->now, -draw_span(m));
    case 2:
        return draw(m, 2) ? RK__FOREVER : RK__FOREVER - 1 - (int64_t)draw(m, 3);
    case 3:
        return INT64_MIN + (int64_t)draw(m, 3);
    case 4:
    case 5: /* any distance */
        return plus(m->now, draw_span(m));
    case 6:
    case 7: /* many close together, some way off */
        return plus(m->now | 0xfffffff, (int64_t)draw(m, 100));
    default: /* as timers are: up to 4 ms */
        return plus(m->now, (int64_t)draw(m, 4000000));
    }
}

static void model_toggle(model *m, int i)
{
    model_timer *x = &m->timers[i];
    if (x->id) {
        cr_assert(rk__timers_cancel(&m->t, x->id));
        cr_assert_not(rk__timers_cancel(&m->t, x->id));
        x->id = 0;
        m->count--;
        return;
    }
    int64_t period = draw(m, 8) == 0 ? 1 + draw_span(m) / 2 : 0;
    *x = (model_timer){0, draw_deadline(m), period, m->added++};
    x->id = rk__timers_add(&m->t, x->deadline, period, &data[i]);
    cr_assert(x->id);
    m->count++;
}

static void model_tick(model *m, int i)
{
    model_timer *x = &m->timers[i];
    if (x->period == 0) {
        x->id = 0;
        m->count--;
        return;
    }
    __int128 missed = ((__int128)m->now - x->deadline) / x->period;
    __int128 next = x->deadline + (missed + 1) * x->period;
    x->deadline = next < RK__FOREVER ? (int64_t)next : RK__FOREVER;
}

static void model_pop_all(model *m)
{
    void *got;
    for (;;) {
        int first = model_first(m);
        int64_t next = first < 0 ? RK__FOREVER : m->timers[first].deadline, due;
        cr_assert_eq(rk__timers_next(&m->t), next);
        bool expected = next <= m->now && next != RK__FOREVER;
        cr_assert_eq(rk__timers_pop(&m->t, m->now, &got), expected);
        if (!expected) {
            return;
        }
        cr_assert_eq(got, &data[first], "timer %td, not %d", (int *)got - data, first);
        rk__timer_id id = m->timers[first].id;
        model_tick(m, first);
        cr_assert_eq(rk__timers_due(&m->t, id, &due), m->timers[first].id != 0);
        cr_assert(!m->timers[first].id || due == m->timers[first].deadline);
    }
}

/* What timer.c says of its wheels; gives how many there are from this one on. */
static uint32_t check_wheel(const rk__timers *t, uint32_t number, uint32_t place)
{
    const timer_wheel *w = &t->wheels[number];
    uint32_t wheels = 0, lists = 0;
    cr_assert_eq(w->place, place);
    for (uint32_t i = 0; i < PLACES; i++) {
        uint32_t link = w->links[i], here = number * PLACES + i;
        cr_assert_eq(link != NOTHING, w->used >> i & 1);
        if (is_wheel(link)) {
            cr_assert_lt(t->wheels[link & ~WHEEL].level, w->level);
            wheels += check_wheel(t, link & ~WHEEL, here);
        } else if (link != NOTHING) {
            cr_assert_eq(t->slots[link].place, here);
            cr_assert_eq(digit(key_of(t, link), w->level), i);
            lists++;
        }
    }
    cr_assert(lists > 0 || (w->used & (w->used - 1)), "a wheel that nobody needs");
    return wheels + 1;
}

static uint32_t unused_wheels(const rk__timers *t)
{
    uint32_t wheels = 0;
    for (uint32_t i = t->free_wheel; i != NOTHING; i = t->wheels[i].place) {
        wheels++;
    }
    return wheels;
}

static void check_wheels(const rk__timers *t)
{
    uint32_t wheels = is_wheel(t->root) ? check_wheel(t, t->root & ~WHEEL, ROOT) : 0;
    cr_assert_leq(wheels, 2 * t->count);
    cr_assert_eq(wheels + unused_wheels(t), t->wheel_capacity);
}

static void model_run(model *m, int steps, uint64_t most_at_once)
{
    for (int step = 0; step < steps; step++) {
        for (uint64_t k = draw(m, most_at_once) + 1; k > 0; k--) {
            model_toggle(m, (int)draw(m, N));
        }
        cr_assert_eq(m->t.count, m->count);
        if (draw(m, 4) == 0) { /* the earliest, whose successor must be found */
            int first = model_first(m);
            if (first >= 0) {
                model_toggle(m, first);
            }
        }
        if (draw(m, 3) == 0) {
            bool jump = draw(m, 200) == 0;
            m->now = plus(m->now, jump ? draw_span(m) : (int64_t)draw(m, 20000));
            m->now = m->now == RK__FOREVER ? 0 : m->now; /* back: a wheel has no hand */
        }
        model_pop_all(m);
        if (step % 16 == 0) {
            check_wheels(&m->t);
        }
    }
}

static void model_end(model *m)
{
    for (int i = 0; i < N; i++) {
        cr_assert_eq(rk__timers_cancel(&m->t, m->timers[i].id), m->timers[i].id != 0);
    }
    cr_assert_eq(rk__timers_next(&m->t), RK__FOREVER);
    check_wheels(&m->t);
    cr_assert_eq(m->t.root, NOTHING);
    cr_assert_eq(m->t.aside, NOTHING);
    rk__timers_free(&m->t);
}

static uint64_t chosen_seed(void)
{
    const char *text = getenv("SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : (uint64_t)rk__now();
    fprintf(stderr, "timer: SEED=%" PRIu64 "\n", seed);
    return seed;
}

static void agrees(uint64_t seed, int steps, uint64_t most_at_once, size_t wheels)
{
    model *m = calloc(1, sizeof *m);
    cr_assert(m);
    *m = (model){.t = RK__TIMERS_INIT, .random = seed, .now = (int64_t)(seed % 100000)};
    wheels_at_most = wheels;
    model_run(m, steps, most_at_once);
    model_end(m);
    wheels_at_most = SIZE_MAX;
    free(m);
}

Test(timer, agrees_with_a_plain_array)
{
    uint64_t seed = chosen_seed();
    agrees(7, 6000, 1, SIZE_MAX);
    agrees(seed, 6000, 1, SIZE_MAX);
    agrees(seed + 1, 2000, 8, SIZE_MAX);
    agrees(seed + 2, 300, N, SIZE_MAX);
}

/* ---- out of memory ---- */

Test(timer, without_memory_for_wheels_all_fire_in_order)
{
    uint64_t seed = chosen_seed();
    for (size_t wheels = 0; wheels <= 16; wheels = wheels ? wheels * 2 : 1) {
        agrees(seed + wheels, 1000, 8, wheels);
    }
}

Test(timer, without_memory_for_slots_adding_fails_and_changes_nothing)
{
    rk__timers t = RK__TIMERS_INIT;
    void *got;
    fail_slots = true;
    cr_assert_eq(rk__timers_add(&t, 1, 0, &data[0]), 0);
    cr_assert_eq(rk__timers_next(&t), RK__FOREVER);
    fail_slots = false;
    uint32_t set = 0;
    for (; set < 64; set++) {
        cr_assert(rk__timers_add(&t, 100 - (int64_t)set, 0, &data[set]));
    }
    cr_assert_eq(t.capacity, set, "all slots are in use");
    fail_slots = true;
    cr_assert_eq(rk__timers_add(&t, 1, 0, &data[999]), 0);
    cr_assert_eq(t.count, set);
    cr_assert_eq(rk__timers_next(&t), 100 - (int64_t)set + 1);
    while (set-- > 0) {
        cr_assert(rk__timers_pop(&t, 100, &got));
        cr_assert_eq(got, &data[set]);
    }
    cr_assert(rk__timers_add(&t, 1, 0, &data[0]), "a slot that is free needs no memory");
    fail_slots = false;
    rk__timers_free(&t);
}
