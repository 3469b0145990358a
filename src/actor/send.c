/*
 * send.c -- delivering, answering, burying.
 *
 * Threads: any. A delivery that could not be handed over is refused (the caller keeps it),
 * answered, or buried: counted, shown to the dead-letter hook, and, when it was a call, answered
 * with the code.
 */
#include "actor/letters.h"

#include <stdlib.h>
#include "base/clock.h"
#include "base/error.h"

/* Every so many messages of a sender carry the time they were sent, for the waiting-time histogram.
 */
enum { STAMP_PERIOD = 64 };

static void stamp(rk__actor *self, rk_message *m)
{
    if (self == NULL) {
        return;
    }
    uint64_t n = self->sent + 1;
    __atomic_store_n(&self->sent, n, __ATOMIC_RELAXED);
    if (n % STAMP_PERIOD == 0) {
        m->sent = rk__now();
        m->flags |= RK__STAMPED;
    }
}

/* What is left in the stacks of a closed mailbox belongs to nobody. */
static void bury_leftovers(rk__actor *a, rk_pid to)
{
    rk_message *list = rk__mailbox_drain(&a->mailbox, false);
    while (list != NULL) {
        rk_message *m = list;
        list = rk__next(m);
        rk__bury(to, m, RK_EDEAD);
    }
}

static int full_error(rk_pid to, const rk__actor *a)
{
    char text[RK_PID_TEXT];
    return rk__fail(RK_EFULL, "the mailbox of %s is full (%u messages)", rk_pid_format(to, text),
                    a->mailbox.bound);
}

static void bury_dropped(rk__actor *a, rk_pid to, rk_message *m)
{
    __atomic_add_fetch(&a->mailbox.dropped, 1, __ATOMIC_RELAXED);
    rk__bury(to, m, RK_EFULL);
}

/* RK_EFULL is returned without its sentence, for callers that go on to wait. */
static int deliver(rk_pid to, rk_message *m, rk__actor **found)
{
    rk__actor *a = rk__actor_find(to);
    rk_message *dropped;
    if (a == NULL) {
        return rk__actor_dead(to);
    }
    *found = a;
    m->to_generation = rk__pid_generation(to);
    const rk__actor_class *class = __atomic_load_n(&a->class, __ATOMIC_ACQUIRE);
    if (class->take != NULL && !(m->flags & (RK__REPLY | RK__SYSTEM)) && class->take(a, m)) {
        return 0;
    }
    rk__push result = rk__mailbox_push(&a->mailbox, m, &dropped);
    switch (result) {
    case RK__PUSH_FULL:
        return RK_EFULL;
    case RK__PUSH_DEAD:
        return rk__actor_dead(to);
    case RK__PUSH_CLOSED:
        bury_leftovers(a, to);
        return 0;
    default:
        break;
    }
    if (dropped != NULL) {
        bury_dropped(a, to, dropped);
    }
    if (dropped != m) {
        /* The slot may have changed hands by now: then somebody is woken for nothing. */
        __atomic_load_n(&a->class, __ATOMIC_ACQUIRE)->pushed(a);
    }
    return 0;
}

int rk__post(rk_pid to, rk_message *m)
{
    rk__actor *a;
    stamp(rk__self_peek(), m);
    int code = deliver(to, m, &a);
    return code == RK_EFULL ? full_error(to, a) : code;
}

void rk__post_or_bury(rk_pid to, rk_message *m)
{
    int code = rk__post(to, m);
    if (code < 0) {
        rk__bury(to, m, code);
    }
}

bool rk__mailbox_ticket_ready(rk_message *ticket)
{
    rk__actor *owner;
    if (deliver(ticket->from, ticket, &owner) < 0) {
        rk__delivery_free(ticket);
        return false;
    }
    return true;
}

/* Waits for a place in the mailbox of `a`: 0 means try again. */
static int wait_for_room(rk__actor *self, rk__actor *a, rk_pid to, int64_t deadline)
{
    rk_message *reply;
    rk_message *ticket = rk__room_ticket(self);
    if (ticket == NULL) {
        return rk__fail(RK_ENOMEM, "no memory to wait for a full mailbox");
    }
    uint64_t token = ticket->token;
    if (!rk__mailbox_await_room(&a->mailbox, ticket)) {
        rk__delivery_free(ticket);
        return 0;
    }
    int code = rk__blocked(self, to);
    if (code == 0) {
        code = rk__await(self, token, &reply, deadline);
        rk__unblocked(self);
    }
    if (code == 0) {
        rk__delivery_free(reply);
        return 0;
    }
    ticket = rk__mailbox_cancel_room(&a->mailbox, rk__actor_pid(self), token);
    if (ticket != NULL) {
        rk__delivery_free(ticket);
    } else {
        rk__mailbox_signal_room(&a->mailbox); /* our turn goes to the next in line */
    }
    char text[RK_PID_TEXT];
    return code == RK_ETIMEOUT
               ? rk__fail(code, "timeout: the mailbox of %s stayed full (%u messages)",
                          rk_pid_format(to, text), a->mailbox.bound)
               : code;
}

rk_message *rk__room_ticket(rk__actor *self)
{
    rk__body *body = rk__body_new(NULL, 1);
    rk_message *ticket = body != NULL ? rk__delivery_new(body) : NULL;
    if (ticket == NULL) {
        if (body != NULL) {
            rk__body_release(body);
        }
        return NULL;
    }
    ticket->flags |= RK__REPLY | RK__TICKET;
    ticket->token = rk__token_new(self);
    ticket->from = rk__actor_pid(self);
    return ticket;
}

int rk__send(rk__actor *self, rk_pid to, rk_message *m, int64_t deadline)
{
    rk__actor *a;
    m->from = self != NULL ? rk__actor_pid(self) : RK_NOBODY;
    stamp(self, m);
    for (;;) {
        int code = deliver(to, m, &a);
        if (code != RK_EFULL) {
            return code;
        }
        if (a->mailbox.full != RK_FULL_BLOCK || self == NULL) {
            return full_error(to, a);
        }
        if (a == self) {
            return rk__fail(RK_ESELF,
                            "the actor's own mailbox is full (%u messages): waiting for "
                            "room in it would wait for ever",
                            a->mailbox.bound);
        }
        code = wait_for_room(self, a, to, deadline);
        if (code < 0) {
            int last = deliver(to, m, &a); /* room may have come with the deadline */
            return last == RK_EFULL ? code : last;
        }
    }
}

/* ---- receiving and answering -------------------------------------------------------------- */

static void record_wait(rk__actor *self, const rk_message *m)
{
    if (self->waits == NULL) {
        /* Pairs with the load in rk_inspect: the histogram is zeroed before it is seen. */
        __atomic_store_n(&self->waits, calloc(1, sizeof *self->waits), __ATOMIC_RELEASE);
    }
    if (self->waits != NULL) {
        rk__histogram_add(self->waits, rk__now() - m->sent);
    }
}

/* Without memory the request is only missing from the list: its release still answers it. */
static void add_outstanding(rk__actor *self, rk_message *m)
{
    if (self->outstanding_count == self->outstanding_room) {
        uint32_t room = self->outstanding_room != 0 ? self->outstanding_room * 2 : 4;
        rk_message **grown = realloc(self->outstanding, room * sizeof *grown);
        if (grown == NULL) {
            return;
        }
        self->outstanding = grown;
        self->outstanding_room = room;
    }
    m->sequence = self->outstanding_count;
    m->flags |= RK__OUTSTANDING;
    self->outstanding[self->outstanding_count++] = m;
}

/* The last one moves into the gap. */
static void remove_outstanding(rk__actor *self, rk_message *m)
{
    rk_message *last = self->outstanding[--self->outstanding_count];
    rk_assert(self->outstanding[m->sequence] == m);
    self->outstanding[m->sequence] = last;
    last->sequence = m->sequence;
    m->flags &= ~RK__OUTSTANDING;
}

void rk__received(rk__actor *self, rk_message *m)
{
    self->handling = m->flags & RK__CREDITED && !(m->flags & RK__CALL);
    rk__mailbox_credit(&self->mailbox, m);
    __atomic_store_n(&self->received, self->received + 1, __ATOMIC_RELAXED);
    if (m->flags & RK__STAMPED) {
        record_wait(self, m);
    }
    m->flags |= RK__RECEIVED;
    if (m->flags & RK__CALL) {
        add_outstanding(self, m);
    }
}

static void settle(rk__actor *self, rk_message *request)
{
    request->flags |= RK__ANSWERED;
    if (request->flags & RK__OUTSTANDING) {
        remove_outstanding(self, request);
    }
}

int rk__reply(rk__actor *self, rk_message *request, rk_message *answer)
{
    if (!(request->flags & RK__RECEIVED) || request->flags & RK__ANSWERED) {
        rk__delivery_free(answer);
        return rk__fail(RK_EINVAL, request->flags & RK__ANSWERED
                                       ? "this request has been answered already"
                                       : "only a received message can be answered");
    }
    if (!(request->flags & (RK__CALL | RK__OUTPUT)) && request->from == RK_NOBODY) {
        rk__delivery_free(answer);
        return rk__fail(RK_EINVAL, "nobody waits for an answer to this message: its sender has no "
                                   "mailbox");
    }
    settle(self, request);
    if (answer == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for an answer");
    }
    answer->correlation = rk__body_id(request->body);
    answer->from = rk__actor_pid(self);
    if (request->flags & RK__CALL) {
        answer->token = request->token;
        answer->flags |= RK__REPLY;
        rk__post_or_bury(request->from, answer);
    } else if (request->flags & RK__OUTPUT) {
        rk__output_put(self, answer);
    } else {
        answer->flags |= RK__UNBOUNDED;
        rk__post_or_bury(request->from, answer);
    }
    return 0;
}

int rk__answer_error(rk_message *m)
{
    int64_t code = RK_EHANDLER;
    const void *text = "";
    size_t size = 0;
    if (m->body->type == rk__type_error()) {
        rk_get_int(m, "code", &code);
        rk_get_bytes(m, "text", &text, &size);
    }
    int result = rk__fail((int)code, "%.*s", (int)size, (const char *)text);
    rk_message_release(m);
    return result;
}

/* ---- losing -------------------------------------------------------------------------------- */

static void show_hook(rk_runtime *rt, rk_message *m, rk_pid to, int code)
{
    pthread_rwlock_rdlock(&rt->hook_lock);
    if (rt->dead_letter != NULL) {
        rt->dead_letter(rt->dead_letter_arg, m, to, code);
    }
    pthread_rwlock_unlock(&rt->hook_lock);
}

static const char *burial_text(rk_pid to, int code)
{
    char text[RK_PID_TEXT];
    if (code == RK_EDEAD) {
        rk__actor_dead(to);
    } else if (code == RK_EFULL) {
        rk__fail(code, "the mailbox of %s was full and dropped the message",
                 rk_pid_format(to, text));
    } /* the others have their sentence set by who refuses */
    return rk_errdetail();
}

/* Counts and shows a message of an actor that nobody will take. takes m */
static void lose(rk_runtime *rt, rk_pid to, rk_message *m, int code)
{
    __atomic_add_fetch(code == RK_EFULL ? &rt->dropped : &rt->dead_letters, 1, __ATOMIC_RELAXED);
    if (code == RK_EEXPIRED) {
        __atomic_add_fetch(&rt->expired, 1, __ATOMIC_RELAXED);
    }
    if (code == RK_EREJECTED) {
        __atomic_add_fetch(&rt->rejected, 1, __ATOMIC_RELAXED);
    }
    show_hook(rt, m, to, code);
    rk__letters_keep(rt, to, m, code);
}

static void answer_buried(rk_pid to, const rk_message *m, int code)
{
    rk_message *error = rk__message_error(code, burial_text(to, code));
    if (error != NULL) {
        error->token = m->token;
        error->flags |= RK__REPLY;
        error->from = to;
        rk__post_or_bury(m->from, error);
    }
}

void rk__bury(rk_pid to, rk_message *m, int code)
{
    rk_runtime *rt = m->flags & RK__TICKET ? NULL : rk__runtime_of(to);
    if (m->flags & RK__CALL && !(m->flags & RK__ANSWERED)) {
        answer_buried(to, m, code);
    }
    if (rt != NULL && m->flags & RK__REPLY) {
        __atomic_add_fetch(&rt->late_replies, 1, __ATOMIC_RELAXED);
    } else if (rt != NULL && !(m->flags & RK__SYSTEM)) { /* the runtime's own: nobody sent it */
        lose(rt, to, m, code);
        return;
    }
    rk__delivery_free(m);
}

static bool is_outstanding(const rk__actor *self, const rk_message *m)
{
    return !(m->flags & RK__OUTSTANDING) ||
           (m->sequence < self->outstanding_count && self->outstanding[m->sequence] == m);
}

void rk_message_release(rk_message *m)
{
    if (m == NULL) {
        return;
    }
    if (m->flags & RK__RECEIVED && m->flags & RK__CALL && !(m->flags & RK__ANSWERED)) {
        char text[RK_PID_TEXT];
        rk__actor *self = rk__self_peek();
        RK_CHECK(self != NULL && is_outstanding(self, m),
                 "a request is released by the thread that received it");
        if (self->forgot != NULL) {
            self->forgot(self, m);
        }
        if (self->runtime != NULL) {
            __atomic_add_fetch(&self->runtime->forgotten, 1, __ATOMIC_RELAXED);
        }
        rk__fail(RK_ENOREPLY, "%s received the request and dropped it unanswered",
                 rk_pid_format(rk__actor_pid(self), text));
        rk__reply(self, m, rk__message_error(RK_ENOREPLY, rk_errdetail()));
    }
    rk__delivery_free(m);
}

/* ---- the public face ----------------------------------------------------------------------- */

/* Makes what the caller received, or got as an answer, a message of its own, so that it can be sent
 * on. A request stays with whoever has to answer it. */
static int own(rk_message *m)
{
    if (!(m->flags & (RK__RECEIVED | RK__REPLY))) {
        return 0;
    }
    if (m->flags & RK__CALL && !(m->flags & RK__ANSWERED)) {
        return rk__fail(RK_EINVAL, "this request waits for its answer: send what rk_message_share "
                                   "makes of it");
    }
    if (m->flags & RK__TOPIC) {
        rk__topic_release(m->topic);
    }
    m->flags &= RK__EMBEDDED;
    m->token = 0;
    m->deadline = 0;
    m->correlation = (rk__id){0};
    return 0;
}

int rk_send(rk_pid to, rk_message *m, int64_t timeout)
{
    RK_CHECK(m != NULL, "rk_send needs a message");
    rk__actor *self = rk__self_get();
    int code = own(m);
    if (code < 0) {
        return code;
    }
    return self == NULL ? rk__self_error() : rk__send(self, to, m, rk__deadline(timeout));
}

/* Sends the request and waits. */
static int call(rk__actor *self, rk_pid to, rk_message *m, rk_message **reply, int64_t timeout)
{
    char text[RK_PID_TEXT];
    int64_t deadline = rk__deadline(timeout);
    uint64_t token = m->token = rk__token_new(self);
    m->flags |= RK__CALL;
    rk__body_id(m->body); /* the answer will carry it: cheapest while the line is ours */
    int code = rk__send(self, to, m, deadline);
    if (code < 0) {
        rk__delivery_free(m);
        return code;
    }
    code = rk__await(self, token, reply, deadline);
    if (code == RK_ETIMEOUT) {
        return rk__fail(code, "timeout: %s did not answer", rk_pid_format(to, text));
    }
    return code == 0 ? 0
                     : rk__fail(code, "interrupted while waiting for %s", rk_pid_format(to, text));
}

int rk_call(rk_pid to, rk_message *m, rk_message **answer, int64_t timeout)
{
    RK_CHECK(m != NULL && answer != NULL, "rk_call needs a message and a place for the answer");
    rk__actor *self = rk__self_get();
    rk_message *reply;
    int code = self == NULL ? rk__self_error() : own(m);
    if (code == 0 && to == rk__actor_pid(self)) {
        code = rk__fail(RK_ESELF, "an actor that calls itself would wait for ever");
    }
    if (code < 0) {
        rk_message_release(m);
        return code;
    }
    code = call(self, to, m, &reply, timeout);
    if (code < 0) {
        return code;
    }
    if (reply->flags & RK__ERROR) {
        return rk__answer_error(reply);
    }
    *answer = reply;
    return 0;
}

int rk_reply(rk_message *request, rk_message *answer)
{
    rk__actor *self = rk__self_get();
    RK_CHECK(request != NULL && answer != NULL, "rk_reply needs a request and an answer");
    if (self == NULL) {
        return rk__self_error();
    }
    if (!(request->flags & RK__RECEIVED) || request->flags & RK__ANSWERED) {
        return rk__fail(RK_EINVAL, request->flags & RK__ANSWERED
                                       ? "this request has been answered already"
                                       : "only a received message can be answered");
    }
    int code = own(answer);
    return code < 0 ? code : rk__reply(self, request, answer);
}

int rk_reply_error(rk_message *request, int code, const char *text)
{
    rk_message *error = rk__message_error(code, text);
    if (error == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for an answer");
    }
    int result = rk_reply(request, error);
    if (result < 0) {
        rk_message_release(error);
    }
    return result;
}

int rk_send_named(rk_runtime *rt, const char *name, rk_message *m, int64_t timeout)
{
    rk_pid pid;
    int code = rk__name_get(rt, name, &pid);
    if (code == 0) {
        code = own(m);
    }
    if (code < 0) {
        return code;
    }
    m->flags |= RK__OUTPUT;
    code = rk_send(pid, m, timeout);
    if (code < 0) {
        m->flags &= ~RK__OUTPUT;
    }
    return code;
}
