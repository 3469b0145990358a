/*
 * gpu.c -- a CUDA device without the runtime: see gpu.h.
 *
 * Threads: the main thread of a program.
 */
#include "gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/embedded.h"
#include "device/device.h"

void gpu_must(CUresult result, const char *what)
{
    if (result != CUDA_SUCCESS) {
        rk__cuda_fail(result, "%s", what);
        bench_fail("%s", rk_errdetail());
    }
}

/* ---- compiling ------------------------------------------------------------------------------ */

static char *read_text(const char *name)
{
    const char *folder = getenv("RK_GPU_BENCH");
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder != NULL ? folder : "bench/gpu", name);
    FILE *file = fopen(path, "r");
    char *text = NULL;
    size_t size = 0;
    if (file == NULL || getdelim(&text, &size, '\0', file) < 0) {
        bench_fail("cannot read %s (RK_GPU_BENCH names the folder)", path);
    }
    fclose(file);
    return text;
}

static void nvrtc_must(nvrtcResult result, const char *what)
{
    if (result != NVRTC_SUCCESS) {
        rk__nvrtc_fail(result, "%s", what);
        bench_fail("%s", rk_errdetail());
    }
}

static void show_log(nvrtcProgram p)
{
    size_t size = 0;
    nvrtc_must(rk__nvrtc->GetProgramLogSize(p, &size), "reading the compiler's log");
    char *log = calloc(1, size + 1);
    if (log != NULL && rk__nvrtc->GetProgramLog(p, log) == NVRTC_SUCCESS) {
        fputs(log, stderr);
    }
    free(log);
}

/* gives (free) a cubin, or PTX when the compiler does not know the device */
static char *compile_text(const gpu *g, const char *text, const char *box_text, size_t *size)
{
    char target[16], arch[64];
    const char *names[RK__KERNEL_HEADERS + 1] = {"box.h"},
                                           *headers[RK__KERNEL_HEADERS + 1] = {box_text};
    const char *const flags[] = {arch, "--device-as-default-execution-space", "-rdc=true"};
    nvrtcProgram p;
    for (size_t i = 0; i < RK__KERNEL_HEADERS; i++) {
        names[i + 1] = rk__kernel_headers[i];
        headers[i + 1] = rk__kernel_header(i);
    }
    rk__cuda_target_text(g->device.target, target);
    snprintf(arch, sizeof arch, "--gpu-architecture=%s", target);
    nvrtc_must(rk__nvrtc->CreateProgram(&p, text, "bench/gpu/kernels.cu", RK__KERNEL_HEADERS + 1,
                                        headers, names),
               "making a program of kernels.cu");
    nvrtcResult result = rk__nvrtc->CompileProgram(p, 3, flags);
    if (result != NVRTC_SUCCESS) {
        show_log(p);
        nvrtc_must(result, "compiling kernels.cu");
    }
    bool ptx = g->device.target.ptx;
    nvrtc_must((ptx ? rk__nvrtc->GetPTXSize : rk__nvrtc->GetCUBINSize)(p, size), "its size");
    char *object = malloc(*size);
    if (object == NULL) {
        bench_fail("no memory for an object of %zu bytes", *size);
    }
    nvrtc_must((ptx ? rk__nvrtc->GetPTX : rk__nvrtc->GetCUBIN)(p, object), "its object");
    rk__nvrtc->DestroyProgram(&p);
    return object;
}

static void link_must(nvJitLinkResult result, const char *what)
{
    if (result != NVJITLINK_SUCCESS) {
        rk__nvjitlink_fail(result, "%s", what);
        bench_fail("%s", rk_errdetail());
    }
}

static void *link_object(const gpu *g, const char *object, size_t size, size_t *image_size)
{
    char arch[32];
    const char *const options[] = {arch};
    nvJitLinkHandle h;
    snprintf(arch, sizeof arch, "-arch=sm_%d",
             g->device.target.ptx ? g->device.facts.major * 10 + g->device.facts.minor
                                  : g->device.target.arch);
    link_must(rk__nvjitlink->Create(&h, 1, options), "starting the linker");
    link_must(rk__nvjitlink->AddData(
                  h, g->device.target.ptx ? NVJITLINK_INPUT_PTX : NVJITLINK_INPUT_CUBIN, object,
                  size, "kernels"),
              "giving the linker an object");
    link_must(rk__nvjitlink->Complete(h), "linking kernels.cu");
    link_must(rk__nvjitlink->GetLinkedCubinSize(h, image_size), "the image's size");
    void *image = malloc(*image_size);
    if (image == NULL) {
        bench_fail("no memory for an image of %zu bytes", *image_size);
    }
    link_must(rk__nvjitlink->GetLinkedCubin(h, image), "the image");
    rk__nvjitlink->Destroy(&h);
    return image;
}

void *gpu_compile(gpu *g, size_t *size)
{
    char *text = read_text("kernels.cu"), *box_text = read_text("box.h");
    size_t object_size;
    int64_t begin = rk__now();
    char *object = compile_text(g, text, box_text, &object_size);
    int64_t compiled = rk__now();
    void *image = link_object(g, object, object_size, size);
    g->compile = compiled - begin;
    g->link = rk__now() - compiled;
    free(object);
    free(text);
    free(box_text);
    return image;
}

/* ---- the device ----------------------------------------------------------------------------- */

/* The stand-in ends the program at a call that is forbidden while kernels run. Some are made
 * on purpose, to see what a driver does. */
static void allow_everything(void)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    int (*set)(const char *, long) = NULL;
    void *symbol = library != NULL ? dlsym(library, "fakecuda_set") : NULL;
    if (symbol == NULL) {
        bench_fail("RK_CUDA_LIBS names something that is not the stand-in");
    }
    memcpy(&set, &symbol, sizeof set);
    set("allow", 1);
}

void gpu_open(gpu *g)
{
    rk__cuda_device *list;
    size_t count;
    memset(g, 0, sizeof *g);
    bench_must(rk__cuda_probe(&list, &count), "looking for a CUDA device");
    g->device = list[0];
    free(list);
    bench_source(g->device.facts.name);
    if (g->device.target.arch == 0) {
        bench_fail("%s cannot be used: %s", g->device.facts.name, g->device.facts.refused[0]);
    }
    if (bench_standin()) {
        allow_everything();
    }
    gpu_must(rk__cuda->CtxCreate(&g->context, CU_CTX_MAP_HOST, g->device.handle),
             "making a context");
    g->image = gpu_compile(g, &g->image_size);
    int64_t begin = rk__now();
    gpu_must(rk__cuda->ModuleLoadDataEx(&g->module, g->image, 0, NULL, NULL), "loading the module");
    g->load = rk__now() - begin;
}

CUfunction gpu_function(const gpu *g, const char *name)
{
    CUfunction f;
    gpu_must(rk__cuda->ModuleGetFunction(&f, g->module, name), name);
    return f;
}

CUstream gpu_stream(void)
{
    CUstream s;
    gpu_must(rk__cuda->StreamCreateWithPriority(&s, CU_STREAM_NON_BLOCKING, 0), "making a stream");
    return s;
}

void *gpu_pinned(size_t size)
{
    void *memory;
    gpu_must(
        rk__cuda->MemHostAlloc(&memory, size, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP),
        "allocating pinned memory");
    memset(memory, 0, size);
    return memory;
}

CUdeviceptr gpu_memory(size_t size)
{
    CUdeviceptr memory;
    gpu_must(rk__cuda->MemAlloc(&memory, size), "allocating device memory");
    gpu_must(rk__cuda->MemsetD8(memory, 0, size), "clearing device memory");
    gpu_must(rk__cuda->CtxSynchronize(), "clearing device memory");
    return memory;
}

void gpu_clocks(const gpu *g)
{
    rk__nvml_device nvml;
    unsigned mhz;
    if (!rk__nvml_load() || rk__nvml->DeviceGetClockInfo == NULL ||
        rk__nvml->DeviceGetHandleByPciBusId(g->device.facts.pci_bus, &nvml) != 0) {
        return;
    }
    if (rk__nvml->DeviceGetClockInfo(nvml, RK__NVML_CLOCK_SM, &mhz) == 0) {
        bench_value("GPU clocks", "multiprocessors", BENCH_NONE, mhz, "MHz");
    }
    if (rk__nvml->DeviceGetClockInfo(nvml, RK__NVML_CLOCK_MEMORY, &mhz) == 0) {
        bench_value("GPU clocks", "memory", BENCH_NONE, mhz, "MHz");
    }
}

unsigned gpu_warp(const gpu *g)
{
    return g->device.facts.warp > 0 ? g->device.facts.warp : 32;
}

/* ---- boxes and launches --------------------------------------------------------------------- */

enum { RING_SIZE = BOX_SLOTS * RK_SLOT_SIZE };

gpu_boxes gpu_boxes_make(unsigned blocks)
{
    gpu_boxes boxes = {gpu_pinned((size_t)blocks * (BOX_SIZE + 2 * RING_SIZE)), blocks};
    unsigned char *rings = boxes.memory + (size_t)blocks * BOX_SIZE;
    for (unsigned i = 0; i < blocks; i++, rings += 2 * RING_SIZE) {
        gpu_box(boxes, i)->in = (rk_slot *)(void *)rings;
        gpu_box(boxes, i)->out = (rk_slot *)(void *)(rings + RING_SIZE);
        gpu_box(boxes, i)->units = RK_SLOT_UNITS;
    }
    return boxes;
}

void gpu_boxes_reset(gpu_boxes boxes)
{
    for (unsigned i = 0; i < boxes.blocks; i++) {
        box *b = gpu_box(boxes, i);
        memset(&b->there, 0, sizeof *b - offsetof(box, there));
    }
    memset(boxes.memory + (size_t)boxes.blocks * BOX_SIZE, 0, (size_t)boxes.blocks * 2 * RING_SIZE);
}

void gpu_launch(CUfunction f, unsigned blocks, unsigned threads, CUstream stream, gpu_boxes boxes)
{
    void *argument = boxes.memory;
    void *parameters[] = {&argument};
    gpu_must(rk__cuda->LaunchKernel(f, blocks, 1, 1, threads, 1, 1, 0, stream, parameters, NULL),
             "launching a kernel");
}

bool gpu_finished(CUstream stream)
{
    CUresult result = rk__cuda->StreamQuery(stream);
    if (result != CUDA_ERROR_NOT_READY) {
        gpu_must(result, "a kernel");
    }
    return result == CUDA_SUCCESS;
}

void gpu_finish(CUstream stream, const char *what)
{
    bench_wait w = {0, 0};
    while (!gpu_finished(stream)) {
        bench_spin(&w, what);
    }
}
