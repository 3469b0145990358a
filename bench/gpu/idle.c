/*
 * idle.c -- what others pay for kernels that stay and poll: bandwidth of a neighbour's copies
 * beside 0, 1, 16 and 132 of them, CPU time of this process, power of the GPU.
 *
 *     idle blocks            bare blocks that poll as an idle ring kernel does; the neighbour is in
 *                            the same context
 *     idle kernels DEVICE    ring kernels of the runtime ("cuda" or "cpu"); the neighbour, on a
 *                            GPU, is in another context, as another program's would be
 *
 * Threads: main, and the runtime's own.
 */
#include "gpu.h"
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const unsigned counts[] = {0, 1, 16, 132};
enum { COUNTS = sizeof counts / sizeof *counts, COPIES = 16, GRID = 1056 };

/* ---- the neighbour --------------------------------------------------------------------------- */

static struct {
    gpu device;
    CUstream stream;
    void *host;
    CUdeviceptr from, to;
    size_t bytes, large; /* of a copy over the bus, of one inside the device */
    gpu_boxes boxes;
    CUfunction copy;
    rk__nvml_device nvml;
} neighbour;

static void neighbour_open(void)
{
    neighbour.bytes = bench_once(64 << 20, 1 << 20);
    neighbour.large = bench_once(512 << 20, 1 << 20);
    gpu_open(&neighbour.device);
    neighbour.copy = gpu_function(&neighbour.device, "neighbour_copy");
    neighbour.stream = gpu_stream();
    neighbour.host = gpu_pinned(neighbour.bytes);
    neighbour.from = gpu_memory(neighbour.large);
    neighbour.to = gpu_memory(neighbour.large);
    neighbour.boxes = gpu_boxes_make(1);
    gpu_box(neighbour.boxes, 0)->from = (void *)(uintptr_t)neighbour.from;
    gpu_box(neighbour.boxes, 0)->to = (void *)(uintptr_t)neighbour.to;
    gpu_box(neighbour.boxes, 0)->bytes = neighbour.large;
    if (rk__nvml_load() && rk__nvml->DeviceGetHandleByPciBusId(
                               neighbour.device.device.facts.pci_bus, &neighbour.nvml) != 0) {
        neighbour.nvml = NULL;
    }
}

static void copy_in(void)
{
    gpu_must(rk__cuda->MemcpyHtoDAsync(neighbour.from, neighbour.host, neighbour.bytes,
                                       neighbour.stream),
             "copying to the device");
}

static void copy_out(void)
{
    gpu_must(rk__cuda->MemcpyDtoHAsync(neighbour.host, neighbour.from, neighbour.bytes,
                                       neighbour.stream),
             "copying from the device");
}

static void copy_inside(void)
{
    gpu_launch(neighbour.copy, (unsigned)bench_once(GRID, 4), 8 * gpu_warp(&neighbour.device),
               neighbour.stream, neighbour.boxes);
}

/* GB/s of so many copies; the first one is not counted. */
static double bandwidth(void (*copy)(void), size_t bytes)
{
    unsigned copies = (unsigned)bench_once(COPIES, 2);
    copy();
    gpu_finish(neighbour.stream, "a copy");
    int64_t begin = rk__now();
    for (unsigned i = 0; i < copies; i++) {
        copy();
    }
    gpu_finish(neighbour.stream, "copies");
    return (double)bytes * copies / (double)(rk__now() - begin);
}

static void neighbour_measure(const char *beside, unsigned n)
{
    static const struct {
        const char *what;
        void (*copy)(void);
    } kinds[] = {{"host to device", copy_in},
                 {"device to host", copy_out},
                 {"inside the device", copy_inside}};
    for (unsigned i = 0; i < 3; i++) {
        char variant[96];
        bool inside = kinds[i].copy == copy_inside;
        snprintf(variant, sizeof variant, "%s, beside %s", kinds[i].what, beside);
        bench_value("neighbour's copies", variant, BENCH_PARAMS({"polling", n}),
                    bandwidth(kinds[i].copy, inside ? 2 * neighbour.large : neighbour.bytes),
                    "GB/s");
    }
}

/* ---- an idle while --------------------------------------------------------------------------- */

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void report_nvml(const char *beside, unsigned n, double power, unsigned samples)
{
    rk__nvml_utilization rates;
    if (samples > 0) {
        bench_value("GPU power, idle", beside, BENCH_PARAMS({"polling", n}), power / samples / 1000,
                    "W");
    }
    if (neighbour.nvml != NULL && rk__nvml->DeviceGetUtilizationRates != NULL &&
        rk__nvml->DeviceGetUtilizationRates(neighbour.nvml, &rates) == 0) {
        bench_value("GPU utilisation, idle", beside, BENCH_PARAMS({"polling", n}), rates.gpu, "%");
    }
}

/* Sleeps, 2 s in all, and looks at the power now and then. */
static void idle_measure(const char *beside, unsigned n)
{
    enum { STEPS = 10 };
    struct timespec step = {0, (long)bench_once(200000000, 20000000)};
    double begin_cpu = cpu_seconds(), power = 0;
    int64_t begin = rk__now();
    unsigned samples = 0, milliwatts;
    for (int i = 0; i < STEPS; i++) {
        nanosleep(&step, NULL);
        if (neighbour.nvml != NULL && rk__nvml->DeviceGetPowerUsage != NULL &&
            rk__nvml->DeviceGetPowerUsage(neighbour.nvml, &milliwatts) == 0) {
            power += milliwatts;
            samples++;
        }
    }
    bench_value("CPU time, idle", beside, BENCH_PARAMS({"polling", n}),
                100 * (cpu_seconds() - begin_cpu) / ((double)(rk__now() - begin) / 1e9),
                "% of a cpu");
    report_nvml(beside, n, power, samples);
}

/* ---- bare blocks ----------------------------------------------------------------------------- */

static void beside_blocks(unsigned n, CUstream stream, gpu_boxes boxes)
{
    unsigned warp = gpu_warp(&neighbour.device);
    gpu_boxes_reset(boxes);
    if (n > 0) {
        gpu_launch(gpu_function(&neighbour.device, "idle_poll"), n, warp, stream, boxes);
    }
    for (unsigned i = 0; i < n; i++) {
        bench_wait w = {0, 0};
        while (__atomic_load_n(&gpu_box(boxes, i)->alive, __ATOMIC_ACQUIRE) == 0) {
            bench_spin(&w, "polling blocks");
        }
    }
    neighbour_measure("polling blocks", n);
    idle_measure("polling blocks", n);
    for (unsigned i = 0; i < n; i++) {
        __atomic_store_n(&gpu_box(boxes, i)->stop, 1, __ATOMIC_RELEASE);
    }
    gpu_finish(stream, "polling blocks");
}

static unsigned blocks_at_once(void)
{
    int each = 0;
    gpu_must(rk__cuda->OccupancyMaxActiveBlocksPerMultiprocessor(
                 &each, gpu_function(&neighbour.device, "idle_poll"),
                 (int)gpu_warp(&neighbour.device), 0),
             "asking for the occupancy");
    return (unsigned)each * neighbour.device.device.facts.processors;
}

static void run_blocks(void)
{
    CUstream stream;
    neighbour_open();
    stream = gpu_stream();
    gpu_boxes boxes = gpu_boxes_make(counts[COUNTS - 1]);
    unsigned room = blocks_at_once();
    for (unsigned i = 0; i < COUNTS; i++) {
        if (counts[i] <= room) {
            beside_blocks(counts[i], stream, boxes);
        } else {
            bench_missing("neighbour's copies", "beside polling blocks",
                          BENCH_PARAMS({"polling", counts[i]}), "only %u blocks fit", room);
        }
    }
}

/* ---- ring kernels ---------------------------------------------------------------------------- */

static void run_kernels(const char *device)
{
    bool gpu_too = strcmp(device, "cpu") != 0;
    if (gpu_too) {
        neighbour_open();
    }
    rk_runtime *rt = rig_open(device, NULL, NULL);
    unsigned spawned = 0;
    char beside[64];
    rig_define_add("rig_idle", 1);
    snprintf(beside, sizeof beside, "ring kernels, %s", device);
    for (unsigned i = 0; i < bench_once(COUNTS, 3); i++) {
        for (; spawned < counts[i]; spawned++) {
            char name[32];
            rk_pid pid;
            rk_options options = RK_OPTIONS_INIT;
            snprintf(name, sizeof name, "idle-%u", spawned);
            options.name = name;
            int code = rk_spawn(rt, &pid, "rig_idle", &options);
            if (code < 0) {
                bench_missing("CPU time, idle", beside, BENCH_PARAMS({"polling", counts[i]}),
                              "kernel %u: %s", spawned + 1, rk_errdetail());
                goto end;
            }
            if (rig_ask(pid, 41) != 42) {
                bench_fail("a wrong answer from an idle kernel");
            }
        }
        if (gpu_too) {
            neighbour_measure(beside, counts[i]);
        }
        idle_measure(beside, counts[i]);
    }
end:
    bench_must(rk_close(rt), "rk_close");
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "blocks") == 0) {
        run_blocks();
    } else if (argc == 3 && strcmp(argv[1], "kernels") == 0) {
        run_kernels(argv[2]);
    } else {
        bench_fail("usage: idle blocks | idle kernels DEVICE");
    }
    return 0;
}
