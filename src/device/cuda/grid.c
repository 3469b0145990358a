/*
 * grid.c -- grids of seats: launching them, holding them at a border, changing the image.
 *
 * Threads: the driver thread only, but for the seats themselves, which are under the lock.
 *
 * A swap. Every block of an instance is asked to hold; it finishes its message, says so (rk_wire
 * .held, release) and waits. When all have, they are told to leave, and the grids end; who has not
 * by the deadline is named, and the others are told to go on. So a handler that hangs costs the
 * newcomer its activation, and nobody else anything. Blocks keep what they know in device memory and
 * mail stays in its rings, so the next grid goes on where this one ended. While no grid runs, the
 * host may write the device's words: the launch orders them.
 *
 * Seats. The host writes block and home, then turn with release; the block that waits there acquires
 * turn. A seat is given away again when `left` has become `turn` (acquire, by the bridge).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "device/cuda/driver.h"
#include "device/cuda/gpu.h"

enum {
    BOUNDED_RUN = 50000000, /* ns a grid lives in bounded mode */
    BOUNDED_IDLE = 2000000, /* and without work */
    BATCH_RUN = 50000000,   /* ns a batch lasts at most */
    LOOK_PAUSE = 20000,     /* ns between looks at blocks that are to hold */
    PINGS = 16              /* of the self-test; the quickest tells the clock */
};

static void pause_for(int64_t ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE); /* pairs with the device's release */
}

static void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE); /* pairs with the device's acquire */
}

bool rk__grid_any_running(const rk__gpu *gpu)
{
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        if (gpu->classes[i].running) {
            return true;
        }
    }
    return false;
}

/* ---- ends and faults ------------------------------------------------------------------------ */

/* What an instance is doing. It is noted under the lock and told without it: names are under the
 * registry's, inside which a look at an actor takes the lock of its kernel, inside which a command
 * takes ours. */
typedef struct culprit {
    rk_pid pid;
    uint32_t busy; /* 0: nothing */
    char what[96];
} culprit;

static culprit note_culprit(const rk__kernel_actor *k, uint32_t block)
{
    culprit c = {.pid = k->pid};
    /* Pairs with the stores in loop_busy and loop_finish. */
    c.busy = (uint32_t)__atomic_load_n(&k->blocks[block].wire->activity, __ATOMIC_ACQUIRE);
    rk__kernel_busy_text(k, c.busy, c.what);
    return c;
}

/* What the tenants were doing, since a fault does not say whose it was. */
static void lose_by_fault(rk__gpu *gpu, CUresult result)
{
    enum { NAMED = 3 };
    culprit found[NAMED];
    char who[RK_PID_TEXT];
    int count = 0;
    rk__strbuf text = RK__STRBUF_INIT;
    rk__cuda_fail(result, "%s: a fault ended the resident kernels", gpu->name);
    rk__strbuf_adds(&text, rk_errdetail());
    pthread_mutex_lock(&gpu->lock);
    for (const rk__tenant *t = gpu->tenants; t != NULL && count < NAMED; t = t->next) {
        found[count] = note_culprit(t->kernel, 0);
        count += found[count].busy != 0;
    }
    pthread_mutex_unlock(&gpu->lock);
    for (int i = 0; i < count; i++) {
        rk__strbuf_addf(&text, "%s %s of %s", i > 0 ? "," : "; what ran then:", found[i].what,
                        rk_pid_format(found[i].pid, who));
    }
    rk__gpu_lose(gpu, "%s", text.bytes != NULL ? text.bytes : "a device fault");
    rk__strbuf_free(&text);
}

/* In persistent mode a grid ends only when it is told to. */
static bool ended(rk__gpu *gpu, rk__gpu_class *c)
{
    CUresult result = rk__cuda->EventQuery(c->ended);
    if (result == CUDA_ERROR_NOT_READY) {
        return false;
    }
    c->running = false;
    c->pinged = 0;
    if (result != CUDA_SUCCESS) {
        lose_by_fault(gpu, result);
    }
    return true;
}

bool rk__grid_look(rk__gpu *gpu)
{
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        rk__gpu_class *c = &gpu->classes[i];
        if (c->running && ended(gpu, c) && gpu->mode == RK_MODE_PERSISTENT) {
            rk__gpu_lose(gpu, "%s: the resident kernel of blocks of %u threads ended by itself",
                         gpu->name, c->threads);
        }
    }
    return rk__gpu_lost(gpu) == NULL;
}

/* ---- launching ------------------------------------------------------------------------------ */

/* Of every definition at this block size. */
static uint32_t shared_bytes(rk__gpu *gpu, const rk__gpu_class *c)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < gpu->resident_count; i++) {
        const rk__resident *r = &gpu->residents[i];
        if (r->module != NULL && r->threads == c->threads && r->module->entry->shared_size > most) {
            most = r->module->entry->shared_size;
        }
    }
    return RK_LOOP_SHARED + most;
}

/* Before the grid runs, the device's words of its blocks are ours. */
static void prepare_seats(rk__gpu *gpu, rk__gpu_class *c)
{
    pthread_mutex_lock(&gpu->lock);
    for (uint32_t i = 0; i <= c->capacity; i++) {
        store(&c->seats[i].hold, RK_HOLD_NONE);
    }
    for (rk__tenant *t = gpu->tenants; t != NULL; t = t->next) {
        for (uint32_t i = 0; i < t->kernel->grid && &gpu->classes[t->class] == c; i++) {
            store(&t->kernel->blocks[i].wire->hold, RK_HOLD_NONE);
            store(&t->kernel->blocks[i].wire->held, RK_HOLD_NONE);
        }
    }
    pthread_mutex_unlock(&gpu->lock);
}

int rk__grid_launch(rk__gpu *gpu, uint32_t class)
{
    rk__gpu_class *c = &gpu->classes[class];
    bool lasts = gpu->mode == RK_MODE_PERSISTENT;
    c->grid->seats = c->seats;
    c->grid->run = lasts ? INT64_MAX : gpu->mode == RK_MODE_BOUNDED ? BOUNDED_RUN : BATCH_RUN;
    c->grid->idle = lasts ? INT64_MAX : gpu->mode == RK_MODE_BOUNDED ? BOUNDED_IDLE : 0;
    void *parameter = c->grid, *parameters[] = {&parameter};
    prepare_seats(gpu, c);
    CUresult result = rk__cuda->LaunchKernel(c->function, c->capacity + 1, 1, 1, c->threads, 1, 1,
                                             shared_bytes(gpu, c), c->stream, parameters, NULL);
    result = result != CUDA_SUCCESS ? result : rk__cuda->EventRecord(c->ended, c->stream);
    if (result != CUDA_SUCCESS) {
        return rk__cuda_fail(result, "%s: launching %u blocks of %u threads", gpu->name,
                             c->capacity + 1, c->threads);
    }
    c->running = true;
    return 0;
}

/* ---- bounded and batch mode ----------------------------------------------------------------- */

/* Whether a block has something to do that it has not done. */
static bool has_work(const rk__gpu *gpu, const rk__tenant *t, uint32_t i)
{
    const rk_wire *wire = t->kernel->blocks[i].wire;
    uint32_t command = load(&wire->command), status = load(&wire->status);
    int64_t now = rk__now() - __atomic_load_n(&gpu->clock_offset, __ATOMIC_RELAXED);
    if (t->left[i]) {
        return false;
    }
    switch (command) {
    case RK_COMMAND_RUN:
        return status != RK_STATUS_RUNNING || rk__channel_under_way(&t->kernel->channel) > 0 ||
               (load(&wire->held) == RK_HOLD_LEAVE && wire->due <= now);
    case RK_COMMAND_PAUSE:
        return status != RK_STATUS_PAUSED && status != RK_STATUS_NEW;
    default:
        return command >= RK_COMMAND_STOP && status < RK_STATUS_STOPPED;
    }
}

static bool class_has_work(rk__gpu *gpu, uint32_t class)
{
    bool found = false;
    pthread_mutex_lock(&gpu->lock);
    for (const rk__tenant *t = gpu->tenants; t != NULL && !found; t = t->next) {
        for (uint32_t i = 0; i < t->kernel->grid && t->class == class && !found; i++) {
            found = has_work(gpu, t, i);
        }
    }
    pthread_mutex_unlock(&gpu->lock);
    return found;
}

bool rk__grid_relaunch(rk__gpu *gpu)
{
    bool busy = false;
    for (uint32_t i = 0; i < RK__CUDA_CLASSES; i++) {
        rk__gpu_class *c = &gpu->classes[i];
        if (c->threads == 0 || c->function == NULL || !class_has_work(gpu, i)) {
            continue;
        }
        busy = true;
        if (!c->running && rk__grid_launch(gpu, i) < 0) {
            rk__gpu_lose(gpu, "%s", rk_errdetail());
        }
    }
    return busy;
}

/* ---- holding and leaving -------------------------------------------------------------------- */

static void hold_all(rk__gpu *gpu, uint32_t hold)
{
    pthread_mutex_lock(&gpu->lock);
    for (rk__tenant *t = gpu->tenants; t != NULL; t = t->next) {
        for (uint32_t i = 0; i < t->kernel->grid; i++) {
            store(&t->kernel->blocks[i].wire->hold, hold);
        }
    }
    for (int i = 0; i < RK__CUDA_CLASSES && hold != RK_HOLD_WAIT; i++) {
        rk__gpu_class *c = &gpu->classes[i];
        for (uint32_t s = 0; c->seats != NULL && s <= c->capacity; s++) {
            store(&c->seats[s].hold, hold);
        }
    }
    pthread_mutex_unlock(&gpu->lock);
}

/* A tenant that does not hold yet; its block in *block. Under the lock. */
static rk__tenant *straggler(rk__gpu *gpu, uint32_t *block)
{
    for (rk__tenant *t = gpu->tenants; t != NULL; t = t->next) {
        const rk__gpu_class *c = &gpu->classes[t->class];
        for (uint32_t i = 0; i < t->kernel->grid && c->running; i++) {
            const rk_seat *seat = &c->seats[t->seats[i]];
            if (!t->left[i] && load(&seat->left) != seat->turn &&
                load(&t->kernel->blocks[i].wire->held) == RK_HOLD_NONE) {
                *block = i;
                return t;
            }
        }
    }
    return NULL;
}

static int name_straggler(const rk__gpu *gpu, const culprit *late)
{
    char who[RK_PID_TEXT];
    return rk__fail(RK_ETIMEOUT,
                    "the image cannot be changed: %s reached no message border within %.3g s, %s "
                    "still runs; the others go on",
                    rk_pid_format(late->pid, who), (double)gpu->timeout / 1e9, late->what);
}

/* Until every block holds; RK_ETIMEOUT, RK_EDEVICE. */
static int await_hold(rk__gpu *gpu)
{
    int64_t deadline = rk__now() + gpu->timeout;
    for (;;) {
        uint32_t block = 0;
        pthread_mutex_lock(&gpu->lock);
        rk__tenant *t = straggler(gpu, &block);
        bool late = t != NULL && rk__now() > deadline;
        culprit who = late ? note_culprit(t->kernel, block) : (culprit){0};
        pthread_mutex_unlock(&gpu->lock);
        if (t == NULL || late) {
            return late ? name_straggler(gpu, &who) : 0;
        }
        if (!rk__grid_look(gpu)) {
            return rk__fail(RK_EDEVICE, "%s", rk__gpu_lost(gpu));
        }
        pause_for(LOOK_PAUSE);
    }
}

static int await_end(rk__gpu *gpu)
{
    int64_t deadline = rk__now() + gpu->timeout;
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        rk__gpu_class *c = &gpu->classes[i];
        while (c->running && !ended(gpu, c)) {
            if (rk__now() > deadline) {
                rk__gpu_lose(gpu, "%s: a grid does not end although all its blocks were told to",
                             gpu->name);
                return rk__fail(RK_EDEVICE, "%s", rk__gpu_lost(gpu));
            }
            pause_for(LOOK_PAUSE);
        }
    }
    return rk__gpu_lost(gpu) == NULL ? 0 : rk__fail(RK_EDEVICE, "%s", rk__gpu_lost(gpu));
}

int rk__grid_quiesce(rk__gpu *gpu)
{
    if (!rk__grid_any_running(gpu)) {
        return 0;
    }
    hold_all(gpu, RK_HOLD_WAIT);
    int code = await_hold(gpu);
    hold_all(gpu, code < 0 ? RK_HOLD_NONE : RK_HOLD_LEAVE);
    return code < 0 ? code : await_end(gpu);
}

/* ---- images and seats ----------------------------------------------------------------------- */

static int load_module(rk__gpu *gpu, const rk__cuda_image *image, CUmodule *out)
{
    CUresult result;
    if (image->bytes == NULL) {
        return rk__cuda_image_load_parts(image, out);
    }
    result = rk__cuda->ModuleLoadDataEx(out, image->bytes, 0, NULL, NULL);
    return result == CUDA_SUCCESS ? 0 : rk__cuda_fail(result, "%s: loading an image", gpu->name);
}

/* With eager loading this is when code comes to the device; asked for by name, so that no kernel is
 * left for a first launch. */
static int find_functions(rk__gpu *gpu, CUmodule module, CUfunction found[RK__CUDA_CLASSES])
{
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        char name[32];
        snprintf(name, sizeof name, "rk_resident_%d", i);
        CUresult result = rk__cuda->ModuleGetFunction(&found[i], module, name);
        if (result == CUDA_ERROR_NOT_FOUND) {
            found[i] = NULL;
        } else if (result != CUDA_SUCCESS) {
            return rk__cuda_fail(result, "%s: looking for %s in an image", gpu->name, name);
        } else if (rk__cuda->FuncLoad != NULL) {
            rk__cuda->FuncLoad(found[i]);
        }
    }
    return found[0] != NULL ? 0
                            : rk__fail(RK_EDEVICE, "%s: the image has no rk_resident_0", gpu->name);
}

/* The driver would provide for a larger stack when such a kernel is launched, and wait for all others
 * to end before that: which they do not. */
static int provide_stack(rk__gpu *gpu, CUfunction found[RK__CUDA_CLASSES])
{
    enum { STEP = 512, USUAL = 1024 }; /* bytes */
    size_t most = gpu->stack > 0 ? gpu->stack : USUAL;
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        int size = 0;
        if (found[i] != NULL &&
            rk__cuda->FuncGetAttribute(&size, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, found[i]) ==
                CUDA_SUCCESS &&
            (size_t)size > most) {
            most = ((size_t)size + STEP - 1) / STEP * STEP;
        }
    }
    if (most > gpu->stack) {
        CUresult result = rk__cuda->CtxSetLimit(CU_LIMIT_STACK_SIZE, most);
        if (result != CUDA_SUCCESS) {
            return rk__cuda_fail(result, "%s: a stack of %zu bytes per thread", gpu->name, most);
        }
        gpu->stack = most;
    }
    return 0;
}

static int load_from(rk__gpu *gpu, const rk__cuda_image *image)
{
    CUfunction found[RK__CUDA_CLASSES];
    CUmodule module = NULL;
    int code = load_module(gpu, image, &module);
    code = code < 0 ? code : find_functions(gpu, module, found);
    code = code < 0 ? code : provide_stack(gpu, found);
    if (code < 0) {
        if (module != NULL) {
            rk__cuda->ModuleUnload(module);
        }
        return code;
    }
    gpu->module = module;
    for (int i = 0; i < RK__CUDA_CLASSES; i++) {
        gpu->classes[i].function = found[i];
    }
    return 0;
}

int rk__grid_load(rk__gpu *gpu, rk__cuda_image *image)
{
    char text[512];
    if (gpu->module != NULL) {
        rk__cuda->ModuleUnload(gpu->module);
        gpu->module = NULL;
    }
    int code = load_from(gpu, image);
    if (code == 0) {
        rk__cuda_image_free(&gpu->image);
        gpu->image = *image;
        return 0;
    }
    snprintf(text, sizeof text, "%s", rk_errdetail());
    rk__cuda_image_free(image);
    if (gpu->image.size > 0 || gpu->image.part_count > 0) {
        if (load_from(gpu, &gpu->image) < 0) {
            rk__gpu_lose(gpu, "neither a new image nor the old one can be loaded: %s", text);
        }
    }
    return rk__fail(code, "%s", text);
}

/* Those who sit move up, so that fewer seats may be enough. Under the lock. */
static void move_seats(const rk__gpu_class *c, rk_seat *seats, rk__tenant **owners)
{
    uint32_t next = 1;
    seats[0] = c->seats[0];
    for (uint32_t s = 1; s <= c->capacity; s++) {
        rk__tenant *t = c->owners[s];
        for (uint32_t i = 0; t != NULL && i < t->kernel->grid; i++) {
            if (!t->left[i] && t->seats[i] == s) {
                seats[next] = c->seats[s];
                owners[next] = t;
                t->seats[i] = next++;
                break;
            }
        }
    }
}

int rk__grid_seats(rk__gpu *gpu, uint32_t class, uint32_t capacity)
{
    rk__gpu_class *c = &gpu->classes[class];
    size_t size = (capacity + 1) * sizeof *c->seats;
    rk__tenant **owners = calloc(capacity + 1, sizeof *owners);
    pthread_mutex_lock(&gpu->lock);
    if (gpu->lost != NULL) { /* owners may be gone */
        int code = rk__fail(RK_EDEVICE, "%s is lost: %s", gpu->name, gpu->lost);
        pthread_mutex_unlock(&gpu->lock);
        free(owners);
        return code;
    }
    rk_seat *seats = (rk_seat *)(uintptr_t)rk__extents_take(&gpu->pinned, size);
    if (seats == NULL || owners == NULL) {
        rk__extents_give(&gpu->pinned, (uint64_t)(uintptr_t)seats);
        pthread_mutex_unlock(&gpu->lock);
        free(owners);
        return rk__fail(RK_ENOMEM,
                        "%s: no pinned memory for %u seats: open the runtime with a "
                        "larger pinned_memory",
                        gpu->name, capacity);
    }
    memset(seats, 0, size);
    if (c->seats != NULL) {
        move_seats(c, seats, owners);
        rk__extents_give(&gpu->pinned, (uint64_t)(uintptr_t)c->seats);
        free(c->owners);
    }
    c->seats = seats;
    c->owners = owners;
    c->capacity = capacity;
    pthread_mutex_unlock(&gpu->lock);
    return 0;
}

/* ---- pings ---------------------------------------------------------------------------------- */

static void write_clock(rk__gpu *gpu, int64_t offset)
{
    __atomic_store_n(&gpu->clock_offset, offset, __ATOMIC_RELAXED);
    pthread_mutex_lock(&gpu->lock);
    for (rk__tenant *t = gpu->tenants; t != NULL; t = t->next) {
        for (uint32_t i = 0; i < t->kernel->grid; i++) {
            __atomic_store_n(&t->kernel->blocks[i].wire->clock_offset, offset, __ATOMIC_RELAXED);
        }
    }
    pthread_mutex_unlock(&gpu->lock);
}

/* The device's clock was read between sending and seeing the answer, so the offset lies between two
 * bounds. What is known stays while it does not contradict them: clocks drift slowly, answers come
 * with less exact times. */
static void set_clock(rk__gpu *gpu, int64_t sent, int64_t seen, int64_t clock)
{
    int64_t low = sent - clock, high = seen - clock;
    gpu->clock_target = gpu->clock_target < low    ? low
                        : gpu->clock_target > high ? high
                                                   : gpu->clock_target;
    if (gpu->clock_target > gpu->clock_offset) {
        write_clock(gpu, gpu->clock_target);
    }
}

/* Back only in steps that are shorter than a look at the clock takes, so that rk_now never goes
 * back: 20 us a second. */
void rk__grid_slew(rk__gpu *gpu)
{
    enum { STEP = 100 }; /* ns */
    int64_t ahead = gpu->clock_offset - gpu->clock_target;
    if (ahead > 0) {
        write_clock(gpu, gpu->clock_offset - (ahead < STEP ? ahead : STEP));
    }
}

/* Waits a moment for the answer, so that the clock is exact; else the next heartbeat looks again. */
static void ping(rk__gpu *gpu, rk__gpu_class *c)
{
    enum { MOMENT = 100000 }; /* ns */
    rk_seat *seat = &c->seats[0];
    int64_t sent = rk__now(), seen = sent;
    c->pinged = sent;
    store(&seat->ping, ++c->ping);
    while (load(&seat->pong) != c->ping && seen - sent < MOMENT) {
        seen = rk__now();
    }
    if (load(&seat->pong) == c->ping) {
        c->pinged = 0;
        set_clock(gpu, sent, rk__now(), seat->clock);
    }
}

void rk__grid_heartbeat(rk__gpu *gpu)
{
    for (int i = 0; i < RK__CUDA_CLASSES && gpu->mode == RK_MODE_PERSISTENT; i++) {
        rk__gpu_class *c = &gpu->classes[i];
        if (!c->running) {
            continue;
        }
        if (c->pinged == 0 || load(&c->seats[0].pong) == c->ping) {
            ping(gpu, c);
        } else if (rk__now() - c->pinged > gpu->timeout) {
            rk__gpu_lose(gpu, "%s: the resident kernel has not answered a ping for %.3g s",
                         gpu->name, (double)(rk__now() - c->pinged) / 1e9);
            return;
        }
    }
}

/* ---- the self-test -------------------------------------------------------------------------- */

static int silent(const rk__gpu *gpu)
{
    return rk__fail(RK_EDEVICE,
                    "%s: self-test: a resident kernel did not answer a ping within %.3g s (host "
                    "and device do not see each other's writes, or the GPU is busy)",
                    gpu->name, (double)gpu->timeout / 1e9);
}

/* Until the ping is answered; a grid that has ended meanwhile, as it may in the other modes, is
 * launched again. */
static int await_pong(rk__gpu *gpu, rk__gpu_class *c, int64_t deadline)
{
    rk_seat *seat = &c->seats[0];
    int code = 0;
    while (load(&seat->pong) != c->ping && code == 0) {
        if (!c->running || ended(gpu, c)) {
            code = rk__grid_launch(gpu, 0);
        }
        if (rk__gpu_lost(gpu) != NULL) {
            code = rk__fail(RK_EDEVICE, "%s", rk__gpu_lost(gpu));
        } else if (rk__now() > deadline) {
            code = silent(gpu);
        }
    }
    return code;
}

/* Several pings; the quickest tells the clock best. */
static int exchange(rk__gpu *gpu, rk__gpu_class *c)
{
    int64_t best = INT64_MAX, deadline = rk__now() + gpu->timeout;
    rk_seat *seat = &c->seats[0];
    int code = 0;
    for (int i = 0; i < PINGS && code == 0; i++) {
        int64_t sent = rk__now();
        store(&seat->ping, ++c->ping);
        code = await_pong(gpu, c, deadline);
        int64_t took = rk__now() - sent;
        if (code == 0 && took < best) {
            best = took;
            gpu->clock_target = sent + took / 2 - seat->clock;
        }
    }
    write_clock(gpu, gpu->clock_target);
    return code;
}

int rk__grid_self_test(rk__gpu *gpu)
{
    rk__gpu_class *c = &gpu->classes[0];
    int code = rk__grid_seats(gpu, 0, 1);
    c->threads = gpu->warp;
    code = code < 0 ? code : exchange(gpu, c);
    if (code < 0) {
        hold_all(gpu, RK_HOLD_LEAVE); /* should it start after all */
        return code;
    }
    code = rk__grid_quiesce(gpu);
    c->threads = 0;
    return code;
}
