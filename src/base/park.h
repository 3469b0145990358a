/*
 * park.h -- parking a single consumer on a ck_ec (futex event count).
 *
 * Protocol (Dekker): the producer publishes its item, runs a full fence, then looks at `parked`;
 * the consumer sets `parked`, runs a full fence, looks for items once more, then sleeps. So either
 * the producer sees `parked` and wakes, or the consumer sees the item.
 */
#ifndef RK_BASE_PARK_H
#define RK_BASE_PARK_H

#include <ck_ec.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct rk__park {
    struct ck_ec32 event; /* written by wakers */
    uint32_t parked;      /* written by the owner */
} rk__park;

void rk__park_init(rk__park *p);
/* Any thread, after publishing. Contains the full fence; cheap when the owner is awake. */
void rk__park_notify(rk__park *p);
/* Wakes whether or not the owner looks parked; async-signal-safe. */
void rk__park_kick(rk__park *p);
/* Owner only: sleeps until a notify/kick after `ready` was last false, or the deadline (rk__now
 * clock, RK__FOREVER). `ready(arg)` is evaluated between setting `parked` and sleeping, and again
 * after each wake or signal. True: ready said so; false: the deadline passed. */
bool rk__park_wait(rk__park *p, bool (*ready)(void *arg), void *arg, int64_t deadline);

#endif
