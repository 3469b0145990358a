/*
 * output.c -- an actor's output: answers to messages sent by name (runtime:send), in order, until
 * somebody takes them (runtime:receive). Bounded; the oldest is dropped and counted.
 *
 * Threads: any, under the slot's lock. A taker that must wait leaves a ticket, as blocked senders
 * do.
 */
#include "actor/runtime.h"

#include <stdlib.h>
#include "base/clock.h"
#include "base/error.h"

enum { OUTPUT_BOUND = 4096 };

struct rk__output {
    rk__queue messages, tickets;
};

/* The slot's lock is held. */
static struct rk__output *output_of(rk__actor *a)
{
    if (a->output == NULL) {
        a->output = calloc(1, sizeof *a->output);
    }
    return a->output;
}

void rk__output_put(rk__actor *a, rk_message *m)
{
    rk_message *dropped = NULL, *ticket = NULL;
    rk_pid pid = rk__actor_pid(a);
    pthread_mutex_lock(&a->lock);
    struct rk__output *out = output_of(a);
    if (out == NULL) {
        dropped = m;
    } else {
        if (out->messages.count >= OUTPUT_BOUND) {
            dropped = rk__queue_pop(&out->messages);
        }
        rk__queue_append(&out->messages, m);
        ticket = rk__queue_pop(&out->tickets);
    }
    pthread_mutex_unlock(&a->lock);
    if (dropped != NULL) {
        __atomic_add_fetch(&a->mailbox.dropped, 1, __ATOMIC_RELAXED);
        rk__bury(pid, dropped, RK_EFULL);
    }
    if (ticket != NULL) {
        rk__mailbox_ticket_ready(ticket);
    }
}

/* One message, or the ticket left in line for one (NULL when it was not needed). */
static rk_message *take_or_queue(rk__actor *a, rk_pid pid, rk_message **ticket)
{
    rk_message *m = NULL;
    pthread_mutex_lock(&a->lock);
    /* The slot may have a new owner since it was found; release empties the output under the lock.
     */
    struct rk__output *out = rk__actor_find(pid) == a ? output_of(a) : NULL;
    if (out != NULL) {
        m = rk__queue_pop(&out->messages);
        if (m == NULL && *ticket != NULL) {
            rk__queue_append(&out->tickets, *ticket);
            *ticket = NULL;
        }
    }
    pthread_mutex_unlock(&a->lock);
    return m;
}

/* The ticket with this token out of the line; NULL: it was posted already. */
static rk_message *cancel(rk__actor *a, rk_pid from, uint64_t token)
{
    rk_message *m = NULL;
    pthread_mutex_lock(&a->lock);
    if (a->output != NULL) {
        m = rk__queue_cancel(&a->output->tickets, from, token);
    }
    pthread_mutex_unlock(&a->lock);
    return m;
}

/* A message whose turn-holder gave up goes to the next in line. */
static void pass_on(rk__actor *a)
{
    rk_message *ticket = NULL;
    pthread_mutex_lock(&a->lock);
    if (a->output != NULL && a->output->messages.first != NULL) {
        ticket = rk__queue_pop(&a->output->tickets);
    }
    pthread_mutex_unlock(&a->lock);
    if (ticket != NULL) {
        rk__mailbox_ticket_ready(ticket);
    }
}

static int wait_turn(rk__actor *self, rk__actor *a, uint64_t token, int64_t deadline)
{
    rk_message *reply;
    int code = rk__await(self, token, &reply, deadline);
    if (code == 0) {
        rk__delivery_free(reply);
        return 0;
    }
    rk_message *ticket = cancel(a, rk__actor_pid(self), token);
    if (ticket != NULL) {
        rk__delivery_free(ticket);
    } else {
        pass_on(a);
    }
    return code;
}

int rk__output_take(rk_pid pid, rk_message **out, int64_t deadline)
{
    rk__actor *self = rk__self_get();
    char text[RK_PID_TEXT];
    if (self == NULL) {
        return RK_EFORK;
    }
    for (;;) {
        rk__actor *a;
        int code = rk__actor_get(pid, &a);
        if (code < 0) {
            return code;
        }
        rk_message *ticket = rk__room_ticket(self);
        uint64_t token = ticket != NULL ? ticket->token : 0;
        rk_message *m = take_or_queue(a, pid, &ticket);
        bool queued = ticket == NULL && token != 0;
        rk__delivery_free(ticket);
        if (m != NULL) {
            *out = m;
            return 0;
        }
        if (!queued) {
            if (rk__actor_find(pid) == a) {
                return rk__fail(RK_ENOMEM, "no memory to wait for output");
            }
            continue;
        }
        code = wait_turn(self, a, token, deadline);
        if (code < 0) {
            return code == RK_ETIMEOUT
                       ? rk__fail(code, "timeout: no output of %s", rk_pid_format(pid, text))
                       : code;
        }
    }
}

void rk__output_free(rk__actor *a)
{
    rk_message *m;
    pthread_mutex_lock(&a->lock);
    struct rk__output *out = a->output;
    a->output = NULL;
    pthread_mutex_unlock(&a->lock);
    if (out == NULL) {
        return;
    }
    while ((m = rk__queue_pop(&out->messages)) != NULL) {
        rk__delivery_free(m);
    }
    while ((m = rk__queue_pop(&out->tickets)) != NULL) {
        rk__mailbox_ticket_ready(m);
    }
    free(out);
}

int rk_output(rk_runtime *rt, const char *name, rk_message **out, int64_t timeout)
{
    rk_pid pid;
    int code = rk__forked() ? RK_EFORK : rk__name_get(rt, name, &pid);
    return code < 0 ? code : rk__output_take(pid, out, rk__deadline(timeout));
}
