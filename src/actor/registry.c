/*
 * registry.c -- slots of actors: chunks that are never unmapped, reused by generation.
 *
 * Threads: any. find is wait-free: one load of the chunk pointer, one of the generation. new and
 * release take the registry lock. A slot goes to the back of the free list, so that its generation
 * and the exit reason of its last owner stay known as long as possible.
 */
#include "actor/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"

enum { CHUNK = 256, CHUNKS = 4096 };

static rk__actor *chunks[CHUNKS]; /* atomic pointers */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t *free_slots; /* ring of indices, capacity = all slots, under lock */
static uint32_t free_head, free_count, slot_count;
static uint64_t birth; /* counts slots handed out, for newest-first listings; under lock */

static rk__actor *slot_at(uint32_t index)
{
    if (index == 0 || index >= CHUNK * CHUNKS) {
        return NULL;
    }
    /* Pairs with the release in grow: the slots behind the pointer are initialised. */
    rk__actor *chunk = __atomic_load_n(&chunks[index / CHUNK], __ATOMIC_ACQUIRE);
    return chunk == NULL ? NULL : &chunk[index % CHUNK];
}

/* Appends an index to the free ring; its capacity is slot_count. */
static void free_push(uint32_t index)
{
    free_slots[(free_head + free_count) % slot_count] = index;
    free_count++;
}

static int grow(void)
{
    if (slot_count == CHUNK * CHUNKS) {
        return rk__fail(RK_ELIMIT, "no more than %d actors fit into one process", CHUNK * CHUNKS);
    }
    uint32_t *ring = malloc((slot_count + CHUNK) * sizeof *ring);
    rk__actor *chunk = aligned_alloc(64, CHUNK * sizeof *chunk);
    if (ring == NULL || chunk == NULL) {
        free(ring);
        free(chunk);
        return rk__fail(RK_ENOMEM, "no memory for a further %d actors", CHUNK);
    }
    memset(chunk, 0, CHUNK * sizeof *chunk);
    for (uint32_t i = 0; i < free_count; i++) {
        ring[i] = free_slots[(free_head + i) % slot_count];
    }
    free(free_slots);
    free_slots = ring;
    free_head = 0;
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    uint32_t first = slot_count;
    slot_count += CHUNK;
    for (uint32_t i = 0; i < CHUNK; i++) {
        rk__actor *a = &chunk[i];
        a->index = first + i;
        a->generation = 1;
        a->state = RK_TERMINATED;
        rk__mailbox_init(&a->mailbox);
        pthread_mutex_init(&a->lifecycle, &recursive);
        pthread_mutex_init(&a->lock, NULL);
        if (a->index != 0) { /* index 0 would make generation 0 look like nobody */
            free_push(a->index);
        }
    }
    pthread_mutexattr_destroy(&recursive);
    __atomic_store_n(&chunks[first / CHUNK], chunk, __ATOMIC_RELEASE);
    return 0;
}

static void reset(rk__actor *a, rk_runtime *rt, const rk__actor_class *class, void *impl)
{
    /* Late senders and watchers of the last owner may still look at what is stored atomically. */
    __atomic_store_n(&a->class, class, __ATOMIC_RELEASE);
    __atomic_store_n(&a->runtime, rt, __ATOMIC_RELEASE);
    __atomic_store_n(&a->impl, impl, __ATOMIC_RELEASE);
    a->name[0] = a->label[0] = '\0';
    __atomic_store_n(&a->parent, RK_NOBODY, __ATOMIC_RELAXED);
    __atomic_store_n(&a->supervised, RK__UNSUPERVISED, __ATOMIC_RELAXED);
    __atomic_store_n(&a->trap_exit, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&a->patience, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&a->blocked_on, RK_NOBODY, __ATOMIC_RELAXED);
    a->attend = NULL;
    a->forgot = NULL;
    a->cpu = -1;
    a->stop_requested = a->interrupted = 0;
    a->pause_requests = a->paused = 0;
    a->claim = NULL;
    free(a->exit_reason);
    a->exit_reason = NULL;
    a->next_token = 0;
    a->mailbox.park.cpu = -1;
    a->mailbox.park.average = 0;
    a->stop_reported = a->handling = false;
    a->sent = a->received = a->failed = a->late_replies = 0;
    a->birth = ++birth;
}

int rk__actor_new(rk__actor **out, rk_runtime *rt, const rk__actor_class *class, void *impl,
                  uint32_t bound, enum rk_full full)
{
    pthread_mutex_lock(&lock);
    int code = free_count == 0 ? grow() : 0;
    if (code < 0) {
        pthread_mutex_unlock(&lock);
        return code;
    }
    rk__actor *a = slot_at(free_slots[free_head]);
    free_head = (free_head + 1) % slot_count;
    free_count--;
    RK_CHECK(a != NULL, "the free list holds existing slots");
    pthread_mutex_lock(&a->lock);
    reset(a, rt, class, impl);
    pthread_mutex_unlock(&a->lock);
    rk__actor_set_state(a, RK_CREATED);
    rk__mailbox_open(&a->mailbox, bound, full);
    pthread_mutex_unlock(&lock);
    *out = a;
    return 0;
}

void rk__actor_release(rk__actor *a)
{
    pthread_mutex_lock(&a->lock); /* rk_inspect reads it */
    free(a->waits);
    a->waits = NULL;
    pthread_mutex_unlock(&a->lock);
    free(a->stop_reason);
    a->stop_reason = NULL;
    free(a->outstanding);
    a->outstanding = NULL;
    a->outstanding_count = a->outstanding_room = 0;
    rk__output_free(a);
    rk__seen_free(a);
    /* A verb that found the actor before its pid went stale must not meet the slot's next owner. */
    pthread_mutex_lock(&a->lifecycle);
    rk__actor_set_state(a, RK_TERMINATED); /* whatever a late verb has made of it */
    pthread_mutex_lock(&lock);
    free_push(a->index);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&a->lifecycle);
}

void rk__actor_retire(rk__actor *a)
{
    uint32_t next = (a->generation + 1) & 0xffffff;
    /* Pairs with the load in rk__actor_find: a pid of the past is refused from here on. */
    __atomic_store_n(&a->generation, next == 0 ? 1 : next, __ATOMIC_RELEASE);
}

rk__actor *rk__actor_slot(rk_pid pid)
{
    return pid >> 48 == 0 ? slot_at((uint32_t)pid & 0xffffff) : NULL; /* 0: this node */
}

rk__actor *rk__actor_find(rk_pid pid)
{
    rk__actor *a = rk__actor_slot(pid);
    if (a == NULL || __atomic_load_n(&a->generation, __ATOMIC_ACQUIRE) != rk__pid_generation(pid)) {
        return NULL;
    }
    return a;
}

/* Why the actor ended, while its slot still knows; a->lock is held. */
static const char *reason_of(const rk__actor *a, rk_pid pid)
{
    uint32_t now = rk__pid_generation(rk__actor_pid(a));
    uint32_t last = now == 1 ? 0xffffff : now - 1;
    uint32_t generation = rk__pid_generation(pid);
    return generation == now || generation == last ? a->exit_reason : NULL;
}

int rk__actor_dead(rk_pid pid)
{
    char text[RK_PID_TEXT];
    rk__actor *a = rk__actor_slot(pid);
    if (pid == RK_NOBODY) {
        return rk__fail(RK_EDEAD, "nobody (pid 0) cannot be reached");
    }
    rk_pid_format(pid, text);
    if (a == NULL) {
        return rk__fail(RK_EDEAD, "actor %s does not exist in this process", text);
    }
    pthread_mutex_lock(&a->lock);
    const char *reason = reason_of(a, pid);
    int code = reason != NULL ? rk__fail(RK_EDEAD, "actor %s is dead: %s", text, reason)
                              : rk__fail(RK_EDEAD, "actor %s is dead", text);
    pthread_mutex_unlock(&a->lock);
    return code;
}

char *rk__actor_reason(rk_pid pid)
{
    rk__actor *a = rk__actor_slot(pid);
    if (a == NULL) {
        return NULL;
    }
    pthread_mutex_lock(&a->lock);
    const char *reason = reason_of(a, pid);
    char *copy = reason != NULL ? strdup(reason) : NULL;
    pthread_mutex_unlock(&a->lock);
    return copy;
}

int rk__actor_get(rk_pid pid, rk__actor **out)
{
    rk__actor *a = rk__actor_find(pid);
    if (a == NULL) {
        return rk__actor_dead(pid);
    }
    *out = a;
    return 0;
}

struct listing {
    rk_pid pid;
    uint64_t birth;
};

static int newest_first(const void *a, const void *b)
{
    uint64_t x = ((const struct listing *)a)->birth, y = ((const struct listing *)b)->birth;
    return x < y ? 1 : x > y ? -1 : 0;
}

static bool listed(const rk__actor *a, const rk_runtime *rt)
{
    return a->index != 0 && rk__actor_state(a) != RK_TERMINATED &&
           (rt == NULL ? true : a->runtime == rt);
}

size_t rk__actor_list(rk_runtime *rt, rk_pid *pids, size_t capacity)
{
    pthread_mutex_lock(&lock);
    struct listing *all = malloc((slot_count + 1) * sizeof *all);
    size_t n = 0;
    for (uint32_t i = 1; all != NULL && i < slot_count; i++) {
        rk__actor *a = slot_at(i);
        if (listed(a, rt)) {
            all[n++] = (struct listing){rk__actor_pid(a), a->birth};
        }
    }
    pthread_mutex_unlock(&lock);
    if (all != NULL) {
        qsort(all, n, sizeof *all, newest_first);
    }
    for (size_t i = 0; i < n && i < capacity; i++) {
        pids[i] = all[i].pid;
    }
    free(all);
    return n;
}

const char *rk_pid_format(rk_pid pid, char text[RK_PID_TEXT])
{
    rk__actor *a = rk__actor_find(pid);
    unsigned generation = rk__pid_generation(pid), index = (unsigned)(pid & 0xffffff);
    if (a != NULL) {
        pthread_mutex_lock(&a->lock);
    }
    if (a != NULL && a->name[0] != '\0' && rk__actor_find(pid) == a) {
        snprintf(text, RK_PID_TEXT, "<%u.%u \"%s\">", generation, index, a->name);
    } else {
        snprintf(text, RK_PID_TEXT, "<%u.%u>", generation, index);
    }
    if (a != NULL) {
        pthread_mutex_unlock(&a->lock);
    }
    return text;
}
