/*
 * timers.c -- timing wheels beside a binary heap, with 10, 1000 and 100000 timers that wait.
 *
 * A step takes one timer away, sets another, and asks for the nearest deadline, as a scheduler does
 * before it parks. Three ways of taking: `cancel` any one of them (timeouts of any length, calls
 * that are answered in any order), `answer` the oldest (equal timeouts, answered in order: always
 * the nearest is cancelled), `expire` the nearest (sleeps). Time is virtual, so that nothing is
 * measured but the structure. Slices of both take turns, and both must say the same.
 *
 * Threads: main on the first cpu.
 */
#include "actor/timer.h"
#include "bench.h"
#include "heap.h"

enum { SLICES = 5, BATCH = 256 };
#define SPAN INT64_C(5000000000) /* a timer is set at most so far ahead, ns */

typedef struct subject {
    bool is_heap;
    rk__timers wheels;
    heap heap;
    uint64_t *ids;
    uint32_t count, oldest; /* timers; the oldest of a ring of them, for `answer` */
    uint64_t random, sum;
    int64_t now;
} subject;

static uint64_t draw(subject *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

static void add(subject *s, uint32_t i, int64_t deadline)
{
    s->ids[i] = s->is_heap ? heap_add(&s->heap, deadline, &s->ids[i])
                           : rk__timers_add(&s->wheels, deadline, 0, &s->ids[i]);
}

static void cancel(subject *s, uint32_t i)
{
    if (s->is_heap) {
        heap_cancel(&s->heap, s->ids[i]);
    } else if (!rk__timers_cancel(&s->wheels, s->ids[i])) {
        bench_die("timers: a timer was not there");
    }
}

static int64_t next(subject *s)
{
    return s->is_heap ? heap_next(&s->heap) : rk__timers_next(&s->wheels);
}

static uint32_t expire(subject *s)
{
    void *data;
    s->now = next(s);
    if (s->is_heap) {
        data = heap_pop(&s->heap);
    } else if (!rk__timers_pop(&s->wheels, s->now, &data)) {
        bench_die("timers: the nearest one is not due at its deadline");
    }
    return (uint32_t)((uint64_t *)data - s->ids);
}

static void step_cancel(subject *s)
{
    uint32_t i = (uint32_t)(draw(s) % s->count);
    cancel(s, i);
    add(s, i, s->now + (int64_t)(draw(s) % SPAN));
}

static void step_answer(subject *s)
{
    uint32_t i = s->oldest++ % s->count;
    s->now += SPAN / 2 / s->count;
    cancel(s, i);
    add(s, i, s->now + SPAN);
}

static void step_expire(subject *s)
{
    uint32_t i = expire(s);
    add(s, i, s->now + (int64_t)(draw(s) % SPAN));
}

static void open_subject(subject *s, bool is_heap, uint32_t count, bool in_order)
{
    *s = (subject){.is_heap = is_heap, .wheels = RK__TIMERS_INIT, .count = count};
    s->random = 88172645463325252u;
    s->ids = calloc(count, sizeof *s->ids);
    if (!s->ids || (is_heap && !heap_open(&s->heap, count + 1))) {
        bench_die("timers: out of memory");
    }
    for (uint32_t i = 0; i < count; i++) {
        s->now += in_order ? SPAN / 2 / count : 0;
        add(s, i, s->now + (in_order ? SPAN : (int64_t)(draw(s) % SPAN)));
    }
}

static void close_subject(subject *s)
{
    rk__timers_free(&s->wheels);
    heap_close(&s->heap);
    free(s->ids);
}

/* What this thread itself has run: others on the cpu would be counted in whoever runs longer. */
static int64_t ran(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Gives ns per step. */
static double slice(subject *s, void (*step)(subject *), uint64_t batches)
{
    int64_t start = ran();
    for (uint64_t i = 0; i < batches * BATCH; i++) {
        step(s);
        s->sum = s->sum * 31 + (uint64_t)next(s);
    }
    return (double)(ran() - start) / (double)(batches * BATCH);
}

/* Warms both up, and finds how many batches take the duration. */
static uint64_t calibrate(subject *a, subject *b, void (*step)(subject *), int64_t duration)
{
    uint64_t batches = 0;
    for (int64_t start = ran(); ran() - start < duration; batches++) {
        slice(a, step, 1);
    }
    slice(b, step, batches);
    return batches;
}

static void measure(const char *name, void (*step)(subject *), uint32_t count)
{
    subject wheels, other;
    char label[64];
    bool in_order = step == step_answer;
    double of_wheels[SLICES], of_heap[SLICES], ratios[SLICES];
    open_subject(&wheels, false, count, in_order);
    open_subject(&other, true, count, in_order);
    uint64_t batches = calibrate(&wheels, &other, step, bench_seconds() / 10);
    for (int i = 0; i < SLICES; i++) {
        of_wheels[i] = slice(&wheels, step, batches);
        of_heap[i] = slice(&other, step, batches);
        ratios[i] = of_wheels[i] / of_heap[i];
    }
    if (wheels.sum != other.sum) {
        bench_die("timers: %s with %" PRIu32 ": wheels and heap differ", name, count);
    }
    snprintf(label, sizeof label, "timers_%s_%" PRIu32, name, count);
    bench_result(label, "wheels", bench_median(of_wheels, SLICES));
    bench_result(label, "heap", bench_median(of_heap, SLICES));
    bench_result(label, "ratio", bench_median(ratios, SLICES));
    close_subject(&wheels);
    close_subject(&other);
}

int main(void)
{
    bench_pin(bench_cpu(0));
    for (uint32_t count = 10; count <= 100000; count *= 100) {
        measure("cancel", step_cancel, count);
        measure("answer", step_answer, count);
        measure("expire", step_expire, count);
    }
    return 0;
}
