/*
 * mailbox.c -- several senders, one receiver, every policy: nothing lost, order kept per sender and
 * band, every call answered, with actors ending and slots being reused meanwhile.
 *
 * Usage: mailbox [seed] [seconds]. Prints the seed and the line that runs it again.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "actor/runtime.h"
#include "base/clock.h"

enum { SENDERS = 4, SLOTS = 4 };

static const rk_type *item;
static rk_runtime *rt;
static rk_pid targets[SLOTS]; /* atomic */
static uint64_t letters, stop_all;
static uint64_t accepted, received, answered, refused, calls;
static unsigned long seed;

static void die(const char *what)
{
    fprintf(stderr, "FAILED: %s (%s)\nrun again: mailbox %lu\n", what, rk_errdetail(), seed);
    abort();
}

static void add(uint64_t *counter, uint64_t n)
{
    __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

static void count_letter(void *arg, rk_message *m, rk_pid to, int code)
{
    (void)arg;
    (void)to;
    (void)code;
    if (rk_message_type(m) == item) {
        add(&letters, 1);
    }
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Receives until stopped; checks that each sender's numbers grow within a band; answers calls. */
static int consumer(void *arg)
{
    int64_t last[SENDERS][4];
    rk_message *m, *answer;
    (void)arg;
    memset(last, -1, sizeof last);
    while (rk_receive(&m, -1) == 0) {
        int64_t sender, n;
        int band = rk__band_of(rk_message_priority(m));
        rk_get_int(m, "sender", &sender);
        rk_get_int(m, "n", &n);
        if (n <= last[sender][band]) {
            die("order within a band was lost");
        }
        last[sender][band] = n;
        add(&received, 1);
        if (m->flags & RK__CALL) {
            rk_message_new(&answer, item);
            rk_set_int(answer, "n", n);
            if (rk_reply(m, answer) < 0) {
                die("reply");
            }
        }
        rk_message_release(m);
    }
    return 0;
}

static rk_message *make(int sender, int64_t n, int priority)
{
    rk_message *m;
    if (rk_message_new(&m, item) < 0) {
        die("out of memory");
    }
    rk_set_int(m, "sender", sender);
    rk_set_int(m, "n", n);
    rk_message_set_priority(m, priority);
    return m;
}

static void make_call(rk_pid to, rk_message *m, int64_t n)
{
    rk_message *answer;
    int64_t got;
    add(&calls, 1);
    int code = rk_call(to, m, &answer, 20000000000);
    if (code == 0) {
        rk_get_int(answer, "n", &got);
        if (got != n) {
            die("an answer to another question");
        }
        rk_message_release(answer);
        add(&accepted, 1);
        add(&answered, 1);
    } else if (code == RK_EDEAD || code == RK_EFULL || code == RK_ENOREPLY) {
        add(&answered, 1);
        add(&accepted, 1); /* or refused: counted out below by its kind of end */
        add(&refused, 1);
    } else {
        die("a call was not answered");
    }
}

static void *sender_main(void *arg)
{
    int self = (int)(intptr_t)arg;
    uint64_t state = seed * 977 + (uint64_t)self;
    int64_t n = 0;
    while (!__atomic_load_n(&stop_all, __ATOMIC_RELAXED)) {
        uint32_t r = next_random(&state);
        rk_pid to = __atomic_load_n(&targets[r % SLOTS], __ATOMIC_RELAXED);
        static const int priorities[] = {20, 128, 128, 128, 180, 230};
        rk_message *m = make(self, ++n, priorities[r / 64 % 6]);
        if (r / 8 % 16 == 0) {
            make_call(to, m, n);
            continue;
        }
        int code = rk_send(to, m, r / 1024 % 2 ? -1 : 1000000);
        if (code == 0) {
            add(&accepted, 1);
        } else if (code == RK_EDEAD || code == RK_EFULL || code == RK_ETIMEOUT) {
            rk_message_release(m);
        } else {
            die("send");
        }
    }
    return NULL;
}

static void replace(int slot, uint64_t *state)
{
    static const enum rk_full policies[] = {RK_FULL_BLOCK, RK_FULL_REJECT, RK_FULL_DROP_OLDEST,
                                            RK_FULL_DROP_NEWEST};
    rk_options options = RK_OPTIONS_INIT;
    rk_pid fresh, old = targets[slot];
    options.full = policies[next_random(state) % 4];
    options.mailbox = 1 + next_random(state) % 64;
    if (rk_spawn_c(rt, &fresh, consumer, NULL, &options) < 0) {
        die("spawn");
    }
    __atomic_store_n(&targets[slot], fresh, __ATOMIC_RELAXED);
    if (old != 0 && rk_terminate(old, "replaced", 20000000000) < 0) {
        die("terminate");
    }
}

int main(int argc, char **argv)
{
    static const rk_field fields[] = {{"sender", "i32"}, {"n", "i64"}};
    pthread_t threads[SENDERS];
    rk_config config = RK_CONFIG_INIT;
    seed = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;
    double seconds = argc > 2 ? atof(argv[2]) : 2;
    uint64_t state = seed;
    if (rk_message_define(&item, "Item", fields, 2) < 0 || rk__runtime_open(&rt, &config) < 0) {
        die("open");
    }
    rk_on_dead_letter(rt, count_letter, NULL);
    for (int i = 0; i < SLOTS; i++) {
        replace(i, &state);
    }
    for (int i = 0; i < SENDERS; i++) {
        pthread_create(&threads[i], NULL, sender_main, (void *)(intptr_t)i);
    }
    int64_t end = rk__now() + (int64_t)(seconds * 1e9);
    while (rk__now() < end) {
        struct timespec pause = {0, 2000000};
        nanosleep(&pause, NULL);
        replace((int)(next_random(&state) % SLOTS), &state);
    }
    __atomic_store_n(&stop_all, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
    }
    if (rk__runtime_close(rt, NULL) < 0) {
        die("close");
    }
    /* Every accepted message was received or is a dead letter; a refused call may be either, or was
     * refused before it was accepted at all. */
    uint64_t ended = received + letters;
    if (ended > accepted || accepted - ended > refused || answered != calls) {
        fprintf(stderr, "accepted %lu received %lu letters %lu refused calls %lu\n",
                (unsigned long)accepted, (unsigned long)received, (unsigned long)letters,
                (unsigned long)refused);
        die("messages are unaccounted for");
    }
    printf(
        "mailbox: seed %lu: %lu accepted = %lu received + %lu dead letters (+ %lu refused calls), "
        "%lu calls answered\n",
        seed, (unsigned long)accepted, (unsigned long)received, (unsigned long)letters,
        (unsigned long)(accepted - ended), (unsigned long)answered);
    return 0;
}
