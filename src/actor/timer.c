/*
 * timer.c -- hierarchical timing wheels.
 *
 * After G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels: Data Structures for the
 * Efficient Implementation of a Timer Facility", SOSP 1987 (scheme 7). A deadline is read as a
 * number of eleven digits in base 64. A wheel of level l has 64 places, one for each value of digit
 * l, for deadlines that agree in all digits above l. A place has nothing, a list of timers, or a
 * wheel of a lower level, and a wheel has a bitmap of the places in use.
 *
 * What differs from the paper, where a hand turns and a place is emptied into the finer wheel when
 * the hand gets there:
 * - Places stand for absolute time, so there is no hand, and no tick that could be missed. After
 *   days without a look the next timer is as far away as after a microsecond: the lowest bit of a
 *   few bitmaps.
 * - The owner parks until exactly the nearest deadline, so that must be known before its time has
 *   come, and without giving up the order around it. Hence a list is spread over a wheel of its own
 *   ("opened") when it is the earliest one and has more than FEW timers; a shorter one is searched.
 * - A new wheel has the highest level in which its timers differ; levels in which all agree are
 *   left out. A deadline beyond the range of a wheel gets one above both. A wheel that is empty, or
 *   has a single wheel in it, goes.
 * - Up to ALONE timers need no wheel at all: they are one list in order. (When it was opened since
 *   there were more, it stays so until the last wheel is empty.)
 *
 * Order: by deadline, then by the number that adding gave; a timer with a period keeps its number.
 * Two kinds of list are in order: the one without a wheel, and those at level 0, where all have the
 * same deadline: there a new timer goes to the end, and one with a period, which comes back with its
 * old number, walks past the newer ones that are set for the very same nanosecond.
 *
 * Cost: levels fall along every path, so adding looks at eleven wheels at most, as does the search
 * for the earliest place; cancelling unlinks from a ring whose place the slot knows, and at most
 * the eleven wheels around it go. Opening moves a timer to a lower level, so no timer is moved more
 * than eleven times in its life: finding the nearest is O(1) on average over the timers that were
 * added, and its result is kept until that timer goes.
 *
 * Memory: 48 bytes for a timer, 280 for a wheel, both in arrays that double; every wheel has two
 * places in use or a list, so there are fewer than two wheels for a timer, and usually one for many.
 * When no wheel can be had, timers still fire in time and in order, and only the cost grows: a list
 * is searched or walked however long it is, and a deadline that would need a wheel above others
 * waits in the list `aside`.
 *
 * Threads: the owner, nobody else.
 */
#include "actor/timer.h"

#include <stdlib.h>
#include <string.h>

enum {
    DIGIT = 6,
    PLACES = 1 << DIGIT,
    TOP = 63 / DIGIT,
    FEW = 8,
    ALONE = 16,
    SLOTS_MAX = 1 << 30,
    WHEELS_MAX = 1 << 25
};

/* A link is what a place has: a slot (the first one of a list), WHEEL | a wheel, or NOTHING. */
#define NOTHING UINT32_MAX
#define WHEEL   (UINT32_C(1) << 31)
/* A place is wheel * PLACES + digit, or one of the two outside of all wheels. */
#define ROOT  UINT32_MAX
#define ASIDE (UINT32_MAX - 1)

typedef struct rk__timer_slot {
    int64_t deadline, period;
    uint64_t order;
    void *data;
    uint32_t generation;     /* odd while the slot is in use */
    uint32_t place;          /* of its list */
    uint32_t next, previous; /* in its list, a ring; next of an unused slot: another one */
} timer_slot;

typedef struct rk__timer_wheel {
    uint64_t used;  /* places that have something */
    uint64_t some;  /* any deadline of its range, as key_of gives it */
    uint32_t level; /* of the digit that chooses a place */
    uint32_t place; /* where the wheel itself is; of an unused one: the next unused one */
    uint32_t links[PLACES];
} timer_wheel;

static bool is_wheel(uint32_t link)
{
    return link >= WHEEL && link != NOTHING;
}

/* Unsigned, and in the order of the deadlines. */
static uint64_t key_of(const rk__timers *t, uint32_t slot)
{
    return (uint64_t)t->slots[slot].deadline ^ UINT64_C(1) << 63;
}

static unsigned digit(uint64_t key, uint32_t level)
{
    return (unsigned)(key >> level * DIGIT) % PLACES;
}

/* The highest level in which two keys differ, given their exclusive or. */
static uint32_t level_of(uint64_t difference)
{
    return (uint32_t)(63 - __builtin_clzll(difference | 1)) / DIGIT;
}

static bool before(const rk__timers *t, uint32_t a, uint32_t b)
{
    const timer_slot *x = &t->slots[a], *y = &t->slots[b];
    return x->deadline != y->deadline ? x->deadline < y->deadline : x->order < y->order;
}

/* ---- memory ---- */

void rk__timers_free(rk__timers *t)
{
    free(t->slots);
    free(t->wheels);
    *t = (rk__timers)RK__TIMERS_INIT;
}

static bool grow_slots(rk__timers *t)
{
    uint32_t capacity = t->capacity ? t->capacity * 2 : 4;
    timer_slot *slots = capacity <= SLOTS_MAX ? realloc(t->slots, capacity * sizeof *slots) : NULL;
    if (!slots) {
        return false;
    }
    for (uint32_t i = t->capacity; i < capacity; i++) {
        slots[i].generation = 0;
        slots[i].next = i + 1 < capacity ? i + 1 : NOTHING;
    }
    t->slots = slots;
    t->free_slot = t->capacity;
    t->capacity = capacity;
    return true;
}

static bool grow_wheels(rk__timers *t)
{
    uint32_t capacity = t->wheel_capacity ? t->wheel_capacity * 2 : 1;
    timer_wheel *wheels =
        capacity <= WHEELS_MAX ? realloc(t->wheels, capacity * sizeof *wheels) : NULL;
    if (!wheels) {
        return false;
    }
    for (uint32_t i = t->wheel_capacity; i < capacity; i++) {
        wheels[i].place = i + 1 < capacity ? i + 1 : NOTHING;
    }
    t->wheels = wheels;
    t->free_wheel = t->wheel_capacity;
    t->wheel_capacity = capacity;
    return true;
}

/* ---- places ---- */

static uint32_t *link_at(rk__timers *t, uint32_t place)
{
    return place == ROOT    ? &t->root
           : place == ASIDE ? &t->aside
                            : &t->wheels[place / PLACES].links[place % PLACES];
}

static void hang(rk__timers *t, uint32_t place, uint32_t link)
{
    *link_at(t, place) = link;
    if (place < ASIDE) {
        uint64_t bit = UINT64_C(1) << place % PLACES, *used = &t->wheels[place / PLACES].used;
        *used = link == NOTHING ? *used & ~bit : *used | bit;
    }
    if (is_wheel(link)) {
        t->wheels[link & ~WHEEL].place = place;
    }
}

static bool is_in_order(const rk__timers *t, uint32_t place)
{
    return place == ROOT || (place < ASIDE && t->wheels[place / PLACES].level == 0);
}

/* An empty wheel, at no place yet; NOTHING: no memory. */
static uint32_t new_wheel(rk__timers *t, uint32_t level, uint64_t some)
{
    if (t->free_wheel == NOTHING && !grow_wheels(t)) {
        return NOTHING;
    }
    uint32_t number = t->free_wheel;
    timer_wheel *w = &t->wheels[number];
    t->free_wheel = w->place;
    w->used = 0;
    w->some = some;
    w->level = level;
    memset(w->links, 0xff, sizeof w->links);
    return number;
}

/* Puts a new wheel between `inner` and where that is, for a key that differs from what is there in
 * digit `level`. */
static uint32_t wheel_above(rk__timers *t, uint32_t inner, uint32_t level, uint64_t key)
{
    uint32_t number = new_wheel(t, level, key);
    if (number != NOTHING) {
        hang(t, t->wheels[inner].place, WHEEL | number);
        hang(t, number * PLACES + digit(t->wheels[inner].some, level), WHEEL | inner);
    }
    return number;
}

/* The wheel around a place goes when nothing is in it, or one wheel, which takes its place. Then
 * the same for the wheel around that. */
static void prune(rk__timers *t, uint32_t place)
{
    while (place < ASIDE) {
        uint32_t number = place / PLACES;
        timer_wheel *w = &t->wheels[number];
        uint32_t only = w->used ? w->links[__builtin_ctzll(w->used)] : NOTHING;
        if (w->used & (w->used - 1) || (w->used && !is_wheel(only))) {
            return;
        }
        place = w->place;
        hang(t, place, only);
        w->place = t->free_wheel;
        t->free_wheel = number;
    }
}

/* ---- lists ---- */

/* Into the list at the place: at its end, or in order where the list is. */
static void enlist(rk__timers *t, uint32_t place, uint32_t slot)
{
    timer_slot *s = &t->slots[slot];
    uint32_t head = *link_at(t, place), next = head;
    s->place = place;
    if (head == NOTHING) {
        s->next = s->previous = slot;
        hang(t, place, slot);
        return;
    }
    if (is_in_order(t, place) && before(t, slot, t->slots[head].previous)) {
        do {
            next = t->slots[next].previous;
        } while (next != head && before(t, slot, t->slots[next].previous));
        if (next == head) {
            hang(t, place, slot);
        }
    }
    s->next = next;
    s->previous = t->slots[next].previous;
    t->slots[s->previous].next = slot;
    t->slots[next].previous = slot;
}

static void unlist(rk__timers *t, uint32_t slot)
{
    timer_slot *s = &t->slots[slot];
    if (s->next == slot) {
        hang(t, s->place, NOTHING);
        prune(t, s->place);
        return;
    }
    t->slots[s->previous].next = s->next;
    t->slots[s->next].previous = s->previous;
    uint32_t *link = link_at(t, s->place);
    *link = *link == slot ? s->next : *link;
}

/* Where a key belongs: in through the wheels that are there, with one more around those that it
 * does not fit. */
static uint32_t place_for(rk__timers *t, uint64_t key)
{
    uint32_t place = ROOT;
    for (uint32_t link = t->root; is_wheel(link); link = *link_at(t, place)) {
        uint32_t number = link & ~WHEEL, level = level_of(key ^ t->wheels[number].some);
        if (level > t->wheels[number].level) {
            number = wheel_above(t, number, level, key);
            if (number == NOTHING) {
                return ASIDE;
            }
        }
        place = number * PLACES + digit(key, t->wheels[number].level);
    }
    return place;
}

/* Spreads the list at a place over a wheel of its own. NOTHING: no memory, all is as it was. */
static uint32_t open_list(rk__timers *t, uint32_t place)
{
    uint32_t head = *link_at(t, place), slot = head;
    uint32_t highest = place < ASIDE ? t->wheels[place / PLACES].level - 1 : TOP;
    uint64_t key = key_of(t, head), spread = 0;
    do { /* most lists differ in the highest digit they can, at once */
        spread |= key ^ key_of(t, slot);
        slot = t->slots[slot].next;
    } while (slot != head && level_of(spread) < highest);
    uint32_t number = new_wheel(t, level_of(spread), key);
    if (number == NOTHING) {
        return NOTHING;
    }
    hang(t, place, WHEEL | number);
    uint32_t next = head, last = t->slots[head].previous;
    do {
        slot = next;
        next = t->slots[slot].next;
        uint32_t level = t->wheels[number].level;
        enlist(t, number * PLACES + digit(key_of(t, slot), level), slot);
    } while (slot != last);
    prune(t, place);
    return WHEEL | number;
}

/* ---- the nearest ---- */

/* The nearest of a list; NOTHING: there are more than `most`. */
static uint32_t nearest_of(const rk__timers *t, uint32_t head, uint32_t most)
{
    uint32_t best = head;
    for (uint32_t slot = t->slots[head].next; slot != head; slot = t->slots[slot].next) {
        if (--most == 0) {
            return NOTHING;
        }
        best = before(t, slot, best) ? slot : best;
    }
    return best;
}

static uint32_t nearest_inside(rk__timers *t)
{
    uint32_t place = ROOT, link = t->root;
    for (;;) {
        if (is_wheel(link)) {
            const timer_wheel *w = &t->wheels[link & ~WHEEL];
            unsigned earliest = (unsigned)__builtin_ctzll(w->used);
            place = (link & ~WHEEL) * PLACES + earliest;
            link = w->links[earliest];
            continue;
        }
        if (link == NOTHING || is_in_order(t, place)) {
            return link;
        }
        uint32_t found = nearest_of(t, link, FEW), opened;
        if (found != NOTHING) {
            return found;
        }
        if ((opened = open_list(t, place)) == NOTHING) {
            return nearest_of(t, link, UINT32_MAX);
        }
        link = opened;
    }
}

static uint32_t nearest(rk__timers *t)
{
    if (t->first == NOTHING && t->count > 0) {
        uint32_t inside = nearest_inside(t), outside = t->aside;
        if (outside != NOTHING) {
            outside = nearest_of(t, outside, UINT32_MAX);
            inside = inside == NOTHING || before(t, outside, inside) ? outside : inside;
        }
        t->first = inside;
    }
    return t->first;
}

int64_t rk__timers_next(rk__timers *t)
{
    return t->count ? t->slots[nearest(t)].deadline : RK__FOREVER;
}

/* ---- timers ---- */

static void set(rk__timers *t, uint32_t slot, int64_t deadline)
{
    t->slots[slot].deadline = deadline;
    enlist(t, place_for(t, key_of(t, slot)), slot);
}

rk__timer_id rk__timers_add(rk__timers *t, int64_t deadline, int64_t period, void *data)
{
    if (t->free_slot == NOTHING && !grow_slots(t)) {
        return 0;
    }
    uint32_t slot = t->free_slot;
    timer_slot *s = &t->slots[slot];
    t->free_slot = s->next;
    s->period = period;
    s->order = t->order++;
    s->data = data;
    s->generation++;
    set(t, slot, deadline);
    if (t->count++ == 0 || (t->first != NOTHING && before(t, slot, t->first))) {
        t->first = slot;
    }
    if (t->count > ALONE && !is_wheel(t->root)) {
        open_list(t, ROOT);
    }
    return (uint64_t)s->generation << 32 | slot;
}

/* The slot of a timer that is set; NULL: the id is stale. */
static timer_slot *slot_of(const rk__timers *t, rk__timer_id id)
{
    uint32_t slot = (uint32_t)id;
    bool known = id != 0 && slot < t->capacity && t->slots[slot].generation == id >> 32;
    return known ? &t->slots[slot] : NULL;
}

static void drop(rk__timers *t, uint32_t slot)
{
    unlist(t, slot);
    t->count--;
    t->first = t->first == slot ? NOTHING : t->first;
    t->slots[slot].generation++;
    t->slots[slot].next = t->free_slot;
    t->free_slot = slot;
}

bool rk__timers_cancel(rk__timers *t, rk__timer_id id)
{
    if (!slot_of(t, id)) {
        return false;
    }
    drop(t, (uint32_t)id);
    return true;
}

bool rk__timers_due(const rk__timers *t, rk__timer_id id, int64_t *deadline)
{
    const timer_slot *s = slot_of(t, id);
    if (!s) {
        return false;
    }
    *deadline = s->deadline;
    return true;
}

/* The first point after now of the grid through deadline, which is not after now. A grid that ends
 * with the clock goes on at RK__FOREVER. */
static int64_t grid_after(int64_t deadline, int64_t period, int64_t now)
{
    uint64_t late = (uint64_t)now - (uint64_t)deadline;
    int64_t ahead = period - (int64_t)(late % (uint64_t)period), point;
    return __builtin_add_overflow(now, ahead, &point) ? RK__FOREVER : point;
}

bool rk__timers_pop(rk__timers *t, int64_t now, void **data)
{
    int64_t deadline = rk__timers_next(t);
    if (deadline > now || deadline == RK__FOREVER) {
        return false;
    }
    uint32_t slot = t->first;
    timer_slot *s = &t->slots[slot];
    *data = s->data;
    if (s->period <= 0) {
        drop(t, slot);
        return true;
    }
    unlist(t, slot);
    set(t, slot, grid_after(deadline, s->period, now));
    t->first = NOTHING;
    return true;
}
