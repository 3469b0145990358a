/*
 * extents.h -- which parts of a reservation are taken. It never touches the memory itself, which
 * may be a device's.
 */
#ifndef RK_DEVICE_CUDA_EXTENTS_H
#define RK_DEVICE_CUDA_EXTENTS_H

#include <stddef.h>
#include <stdint.h>

enum { RK__EXTENT_GRAIN = 256 }; /* bytes: extents begin and end there */

typedef struct rk__extent {
    uint64_t at, size; /* bytes that are taken */
    struct rk__extent *next;
} rk__extent;

typedef struct rk__extents {
    uint64_t base, size; /* of the reservation, on borders of the grain */
    uint64_t taken;      /* bytes */
    rk__extent *list;    /* by address */
} rk__extents;

/* The first gap where it fits; 0: there is none (or no memory for the books). size 0: as 1.
 * thread: whoever holds the owner's lock, as all of these. blocks: no */
uint64_t rk__extents_take(rk__extents *e, uint64_t size);
/* What take gave; 0: nothing. */
void rk__extents_give(rk__extents *e, uint64_t at);
/* The largest piece that could be taken now. */
uint64_t rk__extents_largest(const rk__extents *e);
/* Forgets what is taken. */
void rk__extents_clear(rk__extents *e);

#endif
