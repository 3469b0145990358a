/* Unit tests of the list of devices: what a CUDA device can do and is compiled for, what is said
 * where there is none, and the list itself. */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/error.h"
#include "base/topology.h"
#include "rk.h"

#define HAS(text, part) cr_assert_not_null(strstr(text, part), "\"%s\" is not in: %s", part, text)

static rk_device devices[64];
static size_t count;
static char missing[RK_DEVICE_TEXT];

static void list_devices(void)
{
    cr_assert_eq(rk_devices(devices, 64, &count, missing), 0, "%s", rk_errdetail());
}

static void expect_cpu_only(void)
{
    list_devices();
    cr_assert_eq(count, 1);
    cr_assert_str_eq(devices[0].id, "cpu");
    cr_assert_str_not_empty(missing);
}

/* ---- the cpu -------------------------------------------------------------------------------- */

Test(cudaprobe, the_cpu_comes_first)
{
    list_devices();
    cr_assert_geq(count, 1);
    cr_assert_str_eq(devices[0].id, "cpu");
    cr_assert_str_not_empty(devices[0].name);
    cr_assert_null(strchr(devices[0].name, '\n'));
    cr_assert_eq(devices[0].processors, rk__cpu_count());
    cr_assert_gt(devices[0].memory, UINT64_C(1) << 24);
    cr_assert_str_empty(devices[0].refused[RK_MODE_PERSISTENT]);
    HAS(devices[0].refused[RK_MODE_BOUNDED], "mode \"bounded\" is for GPUs");
    HAS(devices[0].refused[RK_MODE_BATCH], "mode \"batch\" is for GPUs");
}

Test(cudaprobe, capacity_bounds_what_is_written_but_not_what_is_counted)
{
    size_t all, again;
    list_devices();
    all = count;
    cr_assert_eq(rk_devices(NULL, 0, &again, NULL), 0);
    cr_assert_eq(again, all);
    memset(devices, 0x5a, sizeof devices);
    cr_assert_eq(rk_devices(devices, 1, &again, NULL), 0);
    cr_assert_eq(again, all);
    cr_assert_str_eq(devices[0].id, "cpu");
    cr_assert_eq((unsigned char)devices[1].id[0], 0x5a);
}

Test(cudaprobe, a_machine_without_a_gpu_does_not_touch_the_last_failure)
{
    rk__fail(RK_EINVAL, "what happened before");
    list_devices();
    cr_assert_str_eq(rk_errdetail(), "what happened before");
}

Test(cudaprobe, modes_have_names)
{
    cr_assert_str_eq(rk_mode_name(RK_MODE_PERSISTENT), "persistent");
    cr_assert_str_eq(rk_mode_name(RK_MODE_BOUNDED), "bounded");
    cr_assert_str_eq(rk_mode_name(RK_MODE_BATCH), "batch");
    cr_assert_str_eq(rk_mode_name(RK_MODES), "?");
}

#ifndef RK_HAVE_CUDA

Test(cudaprobe, a_build_without_cuda_says_so)
{
    expect_cpu_only();
    HAS(missing, "this build has no CUDA back end");
}

#else

#include "device/cuda/driver.h"
#include "device/cuda/probe.h"

/* ---- modes ---------------------------------------------------------------------------------- */

static const rk__cuda_traits fine = {.major = 9, .unified = true, .maps_host = true};

static void refuses(const rk__cuda_traits *t, enum rk_mode mode, const char *part)
{
    const char *reason = rk__cuda_refusal(t, mode);
    cr_assert_not_null(reason, "%s is allowed", rk_mode_name(mode));
    HAS(reason, part);
}

static void refuses_all(const rk__cuda_traits *t, const char *part)
{
    for (int mode = 0; mode < RK_MODES; mode++) {
        refuses(t, (enum rk_mode)mode, part);
    }
}

static void refuses_only_persistent(const rk__cuda_traits *t, const char *part)
{
    refuses(t, RK_MODE_PERSISTENT, part);
    cr_assert_null(rk__cuda_refusal(t, RK_MODE_BOUNDED));
    cr_assert_null(rk__cuda_refusal(t, RK_MODE_BATCH));
}

Test(cudaprobe, an_ordinary_device_runs_all_modes)
{
    rk__cuda_traits volta = fine;
    volta.major = 7;
    for (int mode = 0; mode < RK_MODES; mode++) {
        cr_assert_null(rk__cuda_refusal(&fine, (enum rk_mode)mode));
        cr_assert_null(rk__cuda_refusal(&volta, (enum rk_mode)mode));
    }
}

Test(cudaprobe, what_ends_or_hides_long_kernels_refuses_persistent)
{
    rk__cuda_traits display = fine, blocking = fine, lazy = fine;
    display.watchdog = blocking.blocking_launch = lazy.lazy = true;
    refuses_only_persistent(&display, "a display's watchdog ends kernels that run long");
    refuses_only_persistent(&blocking, "CUDA_LAUNCH_BLOCKING=1");
    refuses_only_persistent(&lazy, "CUDA_MODULE_LOADING=EAGER");
}

Test(cudaprobe, what_no_kernel_can_do_without_refuses_all_modes)
{
    rk__cuda_traits prohibited = fine, old = fine, apart = fine, unmapped = fine, blind = fine;
    prohibited.prohibited = true;
    old.major = 6;
    old.minor = 2;
    apart.unified = false;
    unmapped.maps_host = false;
    blind.no_target = "no compiler far and wide";
    refuses_all(&prohibited, "nvidia-smi -c DEFAULT");
    refuses_all(&old, "compute capability below 7.0");
    refuses_all(&apart, "unified addressing");
    refuses_all(&unmapped, "map host memory");
    refuses_all(&blind, "no compiler far and wide");
    blind.watchdog = true;
    refuses_all(&blind, "no compiler far and wide");
}

/* ---- architectures -------------------------------------------------------------------------- */

static const int archs[] = {75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121}; /* 13.0 */

static void expect_target(int major, int minor, const char *expected)
{
    rk__cuda_target target;
    char text[16];
    cr_assert_eq(rk__cuda_choose(archs, sizeof archs / sizeof *archs, major, minor, &target), 0,
                 "%d.%d: %s", major, minor, rk_errdetail());
    rk__cuda_target_text(target, text);
    cr_assert_str_eq(text, expected, "%d.%d: %s", major, minor, text);
}

Test(cudaprobe, the_best_architecture_a_device_runs_is_chosen)
{
    expect_target(7, 5, "sm_75");
    expect_target(8, 0, "sm_80");
    expect_target(8, 2, "sm_80");
    expect_target(8, 6, "sm_86");
    expect_target(9, 0, "sm_90");
    expect_target(10, 3, "sm_103");
    expect_target(10, 9, "sm_103");
    expect_target(12, 1, "sm_121");
}

Test(cudaprobe, newer_devices_get_ptx_and_older_ones_a_reason)
{
    rk__cuda_target target = {7, true};
    expect_target(13, 0, "compute_121");
    expect_target(20, 0, "compute_121");
    cr_assert_eq(rk__cuda_choose(archs, sizeof archs / sizeof *archs, 7, 0, &target), RK_EDEVICE);
    HAS(rk_errdetail(), "7.0");
    HAS(rk_errdetail(), "7.5");
    cr_assert_eq(target.arch, 7);
    expect_target(9, 9, "sm_90");
    const int gap[] = {80, 120};
    cr_assert_eq(rk__cuda_choose(gap, 2, 10, 0, &target), 0);
    cr_assert(target.ptx && target.arch == 80);
}

/* ---- the stand-in --------------------------------------------------------------------------- */

/* tests/fakecuda, built beside the tests. */
static char libraries[512];
static int (*set_fault)(const char *name, long value);

static void use_stand_in(void)
{
    char *path = libraries;
    ssize_t n = readlink("/proc/self/exe", path, sizeof libraries - 16);
    cr_assert_gt(n, 0);
    path[n] = '\0';
    for (int up = 0; up < 2; up++) {
        *strrchr(path, '/') = '\0';
    }
    strcat(path, "/fakecuda");
    setenv("RK_CUDA_LIBS", path, 1);
}

/* The same, with its driver loaded already, so that faults can be set. */
static void stand_in(void)
{
    char driver[600];
    use_stand_in();
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    snprintf(driver, sizeof driver, "%s/libcuda.so.1", libraries);
    void *handle = dlopen(driver, RTLD_NOW | RTLD_LOCAL);
    cr_assert_not_null(handle, "%s", dlerror());
    *(void **)&set_fault = dlsym(handle, "fakecuda_set");
    cr_assert_not_null(set_fault);
}

static void fault(const char *name, long value)
{
    cr_assert_eq(set_fault(name, value), 0, "no fault %s", name);
}

Test(cudaprobe, a_device_is_listed_with_its_facts, .init = use_stand_in)
{
    list_devices();
    cr_assert_eq(count, 2);
    cr_assert_str_empty(missing, "%s", missing);
    const rk_device *d = &devices[1];
    cr_assert_str_eq(d->id, "cuda:0");
    cr_assert_str_not_empty(d->name);
    cr_assert_eq(strlen(d->uuid), 36);
    cr_assert_str_not_empty(d->pci_bus);
    cr_assert(d->major == 9 && d->minor == 0);
    cr_assert_str_eq(d->target, "sm_90");
    cr_assert_gt(d->processors, 0);
    cr_assert_eq(d->warp, 1);
    cr_assert_gt(d->memory, 0);
    cr_assert_geq(d->threads_per_block, 1024);
    cr_assert_geq(d->driver_cuda, 12000);
    cr_assert_geq(d->nvrtc, 12000);
    cr_assert_str_eq(d->compute_mode, "default");
    for (int mode = 0; mode < RK_MODES; mode++) {
        cr_assert_str_empty(d->refused[mode], "%s", d->refused[mode]);
    }
    cr_assert_str_eq(getenv("CUDA_MODULE_LOADING"), "EAGER");
    cr_assert_str_eq(getenv("CUDA_DEVICE_MAX_CONNECTIONS"), "32");
}

Test(cudaprobe, every_device_is_listed, .init = stand_in)
{
    fault("devices", 3);
    list_devices();
    cr_assert_eq(count, 4);
    cr_assert_str_eq(devices[3].id, "cuda:2");
    cr_assert_str_neq(devices[3].uuid, devices[1].uuid);
    cr_assert_str_neq(devices[3].pci_bus, devices[1].pci_bus);
    cr_assert_gt(devices[3].pcie_generation, 0);
    cr_assert_gt(devices[3].pcie_width_max, 0);
    cr_assert_str_not_empty(devices[3].driver);
}

Test(cudaprobe, attributes_refuse_modes, .init = stand_in)
{
    fault("timeout_attr", 1);
    list_devices();
    cr_assert(devices[1].watchdog);
    HAS(devices[1].refused[RK_MODE_PERSISTENT], "watchdog");
    cr_assert_str_empty(devices[1].refused[RK_MODE_BOUNDED]);
    cr_assert_str_empty(missing);
    fault("timeout_attr", 0);
    fault("lazy", 1);
    list_devices();
    HAS(devices[1].refused[RK_MODE_PERSISTENT], "CUDA_MODULE_LOADING");
    fault("lazy", 0);
    setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
    list_devices();
    HAS(devices[1].refused[RK_MODE_PERSISTENT], "CUDA_LAUNCH_BLOCKING");
}

Test(cudaprobe, devices_that_nobody_may_use_count_as_missing, .init = stand_in)
{
    fault("compute_mode", 2);
    list_devices();
    cr_assert_eq(count, 2);
    cr_assert_str_eq(devices[1].compute_mode, "prohibited");
    HAS(devices[1].refused[RK_MODE_BATCH], "prohibited");
    HAS(missing, "prohibited");
    fault("compute_mode", 0);
    fault("cc", 61);
    list_devices();
    HAS(missing, "compute capability below 7.0");
}

Test(cudaprobe, a_driver_without_a_device_says_so, .init = stand_in)
{
    fault("no_device", 1);
    expect_cpu_only();
    HAS(missing, "sees no device");
}

Test(cudaprobe, a_driver_that_does_not_start_is_tried_again, .init = stand_in)
{
    fault("init", 1);
    expect_cpu_only();
    HAS(missing, "cuInit");
    fault("init", 0);
    list_devices();
    cr_assert_eq(count, 2);
}

/* ---- libraries that are not there ----------------------------------------------------------- */

static char folder[64];

static void set_up(void)
{
    strcpy(folder, "/tmp/rk-cudaprobe-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    setenv("RK_CUDA_LIBS", folder, 1);
}

static void tear_down(void)
{
    char path[128];
    snprintf(path, sizeof path, "%s/libcuda.so.1", folder);
    unlink(path);
    rmdir(folder);
}

Test(cudaprobe, an_empty_folder_has_no_driver, .init = set_up, .fini = tear_down)
{
    expect_cpu_only();
    HAS(missing, "libcuda.so.1");
    HAS(missing, folder);
    HAS(missing, "cannot open shared object file");
    cr_assert_eq(rk__nvrtc_load(), RK_EDEVICE);
    HAS(rk_errdetail(), "libnvrtc.so.13, libnvrtc.so.12, libnvrtc.so in /tmp/rk-cudaprobe-");
    cr_assert_eq(rk__nvjitlink_load(), RK_EDEVICE);
    HAS(rk_errdetail(), "libnvJitLink.so.13");
    cr_assert_not(rk__nvml_load());
    cr_assert_null(rk__cuda);
    cr_assert_null(rk__nvml);
}

Test(cudaprobe, a_broken_library_is_named_with_its_fault, .init = set_up, .fini = tear_down)
{
    char path[128];
    snprintf(path, sizeof path, "%s/libcuda.so.1", folder);
    FILE *file = fopen(path, "w");
    fputs("this is not a library, though it is long enough to have been one, had it wanted to be "
          "one of those that begin as they should",
          file);
    fclose(file);
    expect_cpu_only();
    HAS(missing, "invalid ELF header");
}

Test(cudaprobe, another_library_under_the_name_lacks_a_function, .init = set_up, .fini = tear_down)
{
    char path[128];
    Dl_info info;
    cr_assert_neq(dladdr(dlsym(RTLD_DEFAULT, "dlopen"), &info), 0);
    snprintf(path, sizeof path, "%s/libcuda.so.1", folder);
    cr_assert_eq(symlink(info.dli_fname, path), 0);
    expect_cpu_only();
    HAS(missing, "the CUDA driver (");
    HAS(missing, "has no function cuInit");
}

/* ---- Lua ------------------------------------------------------------------------------------ */

static void expect_lua(const char *chunk)
{
    rk_config config = RK_CONFIG_INIT;
    rk_runtime *rt;
    config.device = "cpu";
    cr_assert_eq(rk_open(&rt, &config), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_dostring(rt, chunk, "=test"), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_close(rt), 0);
}

Test(cudaprobe, lua_gets_tables, .init = stand_in)
{
    fault("timeout_attr", 1);
    expect_lua("local list = rk.devices()\n"
               "assert(#list == 2 and list.missing == nil)\n"
               "local cpu, gpu = list[1], list[2]\n"
               "assert(cpu.id == 'cpu' and cpu.modes.persistent == true)\n"
               "assert(cpu.modes.batch:find('GPUs') and cpu.uuid == nil)\n"
               "assert(gpu.id == 'cuda:0' and gpu.compute == '9.0' and gpu.target == 'sm_90')\n"
               "assert(gpu.modes.bounded == true and gpu.modes.persistent:find('watchdog'))\n"
               "assert(gpu.watchdog == true and gpu.memory > 0 and #gpu.uuid == 36)\n");
}

Test(cudaprobe, lua_learns_what_is_missing, .init = set_up, .fini = tear_down)
{
    expect_lua("local list = rk.devices()\n"
               "assert(#list == 1 and list.missing:find('libcuda.so.1', 1, true))\n");
}

#endif
