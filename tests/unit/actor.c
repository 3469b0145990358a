/* actor.c -- mailboxes, calls, lifecycle, names, monitors, ports and dead letters through rk.h. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "actor/runtime.h"
#include "rk.h"

#define SECOND 1000000000LL

static const rk_type *number;
static rk_runtime *rt;

static void open_runtime(void)
{
    static const rk_field fields[] = {{"n", "i64"}};
    rk_config config = RK_CONFIG_INIT;
    cr_assert_eq(rk_message_define(&number, "Number", fields, 1), 0, "%s", rk_errdetail());
    cr_assert_eq(rk__runtime_open(&rt, &config), 0, "%s", rk_errdetail());
}

static void close_runtime(void)
{
    cr_assert_eq(rk__runtime_close(rt, NULL), 0, "%s", rk_errdetail());
}

TestSuite(actor, .init = open_runtime, .fini = close_runtime, .timeout = 60);

static rk_message *make(int64_t n, int priority)
{
    rk_message *m;
    cr_assert_eq(rk_message_new(&m, number), 0);
    rk_set_int(m, "n", n);
    rk_message_set_priority(m, priority);
    return m;
}

static int64_t value(rk_message *m)
{
    int64_t n = -1;
    cr_assert_eq(rk_get_int(m, "n", &n), 0, "%s", rk_errdetail());
    return n;
}

static void send_number(rk_pid to, int64_t n, int priority)
{
    cr_assert_eq(rk_send(to, make(n, priority), -1), 0, "%s", rk_errdetail());
}

/* Answers every number with its double; 13 fails the actor, 14 is dropped unanswered. */
static int doubler(void *arg)
{
    (void)arg;
    rk_message *m, *answer;
    while (rk_receive(&m, -1) == 0) {
        int64_t n = value(m);
        if (n == 13) {
            rk_message_release(m);
            return RK_EHANDLER;
        }
        if (n != 14) {
            rk_message_new(&answer, number);
            rk_set_int(answer, "n", 2 * n);
            rk_reply(m, answer);
        }
        rk_message_release(m);
    }
    return 0;
}

static rk_pid spawn(rk_actor_fn fn, void *arg, const char *name, uint32_t bound, enum rk_full full)
{
    rk_options options = RK_OPTIONS_INIT;
    rk_pid pid;
    options.name = name;
    options.mailbox = bound;
    options.full = full;
    cr_assert_eq(rk_spawn_c(rt, &pid, fn, arg, &options), 0, "%s", rk_errdetail());
    return pid;
}

static int call(rk_pid to, int64_t n, int64_t *result, int64_t timeout)
{
    rk_message *m = make(n, 128), *answer;
    int code = rk_call(to, m, &answer, timeout);
    if (code == 0) {
        *result = value(answer);
        rk_message_release(answer);
    }
    return code;
}

Test(actor, a_call_is_answered)
{
    int64_t n = 0;
    rk_pid pid = spawn(doubler, NULL, "doubler", 0, RK_FULL_BLOCK);
    for (int i = 20; i < 1020; i++) {
        cr_assert_eq(call(pid, i, &n, 5 * SECOND), 0, "%s", rk_errdetail());
        cr_assert_eq(n, 2 * i);
    }
}

Test(actor, an_answer_carries_sender_and_correlation)
{
    rk_pid pid = spawn(doubler, NULL, NULL, 0, RK_FULL_BLOCK);
    rk_message *m = make(5, 128), *copy, *answer;
    uint8_t id[16], correlation[16];
    cr_assert_eq(rk_message_share(&copy, m), 0);
    rk_message_id(copy, id);
    cr_assert_eq(rk_call(pid, m, &answer, -1), 0);
    cr_assert_eq(rk_message_from(answer), pid);
    cr_assert(rk_message_correlation(answer, correlation));
    cr_assert_arr_eq(id, correlation, 16);
    rk_message_release(answer);
    rk_message_release(copy);
}

Test(actor, an_answer_to_a_plain_send_is_mail)
{
    rk_pid pid = spawn(doubler, NULL, NULL, 0, RK_FULL_BLOCK);
    rk_message *m;
    send_number(pid, 21, 128);
    cr_assert_eq(rk_receive(&m, 5 * SECOND), 0);
    cr_assert_eq(value(m), 42);
    cr_assert_eq(rk_message_from(m), pid);
    rk_message_release(m);
}

Test(actor, a_failing_actor_answers_its_caller_at_once)
{
    int64_t n;
    rk_pid pid = spawn(doubler, NULL, "fragile", 0, RK_FULL_BLOCK);
    int code = call(pid, 13, &n, -1);
    cr_assert(code == RK_ENOREPLY || code == RK_EDEAD, "%s", rk_errdetail());
    code = call(pid, 1, &n, -1);
    cr_assert_eq(code, RK_EDEAD, "%d %s", code, rk_errdetail());
}

Test(actor, a_dropped_request_is_answered)
{
    int64_t n;
    rk_pid pid = spawn(doubler, NULL, "forgetful", 0, RK_FULL_BLOCK);
    cr_assert_eq(call(pid, 14, &n, -1), RK_ENOREPLY);
    cr_assert(strstr(rk_errdetail(), "forgetful") != NULL, "%s", rk_errdetail());
    cr_assert_eq(call(pid, 15, &n, -1), 0);
}

static int silent(void *arg)
{
    rk_message *m, *kept[64];
    int count = 0;
    while (rk_receive(&m, -1) == 0) {
        kept[count++] = m; /* never answered, never released */
        __atomic_add_fetch((int *)arg, 1, __ATOMIC_SEQ_CST);
    }
    for (int i = 0; i < count; i++) {
        rk_message_release(kept[i]);
    }
    return 0;
}

static void *call_in_thread(void *arg)
{
    int64_t n;
    return (void *)(intptr_t)call(*(rk_pid *)arg, 1, &n, -1);
}

Test(actor, a_call_to_an_actor_that_ends_is_answered)
{
    int got = 0;
    void *result;
    pthread_t thread;
    rk_pid pid = spawn(silent, &got, "silent", 0, RK_FULL_BLOCK);
    pthread_create(&thread, NULL, call_in_thread, &pid);
    while (__atomic_load_n(&got, __ATOMIC_SEQ_CST) == 0) {
        usleep(100);
    }
    cr_assert_eq(rk_terminate(pid, "enough", -1), 0, "%s", rk_errdetail());
    pthread_join(thread, &result);
    cr_assert((intptr_t)result == RK_ENOREPLY || (intptr_t)result == RK_EDEAD);
}

Test(actor, a_call_times_out_and_the_late_answer_is_counted)
{
    rk_stats stats;
    int64_t n;
    int got = 0;
    rk_pid pid = spawn(silent, &got, NULL, 0, RK_FULL_BLOCK);
    cr_assert_eq(call(pid, 1, &n, SECOND / 50), RK_ETIMEOUT);
    cr_assert_eq(rk_terminate(pid, NULL, -1), 0);
    rk_message *m;
    cr_assert_eq(rk_receive(&m, 0), RK_ETIMEOUT); /* looks at the late answer */
    rk_runtime_stats(rt, &stats);
    cr_assert_eq(stats.late_replies, 1);
}

Test(actor, bands_overtake_and_keep_their_order)
{
    static const int priorities[] = {10, 128, 200, 255, 63, 64, 160, 224};
    static const int64_t expected[] = {4, 8, 3, 7, 2, 6, 1, 5};
    for (int i = 0; i < 8; i++) {
        send_number(rk_self(), i + 1, priorities[i]);
    }
    for (int i = 0; i < 8; i++) {
        rk_message *m;
        cr_assert_eq(rk_receive(&m, 0), 0);
        cr_assert_eq(value(m), expected[i], "place %d", i);
        rk_message_release(m);
    }
}

Test(actor, urgent_mail_overtakes_mail_already_taken_in)
{
    rk_message *m;
    for (int i = 0; i < 5; i++) {
        send_number(rk_self(), i, 128);
    }
    cr_assert_eq(rk_receive(&m, 0), 0);
    rk_message_release(m);
    send_number(rk_self(), 99, 200);
    cr_assert_eq(rk_receive(&m, 0), 0);
    cr_assert_eq(value(m), 99);
    rk_message_release(m);
    for (int i = 1; i < 5; i++) {
        cr_assert_eq(rk_receive(&m, 0), 0);
        cr_assert_eq(value(m), i);
        rk_message_release(m);
    }
}

static bool is_even(const rk_message *m, void *arg)
{
    int64_t n;
    (void)arg;
    return rk_get_int(m, "n", &n) == 0 && n % 2 == 0;
}

Test(actor, selective_receive_leaves_the_rest_in_order)
{
    rk_message *m;
    for (int i = 1; i <= 6; i++) {
        send_number(rk_self(), i, 128);
    }
    static const int64_t expected[] = {2, 4, 6};
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(rk_receive_if(&m, is_even, NULL, 0), 0);
        cr_assert_eq(value(m), expected[i]);
        rk_message_release(m);
    }
    cr_assert_eq(rk_receive_if(&m, is_even, NULL, 1000000), RK_ETIMEOUT);
    for (int i = 1; i <= 5; i += 2) {
        cr_assert_eq(rk_receive(&m, 0), 0);
        cr_assert_eq(value(m), i);
        rk_message_release(m);
    }
}

struct gate {
    int open; /* atomic */
    int64_t seen[64];
    int count; /* atomic */
};

/* Waits for the gate, then records what it receives until told to stop. */
static int recorder(void *arg)
{
    struct gate *gate = arg;
    rk_message *m;
    while (!__atomic_load_n(&gate->open, __ATOMIC_SEQ_CST)) {
        usleep(100);
    }
    while (rk_receive(&m, -1) == 0) {
        int64_t n = value(m);
        rk_message_release(m);
        gate->seen[gate->count] = n;
        __atomic_add_fetch(&gate->count, 1, __ATOMIC_SEQ_CST);
    }
    return 0;
}

static void open_and_wait(struct gate *gate, int count)
{
    __atomic_store_n(&gate->open, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&gate->count, __ATOMIC_SEQ_CST) < count) {
        usleep(100);
    }
}

Test(actor, a_full_mailbox_that_rejects)
{
    static struct gate gate = {0};
    rk_pid pid = spawn(recorder, &gate, "small", 4, RK_FULL_REJECT);
    for (int i = 0; i < 4; i++) {
        send_number(pid, i, 128);
    }
    rk_message *m = make(9, 128);
    cr_assert_eq(rk_send(pid, m, -1), RK_EFULL);
    cr_assert(strstr(rk_errdetail(), "small") != NULL);
    cr_assert_eq(rk_message_size(m), 8); /* still ours */
    rk_message_release(m);
    open_and_wait(&gate, 4);
    send_number(pid, 4, 128);
    open_and_wait(&gate, 5);
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(gate.seen[i], i);
    }
}

struct letters {
    int count, codes[64];
    int64_t values[64];
};

static void collect(void *arg, rk_message *m, rk_pid to, int code)
{
    struct letters *letters = arg;
    (void)to;
    letters->codes[letters->count] = code;
    letters->values[letters->count++] = value(m);
}

Test(actor, a_full_mailbox_that_drops_the_newest)
{
    static struct gate gate = {0};
    static struct letters letters = {0};
    rk_info info;
    rk_on_dead_letter(rt, collect, &letters);
    rk_pid pid = spawn(recorder, &gate, NULL, 4, RK_FULL_DROP_NEWEST);
    for (int i = 0; i < 7; i++) {
        send_number(pid, i, 128);
    }
    cr_assert_eq(rk_inspect(pid, &info), 0);
    cr_assert_eq(info.dropped, 3);
    cr_assert_eq(info.depth[1], 4);
    open_and_wait(&gate, 4);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(gate.seen[i], i);
    }
    cr_assert_eq(letters.count, 3);
    cr_assert_eq(letters.values[0], 4);
    cr_assert_eq(letters.codes[0], RK_EFULL);
    rk_on_dead_letter(rt, NULL, NULL);
}

Test(actor, a_full_mailbox_that_drops_the_oldest)
{
    static struct gate gate = {0};
    static struct letters letters = {0};
    rk_on_dead_letter(rt, collect, &letters);
    rk_pid pid = spawn(recorder, &gate, NULL, 4, RK_FULL_DROP_OLDEST);
    for (int i = 0; i < 7; i++) {
        send_number(pid, i, 128);
    }
    open_and_wait(&gate, 4);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(gate.seen[i], i + 3);
    }
    cr_assert_eq(letters.count, 3);
    cr_assert_eq(letters.values[0], 0);
    rk_on_dead_letter(rt, NULL, NULL);
}

Test(actor, a_full_mailbox_that_blocks)
{
    static struct gate gate = {0};
    rk_pid pid = spawn(recorder, &gate, "slow", 4, RK_FULL_BLOCK);
    for (int i = 0; i < 4; i++) {
        send_number(pid, i, 128);
    }
    rk_message *m = make(4, 128);
    cr_assert_eq(rk_send(pid, m, SECOND / 100), RK_ETIMEOUT);
    cr_assert_eq(rk_send(pid, m, 0), RK_ETIMEOUT);
    __atomic_store_n(&gate.open, 1, __ATOMIC_SEQ_CST);
    cr_assert_eq(rk_send(pid, m, -1), 0, "%s", rk_errdetail());
    for (int i = 5; i < 40; i++) {
        send_number(pid, i, 128);
    }
    open_and_wait(&gate, 40);
    for (int i = 0; i < 40; i++) {
        cr_assert_eq(gate.seen[i], i);
    }
}

static int send_to_self(void *arg)
{
    rk_message *m;
    int code;
    for (;;) {
        rk_message_new(&m, number);
        code = rk_send(rk_self(), m, -1);
        if (code < 0) {
            break;
        }
    }
    rk_message_release(m);
    *(int *)arg = code;
    return 0;
}

Test(actor, a_blocking_send_to_oneself_is_an_error)
{
    int code = 0;
    rk_pid pid = spawn(send_to_self, &code, NULL, 8, RK_FULL_BLOCK);
    cr_assert_eq(rk_monitor(pid), 0);
    rk_message *m;
    cr_assert_eq(rk_receive(&m, -1), 0);
    rk_message_release(m);
    cr_assert_eq(code, RK_ESELF);
    int64_t n;
    cr_assert_eq(call(rk_self(), 1, &n, -1), RK_ESELF);
}

Test(actor, a_stale_pid_is_an_error_never_someone_else)
{
    rk_pid first = spawn(doubler, NULL, "first", 0, RK_FULL_BLOCK), later;
    static struct letters letters = {0};
    rk_on_dead_letter(rt, collect, &letters);
    cr_assert_eq(rk_terminate(first, "done with it", -1), 0);
    rk_message *m = make(1, 128);
    cr_assert_eq(rk_send(first, m, -1), RK_EDEAD);
    cr_assert(strstr(rk_errdetail(), "done with it") != NULL, "%s", rk_errdetail());
    rk_message_release(m);
    for (int i = 0; i < 600; i++) { /* until the slot is in use again */
        later = spawn(doubler, NULL, NULL, 0, RK_FULL_BLOCK);
        if ((later & 0xffffff) == (first & 0xffffff)) {
            break;
        }
        rk_terminate(later, NULL, -1);
    }
    cr_assert_eq(later & 0xffffff, first & 0xffffff);
    cr_assert_neq(later, first);
    int64_t n;
    cr_assert_eq(call(first, 1, &n, -1), RK_EDEAD);
    cr_assert_eq(call(later, 1, &n, -1), 0);
    rk_on_dead_letter(rt, NULL, NULL);
}

Test(actor, mail_left_behind_becomes_dead_letters)
{
    static struct gate gate = {0};
    static struct letters letters = {0};
    rk_on_dead_letter(rt, collect, &letters);
    rk_options options = RK_OPTIONS_INIT;
    rk_pid pid = spawn(recorder, &gate, NULL, 0, RK_FULL_BLOCK);
    (void)options;
    for (int i = 0; i < 3; i++) {
        send_number(pid, i, 128);
    }
    cr_assert_eq(rk_terminate(pid, NULL, 0), 0); /* asked, while it does not listen */
    __atomic_store_n(&gate.open, 1, __ATOMIC_SEQ_CST);
    cr_assert_eq(rk_wait(rt, 10 * SECOND), 0);
    cr_assert_eq(letters.count + gate.count, 3);
    cr_assert_eq(letters.count, 3); /* the stop request overtakes mail */
    cr_assert_eq(letters.codes[0], RK_EDEAD);
    rk_on_dead_letter(rt, NULL, NULL);
}

Test(actor, monitors_tell_once_and_the_reason)
{
    rk_message *m;
    const void *reason;
    size_t size;
    int64_t n;
    rk_pid pid = spawn(doubler, NULL, NULL, 0, RK_FULL_BLOCK);
    cr_assert_eq(rk_monitor(pid), 0);
    call(pid, 13, &n, -1);
    cr_assert_eq(rk_receive(&m, -1), 0);
    cr_assert_str_eq(rk_type_name(rk_message_type(m)), "down");
    rk_get_int(m, "pid", &n);
    cr_assert_eq((rk_pid)n, pid);
    rk_message_release(m);
    cr_assert_eq(rk_monitor(pid), 0); /* dead already: told at once */
    cr_assert_eq(rk_receive(&m, -1), 0);
    rk_get_bytes(m, "reason", &reason, &size);
    cr_assert(size > 0);
    rk_message_release(m);
    cr_assert_eq(rk_receive(&m, 0), RK_ETIMEOUT);
}

Test(actor, illegal_transitions_name_both_states)
{
    rk_pid pid = spawn(doubler, NULL, "states", 0, RK_FULL_BLOCK);
    cr_assert_eq(rk_activate(pid), RK_ESTATE);
    cr_assert(strstr(rk_errdetail(), "ACTIVE") && strstr(rk_errdetail(), "LAUNCHED"), "%s",
              rk_errdetail());
    cr_assert_eq(rk_reactivate(pid), RK_ESTATE);
    cr_assert_eq(rk_deactivate(pid), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_deactivate(pid), RK_ESTATE);
    cr_assert_eq(rk_reactivate(pid), 0);
    cr_assert_eq(rk_terminate(pid, NULL, -1), 0);
    cr_assert_eq(rk_terminate(pid, NULL, -1), RK_EDEAD);
    cr_assert_eq(rk_terminate(rk_self(), NULL, 0), RK_EINVAL);
}

Test(actor, deactivated_actors_keep_their_mail)
{
    static struct gate gate = {.open = 1};
    rk_pid pid = spawn(recorder, &gate, NULL, 0, RK_FULL_BLOCK);
    cr_assert_eq(rk_deactivate(pid), 0, "%s", rk_errdetail());
    for (int i = 0; i < 5; i++) {
        send_number(pid, i, 128);
    }
    usleep(20000);
    cr_assert_eq(gate.count, 0);
    rk_info info;
    cr_assert_eq(rk_inspect(pid, &info), 0);
    cr_assert_eq(info.state, RK_DEACTIVATED);
    cr_assert_eq(info.depth[1], 5);
    cr_assert_eq(rk_reactivate(pid), 0);
    open_and_wait(&gate, 5);
    cr_assert_eq(rk_deactivate(pid), 0);
    cr_assert_eq(rk_terminate(pid, NULL, -1), 0);
}

Test(actor, names)
{
    rk_pid pid = spawn(doubler, NULL, "one", 0, RK_FULL_BLOCK), found = 0;
    rk_options options = RK_OPTIONS_INIT;
    options.name = "one";
    cr_assert_eq(rk_spawn_c(rt, &found, doubler, NULL, &options), RK_EEXIST);
    cr_assert_eq(found, 0);
    cr_assert_eq(rk_whereis(rt, "one", &found), 0);
    cr_assert_eq(found, pid);
    cr_assert_eq(rk_whereis(rt, "two", &found), RK_ENOENT);
    cr_assert(strstr(rk_errdetail(), "\"one\"") != NULL, "%s", rk_errdetail());
    cr_assert_eq(rk_register(rt, "me", rk_self()), 0);
    cr_assert_eq(rk_whereis(rt, "me", &found), 0);
    cr_assert_eq(found, rk_self());
    cr_assert_eq(rk_terminate(pid, NULL, -1), 0);
    cr_assert_eq(rk_whereis(rt, "one", &found), RK_ENOENT);
    spawn(doubler, NULL, "one", 0, RK_FULL_BLOCK);
    char text[RK_PID_TEXT];
    cr_assert_eq(rk_whereis(rt, "one", &found), 0);
    cr_assert(strstr(rk_pid_format(found, text), "\"one\"") != NULL);
}

Test(actor, replies_to_named_sends_collect_in_the_output)
{
    spawn(doubler, NULL, "worker", 0, RK_FULL_BLOCK);
    rk_message *m;
    for (int i = 20; i < 25; i++) {
        cr_assert_eq(rk_send_named(rt, "worker", make(i, 128), -1), 0);
    }
    for (int i = 20; i < 25; i++) {
        cr_assert_eq(rk_output(rt, "worker", &m, 5 * SECOND), 0, "%s", rk_errdetail());
        cr_assert_eq(value(m), 2 * i);
        rk_message_release(m);
    }
    cr_assert_eq(rk_output(rt, "worker", &m, 1000000), RK_ETIMEOUT);
    m = make(1, 128);
    cr_assert_eq(rk_send_named(rt, "nobody", m, -1), RK_ENOENT);
    rk_message_release(m);
}

static int stop_twice(void *arg)
{
    rk_message *m;
    int *codes = arg;
    codes[0] = rk_receive(&m, -1);
    codes[1] = rk_receive(&m, 0);
    codes[2] = rk_should_terminate();
    return 0;
}

Test(actor, stop_is_reported_once)
{
    int codes[3] = {0};
    rk_pid pid = spawn(stop_twice, codes, NULL, 0, RK_FULL_BLOCK);
    cr_assert_eq(rk_terminate(pid, "why not", -1), 0);
    cr_assert_eq(codes[0], RK_ESTOP);
    cr_assert_eq(codes[1], RK_ETIMEOUT);
    cr_assert_eq(codes[2], 1);
}

static void *interrupt_soon(void *arg)
{
    usleep(20000);
    rk_interrupt(arg);
    return NULL;
}

Test(actor, interrupt_ends_a_wait_of_the_port)
{
    rk_message *m;
    pthread_t thread;
    spawn(doubler, NULL, NULL, 0, RK_FULL_BLOCK);
    pthread_create(&thread, NULL, interrupt_soon, rt);
    cr_assert_eq(rk_receive(&m, -1), RK_EINTR);
    pthread_join(thread, NULL);
    cr_assert_eq(rk_receive(&m, 0), RK_ETIMEOUT);
    cr_assert_eq(rk_wait(rt, 1000000), RK_ETIMEOUT); /* one interrupt is reported once */
    rk_interrupt(rt);
    cr_assert_eq(rk_wait(rt, -1), RK_EINTR);
    cr_assert_eq(rk_receive(&m, 0), RK_ETIMEOUT);
}

Test(actor, a_forked_child_gets_an_error)
{
    rk_self();
    pid_t child = fork();
    if (child == 0) {
        rk_message *m;
        rk_pid pid;
        int ok = rk_self() == RK_NOBODY && rk_receive(&m, 0) == RK_EFORK &&
                 rk_spawn_c(rt, &pid, doubler, NULL, NULL) == RK_EFORK &&
                 rk__runtime_close(rt, NULL) == RK_EFORK && strstr(rk_errdetail(), "fork") != NULL;
        _exit(ok ? 7 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    cr_assert_eq(WEXITSTATUS(status), 7);
}

Test(actor, watching_twice_tells_once_and_nobody_watches_himself)
{
    rk_message *m;
    rk_pid pid = spawn(doubler, NULL, NULL, 0, RK_FULL_BLOCK);
    cr_assert_eq(rk_monitor(pid), 0);
    cr_assert_eq(rk_monitor(pid), 0);
    cr_assert_eq(rk_monitor(rk_self()), RK_ESELF);
    cr_assert_eq(rk_terminate(pid, NULL, -1), 0);
    cr_assert_eq(rk_receive(&m, 5 * SECOND), 0);
    rk_message_release(m);
    cr_assert_eq(rk_receive(&m, 10000000), RK_ETIMEOUT);
}

/* Takes one message per token that the test puts into the gate. */
static int stepper(void *arg)
{
    struct gate *gate = arg;
    rk_message *m;
    for (int taken = 0;; taken++) {
        while (__atomic_load_n(&gate->open, __ATOMIC_SEQ_CST) <= taken) {
            if (rk_should_terminate()) {
                return 0;
            }
            usleep(100);
        }
        if (rk_receive(&m, -1) < 0) {
            return 0;
        }
        gate->seen[gate->count] = value(m);
        rk_message_release(m);
        __atomic_add_fetch(&gate->count, 1, __ATOMIC_SEQ_CST);
    }
}

static void *send_one(void *arg)
{
    return (void *)(intptr_t)rk_send(*(rk_pid *)arg, make(100, 128), 10 * SECOND);
}

Test(actor, a_blocked_sender_gets_the_first_free_place)
{
    static struct gate gate = {0};
    void *code;
    pthread_t thread;
    rk_pid pid = spawn(stepper, &gate, NULL, 4, RK_FULL_BLOCK);
    for (int i = 0; i < 4; i++) {
        send_number(pid, i, 128);
    }
    pthread_create(&thread, NULL, send_one, &pid);
    usleep(20000);
    open_and_wait(&gate, 1); /* one message leaves, three stay: there is room for one */
    pthread_join(thread, &code);
    cr_assert_eq((intptr_t)code, 0);
    cr_assert_eq(__atomic_load_n(&gate.count, __ATOMIC_SEQ_CST), 1);
}

Test(actor, depth_is_exact_when_bands_displace_each_other)
{
    static struct gate gate = {0};
    rk_info info;
    rk_pid pid = spawn(stepper, &gate, NULL, 4, RK_FULL_DROP_OLDEST);
    static const int priorities[] = {200, 200, 10, 10, 128, 128, 128, 128, 230};
    for (int i = 0; i < 9; i++) {
        send_number(pid, i, priorities[i]);
    }
    cr_assert_eq(rk_inspect(pid, &info), 0);
    cr_assert_eq(info.dropped, 5);
    cr_assert_eq(info.depth[0] + info.depth[1] + info.depth[2] + info.depth[3], 4);
    cr_assert_eq(info.depth[3], 1);
    __atomic_store_n(&gate.open, 4, __ATOMIC_SEQ_CST);
    open_and_wait(&gate, 1);
    __atomic_store_n(&gate.open, 4, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&gate.count, __ATOMIC_SEQ_CST) < 4) {
        usleep(100);
    }
    cr_assert_eq(rk_inspect(pid, &info), 0);
    cr_assert_eq(info.depth[0] + info.depth[1] + info.depth[2] + info.depth[3], 0);
}

static int returns_soon(void *arg)
{
    (void)arg;
    usleep(30000);
    return 0;
}

Test(actor, deactivating_an_actor_that_ends_does_not_wait_for_a_border)
{
    rk_pid pid = spawn(returns_soon, NULL, NULL, 0, RK_FULL_BLOCK);
    int code = rk_deactivate(pid);
    cr_assert_eq(code, RK_EDEAD, "%d %s", code, rk_errdetail());
}

static int close_inside(void *arg)
{
    *(int *)arg = rk__runtime_close(rt, NULL);
    return 0;
}

Test(actor, an_actor_cannot_close_its_own_runtime)
{
    int code = 0;
    rk_message *m;
    rk_pid pid = spawn(close_inside, &code, NULL, 0, RK_FULL_BLOCK);
    cr_assert_eq(rk_monitor(pid), 0);
    cr_assert_eq(rk_receive(&m, -1), 0);
    rk_message_release(m);
    cr_assert_eq(code, RK_ESELF);
}

static void *register_and_end(void *arg)
{
    cr_assert_eq(rk_register(rt, "passing", rk_self()), 0);
    return arg;
}

Test(actor, a_name_ends_with_its_owner)
{
    pthread_t thread;
    rk_pid found;
    pthread_create(&thread, NULL, register_and_end, NULL);
    pthread_join(thread, NULL);
    cr_assert_eq(rk_whereis(rt, "passing", &found), RK_ENOENT);
    cr_assert_eq(rk_register(rt, "passing", rk_self()), 0);
    cr_assert_eq(rk_whereis(rt, "passing", &found), 0);
    cr_assert_eq(found, rk_self());
}

Test(actor, a_message_that_was_received_can_be_sent_on)
{
    rk_pid pid = spawn(doubler, NULL, NULL, 0, RK_FULL_BLOCK);
    rk_message *m, *answer, *again;
    cr_assert_eq(rk_call(pid, make(4, 128), &answer, -1), 0);
    cr_assert_eq(rk_call(pid, answer, &again, 5 * SECOND), 0, "%s", rk_errdetail());
    cr_assert_eq(value(again), 16);
    cr_assert_eq(rk_send(rk_self(), again, -1), 0);
    cr_assert_eq(rk_receive(&m, 0), 0);
    cr_assert_eq(value(m), 16);
    rk_message_release(m);
}

static uint32_t awake_now(void)
{
    uint32_t sum = 0;
    for (int cpu = 0; cpu < 64; cpu++) {
        sum += rk__cpu_awake(cpu);
    }
    return sum;
}

Test(actor, threads_are_counted_out_as_they_end)
{
    int64_t n;
    uint32_t before = awake_now();
    for (int round = 0; round < 20; round++) {
        rk_pid pid = spawn(doubler, NULL, NULL, 0, RK_FULL_BLOCK);
        for (int i = 20; i < 120; i++) {
            cr_assert_eq(call(pid, i, &n, 5 * SECOND), 0);
            if (i % 10 == 0) {
                usleep(500); /* both sides park */
            }
        }
        cr_assert_eq(rk_deactivate(pid), 0);
        cr_assert_eq(rk_reactivate(pid), 0);
        cr_assert_eq(rk_terminate(pid, NULL, -1), 0);
    }
    for (int i = 0; i < 2000 && awake_now() != before; i++) {
        usleep(1000); /* the last thread leaves after its pid is stale */
    }
    cr_assert_eq(awake_now(), before);
}

Test(actor, structs_of_another_version_are_refused)
{
    rk_options options = RK_OPTIONS_INIT;
    rk_config config = RK_CONFIG_INIT;
    rk_runtime *other;
    rk_pid pid;
    options.size--;
    config.size++;
    cr_assert_eq(rk_spawn_c(rt, &pid, doubler, NULL, &options), RK_EINVAL);
    cr_assert_eq(rk__runtime_open(&other, &config), RK_EINVAL);
}

Test(actor, closing_stops_a_thousand)
{
    for (int i = 0; i < 1000; i++) {
        spawn(doubler, NULL, NULL, 0, RK_FULL_BLOCK);
    }
    rk_stats stats;
    rk_runtime_stats(rt, &stats);
    cr_assert_eq(stats.actors, 1000);
    cr_assert_eq(rk_actors(rt, NULL, 0), 1000);
}

static int stubborn(void *arg)
{
    while (!__atomic_load_n((int *)arg, __ATOMIC_SEQ_CST)) {
        usleep(1000);
    }
    return 0;
}

Test(actor_alone, close_reports_what_cannot_be_stopped, .timeout = 60)
{
    static int leave;
    rk_config config = RK_CONFIG_INIT;
    config.stop_timeout = SECOND / 20;
    rk_pid pid;
    cr_assert_eq(rk__runtime_open(&rt, &config), 0);
    cr_assert_eq(rk_spawn_c(rt, &pid, stubborn, &leave, NULL), 0);
    cr_assert_eq(rk__runtime_close(rt, NULL), RK_ETIMEOUT);
    __atomic_store_n(&leave, 1, __ATOMIC_SEQ_CST);
    usleep(50000);
}
