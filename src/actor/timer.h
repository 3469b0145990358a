/*
 * timer.h -- the timers of one thread: a binary heap over slots that stay where they are.
 *
 * add and cancel are O(log n), looking at the nearest deadline is O(1). An id names a slot and its
 * generation, so cancelling a timer that has fired is an answer (false), never somebody else's
 * timer. thread: owner only. blocks: no
 */
#ifndef RK_ACTOR_TIMER_H
#define RK_ACTOR_TIMER_H

#include <stdbool.h>
#include <stdint.h>
#include "base/clock.h"

typedef uint64_t rk__timer_id; /* 0: none */

typedef struct rk__timers {
    struct rk__timer_slot *slots;
    uint32_t *heap;     /* slot numbers, nearest deadline first */
    uint32_t count;     /* timers that wait */
    uint32_t capacity;  /* of both arrays */
    uint32_t free_slot; /* head of the list of unused slots; UINT32_MAX: none */
    uint64_t order;     /* numbers the timers: equal deadlines fire in the order of adding */
} rk__timers;

#define RK__TIMERS_INIT                                                                            \
    {                                                                                              \
        NULL, NULL, 0, 0, UINT32_MAX, 0                                                            \
    }

void rk__timers_free(rk__timers *t);
/* A timer at `deadline` (rk__now clock), again every `period` ns when that is above 0. 0: out of
 * memory. */
rk__timer_id rk__timers_add(rk__timers *t, int64_t deadline, int64_t period, void *data);
/* False: it fired already (and has no period), or was cancelled. */
bool rk__timers_cancel(rk__timers *t, rk__timer_id id);
/* The nearest deadline; RK__FOREVER when there is none. */
int64_t rk__timers_next(const rk__timers *t);
/* Takes one timer whose deadline is not after `now`, nearest first, and tells its data. One with a
 * period is set again to the first point of its own grid (first deadline + k * period) after now:
 * it does not drift, and ticks that were missed altogether are left out. */
bool rk__timers_pop(rk__timers *t, int64_t now, void **data);

#endif
