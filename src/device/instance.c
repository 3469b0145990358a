/*
 * instance.c -- a ring kernel as an actor.
 *
 * Threads. launch: any. The class entries: any, under the slot's lifecycle lock, which keeps the
 * pid theirs. status_changed and block_left: threads of the back end. The owner of the actor in the
 * sense of actor.h is whoever holds the pump lock, and at the end the thread that ends the
 * instance: the last block to leave its loop, or the verb that stops one that never ran or has
 * failed.
 *
 * The end. Blocks leave by command or by rk_fail; the first one that failed tells the others to
 * abort. The last one out closes the channel (both locks, for good), delivers what the device still
 * said, answers and buries what was under way, and then exits or fails the actor. A failed instance
 * keeps name, slot and memory until it is terminated. The phase decides under `lock` who that is,
 * so a stop that comes in the middle of it is never lost and never done twice.
 *
 * Objects (object.c) are never freed but kept for the next launch. `by_slot` finds one for a
 * sender that has just pushed: it may find the one of an earlier owner of the registry slot, whose
 * channel is then locked for good (or serves another instance, for which a needless visit is
 * harmless).
 */
#include "device/instance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

enum {
    SLOTS = 1 << 20,          /* of the registry (actor/registry.c) */
    KILL_PATIENCE = 200000000 /* ns a killed kernel gets to reach a message border */
};

static rk__kernel_actor *by_slot[SLOTS]; /* atomic pointers; pages never touched cost nothing */

/* ---- objects ------------------------------------------------------------------------------- */

/* Frees what an instance owns; the object goes back to the spare ones. */
void rk__kernel_dismantle(rk__kernel_actor *k)
{
    pthread_mutex_lock(&k->lock); /* a second stop or describe may be looking */
    free(k->stop_reason);
    free(k->lost);
    k->stop_reason = k->lost = NULL;
    k->actor = NULL;
    k->fresh = false;
    k->phase = RK__PHASE_GONE;
    pthread_mutex_unlock(&k->lock);
    k->backend->release(k);
    rk__channel_free(&k->channel);
    rk__module_release(k->module);
    rk__definition_release(&k->kernel->base);
    free(k->samples);
    k->module = NULL;
    k->kernel = NULL;
    k->samples = NULL;
    rk__kernel_object_keep(k);
}

/* ---- texts --------------------------------------------------------------------------------- */

const char *rk__kernel_busy_text(const rk__kernel_actor *k, uint32_t busy, char text[96])
{
    if (busy >= RK_BUSY_EVERY) {
        snprintf(text, 96, "RK_EVERY number %u", busy - RK_BUSY_EVERY + 1);
    } else if (busy >= RK_BUSY_START) {
        snprintf(text, 96, "%s", busy == RK_BUSY_START ? "RK_ON_START" : "RK_ON_STOP");
    } else if (busy > 0 && busy <= k->kernel->accepts) {
        snprintf(text, 96, "the handler of %s", k->kernel->types[busy - 1]->name);
    } else {
        snprintf(text, 96, "no handler");
    }
    return text;
}

/* What the first busy block is doing. */
static const char *busy_text(const rk__kernel_actor *k, char text[96])
{
    uint32_t busy = 0;
    for (uint32_t i = 0; i < k->grid && busy == 0; i++) {
        /* Pairs with the release in the resident loop. */
        busy = (uint32_t)__atomic_load_n(&k->blocks[i].wire->activity, __ATOMIC_ACQUIRE);
    }
    return rk__kernel_busy_text(k, busy, text);
}

/* ---- statuses and commands ------------------------------------------------------------------ */

static uint32_t status_of(const rk__kernel_actor *k, uint32_t i)
{
    /* Pairs with the release in loop_status. */
    return __atomic_load_n(&k->blocks[i].wire->status, __ATOMIC_ACQUIRE);
}

static bool all_are(const rk__kernel_actor *k, uint32_t status)
{
    for (uint32_t i = 0; i < k->grid; i++) {
        if (status_of(k, i) != status) {
            return false;
        }
    }
    return true;
}

/* Under k->lock. Stop and abort are final; abort overrides stop. */
void rk__kernel_command(rk__kernel_actor *k, uint32_t word)
{
    if (k->command < RK_COMMAND_STOP || word > k->command) {
        k->command = word;
        k->backend->command(k, word);
    }
}

void rk__kernel_status_changed(rk__kernel_actor *k)
{
    pthread_mutex_lock(&k->lock);
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->lock);
}

static bool running(const rk__kernel_actor *k)
{
    return k->phase == RK__PHASE_RUNNING && !k->failing && !k->stopping;
}

/* Under k->lock: until every block has the status; false: the deadline passed, or it never will. */
bool rk__kernel_await(rk__kernel_actor *k, uint32_t status, int64_t deadline)
{
    struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};
    int late = 0;
    while (running(k) && !all_are(k, status) && !late) {
        late = deadline == RK__FOREVER ? pthread_cond_wait(&k->changed, &k->lock)
                                       : pthread_cond_timedwait(&k->changed, &k->lock, &until);
    }
    return running(k) && all_are(k, status);
}

/* The same with the slot unlocked, so that what hangs can be stopped meanwhile. The order of the
 * locks is lifecycle, then k->lock; the latter is given up for a moment to keep it. */
static bool await_unlocked(rk__actor *a, rk__kernel_actor *k, uint32_t status, int64_t deadline)
{
    pthread_mutex_unlock(&a->lifecycle);
    bool there = rk__kernel_await(k, status, deadline);
    pthread_mutex_unlock(&k->lock);
    pthread_mutex_lock(&a->lifecycle);
    pthread_mutex_lock(&k->lock);
    return there;
}

/* ---- the end -------------------------------------------------------------------------------- */

/* What rk_fail said; block 0 says it through the outbox, the others leave it in their wire. NULL:
 * no block has failed, or out of memory. */
static char *failure_text(const rk__kernel_actor *k)
{
    if (k->lost != NULL) {
        return strdup(k->lost);
    }
    if (k->channel.failure != NULL) {
        return strdup(k->channel.failure);
    }
    for (uint32_t i = 1; i < k->grid; i++) {
        if (status_of(k, i) == RK_STATUS_FAILED) {
            return strndup(k->blocks[i].wire->failure, RK_FAILURE_MAX);
        }
    }
    return NULL;
}

/* Its actor ends, or has ended, while a handler still runs: what that may touch stays, and is given
 * back by the block itself when it leaves after all. */
static bool is_stuck(rk__kernel_actor *k)
{
    pthread_mutex_lock(&k->lock);
    bool stuck = k->abandoned && k->blocks_left > 0;
    if (stuck) {
        k->phase = RK__PHASE_GONE;
    }
    pthread_mutex_unlock(&k->lock);
    return stuck;
}

/* Answers and buries what is under way, gives the resources back, and ends the actor. The channel
 * is closed. k may serve another instance on return. */
static void finish(rk__kernel_actor *k, bool failed, const char *reason)
{
    rk__actor *a = k->actor;
    char text[RK_PID_TEXT], sentence[1024];
    snprintf(sentence, sizeof sentence, "actor %s is dead: %s", rk_pid_format(k->pid, text),
             reason);
    rk__channel_refuse(&k->channel, RK_EDEAD, sentence);
    rk__devices_leave(k);
    if (!is_stuck(k)) {
        rk__kernel_dismantle(k);
    }
    rk__actor_exit(a, &(rk__end){.reason = reason, .failed = failed, .normal = !failed});
}

/* After a failure: FAILED until somebody terminates it; that may have been asked for already. */
static void fail(rk__kernel_actor *k, const char *reason)
{
    rk__actor_fail(k->actor, reason); /* who has the answer finds it so, and can send no more */
    rk__channel_refuse(&k->channel, k->lost != NULL ? RK_EDEVICE : RK_EHANDLER, reason);
    pthread_mutex_lock(&k->lock);
    k->phase = k->stopping ? RK__PHASE_GONE : RK__PHASE_FAILED;
    bool stop_now = k->stopping;
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->lock);
    if (stop_now) {
        finish(k, true, reason);
    }
}

/* By the last block that left. */
static void end(rk__kernel_actor *k)
{
    rk__channel_close(&k->channel, true);
    char *failure = failure_text(k), *reason = NULL;
    pthread_mutex_lock(&k->lock);
    bool failed = k->failing && !k->stopping;
    k->phase = failed ? RK__PHASE_ENDING : RK__PHASE_GONE;
    if (!failed) {
        reason = strdup(k->stop_reason != NULL ? k->stop_reason : "stopped");
    }
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->lock);
    if (failed) {
        fail(k, failure != NULL ? failure : "a handler failed");
    } else if (k->failing) {
        /* The answer of a failed call may have made it FAILED: what belongs to that comes now. */
        rk__actor_fail(k->actor, failure != NULL ? failure : "a handler failed");
        finish(k, true, failure != NULL ? failure : "a handler failed");
    } else {
        finish(k, false, reason != NULL ? reason : "stopped");
    }
    free(failure);
    free(reason);
}

void rk__kernel_block_left(rk__kernel_actor *k, uint32_t index)
{
    pthread_mutex_lock(&k->lock);
    if (status_of(k, index) == RK_STATUS_FAILED) {
        k->failing = true;
        rk__kernel_command(k, RK_COMMAND_ABORT);
    }
    bool last = __atomic_sub_fetch(&k->blocks_left, 1, __ATOMIC_RELAXED) == 0;
    bool mine = last && !k->abandoned && k->phase == RK__PHASE_RUNNING;
    bool orphan = last && k->abandoned && k->phase == RK__PHASE_GONE;
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->lock);
    if (mine) {
        end(k);
    } else if (orphan) {
        rk__kernel_dismantle(k);
    }
}

/* The handler goes on; its block leaves at the next message border, should it come to one. */
void rk__kernel_hung(rk__kernel_actor *k, rk_pid pid, const char *reason)
{
    pthread_mutex_lock(&k->lock);
    bool mine = k->pid == pid && k->phase == RK__PHASE_RUNNING && !k->abandoned && !k->failing;
    if (mine) {
        k->abandoned = k->failing = true;
        k->phase = RK__PHASE_ENDING;
        rk__kernel_command(k, RK_COMMAND_ABORT);
    }
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->lock);
    if (mine) {
        rk__channel_close(&k->channel, true);
        fail(k, reason);
    }
}

void rk__kernel_lost(rk__kernel_actor *k, const char *reason)
{
    pthread_mutex_lock(&k->lock);
    bool mine = !k->abandoned && k->phase == RK__PHASE_RUNNING;
    bool orphan = k->abandoned && k->phase == RK__PHASE_GONE && k->blocks_left > 0;
    k->failing = true;
    k->lost = mine ? strdup(reason) : NULL;
    k->blocks_left = 0;
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->lock);
    if (mine) {
        end(k);
    } else if (orphan) {
        rk__kernel_dismantle(k); /* its actor has ended, and nothing runs any more */
    }
}

/* ---- the class ----------------------------------------------------------------------------- */

/* The last kernel in a registry slot; NULL: there was none. */
static rk__kernel_actor *kernel_at(const rk__actor *a)
{
    /* Pairs with the release in adopt. */
    return __atomic_load_n(&by_slot[a->index], __ATOMIC_ACQUIRE);
}

static bool take(rk__actor *a, rk_message *m)
{
    rk__kernel_actor *k = kernel_at(a);
    return k != NULL && rk__channel_offer(&k->channel, m);
}

static void pushed(rk__actor *a)
{
    rk__kernel_actor *k = kernel_at(a);
    if (k != NULL) {
        rk__channel_pump(&k->channel);
    }
}

/* Brings a launched object and its registry slot together; again: nothing. Somebody may have found
 * the name, and come here, before launch has. */
rk__kernel_actor *rk__kernel_adopt(rk__actor *a)
{
    /* impl is NULL while the actor ends; the object is still there, and is not fresh. */
    rk__kernel_actor *impl = __atomic_load_n(&a->impl, __ATOMIC_ACQUIRE);
    rk__kernel_actor *k = impl != NULL ? impl : kernel_at(a);
    pthread_mutex_lock(&k->lock);
    bool first = k->fresh && rk__actor_state(a) == RK_LAUNCHED;
    if (first) {
        k->fresh = false;
        k->actor = a;
        k->pid = rk__actor_pid(a);
        for (uint32_t i = 0; i < k->grid; i++) {
            k->blocks[i].self = k->pid;
        }
        /* Release: k is whole; pairs with kernel_at. */
        rk_assert(a->index < SLOTS);
        __atomic_store_n(&by_slot[a->index], k, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&k->lock);
    if (first) {
        rk__channel_open(&k->channel);
    }
    return k;
}

/* The start is the first thing a block runs, so one that has begun a second has got through it. */
static bool failed_later(const rk__kernel_actor *k)
{
    for (uint32_t i = 0; i < k->grid; i++) {
        /* Pairs with the store in loop_busy. */
        uint64_t activity = __atomic_load_n(&k->blocks[i].wire->activity, __ATOMIC_ACQUIRE);
        if (status_of(k, i) == RK_STATUS_FAILED && activity >> 32 < 2) {
            return false;
        }
    }
    return k->lost == NULL;
}

/* 0: it did start, and a message that was there already has failed it since. */
static int not_started(rk__kernel_actor *k)
{
    char text[RK_PID_TEXT];
    while (k->phase == RK__PHASE_RUNNING || k->phase == RK__PHASE_ENDING) {
        pthread_cond_wait(&k->changed, &k->lock);
    }
    if (k->phase == RK__PHASE_FAILED && failed_later(k)) {
        return 0;
    }
    if (k->lost != NULL) {
        return rk__fail(RK_EDEVICE, "%s did not start: %s", rk_pid_format(k->pid, text), k->lost);
    }
    const char *why = k->channel.failure;
    return rk__fail(RK_EHANDLER, "%s did not start: RK_ON_START failed: %s",
                    rk_pid_format(k->pid, text), why != NULL ? why : "no reason given");
}

/* A message that was there already may have failed the actor by now, and that stays. */
static void begun(rk__actor *a, enum rk_state state)
{
    uint32_t expected = RK_LAUNCHED;
    /* Release: pairs with the acquire in rk__actor_state. */
    __atomic_compare_exchange_n(&a->state, &expected, (uint32_t)state, false, __ATOMIC_RELEASE,
                                __ATOMIC_RELAXED);
}

/* Until RK_ON_START has run in all blocks. */
static int activate(rk__actor *a)
{
    rk__kernel_actor *k = rk__kernel_adopt(a);
    rk__devices_enter(k);
    pthread_mutex_lock(&k->lock);
    rk__kernel_command(k, RK_COMMAND_RUN);
    k->blocks_left = k->grid;
    k->phase = RK__PHASE_RUNNING;
    int code = k->backend->start(k);
    if (code < 0) {
        k->phase = RK__PHASE_LAUNCHED;
    } else if (await_unlocked(a, k, RK_STATUS_RUNNING, RK__FOREVER)) {
        begun(a, k->stopping ? RK_TERMINATING : RK_ACTIVE);
    } else {
        code = not_started(k);
    }
    pthread_mutex_unlock(&k->lock);
    if (code < 0) {
        rk__devices_leave(k);
    }
    return code;
}

static int pause_kernel(rk__actor *a, int64_t deadline)
{
    rk__kernel_actor *k = rk__kernel_adopt(a);
    char text[RK_PID_TEXT], what[96];
    int code = 0;
    pthread_mutex_lock(&k->lock);
    k->pausing++;
    rk__kernel_command(k, RK_COMMAND_PAUSE);
    if (await_unlocked(a, k, RK_STATUS_PAUSED, deadline)) {
        rk__actor_set_state(a, k->stopping ? RK_TERMINATING : RK_DEACTIVATED);
    } else if (!running(k)) {
        code = rk__fail(RK_ESTATE, "%s has failed", rk_pid_format(k->pid, text));
    } else {
        code = rk__fail(RK_ETIMEOUT,
                        "%s reached no message border in time and stays ACTIVE: %s "
                        "still runs",
                        rk_pid_format(k->pid, text), busy_text(k, what));
        rk__kernel_command(k, RK_COMMAND_RUN);
        rk__kernel_await(k, RK_STATUS_RUNNING, RK__FOREVER); /* those that had paused */
    }
    k->pausing--;
    pthread_mutex_unlock(&k->lock);
    return code;
}

static int resume(rk__actor *a)
{
    rk__kernel_actor *k = rk__kernel_adopt(a);
    char text[RK_PID_TEXT];
    int code = 0;
    pthread_mutex_lock(&k->lock);
    /* Before anything runs: a message that is handled at once finds the actor ACTIVE, and may fail
     * it. And it is waited for, so that a later pause does not see the PAUSED of this one. */
    rk__actor_set_state(a, RK_ACTIVE);
    rk__kernel_command(k, RK_COMMAND_RUN);
    if (!rk__kernel_await(k, RK_STATUS_RUNNING, RK__FOREVER)) {
        code = rk__fail(RK_ESTATE, "%s has failed", rk_pid_format(k->pid, text));
    }
    pthread_mutex_unlock(&k->lock);
    return code;
}

static void stop(rk__actor *a, const char *reason)
{
    rk__kernel_actor *k = rk__kernel_adopt(a);
    pthread_mutex_lock(&k->lock);
    enum rk__phase phase = k->actor == a ? k->phase : RK__PHASE_GONE;
    if (phase == RK__PHASE_GONE) { /* an earlier stop has done it meanwhile */
        pthread_mutex_unlock(&k->lock);
        return;
    }
    if (k->stop_reason == NULL) {
        k->stop_reason = strdup(reason);
    }
    k->stopping = true;
    if (phase == RK__PHASE_RUNNING) {
        if (!k->failing && rk__actor_state(a) != RK_FAILED) {
            rk__actor_set_state(a, RK_TERMINATING);
        }
        rk__kernel_command(k, RK_COMMAND_STOP);
        rk__devices_stir(k->runtime);
    } else if (phase == RK__PHASE_LAUNCHED || phase == RK__PHASE_FAILED) {
        k->phase = RK__PHASE_GONE;
    }
    pthread_cond_broadcast(&k->changed);
    pthread_mutex_unlock(&k->lock);
    if (phase == RK__PHASE_LAUNCHED) {
        rk__channel_close(&k->channel, false);
        finish(k, false, reason);
    } else if (phase == RK__PHASE_FAILED) {
        finish(k, true, reason);
    }
}

/* Under k->lock: whether the blocks left within a short while. */
static bool left_in_time(rk__kernel_actor *k)
{
    int64_t deadline = rk__now() + KILL_PATIENCE;
    struct timespec until = {.tv_sec = deadline / 1000000000, .tv_nsec = deadline % 1000000000};
    int late = 0;
    while (k->blocks_left > 0 && !late) {
        late = pthread_cond_timedwait(&k->changed, &k->lock, &until);
    }
    return k->blocks_left == 0;
}

/* A handler cannot be stopped from outside: when it does not end, the actor ends without it, and
 * its memory stays with the thread that is stuck. */
static void kill_kernel(rk__actor *a)
{
    rk__kernel_actor *k = kernel_at(a);
    char who[RK_PID_TEXT], what[96], reason[256];
    if (k == NULL) {
        return; /* never adopted: the stop has ended it */
    }
    pthread_mutex_lock(&k->lock);
    /* The stop that came before may have ended it already. */
    bool runs = k->actor == a && k->stopping && k->phase == RK__PHASE_RUNNING;
    if (runs) {
        rk__kernel_command(k, RK_COMMAND_ABORT);
    }
    if (!runs || left_in_time(k)) {
        pthread_mutex_unlock(&k->lock);
        return;
    }
    k->abandoned = true;
    pthread_mutex_unlock(&k->lock);
    snprintf(reason, sizeof reason, "killed: %s did not return", busy_text(k, what));
    rk__log(RK__LOG_ERROR, rk_pid_format(k->pid, who), "%s; its memory and thread are left behind",
            reason);
    rk__channel_close(&k->channel, false);
    rk__channel_refuse(&k->channel, RK_EDEAD, reason);
    rk__devices_leave(k);
    if (rk__actor_state(a) == RK_FAILED) { /* by a block that could say so */
        rk__actor_fail(a, reason);
    }
    rk__actor_exit(a, &(rk__end){.reason = reason, .failed = true});
    if (!is_stuck(k)) {
        rk__kernel_dismantle(k); /* it has left meanwhile */
    }
}

/* Under k->lock: messages on the device that no handler has begun. */
static uint32_t waiting_there(const rk__kernel_actor *k)
{
    /* Pairs with the stores in loop_busy and loop_finish. */
    uint32_t busy = (uint32_t)__atomic_load_n(&k->blocks[0].wire->activity, __ATOMIC_ACQUIRE);
    uint32_t done = __atomic_load_n(&k->channel.finished, __ATOMIC_RELAXED);
    uint32_t n = __atomic_load_n(&k->channel.next_token, __ATOMIC_RELAXED) - done;
    return n > 0 && busy > 0 && busy < RK_BUSY_START ? n - 1 : n;
}

static void describe(rk__actor *a, rk_info *info)
{
    rk__kernel_actor *k = kernel_at(a);
    if (k != NULL) {
        info->memory = __atomic_load_n(&k->memory, __ATOMIC_RELAXED);
        pthread_mutex_lock(&k->lock);
        snprintf(info->device, sizeof info->device, "%s", k->device_name);
        if (k->actor == a && (k->phase == RK__PHASE_LAUNCHED || k->phase == RK__PHASE_RUNNING)) {
            info->depth[RK__NORMAL] += waiting_there(k);
        }
        pthread_mutex_unlock(&k->lock);
    }
}

const rk__actor_class rk__kernel_class = {.kind = "kernel",
                                          .take = take,
                                          .pushed = pushed,
                                          .activate = activate,
                                          .pause = pause_kernel,
                                          .resume = resume,
                                          .stop = stop,
                                          .kill = kill_kernel,
                                          .describe = describe};
