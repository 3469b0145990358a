/* Unit tests of ring kernels on the cpu device: answers, failures, other ways out. */
#include "kernels.h"

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
    while (waiting_for(pid) < 2) {
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

Test(device, a_late_instance_with_a_short_timeout_is_watched, .init = setup, .fini = teardown)
{
    rk_kernel slow = kernel("patient", FAILING), quick = kernel("hasty", FAILING);
    gate_words gate = {0, 0}, held = {0, 0};
    rk__output_hook(keep_line);
    slow.handler_timeout = 3600000000000;
    rk_pid patient = spawn(&slow, NULL);
    send_job(patient, 1, &held);
    until_begun(&held);
    usleep(20000); /* the watchdog has gone to sleep for half an hour */
    quick.handler_timeout = 20000000;
    rk_pid hasty = spawn(&quick, NULL);
    send_job(hasty, 3, &gate);
    while (!logged("the handler of Job has been running")) {
        usleep(1000);
    }
    cr_assert(logged("hasty"));
    cr_assert_not(logged("patient"));
    open_gate(&gate);
    cr_assert_eq(receive_number(), 3);
    open_gate(&held);
    cr_assert_eq(receive_number(), 1);
    rk__output_hook(NULL);
}

Test(device, the_answer_of_a_failure_finds_the_actor_failed, .init = setup, .fini = teardown)
{
    rk_kernel k = kernel("fragile", FAILING);
    rk_options options = RK_OPTIONS_INIT;
    rk_message *answer;
    options.cpu_threads = 2;
    for (int i = 0; i < 50; i++) {
        rk_pid pid = spawn(&k, &options);
        FAILS(rk_call(pid, new_job(-1, NULL), &answer, -1), RK_EHANDLER);
        cr_assert_eq(state_of(pid), RK_FAILED);
        FAILS(rk_call(pid, new_job(1, NULL), &answer, -1), RK_EDEAD);
        SAYS("below zero");
        OK(rk_terminate(pid, NULL, -1));
    }
}

Test(device, a_reply_with_too_many_elements_is_an_error, .init = setup, .fini = teardown)
{
    rk_kernel k =
        kernel("generous", "RK_ON(Job, j) {\n"
                           "    if (j->number < 3) {\n"
                           "        rk_reply(ctx, List, .values_count = 63 + j->number);\n"
                           "    } else {\n"
                           "        Bulk *b = rk_reply_begin(ctx, Bulk);\n"
                           "        b->values_count = 5000;\n"
                           "        rk_reply_end(ctx);\n    }\n}\n");
    const rk_type *replies[] = {list, bulk};
    rk_message *answer;
    const void *values;
    size_t count;
    rk_info info;
    k.replies = replies;
    k.replies_count = 2;
    rk_pid pid = spawn(&k, NULL);
    FAILS(rk_call(pid, new_job(2, NULL), &answer, -1), RK_EHANDLER);
    SAYS("reply List: field 'values' has 65 elements, at most 64");
    FAILS(rk_call(pid, new_job(3, NULL), &answer, -1), RK_EHANDLER);
    SAYS("reply Bulk: field 'values' has 5000 elements, at most 1500");
    OK(rk_call(pid, new_job(1, NULL), &answer, -1));
    OK(rk_get_array(answer, "values", &values, &count));
    cr_assert_eq(count, 64);
    rk_message_release(answer);
    OK(rk_inspect(pid, &info));
    cr_assert_eq(info.failed, 2);
    cr_assert_eq(info.state, RK_ACTIVE);
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
