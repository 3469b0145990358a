/*
 * pool.c -- message blocks from size classes, after Bonwick's magazines ("Magazines and Vmem",
 * USENIX 2001).
 *
 * A thread keeps two magazines (stacks of free blocks) per class and pops and pushes without any
 * shared write. When both are empty or both are full it exchanges one with the depot of the class,
 * so a lock is taken once per magazine. Classes are 128 bytes times 1, 1.5, 2, 3, 4, ... up to
 * 64 KiB; a class keeps at most MAGAZINE_BYTES in a magazine, so the caches of a thread hold about
 * 1 MiB at worst. A young thread asks for few blocks and doubles, so that idle actors stay small.
 * Slabs are never given back; they come from aligned_alloc, because LeakSanitizer looks for
 * pointers in malloc's memory but not in mmap's.
 *
 * Threads: any. A block freed by another thread than it was allocated by travels through a depot,
 * whose mutex orders the free before the next allocation. Counters have one writer, the thread
 * that owns the cache, and are read relaxed. A thread without a cache (memory was out, or its
 * destructors have run already) works on the depot one block at a time. No two locks are held.
 */
#include "memory/pool.h"
#include "base/error.h"
#include "base/sanitizer.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    LINE = 64,
    CLASSES = 19,
    SMALLEST = 128,
    LARGEST = 65536,
    ROUNDS_MAX = 64,
    MAGAZINE_BYTES = 32768,
    FIRST_WANT = 4,
    FIRST_SLAB = 65536,
    LAST_SLAB = 1048576
};

typedef struct magazine {
    struct magazine *next; /* in a depot's list */
    unsigned count, capacity;
    void *rounds[];
} magazine;

typedef struct slab {
    struct slab *next;
    char *memory;
} slab;

/* Everything behind the lock of its class. */
typedef struct depot {
    pthread_mutex_t lock;
    magazine *stock;  /* magazines with at least one round */
    magazine *empty;  /* magazines without */
    void *loose;      /* blocks freed one by one, linked through their first word */
    char *bump, *end; /* what is left of the newest slab */
    size_t slab_size; /* of the next slab */
    slab *slabs;
} __attribute__((aligned(LINE))) depot;

/* Written by the thread that owns the cache. `previous` is full, empty or NULL. */
typedef struct slot {
    magazine *loaded, *previous;
    unsigned want; /* blocks asked for at the next refill */
} slot;

typedef struct cache {
    int64_t live; /* allocations less frees of this thread; read by others */
    slot slots[CLASSES];
    struct cache *next, **link; /* list of all caches, under caches_lock */
} cache;

_Static_assert(SMALLEST << (CLASSES / 2) == LARGEST, "the classes end at the largest block");

static __thread cache *own __attribute__((tls_model("initial-exec")));
static __thread bool ended __attribute__((tls_model("initial-exec")));

static depot depots[CLASSES] = {
    [0 ... CLASSES - 1] = {.lock = PTHREAD_MUTEX_INITIALIZER, .slab_size = FIRST_SLAB}};
static pthread_mutex_t caches_lock = PTHREAD_MUTEX_INITIALIZER;
static cache *caches;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool have_key;

/* Relaxed atomics: plain counts. */
static int64_t other_live; /* of ended threads and of those without a cache */
static uint64_t slab_bytes, depot_moves, large_count;
static uint64_t fail_countdown;

static unsigned class_of(size_t size)
{
    if (size <= SMALLEST) {
        return 0;
    }
    unsigned log2 = 63 - (unsigned)__builtin_clzll(size - 1);
    return 2 * (log2 - 7) + 1 + (size > (size_t)3 << (log2 - 1));
}

static size_t size_of(unsigned class)
{
    return (size_t)(class % 2 ? SMALLEST + SMALLEST / 2 : SMALLEST) << (class / 2);
}

static unsigned capacity_of(unsigned class)
{
    size_t n = MAGAZINE_BYTES / size_of(class);
    return n > ROUNDS_MAX ? ROUNDS_MAX : n > 0 ? (unsigned)n : 1;
}

static void count_live(cache *c, int64_t n)
{
    if (c != NULL) {
        __atomic_store_n(&c->live, c->live + n, __ATOMIC_RELAXED);
    } else {
        __atomic_fetch_add(&other_live, n, __ATOMIC_RELAXED);
    }
}

/* ---- depot: every function of this part is called with the lock of the class held ------------ */

static bool depot_grow(depot *d)
{
    slab *s = malloc(sizeof *s);
    char *memory = s != NULL ? aligned_alloc(4096, d->slab_size) : NULL;
    if (memory == NULL) {
        free(s);
        return false;
    }
    RK__ASAN_POISON(memory, d->slab_size);
    *s = (slab){d->slabs, memory};
    d->slabs = s;
    d->bump = memory;
    d->end = memory + d->slab_size;
    __atomic_fetch_add(&slab_bytes, d->slab_size, __ATOMIC_RELAXED);
    d->slab_size = d->slab_size < LAST_SLAB ? d->slab_size * 2 : LAST_SLAB;
    return true;
}

static void *depot_pop_loose(depot *d)
{
    void *block = d->loose;
    RK__ASAN_UNPOISON(block, sizeof(void *));
    memcpy(&d->loose, block, sizeof(void *));
    RK__ASAN_POISON(block, sizeof(void *));
    return block;
}

static void *depot_pop_stock(depot *d)
{
    magazine *m = d->stock;
    void *block = m->rounds[--m->count];
    if (m->count == 0) {
        d->stock = m->next;
        m->next = d->empty;
        d->empty = m;
    }
    return block;
}

/* One block, used ones first because they may still be in a cpu cache; NULL: out of memory. */
static void *depot_pop(depot *d, unsigned class)
{
    if (d->loose != NULL) {
        return depot_pop_loose(d);
    }
    if (d->stock != NULL) {
        return depot_pop_stock(d);
    }
    size_t size = size_of(class);
    if ((size_t)(d->end - d->bump) < size && !depot_grow(d)) {
        return NULL;
    }
    void *block = d->bump;
    d->bump += size;
    return block;
}

static void depot_push_loose(depot *d, void *block)
{
    RK__ASAN_UNPOISON(block, sizeof(void *));
    memcpy(block, &d->loose, sizeof(void *));
    RK__ASAN_POISON(block, sizeof(void *));
    d->loose = block;
}

static void depot_put(depot *d, magazine *m)
{
    magazine **list = m->count > 0 ? &d->stock : &d->empty;
    m->next = *list;
    *list = m;
}

static magazine *depot_empty(depot *d, unsigned class)
{
    magazine *m = d->empty;
    if (m != NULL) {
        d->empty = m->next;
    } else {
        unsigned capacity = capacity_of(class);
        m = malloc(sizeof *m + capacity * sizeof(void *));
        if (m != NULL) {
            m->count = 0;
            m->capacity = capacity;
        }
    }
    return m;
}

/* ---- caches --------------------------------------------------------------------------------- */

static void cache_drain(cache *c)
{
    for (unsigned k = 0; k < CLASSES; k++) {
        slot *s = &c->slots[k];
        if (s->loaded == NULL && s->previous == NULL) {
            continue;
        }
        pthread_mutex_lock(&depots[k].lock);
        if (s->loaded != NULL) {
            depot_put(&depots[k], s->loaded);
        }
        if (s->previous != NULL) {
            depot_put(&depots[k], s->previous);
        }
        pthread_mutex_unlock(&depots[k].lock);
    }
}

/* Key destructor. Other destructors may run after it and still use messages: see `ended`. */
static void cache_end(void *argument)
{
    cache *c = argument;
    own = NULL;
    ended = true;
    cache_drain(c);
    pthread_mutex_lock(&caches_lock);
    *c->link = c->next;
    if (c->next != NULL) {
        c->next->link = c->link;
    }
    __atomic_fetch_add(&other_live, c->live, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&caches_lock);
    free(c);
}

static void make_key(void)
{
    have_key = pthread_key_create(&key, cache_end) == 0;
}

/* The cache of a thread that has none yet; NULL when it must do without. */
static cache *cache_make(void)
{
    pthread_once(&key_once, make_key);
    if (ended || !have_key) {
        return NULL;
    }
    size_t size = (sizeof(cache) + LINE - 1) / LINE * LINE;
    cache *c = aligned_alloc(LINE, size);
    if (c == NULL) {
        return NULL;
    }
    if (pthread_setspecific(key, c) != 0) {
        free(c);
        return NULL;
    }
    memset(c, 0, size);
    pthread_mutex_lock(&caches_lock);
    c->next = caches;
    c->link = &caches;
    if (caches != NULL) {
        caches->link = &c->next;
    }
    caches = c;
    pthread_mutex_unlock(&caches_lock);
    own = c;
    return c;
}

static void swap(slot *s)
{
    magazine *m = s->loaded;
    s->loaded = s->previous;
    s->previous = m;
}

/* Both magazines are empty: takes a whole one from the stock, or fills the own with `want`. */
static void refill(slot *s, unsigned class)
{
    depot *d = &depots[class];
    unsigned capacity = capacity_of(class);
    unsigned want = s->want > 0 ? s->want : FIRST_WANT;
    want = want < capacity ? want : capacity;
    pthread_mutex_lock(&d->lock);
    if (s->loaded == NULL) {
        s->loaded = depot_empty(d, class);
    }
    magazine *m = s->loaded;
    if (m != NULL && want == capacity && d->stock != NULL) {
        s->loaded = d->stock;
        d->stock = s->loaded->next;
        depot_put(d, m);
    } else if (m != NULL) {
        void *block;
        while (m->count < want && (block = depot_pop(d, class)) != NULL) {
            m->rounds[m->count++] = block;
        }
    }
    pthread_mutex_unlock(&d->lock);
    s->want = want * 2;
    __atomic_fetch_add(&depot_moves, 1, __ATOMIC_RELAXED);
}

/* Both magazines are full, or the first one is yet to come: the older full one goes to the depot.
 * Without memory for another magazine the slot stays as it is. */
static void unload(slot *s, unsigned class)
{
    depot *d = &depots[class];
    pthread_mutex_lock(&d->lock);
    magazine *fresh = depot_empty(d, class);
    if (fresh != NULL) {
        if (s->previous != NULL) {
            depot_put(d, s->previous);
        }
        s->previous = s->loaded;
        s->loaded = fresh;
    }
    pthread_mutex_unlock(&d->lock);
    __atomic_fetch_add(&depot_moves, 1, __ATOMIC_RELAXED);
}

/* ---- slow paths ----------------------------------------------------------------------------- */

static void *alloc_one(unsigned class)
{
    depot *d = &depots[class];
    pthread_mutex_lock(&d->lock);
    void *block = depot_pop(d, class);
    pthread_mutex_unlock(&d->lock);
    return block;
}

static void free_one(void *block, unsigned class)
{
    depot *d = &depots[class];
    pthread_mutex_lock(&d->lock);
    depot_push_loose(d, block);
    pthread_mutex_unlock(&d->lock);
}

static __attribute__((noinline)) void *alloc_slow(unsigned class)
{
    cache *c = own != NULL ? own : cache_make();
    void *block = NULL;
    if (c != NULL) {
        slot *s = &c->slots[class];
        if (s->previous != NULL && s->previous->count > 0) {
            swap(s);
        } else {
            refill(s, class);
        }
        if (s->loaded != NULL && s->loaded->count > 0) {
            block = s->loaded->rounds[--s->loaded->count];
        }
    }
    if (block == NULL) {
        block = alloc_one(class);
    }
    if (block != NULL) {
        count_live(c, 1);
    }
    return block;
}

static __attribute__((noinline)) void free_slow(void *block, unsigned class)
{
    cache *c = own != NULL ? own : cache_make();
    count_live(c, -1);
    if (c == NULL) {
        free_one(block, class);
        return;
    }
    slot *s = &c->slots[class];
    if (s->previous != NULL && s->previous->count == 0) {
        swap(s);
    } else {
        unload(s, class);
    }
    if (s->loaded != NULL && s->loaded->count < s->loaded->capacity) {
        s->loaded->rounds[s->loaded->count++] = block;
    } else {
        free_one(block, class);
    }
}

static __attribute__((noinline)) void *alloc_large(size_t size)
{
    if (size > SIZE_MAX / 2) {
        return NULL;
    }
    void *block = aligned_alloc(LINE, rk__pool_usable(size));
    if (block != NULL) {
        __atomic_fetch_add(&large_count, 1, __ATOMIC_RELAXED);
        count_live(own, 1);
    }
    return block;
}

/* Counts down; true for the one allocation that brings it to 0. */
static __attribute__((noinline)) bool fails_now(void)
{
    uint64_t left = __atomic_load_n(&fail_countdown, __ATOMIC_RELAXED);
    while (left > 0) {
        if (__atomic_compare_exchange_n(&fail_countdown, &left, left - 1, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
            return left == 1;
        }
    }
    return false;
}

/* ---- interface ------------------------------------------------------------------------------ */

void *rk__pool_alloc(size_t size)
{
    if (__builtin_expect(__atomic_load_n(&fail_countdown, __ATOMIC_RELAXED) != 0, 0) &&
        fails_now()) {
        return NULL;
    }
    if (__builtin_expect(size > LARGEST, 0)) {
        return alloc_large(size);
    }
    unsigned class = class_of(size);
    cache *c = own;
    magazine *m = c != NULL ? c->slots[class].loaded : NULL;
    void *block;
    if (__builtin_expect(m != NULL && m->count > 0, 1)) {
        block = m->rounds[--m->count];
        count_live(c, 1);
    } else {
        block = alloc_slow(class);
    }
    if (block != NULL) {
        RK__ASAN_UNPOISON(block, size_of(class));
    }
    return block;
}

size_t rk__pool_usable(size_t size)
{
    return size > LARGEST ? (size + LINE - 1) / LINE * LINE : size_of(class_of(size));
}

void rk__pool_free(void *block, size_t size)
{
    if (block == NULL) {
        return;
    }
    rk_assert((uintptr_t)block % LINE == 0);
    if (__builtin_expect(size > LARGEST, 0)) {
        count_live(own, -1);
        free(block);
        return;
    }
    unsigned class = class_of(size);
    RK__ASAN_POISON(block, size_of(class));
    cache *c = own;
    magazine *m = c != NULL ? c->slots[class].loaded : NULL;
    if (__builtin_expect(m != NULL && m->count < m->capacity, 1)) {
        m->rounds[m->count++] = block;
        count_live(c, -1);
    } else {
        free_slow(block, class);
    }
}

void rk__pool_stats_get(rk__pool_stats *out)
{
    rk__pool_stats s = {0};
    pthread_mutex_lock(&caches_lock);
    s.live = __atomic_load_n(&other_live, __ATOMIC_RELAXED);
    for (cache *c = caches; c != NULL; c = c->next) {
        s.live += __atomic_load_n(&c->live, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&caches_lock);
    s.slab_bytes = __atomic_load_n(&slab_bytes, __ATOMIC_RELAXED);
    s.depot_moves = __atomic_load_n(&depot_moves, __ATOMIC_RELAXED);
    s.large = __atomic_load_n(&large_count, __ATOMIC_RELAXED);
    *out = s;
}

void rk__pool_fail_after(uint64_t n)
{
    __atomic_store_n(&fail_countdown, n, __ATOMIC_RELAXED);
}
