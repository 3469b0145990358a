/*
 * mailbox.c -- intake stacks, private queues, credits; see mailbox.h for the structure.
 *
 * Threads: push, await_room, cancel_room, depth from any thread; everything else from the owner
 * (drain from anybody once closed).
 *
 * Ordering. A producer links its message and swings the stack head with a compare-and-swap (full
 * barrier on every CK port); the consumer's exchange of the head acquires it. TSan does not see
 * CK's inline assembly, so the message address carries the same edge for it. `closed` and the
 * stacks form a store/load pair: see rk__mailbox_close.
 */
#include "actor/mailbox.h"

#include <ck_pr.h>
#include <string.h>
#include "base/error.h"
#include "base/sanitizer.h"

#if defined(__SANITIZE_THREAD__)
/* gcc says that TSan does not see the fence; the seq_cst accesses beside it are what it sees. */
#pragma GCC diagnostic ignored "-Wtsan"
#endif

/* Blocked senders are looked for every so many credits, and whenever the private queue runs dry. */
enum { ROOM_PERIOD = 16 };

static void set_count(rk__queue *q, uint32_t count)
{
    __atomic_store_n(&q->count, count, __ATOMIC_RELAXED);
}

static void set_next(rk_message *m, rk_message *next)
{
    m->link.next = next != NULL ? &next->link : NULL;
}

void rk__queue_append(rk__queue *q, rk_message *m)
{
    set_next(m, NULL);
    if (q->last != NULL) {
        set_next(q->last, m);
    } else {
        q->first = m;
    }
    q->last = m;
    set_count(q, q->count + 1);
}

void rk__queue_remove(rk__queue *q, rk_message *before, rk_message *m)
{
    rk_assert(before == NULL ? q->first == m : rk__next(before) == m);
    if (before != NULL) {
        set_next(before, rk__next(m));
    } else {
        q->first = rk__next(m);
    }
    if (q->last == m) {
        q->last = before;
    }
    set_next(m, NULL);
    set_count(q, q->count - 1);
}

rk_message *rk__queue_pop(rk__queue *q)
{
    rk_message *m = q->first;
    if (m != NULL) {
        rk__queue_remove(q, NULL, m);
    }
    return m;
}

rk_message *rk__queue_cancel(rk__queue *q, rk_pid from, uint64_t token)
{
    rk_message *before = NULL, *m = q->first;
    while (m != NULL && (m->from != from || m->token != token)) {
        before = m;
        m = rk__next(m);
    }
    if (m != NULL) {
        rk__queue_remove(q, before, m);
    }
    return m;
}

void rk__mailbox_init(rk__mailbox *mb)
{
    memset(mb, 0, sizeof *mb);
    ck_stack_init(&mb->urgent.replies);
    ck_stack_init(&mb->urgent.system);
    ck_stack_init(&mb->urgent.high);
    ck_stack_init(&mb->bulk.normal);
    ck_stack_init(&mb->bulk.low);
    rk__park_init(&mb->park);
    pthread_mutex_init(&mb->lock, NULL);
    mb->closed = 1;
}

void rk__mailbox_open(rk__mailbox *mb, uint32_t bound, enum rk_full full)
{
    __atomic_store_n(&mb->bound, bound, __ATOMIC_RELAXED);
    __atomic_store_n(&mb->full, full, __ATOMIC_RELAXED);
    __atomic_store_n(&mb->dropped, 0, __ATOMIC_RELAXED);
    /* Under the lock, so that a late producer of the previous owner never drains mail of this one.
     */
    pthread_mutex_lock(&mb->lock);
    /* Pairs with the load in rk__mailbox_push: who sees the mailbox open sees its bound. */
    __atomic_store_n(&mb->closed, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&mb->lock);
}

/* ---- producers ---------------------------------------------------------------------------- */

static ck_stack_t *stack_of(rk__mailbox *mb, enum rk__band band)
{
    switch (band) {
    case RK__LOW:
        return &mb->bulk.low;
    case RK__NORMAL:
        return &mb->bulk.normal;
    case RK__HIGH:
        return &mb->urgent.high;
    case RK__SYSTEM_BAND:
        return &mb->urgent.system;
    default:
        return &mb->urgent.replies;
    }
}

/* Whether one more fits. The consumer's counter is on a line it writes with every message, so it is
 * looked at only when the last look says full; a stale look errs on the side of full. */
static bool has_room(rk__mailbox *mb, uint64_t issued)
{
    int64_t bound = __atomic_load_n(&mb->bound, __ATOMIC_RELAXED);
    uint64_t returned = __atomic_load_n(&mb->bulk.returned_seen, __ATOMIC_RELAXED);
    if ((int64_t)(issued - returned) < bound) {
        return true;
    }
    /* Pairs with the release in rk__mailbox_credit. */
    returned = __atomic_load_n(&mb->returned, __ATOMIC_ACQUIRE);
    __atomic_store_n(&mb->bulk.returned_seen, returned, __ATOMIC_RELAXED);
    return (int64_t)(issued - returned) < bound;
}

/* One credit, unless the mailbox is full. Compare-and-swap keeps the bound exact under contention.
 */
static bool take_credit(rk__mailbox *mb, enum rk__band band)
{
    uint64_t issued = __atomic_load_n(&mb->bulk.issued, __ATOMIC_RELAXED);
    do {
        if (!has_room(mb, issued)) {
            return false;
        }
    } while (!__atomic_compare_exchange_n(&mb->bulk.issued, &issued, issued + 1, true,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    if (band != RK__NORMAL) {
        __atomic_fetch_add(&mb->urgent_issued[band], 1, __ATOMIC_RELAXED);
    }
    return true;
}

static rk__push push_stack(rk__mailbox *mb, enum rk__band band, rk_message *m)
{
    RK__TSAN_RELEASE(m);
    RK__TSAN_IGNORE_BEGIN();
    ck_stack_push_mpmc(stack_of(mb, band), &m->link);
    RK__TSAN_IGNORE_END();
    /* Publish, then look (the push is a full barrier): pairs with the store in rk__mailbox_close.
     */
    return __atomic_load_n(&mb->closed, __ATOMIC_SEQ_CST) ? RK__PUSH_CLOSED : RK__PUSHED;
}

static rk_message *oldest_pending(rk__mailbox *mb)
{
    for (int band = RK__LOW; band <= RK__SYSTEM_BAND; band++) {
        if (mb->pending[band].first != NULL) {
            return rk__queue_pop(&mb->pending[band]);
        }
    }
    return NULL;
}

/* drop_oldest: producers and consumer share plain lists under the lock, since a producer must be
 * able to take a message out again. What the consumer has already looked at counts but cannot be
 * dropped: then the new message is. */
static rk__push push_pending(rk__mailbox *mb, enum rk__band band, rk_message *m,
                             rk_message **dropped)
{
    rk__push result = RK__PUSHED;
    pthread_mutex_lock(&mb->lock);
    if (__atomic_load_n(&mb->closed, __ATOMIC_SEQ_CST)) {
        result = RK__PUSH_DEAD;
    } else if (!take_credit(mb, band)) {
        rk_message *old = oldest_pending(mb);
        if (old == NULL) {
            *dropped = m;
            pthread_mutex_unlock(&mb->lock);
            return RK__PUSHED;
        }
        /* The credit of the old message passes to the new one. */
        enum rk__band old_band = rk__band_of(old->priority);
        if (old_band != RK__NORMAL) {
            __atomic_fetch_sub(&mb->urgent_issued[old_band], 1, __ATOMIC_RELAXED);
        }
        if (band != RK__NORMAL) {
            __atomic_fetch_add(&mb->urgent_issued[band], 1, __ATOMIC_RELAXED);
        }
        old->flags &= ~RK__CREDITED;
        *dropped = old;
    }
    if (result == RK__PUSHED) {
        m->flags |= RK__CREDITED;
        rk__queue_append(&mb->pending[band], m);
        __atomic_store_n(&mb->pending_count, mb->pending_count + 1 - (*dropped != NULL),
                         __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&mb->lock);
    return result;
}

rk__push rk__mailbox_push(rk__mailbox *mb, rk_message *m, rk_message **dropped)
{
    *dropped = NULL;
    m->flags &= ~RK__CREDITED;
    if (m->flags & (RK__REPLY | RK__SYSTEM)) {
        return push_stack(mb, m->flags & RK__REPLY ? RK__REPLIES : RK__SYSTEM_BAND, m);
    }
    /* Pairs with rk__mailbox_open: the policy belongs to the present owner. */
    if (__atomic_load_n(&mb->closed, __ATOMIC_SEQ_CST)) {
        return RK__PUSH_DEAD;
    }
    enum rk__band band = rk__band_of(m->priority);
    if (m->flags & RK__UNBOUNDED) {
        return push_stack(mb, band, m);
    }
    enum rk_full full = __atomic_load_n(&mb->full, __ATOMIC_RELAXED);
    if (full == RK_FULL_DROP_OLDEST) {
        return push_pending(mb, band, m, dropped);
    }
    if (!take_credit(mb, band)) {
        if (full != RK_FULL_DROP_NEWEST) {
            return RK__PUSH_FULL;
        }
        *dropped = m;
        return RK__PUSHED;
    }
    m->flags |= RK__CREDITED;
    return push_stack(mb, band, m);
}

/* ---- consumer ----------------------------------------------------------------------------- */

/* Takes a whole stack and appends it in order of arrival. */
static void take_stack(rk__mailbox *mb, enum rk__band band)
{
    ck_stack_t *stack = stack_of(mb, band);
    if (ck_pr_load_ptr(&stack->head) == NULL) {
        return;
    }
    /* Pairs with the push: everything written before it is visible. */
    ck_stack_entry_t *entry = ck_stack_batch_pop_mpmc(stack);
    ck_stack_entry_t *reversed = NULL;
    while (entry != NULL) {
        ck_stack_entry_t *next;
        RK__TSAN_ACQUIRE(entry); /* the link is the message's first member */
        next = entry->next;
        __builtin_prefetch((const char *)entry + 48);  /* times and ids, */
        __builtin_prefetch((const char *)entry + 112); /* and the payload behind them */
        entry->next = reversed;
        reversed = entry;
        entry = next;
    }
    while (reversed != NULL) {
        rk_message *m = (rk_message *)reversed;
        reversed = reversed->next;
        m->sequence = ++mb->sequence;
        rk__queue_append(&mb->queues[band], m);
    }
}

/* Moves pending mail of a drop_oldest mailbox over: all of it, or one message of the best band, so
 * that the rest can still be dropped. */
static void take_pending(rk__mailbox *mb, bool all)
{
    if (__atomic_load_n(&mb->pending_count, __ATOMIC_ACQUIRE) == 0) {
        return;
    }
    pthread_mutex_lock(&mb->lock);
    for (int band = RK__SYSTEM_BAND; band >= RK__LOW; band--) {
        rk_message *m;
        while ((m = rk__queue_pop(&mb->pending[band])) != NULL) {
            m->sequence = ++mb->sequence;
            rk__queue_append(&mb->queues[band], m);
            __atomic_store_n(&mb->pending_count, mb->pending_count - 1, __ATOMIC_RELEASE);
            if (!all) {
                pthread_mutex_unlock(&mb->lock);
                return;
            }
        }
    }
    pthread_mutex_unlock(&mb->lock);
}

/* Takes out the oldest message of a band that arrived after `seen` and that accept takes. A search
 * that finds nothing leaves a mark at the end of the queue: the next one that has seen as much
 * begins behind it, so waiting behind a long backlog does not walk it again for every arrival. */
static rk_message *search(rk__mailbox *mb, enum rk__band band,
                          bool (*accept)(const rk_message *, void *), void *arg, uint32_t seen)
{
    rk__queue *q = &mb->queues[band];
    rk_message *mark = mb->scanned[band];
    bool skip = mark != NULL && accept != NULL && (int32_t)(mark->sequence - seen) <= 0;
    rk_message *before = skip ? mark : NULL, *m = skip ? rk__next(mark) : q->first;
    while (m != NULL && accept != NULL && ((int32_t)(m->sequence - seen) <= 0 || !accept(m, arg))) {
        before = m;
        m = rk__next(m);
    }
    if (m == NULL) {
        mb->scanned[band] = q->last;
    } else {
        mb->scanned[band] = m == mark ? before : mark;
        rk__queue_remove(q, before, m);
    }
    return m;
}

static bool mail_queued(const rk__mailbox *mb)
{
    return mb->queues[RK__LOW].first != NULL || mb->queues[RK__NORMAL].first != NULL ||
           mb->queues[RK__HIGH].first != NULL || mb->queues[RK__SYSTEM_BAND].first != NULL;
}

rk_message *rk__mailbox_find(rk__mailbox *mb, bool (*accept)(const rk_message *, void *), void *arg,
                             uint64_t *seen)
{
    take_stack(mb, RK__SYSTEM_BAND);
    take_stack(mb, RK__HIGH);
    if (accept != NULL || mb->queues[RK__NORMAL].first == NULL) {
        take_stack(mb, RK__NORMAL);
        take_stack(mb, RK__LOW);
    }
    if (accept != NULL || !mail_queued(mb)) {
        take_pending(mb, accept != NULL);
    }
    /* 0 offers everything: no arrival number is more than half the circle old. */
    uint32_t mark = seen != NULL && *seen != 0 ? (uint32_t)*seen : mb->sequence - INT32_MAX;
    for (int band = RK__SYSTEM_BAND; band >= RK__LOW; band--) {
        rk_message *m = search(mb, (enum rk__band)band, accept, arg, mark);
        if (m != NULL) {
            return m;
        }
    }
    if (seen != NULL) {
        *seen = mb->sequence | (uint64_t)1 << 32; /* not 0 */
    }
    return NULL;
}

rk_message *rk__mailbox_reply(rk__mailbox *mb)
{
    if (mb->queues[RK__REPLIES].first == NULL) {
        take_stack(mb, RK__REPLIES);
    }
    return rk__queue_pop(&mb->queues[RK__REPLIES]);
}

void rk__mailbox_credit(rk__mailbox *mb, rk_message *m)
{
    if (!(m->flags & RK__CREDITED)) {
        return;
    }
    m->flags &= ~RK__CREDITED;
    enum rk__band band = rk__band_of(m->priority);
    if (band != RK__NORMAL) {
        __atomic_store_n(&mb->urgent_returned[band], mb->urgent_returned[band] + 1,
                         __ATOMIC_RELAXED);
    }
    uint64_t returned = mb->returned + 1;
    /* Pairs with the acquire in take_credit. */
    __atomic_store_n(&mb->returned, returned, __ATOMIC_RELEASE);
    /* A plain look is enough most of the time: the fence that makes it certain comes every so many
     * credits, and always before the consumer parks. */
    if (__atomic_load_n(&mb->waiting, __ATOMIC_RELAXED) != 0 || returned % ROOM_PERIOD == 0 ||
        mb->queues[RK__NORMAL].first == NULL) {
        rk__mailbox_signal_room(mb);
    }
}

rk_message *rk__mailbox_find_system(rk__mailbox *mb, bool (*accept)(const rk_message *, void *),
                                    void *arg)
{
    take_stack(mb, RK__SYSTEM_BAND);
    return search(mb, RK__SYSTEM_BAND, accept, arg, mb->sequence - INT32_MAX);
}

bool rk__mailbox_has_replies(rk__mailbox *mb)
{
    return mb->queues[RK__REPLIES].first != NULL ||
           ck_pr_load_ptr(&mb->urgent.replies.head) != NULL;
}

bool rk__mailbox_has_system(rk__mailbox *mb)
{
    return ck_pr_load_ptr(&mb->urgent.system.head) != NULL;
}

bool rk__mailbox_has_intake(rk__mailbox *mb)
{
    return rk__mailbox_has_system(mb) || ck_pr_load_ptr(&mb->urgent.high.head) != NULL ||
           ck_pr_load_ptr(&mb->bulk.normal.head) != NULL ||
           ck_pr_load_ptr(&mb->bulk.low.head) != NULL ||
           __atomic_load_n(&mb->pending_count, __ATOMIC_ACQUIRE) != 0;
}

bool rk__mailbox_has_queued(rk__mailbox *mb)
{
    return mail_queued(mb);
}

void rk__mailbox_depth(const rk__mailbox *mb, uint32_t depth[4])
{
    int64_t total = (int64_t)rk__mailbox_count(mb);
    int64_t others = 0;
    for (int band = RK__LOW; band <= RK__SYSTEM_BAND; band++) {
        int64_t n = (int32_t)(__atomic_load_n(&mb->urgent_issued[band], __ATOMIC_RELAXED) -
                              __atomic_load_n(&mb->urgent_returned[band], __ATOMIC_RELAXED));
        depth[band] = n > 0 ? (uint32_t)n : 0;
        others += depth[band];
    }
    depth[RK__NORMAL] = total > others ? (uint32_t)(total - others) : 0;
}

/* ---- blocked senders ---------------------------------------------------------------------- */

bool rk__mailbox_await_room(rk__mailbox *mb, rk_message *ticket)
{
    pthread_mutex_lock(&mb->lock);
    rk__queue_append(&mb->room, ticket);
    /* Raise the flag, then look for room: pairs with the store of `returned` and the load of
     * `waiting` in rk__mailbox_signal_room, both sides sequentially consistent. */
    __atomic_store_n(&mb->waiting, mb->room.count, __ATOMIC_SEQ_CST);
    uint64_t returned = __atomic_load_n(&mb->returned, __ATOMIC_SEQ_CST);
    uint64_t issued = __atomic_load_n(&mb->bulk.issued, __ATOMIC_RELAXED);
    bool full = (int64_t)(issued - returned) >= (int64_t)mb->bound;
    bool wait = full && !__atomic_load_n(&mb->closed, __ATOMIC_SEQ_CST);
    if (!wait) {
        rk__queue_cancel(&mb->room, ticket->from, ticket->token);
        __atomic_store_n(&mb->waiting, mb->room.count, __ATOMIC_SEQ_CST);
    }
    pthread_mutex_unlock(&mb->lock);
    return wait;
}

rk_message *rk__mailbox_cancel_room(rk__mailbox *mb, rk_pid from, uint64_t token)
{
    pthread_mutex_lock(&mb->lock);
    rk_message *m = rk__queue_cancel(&mb->room, from, token);
    __atomic_store_n(&mb->waiting, mb->room.count, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&mb->lock);
    return m;
}

/* Takes as many tickets as there are free places (all when `all`). */
static rk__queue take_tickets(rk__mailbox *mb, bool all)
{
    rk__queue taken = {NULL, NULL, 0};
    pthread_mutex_lock(&mb->lock);
    int64_t room = (int64_t)mb->bound - (int64_t)rk__mailbox_count(mb);
    while ((all || room-- > 0) && mb->room.first != NULL) {
        rk__queue_append(&taken, rk__queue_pop(&mb->room));
    }
    __atomic_store_n(&mb->waiting, mb->room.count, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&mb->lock);
    return taken;
}

/* How many of them reached nobody. */
static uint32_t post_tickets(rk__queue tickets)
{
    uint32_t lost = 0;
    rk_message *ticket;
    while ((ticket = rk__queue_pop(&tickets)) != NULL) {
        lost += !rk__mailbox_ticket_ready(ticket);
    }
    return lost;
}

void rk__mailbox_signal_room(rk__mailbox *mb)
{
    /* Orders the store of `returned` before the load of `waiting`: pairs with await_room. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    while (__atomic_load_n(&mb->waiting, __ATOMIC_SEQ_CST) != 0 &&
           post_tickets(take_tickets(mb, false)) != 0) {}
}

/* ---- the end ------------------------------------------------------------------------------ */

void rk__mailbox_close(rk__mailbox *mb)
{
    pthread_mutex_lock(&mb->lock); /* push_pending decides under the lock */
    __atomic_store_n(&mb->closed, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&mb->lock);
    post_tickets(take_tickets(mb, true));
}

static void drain_stacks(rk__mailbox *mb, rk__queue *out)
{
    for (int band = RK__LOW; band < RK__BANDS; band++) {
        ck_stack_entry_t *entry = ck_stack_batch_pop_mpmc(stack_of(mb, band));
        while (entry != NULL) {
            rk_message *m = (rk_message *)entry;
            RK__TSAN_ACQUIRE(m);
            entry = entry->next;
            if (m->flags & RK__CREDITED) {
                /* Nobody consumes any more: the credit is taken back where it was issued. */
                m->flags &= ~RK__CREDITED;
                enum rk__band of = rk__band_of(m->priority);
                if (of != RK__NORMAL) {
                    __atomic_fetch_sub(&mb->urgent_issued[of], 1, __ATOMIC_RELAXED);
                }
                __atomic_fetch_sub(&mb->bulk.issued, 1, __ATOMIC_RELAXED);
            }
            rk__queue_append(out, m);
        }
    }
}

rk_message *rk__mailbox_drain(rk__mailbox *mb, bool owner)
{
    rk__queue out = {NULL, NULL, 0};
    rk_message *m;
    if (owner) {
        take_pending(mb, true);
        for (int band = RK__LOW; band < RK__BANDS; band++) {
            mb->scanned[band] = NULL;
            while ((m = rk__queue_pop(&mb->queues[band])) != NULL) {
                rk__mailbox_credit(mb, m);
                rk__queue_append(&out, m);
            }
        }
    }
    /* Opening takes the lock too: either the mailbox is still closed and what is here is nobody's,
     * or it has a new owner, who refuses mail of another generation by himself. */
    pthread_mutex_lock(&mb->lock);
    if (__atomic_load_n(&mb->closed, __ATOMIC_SEQ_CST)) {
        drain_stacks(mb, &out);
    }
    pthread_mutex_unlock(&mb->lock);
    return out.first;
}
