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

/* A message whose turn-holder gave up goes to the next in line. */
static void pass_on(rk__actor *a)
{
    rk_message *ticket = NULL;
    do {
        pthread_mutex_lock(&a->lock);
        bool waits = a->output != NULL && a->output->messages.first != NULL;
        ticket = waits ? rk__queue_pop(&a->output->tickets) : NULL;
        pthread_mutex_unlock(&a->lock);
    } while (ticket != NULL && !rk__mailbox_ticket_ready(ticket));
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
    if (ticket != NULL && !rk__mailbox_ticket_ready(ticket)) {
        pass_on(a);
    }
}

int rk__output_try(rk_pid pid, rk_message **out, rk_message *ticket)
{
    rk__actor *a;
    int code = rk__actor_get(pid, &a);
    if (code < 0) {
        return code;
    }
    pthread_mutex_lock(&a->lock);
    /* The slot may have a new owner since it was found; release empties the output under the lock.
     */
    bool current = rk__actor_find(pid) == a;
    struct rk__output *o = current ? output_of(a) : NULL;
    rk_message *m = o != NULL ? rk__queue_pop(&o->messages) : NULL;
    if (o != NULL && m == NULL) {
        rk__queue_append(&o->tickets, ticket);
    }
    pthread_mutex_unlock(&a->lock);
    if (m != NULL) {
        *out = m;
        return 0;
    }
    if (o != NULL) {
        return 1;
    }
    return current ? rk__fail(RK_ENOMEM, "no memory to wait for output") : rk__actor_dead(pid);
}

void rk__output_cancel(rk_pid pid, rk_pid from, uint64_t token)
{
    rk_message *ticket = NULL;
    rk__actor *a = rk__actor_find(pid);
    if (a == NULL) {
        return;
    }
    pthread_mutex_lock(&a->lock);
    if (a->output != NULL) {
        ticket = rk__queue_cancel(&a->output->tickets, from, token);
    }
    pthread_mutex_unlock(&a->lock);
    if (ticket != NULL) {
        rk__delivery_free(ticket);
    } else {
        pass_on(a); /* it was posted already */
    }
}

int rk__output_take(rk_pid pid, rk_message **out, int64_t deadline)
{
    rk__actor *self = rk__self_get();
    char text[RK_PID_TEXT];
    if (self == NULL) {
        return rk__self_error();
    }
    for (;;) {
        rk_message *reply, *ticket = rk__room_ticket(self);
        if (ticket == NULL) {
            return rk__fail(RK_ENOMEM, "no memory to wait for output");
        }
        uint64_t token = ticket->token;
        int code = rk__output_try(pid, out, ticket);
        if (code != 1) {
            rk__delivery_free(ticket);
            return code;
        }
        code = rk__await(self, token, &reply, deadline);
        if (code < 0) {
            rk__output_cancel(pid, rk__actor_pid(self), token);
            return code == RK_ETIMEOUT
                       ? rk__fail(code, "timeout: no output of %s", rk_pid_format(pid, text))
                       : code;
        }
        rk__delivery_free(reply);
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
    int code = rk__forked() ? rk__fork_error() : rk__name_get(rt, name, &pid);
    return code < 0 ? code : rk__output_take(pid, out, rk__deadline(timeout));
}
