/*
 * idle.c -- a thousand idle C actors: spawn, one call each, resident memory, stop.
 *
 * Threads: main and one per actor. Resident memory counts what the process touched; what the kernel
 * keeps for a thread (about 20 KiB) is not in it.
 */
#include "word.h"

enum { ACTORS = 1000 };

static const rk_type *type;

static void must(int code)
{
    if (code < 0) {
        bench_die("idle: %s", rk_errdetail());
    }
}

static int echo(void *arg)
{
    rk_message *m, *reply;
    (void)arg;
    while (rk_receive(&m, -1) == 0) {
        must(rk_message_new(&reply, type));
        ((word *)rk_message_data(reply))->a_number = ((word *)rk_message_data(m))->a_number + 1;
        must(rk_reply(m, reply));
        rk_message_release(m);
    }
    return 0;
}

static void call(rk_pid pid, uint64_t number)
{
    rk_message *m, *reply;
    must(rk_message_new(&m, type));
    ((word *)rk_message_data(m))->a_number = number;
    must(rk_call(pid, m, &reply, -1));
    if (((word *)rk_message_data(reply))->a_number != number + 1) {
        bench_die("idle: wrong answer");
    }
    rk_message_release(reply);
}

int main(void)
{
    static rk_pid pids[ACTORS];
    rk_config config = RK_CONFIG_INIT;
    rk_runtime *rt;
    must(rk_open(&rt, &config));
    type = word_type();
    must(rk_self() != RK_NOBODY ? 0 : -1);
    double before = bench_resident();
    int64_t start = rk__now();
    for (int i = 0; i < ACTORS; i++) {
        must(rk_spawn_c(rt, &pids[i], echo, NULL, NULL));
    }
    for (int i = 0; i < ACTORS; i++) {
        call(pids[i], (uint64_t)i);
    }
    int64_t called = rk__now();
    bench_result("idle_c", "memory", (bench_resident() - before) / ACTORS);
    int64_t resumed = rk__now();
    for (int i = 0; i < ACTORS; i++) {
        must(rk_terminate(pids[i], NULL, -1));
    }
    bench_result("idle_c", "total", (double)(rk__now() - resumed + called - start));
    must(rk_close(rt));
    return 0;
}
