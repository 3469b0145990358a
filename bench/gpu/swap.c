/*
 * swap.c -- what a change of the image costs those who are at work: a C actor calls a ring kernel
 * without pause while new definitions are activated.
 *
 *     swap DEVICE
 *
 * Threads: main activates; the caller, a C actor, keeps `longest`, which main sets back to 0, and
 * looks at `over`.
 */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SWAPS = 20 };

static rk_pid kernel;
static int64_t longest;  /* atomic: ns between two answers */
static uint32_t over;    /* atomic */
static uint64_t answers; /* atomic */

static int call_on(void *arg)
{
    (void)arg;
    int64_t last = rk__now();
    for (uint64_t number = 0; __atomic_load_n(&over, __ATOMIC_ACQUIRE) == 0; number++) {
        rig_call(kernel, RIG_48, number);
        int64_t now = rk__now(), gap = now - last;
        last = now;
        if (gap > __atomic_load_n(&longest, __ATOMIC_RELAXED)) {
            __atomic_store_n(&longest, gap, __ATOMIC_RELAXED);
        }
        __atomic_store_n(&answers, number + 1, __ATOMIC_RELAXED);
    }
    return 0;
}

/* A few more answers, so that the gap that is going on has ended. */
static void settle(void)
{
    uint64_t until = __atomic_load_n(&answers, __ATOMIC_RELAXED) + 100;
    int64_t patience = rk__now() + 20 * INT64_C(1000000000);
    while (__atomic_load_n(&answers, __ATOMIC_RELAXED) < until) {
        rk_sleep(1000000);
        if (rk__now() > patience) {
            bench_fail("no answers any more");
        }
    }
}

static int64_t gap_since(void)
{
    settle();
    int64_t gap = __atomic_load_n(&longest, __ATOMIC_RELAXED);
    __atomic_store_n(&longest, 0, __ATOMIC_RELAXED);
    return gap;
}

static rk__histogram activation, gap_in, gap_out, calm;

static void swap_once(rk_runtime *rt, unsigned i)
{
    rk_pid pid;
    char name[32];
    snprintf(name, sizeof name, "swap_%u", i);
    rig_define_add(name, i + 2);
    bench_must(rk_launch(rt, &pid, name, NULL), "rk_launch");
    gap_since();
    rk_sleep(10000000);
    rk__histogram_add(&calm, gap_since());
    int64_t begin = rk__now();
    bench_must(rk_activate(pid), "rk_activate");
    rk__histogram_add(&activation, rk__now() - begin);
    rk__histogram_add(&gap_in, gap_since());
    if (rig_ask(pid, 40) != 42 + i) {
        bench_fail("a wrong answer from a new kernel");
    }
    gap_since();
    bench_must(rk_terminate(pid, NULL, 20 * INT64_C(1000000000)), "rk_terminate");
    rk__histogram_add(&gap_out, gap_since());
}

static void report(const char *device, const char *what, const rk__histogram *h)
{
    char variant[96];
    snprintf(variant, sizeof variant, "%s, %s", what, device);
    bench_histogram("new definition under load", variant, BENCH_NONE, h);
}

int main(int argc, char **argv)
{
    rk_pid caller;
    rk_message *down;
    if (argc != 2) {
        bench_fail("usage: swap DEVICE");
    }
    rk_runtime *rt = rig_open(argv[1], NULL, NULL);
    rig_define_echo();
    bench_must(rk_spawn(rt, &kernel, "rig_echo", NULL), "rk_spawn");
    bench_must(rk_spawn_c(rt, &caller, call_on, NULL, NULL), "rk_spawn_c");
    bench_must(rk_monitor(caller), "rk_monitor");
    for (unsigned i = 0; i < bench_once(SWAPS, 3); i++) {
        swap_once(rt, i);
    }
    __atomic_store_n(&over, 1, __ATOMIC_RELEASE);
    bench_must(rk_receive(&down, -1), "rk_receive");
    rk_message_release(down);
    report(argv[1], "rk_activate takes", &activation);
    report(argv[1], "longest gap between answers, activation", &gap_in);
    report(argv[1], "longest gap between answers, termination", &gap_out);
    report(argv[1], "longest gap in a calm 10 ms", &calm);
    bench_must(rk_close(rt), "rk_close");
    return 0;
}
