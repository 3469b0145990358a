/*
 * standin.h -- what a kernel that the stand-in runs may call in place of CUDA's built-in names. Only
 * kernels compiled by the stand-in's NVRTC include it (RK_STANDIN is defined there).
 *
 * The weak name is one per image, however many objects it is linked from; the stand-in sets it when
 * it loads the image. The thread-local pointer behind `self` is the stand-in's own: an image that is
 * unloaded again leaves nothing behind in threads.
 */
#ifndef STANDIN_H
#define STANDIN_H

#include <stddef.h>
#include <stdint.h>

struct standin_barrier;

struct standin_thread {
    unsigned thread, threads, block, blocks;
    void *shared; /* of the block; 64-byte aligned, full of 0xa5 at the start */
    size_t shared_size;
    struct standin_barrier *barrier;
};

struct standin_calls {
    struct standin_thread *(*self)(void);
    void (*sync)(struct standin_thread *self);
    void (*sleep)(struct standin_thread *self, unsigned ns);
    int64_t (*clock)(struct standin_thread *self);
};

#if defined(RK_STANDIN)

#define STANDIN_FN static inline __attribute__((unused))

__attribute__((weak, visibility("default"))) const struct standin_calls *standin_calls;
STANDIN_FN struct standin_thread *standin_self(void)
{
    return standin_calls->self();
}

STANDIN_FN unsigned standin_thread(void)
{
    return standin_self()->thread;
}

STANDIN_FN unsigned standin_threads(void)
{
    return standin_self()->threads;
}

STANDIN_FN unsigned standin_block(void)
{
    return standin_self()->block;
}

STANDIN_FN unsigned standin_blocks(void)
{
    return standin_self()->blocks;
}

/* Dynamic shared memory of the block. */
STANDIN_FN void *standin_shared(void)
{
    return standin_self()->shared;
}

/* __syncthreads: every thread of the block that has not ended comes here before any goes on. */
STANDIN_FN void standin_sync(void)
{
    standin_calls->sync(standin_self());
}

/* __nanosleep: up to a millisecond. */
STANDIN_FN void standin_sleep(unsigned ns)
{
    standin_calls->sleep(standin_self(), ns);
}

/* %globaltimer, in ns; it is not the host's clock. */
STANDIN_FN int64_t standin_clock(void)
{
    return standin_calls->clock(standin_self());
}

/* Says which architecture the object was compiled for. */
#if defined(STANDIN_ARCH)
__attribute__((used, section(".standin"))) static const char standin_arch[] =
    "standin-arch=" STANDIN_ARCH ";";
#endif

#endif
#endif
