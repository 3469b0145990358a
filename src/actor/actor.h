/*
 * actor.h -- what every actor has: a registry slot with pid, state, mailbox, name, watchers.
 *
 * Slots live in chunks that are never unmapped; a slot is reused under a new generation. A sender
 * finds the slot by index, checks the generation, pushes; the delivery carries the generation it
 * meant, and the consumer refuses mail meant for somebody else. So a stale pid is an error, never
 * someone else, without an epoch or a lock on the send path.
 *
 * Words: owner = the thread that consumes the mailbox.
 */
#ifndef RK_ACTOR_ACTOR_H
#define RK_ACTOR_ACTOR_H

#include "actor/mailbox.h"
#include "base/strbuf.h"
#include "telemetry/histogram.h"

typedef struct rk__actor rk__actor;

/* What differs between kinds of actors. Called under the slot's lifecycle lock unless said
 * otherwise; NULL entries mean RK_EUNSUPPORTED. */
typedef struct rk__actor_class {
    const char *kind; /* "c" "lua" "port" "kernel" */
    /* Takes a message past the mailbox when nothing waits there and its order allows it; false:
     * push it. any thread, no lock; NULL: never */
    bool (*take)(rk__actor *a, rk_message *m);
    void (*pushed)(rk__actor *a);  /* after a push: wake the consumer. any thread, no lock */
    int (*activate)(rk__actor *a); /* LAUNCHED -> ACTIVE */
    int (*pause)(rk__actor *a, int64_t deadline); /* ACTIVE -> DEACTIVATED, at a message border */
    int (*resume)(rk__actor *a);                  /* DEACTIVATED -> ACTIVE */
    /* Asks to stop (does not wait). The class calls rk__actor_exit when it has stopped. A slot that
     * never ran or has FAILED stops at once. */
    void (*stop)(rk__actor *a, const char *reason);
    void (*kill)(rk__actor *a);                    /* stop without waiting for the user's code */
    void (*describe)(rk__actor *a, rk_info *info); /* a->lock held, impl not NULL */
} rk__actor_class;

struct rk__watch; /* monitor.c */

/* Whether an actor is the child of a supervisor, and what kind of one. */
enum rk__supervised { RK__UNSUPERVISED, RK__WORKER, RK__SUPERVISOR };

struct rk__actor {
    rk__mailbox mailbox;
    /* Identity; written under the registry lock when the slot changes hands. */
    uint32_t index;
    uint32_t generation;          /* atomic; odd and even alike, 0 never */
    const rk__actor_class *class; /* atomic pointer */
    rk_runtime *runtime;          /* atomic pointer; NULL: a port */
    void *impl;                   /* atomic pointer: the class's own object; NULL while it ends */
    char name[RK_NAME_MAX];
    int cpu;                    /* -1: not pinned */
    uint32_t state;             /* atomic enum rk_state */
    pthread_mutex_t lifecycle;  /* one verb at a time; recursive; also held to free the slot */
    uint32_t stop_requested;    /* atomic: somebody asked to stop */
    uint32_t interrupted;       /* atomic: blocking calls return RK_EINTR/RK_ESTOP now */
    uint32_t pause_requests;    /* atomic: how often it was deactivated */
    uint32_t paused;            /* atomic: the request for which the owner rests at a border */
    pthread_mutex_t lock;       /* watchers, output, exit reason */
    struct rk__watch *watchers; /* who monitors this actor, and who is linked with it */
    char *exit_reason;          /* of the last owner of this slot; kept until reuse */
    struct rk__output *output;  /* replies to runtime:send(name); NULL until first used */
    char label[RK_NAME_MAX];    /* rk_label */
    rk_pid parent;              /* atomic: the actor that launched it; RK_NOBODY: a port did */
    uint32_t supervised;        /* atomic enum rk__supervised: its parent stops it, also at close */
    uint32_t trap_exit;         /* atomic; its owner writes */
    int64_t patience;           /* atomic: ns it needs to stop after the last of its children did;
                                 * negative: for ever; 0: the runtime's stop_timeout */
    rk_pid blocked_on;          /* atomic: see flow.c */
    /* Owner only. */
    uint64_t next_token;
    rk_message **outstanding; /* received calls not yet answered; each knows its place (sequence) */
    uint32_t outstanding_count, outstanding_room;
    char *stop_reason;
    struct rk__seen *seen; /* ids of messages it had; NULL: repeated ones are not looked for */
    /* System mail that is no stop request; true: taken. NULL: it is dropped. */
    bool (*attend)(rk__actor *self, rk_message *m);
    /* Offered replies that the thread did not wait for itself; true: taken. NULL: they are late. */
    bool (*claim)(rk__actor *self, rk_message *m);
    /* Told of a call that is released unanswered, before it is answered. NULL: nobody. */
    void (*forgot)(rk__actor *self, const rk_message *m);
    bool stop_reported; /* receive returned RK_ESTOP for this request already */
    bool handling;      /* a message that nobody waits for an answer to was handed out last */
    uint64_t sent, received, failed, late_replies; /* relaxed atomics, one writer each */
    uint64_t birth;                                /* counts slots handed out: newest first */
    rk__histogram *waits; /* from sent to received, of stamped messages; NULL until the first */
};

/* ---- registry.c ---- */

static inline rk_pid rk__pid(uint32_t index, uint32_t generation)
{
    return (uint64_t)generation << 24 | index;
}
static inline rk_pid rk__actor_pid(const rk__actor *a)
{
    return rk__pid(a->index, __atomic_load_n(&a->generation, __ATOMIC_RELAXED));
}
static inline uint32_t rk__pid_generation(rk_pid pid)
{
    return (uint32_t)(pid >> 24) & 0xffffff;
}
/* A free slot as a CREATED actor with an open mailbox; RK_ENOMEM, RK_ELIMIT. any thread. */
int rk__actor_new(rk__actor **out, rk_runtime *rt, const rk__actor_class *class, void *impl,
                  uint32_t bound, enum rk_full full);
/* The slot of a pid when its generation is current, else NULL. The slot stays valid memory whatever
 * happens; its fields may change hands after the check. any thread. */
rk__actor *rk__actor_find(rk_pid pid);
/* As above, with RK_EDEAD and its sentence (with the exit reason when it is still known). */
int rk__actor_get(rk_pid pid, rk__actor **out);
/* The slot whatever its generation; NULL: no such slot. */
rk__actor *rk__actor_slot(rk_pid pid);
/* Sets the RK_EDEAD sentence for a pid that is not current and returns RK_EDEAD. */
int rk__actor_dead(rk_pid pid);
/* A slot for an actor of a runtime: options checked, cpu seat taken, name registered; LAUNCHED.
 * `bound` is used when options say none. RK_EEXIST, RK_EINVAL, RK_ESTATE (closing)... */
int rk__actor_launch(rk__actor **out, rk_runtime *rt, const rk__actor_class *class, void *impl,
                     uint32_t bound, const rk_options *options);
/* The calling actor is the supervisor of `child`: it stops it, also when the runtime closes. `patience`
 * as in rk__actor: what closing allows the caller. RK_EDEAD, RK_EINVAL: somebody else launched it. */
int rk__actor_supervise(rk_pid child, enum rk__supervised as);
void rk__actor_patience(rk__actor *self, int64_t patience);
/* Activates a freshly launched actor and gives its pid; when that fails it is terminated. */
int rk__actor_start(rk__actor *a, rk_pid *out);
/* Why an actor ended, while its slot still knows; NULL: unknown. gives (free) */
char *rk__actor_reason(rk_pid pid);
/* Makes the pid stale (retire), then frees the slot for reuse (release). By the class, at its end.
 */
void rk__actor_retire(rk__actor *a);
void rk__actor_release(rk__actor *a);
/* Every actor of a runtime (NULL: of the process), newest first; returns how many there are. */
size_t rk__actor_list(rk_runtime *rt, rk_pid *pids, size_t capacity);

/* ---- lifecycle.c ---- */

enum rk__verb { RK__ACTIVATE, RK__DEACTIVATE, RK__REACTIVATE, RK__TERMINATE };
static inline enum rk_state rk__actor_state(const rk__actor *a)
{
    return (enum rk_state)__atomic_load_n(&a->state, __ATOMIC_ACQUIRE);
}
void rk__actor_set_state(rk__actor *a, enum rk_state state);
/* RK_ESTATE: cannot VERB "name": it is STATE; VERB is legal from ... */
int rk__actor_verb(rk_pid pid, enum rk__verb verb, const char *reason, int64_t timeout);
int rk__actor_kill(rk_pid pid, const char *reason, int64_t timeout);
/* Whether `top` supervises the actor, or supervises its supervisor, and so on. thread: any */
bool rk__actor_is_below(rk_pid pid, rk_pid top);
/* RK_ESELF when the calling actor would wait for its own end by waiting for that of pid, which
 * stops it first. */
int rk__actor_may_await(rk_pid pid);
/* A ring kernel that failed stays as FAILED until it is terminated: mailbox closed, mail and calls
 * refused with RK_EDEAD and the reason, watchers told; name and slot kept. By its owner. copies
 * reason. */
void rk__actor_fail(rk__actor *a, const char *reason);
/* The end of an actor, by its owner: TERMINATED (or FAILED), name given up, mailbox closed and mail
 * dead-lettered, outstanding calls answered with RK_EDEAD and the reason, watchers and linked actors
 * told, the pid made stale, the slot freed. Nothing of `a` may be touched afterwards. An actor that
 * was killed did not end normally, whatever `end` says. copies */
void rk__actor_exit(rk__actor *a, const rk__end *end);

/* ---- send.c ---- */

/* Delivers m by its flags; sets to_generation and stamps now and then. Never waits. takes m on
 * success (dropped messages count as success). RK_EDEAD, RK_EFULL. any thread. */
int rk__post(rk_pid to, rk_message *m);
/* Posts m and forgets it whatever happens: on failure it is a dead letter. takes m always. */
void rk__post_or_bury(rk_pid to, rk_message *m);
/* As rk_send with flags already set (RK__CALL with token, RK__OUTPUT ...). Under RK_FULL_BLOCK a
 * thread with `self` waits for room until deadline. */
int rk__send(rk__actor *self, rk_pid to, rk_message *m, int64_t deadline);
/* A ticket for rk__mailbox_await_room, with a fresh token of self. NULL: out of memory. gives */
rk_message *rk__room_ticket(rk__actor *self);
/* Throws m away with a reason: counted, shown to the hook, a call is answered. takes m. */
void rk__bury(rk_pid to, rk_message *m, int code);
/* Marks a message as handed to user code by its owner: credit, counters, outstanding list. */
void rk__received(rk__actor *self, rk_message *m);
/* Answers as rk_reply; `self` answers. takes answer always (NULL: out of memory is reported). */
int rk__reply(rk__actor *self, rk_message *request, rk_message *answer);
/* The code and sentence an `error` answer carries: sets the detail, returns the code; takes m. */
int rk__answer_error(rk_message *m);

/* ---- wait.c ---- (owner only) */

/* The calling thread's actor or port (made on first use; NULL: out of memory or after a fork, with
 * the error set). */
rk__actor *rk__self_get(void);
rk__actor *rk__self_peek(void); /* NULL when the thread has none yet */
void rk__self_set(rk__actor *a);
uint64_t rk__token_new(rk__actor *self);
/* Spins, then parks, until mail or replies came in (0), the deadline passed (RK_ETIMEOUT) or the
 * actor was interrupted (RK_EINTR; a port's flag is cleared by this). `any` also returns for mail
 * that is in the private queues. With `border` a DEACTIVATED actor rests first, and 0 is also
 * returned when the actor is deactivated while it waits: call rk__border before taking mail. */
int rk__wait(rk__actor *self, int64_t deadline, bool any, bool border);
/* The same for replies and system mail alone: other mail does not wake it. */
int rk__wait_urgent(rk__actor *self, int64_t deadline, bool border);
/* Between two messages: rests here while the actor is DEACTIVATED. */
void rk__border(rk__actor *self);
/* The reply with this token, 0, RK_ETIMEOUT or RK_EINTR. Other replies are late: counted. */
int rk__await(rk__actor *self, uint64_t token, rk_message **out, int64_t deadline);
/* The next mail for this owner that is not runtime business: refuses mail for earlier owners of the
 * slot, turns stop requests into stop_requested. NULL: none now. Not yet rk__received. */
rk_message *rk__next_mail(rk__actor *self, bool (*accept)(const rk_message *, void *), void *arg,
                          uint64_t *seen);
/* Counts and releases a reply nobody waits for any more. takes m. */
void rk__late_reply(rk__actor *self, rk_message *m);

/* The end of a port: as rk__actor_exit, without a runtime. By its thread. */
void rk__port_close(rk__actor *a);

/* ---- monitor.c ---- */
int rk__watch(rk_pid target, rk_pid watcher);
/* Tells everybody who watches or is linked; by the owner, at its end, once the pid is stale or the
 * state FAILED: a watcher that comes later is told at once by rk__watch. */
void rk__tell_watchers(rk__actor *a, rk_pid pid, const rk__end *end);
/* Copies up to `capacity` of those who watch (links false) or are linked (true); how many there are.
 * a->lock is held. any thread */
size_t rk__watchers(const rk__actor *a, bool links, rk_pid *pids, size_t capacity);

/* ---- flow.c: mail that is refused, waits that would never end ---- */

/* Whether the owner may take m: 0, RK_EEXPIRED, or RK_EREJECTED (it had this message already). A
 * message is asked about once, when it leaves its queue: the answer is remembered for repetitions.
 * owner only (a ring kernel: under the pump lock) */
int rk__admit(rk__actor *self, const rk_message *m);
/* Ids of the last `count` messages are remembered from now on. RK_ENOMEM. By the launching thread */
int rk__seen_open(rk__actor *a, uint32_t count);
void rk__seen_free(rk__actor *a);
/* Before the owner parks without taking mail until there is room at `to`: RK_EDEADLOCK with a sentence
 * that names the circle when those it waits for wait for it; else 0, and rk__unblocked must follow. */
int rk__blocked(rk__actor *self, rk_pid to);
void rk__unblocked(rk__actor *self);

/* ---- output.c: replies to runtime:send(name) ---- */
void rk__output_put(rk__actor *a, rk_message *m); /* takes m; oldest dropped and counted */
/* One of them: 0 and *out (gives), or 1: `ticket` (rk__room_ticket) waits in line for the next one
 * and is taken; RK_EDEAD, RK_ENOMEM. cancel gives the place in the line up. any thread */
int rk__output_try(rk_pid pid, rk_message **out, rk_message *ticket);
void rk__output_cancel(rk_pid pid, rk_pid from, uint64_t token);
int rk__output_take(rk_pid pid, rk_message **out, int64_t deadline);
void rk__output_free(rk__actor *a);

/* ---- host.c: threads ---- */

/* What runs on a host actor's thread. */
typedef struct rk__host_body {
    const char *kind;
    bool handshake; /* activate returns when run has called rk__host_started, or has ended */
    /* Runs the actor; 0, or a negative code: it failed. *reason is the exit reason (malloc'ed;
     * NULL: "normal", or the sentence of the last failure), with a traceback behind a line "stack
     * traceback:" when there is one. RK_ESTOP counts as a normal end with the stop reason. On the actor's thread. */
    int (*run)(rk__actor *self, void *body, char **reason);
    /* Interrupts user code that will not return; run is still running. any thread. May be NULL. */
    void (*kill)(rk__actor *self, void *body);
    void (*free)(void *body);     /* once, after run, or when it never ran. any thread */
    size_t (*memory)(void *body); /* bytes held, for rk_inspect; any thread; may be NULL */
} rk__host_body;

/* Launches: slot, name, seat on a cpu, no thread yet. `ops` is borrowed for ever (static); `body`
 * is freed through ops->free, but stays the caller's when this fails. RK_EEXIST, RK_EINVAL... */
int rk__host_launch(rk__actor **out, rk_runtime *rt, const rk__host_body *ops, void *body,
                    const rk_options *options);
void rk__host_started(rk__actor *self);
bool rk__host_has_started(const rk__actor *self); /* owner only */
pthread_t rk__host_thread(rk__actor *a);          /* for pthread_kill, from ops->kill */

#endif
