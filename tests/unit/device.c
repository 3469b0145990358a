/* Unit tests of ring kernels on the cpu device: channel, instance, resident loop. */
#include "base/log.h"
#include "rk.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define OK(call)                                                                                   \
    do {                                                                                           \
        int ok_code = (call);                                                                      \
        cr_assert_eq(ok_code, 0, "%s: %s: %s", #call, rk_err_name(ok_code), rk_errdetail());       \
    } while (0)
#define FAILS(call, code)                                                                          \
    do {                                                                                           \
        int fails_code = (call);                                                                   \
        cr_assert_eq(fails_code, (code), "%s: %s: %s", #call, rk_err_name(fails_code),             \
                     rk_errdetail());                                                              \
    } while (0)
#define SAYS(text)                                                                                 \
    cr_assert_not_null(strstr(rk_errdetail(), text), "\"%s\" lacks \"%s\"", rk_errdetail(), text)

static rk_runtime *rt;
static const rk_type *job, *done, *list, *total, *bulk, *other;

/* What a handler waits for; its address travels in the message, 0: none. */
typedef struct gate_words {
    uint32_t open, begun;
} gate_words;

typedef struct job_fields {
    uint64_t gate;
    int64_t number;
} job_fields;

static char cache[64];

static void setup(void)
{
    rk_config config = RK_CONFIG_INIT;
    static const rk_field job_schema[] = {{"gate", "u64"}, {"number", "i64"}};
    static const rk_field done_schema[] = {{"number", "i64"}, {"extra", "i64"}};
    static const rk_field list_schema[] = {{"values", "f32[64]"}};
    static const rk_field total_schema[] = {{"sum", "f64"}, {"threads", "u32"}, {"blocks", "u32"}};
    static const rk_field bulk_schema[] = {{"values", "i64[1500]"}};
    static const rk_field other_schema[] = {{"x", "u8"}};
    snprintf(cache, sizeof cache, "/tmp/rk-test-kernels-%u", (unsigned)getuid());
    config.cache = cache;
    OK(rk_open(&rt, &config));
    OK(rk_message_define(&job, "Job", job_schema, 2));
    OK(rk_message_define(&done, "Done", done_schema, 2));
    OK(rk_message_define(&list, "List", list_schema, 1));
    OK(rk_message_define(&total, "Total", total_schema, 3));
    OK(rk_message_define(&bulk, "Bulk", bulk_schema, 1));
    OK(rk_message_define(&other, "Other", other_schema, 1));
}

static void teardown(void)
{
    OK(rk_close(rt));
}

/* ---- helpers -------------------------------------------------------------------------------- */

/* Says that the handler has begun, then waits until it may go on. */
#define WAIT_GATE                                                                                  \
    "#define WAIT_GATE(j) do { uint32_t *g = (uint32_t *)(j)->gate, n = 0; if (g) {"               \
    " rk__store_u32(g + 1, 1); while (!rk__load_u32(g)) rk__pause(63 + 64 * n++); } } while (0)\n"

static rk_kernel kernel(const char *name, const char *source)
{
    static const rk_type *accepts[1], *replies[1];
    rk_kernel k = RK_KERNEL_INIT;
    accepts[0] = job;
    replies[0] = done;
    k.name = name;
    k.source = source;
    k.accepts = accepts;
    k.accepts_count = 1;
    k.replies = replies;
    k.replies_count = 1;
    return k;
}

static rk_pid spawn(const rk_kernel *k, const rk_options *options)
{
    rk_pid pid;
    OK(rk_kernel_define(k));
    OK(rk_spawn(rt, &pid, k->name, options));
    return pid;
}

static rk_message *new_job(int64_t number, const gate_words *gate)
{
    rk_message *m;
    OK(rk_message_new(&m, job));
    *(job_fields *)rk_message_data(m) = (job_fields){(uint64_t)(uintptr_t)gate, number};
    return m;
}

static void send_job(rk_pid to, int64_t number, const gate_words *gate)
{
    OK(rk_send(to, new_job(number, gate), -1));
}

/* The `number` of a Done. */
static int64_t number_of(rk_message *m)
{
    int64_t number;
    cr_assert_eq(rk_message_type(m), done);
    OK(rk_get_int(m, "number", &number));
    rk_message_release(m);
    return number;
}

static int64_t call_job(rk_pid to, int64_t number)
{
    rk_message *answer;
    OK(rk_call(to, new_job(number, NULL), &answer, -1));
    return number_of(answer);
}

static int64_t receive_number(void)
{
    rk_message *m;
    OK(rk_receive(&m, 10000000000));
    return number_of(m);
}

static enum rk_state state_of(rk_pid pid)
{
    rk_info info;
    OK(rk_inspect(pid, &info));
    return info.state;
}

static void until_state(rk_pid pid, enum rk_state state)
{
    while (state_of(pid) != state) {
        usleep(500);
    }
}

static uint64_t received_by(rk_pid pid)
{
    rk_info info;
    OK(rk_inspect(pid, &info));
    return info.received;
}

static void open_gate(gate_words *g)
{
    __atomic_store_n(&g->open, 1, __ATOMIC_RELEASE); /* pairs with rk__load_u32 in the handler */
}

static void until_begun(const gate_words *g)
{
    while (!__atomic_load_n(&g->begun, __ATOMIC_ACQUIRE)) { /* pairs with rk__store_u32 there */
        usleep(500);
    }
}

/* A thread that calls a kernel and keeps what it got. */
typedef struct caller {
    rk_pid to;
    const gate_words *gate;
    int64_t number, answer;
    int code;
    char detail[512];
    pthread_t thread;
} caller;

static void *call_main(void *arg)
{
    caller *c = arg;
    rk_message *answer;
    c->code = rk_call(c->to, new_job(c->number, c->gate), &answer, -1);
    snprintf(c->detail, sizeof c->detail, "%s", rk_errdetail());
    if (c->code == 0) {
        c->answer = number_of(answer);
    }
    return NULL;
}

static void start_caller(caller *c, rk_pid to, int64_t number, const gate_words *gate)
{
    *c = (caller){.to = to, .gate = gate, .number = number};
    cr_assert_eq(pthread_create(&c->thread, NULL, call_main, c), 0);
}

/* ---- answers -------------------------------------------------------------------------------- */

static double expected_sum(int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += i + 0.5;
    }
    return sum;
}

static void check_sum(rk_pid pid, int n, uint32_t threads, uint32_t blocks)
{
    rk_message *m, *answer;
    float values[64];
    int64_t got;
    double sum;
    for (int i = 0; i < n; i++) {
        values[i] = (float)(i + 0.5);
    }
    OK(rk_message_new(&m, list));
    OK(rk_set_array(m, "values", values, (size_t)n));
    OK(rk_call(pid, m, &answer, -1));
    OK(rk_get_number(answer, "sum", &sum));
    cr_assert_float_eq(sum, expected_sum(n), 1e-9);
    OK(rk_get_int(answer, "threads", &got));
    cr_assert_eq(got, threads);
    OK(rk_get_int(answer, "blocks", &got));
    cr_assert_eq(got, blocks);
    rk_message_release(answer);
}

Test(device, sums_with_any_number_of_threads_and_blocks, .init = setup, .fini = teardown)
{
    rk_kernel k =
        kernel("summer", "RK_ON(List, l) {\n"
                         "    double sum = 0;\n"
                         "    RK_FOR (i, l->values_count) { sum += l->values[i]; }\n"
                         "    sum = rk_block_sum(ctx, sum);\n"
                         "    rk_reply(ctx, Total, .sum = sum, .threads = rk_threads(ctx),"
                         " .blocks = rk_blocks(ctx));\n}\n");
    k.accepts = &list;
    k.replies = &total;
    OK(rk_kernel_define(&k));
    for (uint32_t threads = 1; threads <= 4; threads++) {
        for (uint32_t grid = 1; grid <= 3; grid++) {
            rk_options options = RK_OPTIONS_INIT;
            rk_pid pid;
            options.cpu_threads = threads;
            options.grid = grid;
            OK(rk_spawn(rt, &pid, "summer", &options));
            for (int n = 0; n <= 64; n++) {
                check_sum(pid, n, threads, grid);
            }
            OK(rk_terminate(pid, NULL, -1));
        }
    }
}

Test(device, the_reply_leaves_when_every_block_has_finished, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("late", "RK_STATE { int64_t seen[4]; };\n"
                                 "RK_ON(Job, j) {\n"
                                 "    rk_state *s = rk_get_state(ctx);\n"
                                 "    if (rk_block(ctx) != 0) {\n"
                                 "        int64_t end = rk_now(ctx) + 200000;\n"
                                 "        while (rk_now(ctx) < end) { rk__pause(63); }\n"
                                 "        s->seen[rk_block(ctx)] = j->number;\n"
                                 "    }\n"
                                 "    rk_reply(ctx, Done, .number = s->seen[1] + s->seen[2],\n"
                                 "             .extra = rk_block(ctx));\n}\n");
    k.grid = 3;
    rk_pid pid = spawn(&k, NULL);
    for (int64_t i = 1; i <= 50; i++) {
        rk_message *answer;
        int64_t block;
        OK(rk_call(pid, new_job(i, NULL), &answer, -1));
        OK(rk_get_int(answer, "extra", &block));
        cr_assert_eq(block, 0);
        cr_assert_eq(number_of(answer), 2 * i);
    }
}

Test(device, an_unanswered_call_says_so, .init = setup, .fini = teardown)
{
    rk_kernel k =
        kernel("mute", "RK_ON(Job, j) { if (j->number) rk_reply(ctx, Done, .number = 1); }");
    rk_pid pid = spawn(&k, NULL);
    rk_message *answer;
    FAILS(rk_call(pid, new_job(0, NULL), &answer, -1), RK_ENOREPLY);
    SAYS("Job");
    SAYS("mute");
    cr_assert_eq(call_job(pid, 5), 1);
}

Test(device, large_replies_go_round_the_arena, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("bulky", "RK_ON(Job, j) {\n"
                                  "    Bulk *b = rk_reply_begin(ctx, Bulk);\n"
                                  "    RK_FOR (i, j->number) { b->values[i] = j->number * i; }\n"
                                  "    b->values_count = (uint32_t)j->number;\n"
                                  "    rk_reply_end(ctx);\n}\n");
    k.replies = &bulk;
    rk_pid pid = spawn(&k, NULL);
    enum { COUNT = 400 };
    for (int64_t i = 1; i <= COUNT; i++) {
        send_job(pid, 1000 + i, NULL);
    }
    for (int64_t i = 1; i <= COUNT; i++) {
        rk_message *m;
        const void *values;
        size_t count;
        OK(rk_receive(&m, 10000000000));
        OK(rk_get_array(m, "values", &values, &count));
        cr_assert_eq(count, (size_t)(1000 + i));
        for (size_t n = 0; n < count; n++) {
            cr_assert_eq(((const int64_t *)values)[n], (1000 + i) * (int64_t)n);
        }
        rk_message_release(m);
    }
}

Test(device, large_messages_are_read_in_place, .init = setup, .fini = teardown)
{
    rk_kernel k =
        kernel("reader", "RK_ON(Bulk, b) {\n"
                         "    int64_t sum = 0;\n"
                         "    RK_FOR (i, b->values_count) { sum += b->values[i]; }\n"
                         "    rk_reply(ctx, Done, .number = rk_block_sum(ctx, sum));\n}\n");
    k.accepts = &bulk;
    k.cpu_threads = 2;
    rk_pid pid = spawn(&k, NULL);
    int64_t values[1500], sum = 0;
    for (int i = 0; i < 1500; i++) {
        sum += values[i] = i * 7;
    }
    for (int i = 0; i < 100; i++) {
        rk_message *m, *answer;
        OK(rk_message_new(&m, bulk));
        OK(rk_set_array(m, "values", values, 1500));
        OK(rk_call(pid, m, &answer, -1));
        cr_assert_eq(number_of(answer), sum);
    }
}

/* ---- failures ------------------------------------------------------------------------------- */

#define FAILING                                                                                    \
    WAIT_GATE "RK_ON(Job, j) { WAIT_GATE(j); if (j->number < 0) rk_fail(ctx, \"below zero\");"     \
              " rk_reply(ctx, Done, .number = j->number); }"

Test(device, a_failing_handler_fails_the_actor, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("fragile", FAILING);
    rk_pid pid = spawn(&k, NULL), again;
    rk_message *answer;
    caller behind[2];
    gate_words gate = {0, 0};
    cr_assert_eq(call_job(pid, 7), 7);
    send_job(pid, -1, &gate);
    start_caller(&behind[0], pid, 1, NULL);
    start_caller(&behind[1], pid, 2, NULL);
    while (received_by(pid) < 4) {
        usleep(500);
    }
    open_gate(&gate);
    for (int i = 0; i < 2; i++) {
        pthread_join(behind[i].thread, NULL);
        cr_assert_eq(behind[i].code, RK_EHANDLER, "%s", behind[i].detail);
        cr_assert_not_null(strstr(behind[i].detail, "below zero"));
    }
    until_state(pid, RK_FAILED);
    FAILS(rk_call(pid, new_job(1, NULL), &answer, -1), RK_EDEAD);
    SAYS("below zero");
    rk_info info;
    OK(rk_inspect(pid, &info));
    cr_assert_eq(info.failed, 1);
    FAILS(rk_activate(pid), RK_ESTATE);
    FAILS(rk_spawn(rt, &again, "fragile", NULL), RK_EEXIST);
    OK(rk_terminate(pid, NULL, -1));
    OK(rk_spawn(rt, &again, "fragile", NULL));
    cr_assert_eq(call_job(again, 8), 8);
}

Test(device, the_failed_call_gets_the_reason, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("fragile", FAILING);
    rk_options options = RK_OPTIONS_INIT;
    rk_message *answer;
    options.grid = 3;
    options.cpu_threads = 2;
    rk_pid pid = spawn(&k, &options);
    FAILS(rk_call(pid, new_job(-1, NULL), &answer, -1), RK_EHANDLER);
    SAYS("below zero");
    until_state(pid, RK_FAILED);
}

Test(device, a_failure_in_another_block_counts, .init = setup, .fini = teardown)
{
    rk_kernel k =
        kernel("uneven", "RK_ON(Job, j) { if (rk_block(ctx) == 2) rk_fail(ctx, \"not me\");"
                         " rk_reply(ctx, Done, .number = j->number); }");
    rk_message *answer;
    k.grid = 3;
    rk_pid pid = spawn(&k, NULL);
    FAILS(rk_call(pid, new_job(1, NULL), &answer, -1), RK_EHANDLER);
    SAYS("not me");
    until_state(pid, RK_FAILED);
}

Test(device, a_failing_start_is_no_start, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("unborn", "RK_ON_START { rk_fail(ctx, \"no luck today\"); }\n"
                                   "RK_ON(Job, j) { rk_reply(ctx, Done, .number = j->number); }");
    rk_pid pid;
    OK(rk_kernel_define(&k));
    FAILS(rk_spawn(rt, &pid, "unborn", NULL), RK_EHANDLER);
    SAYS("no luck today");
    OK(rk_launch(rt, &pid, "unborn", NULL));
    FAILS(rk_activate(pid), RK_EHANDLER);
    cr_assert_eq(state_of(pid), RK_FAILED);
    OK(rk_terminate(pid, NULL, -1));
}

static pthread_mutex_t lines_lock = PTHREAD_MUTEX_INITIALIZER;
static char lines[8192];

static void keep_line(int fd, const char *line, size_t size)
{
    (void)fd;
    pthread_mutex_lock(&lines_lock);
    strncat(lines, line, size < sizeof lines - strlen(lines) ? size : 0);
    pthread_mutex_unlock(&lines_lock);
}

static bool logged(const char *text)
{
    pthread_mutex_lock(&lines_lock);
    bool found = strstr(lines, text) != NULL;
    pthread_mutex_unlock(&lines_lock);
    return found;
}

Test(device, a_handler_that_hangs_is_reported, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("stuck", FAILING);
    gate_words gate = {0, 0};
    rk__output_hook(keep_line);
    k.handler_timeout = 20000000;
    rk_pid pid = spawn(&k, NULL);
    cr_assert_eq(call_job(pid, 1), 1);
    cr_assert_not(logged("handler of Job"));
    send_job(pid, 3, &gate);
    while (!logged("the handler of Job has been running")) {
        usleep(1000);
    }
    cr_assert(logged("stuck"));
    FAILS(rk_terminate(pid, NULL, 1000000), RK_ETIMEOUT);
    cr_assert_eq(state_of(pid), RK_TERMINATING);
    open_gate(&gate);
    cr_assert_eq(receive_number(), 3);
    rk__output_hook(NULL);
}

/* ---- lifecycle ------------------------------------------------------------------------------ */

#define COUNTING                                                                                   \
    WAIT_GATE "RK_STATE { int64_t sum; };\n"                                                       \
              "RK_ON(Job, j) { WAIT_GATE(j); if (!rk_thread(ctx)) rk_get_state(ctx)->sum +="       \
              " j->number; rk_reply(ctx, Done, .number = rk_get_state(ctx)->sum); }"

Test(device, pause_keeps_mail_and_state, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_options options = RK_OPTIONS_INIT;
    options.grid = 1;
    options.cpu_threads = 2;
    rk_pid pid = spawn(&k, &options);
    cr_assert_eq(state_of(pid), RK_ACTIVE);
    cr_assert_eq(call_job(pid, 5), 5);
    for (int round = 0; round < 20; round++) {
        OK(rk_deactivate(pid));
        cr_assert_eq(state_of(pid), RK_DEACTIVATED);
        FAILS(rk_deactivate(pid), RK_ESTATE);
        for (int i = 0; i < 200; i++) {
            send_job(pid, 1, NULL);
        }
        rk_message *m;
        FAILS(rk_receive(&m, 1000000), RK_ETIMEOUT);
        OK(rk_reactivate(pid));
        for (int i = 1; i <= 200; i++) {
            cr_assert_eq(receive_number(), 5 + round * 200 + i);
        }
    }
}

Test(device, pause_waits_for_the_message_border, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    k.grid = 2;
    rk_pid pid = spawn(&k, NULL);
    OK(rk_deactivate(pid));
    OK(rk_reactivate(pid));
    send_job(pid, 1, NULL);
    receive_number();
    OK(rk_deactivate(pid));
    OK(rk_reactivate(pid));
    cr_assert_eq(state_of(pid), RK_ACTIVE);
}

Test(device, mail_before_activation_waits, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_pid pid;
    OK(rk_kernel_define(&k));
    OK(rk_launch(rt, &pid, "counter", NULL));
    cr_assert_eq(state_of(pid), RK_LAUNCHED);
    for (int i = 0; i < 500; i++) {
        send_job(pid, 1, NULL);
    }
    OK(rk_activate(pid));
    for (int i = 1; i <= 500; i++) {
        cr_assert_eq(receive_number(), i);
    }
    FAILS(rk_activate(pid), RK_ESTATE);
}

Test(device, terminate_answers_pending_calls, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_pid pid = spawn(&k, NULL);
    caller pending[3];
    gate_words gate = {0, 0};
    start_caller(&pending[0], pid, 1, &gate);
    until_begun(&gate);
    start_caller(&pending[1], pid, 2, NULL);
    start_caller(&pending[2], pid, 3, NULL);
    while (received_by(pid) < 3) {
        usleep(500);
    }
    OK(rk_terminate(pid, "enough", 0));
    open_gate(&gate);
    pthread_join(pending[0].thread, NULL);
    cr_assert_eq(pending[0].code, 0, "%s", pending[0].detail);
    cr_assert_eq(pending[0].answer, 1);
    for (int i = 1; i < 3; i++) {
        pthread_join(pending[i].thread, NULL);
        cr_assert_eq(pending[i].code, RK_EDEAD);
        cr_assert_not_null(strstr(pending[i].detail, "enough"), "%s", pending[i].detail);
    }
    rk_message *answer;
    FAILS(rk_call(pid, new_job(1, NULL), &answer, -1), RK_EDEAD);
}

Test(device, a_launched_instance_can_be_terminated, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_pid pid;
    caller pending;
    OK(rk_kernel_define(&k));
    OK(rk_launch(rt, &pid, "counter", NULL));
    start_caller(&pending, pid, 1, NULL);
    while (received_by(pid) < 1) {
        usleep(500);
    }
    OK(rk_terminate(pid, "never mind", -1));
    pthread_join(pending.thread, NULL);
    cr_assert_eq(pending.code, RK_EDEAD);
    OK(rk_spawn(rt, &pid, "counter", NULL));
    cr_assert_eq(call_job(pid, 4), 4);
}

Test(device, a_kernel_that_hangs_can_be_left_behind, .init = setup)
{
    rk_config config = RK_CONFIG_INIT;
    rk_kernel k = kernel("stuck", FAILING);
    caller pending;
    static gate_words gate;
    rk__output_hook(keep_line);
    OK(rk_close(rt));
    config.cache = cache;
    config.stop_timeout = 1000000;
    OK(rk_open(&rt, &config));
    start_caller(&pending, spawn(&k, NULL), 1, &gate);
    until_begun(&gate);
    FAILS(rk_close(rt), RK_ETIMEOUT);
    pthread_join(pending.thread, NULL);
    cr_assert_eq(pending.code, RK_EDEAD, "%s", pending.detail);
    cr_assert(logged("the handler of Job did not return"));
    open_gate(&gate);
    usleep(1000);
}

Test(device, a_second_instance_needs_no_compiler, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_options options = RK_OPTIONS_INIT;
    rk_stats before, after;
    rk_pid first = spawn(&k, NULL), second;
    OK(rk_runtime_stats(rt, &before));
    FAILS(rk_spawn(rt, &second, "counter", NULL), RK_EEXIST);
    options.name = "counter-2";
    OK(rk_spawn(rt, &second, "counter", &options));
    OK(rk_runtime_stats(rt, &after));
    cr_assert_eq(after.kernels_compiled, before.kernels_compiled);
    cr_assert_eq(call_job(first, 5), 5);
    cr_assert_eq(call_job(second, 1), 1);
    cr_assert_eq(call_job(first, 5), 10);
    rk_pid found;
    OK(rk_whereis(rt, "counter-2", &found));
    cr_assert_eq(found, second);
}

Test(device, instances_come_and_go_while_messages_flow, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_pid pid = spawn(&k, NULL);
    char name[32];
    for (int i = 1; i <= 30; i++) {
        rk_options options = RK_OPTIONS_INIT;
        rk_pid extra;
        options.name = name;
        snprintf(name, sizeof name, "counter-%d", i);
        for (int n = 0; n < 50; n++) {
            send_job(pid, 1, NULL);
        }
        OK(rk_spawn(rt, &extra, "counter", &options));
        cr_assert_eq(call_job(extra, i), i);
        OK(rk_terminate(extra, NULL, -1));
        for (int n = 1; n <= 50; n++) {
            cr_assert_eq(receive_number(), (i - 1) * 50 + n);
        }
    }
}

Test(device, start_stop_and_timers_run, .init = setup, .fini = teardown)
{
    static char source[512];
    snprintf(
        source, sizeof source,
        "RK_STATE { int64_t ticks; };\n"
        "RK_ON_START { rk_send(ctx, %lluull, Done, .number = -1); }\n"
        "RK_ON_STOP { rk_send(ctx, %lluull, Done, .number = -2); }\n"
        "RK_EVERY(0.002) { rk_send(ctx, %lluull, Done, .number = ++rk_get_state(ctx)->ticks); }\n"
        "RK_ON(Job, j) { rk_reply(ctx, Done, .number = 1000000 + rk_get_state(ctx)->ticks); }\n",
        (unsigned long long)rk_self(), (unsigned long long)rk_self(),
        (unsigned long long)rk_self());
    rk_kernel k = kernel("ticker", source);
    rk_pid pid = spawn(&k, NULL);
    cr_assert_eq(receive_number(), -1);
    for (int i = 1; i <= 5; i++) {
        cr_assert_eq(receive_number(), i);
    }
    cr_assert_geq(call_job(pid, 0), 1000005);
    OK(rk_terminate(pid, NULL, -1));
    int64_t last = 5, number;
    while ((number = receive_number()) != -2) {
        cr_assert_eq(number, ++last);
    }
    rk_message *m;
    FAILS(rk_receive(&m, 10000000), RK_ETIMEOUT);
}

/* ---- other ways out ------------------------------------------------------------------------- */

static int answer_jobs(void *arg)
{
    for (;;) {
        rk_message *m, *answer;
        int code = rk_receive(&m, -1);
        if (code < 0) {
            return code;
        }
        rk_message_new(&answer, done);
        rk_set_int(answer, "number", ((job_fields *)rk_message_data(m))->number + 100);
        rk_set_int(answer, "extra", rk_message_from(m) == *(rk_pid *)arg);
        rk_reply(m, answer);
        rk_message_release(m);
    }
}

Test(device, forward_keeps_the_caller, .init = setup, .fini = teardown)
{
    static char source[256];
    static rk_pid caller_pid;
    rk_pid helper;
    caller_pid = rk_self();
    OK(rk_spawn_c(rt, &helper, answer_jobs, &caller_pid, NULL));
    snprintf(source, sizeof source, "RK_ON(Job, j) { (void)j; rk_forward(ctx, %lluull); }",
             (unsigned long long)helper);
    rk_kernel k = kernel("relay", source);
    rk_pid pid = spawn(&k, NULL);
    for (int64_t i = 0; i < 100; i++) {
        rk_message *answer;
        int64_t kept;
        OK(rk_call(pid, new_job(i, NULL), &answer, -1));
        cr_assert_eq(rk_message_from(answer), helper);
        OK(rk_get_int(answer, "extra", &kept));
        cr_assert_eq(kept, 1);
        cr_assert_eq(number_of(answer), i + 100);
    }
    OK(rk_terminate(helper, "gone fishing", -1));
    rk_message *answer;
    FAILS(rk_call(pid, new_job(1, NULL), &answer, -1), RK_EDEAD);
    SAYS("gone fishing");
}

Test(device, send_carries_the_kernels_pid, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("speaker", "RK_ON(Job, j) { rk_send(ctx, rk_from(ctx), Done,"
                                    " .number = j->number, .extra = (int64_t)rk_self(ctx)); }");
    rk_pid pid = spawn(&k, NULL);
    rk_message *m;
    int64_t self;
    send_job(pid, 12, NULL);
    OK(rk_receive(&m, -1));
    cr_assert_eq(rk_message_from(m), pid);
    OK(rk_get_int(m, "extra", &self));
    cr_assert_eq((rk_pid)self, pid);
    cr_assert_eq(number_of(m), 12);
    rk_info info;
    OK(rk_inspect(pid, &info));
    cr_assert_eq(info.sent, 1);
    cr_assert_str_eq(info.kind, "kernel");
    cr_assert_str_eq(info.device, "cpu");
    cr_assert_gt(info.memory, 16384);
}

Test(device, log_is_formatted_on_the_host, .init = setup, .fini = teardown)
{
    rk_kernel k =
        kernel("writer", "RK_ON(Job, j) {\n"
                         "    rk_log(ctx, RK_LOG_WARN, \"%5d|%.2f|%x|%c|%lld|100%%|%g\", 42,"
                         " 1.005 + 1, 255, 'q', j->number, 3);\n"
                         "    rk_log(ctx, RK_LOG_DEBUG, \"not shown\");\n"
                         "    rk_reply(ctx, Done, .number = 1); }");
    rk__output_hook(keep_line);
    rk_pid pid = spawn(&k, NULL);
    cr_assert_eq(call_job(pid, 1234567890123), 1);
    rk__output_hook(NULL);
    cr_assert(logged("   42|2.00|ff|q|1234567890123|100%|3"), "%s", lines);
    cr_assert(logged("writer"));
    cr_assert(logged("WARN"));
    cr_assert_not(logged("not shown"));
}

/* ---- refusals ------------------------------------------------------------------------------- */

static int buried, buried_code;

static void count_burial(void *arg, rk_message *m, rk_pid to, int code)
{
    (void)arg, (void)m, (void)to;
    __atomic_store_n(&buried_code, code, __ATOMIC_RELAXED);
    __atomic_add_fetch(&buried, 1, __ATOMIC_RELEASE);
}

static int burials(void)
{
    return __atomic_load_n(&buried, __ATOMIC_ACQUIRE); /* pairs with count_burial */
}

Test(device, an_unaccepted_type_is_refused, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_pid pid = spawn(&k, NULL);
    rk_message *m, *answer;
    rk_on_dead_letter(rt, count_burial, NULL);
    OK(rk_message_new(&m, other));
    FAILS(rk_call(pid, m, &answer, -1), RK_ETYPE);
    SAYS("Other");
    SAYS("Job");
    OK(rk_message_new_packed(&m, "\x01", 1));
    FAILS(rk_call(pid, m, &answer, -1), RK_ETYPE);
    cr_assert_eq(burials(), 0);
    OK(rk_message_new(&m, other));
    OK(rk_send(pid, m, -1));
    while (burials() == 0) {
        usleep(500);
    }
    cr_assert_eq(buried_code, RK_ETYPE);
    cr_assert_eq(call_job(pid, 2), 2);
    rk_on_dead_letter(rt, NULL, NULL);
}

/* A kernel whose first job waits for the gate, with a queue of 8. */
static rk_pid spawn_full(rk_kernel *k, enum rk_full full, gate_words *gate)
{
    *k = kernel("narrow", COUNTING);
    k->queue_size = 8;
    k->full = full;
    rk_pid pid = spawn(k, NULL);
    for (int i = 0; i < 8; i++) {
        send_job(pid, 1, gate);
    }
    return pid;
}

Test(device, a_full_queue_rejects, .init = setup, .fini = teardown)
{
    rk_kernel k;
    gate_words gate = {0, 0};
    rk_pid pid = spawn_full(&k, RK_FULL_REJECT, &gate);
    rk_message *m = new_job(1, NULL);
    FAILS(rk_send(pid, m, -1), RK_EFULL);
    open_gate(&gate);
    for (int i = 1; i <= 8; i++) {
        cr_assert_eq(receive_number(), i);
    }
    OK(rk_send(pid, m, -1));
    cr_assert_eq(receive_number(), 9);
}

Test(device, a_full_queue_drops_the_newest, .init = setup, .fini = teardown)
{
    rk_kernel k;
    gate_words gate = {0, 0};
    rk_on_dead_letter(rt, count_burial, NULL);
    rk_pid pid = spawn_full(&k, RK_FULL_DROP_NEWEST, &gate);
    for (int i = 0; i < 3; i++) {
        send_job(pid, 100, NULL);
    }
    cr_assert_eq(burials(), 3);
    cr_assert_eq(buried_code, RK_EFULL);
    open_gate(&gate);
    for (int i = 1; i <= 8; i++) {
        cr_assert_eq(receive_number(), i);
    }
    cr_assert_eq(call_job(pid, 1), 9);
    rk_info info;
    OK(rk_inspect(pid, &info));
    cr_assert_eq(info.dropped, 3);
    rk_on_dead_letter(rt, NULL, NULL);
}

Test(device, a_full_queue_blocks_the_sender, .init = setup, .fini = teardown)
{
    rk_kernel k;
    gate_words gate = {0, 0};
    rk_pid pid = spawn_full(&k, RK_FULL_BLOCK, &gate);
    rk_message *m = new_job(1, NULL);
    caller late;
    FAILS(rk_send(pid, m, 1000000), RK_ETIMEOUT);
    start_caller(&late, pid, 1, NULL);
    usleep(2000);
    open_gate(&gate);
    pthread_join(late.thread, NULL);
    cr_assert_eq(late.code, 0, "%s", late.detail);
    cr_assert_eq(late.answer, 9);
    OK(rk_send(pid, m, -1));
    for (int i = 1; i <= 8; i++) {
        cr_assert_eq(receive_number(), i);
    }
    cr_assert_eq(receive_number(), 10);
    k.full = RK_FULL_DROP_OLDEST;
    FAILS(rk_kernel_define(&k), RK_EUNSUPPORTED);
}

Test(device, options_are_checked)
{
    rk_config config = RK_CONFIG_INIT;
    config.device = "cuda";
    FAILS(rk_open(&rt, &config), RK_EDEVICE);
    SAYS("libcuda.so.1");
    config.device = "cuda:3";
    FAILS(rk_open(&rt, &config), RK_EDEVICE);
    config.device = "cuda:x";
    FAILS(rk_open(&rt, &config), RK_EINVAL);
    config.device = "abacus";
    FAILS(rk_open(&rt, &config), RK_EINVAL);
    SAYS("abacus");
    config.device = "cpu";
    config.mode = "batch";
    FAILS(rk_open(&rt, &config), RK_EUNSUPPORTED);
    config.mode = "sometimes";
    FAILS(rk_open(&rt, &config), RK_EINVAL);
    config.mode = "persistent";
    OK(rk_open(&rt, &config));
    OK(rk_close(rt));
}

Test(device, instance_options_are_checked, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_options options = RK_OPTIONS_INIT;
    rk_pid pid;
    OK(rk_kernel_define(&k));
    options.full = RK_FULL_DROP_OLDEST;
    FAILS(rk_launch(rt, &pid, "counter", &options), RK_EUNSUPPORTED);
    options.full = RK_FULL_BLOCK;
    options.grid = 1000;
    FAILS(rk_launch(rt, &pid, "counter", &options), RK_ERANGE);
    options.grid = 1;
    options.cpu = 1000;
    FAILS(rk_launch(rt, &pid, "counter", &options), RK_EINVAL);
    options.cpu = -1;
    OK(rk_launch(rt, &pid, "counter", &options));
}
