/*
 * kernels.h -- what the tests of ring kernels share: a runtime, message types, a kernel with a
 * gate.
 */
#ifndef TESTS_KERNELS_H
#define TESTS_KERNELS_H

#include "base/log.h"
#include "rk.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HELPER static __attribute__((unused))

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

HELPER void setup(void)
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
    config.device = "cpu";
    OK(rk_open(&rt, &config));
    OK(rk_message_define(&job, "Job", job_schema, 2));
    OK(rk_message_define(&done, "Done", done_schema, 2));
    OK(rk_message_define(&list, "List", list_schema, 1));
    OK(rk_message_define(&total, "Total", total_schema, 3));
    OK(rk_message_define(&bulk, "Bulk", bulk_schema, 1));
    OK(rk_message_define(&other, "Other", other_schema, 1));
}

HELPER void teardown(void)
{
    OK(rk_close(rt));
}

/* ---- helpers -------------------------------------------------------------------------------- */

/* Says that the handler has begun, then waits until it may go on. */
#define WAIT_GATE                                                                                  \
    "#define WAIT_GATE(j) do { uint32_t *g = (uint32_t *)(j)->gate, n = 0; if (g) {"               \
    " rk__store_u32(g + 1, 1); while (!rk__load_u32(g)) rk__pause(63 + 64 * n++); } } while (0)\n"

HELPER rk_kernel kernel(const char *name, const char *source)
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

HELPER rk_pid spawn(const rk_kernel *k, const rk_options *options)
{
    rk_pid pid;
    OK(rk_kernel_define(k));
    OK(rk_spawn(rt, &pid, k->name, options));
    return pid;
}

HELPER rk_message *new_job(int64_t number, const gate_words *gate)
{
    rk_message *m;
    OK(rk_message_new(&m, job));
    *(job_fields *)rk_message_data(m) = (job_fields){(uint64_t)(uintptr_t)gate, number};
    return m;
}

HELPER void send_job(rk_pid to, int64_t number, const gate_words *gate)
{
    OK(rk_send(to, new_job(number, gate), -1));
}

/* The `number` of a Done. */
HELPER int64_t number_of(rk_message *m)
{
    int64_t number;
    cr_assert_eq(rk_message_type(m), done);
    OK(rk_get_int(m, "number", &number));
    rk_message_release(m);
    return number;
}

HELPER int64_t call_job(rk_pid to, int64_t number)
{
    rk_message *answer;
    OK(rk_call(to, new_job(number, NULL), &answer, -1));
    return number_of(answer);
}

HELPER int64_t receive_number(void)
{
    rk_message *m;
    OK(rk_receive(&m, 10000000000));
    return number_of(m);
}

HELPER enum rk_state state_of(rk_pid pid)
{
    rk_info info;
    OK(rk_inspect(pid, &info));
    return info.state;
}

HELPER void until_state(rk_pid pid, enum rk_state state)
{
    while (state_of(pid) != state) {
        usleep(500);
    }
}

/* Messages that no handler has begun, wherever they wait. */
HELPER uint32_t waiting_for(rk_pid pid)
{
    rk_info info;
    OK(rk_inspect(pid, &info));
    return info.depth[0] + info.depth[1] + info.depth[2];
}

HELPER void open_gate(gate_words *g)
{
    __atomic_store_n(&g->open, 1, __ATOMIC_RELEASE); /* pairs with rk__load_u32 in the handler */
}

HELPER void until_begun(const gate_words *g)
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

HELPER void *call_main(void *arg)
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

HELPER void start_caller(caller *c, rk_pid to, int64_t number, const gate_words *gate)
{
    *c = (caller){.to = to, .gate = gate, .number = number};
    cr_assert_eq(pthread_create(&c->thread, NULL, call_main, c), 0);
}

/* ---- kernels ---- */

/* Fails below zero; waits for the gate. */
#define FAILING                                                                                    \
    WAIT_GATE "RK_ON(Job, j) { WAIT_GATE(j); if (j->number < 0) rk_fail(ctx, \"below zero\");"     \
              " rk_reply(ctx, Done, .number = j->number); }"

/* Answers with the sum of all numbers so far; waits for the gate. */
#define COUNTING                                                                                   \
    WAIT_GATE "RK_STATE { int64_t sum; };\n"                                                       \
              "RK_ON(Job, j) { WAIT_GATE(j); if (!rk_thread(ctx)) rk_get_state(ctx)->sum +="       \
              " j->number; rk_reply(ctx, Done, .number = rk_get_state(ctx)->sum); }"

/* ---- log lines ---- */

static pthread_mutex_t lines_lock = PTHREAD_MUTEX_INITIALIZER;
static char lines[8192];

HELPER void keep_line(int fd, const char *line, size_t size)
{
    (void)fd;
    pthread_mutex_lock(&lines_lock);
    strncat(lines, line, size < sizeof lines - strlen(lines) ? size : 0);
    pthread_mutex_unlock(&lines_lock);
}

HELPER bool logged(const char *text)
{
    pthread_mutex_lock(&lines_lock);
    bool found = strstr(lines, text) != NULL;
    pthread_mutex_unlock(&lines_lock);
    return found;
}

#endif
