/*
 * driver.h -- the four NVIDIA libraries, as tables of functions found by dlopen: the driver
 * (rk__cuda), NVRTC (rk__nvrtc), nvJitLink (rk__nvjitlink) and NVML (rk__nvml).
 *
 * A table's pointer is NULL until its library is loaded, and then stays what it is for the life of
 * the process: whoever called the loader, or was started or locked after somebody who did, may use
 * it. Members have the library's names without prefix and version: rk__cuda->MemAlloc.
 */
#ifndef RK_DEVICE_CUDA_DRIVER_H
#define RK_DEVICE_CUDA_DRIVER_H

#include <cuda.h>
#include <nvJitLink.h>
#include <nvrtc.h>
#include <stdbool.h>
#include "rk.h"

/* ---- the driver ---- */

/* The toolkit's headers declare another function under this name, or none in older versions. */
typedef CUresult rk__cuda_ctx_create(CUcontext *out, unsigned flags, CUdevice device);
typedef CUresult rk__cuda_func_load(CUfunction function);

/* X(member, symbol, type) */
#define RK__CUDA_AS(X, member, symbol) X(member, symbol, __typeof__(symbol))
#define RK__CUDA_REQUIRED(X)                                                                       \
    RK__CUDA_AS(X, Init, cuInit)                                                                   \
    RK__CUDA_AS(X, DriverGetVersion, cuDriverGetVersion)                                           \
    RK__CUDA_AS(X, GetErrorName, cuGetErrorName)                                                   \
    RK__CUDA_AS(X, GetErrorString, cuGetErrorString)                                               \
    RK__CUDA_AS(X, DeviceGetCount, cuDeviceGetCount)                                               \
    RK__CUDA_AS(X, DeviceGet, cuDeviceGet)                                                         \
    RK__CUDA_AS(X, DeviceGetName, cuDeviceGetName)                                                 \
    RK__CUDA_AS(X, DeviceGetUuid, cuDeviceGetUuid_v2)                                              \
    RK__CUDA_AS(X, DeviceTotalMem, cuDeviceTotalMem_v2)                                            \
    RK__CUDA_AS(X, DeviceGetAttribute, cuDeviceGetAttribute)                                       \
    RK__CUDA_AS(X, DeviceGetPCIBusId, cuDeviceGetPCIBusId)                                         \
    X(CtxCreate, cuCtxCreate_v2, rk__cuda_ctx_create)                                              \
    RK__CUDA_AS(X, CtxDestroy, cuCtxDestroy_v2)                                                    \
    RK__CUDA_AS(X, CtxSetCurrent, cuCtxSetCurrent)                                                 \
    RK__CUDA_AS(X, CtxGetCurrent, cuCtxGetCurrent)                                                 \
    RK__CUDA_AS(X, CtxSetLimit, cuCtxSetLimit)                                                     \
    RK__CUDA_AS(X, CtxSynchronize, cuCtxSynchronize)                                               \
    RK__CUDA_AS(X, MemHostAlloc, cuMemHostAlloc)                                                   \
    RK__CUDA_AS(X, MemFreeHost, cuMemFreeHost)                                                     \
    RK__CUDA_AS(X, MemAlloc, cuMemAlloc_v2)                                                        \
    RK__CUDA_AS(X, MemFree, cuMemFree_v2)                                                          \
    RK__CUDA_AS(X, MemGetInfo, cuMemGetInfo_v2)                                                    \
    RK__CUDA_AS(X, MemsetD8, cuMemsetD8_v2)                                                        \
    RK__CUDA_AS(X, MemcpyHtoDAsync, cuMemcpyHtoDAsync_v2)                                          \
    RK__CUDA_AS(X, MemcpyDtoHAsync, cuMemcpyDtoHAsync_v2)                                          \
    RK__CUDA_AS(X, MemcpyHtoD, cuMemcpyHtoD_v2)                                                    \
    RK__CUDA_AS(X, MemcpyDtoH, cuMemcpyDtoH_v2)                                                    \
    RK__CUDA_AS(X, StreamCreateWithPriority, cuStreamCreateWithPriority)                           \
    RK__CUDA_AS(X, StreamDestroy, cuStreamDestroy_v2)                                              \
    RK__CUDA_AS(X, StreamQuery, cuStreamQuery)                                                     \
    RK__CUDA_AS(X, StreamSynchronize, cuStreamSynchronize)                                         \
    RK__CUDA_AS(X, StreamWriteValue32, cuStreamWriteValue32_v2)                                    \
    RK__CUDA_AS(X, EventCreate, cuEventCreate)                                                     \
    RK__CUDA_AS(X, EventRecord, cuEventRecord)                                                     \
    RK__CUDA_AS(X, EventQuery, cuEventQuery)                                                       \
    RK__CUDA_AS(X, EventDestroy, cuEventDestroy_v2)                                                \
    RK__CUDA_AS(X, ModuleLoadDataEx, cuModuleLoadDataEx)                                           \
    RK__CUDA_AS(X, ModuleUnload, cuModuleUnload)                                                   \
    RK__CUDA_AS(X, ModuleGetFunction, cuModuleGetFunction)                                         \
    RK__CUDA_AS(X, ModuleGetGlobal, cuModuleGetGlobal_v2)                                          \
    RK__CUDA_AS(X, ModuleGetLoadingMode, cuModuleGetLoadingMode)                                   \
    RK__CUDA_AS(X, FuncGetAttribute, cuFuncGetAttribute)                                           \
    RK__CUDA_AS(X, FuncSetAttribute, cuFuncSetAttribute)                                           \
    RK__CUDA_AS(X, OccupancyMaxActiveBlocksPerMultiprocessor,                                      \
                cuOccupancyMaxActiveBlocksPerMultiprocessor)                                       \
    RK__CUDA_AS(X, LaunchKernel, cuLaunchKernel)                                                   \
    RK__CUDA_AS(X, LinkCreate, cuLinkCreate_v2)                                                    \
    RK__CUDA_AS(X, LinkAddData, cuLinkAddData_v2)                                                  \
    RK__CUDA_AS(X, LinkComplete, cuLinkComplete)                                                   \
    RK__CUDA_AS(X, LinkDestroy, cuLinkDestroy)
/* NULL when the driver has no such function: FuncLoad is of CUDA 12.4, the rest is for benchmarks
 * and for what a device may not be able to do. */
#define RK__CUDA_OPTIONAL(X)                                                                       \
    X(FuncLoad, cuFuncLoad, rk__cuda_func_load)                                                    \
    RK__CUDA_AS(X, GraphCreate, cuGraphCreate)                                                     \
    RK__CUDA_AS(X, GraphDestroy, cuGraphDestroy)                                                   \
    RK__CUDA_AS(X, GraphInstantiateWithFlags, cuGraphInstantiateWithFlags)                         \
    RK__CUDA_AS(X, GraphLaunch, cuGraphLaunch)                                                     \
    RK__CUDA_AS(X, GraphExecDestroy, cuGraphExecDestroy)                                           \
    RK__CUDA_AS(X, StreamBeginCapture, cuStreamBeginCapture_v2)                                    \
    RK__CUDA_AS(X, StreamEndCapture, cuStreamEndCapture)                                           \
    RK__CUDA_AS(X, MemGetHandleForAddressRange, cuMemGetHandleForAddressRange)

#define RK__CUDA_MEMBER(member, symbol, type) type *member;

typedef struct rk__cuda_table {
    RK__CUDA_REQUIRED(RK__CUDA_MEMBER)
    RK__CUDA_OPTIONAL(RK__CUDA_MEMBER)
} rk__cuda_table;

/* ---- NVRTC and nvJitLink ---- */

#define RK__NVRTC_REQUIRED(X)                                                                      \
    RK__CUDA_AS(X, Version, nvrtcVersion)                                                          \
    RK__CUDA_AS(X, GetErrorString, nvrtcGetErrorString)                                            \
    RK__CUDA_AS(X, GetNumSupportedArchs, nvrtcGetNumSupportedArchs)                                \
    RK__CUDA_AS(X, GetSupportedArchs, nvrtcGetSupportedArchs)                                      \
    RK__CUDA_AS(X, CreateProgram, nvrtcCreateProgram)                                              \
    RK__CUDA_AS(X, DestroyProgram, nvrtcDestroyProgram)                                            \
    RK__CUDA_AS(X, CompileProgram, nvrtcCompileProgram)                                            \
    RK__CUDA_AS(X, GetCUBINSize, nvrtcGetCUBINSize)                                                \
    RK__CUDA_AS(X, GetCUBIN, nvrtcGetCUBIN)                                                        \
    RK__CUDA_AS(X, GetPTXSize, nvrtcGetPTXSize)                                                    \
    RK__CUDA_AS(X, GetPTX, nvrtcGetPTX)                                                            \
    RK__CUDA_AS(X, GetProgramLogSize, nvrtcGetProgramLogSize)                                      \
    RK__CUDA_AS(X, GetProgramLog, nvrtcGetProgramLog)

typedef struct rk__nvrtc_table {
    RK__NVRTC_REQUIRED(RK__CUDA_MEMBER)
} rk__nvrtc_table;

/* In the header these are inline functions around symbols with a version in their name; the library
 * exports the plain names too. The header's nvJitLinkCreate lost a const. */
typedef nvJitLinkResult rk__nvjitlink_create(nvJitLinkHandle *out, uint32_t option_count,
                                             const char *const *options);
typedef nvJitLinkResult rk__nvjitlink_version(unsigned *major, unsigned *minor);
#define RK__NVJITLINK_REQUIRED(X)                                                                  \
    X(Create, nvJitLinkCreate, rk__nvjitlink_create)                                               \
    RK__CUDA_AS(X, Destroy, nvJitLinkDestroy)                                                      \
    RK__CUDA_AS(X, AddData, nvJitLinkAddData)                                                      \
    RK__CUDA_AS(X, Complete, nvJitLinkComplete)                                                    \
    RK__CUDA_AS(X, GetLinkedCubinSize, nvJitLinkGetLinkedCubinSize)                                \
    RK__CUDA_AS(X, GetLinkedCubin, nvJitLinkGetLinkedCubin)                                        \
    RK__CUDA_AS(X, GetErrorLogSize, nvJitLinkGetErrorLogSize)                                      \
    RK__CUDA_AS(X, GetErrorLog, nvJitLinkGetErrorLog)
#define RK__NVJITLINK_OPTIONAL(X) X(Version, nvJitLinkVersion, rk__nvjitlink_version)

typedef struct rk__nvjitlink_table {
    RK__NVJITLINK_REQUIRED(RK__CUDA_MEMBER)
    RK__NVJITLINK_OPTIONAL(RK__CUDA_MEMBER)
} rk__nvjitlink_table;

/* ---- NVML, whose header is not in the toolkit ---- */

typedef int rk__nvml_result; /* 0 is success */
typedef struct rk__nvml_device_handle *rk__nvml_device;
typedef struct rk__nvml_utilization {
    unsigned gpu, memory; /* percent of the last sample period */
} rk__nvml_utilization;
typedef struct rk__nvml_process {
    unsigned pid;
    unsigned long long memory; /* bytes; ~0: unknown */
    unsigned gpu_instance, compute_instance;
} rk__nvml_process;
enum { RK__NVML_CLOCK_SM = 1, RK__NVML_CLOCK_MEMORY = 2, RK__NVML_TEMPERATURE_GPU = 0 };

typedef rk__nvml_result rk__nvml_plain(void);
typedef const char *rk__nvml_error_string(rk__nvml_result result);
typedef rk__nvml_result rk__nvml_text(char *text, unsigned size);
typedef rk__nvml_result rk__nvml_by_bus(const char *pci_bus, rk__nvml_device *out);
typedef rk__nvml_result rk__nvml_number(rk__nvml_device device, unsigned *out);
typedef rk__nvml_result rk__nvml_numbered(rk__nvml_device device, int which, unsigned *out);
typedef rk__nvml_result rk__nvml_rates(rk__nvml_device device, rk__nvml_utilization *out);
typedef rk__nvml_result rk__nvml_processes(rk__nvml_device device, unsigned *count,
                                           rk__nvml_process *out);

#define RK__NVML_REQUIRED(X)                                                                       \
    X(Init, nvmlInit_v2, rk__nvml_plain)                                                           \
    X(DeviceGetHandleByPciBusId, nvmlDeviceGetHandleByPciBusId_v2, rk__nvml_by_bus)
/* NULL when missing: what it tells is unknown then. Clocks are in MHz, temperatures in degrees
 * Celsius, power in mW. */
#define RK__NVML_OPTIONAL(X)                                                                       \
    X(Shutdown, nvmlShutdown, rk__nvml_plain)                                                      \
    X(ErrorString, nvmlErrorString, rk__nvml_error_string)                                         \
    X(SystemGetDriverVersion, nvmlSystemGetDriverVersion, rk__nvml_text)                           \
    X(DeviceGetCurrPcieLinkGeneration, nvmlDeviceGetCurrPcieLinkGeneration, rk__nvml_number)       \
    X(DeviceGetCurrPcieLinkWidth, nvmlDeviceGetCurrPcieLinkWidth, rk__nvml_number)                 \
    X(DeviceGetMaxPcieLinkGeneration, nvmlDeviceGetMaxPcieLinkGeneration, rk__nvml_number)         \
    X(DeviceGetMaxPcieLinkWidth, nvmlDeviceGetMaxPcieLinkWidth, rk__nvml_number)                   \
    X(DeviceGetClockInfo, nvmlDeviceGetClockInfo, rk__nvml_numbered)                               \
    X(DeviceGetMaxClockInfo, nvmlDeviceGetMaxClockInfo, rk__nvml_numbered)                         \
    X(DeviceGetTemperature, nvmlDeviceGetTemperature, rk__nvml_numbered)                           \
    X(DeviceGetPowerUsage, nvmlDeviceGetPowerUsage, rk__nvml_number)                               \
    X(DeviceGetUtilizationRates, nvmlDeviceGetUtilizationRates, rk__nvml_rates)                    \
    X(DeviceGetComputeRunningProcesses, nvmlDeviceGetComputeRunningProcesses_v3, rk__nvml_processes)

typedef struct rk__nvml_table {
    RK__NVML_REQUIRED(RK__CUDA_MEMBER)
    RK__NVML_OPTIONAL(RK__CUDA_MEMBER)
} rk__nvml_table;

/* ---- loading ---- */

extern const rk__cuda_table *rk__cuda;
extern const rk__nvrtc_table *rk__nvrtc;
extern const rk__nvjitlink_table *rk__nvjitlink;
extern const rk__nvml_table *rk__nvml;

/* Each loads its library once per process and keeps it; a failure is tried again by the next call.
 * RK_EDEVICE says what was looked for, where, and what dlopen said. thread: any. blocks: yes: on
 * files, and cuInit takes up to seconds on a machine whose driver is asleep. */

/* Also puts CUDA_MODULE_LOADING=EAGER and CUDA_DEVICE_MAX_CONNECTIONS=32 into the environment (what
 * is set there stays; as with any setenv, no other thread may read it just then) and calls cuInit.
 * RK_EDEVICE also: cuInit fails, a driver before CUDA 12. */
int rk__cuda_load(void);
int rk__nvrtc_load(void);
int rk__nvjitlink_load(void);
/* Also calls nvmlInit. false: there is no NVML, and rk__nvml is NULL; never an error. */
bool rk__nvml_load(void);

/* The CUDA version of the driver, as cuDriverGetVersion gives it (13000); 0 until loaded. */
int rk__cuda_driver_version(void);

/* ---- failures ---- */

/* Sets the sentence "WHAT: TEXT (NAME)", where WHAT is what was being done ("allocating 64 MiB of
 * pinned memory") and the rest is what CUDA says about result; returns RK_EDEVICE. For results that
 * are no success. The library is loaded. thread: any. blocks: no */
int rk__cuda_fail(CUresult result, const char *what, ...) RK_PRINTF(2, 3);
int rk__nvrtc_fail(nvrtcResult result, const char *what, ...) RK_PRINTF(2, 3);
int rk__nvjitlink_fail(nvJitLinkResult result, const char *what, ...) RK_PRINTF(2, 3);

#endif
