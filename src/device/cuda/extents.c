/*
 * extents.c -- first fit over a list of the parts that are taken, by address.
 *
 * Threads: under the owner's lock. Instances come and go seldom, so a list is fast enough; what
 * counts is that nothing is allocated from the driver while an image runs.
 */
#include "device/cuda/extents.h"

#include <stdlib.h>
#include "base/error.h"

static uint64_t rounded(uint64_t size)
{
    size = size > 0 ? size : 1;
    return (size + RK__EXTENT_GRAIN - 1) / RK__EXTENT_GRAIN * RK__EXTENT_GRAIN;
}

static uint64_t gap_end(const rk__extents *e, const rk__extent *next)
{
    return next != NULL ? next->at : e->base + e->size;
}

uint64_t rk__extents_take(rk__extents *e, uint64_t size)
{
    rk__extent **at = &e->list, *record;
    uint64_t begin = e->base;
    size = rounded(size);
    while (gap_end(e, *at) - begin < size) {
        if (*at == NULL) {
            return 0;
        }
        begin = (*at)->at + (*at)->size;
        at = &(*at)->next;
    }
    record = malloc(sizeof *record);
    if (record == NULL) {
        return 0;
    }
    *record = (rk__extent){begin, size, *at};
    *at = record;
    e->taken += size;
    return begin;
}

void rk__extents_give(rk__extents *e, uint64_t at)
{
    rk__extent **x = &e->list;
    while (*x != NULL && (*x)->at != at) {
        x = &(*x)->next;
    }
    rk_assert(at == 0 || *x != NULL);
    if (*x != NULL) {
        rk__extent *gone = *x;
        *x = gone->next;
        e->taken -= gone->size;
        free(gone);
    }
}

uint64_t rk__extents_largest(const rk__extents *e)
{
    uint64_t largest = 0, begin = e->base;
    for (const rk__extent *x = e->list;; x = x->next) {
        uint64_t gap = gap_end(e, x) - begin;
        largest = gap > largest ? gap : largest;
        if (x == NULL) {
            return largest;
        }
        begin = x->at + x->size;
    }
}

void rk__extents_clear(rk__extents *e)
{
    while (e->list != NULL) {
        rk__extent *gone = e->list;
        e->list = gone->next;
        free(gone);
    }
    e->taken = 0;
}
