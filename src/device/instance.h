/*
 * instance.h -- a ring kernel as an actor.
 */
#ifndef RK_DEVICE_INSTANCE_H
#define RK_DEVICE_INSTANCE_H

#include "actor/runtime.h"
#include "device/channel.h"
#include "device/device.h"

enum { RK__BLOCKS_MAX = 64 };

enum rk__phase {
    RK__PHASE_LAUNCHED, /* no block has been started */
    RK__PHASE_RUNNING,
    RK__PHASE_ENDING, /* all blocks are out; the last one settles the accounts */
    RK__PHASE_FAILED, /* settled; waits to be terminated */
    RK__PHASE_GONE
};

/*
 * Reused for later instances but never freed: late senders to an earlier one may still look at the
 * locks of its channel.
 */
typedef struct rk__kernel_actor {
    rk__channel channel;
    rk__actor *actor;
    rk_runtime *runtime;
    rk_pid pid;
    rk__kernel *kernel; /* retained */
    rk__module *module;
    const rk__backend *backend;
    char device_name[16]; /* "cpu", "cuda:0" */
    void *device;         /* the back end's own */
    rk_block *blocks;     /* by the back end */
    void *state;          /* by the back end; its memory may be the device's */
    uint32_t grid, threads;
    uint32_t limit; /* messages under way at most */
    uint64_t arena_size;
    uint32_t blocks_left; /* atomic: blocks that are still in their loop */
    size_t memory;        /* bytes of rings, arena, state */
    /* Under lock. */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a status or the phase changed */
    enum rk__phase phase;
    uint32_t command; /* the last one given */
    bool fresh;       /* launched, not yet known to its registry slot */
    bool stopping;    /* somebody asked to stop */
    bool failing;     /* a block has failed */
    bool abandoned;   /* failed or killed while a handler would not return: nobody ends it */
    uint32_t pausing; /* deactivations that wait for a message border */
    char *stop_reason;
    char *lost;                    /* why the device is gone; NULL: it is not */
    struct rk__kernel_actor *next; /* list of the runtime's instances, under its lock (device.c) */
    /* Watchdog only. */
    struct rk__watch_sample {
        uint32_t busy, steps;
        bool reported;
        int64_t since;
    } * samples;
} rk__kernel_actor;

/* ---- object.c ---- */

/* An object whose channel is closed; NULL: out of memory. keep: it may be taken again. any thread
 */
rk__kernel_actor *rk__kernel_object_take(void);
void rk__kernel_object_keep(rk__kernel_actor *k);

/* ---- instance.c, for launch.c and read.c ---- */

extern const rk__actor_class rk__kernel_class;
/* Brings a launched object and its registry slot together; again: nothing. Somebody may have found
 * the name, and come here, before launch has. Under the slot's lifecycle lock, or before it is known.
 */
rk__kernel_actor *rk__kernel_adopt(rk__actor *a);
/* Frees what an instance owns; the object goes back to the spare ones. */
void rk__kernel_dismantle(rk__kernel_actor *k);
/* Under k->lock. Stop and abort are final; abort overrides stop. */
void rk__kernel_command(rk__kernel_actor *k, uint32_t word);
/* Under k->lock: until every block has the status; false: the deadline passed, or it never will. */
bool rk__kernel_await(rk__kernel_actor *k, uint32_t status, int64_t deadline);

/* ---- called by back ends ---- */

/* A block's status changed. thread: any. blocks: no */
void rk__kernel_status_changed(rk__kernel_actor *k);
/* Block `index` has left its loop; no thread of it touches the instance any more but this one. When
 * it was the last one, this ends the instance: k may be somebody else's on return. */
void rk__kernel_block_left(rk__kernel_actor *k, uint32_t index);
/* The device is gone: the actor fails with this reason, as if a handler had. No block of it is, or
 * will be, reported as having left. thread: the back end's. blocks: no */
void rk__kernel_lost(rk__kernel_actor *k, const char *reason);
/* A handler runs longer than it may, and the definition says that this fails the actor: unless the
 * instance is not `pid`'s any more. thread: the watchdog. blocks: for a holder of the channel */
void rk__kernel_hung(rk__kernel_actor *k, rk_pid pid, const char *reason);
/* The name of what a block is busy with: "handler of Tick", "RK_EVERY 1"... */
const char *rk__kernel_busy_text(const rk__kernel_actor *k, uint32_t busy, char text[96]);

#endif
