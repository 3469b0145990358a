/*
 * out.h -- what the programs of bench/gpu share: settings from the environment, waiting for a word,
 * and results as lines of JSON on stdout. README.md says what a line holds.
 *
 * All of it is for the main thread of a program, but bench_fail, bench_wait_* and the counts.
 */
#ifndef RK_BENCH_GPU_OUT_H
#define RK_BENCH_GPU_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/clock.h"
#include "telemetry/histogram.h"

/* ---- settings ---- */

/* Whether the CUDA libraries are the stand-in (RK_CUDA_LIBS, RK_GPU_STANDIN=1): then no number is
 * one of a GPU. */
bool bench_standin(void);
/* Tiny counts: RK_BENCH_QUICK=1, and always on the stand-in. */
bool bench_quick(void);
/* How many messages of `full` this process is to do: its share of BENCH_ROUNDS processes. */
uint64_t bench_share(uint64_t full);
/* How many of `full` when it is about something that is done once. */
uint64_t bench_once(uint64_t full, uint64_t quick);
unsigned bench_round(void); /* BENCH_ROUND, 0...: which case comes first */
/* ns that one case may take (BENCH_CAP seconds, 2): then it ends with what it has. */
int64_t bench_cap(void);

/* ---- failing and waiting ---- */

/* A benchmark that saw a wrong answer has measured nothing: one line on stderr, exit status 1. */
void bench_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* For rk_... calls: fails with rk_errdetail() when code is negative. */
void bench_must(int code, const char *what);

/* One step of a spinning wait; fails, naming `what`, when the wait has lasted 20 s. */
typedef struct bench_wait {
    uint32_t spins;
    int64_t since;
} bench_wait;
void bench_wait_long(bench_wait *w, const char *what);
bool bench_wait_crowded(void); /* as many threads want to run as there are cpus: yield */

static inline void bench_spin(bench_wait *w, const char *what)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
    if (++w->spins % 64 == 0) {
        bench_wait_long(w, what);
    }
}

/* ---- round trips: one clock read ends one and begins the next ---- */

typedef struct bench_trips {
    rk__histogram histogram;
    int64_t last, until;
    uint64_t wanted, warm;
} bench_trips;

/* A tenth as many trips again, up to 1000, warm up and are not counted. */
void bench_begin(bench_trips *t, uint64_t wanted);

/* After each trip; false: enough, or the time is over. */
static inline bool bench_tick(bench_trips *t)
{
    int64_t now = rk__now();
    if (t->warm > 0) {
        t->warm--;
    } else {
        rk__histogram_add(&t->histogram, now - t->last);
    }
    t->last = now;
    return t->histogram.count < t->wanted && now < t->until;
}

/* ---- results ---- */

/* Where what follows was measured, for every line: "NVIDIA H200". On the stand-in the name is not
 * used: it says that it is no GPU. copies */
void bench_source(const char *name);

/* What tells a result from others of its name and variant: pairs of a name and a number. */
typedef struct bench_param {
    const char *name;
    double value;
} bench_param;
#define BENCH_PARAMS(...) ((const bench_param[]){__VA_ARGS__, {NULL, 0}})
#define BENCH_NONE        ((const bench_param[]){{NULL, 0}})

/* Times in ns. */
void bench_histogram(const char *name, const char *variant, const bench_param *params,
                     const rk__histogram *h);
/* One number, or the n-th of several of the same thing: the report gathers them. */
void bench_value(const char *name, const char *variant, const bench_param *params, double value,
                 const char *unit);
/* What could not be measured, and why. */
void bench_missing(const char *name, const char *variant, const bench_param *params,
                   const char *format, ...) __attribute__((format(printf, 4, 5)));
/* A fact in words: an answer to a question. */
void bench_says(const char *name, const char *variant, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
