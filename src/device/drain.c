/*
 * drain.c -- outbox -> mailboxes: what a device said is delivered, what it finished is released.
 *
 * Threads. Whoever holds the drain lock: block 0's own thread on the cpu; on cuda the bridge, or a
 * thread that waits for an answer and looks itself.
 *
 * Order. Packets are read in the order of publishing. Each tells which messages are finished by it
 * (the silent ones before it, and its own when it is the last), so when a packet is handled, `handled`
 * is the message it speaks of, and a call that is finished without an answer has got none and is told
 * so. Counts come before deliveries: who has an answer finds it counted.
 */
#include "device/channel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "device/instance.h"
#include "device/logline.h"
#include "device/visit.h"
#include "message/type.h"

enum { ROUND = 256 }; /* packets between two releases of what is finished */

/* ---- drain: what the device said ------------------------------------------------------------ */

/* The message a packet speaks of: the first that is not finished. NULL: none. */
static rk_message *request_of(rk__channel *c, const rk_packet *packet)
{
    bool none = packet->flags & RK_PACKET_UNBOUND ||
                __atomic_load_n(&c->next_token, __ATOMIC_RELAXED) == c->handled;
    return none ? NULL : c->inflight[c->handled & c->mask].message;
}

static const void *payload_of(rk__channel *c, const rk_packet *packet)
{
    return packet->flags & RK_PACKET_REF ? c->kernel->blocks[0].arena + packet->payload.words[0]
                                         : packet->payload.bytes;
}

/* A message of the type and with the payload of a packet; NULL: out of memory. */
static rk_message *message_of(rk__channel *c, const rk_packet *packet)
{
    const rk__kernel *kernel = c->kernel->kernel;
    rk_assert(packet->type < kernel->type_count);
    const rk_type *type = kernel->types[packet->type];
    rk_assert(type->size == packet->size);
    rk__body *body = rk__body_new(type, type->size);
    rk_message *m = body != NULL ? rk__delivery_new(body) : NULL;
    if (m == NULL) {
        if (body != NULL) {
            rk__body_release(body);
        }
        return NULL;
    }
    memcpy(body->payload, payload_of(c, packet), type->size);
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

/* Whether the counts of what a kernel made are within bounds; says in `text` what is not. A packet
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

static void on_reply(rk__channel *c, const rk_packet *packet)
{
    rk_message *request = request_of(c, packet);
    char text[256];
    if (request == NULL || request->flags & RK__ANSWERED) {
        return; /* a second answer: the first one counts */
    }
    rk__actor *a = c->kernel->actor;
    rk_message *answer = message_of(c, packet);
    if (!is_sound(c, answer, "reply", text)) {
        rk__delivery_free(answer);
        rk__log(RK__LOG_ERROR, NULL, "%s", text);
        answer = rk__message_error(RK_EHANDLER, text);
    }
    count(&a->sent, 1);
    rk__reply(a, request, answer);
}

static void on_send(rk__channel *c, const rk_packet *packet)
{
    rk_message *m = message_of(c, packet);
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
    m->priority = packet->priority;
    count(&c->kernel->actor->sent, 1);
    rk__post_or_bury(packet->peer, m); /* a device never waits for room */
}

/* A twin on the same body goes on; the original stays until the handler is done with its payload.
 */
static void on_forward(rk__channel *c, const rk_packet *packet)
{
    rk_message *request = request_of(c, packet);
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
    rk__post_or_bury(packet->peer, twin);
}

static void on_log(rk__channel *c, const rk_packet *packet)
{
    rk__kernel_log(c->kernel->pid, payload_of(c, packet), packet->size);
}

/* ---- drain: the round ----------------------------------------------------------------------- */

static void on_fail(rk__channel *c, const rk_packet *packet)
{
    rk_message *request = request_of(c, packet);
    rk__actor *a = c->kernel->actor;
    count(&a->failed, 1);
    count(&a->received, request != NULL);
    if (c->failure == NULL) {
        c->failure = strndup(payload_of(c, packet), packet->size);
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

static void on_packet(rk__channel *c, const rk_packet *packet)
{
    switch (packet->kind) {
    case RK_PACKET_REPLY:
        on_reply(c, packet);
        break;
    case RK_PACKET_SEND:
        on_send(c, packet);
        break;
    case RK_PACKET_FORWARD:
        on_forward(c, packet);
        break;
    case RK_PACKET_LOG:
        on_log(c, packet);
        break;
    case RK_PACKET_FAIL:
        on_fail(c, packet);
        break;
    case RK_PACKET_DONE:
        break;
    default:
        rk_assert(!"a packet of a kind that no device writes");
    }
    if (packet->flags & RK_PACKET_REF) {
        /* Release: the payload was read; pairs with the acquire in rk__arena_reserve. */
        __atomic_store_n(&c->kernel->blocks[0].wire->arena_tail, packet->payload.words[1],
                         __ATOMIC_RELEASE);
    }
}

/* False: it is not there yet, or not whole. */
static bool read_slot(const rk_slot *slot, uint8_t *data, uint32_t stamp)
{
    for (uint32_t i = RK_SLOT_UNITS; i-- > 0;) { /* the last one was mostly written last */
        /* Acquire: pairs with rk__store_unit and loop_flush. */
        if (__atomic_load_n(&slot->units[i].stamp, __ATOMIC_ACQUIRE) != stamp) {
            return false;
        }
        memcpy(data + i * sizeof slot->units[i].words, slot->units[i].words,
               sizeof slot->units[i].words);
    }
    return true;
}

/* The next thing the device said. */
static bool read_packet(rk__channel *c, rk_packet *packet)
{
    rk_block *block = &c->kernel->blocks[0];
    uint32_t slots = 1;
    for (uint32_t n = 0; n < slots; n++) {
        const rk_slot *slot = &block->outbox[(c->consumed + n) & block->outbox_mask];
        if (!read_slot(slot, (uint8_t *)packet + n * RK_SLOT_DATA, c->consumed + n + 1)) {
            return false;
        }
        slots = rk_packet_slots(packet);
    }
    c->consumed += slots;
    /* Release: the slots were read; pairs with rk__outbox_room. */
    __atomic_store_n(&block->wire->consumed, c->consumed, __ATOMIC_RELEASE);
    return true;
}

/* Counted before anybody has the answers. False: there may be more. */
static bool empty_outbox(rk__channel *c)
{
    rk__actor *a = c->kernel->actor;
    rk_packet packet;
    for (uint32_t i = 0; i < ROUND; i++) {
        if (!read_packet(c, &packet)) {
            return true;
        }
        uint32_t silent = packet.flags >> RK_PACKET_SILENT_SHIFT;
        bool last = packet.flags & RK_PACKET_LAST;
        count(&a->received, silent + last);
        __atomic_store_n(&c->finished, c->handled + silent + last, __ATOMIC_RELAXED);
        c->handled += silent;
        on_packet(c, &packet);
        c->handled += last;
    }
    return false;
}

static void record_wait(rk__actor *a, const rk_message *m)
{
    if (a->waits == NULL) {
        /* Release: the histogram is whole; pairs with rk_inspect. */
        __atomic_store_n(&a->waits, calloc(1, sizeof *a->waits), __ATOMIC_RELEASE);
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

static void release_finished(rk__channel *c)
{
    uint32_t token = c->released;
    if (token == c->handled) {
        return;
    }
    for (; token != c->handled; token++) {
        rk__under_way *u = &c->inflight[token & c->mask];
        release_request(c, u->message);
        /* The device's turn of the ring: what it had in these slots is finished. */
        ck_pr_store_uint(&c->inbox.c_head, u->end);
        __atomic_store_n(&c->unstaged, u->staged, __ATOMIC_RELAXED);
    }
    /* seq_cst, before the load of `attention`: pairs with has_room. */
    __atomic_store_n(&c->released, token, __ATOMIC_SEQ_CST);
}

bool rk__channel_read(rk__channel *c)
{
    uint32_t before = c->consumed;
    bool empty;
    do {
        empty = empty_outbox(c);
        release_finished(c);
    } while (!empty);
    return c->consumed != before;
}

bool rk__channel_drain(rk__channel *c)
{
    bool found = false;
    if (!rk__visit_enter(&c->drain_lock)) {
        return false;
    }
    do {
        found |= rk__channel_read(c);
    } while (!rk__visit_leave(&c->drain_lock));
    if (rk__channel_wants_attention(c)) {
        rk__channel_pump(c);
    }
    return found;
}
