/* Unit tests of ring kernels as actors: lifecycle, timers, refusals, options. */
#include "device/device.h"
#include "kernels.h"

/* ---- lifecycle ------------------------------------------------------------------------------ */

Test(instance, pause_keeps_mail_and_state, .init = setup, .fini = teardown)
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

static void *deactivate(void *pid)
{
    static int code;
    code = rk_deactivate(*(rk_pid *)pid);
    return &code;
}

Test(instance, pause_waits_for_the_message_border, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    gate_words gate = {0, 0};
    pthread_t thread;
    void *code;
    rk_pid pid = spawn(&k, NULL);
    send_job(pid, 1, &gate);
    send_job(pid, 2, NULL);
    until_begun(&gate);
    cr_assert_eq(pthread_create(&thread, NULL, deactivate, &pid), 0);
    usleep(2000);
    cr_assert_eq(state_of(pid), RK_ACTIVE);
    open_gate(&gate);
    pthread_join(thread, &code);
    OK(*(int *)code);
    cr_assert_eq(state_of(pid), RK_DEACTIVATED);
    cr_assert_eq(receive_number(), 1);
    OK(rk_reactivate(pid));
    cr_assert_eq(receive_number(), 3);
}

Test(instance, mail_before_activation_waits, .init = setup, .fini = teardown)
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

Test(instance, terminate_answers_pending_calls, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_pid pid = spawn(&k, NULL);
    caller pending[3];
    gate_words gate = {0, 0};
    start_caller(&pending[0], pid, 1, &gate);
    until_begun(&gate);
    start_caller(&pending[1], pid, 2, NULL);
    start_caller(&pending[2], pid, 3, NULL);
    while (waiting_for(pid) < 2) {
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

Test(instance, a_launched_instance_can_be_terminated, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    rk_pid pid;
    caller pending;
    OK(rk_kernel_define(&k));
    OK(rk_launch(rt, &pid, "counter", NULL));
    start_caller(&pending, pid, 1, NULL);
    while (waiting_for(pid) < 1) {
        usleep(500);
    }
    OK(rk_terminate(pid, "never mind", -1));
    pthread_join(pending.thread, NULL);
    cr_assert_eq(pending.code, RK_EDEAD);
    OK(rk_spawn(rt, &pid, "counter", NULL));
    cr_assert_eq(call_job(pid, 4), 4);
}

Test(instance, a_kernel_that_hangs_can_be_left_behind, .init = setup)
{
    rk_config config = RK_CONFIG_INIT;
    rk_kernel k = kernel("stuck", FAILING);
    caller pending;
    static gate_words gate;
    rk__output_hook(keep_line);
    OK(rk_close(rt));
    config.cache = cache;
    config.device = "cpu";
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

Test(instance, a_second_instance_needs_no_compiler, .init = setup, .fini = teardown)
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

Test(instance, instances_come_and_go_while_messages_flow, .init = setup, .fini = teardown)
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

Test(instance, start_stop_and_timers_run, .init = setup, .fini = teardown)
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

/* ---- looking in --------------------------------------------------------------------------- */

Test(instance, what_waits_and_what_was_handled_is_counted, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("counter", COUNTING);
    gate_words gate = {0, 0};
    rk_info info;
    rk_pid pid = spawn(&k, NULL);
    send_job(pid, 1, &gate);
    until_begun(&gate);
    for (int i = 0; i < 200; i++) {
        send_job(pid, 1, NULL);
    }
    OK(rk_inspect(pid, &info));
    cr_assert_eq(waiting_for(pid), 200);
    cr_assert_eq(info.received, 0);
    cr_assert_eq(info.sent, 0);
    open_gate(&gate);
    for (int i = 1; i <= 201; i++) {
        cr_assert_eq(receive_number(), i);
    }
    OK(rk_inspect(pid, &info));
    cr_assert_eq(info.received, 201);
    cr_assert_eq(info.sent, 201);
    cr_assert_eq(waiting_for(pid), 0);
}

/* Both fields always change together. */
#define PAIRED                                                                                     \
    WAIT_GATE "RK_ON(Job, j) { WAIT_GATE(j); rk_state *s = rk_get_state(ctx);"                     \
              " if (j->number < 0) rk_fail(ctx, \"below zero\");"                                  \
              " s->sum += j->number; s->history[s->sum % 4] = -s->sum; s->history_count = 4;"      \
              " rk_reply(ctx, Done, .number = s->sum); }"

static int64_t state_sum(rk_pid pid)
{
    rk_message *m;
    int64_t sum;
    const void *history;
    size_t count;
    OK(rk__kernel_read_state(pid, &m));
    cr_assert_str_eq(rk_type_name(rk_message_type(m)), "paired.state");
    OK(rk_get_int(m, "sum", &sum));
    OK(rk_get_array(m, "history", &history, &count));
    if (sum > 0) {
        cr_assert_eq(count, 4);
        cr_assert_eq(((const int64_t *)history)[sum % 4], -sum);
    }
    rk_message_release(m);
    return sum;
}

Test(instance, a_state_with_a_schema_can_be_read_at_any_time, .init = setup, .fini = teardown)
{
    static const rk_field fields[] = {{"sum", "i64"}, {"history", "i64[4]"}};
    rk_kernel k = kernel("paired", PAIRED), plain = kernel("counter", COUNTING);
    rk_message *m, *answer;
    rk_pid pid;
    k.state = fields;
    k.state_count = 2;
    OK(rk_kernel_define(&k));
    OK(rk_launch(rt, &pid, "paired", NULL));
    cr_assert_eq(state_sum(pid), 0);
    OK(rk_activate(pid));
    for (int i = 0; i < 50; i++) {
        for (int n = 0; n < 100; n++) {
            send_job(pid, 1, NULL);
        }
        int64_t sum = state_sum(pid);
        cr_assert(sum >= i * 100 && sum <= (i + 1) * 100, "%lld", (long long)sum);
        cr_assert_eq(state_of(pid), RK_ACTIVE);
        for (int n = 1; n <= 100; n++) {
            cr_assert_eq(receive_number(), i * 100 + n);
        }
    }
    OK(rk_deactivate(pid));
    cr_assert_eq(state_sum(pid), 5000);
    cr_assert_eq(state_of(pid), RK_DEACTIVATED);
    OK(rk_reactivate(pid));
    FAILS(rk_call(pid, new_job(-1, NULL), &answer, -1), RK_EHANDLER);
    cr_assert_eq(state_sum(pid), 5000);
    OK(rk_terminate(pid, NULL, -1));
    FAILS(rk__kernel_read_state(pid, &m), RK_EDEAD);
    FAILS(rk__kernel_read_state(spawn(&plain, NULL), &m), RK_EUNSUPPORTED);
    SAYS("state schema");
    FAILS(rk__kernel_read_state(rk_self(), &m), RK_EUNSUPPORTED);
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

Test(instance, an_unaccepted_type_is_refused, .init = setup, .fini = teardown)
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

Test(instance, a_full_queue_rejects, .init = setup, .fini = teardown)
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

Test(instance, a_full_queue_drops_the_newest, .init = setup, .fini = teardown)
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

Test(instance, a_full_queue_blocks_the_sender, .init = setup, .fini = teardown)
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

Test(instance, options_are_checked)
{
    rk_config config = RK_CONFIG_INIT;
    setenv("RK_CUDA_LIBS", "/nowhere", 1);
    config.device = "cuda";
    FAILS(rk_open(&rt, &config), RK_EDEVICE);
    SAYS("device \"cuda\"");
#if defined(RK_HAVE_CUDA)
    SAYS("libcuda.so.1");
    SAYS("/nowhere");
#else
    SAYS("built without");
#endif
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

Test(instance, instance_options_are_checked, .init = setup, .fini = teardown)
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
