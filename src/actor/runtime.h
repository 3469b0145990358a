/* runtime.h -- a runtime: options, names, counters, the threads it must join. */
#ifndef RK_ACTOR_RUNTIME_H
#define RK_ACTOR_RUNTIME_H

#include <pthread.h>
#include "actor/actor.h"
#include "base/topology.h"

struct rk__sentence; /* warden.c */

typedef struct rk__warden {
    pthread_mutex_t lock; /* all below */
    pthread_cond_t changed;
    pthread_t thread;
    bool running, stopping;
    struct rk__sentence *first, *last;
} rk__warden;

/* The last messages that were lost: a ring, oldest first. letters.c */
typedef struct rk__letters {
    pthread_mutex_t lock; /* all below */
    struct rk__letter *ring;
    uint32_t capacity, first, count; /* capacity 0: none are kept */
    size_t bytes;                    /* of their bodies */
    uint64_t numbered;               /* letters so far */
} rk__letters;

struct rk_runtime {
    char *device, *mode, *cache; /* options as given */
    int64_t device_timeout;
    uint64_t pinned_memory, device_memory; /* bytes; device_memory 0: the device decides */
    rk__pin pin;
    int64_t stop_timeout, drain;
    int kill_signal;
    rk_runtime *older;    /* list of open runtimes, newest first */
    uint32_t closing;     /* atomic */
    uint32_t interrupted; /* atomic: rk_interrupt */

    rk_pid owner;     /* of the thread that opened it */
    rk__park changed; /* kicked when an actor ends, pauses or has started; any waiter */

    pthread_mutex_t lock;      /* names, threads to join */
    void *names;               /* tsearch tree of rk__name */
    struct rk__host *finished; /* host actors whose threads ended and want joining */
    uint32_t live;             /* atomic: actors that are not ports */
    uint32_t threads;          /* atomic: host threads not yet joined */

    rk__warden warden;

    rk_dead_letter_fn dead_letter; /* under hook_lock */
    void *dead_letter_arg;
    pthread_rwlock_t hook_lock;

    rk__letters letters;

    /* Upper layers hang their part here; closed in this order by rk__runtime_close. */
    void *script;
    void (*script_close)(rk_runtime *rt);
    void *devices;
    void (*devices_close)(rk_runtime *rt);

    /* Counters: relaxed atomics. */
    uint64_t spawned, terminated, failed, dropped, dead_letters, late_replies;
    uint64_t expired, rejected;                /* of dead_letters */
    uint64_t messages_sent, messages_received; /* of actors that have ended */
    uint64_t unfinished;
    uint64_t forgotten; /* calls released unanswered */
    uint64_t kernels_compiled, cache_hits;
};

/* Everything of rk_open but the script. gives */
int rk__runtime_open(rk_runtime **out, const rk_config *config);
/* Returns how many actors had to be killed, and appends their names, each with its NUL, to `killed` (may
 * be NULL). RK_ETIMEOUT, RK_ESELF, RK_EFORK. */
int rk__runtime_close(rk_runtime *rt, rk__strbuf *killed);
/* The runtime of the calling actor, else the newest open one; NULL with RK_ENOENT: none is open. */
rk_runtime *rk__runtime_current(void);
/* The runtime an actor belongs to; the current one when the pid says nothing; NULL: none. */
rk_runtime *rk__runtime_of(rk_pid pid);
/* Waits until done(arg) is true; it is looked at again whenever an actor of the runtime ended,
 * paused or started. False: the deadline passed. thread: any. blocks: yes */
bool rk__runtime_wait(rk_runtime *rt, bool (*done)(void *arg), void *arg, int64_t deadline);
void rk__runtime_changed(rk_runtime *rt);
/* A port has taken notice of an interrupt: it and its runtimes are calm again. */
void rk__runtime_calm(rk__actor *port);
/* Counts actors that are not ports; RK_ESTATE when the runtime is closing. */
int rk__runtime_actor_new(rk_runtime *rt);
void rk__runtime_actor_gone(rk_runtime *rt);
/* Joins host threads that have ended. */
void rk__runtime_reap(rk_runtime *rt);
/* Set in a forked child: every entry point answers RK_EFORK. */
extern int rk__forked_flag;
static inline bool rk__forked(void)
{
    return __builtin_expect(rk__forked_flag, 0);
}
void rk__fork_guard(void); /* installs the handler, once */
int rk__fork_error(void);  /* RK_EFORK with its sentence */
/* Why rk__self_get gave NULL: RK_EFORK or RK_ENOMEM, its sentence is set. */
static inline int rk__self_error(void)
{
    return rk__forked() ? RK_EFORK : RK_ENOMEM;
}

/* Names. set: RK_EEXIST. drop: only when the name still belongs to pid. */
int rk__name_set(rk_runtime *rt, const char *name, rk_pid pid);
void rk__name_drop(rk_runtime *rt, const char *name, rk_pid pid);
int rk__name_get(rk_runtime *rt, const char *name, rk_pid *out);
/* Calls fn for each name in order; fn must not call back into names. */
void rk__name_each(rk_runtime *rt, void (*fn)(const char *name, rk_pid pid, void *arg), void *arg);

void rk__names_free(rk_runtime *rt);

/* ---- definition.c: what rk_launch(name) starts; process-wide ---- */
typedef struct rk__definition {
    char name[RK_NAME_MAX];
    const char *kind; /* "kernel", "lua", "c" */
    /* Launches an instance; `definition` is retained by the caller during the call. */
    int (*launch)(rk_runtime *rt, struct rk__definition *definition, const rk_options *options,
                  rk__actor **out);
    void (*free)(struct rk__definition *definition);
    uint32_t refs; /* atomic */
} rk__definition;

/* Registers (replacing one of the same name, which lives on until released). takes one reference.
 */
int rk__definition_set(rk__definition *definition);
/* Retained. RK_ENOENT lists what exists. */
int rk__definition_get(const char *name, rk__definition **out);
void rk__definition_release(rk__definition *definition);
/* Names in order, for errors, .ls and completion. */
void rk__definition_each(void (*fn)(const rk__definition *definition, void *arg), void *arg);

#endif
