/*
 * driver.c -- questions to a driver and a GPU that the design depends on: which calls wait for a
 * kernel that stays, how many such kernels run at once, what single accesses and __nanosleep cost.
 *
 * Threads: main; one more for each call that may not come back, which works alone until it has
 * stored `done`, after which main may look at what it wrote.
 */
#include "gpu.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* Seconds until a call counts as one that waits. */
enum { LIMIT_LOAD = 5, LIMIT = 2, GRIDS = 40, MEBIBYTE = 1 << 20 };

static gpu device;
static CUfunction stay_kernel, fence_kernel;
static CUstream stay_stream;
static gpu_boxes stay_boxes;

/* ---- a kernel that stays --------------------------------------------------------------------- */

static bool comes_alive(gpu_boxes boxes, int64_t patience)
{
    int64_t until = rk__now() + patience;
    struct timespec pause = {0, 100000};
    while (__atomic_load_n(&gpu_box(boxes, 0)->alive, __ATOMIC_ACQUIRE) == 0) {
        if (rk__now() > until) {
            return false;
        }
        nanosleep(&pause, NULL);
    }
    return true;
}

static void stay(void)
{
    gpu_boxes_reset(stay_boxes);
    gpu_launch(stay_kernel, 1, gpu_warp(&device), stay_stream, stay_boxes);
    if (!comes_alive(stay_boxes, 10 * INT64_C(1000000000))) {
        bench_fail("a kernel does not start");
    }
}

static void leave(void)
{
    __atomic_store_n(&gpu_box(stay_boxes, 0)->stop, 1, __ATOMIC_RELEASE);
    gpu_finish(stay_stream, "a kernel that was asked to end");
}

/* ---- calls that may wait for it -------------------------------------------------------------- */

static struct {
    CUmodule module;
    CUdeviceptr memory;
    void *host;
    CUstream stream;
    gpu_boxes boxes;
} made;

static CUresult call_load(void)
{
    return rk__cuda->ModuleLoadDataEx(&made.module, device.image, 0, NULL, NULL);
}

static CUresult call_unload(void)
{
    return rk__cuda->ModuleUnload(made.module);
}

static CUresult call_alloc(void)
{
    return rk__cuda->MemAlloc(&made.memory, 64 * (size_t)MEBIBYTE);
}

static CUresult call_free(void)
{
    return rk__cuda->MemFree(made.memory);
}

static CUresult call_host_alloc(void)
{
    return rk__cuda->MemHostAlloc(&made.host, 16 * (size_t)MEBIBYTE, CU_MEMHOSTALLOC_DEVICEMAP);
}

static CUresult call_host_free(void)
{
    return rk__cuda->MemFreeHost(made.host);
}

static CUresult call_stream(void)
{
    return rk__cuda->StreamCreateWithPriority(&made.stream, CU_STREAM_NON_BLOCKING, 0);
}

static CUresult call_stream_end(void)
{
    return rk__cuda->StreamDestroy(made.stream);
}

static CUresult call_launch(void)
{
    void *argument = made.boxes.memory, *parameters[] = {&argument};
    CUresult result =
        rk__cuda->LaunchKernel(fence_kernel, 1, 1, 1, 1, 1, 1, 0, made.stream, parameters, NULL);
    return result != CUDA_SUCCESS ? result : rk__cuda->StreamSynchronize(made.stream);
}

static CUresult call_memset(void)
{
    return rk__cuda->MemsetD8(made.memory, 0, MEBIBYTE);
}

typedef struct question {
    const char *name;
    CUresult (*call)(void);
    uint32_t done; /* atomic */
    CUresult result;
    int64_t time;
} question;

/* In this order each finds what it needs. */
static const question questions[] = {
    {"cuModuleLoadDataEx (eager)", call_load, 0, 0, 0},
    {"cuModuleUnload", call_unload, 0, 0, 0},
    {"cuMemAlloc", call_alloc, 0, 0, 0},
    {"cuMemsetD8", call_memset, 0, 0, 0},
    {"cuMemFree", call_free, 0, 0, 0},
    {"cuMemHostAlloc", call_host_alloc, 0, 0, 0},
    {"cuMemFreeHost", call_host_free, 0, 0, 0},
    {"cuStreamCreateWithPriority", call_stream, 0, 0, 0},
    {"a kernel of the loaded module, to its end", call_launch, 0, 0, 0},
    {"cuStreamDestroy", call_stream_end, 0, 0, 0},
};

static void *ask(void *arg)
{
    question *q = arg;
    gpu_must(rk__cuda->CtxSetCurrent(device.context), "cuCtxSetCurrent");
    int64_t begin = rk__now();
    q->result = q->call();
    q->time = rk__now() - begin;
    __atomic_store_n(&q->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

static bool is_done(const question *q, int64_t until)
{
    struct timespec pause = {0, 50000};
    while (__atomic_load_n(&q->done, __ATOMIC_ACQUIRE) == 0) {
        if (rk__now() > until) {
            return false;
        }
        nanosleep(&pause, NULL);
    }
    return true;
}

static void report(const question *q, bool staying, bool waited)
{
    const char *name = NULL;
    const char *beside = staying ? "does not wait for a running kernel" : "no kernel runs";
    rk__cuda->GetErrorName(q->result, &name);
    if (q->result != CUDA_SUCCESS) {
        bench_says("driver call", q->name, "%s: fails with %s after %.3f ms",
                   staying ? "while a kernel runs" : "alone", name != NULL ? name : "an error",
                   (double)q->time / 1e6);
    } else if (waited) {
        bench_says("driver call", q->name,
                   "BLOCKS while a kernel runs: came back after %.1f s, when the kernel had ended",
                   (double)q->time / 1e9);
    } else {
        bench_says("driver call", q->name, "%s: %.3f ms%s", beside, (double)q->time / 1e6,
                   bench_standin() ? " (stand-in, not a GPU)" : "");
    }
}

/* A call that has not come back when the kernel has ended ends the program: nothing can be asked
 * after it. */
static void put(const question *which, bool staying)
{
    static question asked[2 * sizeof questions / sizeof *questions]; /* outlive their threads */
    static unsigned used;
    question *q = &asked[used++];
    pthread_t thread;
    *q = *which;
    if (staying) {
        stay();
    }
    if (pthread_create(&thread, NULL, ask, q) != 0) {
        bench_fail("no thread");
    }
    int64_t limit = q->call == call_load ? LIMIT_LOAD : LIMIT;
    bool waited = !is_done(q, rk__now() + limit * 1000000000);
    if (staying) {
        leave();
    }
    if (waited && !is_done(q, rk__now() + 10 * INT64_C(1000000000))) {
        bench_says("driver call", q->name, "%s: has not come back at all",
                   staying ? "after a kernel ran" : "alone");
        bench_fail("%s does not come back", q->name);
    }
    pthread_join(thread, NULL);
    report(q, staying, waited);
}

static void ask_all(void)
{
    made.boxes = gpu_boxes_make(1);
    gpu_box(made.boxes, 0)->count = 1;
    for (int staying = 0; staying < 2; staying++) {
        for (unsigned i = 0; i < sizeof questions / sizeof *questions; i++) {
            put(&questions[i], staying == 1);
        }
    }
}

/* ---- how many grids at once ------------------------------------------------------------------ */

static void count_grids(void)
{
    CUstream streams[GRIDS];
    gpu_boxes boxes[GRIDS];
    unsigned alive = 0, launched;
    for (unsigned i = 0; i < GRIDS; i++) {
        streams[i] = gpu_stream();
        boxes[i] = gpu_boxes_make(1);
    }
    for (launched = 0; launched < GRIDS && alive == launched; launched++) {
        gpu_launch(stay_kernel, 1, gpu_warp(&device), streams[launched], boxes[launched]);
        alive += comes_alive(boxes[launched], INT64_C(1000000000));
    }
    for (unsigned i = 0; i < launched; i++) {
        __atomic_store_n(&gpu_box(boxes[i], 0)->stop, 1, __ATOMIC_RELEASE);
    }
    for (unsigned i = 0; i < launched; i++) {
        gpu_finish(streams[i], "grids that were asked to end");
    }
    bench_value("persistent grids at once", launched == alive ? "at least" : "at most", BENCH_NONE,
                alive, "grids");
}

/* ---- single accesses ------------------------------------------------------------------------- */

static double cost(const char *kernel, gpu_boxes boxes, uint32_t count)
{
    box *b = gpu_box(boxes, 0);
    b->count = count;
    for (int i = 0; i < 2; i++) { /* the first one warms up */
        gpu_launch(gpu_function(&device, kernel), 1, 1, stay_stream, boxes);
        gpu_finish(stay_stream, kernel);
    }
    return (double)b->results[0] / count;
}

static void costs(void)
{
    static const struct {
        const char *kernel, *variant;
    } kinds[] = {{"cost_fence", "fence.acq_rel.sys, nothing outstanding"},
                 {"cost_write_fence", "st.relaxed.sys to host memory, then fence.acq_rel.sys"},
                 {"cost_release", "st.release.sys to host memory, back to back"},
                 {"cost_write", "st.relaxed.sys to host memory, back to back"}};
    gpu_boxes boxes = gpu_boxes_make(1);
    box *b = gpu_box(boxes, 0);
    uint32_t count = (uint32_t)bench_once(2000, 20);
    b->from = b->to = gpu_pinned(4096);
    bench_value("access by one thread", "ld.relaxed.sys of host memory, dependent", BENCH_NONE,
                cost("cost_read", boxes, count), "ns");
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        bench_value("access by one thread", kinds[i].variant, BENCH_NONE,
                    cost(kinds[i].kernel, boxes, count), "ns");
    }
    b->from = (void *)(uintptr_t)gpu_memory(4096);
    bench_value("access by one thread", "ld.relaxed.sys of device memory, dependent", BENCH_NONE,
                cost("cost_read", boxes, count), "ns");
}

static void sleeps(void)
{
    static const uint32_t asked[] = {32, 64, 128, 256, 512, 1000};
    gpu_boxes boxes = gpu_boxes_make(1);
    for (unsigned i = 0; i < sizeof asked / sizeof *asked; i++) {
        gpu_box(boxes, 0)->wait = asked[i];
        bench_value("__nanosleep takes", "one thread", BENCH_PARAMS({"asked_ns", asked[i]}),
                    cost("cost_sleep", boxes, (uint32_t)bench_once(1000, 10)), "ns");
    }
}

int main(void)
{
    gpu_open(&device);
    stay_boxes = gpu_boxes_make(1);
    stay_stream = gpu_stream();
    stay_kernel = gpu_function(&device, "idle_stay");
    fence_kernel = gpu_function(&device, "cost_fence");
    bench_value("kernels.cu", "NVRTC", BENCH_NONE, (double)device.compile / 1e6, "ms");
    bench_value("kernels.cu", "nvJitLink", BENCH_NONE, (double)device.link / 1e6, "ms");
    bench_value("kernels.cu", "cuModuleLoadDataEx", BENCH_NONE, (double)device.load / 1e6, "ms");
    costs();
    sleeps();
    count_grids();
    ask_all();
    return 0;
}
