/*
 * probe.h -- which CUDA devices there are, what they can do, and for what NVRTC compiles. Includes
 * no CUDA header.
 */
#ifndef RK_DEVICE_CUDA_PROBE_H
#define RK_DEVICE_CUDA_PROBE_H

#include "rk.h"

/* What decides whether a mode can be used. */
typedef struct rk__cuda_traits {
    int major, minor;      /* compute capability */
    bool unified;          /* host and device use one address space */
    bool maps_host;        /* kernels reach pinned host memory */
    bool prohibited;       /* compute mode: nobody may use the device */
    bool watchdog;         /* the driver ends kernels that run long */
    bool blocking_launch;  /* CUDA_LAUNCH_BLOCKING=1 */
    bool lazy;             /* modules are loaded on first use */
    const char *no_target; /* why nothing can be compiled for it; NULL: it can. borrowed */
} rk__cuda_traits;

/* Why this mode cannot be used, as a sentence that says what can be done; NULL: it can be. Pure;
 * the sentence lives as long as the process, or as traits->no_target. thread: any. blocks: no */
const char *rk__cuda_refusal(const rk__cuda_traits *traits, enum rk_mode mode);

/* What NVRTC is told to compile for. */
typedef struct rk__cuda_target {
    int arch; /* 90 */
    bool ptx; /* the driver makes machine code of it: the device is newer than NVRTC */
} rk__cuda_target;

/* The best of the architectures NVRTC knows (75, 80, 90..., in any order) for a device: the highest
 * of its major version up to its minor one, whose machine code it runs; else the PTX of the highest
 * below it. RK_EDEVICE: all are newer than the device. Pure. thread: any. blocks: no */
int rk__cuda_choose(const int *archs, size_t count, int major, int minor, rk__cuda_target *out);
/* "sm_90", "compute_90". */
void rk__cuda_target_text(rk__cuda_target target, char text[16]);

typedef struct rk__cuda_device {
    int ordinal;            /* "cuda:ORDINAL" */
    int handle;             /* CUdevice */
    rk__cuda_target target; /* arch 0: there is none, and every mode is refused */
    rk_device facts;
} rk__cuda_device;

/* All devices the driver shows, in its order; a device that cannot be used is among them, and says
 * why in facts.refused. Loads the libraries (driver.h); without NVRTC or nvJitLink every mode of
 * every device is refused. gives (free) a list of at least one. RK_EDEVICE: no driver, no device;
 * RK_ENOMEM. thread: any. blocks: yes */
int rk__cuda_probe(rk__cuda_device **list, size_t *count);
/* A GPU is open from now on (closed): what was found last is the answer until all are closed. */
void rk__cuda_probe_hold(bool open);

#endif
