/*
 * kernel.c -- runs kernels: a thread for each thread of each block, blocks on multiprocessors that
 * have room for so many threads, blocks and bytes of shared memory, and the rest of the grid later.
 *
 * Threads: a stream's worker runs a grid (fc_kernel_run); the kernel's threads call in through
 * fc_standin_calls. Blocks never move and are never taken off: a grid that is too large and whose
 * blocks wait for each other waits for ever, as on a GPU. A kernel's thread ends where it returns, and
 * the thread of ours waits for another one to run; or, once its context is dead, it ends inside its
 * next call, and the thread of ours with it (thread_died, a key's destructor). The pool's lock is
 * taken alone.
 */
#include "driver.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { THREAD_STACK = 1 << 20 };
#else
enum { THREAD_STACK = 256 << 10 };
#endif

enum {
    SHARED_ALIGN = 64,
    SHARED_FILL = 0xa5,
    SLEEP_MAX = 1000000,
    SLEEP_MIN = 1000,
    DEAD_TURN = 1 << 16
};

static const int64_t clock_offset = INT64_C(-1000) * 1000000000;

/* Atomics. Who makes `missing` zero opens the barrier; who leaves for good counts as there, and less
 * is expected from the next turn on. `turn` is a futex. */
struct standin_barrier {
    unsigned expected, missing, turn;
};

struct grid {
    const fc_launch *launch;
    unsigned blocks; /* that have begun and not ended */
};

struct block {
    struct block *next;
    fc_context *context;
    struct grid *grid;
    int sm;
    unsigned alive; /* threads */
    struct standin_barrier barrier;
    void *shared;
    struct lane *lanes;
};

struct lane {
    struct standin_thread self; /* first: the stand-in's calls get a pointer to it */
    struct block *block;
};

/* A thread of ours, and what it runs now. */
struct runner {
    struct runner *next;
    struct lane *lane;
    pthread_cond_t woken;
};

static struct runner *idle;
static __thread struct standin_thread *self_now FC_TLS;
static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;

static struct sm {
    unsigned threads, blocks;
    size_t shared;
} processors[FC_DEVICES][FC_SMS];

static struct block *blocks; /* that have begun and not ended */
static pthread_key_t runner_key;
static cpu_set_t cpus;

/* ---- limits ---- */

void fc_kernel_limits(int *sms, int *per_sm)
{
    long count = fc_fault(FC_sms), most = fc_fault(FC_blocks);
    count = count < 1 ? 1 : count > FC_SMS ? FC_SMS : count;
    *per_sm = FC_BLOCKS_PER_SM;
    if (most > 0) { /* so many in all */
        count = most < count ? most : count;
        *per_sm = most / count < FC_BLOCKS_PER_SM ? (int)(most / count) : FC_BLOCKS_PER_SM;
    }
    *sms = (int)count;
}

unsigned fc_kernel_fits(unsigned threads, size_t shared)
{
    int sms, per_sm;
    fc_kernel_limits(&sms, &per_sm);
    unsigned by_threads = threads > 0 ? FC_THREADS_PER_SM / threads : 0;
    unsigned by_shared = (unsigned)(FC_SHARED_PER_SM / (shared + FC_SHARED_RESERVED));
    unsigned least = by_threads < by_shared ? by_threads : by_shared;
    return least < (unsigned)per_sm ? least : (unsigned)per_sm;
}

static int find_room(CUdevice device, const fc_launch *l)
{
    int sms, per_sm;
    fc_kernel_limits(&sms, &per_sm);
    for (int i = 0; i < sms; i++) {
        const struct sm *p = &processors[device][i];
        if (p->blocks < (unsigned)per_sm && p->threads + l->threads <= FC_THREADS_PER_SM &&
            p->shared + l->shared + FC_SHARED_RESERVED <= FC_SHARED_PER_SM) {
            return i;
        }
    }
    return -1;
}

static void occupy(struct block *b, int sign)
{
    struct sm *p = &processors[b->context->device][b->sm];
    const fc_launch *l = b->grid->launch;
    p->blocks += (unsigned)sign;
    p->threads += (unsigned)sign * l->threads;
    p->shared += (size_t)sign * (l->shared + FC_SHARED_RESERVED);
}

/* ---- what kernels call ---- */

static void end_or_freeze(struct lane *lane)
{
    const fc_context *c = lane->block->context;
    if (fc_fault(FC_stall) && !fc_dead(c)) {
        fc_lock();
        while (fc_fault(FC_stall) && !fc_dead(c)) {
            fc_wait();
        }
        fc_unlock();
    }
    if (fc_dead(c)) {
        pthread_exit(NULL);
    }
}

static void open_barrier(struct standin_barrier *b, unsigned step)
{
    __atomic_add_fetch(&b->turn, step, __ATOMIC_RELEASE); /* pairs with call_sync */
    syscall(SYS_futex, &b->turn, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Whether this was the last one, which lets the others go on. What each did before is seen by all
 * after: the decrements are one chain, and the turn follows them. */
static bool arrive(struct standin_barrier *b)
{
    if (__atomic_sub_fetch(&b->missing, 1, __ATOMIC_ACQ_REL) != 0) {
        return false;
    }
    unsigned expected = __atomic_load_n(&b->expected, __ATOMIC_RELAXED);
    __atomic_store_n(&b->missing, expected, __ATOMIC_RELAXED);
    open_barrier(b, 1);
    return true;
}

static void call_sync(struct standin_thread *self)
{
    struct lane *lane = (struct lane *)self;
    struct standin_barrier *b = self->barrier;
    end_or_freeze(lane);
    if (self->threads == 1) {
        return;
    }
    /* Acquire, here and below: pairs with open_barrier in the thread that comes last, and in
     * fc_kernel_wake. A turn that is of after the end shows that it is the end. */
    unsigned turn = __atomic_load_n(&b->turn, __ATOMIC_ACQUIRE);
    if (!arrive(b)) {
        while (__atomic_load_n(&b->turn, __ATOMIC_ACQUIRE) == turn &&
               !fc_dead(lane->block->context)) {
            syscall(SYS_futex, &b->turn, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
        }
    }
    end_or_freeze(lane);
}

static void call_sleep(struct standin_thread *self, unsigned ns)
{
    end_or_freeze((struct lane *)self);
    if (ns < SLEEP_MIN) {
        sched_yield();
    } else {
        struct timespec time = {.tv_nsec = ns < SLEEP_MAX ? ns : SLEEP_MAX};
        clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
    }
    end_or_freeze((struct lane *)self);
}

static int64_t call_clock(struct standin_thread *self)
{
    end_or_freeze((struct lane *)self);
    return fc_now() + clock_offset;
}

static struct standin_thread *call_self(void)
{
    return self_now;
}

const struct standin_calls fc_standin_calls = {call_self, call_sync, call_sleep, call_clock};

/* ---- threads and blocks ---- */

int fc_thread_start(size_t stack, void *(*run)(void *), void *arg)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setaffinity_np(&attributes, sizeof cpus, &cpus);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, &attributes, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error;
}

static void block_free(struct block *b)
{
    free(b->shared);
    free(b->lanes);
    free(b);
}

static void block_ended(struct block *b)
{
    struct block **at = &blocks;
    while (*at != b) {
        at = &(*at)->next;
    }
    *at = b->next;
    occupy(b, -1);
    b->grid->blocks--;
    block_free(b);
    fc_broadcast();
}

/* Those that are left need not wait for it at a barrier. */
static void leave_barrier(struct standin_barrier *b)
{
    __atomic_sub_fetch(&b->expected, 1, __ATOMIC_RELAXED);
    arrive(b);
}

static void lane_ended(struct lane *lane)
{
    struct block *b = lane->block;
    fc_context *c = b->context;
    leave_barrier(&b->barrier);
    fc_lock();
    c->live--;
    if (--b->alive == 0) {
        block_ended(b);
    }
    fc_unlock();
}

static void thread_died(void *arg)
{
    struct runner *me = arg;
    lane_ended(me->lane);
    pthread_cond_destroy(&me->woken);
    free(me);
}

static void wait_for_lane(struct runner *me)
{
    pthread_mutex_lock(&idle_lock);
    me->lane = NULL;
    me->next = idle;
    idle = me;
    while (me->lane == NULL) {
        pthread_cond_wait(&me->woken, &idle_lock);
    }
    pthread_mutex_unlock(&idle_lock);
}

static void *run_lanes(void *arg)
{
    struct runner *me = arg;
    pthread_setspecific(runner_key, me);
    for (;;) {
        struct lane *lane = me->lane;
        const fc_launch *l = lane->block->grid->launch;
        self_now = &lane->self;
        l->function->entry(l->argument);
        lane_ended(lane);
        wait_for_lane(me);
    }
    return NULL;
}

/* In a thread that has nothing to do, or in a new one. */
static int lane_start(struct lane *lane)
{
    pthread_mutex_lock(&idle_lock);
    struct runner *r = idle;
    if (r != NULL) {
        idle = r->next;
        r->lane = lane;
        pthread_cond_signal(&r->woken);
    }
    pthread_mutex_unlock(&idle_lock);
    if (r != NULL) {
        return 0;
    }
    r = calloc(1, sizeof *r);
    if (r == NULL) {
        return ENOMEM;
    }
    pthread_cond_init(&r->woken, NULL);
    r->lane = lane;
    return fc_thread_start(THREAD_STACK, run_lanes, r);
}

/* Kernels run where the process may, also when the thread that launches them is bound to a core. */
__attribute__((constructor)) static void begin(void)
{
    pthread_key_create(&runner_key, thread_died);
    sched_getaffinity(getpid(), sizeof cpus, &cpus);
}

static struct block *block_make(fc_context *c, struct grid *grid, unsigned index, int sm)
{
    const fc_launch *l = grid->launch;
    struct block *b = calloc(1, sizeof *b);
    struct lane *lanes = calloc(l->threads, sizeof *lanes);
    void *shared = NULL;
    if (b == NULL || lanes == NULL || posix_memalign(&shared, SHARED_ALIGN, l->shared) != 0) {
        fc_fatal("no memory for a block");
    }
    memset(shared, SHARED_FILL, l->shared);
    *b = (struct block){.context = c,
                        .grid = grid,
                        .sm = sm,
                        .alive = l->threads,
                        .shared = shared,
                        .lanes = lanes};
    b->barrier = (struct standin_barrier){.expected = l->threads, .missing = l->threads};
    for (unsigned i = 0; i < l->threads; i++) {
        lanes[i].block = b;
        lanes[i].self = (struct standin_thread){.thread = i,
                                                .threads = l->threads,
                                                .block = index,
                                                .blocks = l->blocks,
                                                .shared = shared,
                                                .shared_size = l->shared,
                                                .barrier = &b->barrier};
    }
    return b;
}

static void block_start(fc_context *c, struct grid *grid, unsigned index, int sm)
{
    unsigned threads = grid->launch->threads;
    struct block *b = block_make(c, grid, index, sm);
    struct lane *lanes = b->lanes;
    b->next = blocks;
    blocks = b;
    grid->blocks++;
    c->live += threads;
    occupy(b, 1);
    fc_unlock(); /* b is not touched any more: its threads may all have ended */
    for (unsigned i = 0; i < threads; i++) {
        if (lane_start(&lanes[i]) != 0) {
            fc_fatal("no thread for a kernel: thread %u of %u", i, threads);
        }
    }
    fc_lock();
}

void fc_kernel_wake(fc_context *context)
{
    for (struct block *b = blocks; b != NULL; b = b->next) {
        if (b->context == context) {
            open_barrier(&b->barrier, DEAD_TURN);
        }
    }
}

static void hit_by_fault(fc_context *c)
{
    CUresult error = (CUresult)fc_fault(FC_sticky);
    if (error != CUDA_SUCCESS) {
        fc_fault_reset(FC_sticky);
        fc_kill(c, error);
    }
}

void fc_kernel_run(fc_context *c, const fc_launch *launch)
{
    struct grid grid = {.launch = launch};
    while (fc_fault(FC_never_start) && c->dead == 0) {
        fc_wait();
    }
    for (unsigned i = 0; i < launch->blocks && c->dead == 0; i++) {
        int sm;
        while ((sm = find_room(c->device, launch)) < 0 && c->dead == 0) {
            fc_wait();
        }
        if (c->dead == 0) {
            block_start(c, &grid, i, sm);
            hit_by_fault(c);
        }
    }
    while (grid.blocks > 0) {
        fc_wait();
    }
    fc_running_remove(c);
}

/* ---- launching ---- */

static CUresult check_shape(const fc_function *f, const unsigned grid[3], const unsigned block[3],
                            unsigned shared, fc_launch *out)
{
    uint64_t blocks_all = (uint64_t)grid[0] * grid[1] * grid[2];
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    if (blocks_all == 0 || blocks_all > 0x7fffffff || threads == 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (threads > FC_THREADS_PER_BLOCK || shared > (unsigned)f->shared_max) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    out->blocks = (unsigned)blocks_all;
    out->threads = (unsigned)threads;
    out->shared = shared;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                        unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                        CUstream stream, void **parameters, void **extra)
{
    fc_stream *s;
    const unsigned grid[] = {grid_x, grid_y, grid_z}, block[] = {block_x, block_y, block_z};
    CUresult result = fc_enter_stream(__func__, stream, &s);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_function *f = fc_object_find(function, FC_FUNCTION);
    if (f == NULL || f->object.context != s->object.context) {
        fc_misuse("cuLaunchKernel: no such function in this context");
        return fc_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    fc_op op = {.kind = FC_LAUNCH, .launch = {.function = f}};
    result = check_shape(f, grid, block, shared, &op.launch);
    if (result != CUDA_SUCCESS || parameters == NULL || parameters[0] == NULL || extra != NULL) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (!f->loaded && fc_lazy() && fc_running_on(s->object.context->device) > 0 &&
        !fc_fault(FC_allow)) {
        fc_fatal("cuLaunchKernel of a function that is not loaded yet is forbidden while a kernel "
                 "runs");
    }
    f->loaded = true;
    memcpy(&op.launch.argument, parameters[0], sizeof op.launch.argument);
    return fc_leave(fc_stream_push(s, &op));
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, CUfunction function, int threads,
                                                     size_t shared)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (out == NULL || threads <= 0 || fc_object_find(function, FC_FUNCTION) == NULL) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *out = threads > FC_THREADS_PER_BLOCK || shared > FC_SHARED_OPTIN
               ? 0
               : (int)fc_kernel_fits((unsigned)threads, shared);
    return fc_leave(CUDA_SUCCESS);
}
