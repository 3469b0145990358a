/*
 * visit.h -- a try-lock whose visitors leave a mark.
 *
 * FREE, HELD, or HELD with a visitor's mark. A visitor who cannot have the lock exchanges the mark
 * into it and goes; the holder lets go by compare-and-swap from HELD, which fails when there is a
 * mark: it takes the mark out and makes another round. All of these are read-modify-writes of one
 * word, so the holder's exchange reads the visitor's (or a later one in its release sequence): what
 * the visitor published before is seen by the extra round. Nothing stays behind, nobody waits.
 */
#ifndef RK_DEVICE_VISIT_H
#define RK_DEVICE_VISIT_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

enum { RK__FREE, RK__HELD, RK__VISITED };

/* True: the lock is ours. False: the holder will make a round for us. */
static inline bool rk__visit_enter(uint32_t *lock)
{
    uint32_t expected = RK__FREE;
    /* Acquire: with the release of the last holder in leave. */
    if (__atomic_compare_exchange_n(lock, &expected, RK__HELD, false, __ATOMIC_ACQUIRE,
                                    __ATOMIC_RELAXED)) {
        return true;
    }
    /* Release: what we published, for the holder's exchange in leave. Acquire: we may have got it.
     */
    return __atomic_exchange_n(lock, RK__VISITED, __ATOMIC_ACQ_REL) == RK__FREE;
}

/* The same without leaving a mark. */
static inline bool rk__visit_try(uint32_t *lock)
{
    uint32_t expected = RK__FREE;
    /* Acquire: as in enter. */
    return __atomic_compare_exchange_n(lock, &expected, RK__HELD, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

/* False: somebody came; the lock is still held and another round is due. */
static inline bool rk__visit_leave(uint32_t *lock)
{
    uint32_t expected = RK__HELD;
    /* Release: with the acquire of the next holder in enter. */
    if (__atomic_compare_exchange_n(lock, &expected, RK__FREE, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED)) {
        return true;
    }
    /* Acquire: with the visitor's exchange in enter. */
    __atomic_exchange_n(lock, RK__HELD, __ATOMIC_ACQUIRE);
    return false;
}

/* The only one that waits: a holder's round is short, and this happens once, at the end. */
static inline void rk__visit_seize(uint32_t *lock)
{
    while (!rk__visit_try(lock)) {
        sched_yield();
    }
}

#endif
