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
#include "base/clock.h"
#include "base/error.h"
#include "device/cuda/driver.h"
#include "device/cuda/gpu.h"

enum { SPARE_MIN = 8 }; /* seats more than are needed, so that the next instances need no launch */

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

/* Enters the tenant into the tables (not yet on a seat). 1: an image or seats are missing. */
static int place(rk__gpu *gpu, rk__tenant *t)
{
    uint32_t index;
    int code = 0, class;
    pthread_mutex_lock(&gpu->lock);
    class = class_of(gpu, t->threads);
    rk__resident *r = class < 0 ? NULL : resident_of(gpu, t, &index);
    if (class < 0) {
        code = too_many_sizes(gpu, t->threads);
    } else if (r == NULL) {
        code = rk__fail(RK_ENOMEM, "no memory for the definitions of %s", gpu->name);
    } else {
        rk__gpu_class *c = &gpu->classes[class];
        r->users++;
        t->definition = index;
        t->class = (uint32_t) class;
        r->linked &= c->threads == t->threads; /* not in a class that was another size's */
        c->threads = t->threads;
        bool fits = r->linked && c->function != NULL && c->capacity - c->taken >= t->kernel->grid;
        code = fits ? 0 : 1;
    }
    pthread_mutex_unlock(&gpu->lock);
    return code;
}

static void unplace(rk__gpu *gpu, const rk__tenant *t)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->residents[t->definition].users--;
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

static void sit(rk__gpu *gpu, rk__tenant *t)
{
    rk__gpu_class *c = &gpu->classes[t->class];
    pthread_mutex_lock(&gpu->lock);
    for (uint32_t i = 0; i < t->kernel->grid; i++) {
        give_seat(gpu, c, t, i);
    }
    t->staying = t->kernel->grid;
    t->next = gpu->tenants;
    gpu->tenants = t;
    pthread_mutex_unlock(&gpu->lock);
    rk__park_kick(&gpu->bridge_park);
}

bool rk__gpu_vacate(rk__gpu *gpu, rk__tenant *t, uint32_t block)
{
    rk__gpu_class *c = &gpu->classes[t->class];
    rk__tenant **at = &gpu->tenants;
    t->left[block] = true;
    c->owners[t->seats[block]] = NULL;
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

static bool image_is_missing(const rk__gpu *gpu)
{
    for (uint32_t i = 0; i < gpu->resident_count; i++) {
        if (gpu->residents[i].users > 0 && !gpu->residents[i].linked) {
            return true;
        }
    }
    return false;
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

/* Multiprocessors, in thousandths, that grids of so many blocks each take. */
static uint64_t load_of(const rk__gpu *gpu, const uint32_t blocks[RK__CUDA_CLASSES])
{
    uint64_t sum = 0;
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        if (blocks[i] > 0) {
            sum += ((uint64_t)blocks[i] + 1) * 1000 / gpu->classes[i].fits; /* and seat 0 */
        }
    }
    return sum;
}

static uint64_t room_of(const rk__gpu *gpu)
{
    return (uint64_t)(gpu->processors > 1 ? gpu->processors - 1 : 1) * 1000;
}

static int too_many_blocks(const rk__gpu *gpu, const rk__tenant *t, const uint32_t *blocks)
{
    const rk__gpu_class *c = &gpu->classes[t->class];
    return rk__fail(RK_EDEVICE,
                    "%s has no room for %u more block%s of %u threads: %u multiprocessors take %u "
                    "such blocks each, %u are in use, and one multiprocessor is kept free. Use "
                    "fewer instances, a smaller grid, or smaller blocks",
                    gpu->name, t->kernel->grid, t->kernel->grid == 1 ? "" : "s", c->threads,
                    gpu->processors, c->fits, blocks[t->class] - t->kernel->grid);
}

/* Seats for those who sit and those who come; who does not fit is refused. */
static int make_room(rk__gpu *gpu, rk__request *list)
{
    uint32_t blocks[RK__CUDA_CLASSES], wanted[RK__CUDA_CLASSES];
    int code = 0;
    for (int i = 0; i < RK__CUDA_CLASSES && code == 0; i++) {
        blocks[i] = gpu->classes[i].taken;
        code = gpu->classes[i].threads != 0 ? measure(gpu, &gpu->classes[i]) : 0;
    }
    for (rk__request *r = list; r != NULL && code == 0; r = r->next) {
        if (r->code != 1) {
            continue;
        }
        blocks[r->tenant->class] += r->tenant->kernel->grid;
        if (load_of(gpu, blocks) > room_of(gpu)) {
            r->code = too_many_blocks(gpu, r->tenant, blocks);
            snprintf(r->text, sizeof r->text, "%s", rk_errdetail());
            blocks[r->tenant->class] -= r->tenant->kernel->grid;
            unplace(gpu, r->tenant);
        }
    }
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        uint32_t spare = blocks[i] / 2 > SPARE_MIN ? blocks[i] / 2 : SPARE_MIN;
        wanted[i] = blocks[i] > 0 ? blocks[i] + spare : 0;
    }
    bool roomy = code == 0 && load_of(gpu, wanted) <= room_of(gpu);
    for (uint32_t i = 0; i < RK__CUDA_CLASSES && code == 0; i++) {
        uint32_t capacity = roomy ? wanted[i] : blocks[i];
        if (capacity > gpu->classes[i].capacity) {
            code = rk__grid_seats(gpu, i, capacity);
        }
    }
    return code;
}

/* ---- admitting ------------------------------------------------------------------------------ */

/* Those that still wait fail with what went wrong. */
static void refuse(rk__gpu *gpu, rk__request *list, int code)
{
    for (rk__request *r = list; r != NULL; r = r->next) {
        if (r->code == 1) {
            r->code = code;
            snprintf(r->text, sizeof r->text, "%s", rk_errdetail());
            unplace(gpu, r->tenant);
        }
    }
}

static int launch_all(rk__gpu *gpu)
{
    int code = 0;
    for (uint32_t i = 0; i < RK__CUDA_CLASSES && code == 0; i++) {
        rk__gpu_class *c = &gpu->classes[i];
        if (c->taken > 0 && !c->running && gpu->mode == RK_MODE_PERSISTENT) {
            code = rk__grid_launch(gpu, i);
        }
    }
    return code;
}

/* Grids that were running go on, whatever happened to those who wait. */
static int swap(rk__gpu *gpu, rk__request *list)
{
    rk__cuda_image image = {0};
    plan p = {.count = 0};
    drop_unused(gpu);
    bool relink = image_is_missing(gpu);
    int code = relink ? make_plan(gpu, &p) : 0;
    if (relink && code == 0) {
        code = rk__cuda_image_link(NULL, &gpu->target, p.classes, p.count, &image);
    }
    free(p.modules);
    free(p.numbers);
    if (code == 0) {
        code = rk__grid_quiesce(gpu);
        if (code < 0) {
            rk__cuda_image_free(&image);
            return code;
        }
        code = relink ? change_image(gpu, &image) : 0;
        code = code < 0 ? code : make_room(gpu, list);
    }
    return code;
}

void rk__gpu_admit(rk__gpu *gpu, rk__request *list)
{
    bool wait = false;
    for (rk__request *r = list; r != NULL; r = r->next) {
        r->code = place(gpu, r->tenant);
        if (r->code < 0) {
            snprintf(r->text, sizeof r->text, "%s", rk_errdetail());
        }
        wait |= r->code == 1;
        if (r->code == 0) {
            sit(gpu, r->tenant);
            r->code = 2; /* sits; the next one's room is reckoned with it */
        }
    }
    if (wait) {
        int code = swap(gpu, list);
        if (code < 0) {
            refuse(gpu, list, code);
        }
    }
    for (rk__request *r = list; r != NULL; r = r->next) {
        r->code = r->code == 2 ? 0 : r->code;
        if (r->code == 1) {
            sit(gpu, r->tenant);
            r->code = 0;
        }
    }
    if (launch_all(gpu) < 0) {
        rk__gpu_lose(gpu, "%s", rk_errdetail());
    }
}
