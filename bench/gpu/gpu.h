/*
 * gpu.h -- a CUDA device without the runtime, for the bare programs of bench/gpu: a context, the
 * module of kernels.cu, memory, launches. Everything fails with bench_fail.
 *
 * All of it is for the main thread, except launches and what is said to be for any.
 */
#ifndef RK_BENCH_GPU_GPU_H
#define RK_BENCH_GPU_GPU_H

#include "device/cuda/driver.h"
#include "device/cuda/probe.h"
#include "rk_abi.h"
#include "box.h"
#include "out.h"

typedef struct gpu {
    rk__cuda_device device; /* facts, target */
    CUcontext context;
    CUmodule module;
    int64_t compile, link, load; /* ns that the module took */
    void *image;                 /* what was loaded, `image_size` bytes */
    size_t image_size;
} gpu;

/* Opens device 0, makes a context (current in this thread), compiles and loads kernels.cu; on the
 * stand-in also allows the calls that must not be made while a kernel runs. */
void gpu_open(gpu *g);
/* kernels.cu once more, for the times. gives (free) an image */
void *gpu_compile(gpu *g, size_t *size);

/* Fails, saying what was being done, when the result is no success. thread: any */
void gpu_must(CUresult result, const char *what);
CUfunction gpu_function(const gpu *g, const char *name);
CUstream gpu_stream(void);           /* non-blocking */
void *gpu_pinned(size_t size);       /* zeroed; the device has the same address */
CUdeviceptr gpu_memory(size_t size); /* zeroed */

/* `blocks` boxes in pinned memory with their rings, zeroed and ready for a launch. */
typedef struct gpu_boxes {
    unsigned char *memory;
    unsigned blocks;
} gpu_boxes;
gpu_boxes gpu_boxes_make(unsigned blocks);
void gpu_boxes_reset(gpu_boxes boxes); /* keeps in, out, from, to, bytes, units, count, wait */
static inline box *gpu_box(gpu_boxes boxes, unsigned block)
{
    return (box *)(void *)(boxes.memory + (size_t)block * BOX_SIZE);
}

/* Launches on the boxes. thread: any with the context current */
void gpu_launch(CUfunction f, unsigned blocks, unsigned threads, CUstream stream, gpu_boxes boxes);
/* Waits by asking, which is allowed while other kernels run. */
void gpu_finish(CUstream stream, const char *what);
bool gpu_finished(CUstream stream); /* thread: any with the context current */
/* A result line each for the clocks as they are now; none without NVML. */
void gpu_clocks(const gpu *g);
/* Threads of a block that polls as a warp: 32, on the stand-in 1. */
unsigned gpu_warp(const gpu *g);

#endif
