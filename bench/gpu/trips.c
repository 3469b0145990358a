/*
 * trips.c -- round trips through the runtime: a request to a ring kernel and its answer.
 *
 *     trips DEVICE [MODE]     "cuda" or "cpu"; "persistent" (all sizes), "bounded", "batch"
 *
 * Threads: main, a port, asks for itself; a C actor asks on its own thread.
 */
#include "rig.h"

#include <stdio.h>
#include <string.h>

enum { TRIPS = 100000 };

static struct {
    const char *device, *mode;
    rk_pid kernel;
    uint64_t number;
    unsigned size;
    bench_trips trips;
} job;

static void measure(const char *who)
{
    char variant[96];
    bench_begin(&job.trips, bench_share(TRIPS));
    do {
        rig_call(job.kernel, job.size, job.number);
        job.number += 2;
    } while (bench_tick(&job.trips));
    snprintf(variant, sizeof variant, "%s, %s, %s", who, job.device, job.mode);
    bench_histogram("round trip", variant, BENCH_PARAMS({"payload", rig_sizes[job.size]}),
                    &job.trips.histogram);
}

static int ask(void *arg)
{
    measure(arg);
    return 0;
}

/* Sizes turn with the rounds, so that none is always measured first. */
static void all_sizes(rk_runtime *rt)
{
    for (unsigned i = 0; i < RIG_SIZES; i++) {
        job.size = (i + bench_round()) % RIG_SIZES;
        rig_run(rt, ask, (char *)"C actor");
        measure("port");
    }
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        bench_fail("usage: trips DEVICE [MODE]");
    }
    job.device = argv[1];
    job.mode = argc == 3 ? argv[2] : "persistent";
    rk_runtime *rt = rig_open(job.device, job.mode, NULL);
    rig_define_echo();
    bench_must(rk_spawn(rt, &job.kernel, "rig_echo", NULL), "rk_spawn");
    for (unsigned i = 0; i < bench_once(20000, 20); i++) {
        rig_call(job.kernel, RIG_48, i); /* clocks rise */
    }
    if (strcmp(job.mode, "persistent") == 0) {
        all_sizes(rt);
    } else {
        job.size = RIG_48;
        rig_run(rt, ask, (char *)"C actor");
    }
    bench_must(rk_close(rt), "rk_close");
    return 0;
}
