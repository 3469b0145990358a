/*
 * park.c -- a single consumer sleeps on a ck_ec; any thread wakes it.
 *
 * Threads: rk__park_wait by the owner only; notify and kick by any thread, kick also by signal
 * handlers.
 *
 * No wake-up is lost. Waiter: W1 reads the event's value, W2 sets parked, W3 full fence,
 * W4 evaluates ready, W5 sleeps while the event still has the value of W1. Notifier: N1 publishes,
 * N2 full fence, N3 loads parked, N4 if set increments the event and wakes. W2..W4 and N1..N3 are
 * Dekker's pattern: with both fences, N3 reads it set or W4 sees what N1 published (or both). If N3
 * did, N4 comes after W2 and so after W1; the increment makes W5 return at once or is seen by
 * the futex, which compares the value under the kernel's lock. A wake without a reason only costs
 * another round from W1. `parked` is accessed with seq_cst so that TSan, which knows no
 * stand-alone fences, has the same picture.
 *
 * The event count is used with several producers, where CK sets its "has waiters" bit by an atomic
 * operation; the repeated time-outs it makes for the single-producer mode are not needed, and the
 * predicate pushes them out to the caller's deadline.
 */
#include "base/park.h"
#include "base/clock.h"
#include "base/topology.h"

#include <ck_pr.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
/* gcc says that TSan does not see the fences; the seq_cst accesses beside them are what it sees. */
#pragma GCC diagnostic ignored "-Wtsan"
#endif

static int gettime(const struct ck_ec_ops *ops, struct timespec *out)
{
    (void)ops;
    return clock_gettime(CLOCK_MONOTONIC, out);
}

/* Absolute deadline on CLOCK_MONOTONIC. A signal ends the wait early: CK then asks the predicate.
 */
static void wait32(const struct ck_ec_wait_state *state, const uint32_t *word, uint32_t expected,
                   const struct timespec *deadline)
{
    (void)state;
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected, deadline, NULL,
            FUTEX_BITSET_MATCH_ANY);
}

static void wake32(const struct ck_ec_ops *ops, const uint32_t *word)
{
    (void)ops;
    syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, NULL, NULL, 0);
}

/* The callers spin before they park, as long as it pays, so CK itself hardly spins. */
static const struct ck_ec_ops ops = {
    .gettime = gettime, .wait32 = wait32, .wake32 = wake32, .busy_loop_iter = 1};
static const struct ck_ec_mode mode = {.ops = &ops, .single_producer = false};

typedef struct waiting {
    bool (*ready)(void *arg);
    void *arg;
    struct timespec until;
} waiting;

void rk__park_init(rk__park *p)
{
    ck_ec32_init(&p->event, 0);
    __atomic_store_n(&p->parked, 0, __ATOMIC_SEQ_CST);
    p->cpu = -1;
    p->average = 0;
}

/* The owner counts as awake again from the moment somebody decides to wake it: whoever clears the
 * flag, waker or owner, counts it, so it is counted once. */
static void unpark(rk__park *p)
{
    uint32_t parked = __atomic_exchange_n(&p->parked, 0, __ATOMIC_SEQ_CST);
    if (parked != 0) {
        rk__cpu_awake_add((int)parked - 2, 1);
    }
}

void rk__park_kick(rk__park *p)
{
    int saved = errno;
    unpark(p);
    ck_ec32_inc(&p->event, &mode);
    errno = saved;
}

void rk__park_notify(rk__park *p)
{
    /* N2: pairs with the fence of rk__park_wait. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    /* N3: pairs with the exchange in rk__park_wait. */
    if (__atomic_load_n(&p->parked, __ATOMIC_SEQ_CST) != 0) {
        rk__park_kick(p);
    }
}

static int still_waiting(const struct ck_ec_wait_state *state, struct timespec *iteration)
{
    waiting *w = state->data;
    *iteration = w->until;
    return w->ready(w->arg) ? 1 : 0;
}

/* The largest time the kernel accepts stands for ever. */
static struct timespec as_timespec(int64_t deadline)
{
    int64_t t = deadline < 0 ? 0 : deadline;
    return (struct timespec){.tv_sec = t / 1000000000, .tv_nsec = t % 1000000000};
}

bool rk__park_wait(rk__park *p, bool (*ready)(void *arg), void *arg, int64_t deadline)
{
    waiting w = {ready, arg, as_timespec(deadline)};
    int result;
    do {
        uint32_t seen = ck_ec32_value(&p->event);
        /* W2 and W3: pair with N3 and N2 of rk__park_notify. */
        if (__atomic_exchange_n(&p->parked, (uint32_t)(p->cpu + 2), __ATOMIC_SEQ_CST) == 0) {
            rk__cpu_awake_add(p->cpu, -1);
        }
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (ready(arg)) {
            result = 1;
        } else if (deadline != RK__FOREVER && rk__now() >= deadline) {
            result = -1;
        } else {
            result = ck_ec32_wait_pred(&p->event, &mode, seen, still_waiting, &w, &w.until);
        }
    } while (result == 0);
    unpark(p);
    /* CK says -1 for a passed deadline without a last look, and mail may have come just then. */
    return result > 0 || ready(arg);
}

/* ---- spinning first ------------------------------------------------------------------------- */

enum {
    SPIN_LIMIT =
        200000,         /* ns: about two parked wake-ups, so that parked partners find each other */
    WAIT_CLIP = 400000, /* ns: a longer wait counts as this much */
    CLOCK_PERIOD = 64   /* polls between looks at the clock */
};

/* Of the thread that waits. */
static _Thread_local struct meanwhile {
    void (*poll)(void *arg);
    void *poll_arg;
    void (*resting)(void *arg);
    void *resting_arg;
} meanwhile;

void rk__park_meanwhile(void (*poll)(void *arg), void *poll_arg, void (*resting)(void *arg),
                        void *resting_arg)
{
    meanwhile = (struct meanwhile){poll, poll_arg, resting, resting_arg};
}

static bool alone_on_cpu(const rk__park *p)
{
    int cpu = p->cpu >= 0 ? p->cpu : sched_getcpu();
    return rk__cpu_awake(cpu) <= (cpu == p->cpu ? 1u : 0u);
}

/* *start is when the clock was first read; it stays 0 when the first polls were enough. */
static bool spin(rk__park *p, bool (*ready)(void *arg), void *arg, int64_t deadline, int64_t *start)
{
    int64_t now, limit = 0;
    if (p->average > SPIN_LIMIT) {
        return false;
    }
    do {
        if (!alone_on_cpu(p)) {
            return false;
        }
        for (int i = 0; i < CLOCK_PERIOD; i++) {
            if (ready(arg)) {
                return true;
            }
            if (meanwhile.poll != NULL) {
                meanwhile.poll(meanwhile.poll_arg);
            }
            ck_pr_stall();
        }
        now = rk__now();
        if (*start == 0) {
            *start = now;
            limit = deadline - now < SPIN_LIMIT ? deadline : now + SPIN_LIMIT;
        }
    } while (now < limit);
    return false;
}

bool rk__park_rest(rk__park *p, bool (*ready)(void *arg), void *arg, int64_t deadline)
{
    int64_t start = 0;
    bool woken = spin(p, ready, arg, deadline, &start);
    if (!woken) {
        start = start != 0 ? start : rk__now();
        if (meanwhile.resting != NULL) {
            meanwhile.resting(meanwhile.resting_arg);
        }
        woken = rk__park_wait(p, ready, arg, deadline);
    }
    int64_t waited = start != 0 ? rk__now() - start : 0;
    p->average += ((waited > WAIT_CLIP ? WAIT_CLIP : waited) - p->average) / 8;
    return woken;
}
