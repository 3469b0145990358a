/*
 * build.c -- ring kernels from their text to running code: definitions, compiler, cache, and what a
 * handler may call, run here without a resident loop on a block made by hand.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/log.h"
#include "device/compiler.h"
#include "device/device.h"
#include "rk_kernel.h"

static char folder[64];
static struct rk_runtime rt;
static const rk_type *number, *result, *large;

static void set_up(void)
{
    static const rk_field fields[] = {{"values", "f32[100]"}, {"n", "i32"}, {"to", "pid"}};
    static const rk_field outs[] = {{"sum", "f64"}, {"n", "i64"}, {"unit", "u64"}, {"f", "f32"}};
    static const rk_field larges[] = {{"x", "f64[500]"}};
    strcpy(folder, "/tmp/rk-test-build-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    rk__log_set_level(RK__LOG_OFF);
    unsetenv("RK_KERNELS");
    rt.cache = folder;
    cr_assert_eq(rk_message_define(&number, "Number", fields, 3), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_message_define(&result, "Result", outs, 4), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_message_define(&large, "Large", larges, 1), 0, "%s", rk_errdetail());
}

static void tear_down(void)
{
    char command[128];
    snprintf(command, sizeof command, "/bin/rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(build, .init = set_up, .fini = tear_down, .timeout = 120);
TestSuite(define, .init = set_up, .fini = tear_down, .timeout = 60);
TestSuite(handler, .init = set_up, .fini = tear_down, .timeout = 120);

/* ---- definitions ---------------------------------------------------------------------------- */

static rk_kernel options(const char *source)
{
    static const rk_type *accepts[1], *replies[2];
    rk_kernel k = RK_KERNEL_INIT;
    accepts[0] = number;
    replies[0] = result;
    replies[1] = large;
    k.name = "test";
    k.source = source;
    k.accepts = accepts;
    k.accepts_count = 1;
    k.replies = replies;
    k.replies_count = 2;
    k.source_name = "app.lua";
    k.source_line = 40;
    return k;
}

static rk__kernel *define(const rk_kernel *k)
{
    rk__definition *d;
    cr_assert_eq(rk_kernel_define(k), 0, "%s", rk_errdetail());
    cr_assert_eq(rk__definition_get(k->name, &d), 0, "%s", rk_errdetail());
    return (rk__kernel *)d;
}

static void release(rk__kernel *k)
{
    rk__definition_release(&k->base);
}

static void refuses(const rk_kernel *k, int code, const char *what)
{
    cr_assert_eq(rk_kernel_define(k), code, "%s: %s", what, rk_errdetail());
    cr_assert(strstr(rk_errdetail(), what) != NULL, "%s: %s", what, rk_errdetail());
}

#define HANDLER "RK_ON(Number, m) { (void)m; }\n"

Test(define, errors_name_the_kernel_and_the_cause)
{
    static const rk_field state[] = {{"total", "u64"}}, bad[] = {{"total", "u65"}};
    rk_kernel k = options(HANDLER);
    k.file = "summer.cu";
    refuses(&k, RK_EINVAL, "kernel \"test\": give either source or file, not both");
    k.source = k.file = NULL;
    refuses(&k, RK_EINVAL, "give either source or file");
    k.file = "no-such-file.cu";
    refuses(&k, RK_ENOENT, "there is no file no-such-file.cu");
    k = options(HANDLER);
    k.accepts_count = 0;
    refuses(&k, RK_EINVAL, "accepts is empty");
    k = options("\n" HANDLER "\nRK_ON(Other, m) { }\n");
    refuses(&k, RK_EINVAL,
            "app.lua:43: RK_ON(Other, ...), but accepts has no Other; it has Number");
    k = options("static int x;\n");
    refuses(&k, RK_EINVAL, "accepts Number, but app.lua (from line 40) has no RK_ON(Number");
    k = options(HANDLER "RK_STATE { int n; };\n");
    k.state = state;
    k.state_count = 1;
    refuses(&k, RK_EINVAL, "app.lua:41: RK_STATE");
    k = options(HANDLER);
    k.state = bad;
    k.state_count = 1;
    refuses(&k, RK_ETYPE, "kernel \"test\": state");
    k = options("RK_ON(Number, m) {");
    refuses(&k, RK_ECOMPILE, "kernel \"test\": app.lua:40: this { is not closed");
    k = options("RK_ON(Number, m) {\nRK_SHARED(int, a, [4]); RK_SHARED(int, b, [4]); }\n");
    refuses(&k, RK_ECOMPILE, "app.lua:41: two RK_SHARED in one line");
    k = options("RK_ON(Number, m) {\nRK_SHARED(int, a); }\n");
    refuses(&k, RK_ECOMPILE, "app.lua:41: RK_SHARED wants a type, a name and dimensions");
    k = options(HANDLER);
    k.full = RK_FULL_DROP_OLDEST;
    refuses(&k, RK_EUNSUPPORTED, "drop_oldest");
    k = options(HANDLER);
    k.name = "";
    refuses(&k, RK_EINVAL, "name");
}

Test(define, numbers_have_limits)
{
    rk_kernel k = options(HANDLER);
    k.block = 1025;
    refuses(&k, RK_ERANGE, "block is 1025; it goes from 1 to 1024");
    k.block = 0;
    refuses(&k, RK_ERANGE, "block is 0");
    k = options(HANDLER);
    k.grid = 65;
    refuses(&k, RK_ERANGE, "grid is 65");
    k = options(HANDLER);
    k.cpu_threads = 65;
    refuses(&k, RK_ERANGE, "cpu_threads is 65");
    k = options(HANDLER);
    k.queue_size = 0;
    refuses(&k, RK_ERANGE, "queue_size is 0");
}

Test(define, everything_is_copied_and_types_are_kept_once)
{
    char source[] = HANDLER, name[] = "copied";
    const rk_type *accepts[] = {number, number}, *replies[] = {result, number, result};
    rk_kernel k = RK_KERNEL_INIT;
    k.name = name;
    k.source = source;
    k.accepts = accepts;
    k.accepts_count = 2;
    k.replies = replies;
    k.replies_count = 3;
    rk__kernel *d = define(&k);
    memset(source, 'x', sizeof source - 1);
    accepts[0] = NULL;
    cr_assert_str_eq(d->text, HANDLER);
    cr_assert_str_eq(d->source_name, "copied");
    cr_assert_eq(d->accepts, 1);
    cr_assert_eq(d->type_count, 2);
    cr_assert_eq(d->types[0], number);
    cr_assert_eq(d->types[1], result);
    release(d);
}

/* ---- a block made by hand ------------------------------------------------------------------- */

enum { SLOTS = 64, ARENA = 16384, THREADS_MAX = 16 };

typedef struct bench {
    rk__kernel *kernel;
    rk__module *module;
    rk_slot slots[SLOTS];
    rk_packet packets[2]; /* as the loop has them: what is pending, and the window */
    rk_wire wire;
    rk_block block;
    rk_barrier barrier;
    uint8_t *arena, *shared, *state;
    uint64_t reduce[THREADS_MAX];
    uint32_t threads, type;
    const void *payload;
    rk_ctx ctx[THREADS_MAX];
    uint32_t fulls;
} bench;

static int build(rk__kernel *k, uint32_t threads, rk__module **out)
{
    return rk__module_build(&rt, k, threads, out);
}

static void prepare(bench *b, rk__kernel *kernel, uint32_t threads)
{
    memset(b, 0, sizeof *b);
    b->kernel = kernel;
    cr_assert_eq(build(kernel, threads, &b->module), 0, "%s", rk_errdetail());
    b->arena = aligned_alloc(16, ARENA);
    b->shared = aligned_alloc(16, RK_SHARED_SIZE);
    b->state = calloc(1, b->module->entry->state_size + 1);
    b->block = (rk_block){.outbox = b->slots,
                          .outbox_mask = SLOTS - 1,
                          .wire = &b->wire,
                          .arena = b->arena,
                          .arena_size = ARENA,
                          .entry = b->module->entry,
                          .shared = b->shared,
                          .state = b->state,
                          .self = 77,
                          .blocks = 1,
                          .threads = threads,
                          .siblings = &b->block};
    b->threads = threads;
    rk_barrier_init(&b->barrier, threads, NULL);
}

static void finish(bench *b)
{
    free(b->arena);
    free(b->shared);
    free(b->state);
    rk__module_release(b->module);
    release(b->kernel);
}

static void *run_thread(void *arg)
{
    rk_ctx *ctx = arg;
    bench *b = (bench *)((char *)(ctx - ctx->thread) - offsetof(bench, ctx));
    b->module->entry->handle(ctx, b->type, b->payload);
    return NULL;
}

/* One message for the handler, by all threads of the block; then what the loop does with what is
 * pending. */
static void handle(bench *b, uint32_t type, const void *payload)
{
    pthread_t threads[THREADS_MAX];
    b->packets[1] =
        (rk_packet){.kind = RK_PACKET_MESSAGE, .priority = 200, .type = (uint8_t)type, .peer = 99};
    b->type = type;
    b->payload = payload;
    for (uint32_t i = 0; i < b->threads; i++) {
        b->ctx[i] = (rk_ctx){.block = &b->block,
                             .message = &b->packets[1],
                             .pending = &b->packets[0],
                             .barrier = &b->barrier,
                             .reduce = b->reduce,
                             .thread = i,
                             .threads = b->threads};
        if (i) {
            cr_assert_eq(pthread_create(&threads[i], NULL, run_thread, &b->ctx[i]), 0);
        }
    }
    run_thread(&b->ctx[0]);
    for (uint32_t i = 1; i < b->threads; i++) {
        pthread_join(threads[i], NULL);
        cr_assert_not(b->ctx[i].waiting, "thread %u has published", i);
    }
    if (b->ctx[0].waiting) {
        rk__flush(&b->ctx[0], b->ctx[0].failed ? 0 : RK_PACKET_LAST);
    }
}

static bool is_empty(const bench *b)
{
    const rk_slot *next = &b->slots[b->wire.consumed & b->block.outbox_mask];
    bool empty = b->wire.consumed == b->block.produced;
    for (uint32_t i = 0; i < RK_SLOT_UNITS; i++) {
        cr_assert_eq(next->units[i].stamp == b->wire.consumed + 1, !empty);
    }
    return empty;
}

/* The data of slot `at`, counted for ever, whose units all say that they are of this lap. */
static void read_slot(const bench *b, uint32_t at, uint8_t *data)
{
    const rk_slot *slot = &b->slots[at & b->block.outbox_mask];
    for (uint32_t i = 0; i < RK_SLOT_UNITS; i++) {
        cr_assert_eq(slot->units[i].stamp, at + 1, "slot %u, unit %u", at, i);
        memcpy(data + i * sizeof slot->units[i].words, slot->units[i].words,
               sizeof slot->units[i].words);
    }
}

/* The next packet of the outbox and its payload; the host's side of the protocol. */
static const void *take(bench *b, rk_packet *packet)
{
    static uint8_t copy[ARENA];
    uint32_t at = b->wire.consumed, slots = 1;
    cr_assert_neq(at, b->block.produced, "the outbox is empty");
    for (uint32_t n = 0; n < slots; n++) {
        read_slot(b, at + n, (uint8_t *)packet + n * RK_SLOT_DATA);
        slots = rk_slots_of(packet->size);
    }
    cr_assert_leq(slots, RK_PACKET_SLOTS);
    const uint8_t *from = packet->payload.bytes;
    if (packet->flags & RK_PACKET_REF) {
        cr_assert_leq(packet->payload.words[0] + packet->size, ARENA);
        from = b->arena + packet->payload.words[0];
        b->wire.arena_tail = packet->payload.words[1];
    } else {
        cr_assert_leq(packet->size, RK_PACKET_INLINE);
    }
    memcpy(copy, from, packet->size);
    b->wire.consumed = at + slots;
    cr_assert_leq((int32_t)(b->wire.consumed - b->block.produced), 0);
    return copy;
}

/* The structs as the generated header has them: members by alignment, counts first, then by name.
 */
typedef struct number_t {
    uint64_t to;
    uint32_t values_count;
    int32_t n;
    float values[100];
} number_t;
typedef struct result_t {
    int64_t n;
    double sum;
    uint64_t unit;
    float f;
} result_t;
typedef struct large_t {
    double x[500];
    uint32_t x_count;
} large_t;

static number_t numbers(uint32_t count)
{
    number_t m = {.values_count = count, .n = 5, .to = 1234};
    for (uint32_t i = 0; i < count; i++) {
        m.values[i] = (float)(i + 1);
    }
    return m;
}

static const uint32_t blocks[] = {1, 4, 7};

#define EACH_BLOCK(t) for (size_t t = 0; t < sizeof blocks / sizeof *blocks; t++)

/* ---- what a handler may call ---------------------------------------------------------------- */

Test(handler, sums_and_replies_in_every_block_size)
{
    rk_kernel k =
        options("RK_ON(Number, m)\n{\n    float sum = 0;\n"
                "    RK_FOR (i, m->values_count) sum += m->values[i];\n"
                "    rk_reply(ctx, Result, .sum = rk_block_sum(ctx, sum), .n = m->n);\n}\n");
    EACH_BLOCK(t)
    {
        bench b;
        rk_packet packet;
        result_t got;
        prepare(&b, define(&k), blocks[t]);
        cr_assert_eq(b.module->entry->threads, blocks[t] == 1);
        number_t m = numbers(100);
        for (int n = 0; n < 3 * SLOTS; n++) {
            m.n = n;
            handle(&b, 0, &m);
            memcpy(&got, take(&b, &packet), sizeof got);
            cr_assert(is_empty(&b));
            cr_assert_eq(packet.kind, RK_PACKET_REPLY);
            cr_assert_eq(packet.flags, RK_PACKET_LAST);
            cr_assert_eq(packet.type, 1);
            cr_assert_eq(packet.size, sizeof got);
            cr_assert_eq(packet.peer, 99);
            cr_assert_eq(packet.priority, 200);
            cr_assert_eq(got.sum, 5050);
            cr_assert_eq(got.n, n);
            cr_assert_eq(got.unit, 0);
        }
        cr_assert(b.ctx[0].replied);
        finish(&b);
    }
}

#define REDUCTIONS                                                                                 \
    "#define TRY(T, scale) do {                                                                  " \
    "\\\n"                                                                                         \
    "    T mine = (T)(rk_thread(ctx) + 1) * (T)(scale);                                          " \
    "\\\n"                                                                                         \
    "    T n = (T)rk_threads(ctx);                                                               " \
    "\\\n"                                                                                         \
    "    int good = rk_block_sum(ctx, mine) == n * (n + 1) / 2 * (T)(scale)                      " \
    "\\\n"                                                                                         \
    "        && rk_block_min(ctx, mine) == (T)(scale)                                            " \
    "\\\n"                                                                                         \
    "        && rk_block_max(ctx, mine) == n * (T)(scale)                                        " \
    "\\\n"                                                                                         \
    "        && rk_broadcast(ctx, mine, rk_threads(ctx) - 1) == n * (T)(scale);                  " \
    "\\\n"                                                                                         \
    "    T upto = rk_block_scan(ctx, mine);                                                      " \
    "\\\n"                                                                                         \
    "    T k = (T)rk_thread(ctx) + 1;                                                            " \
    "\\\n"                                                                                         \
    "    passed += rk_block_all(ctx, good && upto == k * (k + 1) / 2 * (T)(scale));              " \
    "\\\n"                                                                                         \
    "} while (0)\n"

Test(handler, reductions_of_every_type_in_every_block_size)
{
    rk_kernel k =
        options(REDUCTIONS "RK_ON(Number, m)\n{\n    int passed = 0;\n"
                           "    TRY(int, 3); TRY(unsigned, 3); TRY(long, 1L << 40);\n"
                           "    TRY(unsigned long, 1UL << 40); TRY(long long, 1LL << 40);\n"
                           "    TRY(unsigned long long, 1ULL << 40); TRY(float, 0.5f);\n"
                           "    TRY(double, 0.25); TRY(short, 2); TRY(unsigned char, 1);\n"
                           "    int first = rk_thread(ctx) == 0;\n"
                           "    passed += rk_block_any(ctx, first) == 1;\n"
                           "    passed += rk_block_any(ctx, !m) == 0;\n"
                           "    passed += rk_block_all(ctx, m->n == 5) == 1;\n"
                           "    passed += rk_block_all(ctx, first) == (rk_threads(ctx) == 1);\n"
                           "    rk_reply(ctx, Result, .n = passed);\n}\n");
    EACH_BLOCK(t)
    {
        bench b;
        rk_packet packet;
        prepare(&b, define(&k), blocks[t]);
        number_t m = numbers(1);
        for (int round = 0; round < 20; round++) {
            handle(&b, 0, &m);
            cr_assert_eq(((const result_t *)take(&b, &packet))->n, 14, "%u threads", blocks[t]);
        }
        finish(&b);
    }
}

Test(handler, shared_scratch_is_the_same_for_all_threads_and_each_has_its_place)
{
    rk_kernel k = options("static float other(rk_ctx *ctx, int at)\n{\n"
                          "    RK_SHARED(float, spare, [8]);\n"
                          "    if (rk_thread(ctx) == 0) spare[at] = 1000;\n    rk_sync(ctx);\n"
                          "    return spare[at];\n}\n"
                          "RK_ON(Number, m)\n{\n    RK_SHARED(double, tile, [10][10]);\n"
                          "    float more = 0;\n"
                          "    RK_FOR (i, m->values_count) tile[i / 10][i % 10] = m->values[i];\n"
                          "    rk_sync(ctx);\n"
                          "    for (int i = 0; i < 8; i++) more = other(ctx, i);\n"
                          "    double sum = 0;\n"
                          "    for (int i = 0; i < 100; i++) sum += tile[9 - i / 10][i % 10];\n"
                          "    int same = rk_block_all(ctx, sum == 5050);\n"
                          "    rk_reply(ctx, Result, .sum = sum, .n = same, .f = more);\n}\n");
    EACH_BLOCK(t)
    {
        bench b;
        rk_packet packet;
        prepare(&b, define(&k), blocks[t]);
        number_t m = numbers(100);
        handle(&b, 0, &m);
        const result_t *got = take(&b, &packet);
        cr_assert_eq(got->sum, 5050);
        cr_assert_eq(got->n, 1);
        cr_assert_eq(got->f, 1000);
        finish(&b);
    }
}

/* How many bytes of RK_SHARED a definition has. */
static uint32_t shared_size(const bench *b)
{
    return b->module->entry->shared_size;
}

Test(handler, shared_scratch_may_be_declared_over_several_lines)
{
    rk_kernel k = options("#define WIDE 20\ntypedef struct pair { float x; double y; } pair;\n"
                          "RK_ON(Number, m)\n{\n    RK_SHARED(struct pair,\n"
                          "              pairs,\n              [(WIDE +\n                5)]);\n"
                          "    RK_SHARED(\n        uint8_t, bytes,\n        [3]\n    );\n"
                          "    RK_SHARED(double, tile, [2][WIDE]);\n"
                          "    RK_FOR (i, 25) { pairs[i].x = i; pairs[i].y = i + 0.5; }\n"
                          "    RK_FOR (i, 3) bytes[i] = 200;\n"
                          "    RK_FOR (i, 40) tile[i / WIDE][i % WIDE] = 1000;\n"
                          "    rk_sync(ctx);\n    double sum = 0;\n"
                          "    for (int i = 0; i < 25; i++) sum += pairs[i].x + pairs[i].y;\n"
                          "    for (int i = 0; i < 3; i++) sum += bytes[i];\n"
                          "    for (int i = 0; i < m->n; i++) sum += tile[i / WIDE][i % WIDE];\n"
                          "    rk_reply(ctx, Result, .sum = sum);\n}\n");
    EACH_BLOCK(t)
    {
        bench b;
        rk_packet packet;
        prepare(&b, define(&k), blocks[t]);
        cr_assert_eq(shared_size(&b), 25 * 16 + 16 + 40 * 8);
        number_t m = numbers(0);
        m.n = 40;
        handle(&b, 0, &m);
        cr_assert_eq(((const result_t *)take(&b, &packet))->sum, 2 * 300 + 12.5 + 600 + 40000);
        finish(&b);
    }
}

Test(handler, shared_arrays_of_two_handlers_may_have_the_same_name)
{
    const rk_type *accepts[] = {number, result};
    rk_kernel k = options("RK_ON(Number, m)\n{\n    RK_SHARED(int, tile, [50]);\n"
                          "    RK_FOR (i, 50) tile[i] = m->n + i;\n    rk_sync(ctx);\n"
                          "    long sum = 0;\n    for (int i = 0; i < 50; i++) sum += tile[i];\n"
                          "    rk_reply(ctx, Result, .n = sum, .unit = sizeof tile[0]);\n}\n"
                          "RK_ON(Result, m)\n{\n    RK_SHARED(double, tile, [4][5]);\n"
                          "    RK_FOR (i, 20) tile[i / 5][i % 5] = m->sum;\n    rk_sync(ctx);\n"
                          "    rk_reply(ctx, Result, .sum = tile[3][4] + tile[0][0],\n"
                          "             .unit = sizeof tile[0]);\n}\n");
    k.accepts = accepts;
    k.accepts_count = 2;
    EACH_BLOCK(t)
    {
        bench b;
        rk_packet packet;
        prepare(&b, define(&k), blocks[t]);
        cr_assert_eq(shared_size(&b), 13 * 16 + 10 * 16);
        number_t m = numbers(0);
        result_t other = {.sum = 2.5};
        for (int round = 0; round < 3; round++) {
            handle(&b, 0, &m);
            const result_t *got = take(&b, &packet);
            cr_assert_eq(got->n, 50 * 5 + 49 * 25);
            cr_assert_eq(got->unit, sizeof(int));
            handle(&b, 1, &other);
            got = take(&b, &packet);
            cr_assert_eq(got->sum, 5);
            cr_assert_eq(got->unit, 5 * sizeof(double));
        }
        finish(&b);
    }
}

Test(handler, envelope_send_forward_and_clock)
{
    rk_kernel k = options("RK_ON(Number, m)\n{\n"
                          "    rk_send(ctx, m->to, Result, .n = rk_priority(ctx),\n"
                          "            .unit = rk_from(ctx), .sum = (double)rk_self(ctx));\n"
                          "    rk_send(ctx, 4321, Result, .n = rk_now(ctx));\n"
                          "    rk_forward(ctx, m->to + 1);\n}\n");
    bench b;
    rk_packet packet;
    prepare(&b, define(&k), 1);
    b.wire.clock_offset = INT64_C(1) << 60;
    number_t m = numbers(0);
    handle(&b, 0, &m);
    const result_t *got = take(&b, &packet);
    cr_assert_eq(packet.kind, RK_PACKET_SEND);
    cr_assert_eq(packet.flags, 0);
    cr_assert_eq(packet.peer, 1234);
    cr_assert_eq(got->n, 200);
    cr_assert_eq(got->unit, 99);
    cr_assert_eq(got->sum, 77);
    got = take(&b, &packet);
    cr_assert_eq(packet.peer, 4321);
    cr_assert_gt(got->n, INT64_C(1) << 60);
    take(&b, &packet);
    cr_assert_eq(packet.kind, RK_PACKET_FORWARD);
    cr_assert_eq(packet.peer, 1235);
    cr_assert_eq(packet.flags, RK_PACKET_LAST);
    cr_assert_eq(packet.size, 0);
    cr_assert(is_empty(&b));
    finish(&b);
}

Test(handler, large_replies_go_round_the_arena)
{
    rk_kernel k = options("RK_ON(Number, m)\n{\n    Large *r = rk_reply_begin(ctx, Large);\n"
                          "    if (rk_thread(ctx) == 0) r->x_count = (uint32_t)m->n;\n"
                          "    RK_FOR (i, m->n) r->x[i] = (double)i * m->n;\n"
                          "    rk_reply_end(ctx);\n}\n");
    EACH_BLOCK(t)
    {
        bench b;
        rk_packet packet;
        prepare(&b, define(&k), blocks[t]);
        for (int n = 1; n < 60; n++) {
            number_t m = numbers(0);
            m.n = n;
            handle(&b, 0, &m);
            const large_t *got = take(&b, &packet);
            cr_assert_eq(packet.kind, RK_PACKET_REPLY);
            cr_assert_eq(packet.size, sizeof *got);
            cr_assert_eq(packet.flags, RK_PACKET_REF | RK_PACKET_LAST);
            cr_assert_eq(packet.payload.words[0] % 16, 0);
            cr_assert_eq(got->x_count, n);
            cr_assert_eq(got->x[n - 1], (double)(n - 1) * n);
            cr_assert_eq(got->x[n], 0);
        }
        cr_assert_gt(b.block.arena_head, 3 * ARENA);
        cr_assert_eq(b.block.arena_head, b.wire.arena_tail);
        finish(&b);
    }
}

Test(handler, an_answer_made_in_memory_of_its_own_leaves_as_any_other)
{
    const rk_type *accepts[] = {number, result};
    rk_kernel k = options("RK_ON(Number, m)\n{\n    Large *r = rk_reply_begin(ctx, Large);\n"
                          "    RK_FOR (i, m->n) r->x[i] = (double)i * m->n;\n"
                          "    rk_reply_end(ctx);\n}\n"
                          "RK_ON(Result, m)\n{\n    Result *r = rk_reply_begin(ctx, Result);\n"
                          "    if (rk_thread(ctx) == 0) { r->n = m->n; r->sum = m->sum; }\n"
                          "    rk_reply_end(ctx);\n}\n");
    k.accepts = accepts;
    k.accepts_count = 2;
    EACH_BLOCK(t)
    {
        bench b;
        rk_packet packet;
        prepare(&b, define(&k), blocks[t]);
        b.block.outgoing = aligned_alloc(16, ARENA);
        for (int n = 1; n < 20; n++) {
            number_t m = numbers(0);
            m.n = n;
            handle(&b, 0, &m);
            const large_t *got = take(&b, &packet);
            cr_assert_eq(packet.flags, RK_PACKET_REF | RK_PACKET_LAST);
            cr_assert_eq(packet.size, sizeof *got);
            cr_assert_eq(got->x[n - 1], (double)(n - 1) * n);
            cr_assert_eq(got->x[n], 0);
            handle(&b, 1, &(result_t){.n = n, .sum = 0.5 * n});
            const result_t *small = take(&b, &packet);
            cr_assert_eq(packet.flags, RK_PACKET_LAST, "small ones are inline");
            cr_assert_eq(packet.size, sizeof *small);
            cr_assert_eq(small->n, n);
            cr_assert_eq(small->sum, 0.5 * n);
            cr_assert_eq(small->unit, 0);
        }
        cr_assert_eq(b.block.arena_head, b.wire.arena_tail);
        free(b.block.outgoing);
        finish(&b);
    }
}

static bench *waiting;
static double drained;

static void drain_one(rk_block *block)
{
    rk_packet packet;
    cr_assert_eq(block, &waiting->block);
    waiting->fulls++;
    drained += ((const result_t *)take(waiting, &packet))->sum;
}

Test(handler, waits_when_the_outbox_is_full)
{
    rk_kernel k = options("RK_ON(Number, m)\n{\n    for (int i = 0; i < m->n; i++)\n"
                          "        rk_send(ctx, 1, Result, .sum = i);\n}\n");
    bench b;
    rk_packet packet;
    prepare(&b, define(&k), 1);
    waiting = &b;
    b.barrier.full = drain_one;
    number_t m = numbers(0);
    m.n = 1000;
    handle(&b, 0, &m);
    cr_assert_eq(b.fulls, 1000 - SLOTS);
    while (!is_empty(&b)) {
        drained += ((const result_t *)take(&b, &packet))->sum;
    }
    cr_assert_eq(drained, 999 * 500);
    finish(&b);
}

Test(handler, log_records_carry_numbers_and_text)
{
    rk_kernel k = options("RK_ON(Number, m)\n{\n    float f = 1.5f;\n    uint8_t small = 7;\n"
                          "    rk_log(ctx, RK_LOG_WARN, \"a %d b %g c %d d %g\", m->n, f, small,\n"
                          "           rk_block_sum(ctx, 0.25));\n"
                          "    rk_log(ctx, RK_LOG_DEBUG, \"plain\");\n}\n");
    bench b;
    rk_packet packet;
    prepare(&b, define(&k), 4);
    number_t m = numbers(0);
    handle(&b, 0, &m);
    const rk_log_record *r = take(&b, &packet);
    cr_assert_eq(packet.kind, RK_PACKET_LOG);
    cr_assert_eq(r->level, RK__LOG_WARN);
    cr_assert_eq(r->count, 4);
    cr_assert_eq(r->floating, 2 | 8);
    cr_assert_eq(r->numbers[0].i, 5);
    cr_assert_eq(r->numbers[1].d, 1.5);
    cr_assert_eq(r->numbers[2].i, 7);
    cr_assert_eq(r->numbers[3].d, 1.0);
    cr_assert_eq(packet.size, sizeof *r + r->text);
    cr_assert_eq(memcmp(r + 1, "a %d b %g c %d d %g", r->text), 0);
    r = take(&b, &packet);
    cr_assert_eq(r->count, 0);
    cr_assert_eq(r->text, 5);
    cr_assert(is_empty(&b));
    finish(&b);
}

static void fails_with(const char *source, uint32_t threads, const char *why)
{
    bench b;
    rk_packet packet;
    rk_kernel k = options(source);
    prepare(&b, define(&k), threads);
    number_t m = numbers(0);
    handle(&b, 0, &m);
    const char *text = take(&b, &packet);
    cr_assert_eq(packet.kind, RK_PACKET_FAIL);
    cr_assert_eq(packet.flags, 0);
    cr_assert_eq(packet.size, strlen(why));
    cr_assert_eq(memcmp(text, why, packet.size), 0);
    cr_assert(is_empty(&b));
    for (uint32_t i = 0; i < threads; i++) {
        cr_assert(b.ctx[i].failed);
    }
    finish(&b);
}

Test(handler, failures_end_the_handler_with_their_reason)
{
    fails_with("RK_ON(Number, m)\n{\n    if (m->n == 5) rk_fail(ctx, \"short\");\n"
               "    rk_reply(ctx, Result);\n}\n",
               1, "short");
    fails_with("RK_ON(Number, m)\n{\n    (void)m;\n"
               "    rk_fail(ctx, \"a reason that is longer than what fits into one slot\");\n"
               "    rk_reply(ctx, Result);\n}\n",
               4, "a reason that is longer than what fits into one slot");
    fails_with("RK_ON(Number, m) { (void)m; (void)rk_reply_begin(ctx, Large); }\n", 4,
               "rk_reply_begin without rk_reply_end");
    fails_with("RK_ON(Number, m) { (void)m; (void)rk_reply_begin(ctx, Large);\n"
               "    rk_log(ctx, RK_LOG_INFO, \"no\"); rk_reply_end(ctx); }\n",
               4, "published something between rk_reply_begin and rk_reply_end");
}

Test(handler, only_block_zero_publishes)
{
    rk_kernel k = options("RK_ON(Number, m)\n{\n    Large *r = rk_reply_begin(ctx, Large);\n"
                          "    RK_FOR (i, 500) r->x[i] = m->n;\n    rk_reply_end(ctx);\n"
                          "    rk_log(ctx, RK_LOG_INFO, \"x\");\n    rk_forward(ctx, 1);\n"
                          "    rk_send(ctx, 1, Result, .n = rk_block(ctx));\n"
                          "    rk_fail(ctx, \"all the same\");\n}\n");
    bench b;
    prepare(&b, define(&k), 4);
    b.block.index = 1;
    b.block.outgoing = b.arena;
    b.block.outbox = NULL;
    b.block.arena = NULL;
    number_t m = numbers(0);
    handle(&b, 0, &m);
    cr_assert(is_empty(&b));
    cr_assert(b.ctx[0].failed);
    cr_assert_str_eq(b.wire.failure, "all the same");
    cr_assert_eq(((const large_t *)(void *)b.arena)->x[499], 5);
    finish(&b);
}

Test(handler, state_start_stop_and_timers)
{
    rk_kernel k = options("RK_STATE { long started, stopped, fast, slow; };\n"
                          "RK_ON(Number, m) { rk_reply(ctx, Result, .n = m->n); }\n"
                          "RK_ON_START { rk_get_state(ctx)->started++; rk_reply(ctx, Result); }\n"
                          "RK_ON_STOP { rk_get_state(ctx)->stopped++; }\n"
                          "RK_EVERY(0.001) { rk_get_state(ctx)->fast++; }\n"
                          "RK_EVERY(2 * 30) { rk_get_state(ctx)->slow++; }\n");
    bench b;
    prepare(&b, define(&k), 1);
    const rk_entry *e = b.module->entry;
    const long *state = (const long *)(void *)b.state;
    rk_ctx ctx = {.block = &b.block, .pending = b.packets, .barrier = &b.barrier, .threads = 1};
    cr_assert_eq(e->state_size, 4 * sizeof(long));
    cr_assert_eq(e->every_count, 2);
    cr_assert_eq(e->every_periods[0], 1000000);
    cr_assert_eq(e->every_periods[1], INT64_C(60000000000));
    e->hook(&ctx, RK_BUSY_START, 0);
    e->hook(&ctx, RK_BUSY_EVERY, 0);
    e->hook(&ctx, RK_BUSY_EVERY, 1);
    e->hook(&ctx, RK_BUSY_EVERY, 1);
    e->hook(&ctx, RK_BUSY_STOP, 0);
    cr_assert_eq(state[0], 1);
    cr_assert_eq(state[1], 1);
    cr_assert_eq(state[2], 1);
    cr_assert_eq(state[3], 2);
    cr_assert(!ctx.waiting && is_empty(&b), "a reply without a message goes nowhere");
    finish(&b);
}

Test(handler, state_from_a_schema)
{
    static const rk_field fields[] = {{"totals", "u64[4]"}, {"last", "i32"}};
    rk_kernel k = options("RK_ON(Number, m)\n{\n    rk_state *s = rk_get_state(ctx);\n"
                          "    s->totals[s->totals_count++] = 10;\n    s->last = m->n;\n}\n");
    k.state = fields;
    k.state_count = 2;
    bench b;
    prepare(&b, define(&k), 1);
    number_t m = numbers(0);
    handle(&b, 0, &m);
    handle(&b, 0, &m);
    cr_assert_eq(b.module->entry->state_size, b.kernel->state->size);
    cr_assert_eq(((const uint64_t *)(void *)b.state)[1], 10);
    cr_assert_eq(((const uint32_t *)(void *)b.state)[8], 2);
    cr_assert_eq(((const uint32_t *)(void *)b.state)[9], 5);
    finish(&b);
}

/* ---- the compiler --------------------------------------------------------------------------- */

static void does_not_build(const char *source, int code, const char *const *sentences)
{
    rk__module *module;
    rk_kernel k = options(source);
    rk__kernel *kernel = define(&k);
    cr_assert_eq(build(kernel, 1, &module), code, "%s", rk_errdetail());
    for (; *sentences; sentences++) {
        cr_assert(strstr(rk_errdetail(), *sentences) != NULL, "%s not in:\n%s", *sentences,
                  rk_errdetail());
    }
    cr_assert_null(strstr(rk_errdetail(), "unit.c"), "%s", rk_errdetail());
    cr_assert_null(strstr(rk_errdetail(), "rk_kernel.h"), "%s", rk_errdetail());
    release(kernel);
}

static bool is_clang(void)
{
    rk__compiler compiler;
    cr_assert_eq(rk__compiler_find(&compiler), 0);
    return compiler.clang;
}

Test(build, compiler_errors_are_about_the_users_lines)
{
    const char *const unknown[] = {
        "kernel \"test\" does not compile:\napp.lua:", "app.lua:42:", "nowhere", NULL};
    does_not_build("RK_ON(Number, m)\n{\n    rk_reply(ctx, Result, .n = nowhere);\n}\n",
                   RK_ECOMPILE, unknown);
    const char *const field[] = {"app.lua:42:", "no member named", "nothing", NULL};
    does_not_build("RK_ON(Number, m)\n{\n    int x = m->nothing; (void)x;\n}\n", RK_ECOMPILE,
                   field);
    const char *const type[] = {"app.lua:41:", "rk_type_Missing",
                                "Missing is not among the accepts and replies of this kernel",
                                NULL};
    does_not_build("RK_ON(Number, m)\n{ rk_reply(ctx, Missing, .n = m->n); }\n", RK_ECOMPILE, type);
    const char *const topics[] = {"app.lua:41:", "topics come with a later version", NULL};
    does_not_build("RK_ON(Number, m)\n{ rk_publish(ctx, Result, .n = m->n); }\n", RK_ECOMPILE,
                   topics);
    const char *const helper[] = {"app.lua:40:", "return", NULL};
    does_not_build("static int check(rk_ctx *ctx, int n) { if (n < 0) rk_fail(ctx, \"negative\");"
                   " return n; }\nRK_ON(Number, m) { check(ctx, (int)m->n); }\n",
                   RK_ECOMPILE, helper);
    const char *const plus[] = {"app.lua:41:", NULL};
    if (!is_clang()) { /* which does not know what C++ refuses here */
        does_not_build("RK_ON(Number, m)\n{ void *p = 0; int *q = p; (void)q; (void)m; }\n",
                       RK_ECOMPILE, plus);
    }
    const char *const absent[] = {"calls what is nowhere to be found: absent", NULL};
    does_not_build("void absent(void);\nRK_ON(Number, m) { (void)m; absent(); }\n", RK_ECOMPILE,
                   absent);
    const char *const period[] = {"app.lua:41: RK_EVERY(-1) wants a period > 0", NULL};
    does_not_build(HANDLER "RK_EVERY(-1) { }\n", RK_ECOMPILE, period);
}

Test(build, too_much_shared_scratch_is_refused)
{
    const char *const much[] = {"kernel \"test\" wants 65536 bytes of RK_SHARED; a block has 47104",
                                NULL};
    does_not_build("RK_ON(Number, m) { RK_SHARED(float, t, [16384]); t[m->n] = 1; }\n", RK_ECOMPILE,
                   much);
    const char *const one[] = {"kernel \"test\" wants 47120 bytes of RK_SHARED; a block has 47104",
                               NULL};
    does_not_build("RK_ON(Number, m)\n{\n    RK_SHARED(uint8_t, t, [46 * 1024 - 16]);\n"
                   "    RK_SHARED(uint8_t, u, [17]);\n    t[m->n] = u[m->n] = 1;\n}\n",
                   RK_ECOMPILE, one);
    rk__module *module;
    rk_kernel k = options("RK_ON(Number, m)\n{\n    RK_SHARED(uint8_t, t, [46 * 1024 - 16]);\n"
                          "    RK_SHARED(uint8_t, u, [16]);\n    t[m->n] = u[m->n] = 1;\n}\n");
    rk__kernel *kernel = define(&k);
    cr_assert_eq(build(kernel, 1, &module), 0, "%s", rk_errdetail());
    cr_assert_eq(module->entry->shared_size, RK_SHARED_SIZE);
    rk__module_release(module);
    release(kernel);
}

Test(build, mutable_variables_are_refused_by_name_and_line)
{
    const char *const names[] = {"counter (app.lua:40)", "calls (app.lua:43)", "table (app.lua:41)",
                                 "RK_STATE", NULL};
    does_not_build("static int counter = 1;\nint table[9];\nRK_ON(Number, m)\n"
                   "{ static int calls; calls += m->n; counter++; table[m->n]++; }\n",
                   RK_ECOMPILE, names);
    const char *const thread[] = {"mine (app.lua:40)", NULL};
    does_not_build("static __thread int mine;\nRK_ON(Number, m) { mine += m->n; }\n", RK_ECOMPILE,
                   thread);
    rk__module *module;
    rk_kernel k = options("static const char *const names[] = {\"a\", \"b\"};\n"
                          "RK_ON(Number, m) { static const int t[2] = {1, 2};\n"
                          "    rk_reply(ctx, Result, .n = names[m->n & 1][0] + t[m->n & 1]); }\n");
    rk__kernel *kernel = define(&k);
    cr_assert_eq(build(kernel, 1, &module), 0, "%s", rk_errdetail());
    rk__module_release(module);
    release(kernel);
}

/* ---- where a module comes from -------------------------------------------------------------- */

Test(build, compiled_once_then_shared_then_from_the_cache)
{
    rk__module *a, *b, *c;
    rk_kernel k = options(HANDLER);
    rk__kernel *kernel = define(&k);
    cr_assert_eq(build(kernel, 1, &a), 0, "%s", rk_errdetail());
    cr_assert_eq(rt.kernels_compiled, 1);
    cr_assert_eq(build(kernel, 1, &b), 0);
    cr_assert_eq(a, b);
    cr_assert_eq(build(kernel, 4, &c), 0);
    cr_assert_neq(a, c);
    cr_assert_eq(rt.kernels_compiled, 2);
    cr_assert_eq(rt.cache_hits, 0);
    rk__module_release(a);
    rk__module_release(b);
    cr_assert_eq(build(kernel, 1, &a), 0);
    cr_assert_eq(rt.kernels_compiled, 2);
    cr_assert_eq(rt.cache_hits, 1);
    rk__module_release(a);
    rk__module_release(c);
    release(kernel);
    k.source_line = 99; /* the same text elsewhere is the same module */
    k.source_name = "other.lua";
    kernel = define(&k);
    cr_assert_eq(build(kernel, 1, &a), 0);
    cr_assert_eq(rt.cache_hits, 2);
    rk__module_release(a);
    release(kernel);
    k.source = HANDLER "/* changed */";
    kernel = define(&k);
    cr_assert_eq(build(kernel, 1, &a), 0);
    cr_assert_eq(rt.kernels_compiled, 3);
    rk__module_release(a);
    release(kernel);
}

static void damage_all(void)
{
    char command[256];
    snprintf(command, sizeof command, "for f in %s/*.so; do echo bad > $f; done", folder);
    cr_assert_eq(system(command), 0);
}

Test(build, damaged_cache_and_unwritable_cache_only_cost_time)
{
    rk__module *module;
    rk_kernel k = options(HANDLER);
    rk__kernel *kernel = define(&k);
    cr_assert_eq(build(kernel, 1, &module), 0, "%s", rk_errdetail());
    rk__module_release(module);
    damage_all();
    cr_assert_eq(build(kernel, 1, &module), 0, "%s", rk_errdetail());
    rk__module_release(module);
    rt.cache = (char *)"/dev/null/rk";
    cr_assert_eq(build(kernel, 1, &module), 0, "%s", rk_errdetail());
    cr_assert_not_null(module->entry->handle);
    rk__module_release(module);
    cr_assert_eq(rt.kernels_compiled, 3);
    release(kernel);
}

Test(build, no_compiler_is_an_error_that_says_what_was_sought)
{
    rk__module *module;
    rk_kernel k = options(HANDLER);
    rk__kernel *kernel = define(&k);
    setenv("RK_CC", "/nowhere/cc -m64", 1);
    cr_assert_eq(build(kernel, 1, &module), RK_ENOCOMPILER);
    cr_assert(strstr(rk_errdetail(), "RK_CC is \"/nowhere/cc -m64\"") != NULL, "%s",
              rk_errdetail());
    cr_assert(strstr(rk_errdetail(), "run without one") != NULL, "%s", rk_errdetail());
    unsetenv("RK_CC");
    setenv("CC", "no-such-cc", 1);
    setenv("PATH", "/nowhere", 1);
    cr_assert_eq(build(kernel, 1, &module), RK_ENOCOMPILER);
    cr_assert(strstr(rk_errdetail(), "no-such-cc (CC), cc, gcc and clang") != NULL, "%s",
              rk_errdetail());
    release(kernel);
}

Test(build, what_is_no_compiler_is_named_with_its_status)
{
    rk__module *module;
    rk_kernel k = options(HANDLER);
    rk__kernel *kernel = define(&k);
    setenv("RK_CC", "/bin/true", 1);
    cr_assert_eq(build(kernel, 1, &module), RK_ECOMPILE);
    cr_assert(strstr(rk_errdetail(), "/bin/true ended with exit status 0, printed nothing") != NULL,
              "%s", rk_errdetail());
    setenv("RK_CC", "/bin/false", 1);
    cr_assert_eq(build(kernel, 1, &module), RK_ECOMPILE);
    cr_assert(strstr(rk_errdetail(), "/bin/false ended with exit status 1, printed nothing") !=
                  NULL,
              "%s", rk_errdetail());
    release(kernel);
}

static void *interrupt_port(void *port)
{
    usleep(50000);
    __atomic_store_n(&((rk__actor *)port)->interrupted, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

Test(build, an_interrupt_ends_the_compiler)
{
    char script[96];
    pthread_t thread;
    rk__module *module;
    rk_kernel k = options(HANDLER);
    rk__kernel *kernel = define(&k);
    snprintf(script, sizeof script, "%s/endless-cc", folder);
    FILE *file = fopen(script, "w");
    cr_assert_not_null(file);
    fputs("#!/bin/sh\nwhile :; do sleep 1; done\n", file);
    fclose(file);
    cr_assert_eq(chmod(script, 0700), 0);
    setenv("RK_CC", script, 1);
    rk__actor *self = rk__self_get();
    cr_assert_not_null(self);
    cr_assert_eq(pthread_create(&thread, NULL, interrupt_port, self), 0);
    cr_assert_eq(build(kernel, 1, &module), RK_EINTR, "%s", rk_errdetail());
    pthread_join(thread, NULL);
    unsetenv("RK_CC");
    cr_assert_eq(build(kernel, 1, &module), 0, "%s", rk_errdetail());
    rk__module_release(module);
    release(kernel);
}

Test(build, precompiled_kernels_need_no_compiler)
{
    char ready[96];
    rk__module *module;
    rk_kernel k = options(HANDLER);
    rk__kernel *kernel = define(&k);
    snprintf(ready, sizeof ready, "%s/ready", folder);
    cr_assert_eq(rk__kernel_precompile("test", ready), 0, "%s", rk_errdetail());
    cr_assert_eq(rk__kernel_precompile("nobody", ready), RK_ENOENT);
    setenv("RK_KERNELS", ready, 1);
    setenv("RK_CC", "/nowhere/cc", 1);
    for (uint32_t threads = 1; threads <= 4; threads += 3) {
        cr_assert_eq(build(kernel, threads, &module), 0, "%s", rk_errdetail());
        cr_assert_eq(module->entry->threads, threads == 1);
        rk__module_release(module);
    }
    cr_assert_eq(rt.cache_hits, 2);
    cr_assert_eq(rt.kernels_compiled, 0);
    release(kernel);
}

static void *build_and_release(void *arg)
{
    rk__module *module = NULL;
    return build(arg, 1, &module) == 0 ? module : NULL;
}

Test(build, threads_and_processes_may_build_the_same_at_once)
{
    rk_kernel k = options(HANDLER);
    rk__kernel *kernel = define(&k);
    pthread_t threads[3];
    void *modules[3];
    int status;
    pid_t child = fork();
    if (!child) {
        _exit(build_and_release(kernel) ? 0 : 1);
    }
    for (int i = 0; i < 3; i++) {
        pthread_create(&threads[i], NULL, build_and_release, kernel);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], &modules[i]);
        cr_assert_not_null(modules[i]);
        cr_assert_eq(modules[i], modules[0]);
    }
    for (int i = 0; i < 3; i++) {
        rk__module_release(modules[i]);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
    release(kernel);
}

/* ---- the ready-made kernels ----------------------------------------------------------------- */

typedef struct measurement_t {
    uint64_t sequence;
    double value;
    uint32_t series;
} measurement_t;
typedef struct verdict_t {
    double median, score;
    uint64_t sequence;
    double value;
    uint32_t series;
    bool accepted, anomaly;
} verdict_t;
static rk__kernel *define_anomaly(void)
{
    static const rk_field measurement[] = {
        {"series", "u32"}, {"sequence", "u64"}, {"value", "f64"}};
    static const rk_field verdict[] = {
        {"series", "u32"}, {"sequence", "u64"}, {"value", "f64"},    {"score", "f64"},
        {"median", "f64"}, {"anomaly", "bool"}, {"accepted", "bool"}};
    static const rk_field batch[] = {{"series", "u32"}, {"first", "u64"}, {"values", "f64[256]"}};
    static const rk_field verdicts[] = {{"series", "u32"},      {"first", "u64"},
                                        {"scores", "f32[256]"}, {"flags", "u8[256]"},
                                        {"anomalies", "u32"},   {"refused", "u32"}};
    static const rk_field configure[] = {{"threshold", "f64"}, {"window", "u32"}};
    static const rk_field ack[] = {{"accepted", "bool"}, {"threshold", "f64"}, {"window", "u32"}};
    const rk_type *in[3], *out[3];
    rk_kernel k = RK_KERNEL_INIT;
    int rc = rk_message_define(&in[0], "Measurement", measurement, 3) |
             rk_message_define(&in[1], "MeasurementBatch", batch, 3) |
             rk_message_define(&in[2], "AnomalyConfigure", configure, 2) |
             rk_message_define(&out[0], "Verdict", verdict, 7) |
             rk_message_define(&out[1], "VerdictBatch", verdicts, 6) |
             rk_message_define(&out[2], "AnomalyAck", ack, 3);
    cr_assert_eq(rc, 0, "%s", rk_errdetail());
    k.name = "anomaly";
    k.file = "anomaly.cu";
    k.accepts = in;
    k.replies = out;
    k.accepts_count = k.replies_count = 3;
    return define(&k);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median_of(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* The formulas of kernels/anomaly.cu by sorting, on the last `n` values before x. */
static double score_by_sorting(const double *last, uint32_t n, double x, double *median)
{
    double sorted[64], away[64], mean = 0;
    memcpy(sorted, last, n * sizeof *last);
    *median = n ? median_of(sorted, n) : x;
    if (n < 8) {
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        away[i] = fabs(last[i] - *median);
        mean += away[i] / n;
    }
    double mad = median_of(away, n), distance = x - *median;
    return mad > 0    ? 0.6745 * distance / mad
           : mean > 0 ? distance / (1.253314 * mean)
                      : (distance > 0) * 1e9 - (distance < 0) * 1e9;
}

/* Integers in a small range, so that windows have ties, MAD 0 and constant stretches too. */
static double draw(unsigned *seed, int i)
{
    int spread = i / 100 % 4;
    double value = spread ? rand_r(seed) % (spread * spread * 4) : 3;
    return rand_r(seed) % 50 ? value : value + 1000;
}

static void set_window(bench *b, uint32_t window)
{
    struct {
        double threshold;
        uint32_t window;
    } configure = {0, window};
    rk_packet packet;
    handle(b, 2, &configure);
    const struct {
        double threshold;
        uint32_t window;
        bool accepted;
    } *ack = take(b, &packet);
    cr_assert(ack->accepted);
    cr_assert_eq(ack->threshold, 3.5);
    cr_assert_eq(ack->window, window);
}

static void compare_with_sorting(bench *b, uint32_t window, unsigned seed)
{
    double seen[700], median;
    rk_packet packet;
    int anomalies = 0;
    set_window(b, window);
    for (int i = 0; i < 700; i++) {
        measurement_t m = {.series = 255, .sequence = (uint64_t)i, .value = draw(&seed, i)};
        handle(b, 0, &m);
        const verdict_t *v = take(b, &packet);
        uint32_t n = (uint32_t)i < window ? (uint32_t)i : window;
        double want = score_by_sorting(seen + i - n, n, m.value, &median);
        cr_assert_eq(v->sequence, i);
        cr_assert(v->accepted);
        cr_assert_eq(v->median, median, "value %d: median %g, want %g", i, v->median, median);
        cr_assert(fabs(v->score - want) <= 1e-9 * fabs(want), "value %d: %g, want %g", i, v->score,
                  want);
        cr_assert_eq(v->anomaly, fabs(v->score) > 3.5);
        anomalies += v->anomaly;
        seen[i] = m.value;
    }
    cr_assert_gt(anomalies, 5);
}

Test(handler, anomaly_agrees_with_sorting_in_every_block_size)
{
    EACH_BLOCK(t)
    {
        bench b;
        prepare(&b, define_anomaly(), blocks[t]);
        compare_with_sorting(&b, 64, 1);
        compare_with_sorting(&b, 8, 2);
        compare_with_sorting(&b, 33, 3);
        finish(&b);
    }
}

Test(handler, anomaly_refuses_what_it_cannot_keep)
{
    const double values[] = {1, NAN, INFINITY, -INFINITY};
    bench b;
    rk_packet packet;
    prepare(&b, define_anomaly(), 1);
    for (int i = 0; i < 4; i++) {
        measurement_t m = {.series = i ? 0 : 256, .value = values[i]};
        handle(&b, 0, &m);
        const verdict_t *v = take(&b, &packet);
        cr_assert_not(v->accepted);
        cr_assert_not(v->anomaly);
        cr_assert_eq(v->score, 0);
    }
    finish(&b);
}

Test(handler, anomaly_batches_say_what_single_messages_say)
{
    struct {
        uint64_t first;
        double values[256];
        uint32_t values_count, series;
    } batch = {.first = 10, .values_count = 256, .series = 3};
    struct {
        uint64_t first;
        uint32_t flags_count, scores_count, anomalies, refused;
        float scores[256];
        uint32_t series;
        uint8_t flags[256];
    } got;
    unsigned seed = 9;
    bench b;
    rk_packet packet;
    prepare(&b, define_anomaly(), 4);
    for (int i = 0; i < 256; i++) {
        batch.values[i] = draw(&seed, i);
    }
    batch.values[100] = NAN;
    handle(&b, 1, &batch);
    memcpy(&got, take(&b, &packet), sizeof got);
    cr_assert_eq(packet.size, sizeof got);
    cr_assert_eq(got.first, 10);
    cr_assert_eq(got.series, 3);
    cr_assert_eq(got.scores_count, 256);
    cr_assert_eq(got.flags_count, 256);
    cr_assert_eq(got.refused, 1);
    uint32_t anomalies = 0;
    for (int i = 0; i < 256; i++) {
        measurement_t m = {.series = 4, .value = batch.values[i]};
        handle(&b, 0, &m);
        const verdict_t *v = take(&b, &packet);
        cr_assert_eq(got.scores[i], (float)v->score);
        cr_assert_eq(got.flags[i], v->accepted ? v->anomaly : 2);
        anomalies += v->anomaly;
    }
    cr_assert_eq(got.anomalies, anomalies);
    cr_assert_gt(anomalies, 0);
    finish(&b);
}
