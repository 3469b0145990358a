/*
 * park.h -- how a single consumer waits: spinning, then parked on a ck_ec (futex event count).
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
    uint32_t parked; /* the owner's cpu + 2, cleared by the first waker or the owner; 0: awake */
    int32_t cpu;     /* where the owner is pinned, -1: nowhere; set by the owner */
    int64_t average; /* ns, of recent waits; owner only */
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
/* The same, but spins first while that promises to be shorter than being woken.
 *
 * A parked wake-up across cores costs tens of microseconds on a virtual machine, a spinning one
 * well under one; but spinning on a core that somebody else wants only delays the thread that would
 * bring the news. So a wait spins only while no other thread of ours is awake on this cpu and
 * recent waits were short; their average forgets slowly enough that one idle second does not end a
 * fast exchange, and fast enough that a periodic visitor stops burning the core after a few waits.
 */
bool rk__park_rest(rk__park *p, bool (*ready)(void *arg), void *arg, int64_t deadline);

/* What this thread does while it waits in rk__park_rest, for a device that cannot wake anybody: poll
 * between looks while it spins, resting when it is about to sleep. Replaces what was set before;
 * poll NULL: nothing. Both must stay callable with their arguments for the life of the process. */
void rk__park_meanwhile(void (*poll)(void *arg), void *poll_arg, void (*resting)(void *arg),
                        void *resting_arg);

#endif
