/*
 * border.c -- what crosses between host and device, with both halves at work: instances on the cpu.
 * tests/unit/channel.c has the host's half alone.
 */
#include "device/instance.h"
#include "kernels.h"
#include "rk_kernel.h"
#undef rk_send
#undef rk_reply
#undef rk_self

static uint64_t random_state = 88172645463325252u;

static uint32_t draw(uint32_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32) % below;
}

static uint8_t pattern(uint32_t number, uint32_t i)
{
    return (uint8_t)(number * 31 + i * 7 + i / 256 + 1);
}

/* ---- both halves: echoes --------------------------------------------------------------------- */

static const uint32_t capacities[] = {1,   27,  28,  29,  31,  32,  33,  75,  76,  77,  79,
                                      80,  81,  123, 124, 125, 127, 128, 129, 171, 172, 173,
                                      219, 220, 221, 267, 268, 269, 315, 316, 317, 363, 364,
                                      365, 367, 368, 369, 511, 512, 513, 5000};
enum { CAPACITIES = sizeof capacities / sizeof *capacities };

typedef struct bytes_fields {
    uint32_t count;
    uint8_t data[5000];
} bytes_fields;

/* Types Bytes1, Bytes27...: their sizes are their capacity and the count, rounded up to 4. Answers
 * in both ways that a handler has. */
static rk_kernel echo_kernel(rk__strbuf *source)
{
    static const rk_type *types[CAPACITIES];
    for (uint32_t i = 0; i < CAPACITIES; i++) {
        char name[16], schema[16];
        snprintf(name, sizeof name, "Bytes%u", capacities[i]);
        snprintf(schema, sizeof schema, "bytes[%u]", capacities[i]);
        OK(rk_message_define(&types[i], name, &(rk_field){"data", schema}, 1));
        rk__strbuf_addf(source,
                        "RK_ON(%s, m) {\n"
                        "    if (m->data_count %% 2) {\n"
                        "        rk__reply_with(ctx, rk_type_%s, m, (uint32_t)sizeof *m);\n"
                        "        return;\n    }\n"
                        "    %s *r = rk_reply_begin(ctx, %s);\n"
                        "    r->data_count = m->data_count;\n"
                        "    RK_FOR (i, m->data_count) { r->data[i] = m->data[i]; }\n"
                        "    rk_reply_end(ctx);\n}\n",
                        name, name, name, name);
    }
    rk_kernel k = kernel("echo", source->bytes);
    k.accepts = k.replies = types;
    k.accepts_count = k.replies_count = CAPACITIES;
    return k;
}

static void send_bytes(rk_pid pid, const rk_type *type, uint32_t count, uint32_t number)
{
    rk_message *m;
    OK(rk_message_new(&m, type));
    bytes_fields *fields = rk_message_data(m);
    fields->count = count;
    for (uint32_t i = 0; i < count; i++) {
        fields->data[i] = pattern(number, i);
    }
    OK(rk_send(pid, m, -1));
}

static void receive_bytes(const rk_type *type, uint32_t count, uint32_t number)
{
    rk_message *m;
    OK(rk_receive(&m, 30000000000));
    cr_assert_eq(rk_message_type(m), type);
    const bytes_fields *fields = rk_message_data(m);
    cr_assert_eq(fields->count, count);
    for (uint32_t i = 0; i < count; i++) {
        cr_assert_eq(fields->data[i], pattern(number, i), "byte %u of %u", i, count);
    }
    rk_message_release(m);
}

Test(border, echoes_of_every_size_are_equal, .init = setup, .fini = teardown, .timeout = 60)
{
    rk__strbuf source = RK__STRBUF_INIT;
    rk_kernel k = echo_kernel(&source);
    OK(rk_kernel_define(&k));
    for (uint32_t shape = 0; shape < 4; shape++) {
        rk_options options = RK_OPTIONS_INIT;
        rk_pid pid;
        options.grid = 1 + shape % 2;
        options.cpu_threads = 1 + shape / 2 * 2;
        OK(rk_spawn(rt, &pid, "echo", &options));
        for (uint32_t number = 0; number < 40; number++) {
            for (uint32_t i = 0; i < CAPACITIES; i++) {
                send_bytes(pid, k.accepts[i], capacities[i] - number % 2, number);
            }
            for (uint32_t i = 0; i < CAPACITIES; i++) {
                receive_bytes(k.accepts[i], capacities[i] - number % 2, number);
            }
        }
        OK(rk_terminate(pid, NULL, -1));
    }
    rk__strbuf_free(&source);
}

/* ---- both halves: silence -------------------------------------------------------------------- */

static int answer_twice(void *arg)
{
    (void)arg;
    for (;;) {
        rk_message *m, *answer;
        int code = rk_receive(&m, -1);
        if (code < 0) {
            return code;
        }
        rk_message_new(&answer, done);
        rk_set_int(answer, "number", 2 * ((job_fields *)rk_message_data(m))->number);
        rk_reply(m, answer);
        rk_message_release(m);
    }
}

enum { KINDS = 6 };

/* By number % KINDS: a reply, nothing, on to a helper, a message and nothing else, two log lines
 * and a reply, nothing. */
#define MIXED                                                                                      \
    "RK_ON(Job, j) {\n"                                                                            \
    "    switch (j->number %% 6) {\n"                                                              \
    "    case 0: rk_reply(ctx, Done, .number = 2 * j->number); break;\n"                           \
    "    case 2: rk_forward(ctx, %lluull); break;\n"                                               \
    "    case 3: rk_send(ctx, rk_from(ctx), Done, .number = 2 * j->number); break;\n"              \
    "    case 4: rk_log(ctx, RK_LOG_DEBUG, \"one %%d\", j->number);\n"                             \
    "        rk_log(ctx, RK_LOG_DEBUG, \"two\");\n"                                                \
    "        rk_reply(ctx, Done, .number = 2 * j->number); break;\n"                               \
    "    default: break;\n    }\n}\n"

static bool speaks(int64_t number)
{
    return number % KINDS != 1 && number % KINDS != 5;
}

/* Every call comes back: with its answer, or with a sentence; case 3 answers beside. */
static void call_mixed(rk_pid pid, int64_t number)
{
    rk_message *answer;
    int code = rk_call(pid, new_job(number, NULL), &answer, 30000000000);
    if (!speaks(number) || number % KINDS == 3) {
        cr_assert_eq(code, RK_ENOREPLY, "%s", rk_errdetail());
    } else {
        OK(code);
        cr_assert_eq(number_of(answer), 2 * number);
    }
    if (number % KINDS == 3) {
        cr_assert_eq(receive_number(), 2 * number);
    }
}

/* Answers of the helper come when they like; the kernel's own in order. */
static void collect_mixed(int64_t from, int64_t to, rk_pid helper)
{
    int64_t next = from, forwarded = from;
    uint32_t expected = 0;
    for (int64_t i = from; i < to; i++) {
        expected += speaks(i);
    }
    for (; expected > 0; expected--) {
        rk_message *m;
        OK(rk_receive(&m, 30000000000));
        int64_t *which = rk_message_from(m) == helper ? &forwarded : &next;
        while (!speaks(*which) || (*which % KINDS == 2) != (which == &forwarded)) {
            ++*which;
        }
        cr_assert_eq(number_of(m), 2 * *which);
        ++*which;
    }
}

static void until_received(rk_pid pid, uint64_t count, rk_info *info)
{
    do {
        OK(rk_inspect(pid, info));
        cr_assert_leq(info->received, count);
    } while ((info->received < count || waiting_for(pid) > 0) && usleep(500) == 0);
}

static void flood_mixed(rk_pid pid, rk_pid helper)
{
    enum { BATCH = 60, BATCHES = 60 };
    uint64_t received = 0, sent = 0;
    rk_info info;
    for (int64_t batch = 0; batch < BATCHES; batch++) {
        int64_t first = batch * BATCH;
        for (int64_t i = first; i < first + BATCH; i++) {
            send_job(pid, i, NULL);
            sent += speaks(i);
        }
        collect_mixed(first, first + BATCH, helper);
        received += BATCH;
        if (batch % 10 == 0) {
            for (int64_t i = 0; i < KINDS; i++, received++) {
                call_mixed(pid, i);
                sent += speaks(i);
            }
        }
        until_received(pid, received, &info);
        cr_assert_eq(info.sent, sent);
    }
}

Test(border, every_message_is_counted_and_every_call_answered, .init = setup, .fini = teardown,
     .timeout = 60)
{
    char source[1024];
    rk_pid helper;
    OK(rk_spawn_c(rt, &helper, answer_twice, NULL, NULL));
    snprintf(source, sizeof source, MIXED, (unsigned long long)helper);
    rk_kernel k = kernel("mixed", source);
    for (uint32_t shape = 0; shape < 6; shape++) {
        k.grid = 1 + shape % 2;
        k.cpu_threads = 1 + shape % 3;
        k.queue_size = shape < 3 ? 4 : 256; /* small: rings of a few slots go round and round */
        rk_pid pid = spawn(&k, NULL);
        flood_mixed(pid, helper);
        OK(rk_terminate(pid, NULL, -1));
    }
}

/* The outbox of a kernel's block 0, whose address it tells, as the host has seen it until now:
 * every packet is still there when the ring has not gone round. */
static uint32_t silent_in_outbox(const rk_block *block, uint32_t *most)
{
    uint32_t end = rk__load_u32(&block->wire->consumed), silent = 0;
    cr_assert_leq(end, block->outbox_mask + 1);
    for (uint32_t at = 0; at < end;) {
        rk_packet head;
        for (uint32_t i = 0; i < RK_SLOT_UNITS; i++) {
            uint32_t *words = (uint32_t *)(void *)&head + i * RK_UNIT_WORDS;
            cr_assert_eq(rk__load_unit(&block->outbox[at].units[i], words), at + 1);
        }
        uint32_t told = head.flags >> RK_PACKET_SILENT_SHIFT;
        *most = told > *most ? told : *most;
        silent += told;
        at += rk_slots_of(head.size);
    }
    return silent;
}

Test(border, silent_messages_are_told_before_they_are_too_many, .init = setup, .fini = teardown,
     .timeout = 60)
{
    rk_kernel k = kernel("quiet", WAIT_GATE "RK_ON(Job, j) { WAIT_GATE(j);\n"
                                            "    if (j->number == 0)\n"
                                            "        rk_reply(ctx, Done,\n"
                                            "            .number = (int64_t)(uintptr_t)ctx->block);"
                                            "\n    if (j->number == 1)\n"
                                            "        rk_reply(ctx, Done, .number = 1); }\n");
    gate_words gate = {0, 0};
    rk_info info;
    uint32_t most = 0;
    rk_pid pid = spawn(&k, NULL);
    const rk_block *block = (const rk_block *)(uintptr_t)call_job(pid, 0);
    send_job(pid, 2, &gate);
    until_begun(&gate);
    for (int i = 0; i < 1000; i++) { /* the block finds many at once */
        send_job(pid, i % 100 == 99 ? 1 : 2, NULL);
    }
    open_gate(&gate);
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(receive_number(), 1);
    }
    until_received(pid, 1002, &info);
    cr_assert_eq(info.sent, 11);
    cr_assert_eq(silent_in_outbox(block, &most), 991);
    cr_assert_leq(most, RK_PACKET_SILENT_MAX);
    cr_assert_gt(most, 1, "none were told together");
}

/* ---- both halves: much to say, nothing to hear ----------------------------------------------- */

#define TALKATIVE                                                                                  \
    "RK_ON(Job, j) {\n"                                                                            \
    "    for (int i = 0; i < 300; i++) {\n"                                                        \
    "        if (i %% 3 == 2) rk_log(ctx, RK_LOG_DEBUG, \"%%d\", i);\n"                            \
    "        else rk_send(ctx, rk_from(ctx), Done, .number = i, .extra = j->number);\n    }\n"     \
    "    rk_reply(ctx, Done, .number = 300, .extra = j->number);\n}\n"

static void hear_all(int64_t job_number)
{
    for (int i = 0; i <= 300; i++) {
        if (i % 3 == 2) {
            continue;
        }
        rk_message *m;
        int64_t extra;
        OK(rk_receive(&m, 30000000000));
        OK(rk_get_int(m, "extra", &extra));
        cr_assert_eq(extra, job_number);
        cr_assert_eq(number_of(m), i);
    }
}

Test(border, a_handler_may_publish_more_than_the_outbox_holds, .init = setup, .fini = teardown,
     .timeout = 60)
{
    char source[1024];
    snprintf(source, sizeof source, TALKATIVE);
    rk_kernel k = kernel("talkative", source);
    for (uint32_t shape = 0; shape < 4; shape++) {
        rk_info info;
        k.queue_size = shape % 2 ? 256 : 1; /* more than an outbox holds, more than a round takes */
        k.cpu_threads = 1 + shape / 2;
        rk_pid pid = spawn(&k, NULL);
        for (int64_t i = 0; i < 20; i++) {
            send_job(pid, i, NULL);
            if (i % 4 == 3) {
                for (int64_t n = i - 3; n <= i; n++) {
                    hear_all(n);
                }
            }
        }
        OK(rk_inspect(pid, &info));
        cr_assert_eq(info.received, 20);
        cr_assert_eq(info.sent, 20 * 201);
        OK(rk_terminate(pid, NULL, -1));
    }
}

Test(border, a_block_does_not_take_what_is_not_whole, .init = setup, .fini = teardown,
     .timeout = 60)
{
    rk_kernel k = kernel("careful", "RK_ON(Job, j) { rk_reply(ctx, Done, .number = j->number,\n"
                                    "    .extra = (int64_t)(uintptr_t)ctx->block); }\n");
    rk_pid pid = spawn(&k, NULL);
    for (uint32_t round = 0; round < 40; round++) {
        rk_message *answer;
        int64_t address;
        rk_info info;
        OK(rk_call(pid, new_job(round, NULL), &answer, -1));
        OK(rk_get_int(answer, "extra", &address));
        cr_assert_eq(number_of(answer), round);
        rk_block *block = (rk_block *)(uintptr_t)address;
        OK(rk_deactivate(pid)); /* it has stopped looking, and says where */
        uint32_t at = block->at;
        rk_slot *slot = &block->inbox[at & block->inbox_mask], before = *slot;
        for (uint32_t i = 0; i < RK_SLOT_UNITS; i++) {
            bool whole = i != round % RK_SLOT_UNITS;
            uint32_t words[RK_UNIT_WORDS] = {draw(UINT32_MAX), draw(8), draw(UINT32_MAX)};
            rk__store_unit(&slot->units[i], words, whole ? at + 1 : draw(at + 1));
        }
        OK(rk_reactivate(pid)); /* it looks, and finds three units of four */
        usleep(1000);
        OK(rk_deactivate(pid));
        OK(rk_inspect(pid, &info));
        cr_assert_eq(info.received, round + 1);
        cr_assert_eq(block->at, at);
        *slot = before;
        OK(rk_reactivate(pid));
    }
}
