/*
 * channel.h -- host side of one instance's rings.
 *
 * Senders push into the actor's mailbox; whoever gets the pump lock moves mail into the inbox
 * rings; whoever gets the drain lock moves the outbox to mailboxes. Who comes while a lock is held
 * leaves a mark in it and goes on: the holder makes another round before it lets go. So nobody
 * waits for a holder that was descheduled, and nothing stays behind.
 */
#ifndef RK_DEVICE_CHANNEL_H
#define RK_DEVICE_CHANNEL_H

#include <ck_ring.h>
#include "actor/actor.h"
#include "rk_abi.h"

struct rk__kernel_actor;

typedef struct rk__under_way {
    rk_message *message;
    uint32_t end;    /* position of the inbox behind it */
    uint64_t staged; /* what `unstaged` becomes when it is finished */
} rk__under_way;

typedef struct rk__channel {
    /* Constant while the instance lives. */
    struct rk__kernel_actor *kernel;
    rk__under_way *inflight; /* by token & mask: handed to the device, not finished there */
    uint32_t mask;           /* of inflight */
    uint32_t limit;          /* how many may be under way */
    uint32_t slots;          /* of each inbox; a packet always fits below the limit */
    uint32_t inline_max;     /* payload bytes that go into a packet to the device */
    uint8_t *staging;      /* where payloads by reference are copied to; NULL: devices see bodies */
    uint64_t staging_size; /* bytes, a power of two; at least four times the largest payload */
    /* Written by the holder of the pump lock. */
    uint32_t pump_lock __attribute__((aligned(64)));
    uint32_t next_token;    /* atomic: of the next message */
    uint32_t released_seen; /* a copy of `released`, refreshed when there seems to be no room */
    uint32_t attention;     /* atomic: mail was left behind for want of room (or by handing over) */
    ck_ring_t inbox;        /* positions in the inboxes; its consumer is the drain */
    uint64_t staged;        /* bytes of the staging area handed out, counted for ever */
    /* Written by the holder of the drain lock. */
    uint32_t drain_lock __attribute__((aligned(64)));
    uint32_t released; /* atomic: tokens below are finished and released */
    uint32_t handled;  /* tokens below are known to be finished */
    uint32_t finished; /* atomic: the same, before anybody is told */
    uint32_t consumed; /* slots of the outbox that were taken */
    uint64_t unstaged; /* atomic: bytes of the staging area that came back */
    uint32_t broken;   /* atomic: a handler has failed, nothing more is handed over */
    char *failure;     /* text of rk_fail; under the drain lock */
} rk__channel;

/* Both locks are held on return, by "nobody": an instance that is not (or no more) open. Done once
 * per kernel slot, before anybody can see it. */
void rk__channel_init(rk__channel *c);
/* For a new instance, whose locks are held: its blocks are there, nothing is under way. */
int rk__channel_prepare(rk__channel *c, struct rk__kernel_actor *kernel, uint32_t limit);
/* Slots that an inbox, and the outbox, of an instance needs; a power of two. */
uint32_t rk__channel_inbox_slots(const struct rk__kernel_actor *kernel);
uint32_t rk__channel_outbox_slots(const struct rk__kernel_actor *kernel);
/* Lets senders and blocks in, and moves the mail that came meanwhile. thread: who prepared it */
void rk__channel_open(rk__channel *c);
/* Straight to the inbox rings, when the pump lock is free, no mail waits and there is room: the
 * order is what the mailbox would have made of it. False: push it. thread: any. blocks: no */
bool rk__channel_offer(rk__channel *c, rk_message *m);
/* mailbox -> inbox, as far as there is room. thread: any. blocks: no */
void rk__channel_pump(rk__channel *c);
/* outbox -> mailboxes; releases finished messages; pumps when mail waited for that room. True: the
 * device had said something. thread: any. blocks: no */
bool rk__channel_drain(rk__channel *c);
/* One round of the drain by who holds its lock. */
bool rk__channel_read(rk__channel *c);
/* Takes both locks for good; with `final` empties the outbox first (every block has left its loop).
 * thread: who ends the instance. blocks: for a holder's round */
void rk__channel_close(rk__channel *c, bool final);
/* Answers and buries what was under way, with this code and text; after rk__channel_close. */
void rk__channel_refuse(rk__channel *c, int code, const char *text);
/* Frees what prepare made; after rk__channel_close. */
void rk__channel_free(rk__channel *c);

static inline uint32_t rk__channel_under_way(const rk__channel *c)
{
    return __atomic_load_n(&c->next_token, __ATOMIC_RELAXED) -
           __atomic_load_n(&c->released, __ATOMIC_RELAXED);
}
/* Whether mail was left behind and there is room for a batch of it. Nothing is forgotten by waiting
 * for the batch: what is still under way ends, and this is asked again. */
static inline bool rk__channel_wants_attention(const rk__channel *c)
{
    /* Pairs with the stores in channel.c's pump. */
    return __atomic_load_n(&c->attention, __ATOMIC_SEQ_CST) != 0 &&
           rk__channel_under_way(c) <= c->limit / 2;
}

#endif
