/*
 * raw.c -- the limit as a case of its own: round trips and one-way messages of ring.h.
 *
 * Threads: main on the first cpu, the echo of ring.h on the second.
 */
#include "ring.h"

static void round_trips(void)
{
    static bench_clock c;
    uint64_t number = 0;
    bench_begin(&c, bench_seconds(), BENCH_TRIPS);
    do {
        ring_trip(&number);
    } while (bench_tick(&c));
    bench_round_trips("raw", &c.histogram);
}

static void one_way(void)
{
    ring_word w = {.kind = RING_COUNT}, answer;
    int64_t start = rk__now(), until = start + bench_seconds();
    while (w.kind == RING_COUNT) {
        w.kind = w.number % 64 == 63 && rk__now() >= until ? RING_LAST : RING_COUNT;
        ring_put(&ring_there, &w);
        w.number++;
    }
    ring_take(&ring_back, &answer);
    if (answer.number != w.number || answer.kind != 0) {
        bench_die("raw: %" PRIu64 " of %" PRIu64 " arrived, %" PRIu64 " out of order",
                  answer.number, w.number, answer.kind);
    }
    bench_result("raw", "rate", (double)w.number * 1e9 / (double)(rk__now() - start));
}

/* What a clock read adds to every round trip. */
static void clock_cost(void)
{
    int64_t start = rk__now(), now = start;
    for (int i = 0; i < 100000; i++) {
        now = rk__now();
    }
    bench_result("clock", "c", (double)(now - start) / 100000);
}

int main(void)
{
    pthread_t thread;
    bench_pin(bench_cpu(0));
    ring_start(&thread);
    sem_post(&ring_rests);
    clock_cost();
    round_trips();
    one_way();
    ring_put(&ring_there, &(ring_word){.kind = RING_REST});
    ring_stop(thread);
    return 0;
}
