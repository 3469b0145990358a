/*
 * Stress of ring kernels on the cpu device. Seeded: the first line printed runs it again.
 *
 * Senders (C actors) flood kernels with numbered messages, some as calls; kernels answer with what
 * they have counted per sender. Checked: every message is answered once, in the order it was sent.
 * Meanwhile other instances come and go, are paused and looked into, and one fails again and again
 * under calls.
 */
#include "device/device.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SENDERS = 4 };

static rk_runtime *rt;
static const rk_type *item, *receipt;
static rk_pid target;
static uint64_t seed;
static long messages; /* per sender; by how long the run shall take */
static uint32_t errors;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, rk_errdetail());   \
            __atomic_add_fetch(&errors, 1, __ATOMIC_RELAXED);                                      \
        }                                                                                          \
    } while (0)

static const char source[] =
    "RK_ON(Item, i) {\n"
    "    rk_state *s = rk_get_state(ctx);\n"
    "    if (i->number < 0) rk_fail(ctx, \"negative\");\n"
    "    if (rk_block(ctx) != 0) return;\n" /* the state is block 0's */
    "    if (rk_thread(ctx) == 0) s->seen[i->sender % 16]++;\n"
    "    rk_sync(ctx);\n"
    "    rk_reply(ctx, Receipt, .number = i->number, .seen = s->seen[i->sender % 16]);\n"
    "}\n";

typedef struct item_fields {
    int64_t number;
    uint32_t sender;
} item_fields;

typedef struct receipt_fields {
    int64_t number, seen;
} receipt_fields;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static rk_message *new_item(int64_t number, uint32_t sender)
{
    rk_message *m = NULL;
    CHECK(rk_message_new(&m, item) == 0);
    *(item_fields *)rk_message_data(m) = (item_fields){number, sender};
    return m;
}

/* ---- senders -------------------------------------------------------------------------------- */

typedef struct sender {
    uint32_t index;
    int64_t answered; /* the number of the next answer */
} sender;

static void check_receipt(sender *s, rk_message *m, int64_t number)
{
    const receipt_fields *r = rk_message_data(m);
    CHECK(rk_message_type(m) == receipt);
    CHECK(r->number == number);
    CHECK(r->seen == number + 1);
    s->answered++;
    rk_message_release(m);
}

/* Takes the answers to plain sends, which come in order. */
static void collect(sender *s, int64_t until)
{
    while (s->answered < until) {
        rk_message *m;
        if (rk_receive(&m, 30000000000) < 0) {
            CHECK(!"an answer in 30 s");
            return;
        }
        check_receipt(s, m, s->answered);
    }
}

static int run_sender(void *arg)
{
    sender *s = arg;
    uint64_t state = seed + s->index * 7919 + 1;
    for (int64_t i = 0; i < messages; i++) {
        uint64_t dice = next_random(&state) % 100;
        if (dice == 0) {
            rk_message *answer;
            collect(s, i);
            CHECK(rk_call(target, new_item(i, s->index), &answer, 30000000000) == 0);
            check_receipt(s, answer, i);
        } else {
            CHECK(rk_send(target, new_item(i, s->index), 30000000000) == 0);
            if (i - s->answered > 2000 || dice == 1) {
                collect(s, i);
            }
        }
    }
    collect(s, messages);
    return 0;
}

/* ---- what goes on beside -------------------------------------------------------------------- */

static uint32_t finished;

static bool busy(void)
{
    return !__atomic_load_n(&finished, __ATOMIC_ACQUIRE); /* pairs with main */
}

/* Instances come, answer, are paused, fail or are stopped under mail, and go. */
static void *churn(void *arg)
{
    uint64_t state = seed ^ 0x9e3779b97f4a7c15u;
    long rounds = 0;
    for (; busy() || rounds < 20; rounds++) {
        rk_options options = RK_OPTIONS_INIT;
        rk_message *answer;
        rk_pid pid;
        options.name = "extra";
        options.grid = 1 + next_random(&state) % 3;
        options.cpu_threads = 1 + next_random(&state) % 3;
        CHECK(rk_spawn(rt, &pid, "stress", &options) == 0);
        for (int i = 0; i < 20; i++) {
            CHECK(rk_send(pid, new_item(i, 15), -1) == 0);
        }
        if (next_random(&state) % 2) {
            CHECK(rk_deactivate(pid) == 0);
            CHECK(rk_reactivate(pid) == 0);
        }
        if (next_random(&state) % 2) {
            int64_t seen = -1;
            CHECK(rk__kernel_read_state(pid, &answer) == 0);
            memcpy(&seen, (const int64_t *)rk_message_data(answer) + 15, sizeof seen);
            CHECK(seen >= 0 && seen <= 20);
            rk_message_release(answer);
        }
        if (next_random(&state) % 2) {
            CHECK(rk_call(pid, new_item(20, 15), &answer, 30000000000) == 0);
            CHECK(((receipt_fields *)rk_message_data(answer))->seen == 21);
            rk_message_release(answer);
        }
        if (next_random(&state) % 2) {
            CHECK(rk_call(pid, new_item(-1, 15), &answer, 30000000000) == RK_EHANDLER);
        }
        CHECK(rk_terminate(pid, "round over", 30000000000) == 0);
        while (rk_receive(&answer, 0) == 0) {
            rk_message_release(answer);
        }
    }
    *(long *)arg = rounds;
    return NULL;
}

/* Calls whatever is called "extra": each call must come back, whichever way. */
static void *pester(void *arg)
{
    long answers = 0;
    while (busy()) {
        rk_message *answer;
        rk_pid pid;
        if (rk_whereis(rt, "extra", &pid) < 0) {
            usleep(50);
            continue;
        }
        int code = rk_call(pid, new_item(1, 14), &answer, 30000000000);
        CHECK(code == 0 || code == RK_EDEAD || code == RK_EHANDLER);
        if (code == 0) {
            rk_message_release(answer);
        }
        answers++;
    }
    *(long *)arg = answers;
    return NULL;
}

/* ---- main ----------------------------------------------------------------------------------- */

static void define(uint32_t grid, uint32_t threads)
{
    static const rk_field state_schema[] = {{"seen", "i64[16]"}};
    rk_kernel k = RK_KERNEL_INIT;
    k.name = "stress";
    k.source = source;
    k.accepts = &item;
    k.accepts_count = 1;
    k.replies = &receipt;
    k.replies_count = 1;
    k.grid = grid;
    k.cpu_threads = threads;
    k.queue_size = 256;
    k.state = state_schema;
    k.state_count = 1;
    CHECK(rk_kernel_define(&k) == 0);
}

static void flood(uint32_t grid, uint32_t threads)
{
    sender senders[SENDERS];
    rk_pid pids[SENDERS];
    rk_options options = RK_OPTIONS_INIT;
    define(grid, threads);
    CHECK(rk_spawn(rt, &target, "stress", NULL) == 0);
    options.mailbox = 65536;
    for (uint32_t i = 0; i < SENDERS; i++) {
        senders[i] = (sender){i, 0};
        CHECK(rk_spawn_c(rt, &pids[i], run_sender, &senders[i], &options) == 0);
    }
    rk_info info;
    for (uint32_t i = 0; i < SENDERS; i++) {
        while (rk_inspect(pids[i], &info) == 0) {
            usleep(1000);
        }
        CHECK(senders[i].answered == messages);
    }
    CHECK(rk_inspect(target, &info) == 0);
    CHECK(info.received == (uint64_t)messages * SENDERS);
    CHECK(rk_terminate(target, NULL, 30000000000) == 0);
    printf("grid %u, %u threads: %ld messages\n", grid, threads, messages * SENDERS);
}

int main(int argc, char **argv)
{
    rk_config config = RK_CONFIG_INIT;
    static const rk_field item_schema[] = {{"number", "i64"}, {"sender", "u32"}};
    static const rk_field receipt_schema[] = {{"number", "i64"}, {"seen", "i64"}};
    char cache[64];
    long rounds, answers;
    pthread_t threads[2];
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)getpid();
    double seconds = argc > 2 ? atof(argv[2]) : 2;
    messages = 5 + (long)(seconds * 10000);
    printf("%s %llu %g\n", argv[0], (unsigned long long)seed, seconds);
    snprintf(cache, sizeof cache, "/tmp/rk-test-kernels-%u", (unsigned)getuid());
    config.cache = cache;
    config.device = "cpu";
    CHECK(rk_open(&rt, &config) == 0);
    CHECK(rk_message_define(&item, "Item", item_schema, 2) == 0);
    CHECK(rk_message_define(&receipt, "Receipt", receipt_schema, 2) == 0);
    flood(1, 1);
    messages /= 5;
    define(1, 1);
    pthread_create(&threads[0], NULL, churn, &rounds);
    pthread_create(&threads[1], NULL, pester, &answers);
    flood(1, 1);
    flood(2, 1);
    flood(1, 2);
    flood(2, 2);
    __atomic_store_n(&finished, 1, __ATOMIC_RELEASE); /* pairs with busy */
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    CHECK(rk_close(rt) == 0);
    printf("%ld instances came and went, %ld calls beside; %u errors\n", rounds, answers, errors);
    return errors > 0;
}
