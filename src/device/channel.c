/*
 * channel.c -- mailbox -> inbox rings (pump); beginning and end of a channel.
 *
 * Threads. pump: any, mostly senders right after their push. close, refuse, free: who ends the
 * instance.
 *
 * The holder of the pump lock (visit.h) is the mailbox's one consumer; consecutive holders are
 * ordered by the lock itself. drain.c is the other half.
 *
 * Room. A message may be handed over while fewer than `limit` are under way (next_token -
 * released). The rings hold that many at their longest, so they are never full. When there is mail but no room, the
 * pump stores `attention` and then loads `released` again; the drain stores `released` and then
 * loads `attention` (all seq_cst): one of them sees the other, and moves the mail. The same word
 * hands mail over to the block's thread when a sender has been pumping for others long enough.
 *
 * Slots. The inboxes are mapped memory under one ck_ring_t that keeps the positions; its indices
 * never cross the border. What the device consumes it tells by its packets: each says which
 * messages are finished (rk_abi.h), in order, so the drain moves the ring's head for it. Stamps are
 * stored with release after the data; whoever has read one with acquire has what the writer had. A
 * message stays in `inflight` until it is finished, so its body outlives the handler; a device that
 * cannot see bodies gets a copy in the staging area, given back in the same order.
 */
#include "device/channel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "device/instance.h"
#include "device/visit.h"
#include "message/type.h"

CK_RING_PROTOTYPE(slot, rk_slot)

enum { BORDER = 16 }; /* bytes: where payloads of the staging area begin */

/* ---- pump ---------------------------------------------------------------------------------- */

/* The drain's stores of `unstaged` come before its store of `released`, which has_room loads. */
static bool has_staging(const rk__channel *c)
{
    uint64_t taken = c->staged - __atomic_load_n(&c->unstaged, __ATOMIC_RELAXED);
    return c->staging == NULL || c->staging_size - taken >= c->staging_size / 2;
}

static bool has_room(rk__channel *c)
{
    uint32_t next = c->next_token;
    if (__atomic_load_n(&c->broken, __ATOMIC_RELAXED)) {
        return false; /* mail stays where the failure's end refuses it */
    }
    if (next - c->released_seen < c->limit && has_staging(c)) {
        return true;
    }
    /* seq_cst: after the store of `attention` if there was one; pairs with release_finished, which
     * also gives us back the places in `inflight`, in the inboxes and in the staging area. */
    c->released_seen = __atomic_load_n(&c->released, __ATOMIC_SEQ_CST);
    return next - c->released_seen < c->limit && has_staging(c);
}

static void refuse(rk__kernel_actor *k, rk_message *m)
{
    rk__strbuf text = RK__STRBUF_INIT;
    const rk_type *type = m->body->type;
    rk__strbuf_addf(&text, "ring kernel \"%s\" takes no %s; it accepts", k->actor->name,
                    type != NULL ? type->name : "untyped messages");
    for (uint32_t i = 0; i < k->kernel->accepts; i++) {
        rk__strbuf_addf(&text, "%s %s", i > 0 ? "," : "", k->kernel->types[i]->name);
    }
    if (m->flags & RK__CALL) {
        rk__reply(k->actor, m,
                  rk__message_error(RK_ETYPE, text.failed ? "wrong type" : text.bytes));
        rk__delivery_free(m);
    } else {
        rk__bury(k->pid, m, RK_ETYPE);
    }
    rk__strbuf_free(&text);
}

static uint32_t type_index(const rk__kernel *kernel, const rk_type *type)
{
    uint32_t i = 0;
    while (i < kernel->accepts && kernel->types[i] != type) {
        i++;
    }
    return i;
}

/* Where the device reads a payload that does not fit a packet. has_room has seen to the room: twice
 * the largest, for what is skipped at the end. */
static uint64_t address_of(rk__channel *c, const rk_message *m)
{
    uint64_t size = ((uint64_t)m->body->size + BORDER - 1) & ~(uint64_t)(BORDER - 1);
    uint64_t at = c->staged & (c->staging_size - 1);
    if (c->staging == NULL) {
        return (uint64_t)(uintptr_t)m->body->payload;
    }
    if (at + size > c->staging_size) {
        c->staged += c->staging_size - at;
        at = 0;
    }
    c->staged += size;
    memcpy(c->staging + at, m->body->payload, m->body->size);
    return (uint64_t)(uintptr_t)(c->staging + at);
}

/* Returns how many slots it takes. */
static uint32_t fill_packet(rk__channel *c, rk_packet *packet, const rk_message *m, uint32_t type)
{
    uint32_t size = m->body->size;
    packet->kind = RK_PACKET_MESSAGE;
    packet->flags = (uint8_t)((size > c->inline_max ? RK_PACKET_REF : 0) |
                              (m->flags & RK__CALL ? RK_PACKET_CALL : 0));
    packet->priority = m->priority;
    packet->type = (uint8_t)type;
    packet->size = size;
    packet->peer = m->from;
    if (size > c->inline_max) {
        packet->payload.words[0] = address_of(c, m);
        memset(&packet->payload.words[1], 0, RK_SLOT_DATA - RK_PACKET_HEAD - 8);
    } else {
        memcpy(packet->payload.bytes, m->body->payload, size);
        memset(packet->payload.bytes + size, 0,
               rk_slots_of(size) * RK_SLOT_DATA - RK_PACKET_HEAD - size);
    }
    return rk_packet_slots(packet);
}

/* All units, so that an old stamp cannot come round again. */
static void write_slot(rk_slot *slot, const rk_packet *packet, uint32_t n, uint32_t stamp)
{
    const uint8_t *data = (const uint8_t *)packet + n * RK_SLOT_DATA;
    for (uint32_t i = 0; i < RK_SLOT_UNITS; i++, data += sizeof slot->units[i].words) {
        memcpy(slot->units[i].words, data, sizeof slot->units[i].words);
        /* Release: the data; pairs with rk__load_unit. */
        __atomic_store_n(&slot->units[i].stamp, stamp, __ATOMIC_RELEASE);
    }
}

static void hand_over(rk__channel *c, rk_message *m, uint32_t type)
{
    rk__kernel_actor *k = c->kernel;
    uint32_t token = c->next_token;
    rk_packet packet;
    uint32_t slots = fill_packet(c, &packet, m, type), at = c->inbox.p_tail;
    c->inflight[token & c->mask] = (rk__under_way){m, at + slots, c->staged};
    __atomic_store_n(&c->next_token, token + 1, __ATOMIC_RELAXED);
    for (uint32_t n = 0; n < slots; n++, at++) {
        rk_slot *slot = ck_ring_enqueue_reserve_spsc_slot(&c->inbox, k->blocks[0].inbox);
        rk_assert(slot != NULL);
        write_slot(slot, &packet, n, at + 1);
        for (uint32_t i = 1; i < k->grid; i++) {
            write_slot(&k->blocks[i].inbox[at & c->inbox.mask], &packet, n, at + 1);
        }
        ck_ring_enqueue_commit_spsc(&c->inbox);
    }
}

/* Takes m out of the mailbox's books; true: it went to the device. */
static bool take(rk__channel *c, rk_message *m)
{
    rk__kernel_actor *k = c->kernel;
    rk__mailbox_credit(&k->actor->mailbox, m);
    m->flags |= RK__RECEIVED;
    uint32_t type = type_index(k->kernel, m->body->type);
    if (type == k->kernel->accepts) {
        refuse(k, m);
        return false;
    }
    hand_over(c, m, type);
    return true;
}

static bool has_mail(rk__channel *c)
{
    rk__mailbox *mb = &c->kernel->actor->mailbox;
    return rk__mailbox_has_queued(mb) || rk__mailbox_has_intake(mb);
}

/* Moves what there is room for; returns how many. */
static uint32_t pump_round(rk__channel *c)
{
    rk__kernel_actor *k = c->kernel;
    uint32_t moved = 0;
    bool waits = true;
    while (waits) {
        rk_message *m;
        if (__atomic_load_n(&c->attention, __ATOMIC_RELAXED) != 0) {
            __atomic_store_n(&c->attention, 0, __ATOMIC_SEQ_CST);
        }
        while (has_room(c) && (m = rk__next_mail(k->actor, NULL, NULL, NULL)) != NULL) {
            moved += take(c, m);
        }
        waits = has_mail(c);
        if (waits) {
            /* seq_cst, then has_room: pairs with the drain, see the head. */
            __atomic_store_n(&c->attention, 1, __ATOMIC_SEQ_CST);
            waits = has_room(c);
        }
    }
    rk__mailbox_signal_room(&k->actor->mailbox);
    if (moved > 0) {
        k->backend->wake(k);
        rk__devices_stir(k->runtime);
    }
    return moved;
}

/* The lock is held. A slot's next owner has another generation. */
static bool offer(rk__channel *c, rk_message *m)
{
    rk__kernel_actor *k = c->kernel;
    uint32_t type = type_index(k->kernel, m->body->type);
    if (type == k->kernel->accepts || m->to_generation != rk__pid_generation(k->pid) ||
        m->deadline != 0 || k->actor->seen != NULL || has_mail(c) || !has_room(c)) {
        return false;
    }
    m->flags &= ~RK__CREDITED;
    m->flags |= RK__RECEIVED;
    hand_over(c, m, type);
    k->backend->wake(k);
    rk__devices_stir(k->runtime);
    return true;
}

bool rk__channel_offer(rk__channel *c, rk_message *m)
{
    if (!rk__visit_try(&c->pump_lock)) {
        return false; /* who does not get the lock goes through the mailbox */
    }
    bool taken = offer(c, m);
    while (!rk__visit_leave(&c->pump_lock)) {
        pump_round(c);
    }
    return taken;
}

void rk__channel_pump(rk__channel *c)
{
    uint32_t moved = 0;
    if (!rk__visit_enter(&c->pump_lock)) {
        return;
    }
    do {
        moved += pump_round(c);
        if (moved > 4 * c->limit) {
            /* We have served others long enough: block 0 goes on. It looks at `attention` before it
             * sleeps, and is woken to do so. */
            __atomic_store_n(&c->attention, 1, __ATOMIC_SEQ_CST);
            c->kernel->backend->wake(c->kernel);
            /* Release: with the acquire of the next holder; a visitor's mark needs no round. */
            __atomic_store_n(&c->pump_lock, RK__FREE, __ATOMIC_RELEASE);
            return;
        }
    } while (!rk__visit_leave(&c->pump_lock));
}

/* ---- beginning and end ---------------------------------------------------------------------- */

void rk__channel_init(rk__channel *c)
{
    memset(c, 0, sizeof *c);
    c->pump_lock = c->drain_lock = RK__HELD;
}

static uint32_t power_of_two(uint32_t least)
{
    uint32_t size = 4;
    while (size < least) {
        size *= 2;
    }
    return size;
}

/* Slots of the longest packet among the first types of a kernel; longer payloads than `most` go by
 * reference. */
static uint32_t longest(const rk__kernel *kernel, uint32_t types, uint32_t most)
{
    uint32_t slots = 1;
    for (uint32_t i = 0; i < types; i++) {
        uint32_t size = kernel->types[i]->size, n = size > most ? 1 : rk_slots_of(size);
        slots = n > slots ? n : slots;
    }
    return slots;
}

/* One more than what is under way at most: a full ring looks empty. */
uint32_t rk__channel_inbox_slots(const rk__kernel_actor *k)
{
    return power_of_two(k->limit * longest(k->kernel, k->kernel->accepts, k->channel.inline_max) +
                        1);
}

/* Every message may have an answer there, and one more packet. Logs are as long as packets get. */
uint32_t rk__channel_outbox_slots(const rk__kernel_actor *k)
{
    return power_of_two((k->limit + 1) *
                            longest(k->kernel, k->kernel->type_count, RK_PACKET_INLINE) +
                        RK_PACKET_SLOTS);
}

int rk__channel_prepare(rk__channel *c, rk__kernel_actor *kernel, uint32_t limit)
{
    uint32_t size = power_of_two(limit);
    c->kernel = kernel;
    c->limit = limit;
    c->mask = size - 1;
    c->next_token = c->released_seen = c->released = 0;
    c->handled = c->finished = c->consumed = 0;
    c->staged = c->unstaged = 0;
    ck_ring_init(&c->inbox, kernel->blocks[0].inbox_mask + 1);
    __atomic_store_n(&c->broken, 0, __ATOMIC_RELAXED);
    c->failure = NULL;
    __atomic_store_n(&c->attention, 0, __ATOMIC_RELAXED);
    c->inflight = calloc(size, sizeof *c->inflight);
    return c->inflight != NULL ? 0 : rk__fail(RK_ENOMEM, "no memory for %u messages", limit);
}

void rk__channel_open(rk__channel *c)
{
    while (!rk__visit_leave(&c->drain_lock)) {}
    do {
        pump_round(c);
    } while (!rk__visit_leave(&c->pump_lock));
}

void rk__channel_close(rk__channel *c, bool final)
{
    rk__visit_seize(&c->pump_lock);
    rk__visit_seize(&c->drain_lock);
    if (final) {
        rk__channel_read(c);
    }
}

void rk__channel_refuse(rk__channel *c, int code, const char *text)
{
    rk__kernel_actor *k = c->kernel;
    for (uint32_t token = c->released; token != c->next_token; token++) {
        rk_message *m = c->inflight[token & c->mask].message;
        if (m->flags & RK__CALL && !(m->flags & RK__ANSWERED)) {
            rk__reply(k->actor, m, rk__message_error(code, text));
        }
        if (m->flags & RK__ANSWERED) {
            rk__delivery_free(m);
        } else {
            rk__bury(k->pid, m, code);
        }
    }
    /* The watchdog may be looking (rk__channel_under_way). */
    __atomic_store_n(&c->released, c->next_token, __ATOMIC_RELAXED);
}

void rk__channel_free(rk__channel *c)
{
    free(c->inflight);
    free(c->failure);
    c->inflight = NULL;
    c->failure = NULL;
}
