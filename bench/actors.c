/*
 * actors.c -- a C actor calls and floods another actor with 64-byte typed messages.
 *
 *     actors host      the other is a C actor
 *     actors kernel    the other is a ring kernel on the cpu device
 *
 * Threads: main, which only starts things and waits, on the first of the two cpus; the caller,
 * pinned to the first; the one that answers, pinned to the second. Through rk.h alone.
 */
#include "ring.h"
#include "word.h"

#include <string.h>

enum { SLICE = 20000000, SLICES_MAX = 512 }; /* SLICE in nanoseconds */

static const rk_type *type;
static rk_pid target;
static const char *name;

static void must(int code, const char *what)
{
    if (code < 0) {
        bench_die("%s: %s: %s", name, what, rk_errdetail());
    }
}

static rk_message *make(uint64_t number, enum kind kind)
{
    rk_message *m;
    must(rk_message_new(&m, type), "rk_message_new");
    *(word *)rk_message_data(m) = (word){number, kind, 1, 2, 3, 4, 5, 6};
    return m;
}

/* ---- the actor that answers ----------------------------------------------------------------- */

static void answer(rk_message *request, const word *fields)
{
    rk_message *m;
    must(rk_message_new(&m, type), "rk_message_new");
    *(word *)rk_message_data(m) = *fields;
    must(rk_reply(request, m), "rk_reply");
}

static int echo(void *arg)
{
    uint64_t seen = 0, wrong = 0;
    rk_message *m;
    (void)arg;
    while (rk_receive(&m, -1) == 0) {
        word w = *(const word *)rk_message_data(m);
        if (w.b_kind == ECHO) {
            w.a_number++;
            answer(m, &w);
        } else {
            wrong += w.a_number != seen++;
            if (w.b_kind == LAST) {
                answer(m, &(word){seen, wrong, 0, 0, 0, 0, 0, 0});
                seen = wrong = 0;
            }
        }
        rk_message_release(m);
    }
    return 0;
}

/* ---- the actor that asks -------------------------------------------------------------------- */

static word ask(rk_message *m)
{
    rk_message *reply;
    must(rk_call(target, m, &reply, -1), "rk_call");
    if (rk_message_type(reply) != type) {
        bench_die("%s: an answer of another type", name);
    }
    word w = *(const word *)rk_message_data(reply);
    rk_message_release(reply);
    return w;
}

/* Slices of 20 ms with a moment of the raw ring before and after each: the ratio of neighbours is
 * what the actors cost, wherever the machine has its cpus just then. */
static void round_trips(void)
{
    static bench_clock c;
    static rk__histogram all;
    double ratios[SLICES_MAX];
    pthread_t thread;
    uint64_t number = 0;
    size_t slices = 0;
    ring_start(&thread);
    double before = ring_moment();
    int64_t until = rk__now() + bench_seconds();
    do {
        bench_begin(&c, SLICE, 200);
        do {
            word w = ask(make(number, ECHO));
            if (w.a_number != number + 1 || w.h != 6) {
                bench_die("%s: got %" PRIu64 " after %" PRIu64, name, w.a_number, number);
            }
            number = w.a_number;
        } while (bench_tick(&c));
        rk__histogram_merge(&all, &c.histogram);
        double after = ring_moment();
        ratios[slices++] =
            (double)rk__histogram_quantile(&c.histogram, 0.5) / ((before + after) / 2);
        before = after;
    } while (slices < SLICES_MAX && (rk__now() < until || all.count < BENCH_TRIPS));
    ring_stop(thread);
    bench_round_trips(name, &all);
    bench_result(name, "ratio", bench_median(ratios, slices));
}

static void one_way(void)
{
    uint64_t number = 0;
    int64_t start = rk__now(), until = start + bench_seconds();
    while (number % 64 != 63 || rk__now() < until) {
        must(rk_send(target, make(number++, COUNT), -1), "rk_send");
    }
    word w = ask(make(number++, LAST));
    int64_t end = rk__now();
    if (w.a_number != number || w.b_kind != 0) {
        bench_die("%s: %" PRIu64 " of %" PRIu64 " arrived, %" PRIu64 " out of order", name,
                  w.a_number, number, w.b_kind);
    }
    bench_result(name, "rate", (double)number * 1e9 / (double)(end - start));
}

static int caller(void *arg)
{
    (void)arg;
    round_trips();
    one_way();
    return 0;
}

int main(int argc, char **argv)
{
    bool kernel = argc == 2 && strcmp(argv[1], "kernel") == 0;
    if (!kernel && (argc != 2 || strcmp(argv[1], "host") != 0)) {
        bench_die("usage: %s host|kernel", argv[0]);
    }
    rk_config config = RK_CONFIG_INIT;
    rk_options there = RK_OPTIONS_INIT, here = RK_OPTIONS_INIT;
    rk_runtime *rt;
    rk_pid pid;
    rk_message *down;
    name = kernel ? "c_kernel" : "c_c";
    config.device = "cpu";
    bench_start_on(bench_cpu(0));
    must(rk_open(&rt, &config), "rk_open");
    type = word_type();
    here.cpu = bench_cpu(0);
    there.cpu = bench_cpu(1);
    if (kernel) {
        word_kernel(type);
        must(rk_spawn(rt, &target, "bench_word", &there), "rk_spawn");
    } else {
        must(rk_spawn_c(rt, &target, echo, NULL, &there), "rk_spawn_c");
    }
    must(rk_spawn_c(rt, &pid, caller, NULL, &here), "rk_spawn_c");
    must(rk_monitor(pid), "rk_monitor");
    must(rk_receive(&down, -1), "rk_receive");
    rk_message_release(down);
    must(rk_close(rt), "rk_close");
    return 0;
}
