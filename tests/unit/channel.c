/*
 * channel.c -- the host's half of the border to a device (src/device/channel.c): packets, stamps,
 * counts. The device is this test and the publishing half of rk_kernel.h, on a block made by hand.
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

/* ---- a device made by hand ------------------------------------------------------------------ */

enum { LARGEST = 5000, HAND_ARENA = 32768, HAND_SLOTS = 2048, HAND_STAGING = 32768 };

typedef struct hand {
    rk__kernel_actor k;
    rk__kernel kernel;
    struct rk_type type; /* accepted, and what answers are */
    const rk_type *types[1];
    rk_block block;
    rk_wire wire;
    rk_slot inbox[HAND_SLOTS], outbox[HAND_SLOTS];
    rk_packet packets[2]; /* pending and window, as the loop has them */
    uint8_t arena[HAND_ARENA] __attribute__((aligned(16)));
    uint8_t staging[HAND_STAGING] __attribute__((aligned(16)));
    rk_barrier barrier;
    rk_ctx ctx;
} hand;

static hand h;

static void nobody_to_wake(rk__kernel_actor *k)
{
    (void)k;
}

/* The actor that the channel belongs to: nobody writes to it. */
static int do_nothing(void *arg)
{
    rk_message *m;
    (void)arg;
    return rk_receive(&m, -1);
}

/* Room in the outbox or the arena is made by whoever waits for it, as on the cpu device. */
static void make_room(rk_block *block)
{
    cr_assert_eq(block, &h.block);
    rk__channel_drain(&h.k.channel);
}

static const rk__backend by_hand = {.name = "hand", .wake = nobody_to_wake};

/* A channel whose every position is `position`, as after that many slots. Messages have `size` bytes
 * and come from this thread, so answers are received here. */
static void open_hand(uint32_t size, uint32_t limit, uint32_t position)
{
    memset(&h, 0, sizeof h);
    OK(rk__devices_open(rt));
    OK(rk_spawn_c(rt, &h.k.pid, do_nothing, NULL, NULL));
    h.type = (struct rk_type){.name = "Made", .size = size, .align = 1};
    h.types[0] = &h.type;
    h.kernel = (rk__kernel){.types = h.types, .accepts = 1, .type_count = 1};
    h.k.actor = rk__actor_find(h.k.pid);
    h.k.runtime = rt;
    h.k.kernel = &h.kernel;
    h.k.backend = &by_hand;
    h.k.blocks = &h.block;
    h.k.grid = h.k.threads = 1;
    h.k.limit = limit;
    h.k.arena_size = HAND_ARENA;
    rk__channel_init(&h.k.channel);
    h.k.channel.inline_max = RK_PACKET_INLINE;
    h.block = (rk_block){.inbox = h.inbox,
                         .outbox = h.outbox,
                         .wire = &h.wire,
                         .arena = h.arena,
                         .arena_size = HAND_ARENA,
                         .inbox_mask = rk__channel_inbox_slots(&h.k) - 1,
                         .outbox_mask = rk__channel_outbox_slots(&h.k) - 1,
                         .blocks = 1,
                         .threads = 1};
    cr_assert_lt(h.block.inbox_mask, HAND_SLOTS);
    cr_assert_lt(h.block.outbox_mask, HAND_SLOTS);
    rk_barrier_init(&h.barrier, 1, make_room);
    h.ctx = (rk_ctx){.block = &h.block, .pending = h.packets, .barrier = &h.barrier, .threads = 1};
    OK(rk__channel_prepare(&h.k.channel, &h.k, limit));
    h.block.at = h.block.produced = h.block.consumed = h.wire.consumed = position;
    h.k.channel.consumed = position;
    h.k.channel.inbox.c_head = h.k.channel.inbox.p_tail = h.k.channel.inbox.p_head = position;
    rk__channel_open(&h.k.channel);
}

static void close_hand(void)
{
    rk__channel_close(&h.k.channel, true);
    cr_assert_eq(rk__channel_under_way(&h.k.channel), 0);
    rk__channel_free(&h.k.channel);
    OK(rk_terminate(h.k.pid, NULL, -1));
}

static uint8_t pattern(uint32_t number, uint32_t i)
{
    return (uint8_t)(number * 31 + i * 7 + i / 256 + 1);
}

/* All in the same queue of a mailbox, so that what is sent on comes in order. */
static uint8_t priority_of(uint32_t number)
{
    return (uint8_t)(128 + number % 8);
}

/* One message for the device, filled with the pattern of its number. */
static bool offer(uint32_t number)
{
    rk_message *m;
    OK(rk_message_new(&m, &h.type));
    m->from = rk_self();
    m->to_generation = rk__pid_generation(h.k.pid);
    m->priority = priority_of(number);
    for (uint32_t i = 0; i < h.type.size; i++) {
        ((uint8_t *)rk_message_data(m))[i] = pattern(number, i);
    }
    bool taken = rk__channel_offer(&h.k.channel, m);
    if (!taken) {
        rk_message_release(m);
    }
    return taken;
}

/* The slots that a device finds at its position, or 0; checks that stamps agree. */
static uint32_t fetch(rk_packet *packet)
{
    uint32_t slots = 1;
    for (uint32_t n = 0; n < slots; n++) {
        uint32_t at = h.block.at + n;
        const rk_slot *slot = &h.inbox[at & h.block.inbox_mask];
        for (uint32_t i = 0; i < RK_SLOT_UNITS; i++) {
            uint32_t *words = (uint32_t *)(void *)packet + (n * RK_SLOT_UNITS + i) * RK_UNIT_WORDS;
            uint32_t stamp = rk__load_unit(&slot->units[i], words);
            if (stamp != at + 1) {
                cr_assert(n == 0 && i == 0, "slot %u of a packet has unit %u of another lap", n, i);
                return 0;
            }
        }
        slots = rk_slots_of(packet->size);
    }
    return slots;
}

static const uint8_t *payload_of(const rk_packet *packet)
{
    cr_assert_eq(packet->flags & RK_PACKET_REF, packet->size > RK_PACKET_INLINE);
    return packet->flags & RK_PACKET_REF ? (const uint8_t *)(uintptr_t)packet->payload.words[0]
                                         : packet->payload.bytes;
}

/* The next message as a device takes it; NULL: there is none. */
static const uint8_t *begin(uint32_t number)
{
    rk_packet *packet = &h.packets[1];
    uint32_t slots = fetch(packet);
    if (slots == 0) {
        return NULL;
    }
    cr_assert_eq(packet->kind, RK_PACKET_MESSAGE);
    cr_assert_eq(packet->size, h.type.size);
    cr_assert_eq(packet->type, 0);
    cr_assert_eq(packet->peer, rk_self());
    cr_assert_eq(packet->priority, priority_of(number));
    const uint8_t *payload = payload_of(packet);
    for (uint32_t i = 0; i < packet->size; i++) {
        cr_assert_eq(payload[i], pattern(number, i), "byte %u of %u", i, packet->size);
    }
    h.ctx.message = packet;
    h.block.at += slots;
    return payload;
}

/* After a handler: the last packet ends the message, or it ends without a word. */
static void end(void)
{
    if (h.ctx.waiting) {
        rk__flush(&h.ctx, RK_PACKET_LAST);
    } else {
        h.block.silent++;
    }
}

static void confess(void)
{
    if (h.block.silent > 0) {
        rk__compose(&h.ctx, RK_PACKET_DONE, 0, 0, 0);
        rk__flush(&h.ctx, 0);
    }
}

static void answer_with(const uint8_t *payload)
{
    uint8_t copy[LARGEST] __attribute__((aligned(16)));
    memcpy(copy, payload, h.type.size);
    rk__reply_with(&h.ctx, 0, copy, h.type.size);
}

static void check_answer(uint32_t number)
{
    rk_message *m;
    OK(rk_receive(&m, 0));
    cr_assert_eq(rk_message_type(m), &h.type);
    const uint8_t *bytes = rk_message_data(m);
    for (uint32_t i = 0; i < h.type.size; i++) {
        cr_assert_eq(bytes[i], pattern(number, i), "byte %u of %u", i, h.type.size);
    }
    rk_message_release(m);
}

/* Slots of all kinds of laps but the next one from `position` on. */
static void garble(rk_slot *slots, uint32_t count, uint32_t position)
{
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t u = 0; u < RK_SLOT_UNITS; u++) {
            rk_unit *unit = &slots[(position + i) % count].units[u];
            for (uint32_t w = 0; w < RK_UNIT_WORDS; w++) {
                unit->words[w] = draw(UINT32_MAX);
            }
            do {
                unit->stamp = draw(4) ? draw(UINT32_MAX) : position + i + 1 - count * draw(3);
            } while (unit->stamp == position + i + 1);
        }
    }
}

/* ---- the host's half ------------------------------------------------------------------------ */

/* `rounds` times: as many messages as may be under way, there and back. */
static void go_round(uint32_t rounds, uint32_t limit)
{
    uint32_t sent = 0, handled = 0, answered = 0, at = h.block.at;
    for (uint32_t round = 0; round < rounds; round++) {
        while (sent - answered < limit) {
            cr_assert(offer(sent++));
        }
        cr_assert_not(offer(sent), "more than the limit is under way");
        for (const uint8_t *payload; (payload = begin(handled)) != NULL; handled++) {
            answer_with(payload);
            end();
        }
        cr_assert_eq(handled, sent);
        rk__channel_drain(&h.k.channel);
        while (answered < handled) {
            check_answer(answered++);
        }
        cr_assert_eq(rk__channel_under_way(&h.k.channel), 0);
    }
    uint32_t inline_size = h.type.size <= RK_PACKET_INLINE ? h.type.size : 16;
    uint32_t slots = (RK_PACKET_HEAD + inline_size + RK_SLOT_DATA - 1) / RK_SLOT_DATA;
    cr_assert_eq(h.block.at - at, slots * sent);
    cr_assert_eq(h.block.produced - at, slots * sent);
    cr_assert_eq(h.wire.consumed, h.block.produced);
    cr_assert_eq(h.wire.arena_tail, h.block.arena_head);
}

Test(channel, every_payload_size_there_and_back, .init = setup, .fini = teardown, .timeout = 60)
{
    for (uint32_t size = 0; size <= RK_PACKET_INLINE + 40; size++) {
        open_hand(size, 5, 0);
        go_round(30, 5);
        close_hand();
    }
    open_hand(LARGEST, 5, 0);
    go_round(30, 5);
    close_hand();
}

Test(channel, small_rings_go_round_hundreds_of_times, .init = setup, .fini = teardown,
     .timeout = 60)
{
    static const uint32_t sizes[] = {0, 32, 33, 100, 300, RK_PACKET_INLINE};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        open_hand(sizes[i], 1, 0);
        uint32_t laps = 300, rounds = laps * (h.block.outbox_mask + 1) / rk_slots_of(sizes[i]);
        go_round(rounds, 1);
        cr_assert_gt(h.block.at / (h.block.inbox_mask + 1), 256);
        close_hand();
    }
}

Test(channel, positions_wrap_at_four_billion_slots, .init = setup, .fini = teardown, .timeout = 60)
{
    static const uint32_t sizes[] = {8, 100, RK_PACKET_INLINE, RK_PACKET_INLINE + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (uint32_t before = 0; before < 40; before++) {
            open_hand(sizes[i], 3, (uint32_t)-before);
            garble(h.inbox, h.block.inbox_mask + 1, (uint32_t)-before);
            garble(h.outbox, h.block.outbox_mask + 1, (uint32_t)-before);
            h.k.channel.next_token = h.k.channel.released_seen = (uint32_t)-before;
            h.k.channel.released = h.k.channel.handled = (uint32_t)-before;
            go_round(40, 3);
            close_hand();
        }
    }
}

/* What a device cannot read where it is, is copied; a message under way keeps its place. */
Test(channel, a_device_without_a_view_of_bodies_gets_copies, .init = setup, .fini = teardown,
     .timeout = 60)
{
    static const uint32_t sizes[] = {300, 369, 1000, 4097, LARGEST};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint32_t sent = 0, handled = 0, most = 0;
        open_hand(sizes[i], 8, 0);
        h.k.channel.staging = h.staging;
        h.k.channel.staging_size = HAND_STAGING;
        while (handled < 500) {
            while (offer(sent)) {
                sent++;
            }
            most = sent - handled > most ? sent - handled : most;
            for (uint32_t n = 1 + draw(sent - handled); n > 0; n--, handled++) {
                const uint8_t *payload = begin(handled);
                cr_assert_not_null(payload);
                cr_assert(sizes[i] <= RK_PACKET_INLINE ||
                          (payload >= h.staging && payload + sizes[i] <= h.staging + HAND_STAGING));
                end();
            }
            confess();
            rk__channel_drain(&h.k.channel);
        }
        cr_assert_eq(most, sizes[i] < 4097 ? 8 : (HAND_STAGING / 2) / ((sizes[i] + 15) & ~15u) + 1);
        while (begin(handled) != NULL) {
            handled++;
            end();
        }
        confess();
        close_hand();
        cr_assert_eq(h.k.channel.staged, h.k.channel.unstaged);
    }
}

/* ---- what is said about which message -------------------------------------------------------- */

typedef struct tally {
    uint64_t received, sent;
    uint32_t mail; /* messages that came here */
} tally;

/* Handles one message: says nothing, or up to four things of any kind; the last one ends it. */
static void babble(tally *t, const uint8_t *payload)
{
    uint32_t things = draw(3) ? 0 : 1 + draw(4);
    bool answered = false;
    for (; things > 0; things--) {
        uint32_t what = draw(4);
        if (what == 0) {
            answer_with(payload);
        } else if (what == 1) {
            rk__forward_to(&h.ctx, rk_self());
        } else if (what == 2) {
            uint8_t copy[LARGEST] __attribute__((aligned(16)));
            memcpy(copy, payload, h.type.size);
            rk__publish(&h.ctx, RK_PACKET_SEND, 0, rk_self(), copy, h.type.size, 0, 0);
        } else {
            rk_log(&h.ctx, RK_LOG_DEBUG, "%d things to say", (int)things);
        }
        bool counts = what == 2 || (what < 2 && !answered);
        answered |= what < 2;
        t->sent += counts;
        t->mail += counts;
    }
    t->received++;
    end();
}

static void check_tally(const tally *t, uint64_t received, uint64_t sent)
{
    const rk__actor *a = h.k.actor;
    cr_assert_eq(a->received - received, t->received);
    cr_assert_eq(a->sent - sent, t->sent);
}

Test(channel, silence_and_words_are_counted_in_order, .init = setup, .fini = teardown,
     .timeout = 60)
{
    static const uint32_t sizes[] = {0, 20, 200, 1000};
    for (uint32_t round = 0; round < 4 * 500; round++) {
        if (round % 500 == 0) {
            open_hand(sizes[round / 500], 64, 0);
        }
        tally t = {0};
        uint64_t received = h.k.actor->received, sent = h.k.actor->sent;
        uint32_t count = 1 + draw(64), first = draw(256), numbers[4 * 64], n = 0;
        for (uint32_t i = 0; i < count; i++) {
            cr_assert(offer(first + i));
        }
        for (uint32_t i = 0; i < count; i++) {
            const uint8_t *payload = begin(first + i);
            cr_assert_not_null(payload);
            uint32_t mail = t.mail;
            babble(&t, payload);
            for (; mail < t.mail; mail++) {
                numbers[n++] = first + i;
            }
            if (h.block.silent == RK_PACKET_SILENT_MAX) {
                confess();
            }
        }
        confess();
        rk__channel_drain(&h.k.channel);
        check_tally(&t, received, sent);
        cr_assert_eq(rk__channel_under_way(&h.k.channel), 0);
        for (uint32_t i = 0; i < n; i++) {
            check_answer(numbers[i]);
        }
        rk_message *m;
        FAILS(rk_receive(&m, 0), RK_ETIMEOUT);
        if (round % 500 == 499) {
            close_hand();
        }
    }
}

/* ---- what is not there ----------------------------------------------------------------------- */

static void drains_nothing(void)
{
    uint32_t consumed = h.wire.consumed;
    uint64_t received = h.k.actor->received;
    rk_message *m;
    rk__channel_drain(&h.k.channel);
    cr_assert_eq(h.wire.consumed, consumed);
    cr_assert_eq(h.k.actor->received, received);
    FAILS(rk_receive(&m, 0), RK_ETIMEOUT);
}

Test(channel, a_ring_of_garbage_is_not_read, .init = setup, .fini = teardown, .timeout = 60)
{
    for (uint32_t round = 0; round < 50; round++) {
        open_hand(200, 4, round * 1000);
        garble(h.outbox, h.block.outbox_mask + 1, round * 1000);
        drains_nothing();
        garble(h.inbox, h.block.inbox_mask + 1, round * 1000);
        drains_nothing();
        go_round(20, 4); /* what is written over it is read */
        close_hand();
    }
}

Test(channel, a_packet_is_read_when_its_last_unit_has_come, .init = setup, .fini = teardown,
     .timeout = 60)
{
    static const uint32_t sizes[] = {0, 8, 100, RK_PACKET_INLINE, 1000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint32_t units = rk_slots_of(sizes[i]) * RK_SLOT_UNITS;
        open_hand(sizes[i], 2, 0);
        for (uint32_t number = 0; number < 3 * (h.block.outbox_mask + 1); number++) {
            rk_slot ring[HAND_SLOTS];
            uint32_t at = h.block.produced, late = draw(units);
            memcpy(ring, h.outbox, sizeof ring);
            cr_assert(offer(number));
            answer_with(begin(number));
            end();
            /* One unit is still as it was a lap ago. */
            rk_slot *slot = &h.outbox[(at + late / RK_SLOT_UNITS) & h.block.outbox_mask];
            rk_unit *unit = &slot->units[late % RK_SLOT_UNITS], whole = *unit;
            *unit = ring[slot - h.outbox].units[late % RK_SLOT_UNITS];
            drains_nothing();
            *unit = whole;
            rk__channel_drain(&h.k.channel);
            check_answer(number);
        }
        close_hand();
    }
}
