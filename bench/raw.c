/*
 * raw.c -- the limit: two pinned threads, two CK rings of 64-byte slots, nothing else. Both threads
 * poll without ever parking, no message is allocated, nobody can be late.
 *
 * Threads: main and the echo. Each ring has one producer and one consumer.
 */
#include "bench.h"

#include <ck_pr.h>
#include <ck_ring.h>

enum { SLOTS = 1024 };
enum kind { ECHO, COUNT, LAST };

typedef struct word {
    uint64_t number, kind, rest[6];
} word;

_Static_assert(sizeof(word) == 64, "one cache line");

CK_RING_PROTOTYPE(word, word)

typedef struct lane {
    ck_ring_t ring;
    word slots[SLOTS] __attribute__((aligned(64)));
} lane;

static lane there __attribute__((aligned(64))), back __attribute__((aligned(64)));
static int stop; /* atomic */

static void put(lane *l, const word *w)
{
    while (!ck_ring_enqueue_spsc_word(&l->ring, l->slots, (word *)w)) {
        ck_pr_stall();
    }
}

/* False: asked to stop while nothing was there. */
static bool take(lane *l, word *w)
{
    while (!ck_ring_dequeue_spsc_word(&l->ring, l->slots, w)) {
        if (__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
            return false;
        }
        ck_pr_stall();
    }
    return true;
}

static void *echo(void *arg)
{
    uint64_t seen = 0, wrong = 0;
    word w;
    (void)arg;
    bench_pin(bench_cpu(1));
    while (take(&there, &w)) {
        if (w.kind == ECHO) {
            w.number++;
            put(&back, &w);
            continue;
        }
        wrong += w.number != seen++;
        if (w.kind == LAST) {
            w = (word){.number = seen, .kind = wrong};
            put(&back, &w);
            seen = wrong = 0;
        }
    }
    return NULL;
}

static void round_trips(void)
{
    static bench_clock c;
    word w = {0}, answer = {0};
    bench_begin(&c);
    do {
        w.number = answer.number;
        put(&there, &w);
        take(&back, &answer);
        if (answer.number != w.number + 1) {
            bench_die("raw: got %" PRIu64 " after %" PRIu64, answer.number, w.number);
        }
    } while (bench_tick(&c));
    bench_round_trips("raw", &c.histogram);
}

static void one_way(void)
{
    word w = {.kind = COUNT}, answer;
    int64_t start = rk__now(), until = start + bench_seconds();
    while (w.kind == COUNT) {
        w.kind = w.number % 64 == 63 && rk__now() >= until ? LAST : COUNT;
        put(&there, &w);
        w.number++;
    }
    take(&back, &answer);
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
    ck_ring_init(&there.ring, SLOTS);
    ck_ring_init(&back.ring, SLOTS);
    bench_pin(bench_cpu(0));
    if (pthread_create(&thread, NULL, echo, NULL) != 0) {
        bench_die("cannot start a thread");
    }
    clock_cost();
    round_trips();
    one_way();
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    return 0;
}
