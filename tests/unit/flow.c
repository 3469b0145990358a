/* flow.c -- links, times to live, repeated messages, dead letters, deadlocks, draining. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "actor/letters.h"
#include "base/clock.h"
#include "rk.h"

#define SECOND 1000000000LL

static const rk_type *number, *large;
static rk_runtime *rt;

static void open_runtime(void)
{
    static const rk_field fields[] = {{"n", "i64"}}, bytes[] = {{"data", "bytes[65536]"}};
    rk_config config = RK_CONFIG_INIT;
    config.dead_letters = 4;
    cr_assert_eq(rk_message_define(&number, "Number", fields, 1), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_message_define(&large, "Large", bytes, 1), 0, "%s", rk_errdetail());
    cr_assert_eq(rk__runtime_open(&rt, &config), 0, "%s", rk_errdetail());
}

static void close_runtime(void)
{
    cr_assert_eq(rk__runtime_close(rt, NULL), 0, "%s", rk_errdetail());
}

TestSuite(flow, .init = open_runtime, .fini = close_runtime, .timeout = 60);

static rk_message *make(int64_t n)
{
    rk_message *m;
    cr_assert_eq(rk_message_new(&m, number), 0);
    rk_set_int(m, "n", n);
    return m;
}

static rk_pid spawn(rk_actor_fn fn, void *arg, const char *name, uint32_t bound, uint32_t dedup)
{
    rk_options options = RK_OPTIONS_INIT;
    rk_pid pid;
    options.name = name;
    options.mailbox = bound;
    options.dedup = dedup;
    cr_assert_eq(rk_spawn_c(rt, &pid, fn, arg, &options), 0, "%s", rk_errdetail());
    return pid;
}

/* Fails with the first message. */
static int fails(void *arg)
{
    rk_message *m;
    (void)arg;
    int code = rk_receive(&m, -1);
    if (code < 0) {
        return code;
    }
    rk_message_release(m);
    return RK_EHANDLER;
}

/* Sleeps until it is stopped or killed. */
static int sleeps(void *arg)
{
    (void)arg;
    rk_message *m;
    int code;
    while ((code = rk_receive(&m, -1)) == 0) {
        rk_message_release(m);
    }
    return code;
}

static rk_message *next_of(const char *type)
{
    rk_message *m;
    do {
        cr_assert_eq(rk_receive(&m, 10 * SECOND), 0, "%s", rk_errdetail());
    } while (strcmp(rk_type_name(rk_message_type(m)), type) != 0 && (rk_message_release(m), true));
    return m;
}

static int64_t field(rk_message *m, const char *name)
{
    int64_t n = -1;
    cr_assert_eq(rk_get_int(m, name, &n), 0, "%s", rk_errdetail());
    return n;
}

static bool says(rk_message *m, const char *text)
{
    const void *reason;
    size_t size;
    cr_assert_eq(rk_get_bytes(m, "reason", &reason, &size), 0);
    return memmem(reason, size, text, strlen(text)) != NULL;
}

static void poke(rk_pid pid)
{
    cr_assert_eq(rk_send(pid, make(1), -1), 0, "%s", rk_errdetail());
}

/* ---- links ---- */

static rk_pid partner;

static int linked_sleeper(void *arg)
{
    cr_assert_eq(rk_link(partner, RK_NOBODY), 0);
    return sleeps(arg);
}

Test(flow, a_linked_actor_is_killed_with_the_one_that_fails)
{
    rk_message *m;
    partner = spawn(fails, NULL, "first", 0, 0);
    rk_pid second = spawn(linked_sleeper, NULL, "second", 0, 0);
    cr_assert_eq(rk_monitor(second), 0);
    rk_sleep(10000000); /* the link is there, or will find the dead */
    poke(partner);
    m = next_of("down");
    cr_assert_eq((rk_pid)field(m, "pid"), second);
    cr_assert_eq(field(m, "normal"), 0);
    cr_assert(says(m, "linked actor <") && says(m, "\"first\"> ended: "));
    rk_message_release(m);
}

Test(flow, a_normal_end_kills_nobody_and_a_trapping_side_hears_of_it)
{
    rk_message *m;
    rk_pid first = spawn(sleeps, NULL, "first", 0, 0), second = spawn(sleeps, NULL, "second", 0, 0);
    cr_assert_eq(rk_link(first, second), 0);
    cr_assert_eq(rk_link(first, RK_NOBODY), 0);
    cr_assert_eq(rk_link(first, RK_NOBODY), 0); /* as once */
    cr_assert_eq(rk_terminate(first, "enough", 10 * SECOND), 0);
    m = next_of("exit");
    cr_assert(says(m, "enough") && field(m, "normal") == 1);
    rk_message_release(m);
    cr_assert_eq(rk_receive(&m, 50000000), RK_ETIMEOUT);
    rk_info info;
    cr_assert_eq(rk_inspect(second, &info), 0);
}

Test(flow, a_circle_of_links_ends_each_actor_once)
{
    enum { N = 8 };
    rk_pid pids[N];
    rk_message *m;
    uint32_t ended = 0;
    for (int i = 0; i < N; i++) {
        pids[i] = spawn(i == 3 ? fails : sleeps, NULL, NULL, 0, 0);
        cr_assert_eq(rk_monitor(pids[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        cr_assert_eq(rk_link(pids[i], pids[(i + 1) % N]), 0, "%s", rk_errdetail());
    }
    poke(pids[3]);
    for (int i = 0; i < N; i++) {
        m = next_of("down");
        for (int k = 0; k < N; k++) {
            ended |= (rk_pid)field(m, "pid") == pids[k] ? 1u << k : 0;
        }
        cr_assert_eq(field(m, "normal"), 0);
        rk_message_release(m);
    }
    cr_assert_eq(ended, (1u << N) - 1);
    cr_assert_eq(rk_receive(&m, 50000000), RK_ETIMEOUT);
}

Test(flow, links_and_monitors_can_be_undone)
{
    rk_message *m;
    rk_pid first = spawn(fails, NULL, NULL, 0, 0), second = spawn(sleeps, NULL, NULL, 0, 0);
    rk_link(first, second);
    rk_link(first, RK_NOBODY);
    rk_monitor(first);
    cr_assert_eq(rk_unlink(second, first), 0);
    cr_assert_eq(rk_unlink(first, RK_NOBODY), 0);
    cr_assert_eq(rk_demonitor(first), 0);
    poke(first);
    cr_assert_eq(rk_receive(&m, 100000000), RK_ETIMEOUT);
    rk_info info;
    cr_assert_eq(rk_inspect(second, &info), 0);
    cr_assert_eq(rk_inspect(first, &info), RK_EDEAD);
}

Test(flow, linking_to_the_dead_or_to_oneself)
{
    rk_message *m;
    rk_pid dead = spawn(sleeps, NULL, NULL, 0, 0), alive = spawn(sleeps, NULL, "alive", 0, 0);
    rk_terminate(dead, "long ago", 10 * SECOND);
    cr_assert_eq(rk_link(dead, RK_NOBODY), 0);
    m = next_of("exit");
    cr_assert(says(m, "long ago") && field(m, "normal") == 0);
    rk_message_release(m);
    rk_monitor(alive);
    cr_assert_eq(rk_link(alive, dead), 0); /* the second side is the dead one */
    m = next_of("down");
    cr_assert(says(m, "long ago") && field(m, "normal") == 0);
    rk_message_release(m);
    cr_assert_eq(rk_link(rk_self(), RK_NOBODY), RK_ESELF);
    cr_assert_eq(rk_trap_exit(false, NULL), RK_EINVAL);
    bool before = false;
    cr_assert(rk_trap_exit(true, &before) == 0 && before);
}

Test(flow, a_killed_actor_did_not_end_normally)
{
    rk_message *m;
    rk_pid pid = spawn(sleeps, NULL, NULL, 0, 0);
    rk_monitor(pid);
    rk__actor_kill(pid, "no more", 10 * SECOND);
    m = next_of("down");
    cr_assert(says(m, "no more") && field(m, "normal") == 0);
    rk_message_release(m);
}

/* ---- mail that is refused ---- */

static int64_t taken[64];
static uint32_t taken_count;
static pthread_barrier_t gate;

/* Waits at the gate before it takes mail; notes the numbers. */
static int takes(void *arg)
{
    rk_message *m;
    int code;
    pthread_barrier_wait(&gate);
    while ((code = rk_receive(&m, -1)) == 0) {
        if (rk_message_type(m) == number) {
            taken[taken_count % 64] = field(m, "n");
            __atomic_add_fetch(&taken_count, 1, __ATOMIC_RELEASE);
        }
        rk_message_release(m);
    }
    (void)arg;
    return code;
}

static void await_taken(uint32_t count)
{
    while (__atomic_load_n(&taken_count, __ATOMIC_ACQUIRE) < count) {
        usleep(1000);
    }
}

static rk_stats stats(void)
{
    rk_stats out;
    cr_assert_eq(rk_runtime_stats(rt, &out), 0);
    return out;
}

Test(flow, an_expired_message_is_a_dead_letter_and_others_are_not)
{
    pthread_barrier_init(&gate, NULL, 2);
    rk_pid pid = spawn(takes, NULL, NULL, 0, 0);
    rk_message *soon = make(1), *late = make(2), *never = make(3);
    rk_message_set_ttl(soon, 1);
    rk_message_set_ttl(late, 100 * SECOND);
    rk_message_set_ttl(never, -1);
    rk_send(pid, soon, -1);
    rk_send(pid, late, -1);
    rk_send(pid, never, -1);
    pthread_barrier_wait(&gate);
    await_taken(2);
    cr_assert(taken[0] == 2 && taken[1] == 3);
    cr_assert(stats().expired == 1 && stats().dead_letters == 1 && stats().dropped == 0);
    rk_dead_letter letter;
    cr_assert_eq(rk_dead_letters(rt, 0, &letter, 1), 1);
    cr_assert(letter.code == RK_EEXPIRED && letter.to == pid && letter.from == rk_self());
    cr_assert_eq(field(letter.message, "n"), 1);
    cr_assert_str_eq(rk_dead_letter_reason(letter.code), "expired");
    rk_message_release(letter.message);
}

Test(flow, a_call_that_expires_is_answered)
{
    rk_message *answer;
    pthread_barrier_init(&gate, NULL, 2);
    rk_pid pid = spawn(takes, NULL, NULL, 0, 0);
    rk_message *m = make(1);
    rk_message_set_ttl(m, 0);
    pthread_barrier_wait(&gate);
    cr_assert_eq(rk_call(pid, m, &answer, 10 * SECOND), RK_EEXPIRED);
    cr_assert(strstr(rk_errdetail(), "did not take the message in time") != NULL);
}

Test(flow, the_same_message_is_taken_once)
{
    pthread_barrier_init(&gate, NULL, 2);
    rk_pid pid = spawn(takes, NULL, NULL, 0, 2);
    rk_message *again[3], *first = make(1);
    for (int i = 0; i < 3; i++) {
        rk_message_share(&again[i], first);
    }
    rk_send(pid, first, -1);
    rk_send(pid, again[0], -1); /* known */
    rk_send(pid, make(2), -1);
    rk_send(pid, again[1], -1); /* known */
    rk_send(pid, make(3), -1);
    rk_send(pid, again[2], -1); /* forgotten: two others came after it */
    pthread_barrier_wait(&gate);
    await_taken(4);
    cr_assert(taken[0] == 1 && taken[1] == 2 && taken[2] == 3 && taken[3] == 1);
    cr_assert(stats().rejected == 2 && stats().dead_letters == 2);
}

/* The window against a plain list of the last ids. */
Test(flow, the_window_of_ids_agrees_with_a_list)
{
    enum { WINDOW = 5, IDS = 12, STEPS = 20000 };
    rk__id list[STEPS], ids[IDS];
    rk_message *messages[IDS];
    uint64_t state = 42;
    uint32_t count = 0;
    rk__actor *self = rk__self_get();
    cr_assert_eq(rk__seen_open(self, WINDOW), 0);
    for (int i = 0; i < IDS; i++) {
        messages[i] = make(i);
        ids[i] = rk__body_id(messages[i]->body);
    }
    for (int step = 0; step < STEPS; step++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint32_t i = (uint32_t)(state >> 33) % IDS;
        bool known = false;
        for (uint32_t k = count > WINDOW ? count - WINDOW : 0; k < count; k++) {
            known = known || rk__id_equal(list[k], ids[i]);
        }
        cr_assert_eq(rk__admit(self, messages[i]), known ? RK_EREJECTED : 0, "step %d", step);
        if (!known) {
            list[count++] = ids[i];
        }
    }
    rk__seen_free(self);
    for (int i = 0; i < IDS; i++) {
        rk_message_release(messages[i]);
    }
}

/* ---- dead letters ---- */

static void lose(rk_pid pid, int64_t n)
{
    rk__bury(pid, make(n), RK_EDEAD);
}

Test(flow, the_last_letters_are_kept_in_order)
{
    rk_dead_letter letters[8];
    rk_pid pid = spawn(sleeps, NULL, "reader", 0, 0);
    for (int i = 1; i <= 6; i++) {
        lose(pid, i);
    }
    cr_assert_eq(rk_dead_letters(rt, 0, letters, 8), 4);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(letters[i].number, (uint64_t)i + 3);
        cr_assert_eq(field(letters[i].message, "n"), i + 3);
        cr_assert_str_eq(letters[i].to_name, "reader");
        rk_message_release(letters[i].message);
    }
    rk_dead_letters_clear(rt);
    cr_assert_eq(rk_dead_letters(rt, 0, letters, 8), 0);
    cr_assert_eq(stats().dead_letters, 6);
}

Test(flow, a_letter_is_sent_again_to_whom_has_the_name_now)
{
    pthread_barrier_init(&gate, NULL, 2);
    rk_pid old = spawn(sleeps, NULL, "service", 0, 0);
    lose(old, 5);
    lose(old, 6);
    cr_assert_eq(rk_terminate(old, NULL, 10 * SECOND), 0);
    cr_assert_eq(rk_dead_letter_replay(rt, 1, RK_NOBODY), RK_EDEAD);
    cr_assert_eq(rk_dead_letters(rt, 0, NULL, 0), 2, "a letter that cannot be sent stays");
    rk_pid now = spawn(takes, NULL, "service", 0, 0);
    pthread_barrier_wait(&gate);
    cr_assert_eq(rk_dead_letter_replay(rt, 1, RK_NOBODY), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_dead_letter_replay(rt, 2, now), 0, "%s", rk_errdetail());
    await_taken(2);
    cr_assert(taken[0] == 5 && taken[1] == 6);
    cr_assert_eq(rk_dead_letter_replay(rt, 1, RK_NOBODY), RK_ENOENT);
    cr_assert(strstr(rk_errdetail(), "dead letter 1 is not kept") != NULL);
}

Test(flow, a_letter_that_meets_a_full_mailbox_stays_where_it_was)
{
    rk_dead_letter letters[4];
    pthread_barrier_init(&gate, NULL, 2);
    rk_options options = RK_OPTIONS_INIT;
    rk_pid pid;
    options.mailbox = 1;
    options.full = RK_FULL_REJECT;
    cr_assert_eq(rk_spawn_c(rt, &pid, takes, NULL, &options), 0);
    poke(pid);
    for (int i = 1; i <= 3; i++) {
        lose(pid, i);
    }
    cr_assert_eq(rk_dead_letter_replay(rt, 2, RK_NOBODY), RK_EFULL);
    cr_assert_eq(rk_dead_letters(rt, 0, letters, 4), 3);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(letters[i].number, (uint64_t)i + 1);
        rk_message_release(letters[i].message);
    }
    pthread_barrier_wait(&gate);
}

Test(flow, large_letters_make_room_for_each_other)
{
    rk_runtime *wide;
    rk_config config = RK_CONFIG_INIT;
    config.dead_letters = 1000;
    cr_assert_eq(rk__runtime_open(&wide, &config), 0);
    for (int i = 0; i < 600; i++) { /* of 64 KiB: 37 MiB in all */
        rk_message *m;
        cr_assert_eq(rk_message_new(&m, large), 0);
        rk__letters_keep(wide, rk_self(), m, RK_EDEAD);
    }
    int kept = rk_dead_letters(wide, 0, NULL, 0);
    cr_assert(kept > 200 && kept < 256, "%d", kept);
    cr_assert_eq(rk__runtime_close(wide, NULL), 0);
}

/* ---- blocked on each other ---- */

struct pair {
    rk_pid *to;
    pthread_barrier_t *start;
    int code;
    char text[512];
};

/* Sends until something is wrong with it. */
static int floods(void *arg)
{
    struct pair *p = arg;
    rk_message *m;
    pthread_barrier_wait(p->start);
    for (int i = 0; i < 100 && p->code == 0; i++) {
        rk_message *n = make(i);
        p->code = rk_send(*p->to, n, 20 * SECOND);
        if (p->code < 0) {
            rk_message_release(n);
            snprintf(p->text, sizeof p->text, "%s", rk_errdetail());
        }
    }
    int code;
    while ((code = rk_receive(&m, -1)) == 0) {
        rk_message_release(m);
    }
    return code;
}

static void flood_in_a_circle(uint32_t n)
{
    pthread_barrier_t start;
    rk_pid pids[4];
    struct pair pairs[4];
    int failed = 0;
    pthread_barrier_init(&start, NULL, n + 1);
    for (uint32_t i = 0; i < n; i++) {
        pairs[i] = (struct pair){&pids[(i + 1) % n], &start, 0, ""};
        pids[i] = spawn(floods, &pairs[i], NULL, 4, 0);
    }
    pthread_barrier_wait(&start);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert_eq(rk_terminate(pids[i], NULL, 10 * SECOND), 0, "%s", rk_errdetail());
    }
    for (uint32_t i = 0; i < n; i++) {
        failed += pairs[i].code == RK_EDEADLOCK;
        cr_assert(pairs[i].code == 0 || pairs[i].code == RK_EDEADLOCK || pairs[i].code == RK_EDEAD,
                  "%s", pairs[i].text);
        cr_assert(pairs[i].code != RK_EDEADLOCK ||
                  strstr(pairs[i].text, "which waits for room in the mailbox of") != NULL);
    }
    cr_assert(failed >= 1);
}

Test(flow, two_actors_that_block_on_each_other_are_told)
{
    flood_in_a_circle(2);
}

Test(flow, a_circle_of_four_is_found)
{
    flood_in_a_circle(4);
}

/* ---- closing ---- */

static int works_off(void *arg)
{
    rk_message *m;
    int code;
    while ((code = rk_receive(&m, -1)) == 0) {
        usleep(2000);
        __atomic_add_fetch((uint32_t *)arg, 1, __ATOMIC_RELAXED);
        rk_message_release(m);
    }
    return code;
}

static bool hang;
static int hangs(void *arg)
{
    (void)arg;
    while (!__atomic_load_n(&hang, __ATOMIC_RELAXED)) {
        usleep(1000);
    }
    return 0;
}

static uint32_t work_off(int64_t drain)
{
    uint32_t done = 0;
    rk_runtime *other, *before = rt;
    rk_config config = RK_CONFIG_INIT;
    config.drain = drain;
    cr_assert_eq(rk__runtime_open(&other, &config), 0);
    rt = other;
    rk_pid pid = spawn(works_off, &done, NULL, 0, 0);
    rt = before;
    for (int i = 0; i < 50; i++) {
        poke(pid);
    }
    cr_assert_eq(rk__runtime_close(other, NULL), 0, "%s", rk_errdetail());
    return done;
}

Test(flow, closing_drains_as_long_as_it_may)
{
    cr_assert_eq(work_off(60 * SECOND), 50);
    cr_assert_lt(work_off(0), 50);
}

static void *let_go(void *arg)
{
    (void)arg;
    usleep(600000);
    __atomic_store_n(&hang, true, __ATOMIC_RELAXED);
    return NULL;
}

Test(flow, closing_tells_whom_it_had_to_kill)
{
    rk_runtime *other, *before = rt;
    rk_config config = RK_CONFIG_INIT;
    rk__strbuf killed = RK__STRBUF_INIT;
    pthread_t thread;
    config.stop_timeout = 100000000;
    cr_assert_eq(rk__runtime_open(&other, &config), 0);
    rt = other;
    spawn(sleeps, NULL, "good", 0, 0);
    spawn(hangs, NULL, "bad", 0, 0);
    rt = before;
    pthread_create(&thread, NULL, let_go, NULL);
    cr_assert_eq(rk__runtime_close(other, &killed), 1);
    cr_assert(killed.size > 0 && strstr(killed.bytes, "\"bad\"") != NULL &&
              strlen(killed.bytes) + 1 == killed.size);
    rk__strbuf_free(&killed);
    pthread_join(thread, NULL);
}
