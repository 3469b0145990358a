/*
 * compile.c -- how long a ring kernel takes from its definition to its first answer.
 *
 *     compile DEVICE NAME FOLDER    FOLDER is the cache of kernels; NAME says in what state
 *
 * A process of its own, so that nothing is warm but the folder. The first definition of a process
 * also starts the device; the second one changes its image. Whether something was compiled is taken
 * from the runtime's counters.
 *
 * Threads: main.
 */
#include "rig.h"

#include <stdio.h>
#include <string.h>

static const char *device, *name;

static void say(const char *what, unsigned which, int64_t time)
{
    char variant[128];
    snprintf(variant, sizeof variant, "%s, %s definition, %s, %s", what,
             which == 0 ? "first" : "second", name, device);
    bench_value("launch", variant, BENCH_NONE, (double)time / 1e6, "ms");
}

static void one(rk_runtime *rt, unsigned which)
{
    rk_pid pid;
    char kernel[32];
    snprintf(kernel, sizeof kernel, "rig_%u", which);
    rig_define_add(kernel, which + 1);
    int64_t defined = rk__now();
    bench_must(rk_launch(rt, &pid, kernel, NULL), "rk_launch");
    int64_t launched = rk__now();
    bench_must(rk_activate(pid), "rk_activate");
    int64_t active = rk__now();
    if (rig_ask(pid, 41) != 42 + which) {
        bench_fail("a wrong answer");
    }
    say("rk_launch", which, launched - defined);
    say("rk_activate", which, active - launched);
    say("first answer", which, rk__now() - active);
}

int main(int argc, char **argv)
{
    rk_stats stats;
    if (argc != 4) {
        bench_fail("usage: compile DEVICE NAME FOLDER");
    }
    device = argv[1];
    name = argv[2];
    int64_t begin = rk__now();
    rk_runtime *rt = rig_open(device, NULL, argv[3]);
    int64_t opened = rk__now() - begin;
    one(rt, 0);
    one(rt, 1);
    bench_must(rk_runtime_stats(rt, &stats), "rk_runtime_stats");
    say("rk_devices and rk_open", 0, opened);
    bench_says("launch", name, "%s: %d compiled, %d from the cache", device,
               (int)stats.kernels_compiled, (int)stats.cache_hits);
    bench_must(rk_close(rt), "rk_close");
    return 0;
}
