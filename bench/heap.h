/*
 * heap.h -- what timers were before the wheels, for timers.c to compare with: a binary heap of slot
 * numbers. Only what the benchmark needs: no periods, no growth, no generations.
 */
#ifndef RK_BENCH_HEAP_H
#define RK_BENCH_HEAP_H

#include <stdint.h>
#include <stdlib.h>

typedef struct heap_slot {
    int64_t deadline, period;
    uint64_t order;
    void *data;
    uint32_t generation, place;
} heap_slot;

typedef struct heap {
    heap_slot *slots;
    uint32_t *places, count, free_slot;
    uint64_t order;
} heap;

static int heap_before(const heap *h, uint32_t a, uint32_t b)
{
    const heap_slot *x = &h->slots[a], *y = &h->slots[b];
    return x->deadline != y->deadline ? x->deadline < y->deadline : x->order < y->order;
}

static void heap_put(heap *h, uint32_t place, uint32_t slot)
{
    h->places[place] = slot;
    h->slots[slot].place = place;
}

static void heap_rise(heap *h, uint32_t place)
{
    uint32_t slot = h->places[place];
    while (place > 0 && heap_before(h, slot, h->places[(place - 1) / 2])) {
        heap_put(h, place, h->places[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    heap_put(h, place, slot);
}

static void heap_sink(heap *h, uint32_t place)
{
    uint32_t slot = h->places[place];
    for (uint32_t child; (child = 2 * place + 1) < h->count; place = child) {
        if (child + 1 < h->count && heap_before(h, h->places[child + 1], h->places[child])) {
            child++;
        }
        if (!heap_before(h, h->places[child], slot)) {
            break;
        }
        heap_put(h, place, h->places[child]);
    }
    heap_put(h, place, slot);
}

static int heap_open(heap *h, uint32_t capacity)
{
    *h = (heap){calloc(capacity, sizeof *h->slots), calloc(capacity, sizeof *h->places), 0, 0, 0};
    for (uint32_t i = 0; h->slots && i < capacity; i++) {
        h->slots[i].place = i + 1;
    }
    return h->slots && h->places;
}

static void heap_close(heap *h)
{
    free(h->slots);
    free(h->places);
}

static uint64_t heap_add(heap *h, int64_t deadline, void *data)
{
    uint32_t slot = h->free_slot;
    heap_slot *s = &h->slots[slot];
    h->free_slot = s->place;
    *s = (heap_slot){deadline, 0, h->order++, data, s->generation + 1, 0};
    heap_put(h, h->count, slot);
    heap_rise(h, h->count++);
    return (uint64_t)s->generation << 32 | slot;
}

static void heap_cancel(heap *h, uint64_t id)
{
    uint32_t slot = (uint32_t)id, place = h->slots[slot].place, last = h->places[--h->count];
    if (place < h->count) {
        heap_put(h, place, last);
        heap_sink(h, place);
        heap_rise(h, h->slots[last].place);
    }
    h->slots[slot].generation++;
    h->slots[slot].place = h->free_slot;
    h->free_slot = slot;
}

static int64_t heap_next(const heap *h)
{
    return h->slots[h->places[0]].deadline;
}

static void *heap_pop(heap *h)
{
    uint32_t slot = h->places[0];
    heap_cancel(h, slot);
    return h->slots[slot].data;
}

#endif
