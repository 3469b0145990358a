/*
 * links.c -- actors that are linked, unlinked, killed and stopped at random, while mail with short
 * lives goes between them and lost mail is sent again: each actor's end is told exactly once to its
 * monitor and exactly once over its link, nothing hangs, and what was lost is counted.
 *
 * Usage: links [seed] [seconds]. Prints the seed and the line that runs it again.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "actor/runtime.h"
#include "base/clock.h"

enum { PLACES = 12, HANDS = 3 };

static const rk_type *item;
static rk_runtime *rt;
static rk_pid places[PLACES]; /* atomic */
static uint64_t letters, done;
static unsigned long seed;

static void die(const char *what)
{
    fprintf(stderr, "FAILED: %s (%s)\nrun again: links %lu\n", what, rk_errdetail(), seed);
    abort();
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void count_letter(void *arg, rk_message *m, rk_pid to, int code)
{
    (void)arg;
    (void)to;
    (void)code;
    (void)m;
    __atomic_add_fetch(&letters, 1, __ATOMIC_RELAXED);
}

/* Takes mail until it is stopped, or fails by chance. Half of them trap exits. */
static int member(void *arg)
{
    uint64_t state = (uint64_t)(uintptr_t)arg;
    rk_message *m;
    int code;
    rk_trap_exit(next_random(&state) % 2, NULL);
    while ((code = rk_receive(&m, -1)) == 0) {
        rk_message_release(m);
        if (next_random(&state) % 64 == 0) {
            return RK_EHANDLER;
        }
    }
    return code;
}

static rk_pid place(uint32_t i)
{
    return __atomic_load_n(&places[i % PLACES], __ATOMIC_RELAXED);
}

static void send_one(uint64_t *state)
{
    rk_message *m;
    if (rk_message_new(&m, item) < 0) {
        die("a message");
    }
    if (next_random(state) % 4 == 0) {
        rk_message_set_ttl(m, next_random(state) % 20000);
    }
    if (rk_send(place(next_random(state)), m, 1000000) < 0) {
        rk_message_release(m);
    }
}

static void replay_one(void)
{
    rk_dead_letter letter;
    if (rk_dead_letters(rt, 0, &letter, 1) > 0) {
        rk_message_release(letter.message);
        rk_dead_letter_replay(rt, letter.number, RK_NOBODY);
    }
}

/* A thread that does anything to anybody. */
static void *hand(void *arg)
{
    uint64_t state = (uint64_t)(uintptr_t)arg;
    while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
        rk_pid a = place(next_random(&state)), b = place(next_random(&state));
        rk_message *m;
        switch (next_random(&state) % 16) {
        case 0:
        case 1:
            rk_link(a, b);
            break;
        case 2:
            rk_unlink(a, b);
            break;
        case 3:
            rk_link(a, RK_NOBODY);
            rk_unlink(a, RK_NOBODY);
            break;
        case 4:
            rk_monitor(a);
            rk_demonitor(a);
            break;
        case 5:
            if (next_random(&state) % 8 == 0) {
                rk__actor_kill(a, "killed by chance", 0);
            }
            break;
        case 6:
            replay_one();
            break;
        default:
            send_one(&state);
        }
        while (rk_receive(&m, 0) == 0) {
            rk_message_release(m);
        }
    }
    return NULL;
}

struct told {
    uint64_t downs, exits;
};

static void collect(struct told *told, int64_t timeout)
{
    rk_message *m;
    while (rk_receive(&m, timeout) == 0) {
        const char *type = rk_type_name(rk_message_type(m));
        told->downs += strcmp(type, "down") == 0;
        told->exits += strcmp(type, "exit") == 0;
        rk_message_release(m);
        timeout = 0;
    }
}

static uint64_t spawn_missing(uint64_t *state)
{
    uint64_t spawned = 0;
    for (uint32_t i = 0; i < PLACES; i++) {
        rk_info info;
        rk_pid pid;
        rk_options options = RK_OPTIONS_INIT;
        options.mailbox = 8;
        options.dedup = i % 3 == 0 ? 16 : 0;
        if (rk_inspect(place(i), &info) == 0) {
            continue;
        }
        if (rk_spawn_c(rt, &pid, member, (void *)(uintptr_t)next_random(state), &options) < 0) {
            die("spawn");
        }
        if (rk_monitor(pid) < 0 || rk_link(pid, RK_NOBODY) < 0) {
            die("watch");
        }
        __atomic_store_n(&places[i], pid, __ATOMIC_RELAXED);
        spawned++;
    }
    return spawned;
}

int main(int argc, char **argv)
{
    static const rk_field fields[] = {{"n", "i64"}};
    rk_config config = RK_CONFIG_INIT;
    pthread_t hands[HANDS];
    struct told told = {0, 0};
    seed = argc > 1 ? strtoul(argv[1], NULL, 10) : 1;
    int64_t seconds = argc > 2 ? strtol(argv[2], NULL, 10) : 2;
    uint64_t state = seed, spawned = 0;
    config.dead_letters = 32;
    if (rk_message_define(&item, "Item", fields, 1) < 0 || rk__runtime_open(&rt, &config) < 0) {
        die("open");
    }
    rk_on_dead_letter(rt, count_letter, NULL);
    spawned += spawn_missing(&state);
    for (uintptr_t i = 0; i < HANDS; i++) {
        pthread_create(&hands[i], NULL, hand, (void *)(seed * HANDS + i));
    }
    for (int64_t end = rk__now() + seconds * 1000000000; rk__now() < end;) {
        spawned += spawn_missing(&state);
        collect(&told, 1000000);
    }
    __atomic_store_n(&done, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < HANDS; i++) {
        pthread_join(hands[i], NULL);
    }
    rk_stats stats;
    for (uint32_t i = 0; i < PLACES; i++) {
        rk_terminate(place(i), "the end", -1);
    }
    for (int64_t end = rk__now() + 20000000000;
         (told.downs < spawned || told.exits < spawned) && rk__now() < end;) {
        collect(&told, 10000000);
    }
    rk_runtime_stats(rt, &stats);
    if (told.downs != spawned || told.exits != spawned) {
        fprintf(stderr, "%llu spawned, %llu down, %llu exit\n", (unsigned long long)spawned,
                (unsigned long long)told.downs, (unsigned long long)told.exits);
        die("an end was not told exactly once");
    }
    if (stats.dead_letters + stats.dropped != letters) {
        die("a letter was not shown to the hook");
    }
    if (rk__runtime_close(rt, NULL) != 0) {
        die("close");
    }
    printf("links: seed %lu: %llu actors ended, %llu letters\nrun again: links %lu %lld\n", seed,
           (unsigned long long)spawned, (unsigned long long)letters, seed, (long long)seconds);
    return 0;
}
