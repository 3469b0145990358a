/*
 * flow.c -- mail that is refused on its way out of a mailbox, and waits that would never end.
 *
 * Repeated messages: a window of the last N message ids in the order of coming, and a hash table of
 * them with linear probing, at most half full. Owner only.
 *
 * Deadlock: an actor whose thread parks until there is room at another one, and takes no mail while
 * it does, says so in `blocked_on` and then follows the `blocked_on` of that one, and so on. When it
 * comes back to itself and every mailbox on the way is full, nobody on the circle will ever take mail
 * again. The last of them to park finds it: each writes its own word, then reads the others', both
 * seq_cst, so of two that park at the same time at least one sees the other (both may: then both
 * waits end, which is harmless). A mailbox on the way with room means that a ticket is on its way to
 * somebody, and the circle opens by itself.
 *
 * Threads: owner only, but the words are read by the owners of other actors.
 */
#include "actor/runtime.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"

/* ---- repeated and expired messages --------------------------------------------------------- */

struct rk__seen {
    uint32_t count;  /* ids remembered at most */
    uint32_t mask;   /* of the table */
    uint64_t had;    /* ids that came in all */
    rk__id *window;  /* [count]: the n-th id at n % count */
    uint32_t *table; /* [mask + 1]: place in the window + 1; 0: free */
};

int rk__seen_open(rk__actor *a, uint32_t count)
{
    uint32_t size = 2;
    while (size < 2 * count) {
        size *= 2;
    }
    struct rk__seen *seen = calloc(1, sizeof *seen);
    rk__id *window = calloc(count, sizeof *window);
    uint32_t *table = calloc(size, sizeof *table);
    if (seen == NULL || window == NULL || table == NULL) {
        free(seen);
        free(window);
        free(table);
        return rk__fail(RK_ENOMEM, "no memory to remember %u message ids", count);
    }
    *seen = (struct rk__seen){.count = count, .mask = size - 1, .window = window, .table = table};
    a->seen = seen;
    return 0;
}

void rk__seen_free(rk__actor *a)
{
    if (a->seen != NULL) {
        free(a->seen->window);
        free(a->seen->table);
        free(a->seen);
        a->seen = NULL;
    }
}

/* Where the id is in the table, or the free place where it belongs. */
static uint32_t place_of(const struct rk__seen *seen, rk__id id)
{
    uint32_t at = (uint32_t)rk__hash64(&id, sizeof id) & seen->mask;
    while (seen->table[at] != 0 && !rk__id_equal(seen->window[seen->table[at] - 1], id)) {
        at = (at + 1) & seen->mask;
    }
    return at;
}

/* Frees a place, and moves back what had to go past it (Knuth, TAOCP 6.4, algorithm R). */
static void remove_at(struct rk__seen *seen, uint32_t gap)
{
    for (uint32_t at = (gap + 1) & seen->mask; seen->table[at] != 0; at = (at + 1) & seen->mask) {
        rk__id id = seen->window[seen->table[at] - 1];
        uint32_t home = (uint32_t)rk__hash64(&id, sizeof id) & seen->mask;
        if (((at - home) & seen->mask) >= ((at - gap) & seen->mask)) {
            seen->table[gap] = seen->table[at];
            gap = at;
        }
    }
    seen->table[gap] = 0;
}

/* Whether the id was there; remembers it, and forgets the oldest. */
static bool repeated(struct rk__seen *seen, rk__id id)
{
    uint32_t at = place_of(seen, id);
    if (seen->table[at] != 0) {
        return true;
    }
    uint32_t place = (uint32_t)(seen->had % seen->count);
    if (seen->had >= seen->count) {
        remove_at(seen, place_of(seen, seen->window[place]));
        at = place_of(seen, id); /* the gap may have been on the way */
    }
    seen->window[place] = id;
    seen->table[at] = place + 1;
    seen->had++;
    return false;
}

int rk__admit(rk__actor *self, const rk_message *m)
{
    char text[RK_PID_TEXT];
    if (m->deadline != 0 && m->deadline <= rk__now()) {
        return rk__fail(RK_EEXPIRED, "expired: %s did not take the message in time",
                        rk_pid_format(rk__actor_pid(self), text));
    }
    if (self->seen != NULL && !(m->flags & RK__UNBOUNDED) &&
        repeated(self->seen, rk__body_id(m->body))) {
        return rk__fail(RK_EREJECTED, "rejected: %s had this message already",
                        rk_pid_format(rk__actor_pid(self), text));
    }
    return 0;
}

/* ---- deadlock ------------------------------------------------------------------------------ */

enum { CIRCLE_MAX = 64 }; /* actors; longer circles end by their timeouts */

static bool is_full(const rk__actor *a)
{
    return rk__mailbox_count(&a->mailbox) >= __atomic_load_n(&a->mailbox.bound, __ATOMIC_RELAXED);
}

/* Who comes after `pid` on the way; RK_NOBODY: it does not wait, or will not for long. */
static rk_pid next_blocked(rk_pid pid)
{
    rk__actor *a = rk__actor_find(pid);
    if (a == NULL || !is_full(a)) {
        return RK_NOBODY;
    }
    /* Pairs with the store in rk__blocked. */
    return __atomic_load_n(&a->blocked_on, __ATOMIC_SEQ_CST);
}

static int deadlock(rk_pid first, rk_pid to)
{
    char text[RK_PID_TEXT];
    rk__strbuf s = RK__STRBUF_INIT;
    rk__strbuf_addf(&s, "deadlock: %s waits for room in the mailbox of ",
                    rk_pid_format(first, text));
    rk__strbuf_addf(&s, "%s", rk_pid_format(to, text));
    for (rk_pid at = to; at != first && at != RK_NOBODY;) {
        at = next_blocked(at);
        rk__strbuf_addf(&s, ", which waits for room in the mailbox of %s", rk_pid_format(at, text));
    }
    int code = rk__fail(RK_EDEADLOCK, "%s", s.bytes != NULL ? s.bytes : "deadlock");
    rk__log(RK__LOG_ERROR, rk_pid_format(first, text), "%s; its send fails", rk_errdetail());
    rk__strbuf_free(&s);
    return code;
}

int rk__blocked(rk__actor *self, rk_pid to)
{
    rk_pid own = rk__actor_pid(self), at = to;
    /* Pairs with the load in next_blocked: see the head. */
    __atomic_store_n(&self->blocked_on, to, __ATOMIC_SEQ_CST);
    for (int i = 0; i < CIRCLE_MAX && at != RK_NOBODY && at != own; i++) {
        at = next_blocked(at);
    }
    if (at != own || !is_full(self)) {
        return 0;
    }
    rk__unblocked(self);
    return deadlock(own, to);
}

void rk__unblocked(rk__actor *self)
{
    __atomic_store_n(&self->blocked_on, RK_NOBODY, __ATOMIC_SEQ_CST);
}
