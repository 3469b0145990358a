/*
 * mailbox.h -- bounded mailbox of an actor: several producers, one consumer, four bands.
 *
 * Structure. One intake stack per band (ck_stack, push by compare-and-swap) and one for replies to
 * calls; the consumer takes a whole stack with one exchange, reverses it and keeps the messages in
 * private queues. A producer that is descheduled in the middle of a push holds up nobody, which is
 * why this is not an MPSC ring (DESIGN §6). The urgent stacks (replies, system, high) and the bulk
 * ones (normal, low) sit on different cache lines: while the consumer works through normal mail it
 * looks at the urgent line, which stays in its cache, and takes new normal mail only when it ran
 * out. So bands are strict, and normal traffic is batched by itself.
 *
 * Order: FIFO per (sender, band): pushes of one thread are ordered by the stack, reversal restores
 * the order, and a later batch is appended behind an earlier one.
 *
 * Bound: `issued` counts credits given to producers, `returned` those the consumer gave back when
 * it handed a message out; depth = issued - returned. Replies and system messages take no credit.
 *
 * End of life: see rk__mailbox_close. Slots are reused and never unmapped, so a late producer
 * always pushes into valid memory.
 */
#ifndef RK_ACTOR_MAILBOX_H
#define RK_ACTOR_MAILBOX_H

#include <ck_stack.h>
#include <pthread.h>
#include "base/park.h"
#include "message/message.h"

enum rk__band { RK__LOW, RK__NORMAL, RK__HIGH, RK__SYSTEM_BAND, RK__REPLIES, RK__BANDS };

/* A list of deliveries, first in first out, linked through link.next. */
typedef struct rk__queue {
    rk_message *first, *last;
    uint32_t count;
} rk__queue;

static inline rk_message *rk__next(const rk_message *m)
{
    return (rk_message *)m->link.next; /* the link is the first member */
}
void rk__queue_append(rk__queue *q, rk_message *m);
rk_message *rk__queue_pop(rk__queue *q); /* NULL when empty */
/* Takes m out; `before` is the one in front of it, NULL when m is the first. */
void rk__queue_remove(rk__queue *q, rk_message *before, rk_message *m);
/* Takes out the ticket with this sender and token; NULL: there is none. */
rk_message *rk__queue_cancel(rk__queue *q, rk_pid from, uint64_t token);

typedef struct rk__mailbox {
    /* Producers: urgent. */
    struct {
        ck_stack_t replies, system, high;
    } urgent __attribute__((aligned(64)));
    /* Producers: bulk. */
    struct {
        ck_stack_t normal, low;
        uint64_t issued;
        uint64_t returned_seen; /* atomic: `returned` as a producer last saw it, or less */
    } bulk __attribute__((aligned(64)));
    /* Written at open and by producers on cold paths. */
    uint32_t bound __attribute__((aligned(64)));
    enum rk_full full;
    uint64_t dropped;          /* atomic */
    uint32_t urgent_issued[4]; /* atomic: credits by band, all but normal */
    uint32_t waiting;          /* atomic: senders on the room list */
    /* Flags that producers read after a push; written rarely. */
    rk__park park __attribute__((aligned(64)));
    uint32_t closed;        /* atomic */
    pthread_mutex_t lock;   /* room list; pending lists of drop_oldest */
    rk__queue room;         /* tickets of blocked senders, under lock */
    rk__queue pending[4];   /* drop_oldest: mail by band, under lock */
    uint32_t pending_count; /* atomic: in all of them */
    /* Consumer. */
    uint64_t returned __attribute__((aligned(64))); /* atomic, consumer writes */
    uint32_t urgent_returned[4];
    uint32_t sequence; /* arrival number of the last message taken in; wraps */
    rk__queue queues[RK__BANDS];
    rk_message *scanned[RK__BANDS]; /* where the last search that found nothing ended; or NULL */
} rk__mailbox;

typedef enum rk__push {
    RK__PUSHED,
    RK__PUSH_FULL,  /* not taken */
    RK__PUSH_DEAD,  /* closed; not taken */
    RK__PUSH_CLOSED /* taken, but the mailbox closed meanwhile: see rk__mailbox_push */
} rk__push;

static inline enum rk__band rk__band_of(int priority)
{
    return priority >= 224   ? RK__SYSTEM_BAND
           : priority >= 160 ? RK__HIGH
           : priority >= 64  ? RK__NORMAL
                             : RK__LOW;
}

/* Once per slot. */
void rk__mailbox_init(rk__mailbox *mb);
/* Makes a closed mailbox usable again for a new owner. */
void rk__mailbox_open(rk__mailbox *mb, uint32_t bound, enum rk_full full);

/* Pushes m by its flags and priority; does not wake the consumer. Takes m unless FULL or DEAD. When
 * the policy dropped something, *dropped is that message (the caller dead-letters it): the
 * displaced oldest, or m itself (then PUSHED is returned). CLOSED: m may or may not still be in the
 * mailbox; the caller must run rk__mailbox_drain(mb, false) and dead-letter what it gets. thread:
 * any. blocks: no */
rk__push rk__mailbox_push(rk__mailbox *mb, rk_message *m, rk_message **dropped);

/* ---- consumer ---- thread: owner only. blocks: no */

/* The next message (best band first, FIFO inside), or the first that `accept` takes; NULL: none.
 * With accept, only messages that arrived after *seen are offered and *seen is moved up; 0: all.
 * The message keeps its credit until rk__mailbox_credit. */
rk_message *rk__mailbox_find(rk__mailbox *mb, bool (*accept)(const rk_message *, void *), void *arg,
                             uint64_t *seen);
/* The next reply to a call, whatever its token. */
rk_message *rk__mailbox_reply(rk__mailbox *mb);
/* Gives the credit of a message back (once it is handed to its handler or thrown away). */
void rk__mailbox_credit(rk__mailbox *mb, rk_message *m);
/* The first message of the system band that `accept` takes. */
rk_message *rk__mailbox_find_system(rk__mailbox *mb, bool (*accept)(const rk_message *, void *),
                                    void *arg);
/* Replies waiting; system mail, any mail not yet taken in; mail in the private queues. */
bool rk__mailbox_has_replies(rk__mailbox *mb);
bool rk__mailbox_has_system(rk__mailbox *mb);
bool rk__mailbox_has_intake(rk__mailbox *mb);
bool rk__mailbox_has_queued(rk__mailbox *mb);
/* Before the consumer parks or is busy for long: lets blocked senders know about room. */
void rk__mailbox_signal_room(rk__mailbox *mb);

/* Depth by band; credited messages only. thread: any. blocks: no */
void rk__mailbox_depth(const rk__mailbox *mb, uint32_t depth[4]);
static inline uint64_t rk__mailbox_count(const rk__mailbox *mb)
{
    return __atomic_load_n(&mb->bulk.issued, __ATOMIC_RELAXED) -
           __atomic_load_n(&mb->returned, __ATOMIC_RELAXED);
}

/* A blocked sender leaves a ticket: a REPLY delivery whose `from` is the sender itself and whose
 * token it waits for; it is posted when there is room or the mailbox closes. False: there is room
 * already or the mailbox is closed (the ticket stays the caller's). thread: any. blocks: no */
bool rk__mailbox_await_room(rk__mailbox *mb, rk_message *ticket);
/* Takes the ticket with this token back; NULL: it was posted already. */
rk_message *rk__mailbox_cancel_room(rk__mailbox *mb, rk_pid from, uint64_t token);

/* Closes: later pushes see `closed` and drain themselves, so nothing is left behind: a pusher
 * publishes, then reads `closed`; the closer writes `closed`, then takes everything (both seq_cst):
 * either the pusher sees the flag or the closer sees the message. thread: owner only. */
void rk__mailbox_close(rk__mailbox *mb);
/* A ticket whose mailbox has room again or has closed goes back to its sender (send.c). takes it.
 * False: that sender is gone, and the next in line may have its turn. */
bool rk__mailbox_ticket_ready(rk_message *ticket);
/* Takes everything out of a closed mailbox, linked as a queue is. `owner` also empties the private
 * queues; others get only what is still in the stacks, and nothing once it has been opened again.
 */
rk_message *rk__mailbox_drain(rk__mailbox *mb, bool owner);

#endif
