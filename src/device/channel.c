/*
 * channel.c -- mailbox -> inbox rings (pump), outbox -> mailboxes (drain).
 *
 * Threads. pump: any, mostly senders right after their push. drain: the thread that delivers for
 * the device: block 0's own on the cpu. close, refuse, free: who ends the instance.
 *
 * The two locks. FREE, HELD, or HELD with a visitor's mark. A visitor who cannot have the lock
 * exchanges the mark into it and goes; the holder lets go by compare-and-swap from HELD, which
 * fails when there is a mark: it takes the mark out and makes another round. All of these are
 * read-modify-writes of one word, so the holder's exchange reads the visitor's (or a later one in
 * its release sequence): what the visitor published before is seen by the extra round. Nothing
 * stays behind, nobody waits. The holder of the pump lock is the mailbox's one consumer;
 * consecutive holders are ordered by the lock itself.
 *
 * Room. A message may be handed over while fewer than `limit` are under way (next_token -
 * released). The rings hold twice that, so they are never full. When there is mail but no room, the
 * pump stores `attention` and then loads `released` again; the drain stores `released` and then
 * loads `attention` (all seq_cst): one of them sees the other, and moves the mail. The same word
 * hands mail over to the block's thread when a sender has been pumping for others long enough.
 *
 * Slots. Written before ck_ring's commit, read by the device after its acquire of `produced`. A
 * message stays in `inflight` until `progress` has passed it, so its body outlives the handler. The
 * drain loads `progress` (acquire) before it empties the outbox: what messages below it said is
 * there then, and an unanswered call below it has got no answer and is told so.
 */
#include "device/channel.h"

#include <ck_ring.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/sanitizer.h"
#include "device/instance.h"
#include "device/logline.h"
#include "message/type.h"

CK_RING_PROTOTYPE(slot, rk_slot)

_Static_assert(offsetof(rk_ring, consumed) == offsetof(ck_ring_t, c_head), "ck_ring");
_Static_assert(offsetof(rk_ring, produced) == offsetof(ck_ring_t, p_tail), "ck_ring");
_Static_assert(offsetof(rk_ring, size) == offsetof(ck_ring_t, size), "ck_ring");
_Static_assert(offsetof(rk_ring, mask) == offsetof(ck_ring_t, mask), "ck_ring");
_Static_assert(sizeof(ck_ring_t) <= sizeof(rk_ring), "ck_ring");

enum { FREE, HELD, VISITED };

/* ---- the locks ----------------------------------------------------------------------------- */

static bool enter(uint32_t *lock)
{
    uint32_t expected = FREE;
    /* Acquire: with the release of the last holder in leave. */
    if (__atomic_compare_exchange_n(lock, &expected, HELD, false, __ATOMIC_ACQUIRE,
                                    __ATOMIC_RELAXED)) {
        return true;
    }
    /* Release: what we published, for the holder's exchange in leave. Acquire: we may have got it.
     */
    return __atomic_exchange_n(lock, VISITED, __ATOMIC_ACQ_REL) == FREE;
}

/* False: somebody came; the lock is still held and another round is due. */
static bool leave(uint32_t *lock)
{
    uint32_t expected = HELD;
    /* Release: with the acquire of the next holder in enter. */
    if (__atomic_compare_exchange_n(lock, &expected, FREE, false, __ATOMIC_RELEASE,
                                    __ATOMIC_RELAXED)) {
        return true;
    }
    /* Acquire: with the visitor's exchange in enter. */
    __atomic_exchange_n(lock, HELD, __ATOMIC_ACQUIRE);
    return false;
}

/* The only place that waits for a lock: a holder's round is short, and it happens once. */
static void seize(uint32_t *lock)
{
    uint32_t expected = FREE;
    while (!__atomic_compare_exchange_n(lock, &expected, HELD, false, __ATOMIC_ACQUIRE,
                                        __ATOMIC_RELAXED)) { /* with the release in leave */
        expected = FREE;
        sched_yield();
    }
}

/* ---- pump ---------------------------------------------------------------------------------- */

static bool has_room(rk__channel *c)
{
    uint32_t next = c->next_token;
    if (__atomic_load_n(&c->broken, __ATOMIC_RELAXED)) {
        return false; /* mail stays where the failure's end refuses it */
    }
    if (next - c->released_seen < c->limit) {
        return true;
    }
    /* seq_cst: after the store of `attention` if there was one; pairs with release_finished, which
     * also gives us back the places in `inflight`. */
    c->released_seen = __atomic_load_n(&c->released, __ATOMIC_SEQ_CST);
    return next - c->released_seen < c->limit;
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

static void fill_slot(rk_slot *slot, const rk_message *m, uint32_t type, uint32_t token)
{
    uint32_t size = m->body->size;
    slot->stamp = token + 1;
    slot->kind = RK_SLOT_MESSAGE;
    slot->flags = size > RK_SLOT_INLINE ? RK_SLOT_REF : 0;
    slot->priority = m->priority;
    slot->type = (uint8_t)type;
    slot->size = size;
    slot->token = token;
    slot->peer = m->from;
    if (size > RK_SLOT_INLINE) {
        slot->payload.address = (uint64_t)(uintptr_t)m->body->payload;
    } else {
        memcpy(slot->payload.inline_bytes, m->body->payload, size);
    }
}

static void hand_over(rk__channel *c, rk_message *m, uint32_t type)
{
    rk__kernel_actor *k = c->kernel;
    uint32_t token = c->next_token;
    c->inflight[token & c->mask] = m;
    __atomic_store_n(&c->next_token, token + 1, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < k->grid; i++) {
        rk_ring *inbox = k->blocks[i].inbox;
        ck_ring_t *ring = (ck_ring_t *)inbox;
        rk_slot *slot = ck_ring_enqueue_reserve_spsc_slot(ring, k->blocks[i].inbox_slots);
        RK__TSAN_ACQUIRE(&inbox->consumed);
        rk_assert(slot != NULL);
        fill_slot(slot, m, type, token);
        RK__TSAN_RELEASE(&inbox->produced);
        /* Stores `produced` after the slot: pairs with the loop's acquire load. */
        ck_ring_enqueue_commit_spsc(ring);
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
        has_mail(c) || !has_room(c)) {
        return false;
    }
    m->flags &= (uint16_t)~RK__CREDITED;
    m->flags |= RK__RECEIVED;
    hand_over(c, m, type);
    k->backend->wake(k);
    rk__devices_stir(k->runtime);
    return true;
}

bool rk__channel_offer(rk__channel *c, rk_message *m)
{
    uint32_t expected = FREE;
    /* As in enter, without leaving a mark: who does not get the lock goes through the mailbox. */
    if (!__atomic_compare_exchange_n(&c->pump_lock, &expected, HELD, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_RELAXED)) {
        return false;
    }
    bool taken = offer(c, m);
    while (!leave(&c->pump_lock)) {
        pump_round(c);
    }
    return taken;
}

void rk__channel_pump(rk__channel *c)
{
    uint32_t moved = 0;
    if (!enter(&c->pump_lock)) {
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
            __atomic_store_n(&c->pump_lock, FREE, __ATOMIC_RELEASE);
            return;
        }
    } while (!leave(&c->pump_lock));
}

/* ---- drain: what the device said ------------------------------------------------------------ */

/* The request a slot speaks of; NULL when the device made that up. */
static rk_message *request_of(rk__channel *c, const rk_slot *slot)
{
    return rk__channel_under_way(c) > slot->token - c->released ? c->inflight[slot->token & c->mask]
                                                                : NULL;
}

static const void *payload_of(rk__channel *c, const rk_slot *slot)
{
    return slot->flags & RK_SLOT_REF ? c->kernel->blocks[0].arena + slot->payload.words[0]
                                     : slot->payload.inline_bytes;
}

/* A message of the type and with the payload of a slot; NULL: out of memory. */
static rk_message *message_of(rk__channel *c, const rk_slot *slot)
{
    const rk__kernel *kernel = c->kernel->kernel;
    rk_assert(slot->type < kernel->type_count);
    const rk_type *type = kernel->types[slot->type];
    rk_assert(type->size == slot->size);
    rk__body *body = rk__body_new(type, type->size);
    rk_message *m = body != NULL ? rk__delivery_new(body) : NULL;
    if (m == NULL) {
        if (body != NULL) {
            rk__body_release(body);
        }
        return NULL;
    }
    memcpy(body->payload, payload_of(c, slot), type->size);
    return m;
}

/* One writer: the holder of the drain lock. */
static void count(uint64_t *counter, uint32_t by)
{
    __atomic_store_n(counter, *counter + by, __ATOMIC_RELAXED);
}

/* A field that says it has more elements than fit, nested ones included; NULL: there is none. */
static const rk__fielddef *overfull(const rk_type *type, const uint8_t *payload, uint32_t *elements)
{
    for (uint32_t i = 0; i < type->field_count; i++) {
        const rk__fielddef *f = &type->fields[i];
        const rk__fielddef *found = NULL;
        if (f->count_offset != UINT32_MAX) {
            memcpy(elements, payload + f->count_offset, sizeof *elements);
            found = *elements > f->capacity ? f : NULL;
        } else if (f->kind == RK__NESTED) {
            found = overfull(f->nested, payload + f->offset, elements);
        }
        if (found != NULL) {
            return found;
        }
    }
    return NULL;
}

/* Whether the counts of what a kernel made are within bounds; says in `text` what is not. A slot
 * whose message is out of memory (NULL) is sound. */
static bool is_sound(rk__channel *c, const rk_message *m, const char *what, char text[256])
{
    const rk_type *type = m != NULL ? m->body->type : NULL;
    uint32_t elements;
    const rk__fielddef *f = type != NULL ? overfull(type, m->body->payload, &elements) : NULL;
    if (f == NULL) {
        return true;
    }
    snprintf(text, 256, "ring kernel \"%.60s\": %s %s: field '%s' has %u elements, at most %u",
             c->kernel->actor->name, what, type->name, f->name, elements, f->capacity);
    count(&c->kernel->actor->failed, 1);
    return false;
}

static void on_reply(rk__channel *c, const rk_slot *slot)
{
    rk_message *request = request_of(c, slot);
    char text[256];
    if (request == NULL || request->flags & RK__ANSWERED) {
        return; /* a second answer: the first one counts */
    }
    rk__actor *a = c->kernel->actor;
    rk_message *answer = message_of(c, slot);
    if (!is_sound(c, answer, "reply", text)) {
        rk__delivery_free(answer);
        rk__log(RK__LOG_ERROR, NULL, "%s", text);
        answer = rk__message_error(RK_EHANDLER, text);
    }
    count(&a->sent, 1);
    rk__reply(a, request, answer);
}

static void on_send(rk__channel *c, const rk_slot *slot)
{
    rk_message *m = message_of(c, slot);
    char text[256];
    if (!is_sound(c, m, "message", text)) {
        rk__log(RK__LOG_ERROR, NULL, "%s: it is not sent", text);
        rk__delivery_free(m);
        return;
    }
    if (m == NULL) {
        rk__log(RK__LOG_ERROR, c->kernel->actor->name, "no memory for a message: it is lost");
        return;
    }
    m->from = c->kernel->pid;
    m->priority = slot->priority;
    count(&c->kernel->actor->sent, 1);
    rk__post_or_bury(slot->peer, m); /* a device never waits for room */
}

/* A twin on the same body goes on; the original stays until the handler is done with its payload.
 */
static void on_forward(rk__channel *c, const rk_slot *slot)
{
    rk_message *request = request_of(c, slot);
    if (request == NULL || request->flags & RK__ANSWERED) {
        return;
    }
    rk__body_retain(request->body);
    rk_message *twin = rk__delivery_new(request->body);
    if (twin == NULL) {
        rk__body_release(request->body);
        rk__log(RK__LOG_ERROR, c->kernel->actor->name, "no memory to forward a message");
        return; /* the call ends as unanswered */
    }
    twin->from = request->from;
    twin->token = request->token;
    twin->flags |= request->flags & (RK__CALL | RK__OUTPUT | RK__STAMPED);
    twin->priority = request->priority;
    twin->sent = request->sent;
    twin->correlation = request->correlation;
    request->flags |= RK__ANSWERED;
    count(&c->kernel->actor->sent, 1);
    rk__post_or_bury(slot->peer, twin);
}

static void on_log(rk__channel *c, const rk_slot *slot)
{
    rk__kernel_log(c->kernel->pid, payload_of(c, slot), slot->size);
}

/* ---- drain: the round ----------------------------------------------------------------------- */

static void on_fail(rk__channel *c, const rk_slot *slot)
{
    rk_message *request = slot->token == RK_TOKEN_NONE ? NULL : request_of(c, slot);
    rk__actor *a = c->kernel->actor;
    count(&a->failed, 1);
    count(&a->received, request != NULL);
    if (c->failure == NULL) {
        c->failure = strndup(payload_of(c, slot), slot->size);
    }
    /* Before the answer: who has it finds the actor FAILED, and hands nothing more to the device.
     */
    __atomic_store_n(&c->broken, 1, __ATOMIC_RELAXED);
    rk__actor_set_state(a, RK_FAILED);
    if (request != NULL && request->flags & RK__CALL && !(request->flags & RK__ANSWERED)) {
        rk__reply(a, request,
                  rk__message_error(RK_EHANDLER, c->failure != NULL ? c->failure : "failed"));
    }
}

static void on_slot(rk__channel *c, const rk_slot *slot)
{
    switch (slot->kind) {
    case RK_SLOT_REPLY:
        on_reply(c, slot);
        break;
    case RK_SLOT_SEND:
        on_send(c, slot);
        break;
    case RK_SLOT_FORWARD:
        on_forward(c, slot);
        break;
    case RK_SLOT_LOG:
        on_log(c, slot);
        break;
    case RK_SLOT_FAIL:
        on_fail(c, slot);
        break;
    default:
        rk_assert(!"a slot of a kind that no device writes");
    }
    if (slot->flags & RK_SLOT_REF) {
        /* Release: the payload was read; pairs with the acquire in rk_arena_reserve. */
        __atomic_store_n(&c->kernel->blocks[0].arena_tail, slot->payload.words[1],
                         __ATOMIC_RELEASE);
    }
}

static void empty_outbox(rk__channel *c)
{
    rk_block *block = &c->kernel->blocks[0];
    ck_ring_t *ring = (ck_ring_t *)block->outbox;
    rk_slot slot;
    while (ck_ring_size(ring) > 0) {
        RK__TSAN_ACQUIRE(&block->outbox->produced);
        /* Loads `produced`, reads the slot, stores `consumed`: pairs with rk_outbox_commit and
         * rk_outbox_reserve. */
        if (!ck_ring_dequeue_spsc_slot(ring, block->outbox_slots, &slot)) {
            break;
        }
        RK__TSAN_RELEASE(&block->outbox->consumed);
        on_slot(c, &slot);
    }
}

/* Tokens below this one are finished by every block. */
static uint32_t finished(const rk__channel *c)
{
    /* Acquire: pairs with the release in loop_finish. Block 0 is the last one to finish a message;
     * the others are only ahead of it. */
    return __atomic_load_n(&c->kernel->blocks[0].progress, __ATOMIC_ACQUIRE);
}

static void record_wait(rk__actor *a, const rk_message *m)
{
    if (a->waits == NULL) {
        a->waits = calloc(1, sizeof *a->waits);
    }
    if (a->waits != NULL) {
        rk__histogram_add(a->waits, rk__now() - m->sent);
    }
}

static void release_request(rk__channel *c, rk_message *m)
{
    rk__kernel_actor *k = c->kernel;
    if (m->flags & RK__CALL && !(m->flags & RK__ANSWERED)) {
        char text[RK_NAME_MAX * 2 + 64];
        snprintf(text, sizeof text, "ring kernel \"%s\": the handler of %s ended without rk_reply",
                 k->actor->name, m->body->type->name);
        rk__reply(k->actor, m, rk__message_error(RK_ENOREPLY, text));
    }
    if (m->flags & RK__STAMPED) {
        record_wait(k->actor, m);
    }
    rk__delivery_free(m);
}

static void release_finished(rk__channel *c, uint32_t end)
{
    uint32_t token = c->released;
    if (token == end) {
        return;
    }
    for (; token != end; token++) {
        release_request(c, c->inflight[token & c->mask]);
    }
    /* seq_cst, before the load of `attention`: pairs with has_room. */
    __atomic_store_n(&c->released, end, __ATOMIC_SEQ_CST);
}

static void drain_round(rk__channel *c)
{
    uint32_t end = finished(c);
    count(&c->kernel->actor->received, end - c->handled); /* before anybody has the answers */
    c->handled = end;
    empty_outbox(c);
    release_finished(c, end);
}

void rk__channel_drain(rk__channel *c)
{
    if (!enter(&c->drain_lock)) {
        return;
    }
    do {
        drain_round(c);
    } while (!leave(&c->drain_lock));
    if (rk__channel_wants_attention(c)) {
        rk__channel_pump(c);
    }
}

/* ---- beginning and end ---------------------------------------------------------------------- */

void rk__channel_init(rk__channel *c)
{
    memset(c, 0, sizeof *c);
    c->pump_lock = c->drain_lock = HELD;
}

int rk__channel_prepare(rk__channel *c, rk__kernel_actor *kernel, uint32_t limit)
{
    uint32_t size = 1;
    while (size < limit) {
        size *= 2;
    }
    c->kernel = kernel;
    c->limit = limit;
    c->mask = size - 1;
    c->next_token = c->released_seen = c->released = c->handled = 0;
    __atomic_store_n(&c->broken, 0, __ATOMIC_RELAXED);
    c->failure = NULL;
    __atomic_store_n(&c->attention, 0, __ATOMIC_RELAXED);
    c->inflight = calloc(size, sizeof *c->inflight);
    return c->inflight != NULL ? 0 : rk__fail(RK_ENOMEM, "no memory for %u messages", limit);
}

void rk__channel_open(rk__channel *c)
{
    while (!leave(&c->drain_lock)) {}
    do {
        pump_round(c);
    } while (!leave(&c->pump_lock));
}

void rk__channel_close(rk__channel *c, bool final)
{
    seize(&c->pump_lock);
    seize(&c->drain_lock);
    if (final) {
        drain_round(c);
    }
}

void rk__channel_refuse(rk__channel *c, int code, const char *text)
{
    rk__kernel_actor *k = c->kernel;
    for (uint32_t token = c->released; token != c->next_token; token++) {
        rk_message *m = c->inflight[token & c->mask];
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
