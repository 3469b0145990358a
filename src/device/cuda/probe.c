/*
 * probe.c -- the list of CUDA devices, with the facts that rk.devices() tells and with what each of
 * them cannot do.
 *
 * Everything here is asked of the driver, of NVRTC and of NVML without a context, so looking costs
 * no memory on a device and disturbs nothing that runs there. What a driver does not know (an
 * attribute newer than it) counts as unknown.
 *
 * While a GPU of ours is open a kernel may be running there, and then only few calls are legal: the
 * list of before answers instead.
 *
 * Threads: any. The last list and the number of open GPUs are under `list_lock`.
 */
#include "device/cuda/probe.h"
#include "device/cuda/driver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"

enum { ARCHS_MAX = 64 };

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static rk__cuda_device *last; /* for the life of the process */
static size_t last_count;
static uint32_t open_gpus;

/* ---- what a device can do ------------------------------------------------------------------- */

static const char *refuses_all(const rk__cuda_traits *t)
{
    if (t->prohibited) {
        return "the device is in compute mode \"prohibited\": an administrator can allow programs "
               "again with nvidia-smi -c DEFAULT";
    }
    if (t->major < 7) {
        return "the device has a compute capability below 7.0: ring kernels read 16 bytes at once, "
               "which needs Volta or newer";
    }
    if (!t->unified) {
        return "the device has no unified addressing: host and device could not share rings";
    }
    if (!t->maps_host) {
        return "the device cannot map host memory: host and device could not share rings";
    }
    return t->no_target;
}

static const char *refuses_persistent(const rk__cuda_traits *t)
{
    if (t->watchdog) {
        return "a display's watchdog ends kernels that run long: use mode = \"bounded\"";
    }
    if (t->blocking_launch) {
        return "CUDA_LAUNCH_BLOCKING=1 is set: a launch would wait for a kernel that stays; unset "
               "it, or use mode = \"bounded\"";
    }
    if (t->lazy) {
        return "modules are loaded lazily (CUDA_MODULE_LOADING), which waits for kernels that "
               "stay; set CUDA_MODULE_LOADING=EAGER, or use mode = \"bounded\"";
    }
    return NULL;
}

const char *rk__cuda_refusal(const rk__cuda_traits *traits, enum rk_mode mode)
{
    const char *reason = refuses_all(traits);
    return reason != NULL ? reason : mode == RK_MODE_PERSISTENT ? refuses_persistent(traits) : NULL;
}

/* ---- what is compiled for it ---------------------------------------------------------------- */

int rk__cuda_choose(const int *archs, size_t count, int major, int minor, rk__cuda_target *out)
{
    int device = major * 10 + minor, best = 0, oldest = 0;
    for (size_t i = 0; i < count; i++) {
        best = archs[i] <= device && archs[i] > best ? archs[i] : best;
        oldest = oldest == 0 || archs[i] < oldest ? archs[i] : oldest;
    }
    if (best == 0) {
        return rk__fail(
            RK_EDEVICE,
            "the device has compute capability %d.%d, and this NVRTC compiles for %d.%d "
            "and newer: an older CUDA Toolkit's NVRTC can be used, for example by "
            "CUDA_HOME",
            major, minor, oldest / 10, oldest % 10);
    }
    *out = (rk__cuda_target){best, best / 10 != major};
    return 0;
}

void rk__cuda_target_text(rk__cuda_target target, char text[16])
{
    snprintf(text, 16, "%s_%d", target.ptx ? "compute" : "sm", target.arch);
}

/* What both compilers are, once for all devices. */
typedef struct compilers {
    int version; /* of NVRTC: 13000 */
    int archs[ARCHS_MAX];
    size_t count;
    char missing[RK_DEVICE_TEXT]; /* why nothing can be compiled, or "" */
} compilers;

static int ask_nvrtc(compilers *c)
{
    int major, minor, count;
    nvrtcResult result = rk__nvrtc->Version(&major, &minor);
    if (result == NVRTC_SUCCESS) {
        c->version = major * 1000 + minor * 10;
        result = rk__nvrtc->GetNumSupportedArchs(&count);
    }
    if (result == NVRTC_SUCCESS && count > ARCHS_MAX) {
        return rk__fail(RK_ELIMIT, "NVRTC knows %d architectures, more than there is room for",
                        count);
    }
    if (result == NVRTC_SUCCESS) {
        result = rk__nvrtc->GetSupportedArchs(c->archs);
        c->count = (size_t)count;
    }
    return result == NVRTC_SUCCESS ? 0
                                   : rk__nvrtc_fail(result, "asking NVRTC what it compiles for");
}

static void ask_compilers(compilers *c)
{
    memset(c, 0, sizeof *c);
    int code = rk__nvrtc_load();
    code = code < 0 ? code : ask_nvrtc(c);
    code = code < 0 ? code : rk__nvjitlink_load();
    if (code < 0) {
        snprintf(c->missing, sizeof c->missing, "%s", rk_errdetail());
    }
}

/* ---- facts ---------------------------------------------------------------------------------- */

static int attribute(CUdevice device, CUdevice_attribute which, int otherwise)
{
    int value;
    return rk__cuda->DeviceGetAttribute(&value, which, device) == CUDA_SUCCESS ? value : otherwise;
}

static int identify(rk__cuda_device *d)
{
    CUresult result = rk__cuda->DeviceGet(&d->handle, d->ordinal);
    if (result == CUDA_SUCCESS) {
        result = rk__cuda->DeviceGetName(d->facts.name, sizeof d->facts.name, d->handle);
    }
    return result == CUDA_SUCCESS ? 0 : rk__cuda_fail(result, "looking at cuda:%d", d->ordinal);
}

static void set_names(rk__cuda_device *d)
{
    CUuuid uuid;
    size_t memory;
    rk_device *f = &d->facts;
    snprintf(f->id, sizeof f->id, "cuda:%d", d->ordinal);
    if (rk__cuda->DeviceGetUuid(&uuid, d->handle) == CUDA_SUCCESS) {
        char *at = f->uuid;
        for (int i = 0; i < 16; i++) {
            at += sprintf(at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
                          (unsigned char)uuid.bytes[i]);
        }
    }
    if (rk__cuda->DeviceGetPCIBusId(f->pci_bus, sizeof f->pci_bus, d->handle) != CUDA_SUCCESS) {
        f->pci_bus[0] = '\0';
    }
    if (rk__cuda->DeviceTotalMem(&memory, d->handle) == CUDA_SUCCESS) {
        f->memory = memory;
    }
}

static const char *compute_mode_name(int mode)
{
    switch (mode) {
    case CU_COMPUTEMODE_DEFAULT:
        return "default";
    case CU_COMPUTEMODE_PROHIBITED:
        return "prohibited";
    case CU_COMPUTEMODE_EXCLUSIVE_PROCESS:
        return "exclusive process";
    default:
        return "";
    }
}

static void set_size(rk_device *f, CUdevice d)
{
#define ASK(name) (uint32_t) attribute(d, CU_DEVICE_ATTRIBUTE_##name, 0)
    f->processors = ASK(MULTIPROCESSOR_COUNT);
    f->warp = ASK(WARP_SIZE);
    f->threads_per_processor = ASK(MAX_THREADS_PER_MULTIPROCESSOR);
    f->threads_per_block = ASK(MAX_THREADS_PER_BLOCK);
    f->shared_per_processor = ASK(MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
    f->sync_domains = ASK(MEM_SYNC_DOMAIN_COUNT);
#undef ASK
}

static void set_features(rk_device *f, CUdevice d)
{
#define ASK(name) attribute(d, CU_DEVICE_ATTRIBUTE_##name, 0)
    f->major = ASK(COMPUTE_CAPABILITY_MAJOR);
    f->minor = ASK(COMPUTE_CAPABILITY_MINOR);
    f->watchdog = ASK(KERNEL_EXEC_TIMEOUT) != 0;
    f->integrated = ASK(INTEGRATED) != 0;
    f->host_atomics = ASK(HOST_NATIVE_ATOMIC_SUPPORTED) != 0;
    f->dma_buf = ASK(DMA_BUF_SUPPORTED) != 0;
    f->rdma_write_order = ASK(GPU_DIRECT_RDMA_WRITES_ORDERING);
    snprintf(f->compute_mode, sizeof f->compute_mode, "%s", compute_mode_name(ASK(COMPUTE_MODE)));
#undef ASK
    f->numa_node = attribute(d, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, -1);
}

static uint32_t management_number(rk__nvml_number *ask, rk__nvml_device device)
{
    unsigned value;
    return ask != NULL && ask(device, &value) == 0 ? value : 0;
}

static void set_link(rk_device *f)
{
    rk__nvml_device device;
    if (!rk__nvml_load()) {
        return;
    }
    if (rk__nvml->SystemGetDriverVersion != NULL &&
        rk__nvml->SystemGetDriverVersion(f->driver, sizeof f->driver) != 0) {
        f->driver[0] = '\0';
    }
    if (f->pci_bus[0] == '\0' || rk__nvml->DeviceGetHandleByPciBusId(f->pci_bus, &device) != 0) {
        return;
    }
    f->pcie_generation = management_number(rk__nvml->DeviceGetCurrPcieLinkGeneration, device);
    f->pcie_width = management_number(rk__nvml->DeviceGetCurrPcieLinkWidth, device);
    f->pcie_generation_max = management_number(rk__nvml->DeviceGetMaxPcieLinkGeneration, device);
    f->pcie_width_max = management_number(rk__nvml->DeviceGetMaxPcieLinkWidth, device);
}

/* ---- modes ---------------------------------------------------------------------------------- */

static bool loads_lazily(void)
{
    CUmoduleLoadingMode mode;
    return rk__cuda->ModuleGetLoadingMode(&mode) == CUDA_SUCCESS && mode == CU_MODULE_LAZY_LOADING;
}

static void set_target(rk__cuda_device *d, const compilers *c, char missing[RK_DEVICE_TEXT])
{
    rk_device *f = &d->facts;
    f->nvrtc = c->version;
    snprintf(missing, RK_DEVICE_TEXT, "%s", c->missing);
    if (missing[0] != '\0') {
        return;
    }
    if (rk__cuda_choose(c->archs, c->count, f->major, f->minor, &d->target) < 0) {
        snprintf(missing, RK_DEVICE_TEXT, "%s", rk_errdetail());
        return;
    }
    rk__cuda_target_text(d->target, f->target);
}

static void set_modes(rk__cuda_device *d, const char *missing)
{
    const char *blocking = getenv("CUDA_LAUNCH_BLOCKING");
    rk_device *f = &d->facts;
    rk__cuda_traits traits = {
        .major = f->major,
        .minor = f->minor,
        .unified = attribute(d->handle, CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 0) != 0,
        .maps_host = attribute(d->handle, CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 0) != 0,
        .prohibited = strcmp(f->compute_mode, "prohibited") == 0,
        .watchdog = f->watchdog,
        .blocking_launch = blocking != NULL && atoi(blocking) != 0,
        .lazy = loads_lazily(),
        .no_target = missing[0] != '\0' ? missing : NULL};
    for (int mode = 0; mode < RK_MODES; mode++) {
        const char *reason = rk__cuda_refusal(&traits, (enum rk_mode)mode);
        snprintf(f->refused[mode], sizeof f->refused[mode], "%s", reason != NULL ? reason : "");
    }
}

/* ---- the list ------------------------------------------------------------------------------- */

static int describe(rk__cuda_device *d, const compilers *c)
{
    char missing[RK_DEVICE_TEXT];
    int code = identify(d);
    if (code < 0) {
        return code;
    }
    set_names(d);
    set_size(&d->facts, d->handle);
    set_features(&d->facts, d->handle);
    set_link(&d->facts);
    d->facts.driver_cuda = rk__cuda_driver_version();
    set_target(d, c, missing);
    set_modes(d, missing);
    return 0;
}

static int describe_all(rk__cuda_device **list, int count)
{
    compilers c;
    rk__cuda_device *devices = calloc((size_t)count, sizeof *devices);
    if (devices == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for a list of %d devices", count);
    }
    ask_compilers(&c);
    for (int i = 0; i < count; i++) {
        devices[i].ordinal = i;
        int code = describe(&devices[i], &c);
        if (code < 0) {
            free(devices);
            return code;
        }
    }
    *list = devices;
    return 0;
}

static int none_shown(void)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    return visible == NULL
               ? rk__fail(RK_EDEVICE, "the CUDA driver sees no device")
               : rk__fail(RK_EDEVICE, "the CUDA driver shows no device (CUDA_VISIBLE_DEVICES=%s)",
                          visible);
}

static int look(rk__cuda_device **list, size_t *count)
{
    int n = 0;
    CUresult result = rk__cuda->DeviceGetCount(&n);
    if (result != CUDA_SUCCESS) {
        return rk__cuda_fail(result, "counting the CUDA devices");
    }
    int code = n > 0 ? describe_all(list, n) : none_shown();
    if (code == 0) {
        *count = (size_t)n;
    }
    return code;
}

/* A copy of the last list for the caller. */
static int copy_last(rk__cuda_device **list, size_t *count)
{
    *list = malloc(last_count * sizeof **list);
    if (*list == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for a list of devices");
    }
    memcpy(*list, last, last_count * sizeof **list);
    *count = last_count;
    return 0;
}

int rk__cuda_probe(rk__cuda_device **list, size_t *count)
{
    rk__cuda_device *found = NULL;
    size_t n = 0;
    int code = rk__cuda_load();
    if (code < 0) {
        return code;
    }
    pthread_mutex_lock(&list_lock);
    if (open_gpus == 0 || last == NULL) {
        code = look(&found, &n);
    }
    if (found != NULL) {
        free(last);
        last = found;
        last_count = n;
    }
    code = code < 0 ? code : copy_last(list, count);
    pthread_mutex_unlock(&list_lock);
    return code;
}

void rk__cuda_probe_hold(bool open)
{
    pthread_mutex_lock(&list_lock);
    open_gpus += open ? 1u : UINT32_MAX;
    pthread_mutex_unlock(&list_lock);
}
