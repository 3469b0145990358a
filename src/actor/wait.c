/*
 * wait.c -- the calling thread's actor, waiting and receiving.
 *
 * Threads: owner only (rk_interrupt from anywhere).
 */
#include "actor/runtime.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/error.h"

static __thread rk__actor *self_of_thread __attribute__((tls_model("initial-exec")));
static pthread_key_t port_key;
static pthread_once_t port_once = PTHREAD_ONCE_INIT;

/* ---- ports --------------------------------------------------------------------------------- */

static void port_pushed(rk__actor *a)
{
    rk__park_notify(&a->mailbox.park);
}

static const rk__actor_class port_class = {.kind = "port", .pushed = port_pushed};

/* At the end of a foreign thread: its mail is dead-lettered, its pid becomes stale. */
static void port_end(void *arg)
{
    rk__actor *a = arg;
    self_of_thread = a; /* answering needs to know who we are */
    rk__port_close(a);
    self_of_thread = NULL;
}

static void make_key(void)
{
    pthread_key_create(&port_key, port_end);
}

rk__actor *rk__self_peek(void)
{
    return self_of_thread;
}

void rk__self_set(rk__actor *a)
{
    self_of_thread = a;
}

rk__actor *rk__self_get(void)
{
    rk__actor *a = self_of_thread;
    if (__builtin_expect(a != NULL && !rk__forked(), 1)) {
        return a;
    }
    if (rk__forked()) {
        rk__fork_error();
        return NULL;
    }
    pthread_once(&port_once, make_key);
    if (rk__actor_new(&a, NULL, &port_class, NULL, 65536, RK_FULL_BLOCK) < 0) {
        return NULL;
    }
    rk__actor_set_state(a, RK_ACTIVE);
    a->mailbox.park.cpu = rk__cpu_of_main();
    pthread_setspecific(port_key, a);
    self_of_thread = a;
    return a;
}

rk_pid rk_self(void)
{
    rk__actor *a = rk__self_get();
    return a != NULL ? rk__actor_pid(a) : RK_NOBODY;
}

uint64_t rk__token_new(rk__actor *self)
{
    return ++self->next_token;
}

/* ---- waiting ------------------------------------------------------------------------------- */

/* What a waiter waits for. */
enum { MAIL = 1, REPLIES = 2, SYSTEM = 4, QUEUED = 8, BORDER = 16 };

struct waiting {
    rk__actor *self;
    unsigned what;
};

static bool interrupted(rk__actor *self)
{
    /* Pairs with the seq_cst stores of kill, close and rk_interrupt, each followed by a kick. */
    return __atomic_load_n(&self->interrupted, __ATOMIC_SEQ_CST) != 0;
}

static bool deactivated(rk__actor *self)
{
    return rk__actor_state(self) == RK_DEACTIVATED;
}

static bool ready(void *arg)
{
    struct waiting *w = arg;
    rk__mailbox *mb = &w->self->mailbox;
    return (w->what & REPLIES && rk__mailbox_has_replies(mb)) ||
           (w->what & MAIL && rk__mailbox_has_intake(mb)) ||
           (w->what & SYSTEM && rk__mailbox_has_system(mb)) ||
           (w->what & QUEUED && rk__mailbox_has_queued(mb)) || interrupted(w->self) ||
           (w->what & BORDER && deactivated(w->self));
}

struct resting {
    rk__actor *self;
    uint32_t request; /* the one that has been acknowledged */
};

static bool awake(void *arg)
{
    struct resting *r = arg;
    return interrupted(r->self) || !deactivated(r->self) ||
           __atomic_load_n(&r->self->pause_requests, __ATOMIC_SEQ_CST) != r->request;
}

void rk__border(rk__actor *self)
{
    while (deactivated(self) && !interrupted(self)) {
        struct resting r = {self, __atomic_load_n(&self->pause_requests, __ATOMIC_SEQ_CST)};
        rk__mailbox_signal_room(&self->mailbox);
        /* Each request is acknowledged by its own number: pairs with the load in paused(), host.c.
         */
        __atomic_store_n(&self->paused, r.request, __ATOMIC_SEQ_CST);
        rk__runtime_changed(self->runtime);
        rk__park_wait(&self->mailbox.park, awake, &r, RK__FOREVER);
    }
}

static int wait_for(rk__actor *self, int64_t deadline, unsigned what)
{
    struct waiting w = {self, what};
    if (!ready(&w)) {
        rk__mailbox_signal_room(&self->mailbox);
        if (!rk__park_rest(&self->mailbox.park, ready, &w, deadline)) {
            return RK_ETIMEOUT;
        }
    }
    if (interrupted(self)) {
        if (self->runtime == NULL) { /* a port is interrupted once, an actor for good */
            rk__runtime_calm(self);
        }
        return RK_EINTR;
    }
    return 0;
}

int rk__wait(rk__actor *self, int64_t deadline, bool any, bool border)
{
    unsigned what = MAIL | REPLIES | (any ? QUEUED : 0) | (border ? BORDER : 0);
    if (border) {
        rk__border(self);
    }
    return wait_for(self, deadline, what);
}

int rk__wait_urgent(rk__actor *self, int64_t deadline, bool border)
{
    if (border) {
        rk__border(self);
    }
    return wait_for(self, deadline, REPLIES | SYSTEM | (border ? BORDER : 0));
}

void rk__late_reply(rk__actor *self, rk_message *m)
{
    if (!(m->flags & RK__TICKET)) {
        __atomic_store_n(&self->late_replies, self->late_replies + 1, __ATOMIC_RELAXED);
        rk_runtime *rt = rk__runtime_of(rk__actor_pid(self));
        if (rt != NULL) {
            __atomic_add_fetch(&rt->late_replies, 1, __ATOMIC_RELAXED);
        }
    }
    rk__delivery_free(m);
}

int rk__await(rk__actor *self, uint64_t token, rk_message **out, int64_t deadline)
{
    for (;;) {
        rk_message *m;
        while ((m = rk__mailbox_reply(&self->mailbox)) != NULL) {
            if (m->token == token && m->to_generation == self->generation) {
                *out = m;
                return 0;
            }
            if (self->claim == NULL || !self->claim(self, m)) {
                rk__late_reply(self, m);
            }
        }
        int code = wait_for(self, deadline, REPLIES);
        if (code < 0) {
            return code;
        }
    }
}

/* ---- mail ---------------------------------------------------------------------------------- */

/* Stop requests are kept by the actor, not shown as mail. */
static void note_stop(rk__actor *self, rk_message *m)
{
    const void *text = "stopped";
    size_t size = 7;
    rk_get_bytes(m, "reason", &text, &size);
    if (self->stop_reason == NULL) {
        self->stop_reason = strndup(text, size);
    }
    self->stop_reported = false;
    __atomic_store_n(&self->stop_requested, 1, __ATOMIC_RELEASE);
    rk__delivery_free(m);
}

/* Business of the runtime, which no receiver sees. */
static bool is_system(const rk_message *m, void *arg)
{
    (void)arg;
    return (m->flags & RK__SYSTEM) != 0;
}

static void attend(rk__actor *self, rk_message *m)
{
    if (m->flags & RK__STOP) {
        note_stop(self, m);
    } else if (self->attend == NULL || !self->attend(self, m)) {
        rk__bury(rk__actor_pid(self), m, RK_EUNSUPPORTED);
    }
}

/* System mail overtakes all other, whatever a receiver waits for. */
static void take_system(rk__actor *self)
{
    rk_message *m;
    while ((m = rk__mailbox_find_system(&self->mailbox, is_system, NULL)) != NULL) {
        if (m->to_generation == self->generation) {
            attend(self, m);
        } else {
            rk__bury(rk__pid(self->index, m->to_generation), m, RK_EDEAD);
        }
    }
}

struct choosing {
    rk__actor *self;
    bool (*accept)(const rk_message *, void *);
    void *arg;
};

/* What is not for user code is taken out whatever the filter says. */
static bool choose(const rk_message *m, void *arg)
{
    struct choosing *c = arg;
    return m->flags & RK__SYSTEM || m->to_generation != c->self->generation ||
           (m->deadline != 0 && m->deadline <= rk__now()) || c->accept(m, c->arg);
}

rk_message *rk__next_mail(rk__actor *self, bool (*accept)(const rk_message *, void *), void *arg,
                          uint64_t *seen)
{
    struct choosing c = {self, accept, arg};
    rk_message *m;
    self->handling = false; /* who asks for more is done with the last */
    take_system(self);
    while ((m = rk__mailbox_find(&self->mailbox, accept != NULL ? choose : NULL, &c, seen)) !=
           NULL) {
        if (m->to_generation != self->generation) {
            rk__mailbox_credit(&self->mailbox, m);
            rk__bury(rk__pid(self->index, m->to_generation), m, RK_EDEAD);
        } else if (m->flags & RK__SYSTEM) {
            attend(self, m); /* it came after take_system */
        } else {
            int code = rk__admit(self, m);
            if (code == 0) {
                return m;
            }
            rk__mailbox_credit(&self->mailbox, m);
            rk__bury(rk__actor_pid(self), m, code);
        }
    }
    return NULL;
}

int rk_receive(rk_message **out, int64_t timeout)
{
    return rk_receive_if(out, NULL, NULL, timeout);
}

/* A C actor waits for one call at a time, so a reply found here came after its caller gave up. */
static void drop_late_replies(rk__actor *self)
{
    rk_message *m;
    while ((m = rk__mailbox_reply(&self->mailbox)) != NULL) {
        rk__late_reply(self, m);
    }
}

/* RK_ESTOP once per request: afterwards mail goes on, so that an actor can drain it. */
static bool stop_pending(rk__actor *self)
{
    if (!__atomic_load_n(&self->stop_requested, __ATOMIC_ACQUIRE) || self->stop_reported) {
        return false;
    }
    self->stop_reported = true;
    return true;
}

int rk_receive_if(rk_message **out, bool (*accept)(const rk_message *m, void *arg), void *arg,
                  int64_t timeout)
{
    rk__actor *self = rk__self_get();
    int64_t deadline = rk__deadline(timeout);
    uint64_t seen = 0;
    if (self == NULL) {
        return rk__self_error();
    }
    for (;;) {
        rk__border(self);
        drop_late_replies(self);
        take_system(self);
        if (stop_pending(self)) {
            return rk__fail(RK_ESTOP, "stop: %s", self->stop_reason ? self->stop_reason : "");
        }
        rk_message *m = rk__next_mail(self, accept, arg, &seen);
        if (m != NULL) {
            rk__received(self, m);
            *out = m;
            return 0;
        }
        /* It may have come while we looked for mail, and then nothing will wake us for it. */
        if (stop_pending(self)) {
            return rk__fail(RK_ESTOP, "stop: %s", self->stop_reason ? self->stop_reason : "");
        }
        int code = rk__wait(self, deadline, false, true);
        if (code < 0) {
            return code == RK_ETIMEOUT ? rk__fail(code, "timeout: no message arrived")
                                       : rk__fail(code, "interrupted while receiving");
        }
    }
}

bool rk_should_terminate(void)
{
    rk__actor *self = rk__self_get();
    if (self == NULL) {
        return true;
    }
    take_system(self);
    return __atomic_load_n(&self->stop_requested, __ATOMIC_ACQUIRE) != 0;
}

int rk_sleep(int64_t duration)
{
    rk__actor *self = rk__self_get();
    int64_t deadline = rk__deadline(duration);
    if (self == NULL) {
        return rk__self_error();
    }
    for (;;) {
        take_system(self);
        if (stop_pending(self)) {
            return rk__fail(RK_ESTOP, "stop: %s", self->stop_reason ? self->stop_reason : "");
        }
        int code = wait_for(self, deadline, SYSTEM);
        if (code < 0) {
            return code == RK_ETIMEOUT ? 0 : rk__fail(code, "interrupted while sleeping");
        }
    }
}
