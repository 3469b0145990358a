/*
 * timer.h -- the timers of one thread: hierarchical timing wheels over slots that stay where they
 * are.
 *
 * add and cancel are O(1), looking at the nearest deadline is O(1) on average (timer.c has the
 * argument). An id names a slot and its generation, so cancelling a timer that has fired is an
 * answer (false), never somebody else's timer. Deadlines may be anything, the past included;
 * RK__FOREVER is never reached: such a timer waits until it is cancelled. Nothing is allocated
 * before the first timer. thread: owner only. blocks: no
 */
#ifndef RK_ACTOR_TIMER_H
#define RK_ACTOR_TIMER_H

#include <stdbool.h>
#include <stdint.h>
#include "base/clock.h"

typedef uint64_t rk__timer_id; /* 0: none */

typedef struct rk__timers {
    struct rk__timer_slot *slots;
    struct rk__timer_wheel *wheels;
    uint64_t order;                    /* numbers the timers in the order of adding */
    uint32_t count;                    /* timers that wait */
    uint32_t capacity, wheel_capacity; /* of both arrays */
    uint32_t free_slot, free_wheel;    /* heads of the lists of unused ones; UINT32_MAX: none */
    uint32_t root;                     /* the outermost wheel, or one short list */
    uint32_t aside;                    /* a list of those for whom no wheel could be had */
    uint32_t first;                    /* the nearest timer; UINT32_MAX: not known */
} rk__timers;

#define RK__TIMERS_INIT                                                                            \
    {                                                                                              \
        NULL, NULL, 0, 0, 0, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX         \
    }

/* Forgets every timer and frees what they needed; t is as after RK__TIMERS_INIT. */
void rk__timers_free(rk__timers *t);
/* A timer at `deadline` (rk__now clock), again every `period` ns when that is above 0. `data` is
 * borrowed while the timer is set. 0: out of memory. */
rk__timer_id rk__timers_add(rk__timers *t, int64_t deadline, int64_t period, void *data);
/* False: it fired already (and has no period), or was cancelled. */
bool rk__timers_cancel(rk__timers *t, rk__timer_id id);
/* When the timer fires next. False: as for cancel; *deadline is left alone then. */
bool rk__timers_due(const rk__timers *t, rk__timer_id id, int64_t *deadline);
/* The nearest deadline, exactly; RK__FOREVER when there is none. */
int64_t rk__timers_next(rk__timers *t);
/* Takes one timer whose deadline is not after `now`, and tells its data: nearest deadline first,
 * equal ones in the order of adding. One with a period is set again to the first point of its own
 * grid (first deadline + k * period) after now: it does not drift, ticks that were missed
 * altogether are left out, and it keeps its place among equal deadlines. It needs no memory. */
bool rk__timers_pop(rk__timers *t, int64_t now, void **data);

#endif
