/*
 * admit.c -- who sits where: definitions of the image, block sizes, room on the multiprocessors.
 *
 * Threads: the driver thread, but for rk__gpu_vacate (bridge). Tables are under the lock; images are
 * linked, loaded and launched without it.
 *
 * A tenant needs its definition in the loaded image, a class of its block size, and a free seat for
 * each block. With all three it sits down at once: no compiler, no linker, no CUDA call. Else all
 * who wait are served by one swap: definitions that nobody uses any more are dropped, the image is
 * linked beside the running one, the grids end at a border, and go on with the new image and enough
 * seats for everybody and some more.
 *
 * Room. Every block of a grid must be resident, or those that are not would never start. Grids of
 * several block sizes share the multiprocessors, so a class with n blocks of which a multiprocessor
 * takes f uses n / f of them; the sum stays below all of them less one.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "base/error.h"
#include "device/cuda/driver.h"
#include "device/cuda/gpu.h"

enum {
    SPARE_MIN = 8,     /* seats more than are needed, so that the next instances need no launch */
    COALESCE = 1000000 /* ns that who needs an image waits for others who do */
};

/* ---- definitions and classes ---------------------------------------------------------------- */

/* The place of a tenant's handlers; NULL: out of memory. Under the lock. */
static rk__resident *resident_of(rk__gpu *gpu, const rk__tenant *t, uint32_t *index)
{
    rk__resident *place = NULL;
    for (uint32_t i = 0; i < gpu->resident_count; i++) {
        rk__resident *r = &gpu->residents[i];
        if (r->module == t->kernel->module && r->threads == t->threads) {
            *index = i;
            return r;
        }
        if (r->module == NULL && place == NULL) {
            place = r;
        }
    }
    if (place == NULL) {
        uint32_t count = gpu->resident_count > 0 ? 2 * gpu->resident_count : 8;
        rk__resident *grown = realloc(gpu->residents, count * sizeof *grown);
        if (grown == NULL) {
            return NULL;
        }
        memset(grown + gpu->resident_count, 0, (count - gpu->resident_count) * sizeof *grown);
        place = grown + gpu->resident_count;
        gpu->residents = grown;
        gpu->resident_count = count;
    }
    *place = (rk__resident){.module = t->kernel->module, .threads = t->threads};
    __atomic_add_fetch(&place->module->refs, 1, __ATOMIC_RELAXED); /* the tenant holds one */
    *index = (uint32_t)(place - gpu->residents);
    return place;
}

/* Under the lock. -1: four other block sizes are in use. */
static int class_of(rk__gpu *gpu, uint32_t threads)
{
    int empty = -1;
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        if (gpu->classes[i].threads == threads) {
            return i;
        }
        if (gpu->classes[i].threads == 0 && empty < 0) {
            empty = i;
        }
    }
    /* One whose last tenant has gone may be given another size: with the next image. */
    for (int i = 0; i < RK__CUDA_CLASSES && empty < 0; i++) {
        bool used = false;
        for (uint32_t r = 0; r < gpu->resident_count; r++) {
            used |=
                gpu->residents[r].users > 0 && gpu->residents[r].threads == gpu->classes[i].threads;
        }
        empty = used ? -1 : i;
    }
    return empty;
}

static int too_many_sizes(const rk__gpu *gpu, uint32_t threads)
{
    return rk__fail(RK_EDEVICE,
                    "%s runs blocks of %u, %u, %u and %u threads; an image has at most four sizes, "
                    "and %u would be a fifth: use one of these as `block`",
                    gpu->name, gpu->classes[0].threads, gpu->classes[1].threads,
                    gpu->classes[2].threads, gpu->classes[3].threads, threads);
}

static int lost(const rk__gpu *gpu)
{
    return rk__fail(RK_EDEVICE, "%s is lost: %s", gpu->name,
                    gpu->lost != NULL ? gpu->lost : "who asked has given up");
}

/* Under the lock. RK__WAITS: an image or seats are missing. */
static int enter(rk__gpu *gpu, rk__request *request)
{
    const rk__tenant *t = request->tenant;
    uint32_t index;
    int found = class_of(gpu, t->threads);
    rk__resident *r = found < 0 ? NULL : resident_of(gpu, t, &index);
    if (found < 0) {
        return too_many_sizes(gpu, t->threads);
    }
    if (r == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for the definitions of %s", gpu->name);
    }
    rk__gpu_class *c = &gpu->classes[found];
    r->users++;
    request->definition = index;
    request->class = (uint32_t)found;
    request->grid = t->kernel->grid;
    r->linked &= c->threads == t->threads; /* not in a class that was another size's */
    c->threads = t->threads;
    bool fits = r->linked && c->function != NULL && c->capacity - c->taken >= request->grid;
    return fits ? 0 : RK__WAITS;
}

/* Enters the tenant into the tables, but not yet on a seat. */
static int place(rk__gpu *gpu, rk__request *request)
{
    pthread_mutex_lock(&gpu->lock);
    int code = request->given_up || gpu->lost != NULL ? lost(gpu) : enter(gpu, request);
    pthread_mutex_unlock(&gpu->lock);
    return code;
}

static void unplace(rk__gpu *gpu, const rk__request *r)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->residents[r->definition].users--;
    pthread_mutex_unlock(&gpu->lock);
}

/* ---- seats ---------------------------------------------------------------------------------- */

/* The last thing that is done: from now on a block may take it. Under the lock. */
static void give_seat(rk__gpu *gpu, rk__gpu_class *c, rk__tenant *t, uint32_t block)
{
    uint32_t s = 1;
    while (c->owners[s] != NULL) {
        s++;
    }
    rk_seat *seat = &c->seats[s];
    rk_block *b = &t->kernel->blocks[block];
    c->owners[s] = t;
    c->taken++;
    t->seats[block] = s;
    t->left[block] = false;
    b->definition = t->definition;
    b->wire->clock_offset = __atomic_load_n(&gpu->clock_offset, __ATOMIC_RELAXED);
    seat->block = b;
    seat->home = &t->homes[block];
    __atomic_store_n(&seat->turn, seat->turn + 1, __ATOMIC_RELEASE); /* pairs with seat_await */
}

/* From now on the tenant is the bridge's. RK_EDEVICE: it must not sit down any more. */
static int sit(rk__gpu *gpu, rk__request *request)
{
    rk__tenant *t = request->tenant;
    rk__gpu_class *c = &gpu->classes[request->class];
    pthread_mutex_lock(&gpu->lock);
    if (request->given_up || gpu->lost != NULL) {
        gpu->residents[request->definition].users--;
        int code = lost(gpu);
        pthread_mutex_unlock(&gpu->lock);
        return code;
    }
    t->definition = request->definition;
    t->class = request->class;
    for (uint32_t i = 0; i < request->grid; i++) {
        give_seat(gpu, c, t, i);
    }
    t->staying = request->grid;
    t->next = gpu->tenants;
    gpu->tenants = t;
    request->seated = true;
    pthread_mutex_unlock(&gpu->lock);
    rk__park_kick(&gpu->bridge_park);
    return 0;
}

bool rk__gpu_vacate(rk__gpu *gpu, rk__tenant *t, uint32_t block)
{
    rk__gpu_class *c = &gpu->classes[t->class];
    rk__tenant **at = &gpu->tenants;
    t->left[block] = true;
    c->owners[t->seats[block]] = NULL;
    t->seats[block] = 0; /* seats may move up; nobody looks at this one's any more */
    c->taken--;
    if (--t->staying > 0) {
        return false;
    }
    gpu->residents[t->definition].users--;
    while (*at != t) {
        at = &(*at)->next;
    }
    *at = t->next;
    return true;
}

/* ---- swaps ---------------------------------------------------------------------------------- */

/* Definitions that nobody uses any more leave with this image; classes without definitions too. */
static void drop_unused(rk__gpu *gpu)
{
    pthread_mutex_lock(&gpu->lock);
    bool used[RK__CUDA_CLASSES] = {false};
    for (uint32_t i = 0; i < gpu->resident_count; i++) {
        rk__resident *r = &gpu->residents[i];
        if (r->module != NULL && r->users == 0) {
            rk__module_release(r->module);
            *r = (rk__resident){0};
        }
        for (int c = 0; c < RK__CUDA_CLASSES; c++) {
            used[c] |= r->users > 0 && gpu->classes[c].threads == r->threads;
        }
    }
    for (int c = 0; c < RK__CUDA_CLASSES; c++) {
        gpu->classes[c].threads = used[c] ? gpu->classes[c].threads : 0;
    }
    pthread_mutex_unlock(&gpu->lock);
}

typedef struct plan {
    rk__cuda_class classes[RK__CUDA_CLASSES];
    size_t count;
    const rk__module **modules;
    uint32_t *numbers;
} plan;

/* Classes are positions in an image, so an unused one before a used one is there and empty. */
static int make_plan(const rk__gpu *gpu, plan *p)
{
    size_t used = 0;
    *p = (plan){.modules = calloc(gpu->resident_count + 1, sizeof *p->modules),
                .numbers = calloc(gpu->resident_count + 1, sizeof *p->numbers)};
    if (p->modules == NULL || p->numbers == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for an image of %s", gpu->name);
    }
    for (size_t c = 0; c < RK__CUDA_CLASSES; c++) {
        rk__cuda_class *class = &p->classes[c];
        uint32_t threads = gpu->classes[c].threads;
        *class = (rk__cuda_class){threads != 0 ? threads : gpu->warp, p->modules + used,
                                  p->numbers + used, 0};
        for (uint32_t i = 0; i < gpu->resident_count && threads != 0; i++) {
            if (gpu->residents[i].module != NULL && gpu->residents[i].threads == threads) {
                p->modules[used] = gpu->residents[i].module;
                p->numbers[used++] = i;
                class->count++;
            }
        }
        p->count = class->count > 0 ? c + 1 : p->count;
    }
    return 0;
}

static bool image_is_missing(rk__gpu *gpu)
{
    bool missing = false;
    pthread_mutex_lock(&gpu->lock);
    for (uint32_t i = 0; i < gpu->resident_count && !missing; i++) {
        missing = gpu->residents[i].users > 0 && !gpu->residents[i].linked;
    }
    pthread_mutex_unlock(&gpu->lock);
    return missing;
}

/* Seats of each class that are in use. */
static void count_taken(rk__gpu *gpu, uint32_t taken[RK__CUDA_CLASSES])
{
    pthread_mutex_lock(&gpu->lock);
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        taken[i] = gpu->classes[i].taken;
    }
    pthread_mutex_unlock(&gpu->lock);
}

/* What is loaded now serves whom. */
static void mark_linked(rk__gpu *gpu)
{
    pthread_mutex_lock(&gpu->lock);
    for (uint32_t i = 0; i < gpu->resident_count; i++) {
        gpu->residents[i].linked = gpu->residents[i].module != NULL;
    }
    pthread_mutex_unlock(&gpu->lock);
}

static int change_image(rk__gpu *gpu, rk__cuda_image *image)
{
    int code = rk__grid_load(gpu, image);
    if (code == 0) {
        mark_linked(gpu);
    }
    return code;
}

/* ---- room ----------------------------------------------------------------------------------- */

static int measure(rk__gpu *gpu, rk__gpu_class *c)
{
    int fits = 0;
    uint32_t most = RK_LOOP_SHARED;
    for (uint32_t i = 0; i < gpu->resident_count; i++) {
        const rk__resident *r = &gpu->residents[i];
        if (r->module != NULL && r->threads == c->threads &&
            RK_LOOP_SHARED + r->module->entry->shared_size > most) {
            most = RK_LOOP_SHARED + r->module->entry->shared_size;
        }
    }
    CUresult result = rk__cuda->OccupancyMaxActiveBlocksPerMultiprocessor(&fits, c->function,
                                                                          (int)c->threads, most);
    if (result != CUDA_SUCCESS) {
        return rk__cuda_fail(result, "%s: how many blocks of %u threads fit", gpu->name,
                             c->threads);
    }
    c->fits = (uint32_t)fits;
    return fits > 0 ? 0
                    : rk__fail(RK_EDEVICE,
                               "%s: not one block of %u threads with %u bytes of shared memory "
                               "fits on a multiprocessor",
                               gpu->name, c->threads, most);
}

/* Multiprocessors, in thousandths, that grids of so many blocks each take. Small blocks are spread
 * over all of them, so grids of several sizes leave gaps that no larger block fits: each size after
 * the first is charged for one block on every multiprocessor. */
static uint64_t load_of(const rk__gpu *gpu, const uint32_t blocks[RK__CUDA_CLASSES])
{
    uint64_t sum = 0;
    bool first = true;
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        uint32_t fits = gpu->classes[i].fits;
        if (blocks[i] > 0) {
            sum += ((uint64_t)blocks[i] + 1) * 1000 / fits; /* and seat 0 */
            sum += first || fits == 1 ? 0 : (uint64_t)gpu->processors * 1000 / fits;
            first = false;
        }
    }
    return sum;
}

static uint64_t room_of(const rk__gpu *gpu)
{
    return (uint64_t)(gpu->processors > 1 ? gpu->processors - 1 : 1) * 1000;
}

static int too_many_blocks(const rk__gpu *gpu, const rk__request *r, const uint32_t *blocks)
{
    const rk__gpu_class *c = &gpu->classes[r->class];
    return rk__fail(RK_EDEVICE,
                    "%s has no room for %u more block%s of %u threads: %u multiprocessors take %u "
                    "such blocks each, %u are in use, and one multiprocessor is kept free. Use "
                    "fewer instances, a smaller grid, or smaller blocks",
                    gpu->name, r->grid, r->grid == 1 ? "" : "s", c->threads, gpu->processors,
                    c->fits, blocks[r->class] - r->grid);
}

/* Seats for those who sit and those who come; who does not fit is refused. */
static int make_room(rk__gpu *gpu, rk__request *list)
{
    uint32_t blocks[RK__CUDA_CLASSES], wanted[RK__CUDA_CLASSES];
    int code = 0;
    count_taken(gpu, blocks);
    for (int i = 0; i < RK__CUDA_CLASSES && code == 0; i++) {
        code = gpu->classes[i].threads != 0 ? measure(gpu, &gpu->classes[i]) : 0;
    }
    for (rk__request *r = list; r != NULL && code == 0; r = r->next) {
        blocks[r->class] += r->grid;
        if (load_of(gpu, blocks) > room_of(gpu)) {
            r->code = too_many_blocks(gpu, r, blocks);
            snprintf(r->text, sizeof r->text, "%s", rk_errdetail());
            blocks[r->class] -= r->grid;
            unplace(gpu, r);
        }
    }
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        uint32_t spare = blocks[i] / 2 > SPARE_MIN ? blocks[i] / 2 : SPARE_MIN;
        spare = gpu->mode == RK_MODE_PERSISTENT ? spare : 0; /* else every launch would have them */
        wanted[i] = blocks[i] > 0 ? blocks[i] + spare : 0;
    }
    bool roomy = code == 0 && load_of(gpu, wanted) <= room_of(gpu);
    for (uint32_t i = 0; i < RK__CUDA_CLASSES && code == 0; i++) {
        uint32_t capacity = roomy ? wanted[i] : blocks[i];
        if (capacity != gpu->classes[i].capacity) {
            code = rk__grid_seats(gpu, i, capacity);
        }
    }
    return code;
}

/* ---- admitting ------------------------------------------------------------------------------ */

/* Large blocks first: they find room only where nothing else is yet. */
static int launch_all(rk__gpu *gpu)
{
    for (;;) {
        uint32_t next = RK__CUDA_CLASSES, taken[RK__CUDA_CLASSES];
        count_taken(gpu, taken);
        for (uint32_t i = 0; i < RK__CUDA_CLASSES && gpu->mode == RK_MODE_PERSISTENT; i++) {
            const rk__gpu_class *c = &gpu->classes[i];
            if (taken[i] > 0 && !c->running &&
                (next == RK__CUDA_CLASSES || c->fits < gpu->classes[next].fits)) {
                next = i;
            }
        }
        if (next == RK__CUDA_CLASSES) {
            return 0;
        }
        int code = rk__grid_launch(gpu, next);
        if (code < 0) {
            return code;
        }
    }
}

static void run(rk__gpu *gpu)
{
    if (rk__gpu_lost(gpu) == NULL && launch_all(gpu) < 0) {
        rk__gpu_lose(gpu, "%s", rk_errdetail());
    }
}

/* An image with every definition that is used; the running one goes on meanwhile. */
static int link_image(rk__gpu *gpu, rk__cuda_image *image)
{
    plan p;
    int code = make_plan(gpu, &p);
    pthread_mutex_lock(&gpu->lock);
    gpu->linking = true;
    pthread_mutex_unlock(&gpu->lock);
    code =
        code < 0 ? code : rk__cuda_image_link(gpu->cache, &gpu->target, p.classes, p.count, image);
    pthread_mutex_lock(&gpu->lock);
    gpu->linking = false;
    pthread_mutex_unlock(&gpu->lock);
    free(p.modules);
    free(p.numbers);
    return code;
}

/* Image and seats for all who wait. Grids that were running go on afterwards, whatever happened. */
static int swap(rk__gpu *gpu, rk__request *list)
{
    rk__cuda_image image = {0};
    drop_unused(gpu);
    bool relink = image_is_missing(gpu);
    int code = relink ? link_image(gpu, &image) : 0;
    if (code < 0) {
        return code;
    }
    code = rk__grid_quiesce(gpu);
    if (code < 0) {
        rk__cuda_image_free(&image);
        return code;
    }
    code = relink ? change_image(gpu, &image) : 0;
    return code < 0 ? code : make_room(gpu, list);
}

/* Those who need no image sit down at once and are told; the others stay on the list. */
static void seat_at_once(rk__gpu *gpu, rk__request **list)
{
    rk__request *seated = NULL;
    while (*list != NULL) {
        rk__request *r = *list;
        int code = place(gpu, r);
        if (code == RK__WAITS) {
            r->code = code;
            list = &r->next;
            continue;
        }
        *list = r->next;
        code = code < 0 ? code : sit(gpu, r);
        if (code < 0) {
            rk__gpu_answer(gpu, r, code);
            continue;
        }
        r->next = seated;
        seated = r;
    }
    if (seated != NULL) {
        run(gpu);
    }
    while (seated != NULL) {
        rk__request *r = seated;
        seated = r->next;
        rk__gpu_answer(gpu, r, 0);
    }
}

/* After the swap, which has failed with `code` for all, or has refused some. */
static void seat_rest(rk__gpu *gpu, rk__request *list, int code)
{
    char text[512];
    snprintf(text, sizeof text, "%s", code < 0 ? rk_errdetail() : "");
    for (rk__request *r = list; r != NULL; r = r->next) {
        if (r->code == RK__WAITS && code < 0) {
            unplace(gpu, r);
            r->code = code;
            snprintf(r->text, sizeof r->text, "%s", text);
        } else if (r->code == RK__WAITS) {
            r->code = sit(gpu, r);
            snprintf(r->text, sizeof r->text, "%s", r->code < 0 ? rk_errdetail() : "");
        }
    }
}

void rk__gpu_admit(rk__gpu *gpu, rk__request *list)
{
    seat_at_once(gpu, &list);
    if (list == NULL) {
        return;
    }
    nanosleep(&(struct timespec){.tv_nsec = COALESCE}, NULL);
    rk__request *more = rk__gpu_more(gpu), **last = &list;
    seat_at_once(gpu, &more);
    while (*last != NULL) {
        last = &(*last)->next;
    }
    *last = more;
    seat_rest(gpu, list, swap(gpu, list));
    run(gpu);
    while (list != NULL) {
        rk__request *r = list;
        list = r->next;
        if (r->code < 0) {
            rk__fail(r->code, "%s", r->text);
        }
        rk__gpu_answer(gpu, r, r->code);
    }
}
