/*
 * flow.c -- one-way messages of 48 bytes, both ways, with 1, 4, 16 and 64 ring kernels at once.
 *
 *     flow DEVICE
 *
 * To the kernels: several C actors send without waiting, each to all kernels in turn; time ends
 * when every kernel has answered how many it took. From the kernels: each is told to send so many to
 * one of several C actors; time ends when those have counted them all.
 *
 * Threads: main; senders and receivers, a C actor each. Nobody looks at what another is writing:
 * main joins them by monitors.
 */
#include "rig.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { KERNELS_MAX = 64, HELPERS_MAX = 8, TO_KERNELS = 2000000, FROM_KERNELS = 400000 };

typedef struct go { /* the struct of "RigGo" */
    uint64_t count;
    rk_pid to;
} go;

static const rk_type *go_type;
static rk_runtime *rt;
static rk_pid kernels[KERNELS_MAX];
static unsigned kernel_count, helper_count;
static const char *device;

static const char source[] =
    "RK_STATE { uint64_t seen; };\n"
    "RK_ON(Rig48, m) { (void)m; if (rk_thread(ctx) == 0) rk_get_state(ctx)->seen++; }\n"
    "RK_ON(Rig16, m) {\n"
    "    uint64_t seen = rk_get_state(ctx)->seen;\n"
    "    rk_sync(ctx);\n"
    "    if (rk_thread(ctx) == 0) rk_get_state(ctx)->seen = 0;\n"
    "    rk_reply(ctx, Rig16, .a_number = seen, .b = m->b);\n"
    "}\n"
    "RK_ON(RigGo, m) {\n"
    "    for (uint64_t i = 0; i < m->count; i++)\n"
    "        rk_send(ctx, m->to, Rig48, .a_number = i, .b = 1);\n"
    "}\n";

static void define(void)
{
    const rk_field fields[] = {{"count", "u64"}, {"to", "pid"}};
    rk_kernel kernel = RK_KERNEL_INIT;
    bench_must(rk_message_define(&go_type, "RigGo", fields, 2), "rk_message_define");
    const rk_type *types[] = {rig_type(RIG_48), rig_type(1), go_type};
    kernel.name = "rig_flow";
    kernel.source = source;
    kernel.accepts = kernel.replies = types;
    kernel.accepts_count = kernel.replies_count = 3;
    kernel.block = RIG_BLOCK;
    kernel.handler_timeout = -1;
    bench_must(rk_kernel_define(&kernel), "rk_kernel_define");
}

/* false: the device takes no more of them, and the result lines say so. */
static bool spawn_kernels(unsigned count)
{
    for (; kernel_count < count; kernel_count++) {
        char name[32];
        rk_options options = RK_OPTIONS_INIT;
        snprintf(name, sizeof name, "flow-%u", kernel_count);
        options.name = name;
        if (rk_spawn(rt, &kernels[kernel_count], "rig_flow", &options) < 0) {
            bench_missing("one way, 48 bytes", device, BENCH_PARAMS({"kernels", count}),
                          "kernel %u: %s", kernel_count + 1, rk_errdetail());
            return false;
        }
    }
    return true;
}

static void join(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        rk_message *down;
        bench_must(rk_receive(&down, 60 * INT64_C(1000000000)), "waiting for senders, receivers");
        rk_message_release(down);
    }
}

/* ---- to the kernels -------------------------------------------------------------------------- */

typedef struct helper {
    unsigned index;
    uint64_t count, wrong; /* senders: how many at most, then how many it was */
    rk_pid pid;
} helper;

static int send_all(void *arg)
{
    helper *h = arg;
    int64_t until = rk__now() + bench_cap();
    for (uint64_t i = 0; i < h->count; i++) {
        if (i % 64 == 63 && rk__now() > until) {
            h->count = i;
            break;
        }
        bench_must(rk_send(kernels[(i + h->index) % kernel_count], rig_message(RIG_48, i), -1),
                   "rk_send");
    }
    return 0;
}

static uint64_t count_of(rk_pid kernel)
{
    rk_message *answer;
    bench_must(rk_call(kernel, rig_message(1, 0), &answer, -1), "asking for a count");
    uint64_t count = *(const uint64_t *)rk_message_data(answer);
    rk_message_release(answer);
    return count;
}

static void report(const char *way, uint64_t count, int64_t time)
{
    char variant[64];
    snprintf(variant, sizeof variant, "%s, %s", way, device);
    bench_value("one way, 48 bytes", variant,
                BENCH_PARAMS({"kernels", kernel_count}, {"threads", helper_count}),
                (double)count * 1e9 / (double)time, "messages/s");
}

static void to_kernels(void)
{
    helper helpers[HELPERS_MAX];
    uint64_t each = bench_once(TO_KERNELS, 2000) / helper_count, counted = 0, sent = 0;
    int64_t begin = rk__now();
    for (unsigned i = 0; i < helper_count; i++) {
        helpers[i] = (helper){.index = i, .count = each};
        bench_must(rk_spawn_c(rt, &helpers[i].pid, send_all, &helpers[i], NULL), "rk_spawn_c");
        bench_must(rk_monitor(helpers[i].pid), "rk_monitor");
    }
    join(helper_count);
    for (unsigned i = 0; i < kernel_count; i++) {
        counted += count_of(kernels[i]);
    }
    int64_t time = rk__now() - begin;
    for (unsigned i = 0; i < helper_count; i++) {
        sent += helpers[i].count;
    }
    if (counted != sent) {
        bench_fail("%" PRIu64 " of %" PRIu64 " arrived", counted, sent);
    }
    report("host to kernel", counted, time);
}

/* ---- from the kernels ------------------------------------------------------------------------ */

static int receive_all(void *arg)
{
    helper *h = arg;
    for (uint64_t i = 0; i < h->count; i++) {
        rk_message *m;
        bench_must(rk_receive(&m, 20 * INT64_C(1000000000)), "rk_receive");
        h->wrong += ((const rig_48 *)rk_message_data(m))->b != 1;
        rk_message_release(m);
    }
    return 0;
}

static void tell(rk_pid kernel, rk_pid to, uint64_t count)
{
    rk_message *m;
    bench_must(rk_message_new(&m, go_type), "rk_message_new");
    *(go *)rk_message_data(m) = (go){count, to};
    bench_must(rk_send(kernel, m, -1), "rk_send");
}

static void from_kernels(void)
{
    helper helpers[HELPERS_MAX];
    unsigned used = kernel_count < helper_count ? kernel_count : helper_count;
    uint64_t each = bench_once(FROM_KERNELS, 2000) / kernel_count, wrong = 0;
    for (unsigned i = 0; i < used; i++) {
        unsigned mine = kernel_count / used + (i < kernel_count % used);
        rk_options options = RK_OPTIONS_INIT;
        helpers[i] = (helper){.index = i, .count = mine * each};
        options.mailbox = (uint32_t)helpers[i].count + 1; /* a device never waits for room */
        bench_must(rk_spawn_c(rt, &helpers[i].pid, receive_all, &helpers[i], &options),
                   "rk_spawn_c");
        bench_must(rk_monitor(helpers[i].pid), "rk_monitor");
    }
    int64_t begin = rk__now();
    for (unsigned i = 0; i < kernel_count; i++) {
        tell(kernels[i], helpers[i % used].pid, each);
    }
    join(used);
    int64_t time = rk__now() - begin;
    for (unsigned i = 0; i < used; i++) {
        wrong += helpers[i].wrong;
    }
    if (wrong != 0) {
        bench_fail("%" PRIu64 " messages were not what was sent", wrong);
    }
    report("kernel to host", each * kernel_count, time);
}

int main(int argc, char **argv)
{
    static const unsigned counts[] = {1, 4, 16, 64};
    long half = sysconf(_SC_NPROCESSORS_ONLN) / 2;
    if (argc != 2) {
        bench_fail("usage: flow DEVICE");
    }
    device = argv[1];
    helper_count = half < 1 ? 1 : half > HELPERS_MAX ? HELPERS_MAX : (unsigned)half;
    rt = rig_open(device, NULL, NULL);
    define();
    for (unsigned i = 0; i < bench_once(4, 3) && spawn_kernels(counts[i]); i++) {
        to_kernels();
        from_kernels();
    }
    bench_must(rk_close(rt), "rk_close");
    return 0;
}
