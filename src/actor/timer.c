/*
 * timer.c -- a binary heap of deadlines.
 *
 * Threads: the owner of the heap, nobody else. Order: by deadline; equal deadlines in the order in
 * which the timers were added (a periodic timer keeps its place).
 */
#include "actor/timer.h"

#include <stdlib.h>

typedef struct rk__timer_slot {
    int64_t deadline, period;
    uint64_t order;
    void *data;
    uint32_t generation; /* odd while the slot is in use */
    uint32_t place;      /* in the heap; of an unused slot: the next unused one */
} timer_slot;

enum { NO_SLOT = UINT32_MAX };

void rk__timers_free(rk__timers *t)
{
    free(t->slots);
    free(t->heap);
    *t = (rk__timers)RK__TIMERS_INIT;
}

static bool grow(rk__timers *t)
{
    uint32_t capacity = t->capacity ? t->capacity * 2 : 4;
    timer_slot *slots = realloc(t->slots, capacity * sizeof *slots);
    if (!slots) {
        return false;
    }
    t->slots = slots;
    uint32_t *heap = realloc(t->heap, capacity * sizeof *heap);
    if (!heap) {
        return false;
    }
    t->heap = heap;
    for (uint32_t i = t->capacity; i < capacity; i++) {
        slots[i].generation = 0;
        slots[i].place = i + 1 < capacity ? i + 1 : (uint32_t)NO_SLOT;
    }
    t->free_slot = t->capacity;
    t->capacity = capacity;
    return true;
}

static bool before(const rk__timers *t, uint32_t a, uint32_t b)
{
    const timer_slot *x = &t->slots[a], *y = &t->slots[b];
    return x->deadline != y->deadline ? x->deadline < y->deadline : x->order < y->order;
}

static void put(rk__timers *t, uint32_t place, uint32_t slot)
{
    t->heap[place] = slot;
    t->slots[slot].place = place;
}

static void rise(rk__timers *t, uint32_t place)
{
    uint32_t slot = t->heap[place];
    while (place > 0 && before(t, slot, t->heap[(place - 1) / 2])) {
        put(t, place, t->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    put(t, place, slot);
}

static void sink(rk__timers *t, uint32_t place)
{
    uint32_t slot = t->heap[place];
    for (uint32_t child; (child = 2 * place + 1) < t->count; place = child) {
        if (child + 1 < t->count && before(t, t->heap[child + 1], t->heap[child])) {
            child++;
        }
        if (!before(t, t->heap[child], slot)) {
            break;
        }
        put(t, place, t->heap[child]);
    }
    put(t, place, slot);
}

rk__timer_id rk__timers_add(rk__timers *t, int64_t deadline, int64_t period, void *data)
{
    if (t->free_slot == NO_SLOT && !grow(t)) {
        return 0;
    }
    uint32_t slot = t->free_slot;
    timer_slot *s = &t->slots[slot];
    t->free_slot = s->place;
    s->deadline = deadline;
    s->period = period;
    s->order = t->order++;
    s->data = data;
    s->generation++;
    put(t, t->count, slot);
    rise(t, t->count++);
    return (uint64_t)s->generation << 32 | slot;
}

/* Takes the entry at `place` out of the heap and gives its slot back. */
static void drop(rk__timers *t, uint32_t place)
{
    uint32_t slot = t->heap[place], last = t->heap[--t->count];
    if (place < t->count) {
        put(t, place, last);
        sink(t, place);
        rise(t, t->slots[last].place);
    }
    t->slots[slot].generation++;
    t->slots[slot].place = t->free_slot;
    t->free_slot = slot;
}

bool rk__timers_cancel(rk__timers *t, rk__timer_id id)
{
    uint32_t slot = (uint32_t)id;
    if (id == 0 || slot >= t->capacity || t->slots[slot].generation != id >> 32) {
        return false;
    }
    drop(t, t->slots[slot].place);
    return true;
}

int64_t rk__timers_next(const rk__timers *t)
{
    return t->count ? t->slots[t->heap[0]].deadline : RK__FOREVER;
}

bool rk__timers_pop(rk__timers *t, int64_t now, void **data)
{
    if (rk__timers_next(t) > now || t->count == 0) {
        return false;
    }
    timer_slot *s = &t->slots[t->heap[0]];
    *data = s->data;
    if (s->period <= 0) {
        drop(t, 0);
        return true;
    }
    int64_t missed = (now - s->deadline) / s->period;
    s->deadline += (missed + 1) * s->period;
    sink(t, 0);
    return true;
}
