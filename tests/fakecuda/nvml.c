/*
 * nvml.c -- the stand-in's NVML: fixed numbers about its devices, and a device that is lost while the
 * fault `fallen` is set. The toolkit has no header of it; these are the few declarations needed.
 *
 * Threads: any; nothing is shared but whether it was started.
 */
#include "fakecuda.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#pragma GCC visibility push(default)

/* Numbers of nvmlReturn_t. */
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15
};

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st {
    int index;
} * nvmlDevice_t;
typedef struct nvmlUtilization_st {
    unsigned gpu, memory;
} nvmlUtilization_t;
typedef struct nvmlProcessInfo_st {
    unsigned pid;
    unsigned long long usedGpuMemory;
    unsigned gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_t;

static struct nvmlDevice_st devices[16];
static int started;

nvmlReturn_t nvmlInit_v2(void);
nvmlReturn_t nvmlShutdown(void);
const char *nvmlErrorString(nvmlReturn_t result);
nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned size);
nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *out);
nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned *out);
nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned *out);
nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned *out);
nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned *out);
nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, int clock, unsigned *out);
nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, int clock, unsigned *out);
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *out);
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *out);
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out);
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                     nvmlProcessInfo_t *out);

/* Records the call and says whether it can be answered. */
static nvmlReturn_t enter(const char *name, const void *device, const void *out)
{
    fc_noted(name);
    if (!__atomic_load_n(&started, __ATOMIC_RELAXED)) {
        return UNINITIALIZED;
    }
    if (device == NULL || out == NULL) {
        return INVALID_ARGUMENT;
    }
    return fc_fault(FC_fallen) ? GPU_IS_LOST : SUCCESS;
}

static nvmlReturn_t number(const char *name, const void *device, unsigned *out, unsigned value)
{
    nvmlReturn_t result = enter(name, device, out);
    if (result == SUCCESS) {
        *out = value;
    }
    return result;
}

nvmlReturn_t nvmlInit_v2(void)
{
    __atomic_add_fetch(&started, 1, __ATOMIC_RELAXED);
    return SUCCESS;
}

nvmlReturn_t nvmlShutdown(void)
{
    if (!__atomic_load_n(&started, __ATOMIC_RELAXED)) {
        return UNINITIALIZED;
    }
    __atomic_sub_fetch(&started, 1, __ATOMIC_RELAXED);
    return SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case SUCCESS:
        return "Success";
    case UNINITIALIZED:
        return "Uninitialized";
    case INVALID_ARGUMENT:
        return "Invalid Argument";
    case NOT_FOUND:
        return "Not Found";
    case INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case GPU_IS_LOST:
        return "GPU is lost";
    default:
        return "Unknown Error";
    }
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *out, unsigned size)
{
    if (!__atomic_load_n(&started, __ATOMIC_RELAXED)) {
        return UNINITIALIZED;
    }
    return snprintf(out, size, "580.00.00") < (int)size ? SUCCESS : INSUFFICIENT_SIZE;
}

/* "0000:01:00.0" for the first device, also with the eight digits that NVML itself writes. */
nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *out)
{
    unsigned domain, bus, slot, function;
    nvmlReturn_t result = enter(__func__, id, out);
    if (result != SUCCESS) {
        return result;
    }
    if (sscanf(id, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4) {
        return INVALID_ARGUMENT;
    }
    if (bus < 1 || bus > 16 || (long)bus > fc_fault(FC_devices)) {
        return NOT_FOUND;
    }
    *out = &devices[bus - 1];
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkGeneration(nvmlDevice_t device, unsigned *out)
{
    return number(__func__, device, out, 4);
}

nvmlReturn_t nvmlDeviceGetCurrPcieLinkWidth(nvmlDevice_t device, unsigned *out)
{
    return number(__func__, device, out, 8);
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device, unsigned *out)
{
    return number(__func__, device, out, 5);
}

nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned *out)
{
    return number(__func__, device, out, 16);
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, int clock, unsigned *out)
{
    return number(__func__, device, out, clock == 2 ? 2000 : 1200);
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, int clock, unsigned *out)
{
    return number(__func__, device, out, clock == 2 ? 2600 : 1980);
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor, unsigned *out)
{
    (void)sensor;
    return number(__func__, device, out, 42);
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *out)
{
    return number(__func__, device, out, 75000);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out)
{
    nvmlReturn_t result = enter(__func__, device, out);
    if (result == SUCCESS) {
        *out = (nvmlUtilization_t){.gpu = 7, .memory = 3};
    }
    return result;
}

/* This process, and no other. */
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                     nvmlProcessInfo_t *out)
{
    nvmlReturn_t result = enter(__func__, device, count);
    if (result != SUCCESS) {
        return result;
    }
    if (*count < 1) {
        *count = 1;
        return INSUFFICIENT_SIZE;
    }
    if (out == NULL) {
        return INVALID_ARGUMENT;
    }
    *count = 1;
    *out = (nvmlProcessInfo_t){.pid = (unsigned)getpid(), .usedGpuMemory = 1 << 20};
    return SUCCESS;
}
