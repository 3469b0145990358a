/* clock.h -- monotonic time in nanoseconds. thread: any. blocks: no */
#ifndef RK_BASE_CLOCK_H
#define RK_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define RK__FOREVER INT64_MAX

static inline int64_t rk__now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A timeout (negative: for ever) as an absolute deadline; saturates. */
static inline int64_t rk__deadline(int64_t timeout)
{
    if (timeout < 0) {
        return RK__FOREVER;
    }
    int64_t now = rk__now();
    return timeout > RK__FOREVER - now ? RK__FOREVER : now + timeout;
}

/* What is left of a deadline as a timeout, -1 for ever, 0 when it has passed. */
static inline int64_t rk__remaining(int64_t deadline)
{
    if (deadline == RK__FOREVER) {
        return -1;
    }
    int64_t left = deadline - rk__now();
    return left > 0 ? left : 0;
}

/* Seconds to nanoseconds as Lua means them: nil is mapped by the caller, negative is for ever,
 * NaN counts as negative; saturates. To the nearest: 0.0003 is 300000, not what the product of two
 * doubles just below it would be cut to. */
static inline int64_t rk__seconds(double seconds)
{
    if (!(seconds >= 0)) {
        return -1;
    }
    return seconds >= 9.2e9 ? RK__FOREVER : (int64_t)(seconds * 1e9 + 0.5);
}

#endif
