/*
 * cuda.h -- the cuda back end as the rest of src/device sees it. Includes no CUDA header.
 */
#ifndef RK_DEVICE_CUDA_CUDA_H
#define RK_DEVICE_CUDA_CUDA_H

#include "device/instance.h"

extern const rk__backend rk__backend_cuda;

/* Opens the GPU for a runtime, or shares it: rk__gpu_open. */
int rk__cuda_open(int ordinal, const rk_runtime *rt, enum rk_mode mode, void **out);
void rk__cuda_close(void *gpu);
/* Whether a driver is there at all, which is quickly told. RK_EDEVICE says what was looked for. */
int rk__cuda_present(void);

#endif
