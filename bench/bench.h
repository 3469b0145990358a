/*
 * bench.h -- what the bench programs share: places, a clock that fills a histogram, result lines.
 *
 * A program prints one line per result, "CASE METRIC VALUE": times in nanoseconds, rates in
 * messages per second. bench/report.lua runs the programs and makes the table.
 */
#ifndef RK_BENCH_H
#define RK_BENCH_H

#include <ctype.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "base/clock.h"
#include "telemetry/histogram.h"

/* A bench that saw a wrong answer has measured nothing: it says so and ends. */
__attribute__((noreturn, format(printf, 1, 2))) static inline void bench_die(const char *format,
                                                                             ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

/* Number `index` of the two cpus in BENCH_CPUS ("0,1"). */
static inline int bench_cpu(int index)
{
    const char *text = getenv("BENCH_CPUS");
    int cpus[2];
    if (text == NULL || sscanf(text, "%d,%d", &cpus[0], &cpus[1]) != 2) {
        bench_die("BENCH_CPUS=A,B must name two cpus");
    }
    return cpus[index];
}

static inline int64_t bench_seconds(void)
{
    const char *text = getenv("BENCH_SECONDS");
    double seconds = text != NULL ? atof(text) : 0;
    return (int64_t)((seconds > 0 ? seconds : 0.25) * 1e9);
}

static inline void bench_pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (pthread_setaffinity_np(pthread_self(), sizeof set, &set) != 0) {
        bench_die("cannot pin to cpu %d", cpu);
    }
}

/* Puts the calling thread on a cpu without narrowing where it may go: the runtime notes both. */
static inline void bench_start_on(int cpu)
{
    cpu_set_t all;
    pthread_getaffinity_np(pthread_self(), sizeof all, &all);
    bench_pin(cpu);
    pthread_setaffinity_np(pthread_self(), sizeof all, &all);
}

/* One clock read ends a round trip and begins the next, so nothing lies between two round trips:
 * each includes one clock read and one histogram update. The first fifth only warms up. It goes on
 * until there are enough round trips for a p99.9, however slow they are. */
enum { BENCH_TRIPS = 2000 };

typedef struct bench_clock {
    int64_t last, warm, until;
    uint64_t trips;
    rk__histogram histogram;
} bench_clock;

static inline void bench_begin(bench_clock *c, int64_t duration, uint64_t trips)
{
    rk__histogram_reset(&c->histogram);
    c->trips = trips;
    c->last = rk__now();
    c->until = c->last + duration;
    c->warm = c->last + duration / 5;
}

static inline bool bench_tick(bench_clock *c)
{
    int64_t now = rk__now();
    if (c->last >= c->warm) {
        rk__histogram_add(&c->histogram, now - c->last);
    }
    c->last = now;
    return now < c->until || c->histogram.count < c->trips;
}

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double bench_median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, bench_compare);
    return count > 0 ? (values[(count - 1) / 2] + values[count / 2]) / 2 : 0;
}

static inline void bench_result(const char *name, const char *metric, double value)
{
    printf("%s %s %.9g\n", name, metric, value);
}

static inline void bench_round_trips(const char *name, const rk__histogram *h)
{
    bench_result(name, "p50", (double)rk__histogram_quantile(h, 0.5));
    bench_result(name, "p99", (double)rk__histogram_quantile(h, 0.99));
    bench_result(name, "p999", (double)rk__histogram_quantile(h, 0.999));
    bench_result(name, "trips", (double)h->count);
}

/* Resident memory of this process, bytes. */
static inline double bench_resident(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file == NULL || fscanf(file, "%*d %ld", &pages) != 1) {
        bench_die("cannot read /proc/self/statm");
    }
    fclose(file);
    return (double)pages * 4096;
}

#endif
