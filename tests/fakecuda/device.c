/*
 * device.c -- what the stand-in's driver says about its devices and its errors.
 *
 * Threads: any.
 */
#include "driver.h"

#include <stdio.h>
#include <string.h>

#define ERRORS(X)                                                                                  \
    X(CUDA_SUCCESS, "no error")                                                                    \
    X(CUDA_ERROR_INVALID_VALUE, "invalid argument")                                                \
    X(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")                                                   \
    X(CUDA_ERROR_NOT_INITIALIZED, "initialization error")                                          \
    X(CUDA_ERROR_DEINITIALIZED, "driver shutting down")                                            \
    X(CUDA_ERROR_STUB_LIBRARY, "CUDA driver is a stub library")                                    \
    X(CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA-capable device(s) is/are busy or unavailable")          \
    X(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")                                  \
    X(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal")                                         \
    X(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid")                                  \
    X(CUDA_ERROR_INVALID_CONTEXT, "invalid device context")                                        \
    X(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device")    \
    X(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered")                         \
    X(CUDA_ERROR_INVALID_PTX, "a PTX JIT compilation failed")                                      \
    X(CUDA_ERROR_UNSUPPORTED_PTX_VERSION,                                                          \
      "the provided PTX was compiled with an unsupported toolchain.")                              \
    X(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, "shared object initialization failed")                 \
    X(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle")                                        \
    X(CUDA_ERROR_NOT_FOUND, "named symbol not found")                                              \
    X(CUDA_ERROR_NOT_READY, "device not ready")                                                    \
    X(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")                      \
    X(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch")               \
    X(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated")                        \
    X(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed")                                     \
    X(CUDA_ERROR_ASSERT, "device-side assert triggered")                                           \
    X(CUDA_ERROR_HARDWARE_STACK_ERROR, "hardware stack error")                                     \
    X(CUDA_ERROR_ILLEGAL_INSTRUCTION, "an illegal instruction was encountered")                    \
    X(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address")                                         \
    X(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")                                      \
    X(CUDA_ERROR_NOT_PERMITTED, "operation not permitted")                                         \
    X(CUDA_ERROR_NOT_SUPPORTED, "operation not supported")                                         \
    X(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,                                                           \
      "system has unsupported display driver / cuda driver combination")                           \
    X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing")   \
    X(CUDA_ERROR_UNKNOWN, "unknown error")
#define ERROR_CASE(name, text)                                                                     \
    case name:                                                                                     \
        *out = named ? #name : (text);                                                             \
        break;

/* ---- errors ---- */

static CUresult error_text(CUresult error, bool named, const char **out)
{
    switch ((int)error) {
        ERRORS(ERROR_CASE)
    default:
        *out = NULL;
        return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **out)
{
    fc_enter(__func__, FC_NEEDS_NOTHING, -1, NULL);
    return fc_leave(error_text(error, true, out));
}

CUresult cuGetErrorString(CUresult error, const char **out)
{
    fc_enter(__func__, FC_NEEDS_NOTHING, -1, NULL);
    return fc_leave(error_text(error, false, out));
}

/* ---- devices ---- */

static CUresult enter(const char *name, CUdevice device, const void *out)
{
    CUresult result = fc_enter(name, FC_NEEDS_INIT, device, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (device < 0 || device >= fc_fault(FC_devices) || device >= FC_DEVICES) {
        return fc_leave(CUDA_ERROR_INVALID_DEVICE);
    }
    return out == NULL ? fc_leave(CUDA_ERROR_INVALID_VALUE) : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *out)
{
    fc_enter(__func__, FC_NEEDS_NOTHING, -1, NULL);
    if (out != NULL) {
        *out = 13000;
    }
    return fc_leave(out != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}

CUresult cuDeviceGetCount(int *out)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_INIT, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    long count = fc_fault(FC_devices);
    *out = fc_fault(FC_no_device) ? 0 : (int)(count < FC_DEVICES ? count : FC_DEVICES);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGet(CUdevice *out, int ordinal)
{
    CUresult result = enter(__func__, ordinal, out);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    *out = ordinal;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGetName(char *out, int size, CUdevice device)
{
    CUresult result = enter(__func__, device, out);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    snprintf(out, (size_t)size, "Stand-in %d", device);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGetUuid(CUuuid *out, CUdevice device)
{
    CUresult result = enter(__func__, device, out);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    memset(out, 0, sizeof *out);
    memcpy(out->bytes, "stand-in", 8);
    out->bytes[15] = (char)(device + 1);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuDeviceTotalMem(size_t *out, CUdevice device)
{
    CUresult result = enter(__func__, device, out);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    *out = (size_t)8 << 30;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuDeviceGetPCIBusId(char *out, int size, CUdevice device)
{
    CUresult result = enter(__func__, device, out);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (snprintf(out, (size_t)size, "0000:%02x:00.0", device + 1) >= size) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    return fc_leave(CUDA_SUCCESS);
}

/* ---- attributes ---- */

static const struct {
    CUdevice_attribute name;
    int value;
} constants[] = {
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, FC_THREADS_PER_BLOCK},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, FC_THREADS_PER_BLOCK},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, FC_THREADS_PER_BLOCK},
    {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fffffff},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, FC_SHARED_PLAIN},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, FC_SHARED_OPTIN},
    {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, FC_SHARED_PER_SM},
    {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, FC_SHARED_RESERVED},
    {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, FC_THREADS_PER_SM},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
    {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
    {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536},
    {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
    {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 2600000},
    {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120},
    {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 4 << 20},
    {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2},
    {CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
    {CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 1},
    {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
    {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
    {CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 1},
    {CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS, 1},
};

CUresult cuDeviceGetAttribute(int *out, CUdevice_attribute name, CUdevice device)
{
    int sms, blocks;
    CUresult result = enter(__func__, device, out);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (name <= 0 || name >= CU_DEVICE_ATTRIBUTE_MAX) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *out = 0; /* what a device does not have; so is integrated, ECC, host atomics, DMA-BUF, ... */
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        *out = constants[i].name == name ? constants[i].value : *out;
    }
    fc_kernel_limits(&sms, &blocks);
    switch ((int)name) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *out = (int)(fc_fault(FC_cc) / 10);
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *out = (int)(fc_fault(FC_cc) % 10);
        break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *out = sms;
        break;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR:
        *out = blocks;
        break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        *out = (int)fc_fault(FC_warp);
        break;
    case CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT:
        *out = fc_fault(FC_timeout_attr) != 0;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
        *out = (int)fc_fault(FC_compute_mode);
        break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID:
        *out = device + 1;
        break;
    default:
        break;
    }
    return fc_leave(CUDA_SUCCESS);
}
