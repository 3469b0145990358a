/*
 * The stand-in for a GPU (tests/fakecuda) does what its README says: kernels are compiled, linked,
 * loaded and run; every fault is seen; calls that are forbidden while a kernel runs end the program.
 * Then, for the rest of the time, streams of random grids whose sums are checked. Seeded.
 * usage: fakecuda [seed] [seconds]
 */
#include <stdio.h>

#if !defined(RK_HAVE_CUDA)

int main(void)
{
    printf("stress/fakecuda: skipped: no CUDA Toolkit\n");
    return 0;
}

#else

#include "fakecuda/selftest.h"

#include <pthread.h>

enum { THREADS_MAX = 96, BLOCKS_MAX = 9 };

/* ---- what works ---- */

static void check_sums(const struct job *job, unsigned blocks, unsigned threads)
{
    for (unsigned b = 0; b < blocks; b++) {
        uint64_t wanted = 0;
        for (uint64_t i = 0; i < threads; i++) {
            wanted += (b * threads + i) * (b * threads + i);
        }
        CHECK(job->sums[b] == wanted);
    }
}

static void test_sum(void)
{
    struct job *job;
    begin();
    job = new_job(0);
    OK(launch(sum, job, 5, 33, streams[0]));
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_SUCCESS);
    check_sums(job, 5, 33);
    OK(launch(sum, job, 1, 1024, streams[0]));
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_SUCCESS);
    check_sums(job, 1, 1024);
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, launch(sum, job, 1, 1025, streams[0]));
    end();
}

static void test_memory(void)
{
    CUdeviceptr device, global;
    uint32_t words[256], value = 0;
    size_t size, left, total;
    begin();
    OK(cuda.MemAlloc(&device, sizeof words));
    OK(cuda.MemcpyDtoH(words, device, sizeof words));
    CHECK(words[0] == 0xa5a5a5a5);
    OK(cuda.MemsetD8(device, 1, sizeof words));
    OK(cuda.MemcpyDtoH(words, device, sizeof words));
    CHECK(words[255] == 0x01010101);
    OK(cuda.MemcpyHtoD(device + 4, &value, 4));
    OK(cuda.MemcpyDtoH(words, device, 8));
    CHECK(words[0] == 0x01010101 && words[1] == 0);
    OK(cuda.MemGetInfo(&left, &total));
    CHECK(left + sizeof words == total);
    OK(cuda.ModuleGetGlobal(&global, &size, module, "answer"));
    OK(cuda.MemcpyDtoH(&value, global, size));
    CHECK(size == 4 && value == 42);
    CHECK_IS(CUDA_ERROR_NOT_FOUND, cuda.ModuleGetGlobal(&global, &size, module, "question"));
    CHECK_IS(CUDA_ERROR_NOT_FOUND, cuda.ModuleGetFunction(&sum, module, "printf"));
    clear();
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuda.MemcpyHtoD(device + 4, words, sizeof words));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE,
             cuda.MemcpyHtoDAsync(device, words, sizeof words, streams[0]));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuda.MemFree(device + 4));
    OK(cuda.MemFree(device));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuda.MemFree(device));
    CHECK_IS(CUDA_ERROR_INVALID_VALUE, cuda.StreamCreateWithPriority(&streams[0], 0, 0));
    CHECK(errors(NULL, 0) == 5);
    CHECK(count("cuMemFree_v2") == 3);
    end();
}

/* A kernel that runs, and all that may be done meanwhile. */
static void test_running(void)
{
    CUdeviceptr device;
    CUevent event;
    char log[4096];
    struct job *job;
    begin();
    job = new_job(0);
    OK(cuda.MemAlloc(&device, 64));
    OK(cuda.EventCreate(&event, CU_EVENT_DISABLE_TIMING));
    OK(cuda.EventQuery(event));
    OK(launch(poll, job, 3, 5, streams[0]));
    OK(cuda.EventRecord(event, streams[0]));
    EVENTUALLY(load(&job->started) == 3);
    CHECK_IS(CUDA_ERROR_NOT_READY, cuda.StreamQuery(streams[0]));
    CHECK_IS(CUDA_ERROR_NOT_READY, cuda.EventQuery(event));
    CHECK(__atomic_load_n(&job->clock, __ATOMIC_RELAXED) < rk__now() - 900 * INT64_C(1000000000));
    jobs[1].sums[0] = 77;
    OK(cuda.MemcpyHtoDAsync(device, &jobs[1], 8, streams[1]));
    OK(cuda.MemcpyDtoHAsync(&jobs[2], device, 8, streams[1]));
    EVENTUALLY(cuda.StreamQuery(streams[1]) == CUDA_SUCCESS);
    CHECK(jobs[2].sums[0] == 77);
    OK(launch(sum, new_job(3), 2, 7, streams[2]));
    CHECK(compile(square_source, "sm_90", NULL, NULL, NULL, log, sizeof log) == 0);
    EVENTUALLY(cuda.StreamQuery(streams[2]) == CUDA_SUCCESS);
    check_sums(&jobs[3], 2, 7);
    OK(cuda.StreamWriteValue32(streams[1], (CUdeviceptr)(uintptr_t)&job->stop, 1, 0));
    EVENTUALLY(cuda.EventQuery(event) == CUDA_SUCCESS);
    CHECK(load(&job->ended) == 3);
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_SUCCESS);
    end();
}

/* Threads that have returned are not waited for at a barrier. */
static void test_barrier(void)
{
    struct job *job;
    begin();
    job = new_job(0);
    OK(launch(waiting, job, 1, 6, streams[0]));
    EVENTUALLY(load(&job->started) == 5);
    CHECK_IS(CUDA_ERROR_NOT_READY, cuda.StreamQuery(streams[0]));
    store(&job->stop, 1);
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_SUCCESS);
    end();
}

/* What does not fit waits; the answer about occupancy is what fits. */
static void test_residency(void)
{
    int per_sm, sms;
    struct job *job;
    begin();
    set("sms", 2);
    OK(cuda.OccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, poll, 1024, 0));
    CHECK(per_sm == 2);
    OK(cuda.OccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, poll, 32, 48 << 10));
    CHECK(per_sm == 3);
    OK(cuda.OccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, poll, 32, 0));
    CHECK(per_sm == 16);
    set("blocks", 4);
    OK(cuda.OccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, poll, 32, 0));
    OK(cuda.DeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
    CHECK(per_sm == 2 && sms == 2);
    job = new_job(0);
    OK(launch(poll, job, 7, 2, streams[0]));
    EVENTUALLY(load(&job->started) == 4);
    usleep(20000);
    CHECK(load(&job->started) == 4);
    store(&job->stop, 1);
    EVENTUALLY(load(&job->ended) == 7);
    set("blocks", 0);
    set("sms", 4);
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_SUCCESS);
    end();
}

/* ---- the compiler and the linker ---- */

static void test_compiler(void)
{
    char log[4096];
    size_t size;
    char *object;
    int archs[32], arch_count;
    CHECK(nvrtc.GetNumSupportedArchs(&arch_count) == 0 && arch_count == 7);
    CHECK(nvrtc.GetSupportedArchs(archs) == 0 && archs[0] == 80 && archs[6] == 120);
    CHECK(compile("int a = b;\n#line 7 \"mine.lua\"\nint c = d;\n", "sm_90", NULL, &object, &size,
                  log, sizeof log) == NVRTC_ERROR_COMPILATION);
    CHECK(strstr(log, "unit.cu(1): error: ") != NULL &&
          strstr(log, "mine.lua(7): error: ") != NULL);
    CHECK(strstr(log, "2 errors detected in the compilation of \"unit.cu\".") != NULL);
    CHECK(size == 0);
    free(object);
    CHECK(compile("#include \"lib/job.h\"\n#include \"none.h\"\n", "sm_90", NULL, NULL, NULL, log,
                  sizeof log) == NVRTC_ERROR_COMPILATION);
    CHECK(strstr(log, "unit.cu(2): catastrophic error: ") != NULL);
    CHECK(compile("", "sm_90", "--no-such-option", NULL, NULL, log, sizeof log) ==
          NVRTC_ERROR_INVALID_OPTION);
    CHECK(strstr(log, "nvrtc: error: unrecognized option --no-such-option found") != NULL);
    CHECK(compile("", "sm_130", NULL, NULL, NULL, log, sizeof log) == NVRTC_ERROR_INVALID_OPTION);
    set("compile_fail", 1);
    CHECK(compile("", "sm_90", NULL, NULL, NULL, log, sizeof log) == NVRTC_ERROR_COMPILATION);
    CHECK(strstr(log, "unit.cu(1): error: ") != NULL);
    set("compile_fail", 0);
}

static void test_linker(void)
{
    char log[4096];
    struct object image, kernels = compiled(kernels_source, "sm_90");
    struct object both[] = {kernels, compiled(square_source, "sm_90")};
    struct object twice[] = {both[1], both[1]};
    CHECK(linked(&kernels, 1, "-arch=sm_90", &image, log, sizeof log) != 0);
    CHECK(strstr(log, "error   : Undefined reference to 'square' in 'first'") != NULL);
    CHECK(linked(twice, 2, "-arch=sm_90", &image, log, sizeof log) != 0);
    CHECK(strstr(log, "Multiple definition of 'square'") != NULL);
    CHECK(linked(both, 2, "-arch=sm_80", &image, log, sizeof log) == NVJITLINK_ERROR_ARCH_MISMATCH);
    set("link_fail", 1);
    CHECK(linked(both, 2, "-arch=sm_90", &image, log, sizeof log) != 0);
    CHECK(strstr(log, "error") != NULL);
    set("link_fail", 0);
    free(both[0].data);
    free(both[1].data);
}

/* A device newer than the compiler: PTX, linked by the driver. */
static void test_driver_linker(void)
{
    char log[1024] = "";
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)(uintptr_t)sizeof log}, *image;
    struct object objects[] = {compiled(kernels_source, "compute_120"),
                               compiled(square_source, "compute_120")};
    struct object old = image_of_kernels();
    CUlinkState link;
    CUmodule loaded;
    size_t size;
    OK(cuda.Init(0));
    set("cc", 130);
    OK(cuda.CtxCreate(&context, 0, 0));
    CHECK_IS(CUDA_ERROR_NO_BINARY_FOR_GPU, cuda.ModuleLoadDataEx(&loaded, old.data, 0, NULL, NULL));
    CHECK_IS(CUDA_ERROR_INVALID_IMAGE, cuda.ModuleLoadDataEx(&loaded, "rubbish", 0, NULL, NULL));
    OK(cuda.LinkCreate(2, options, values, &link));
    OK(cuda.LinkAddData(link, CU_JIT_INPUT_PTX, objects[0].data, objects[0].size, "kernels", 0,
                        NULL, NULL));
    CHECK(cuda.LinkComplete(link, &image, &size) != CUDA_SUCCESS);
    CHECK(strstr(log, "Undefined reference to 'square' in 'kernels'") != NULL);
    OK(cuda.LinkAddData(link, CU_JIT_INPUT_PTX, objects[1].data, objects[1].size, "square", 0, NULL,
                        NULL));
    OK(cuda.LinkComplete(link, &image, &size));
    OK(cuda.ModuleLoadDataEx(&loaded, image, 0, NULL, NULL));
    OK(cuda.LinkDestroy(link));
    OK(cuda.ModuleGetFunction(&sum, loaded, "sum"));
    OK(cuda.ModuleUnload(loaded));
    OK(cuda.CtxDestroy(context));
    set("cc", 90);
    free(objects[0].data);
    free(objects[1].data);
}

/* ---- faults ---- */

static void test_start_faults(void)
{
    int value = -1;
    CUcontext none;
    set("init", CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);
    CHECK_IS(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, cuda.Init(0));
    set("init", 0);
    OK(cuda.Init(0));
    set("no_device", 1);
    OK(cuda.DeviceGetCount(&value));
    CHECK(value == 0);
    set("no_device", 0);
    set("devices", 3);
    OK(cuda.DeviceGetCount(&value));
    CHECK(value == 3);
    set("devices", 1);
    set("ctx", CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuda.CtxCreate(&none, 0, 0));
    set("ctx", 0);
    CHECK_IS(CUDA_ERROR_INVALID_DEVICE, cuda.CtxCreate(&none, 0, 1));
    set("timeout_attr", 1);
    OK(cuda.DeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT, 0));
    CHECK(value == 1);
    set("timeout_attr", 0);
    set("compute_mode", CU_COMPUTEMODE_EXCLUSIVE_PROCESS);
    OK(cuda.DeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, 0));
    CHECK(value == CU_COMPUTEMODE_EXCLUSIVE_PROCESS);
    set("compute_mode", 0);
    set("warp", 32);
    OK(cuda.DeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0));
    CHECK(value == 32);
    set("warp", 1);
    CHECK(set("no_such_fault", 1) == -1);
}

static void test_memory_faults(void)
{
    CUdeviceptr device;
    void *host;
    begin();
    set("oom_host", 1 << 20);
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuda.MemHostAlloc(&host, 1 << 20, 0));
    set("oom_host", 0);
    OK(cuda.MemHostAlloc(&host, 1 << 20, 0));
    OK(cuda.MemFreeHost(host));
    set("oom_device", 1 << 20);
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY, cuda.MemAlloc(&device, (1 << 20) + 1));
    OK(cuda.MemAlloc(&device, 1 << 20));
    set("oom_device", 0);
    end();
}

static bool loaded;

static void *load_module(void *arg)
{
    CUmodule other;
    OK(cuda.CtxSetCurrent(context));
    OK(cuda.ModuleLoadDataEx(&other, image_of_kernels().data, 0, NULL, NULL));
    __atomic_store_n(&loaded, true, __ATOMIC_RELEASE);
    return arg;
}

static void test_load_faults(void)
{
    pthread_t thread;
    CUmodule other;
    CUmoduleLoadingMode mode;
    begin();
    set("load_fail", CUDA_ERROR_OUT_OF_MEMORY);
    CHECK_IS(CUDA_ERROR_OUT_OF_MEMORY,
             cuda.ModuleLoadDataEx(&other, image_of_kernels().data, 0, NULL, NULL));
    set("load_fail", 0);
    set("load_blocks", 5);
    OK(cuda.ModuleLoadDataEx(&other, image_of_kernels().data, 0, NULL, NULL));
    set("load_blocks", -1);
    CHECK(pthread_create(&thread, NULL, load_module, NULL) == 0);
    usleep(20000);
    CHECK(!__atomic_load_n(&loaded, __ATOMIC_ACQUIRE));
    set("load_blocks", 0);
    pthread_join(thread, NULL);
    OK(cuda.ModuleGetLoadingMode(&mode));
    CHECK(mode == CU_MODULE_EAGER_LOADING);
    set("lazy", 1);
    OK(cuda.ModuleGetLoadingMode(&mode));
    CHECK(mode == CU_MODULE_LAZY_LOADING);
    set("lazy", 0);
    end();
}

static void test_never_start(void)
{
    struct job *job;
    begin();
    job = new_job(0);
    set("never_start", 1);
    OK(launch(poll, job, 2, 2, streams[0]));
    usleep(20000);
    CHECK_IS(CUDA_ERROR_NOT_READY, cuda.StreamQuery(streams[0]));
    CHECK(load(&job->started) == 0);
    set("never_start", 0);
    EVENTUALLY(load(&job->started) == 2);
    store(&job->stop, 1);
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_SUCCESS);
    end();
}

static bool stands_still(struct job *job)
{
    unsigned before = load(&job->turns);
    usleep(20000);
    return load(&job->turns) == before;
}

static void test_stall(void)
{
    struct job *job;
    begin();
    job = new_job(0);
    OK(launch(poll, job, 2, 2, streams[0]));
    EVENTUALLY(load(&job->started) == 2);
    set("stall", 1);
    EVENTUALLY(stands_still(job));
    store(&job->stop, 1);
    usleep(20000);
    CHECK_IS(CUDA_ERROR_NOT_READY, cuda.StreamQuery(streams[0]));
    set("stall", 0);
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_SUCCESS);
    end();
}

static void expect_dead(CUresult error)
{
    CUdeviceptr device;
    int value;
    CHECK_IS(error, cuda.StreamQuery(streams[0]));
    CHECK_IS(error, cuda.StreamQuery(streams[1]));
    CHECK_IS(error, cuda.MemAlloc(&device, 64));
    CHECK_IS(error, launch(sum, &jobs[0], 1, 1, streams[1]));
    OK(cuda.DeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_WARP_SIZE, 0));
}

static void test_sticky(long stalled)
{
    begin();
    OK(launch(poll, new_job(0), 3, 4, streams[0]));
    EVENTUALLY(load(&jobs[0].started) == 3);
    set("stall", stalled);
    set("sticky", CUDA_ERROR_ILLEGAL_ADDRESS);
    expect_dead(CUDA_ERROR_ILLEGAL_ADDRESS);
    set("stall", 0);
    OK(cuda.CtxDestroy(context));
    test_sum(); /* another context is well */
    begin();
    set("sticky", CUDA_ERROR_LAUNCH_FAILED); /* nothing runs: the next launch is hit */
    OK(launch(poll, new_job(0), 3, 4, streams[0]));
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_ERROR_LAUNCH_FAILED);
    OK(cuda.CtxDestroy(context));
}

static void test_fallen(void)
{
    int (*start)(void) = (int (*)(void))symbol(nvml, "nvmlInit_v2");
    int (*stop)(void) = (int (*)(void))symbol(nvml, "nvmlShutdown");
    int (*handle)(const char *, rk__nvml_device *) =
        (int (*)(const char *, rk__nvml_device *))symbol(nvml, "nvmlDeviceGetHandleByPciBusId_v2");
    int (*power)(rk__nvml_device, unsigned *) =
        (int (*)(rk__nvml_device, unsigned *))symbol(nvml, "nvmlDeviceGetPowerUsage");
    rk__nvml_device device;
    unsigned milliwatts = 0;
    CUcontext none;
    begin();
    CHECK(start() == 0 && handle("00000000:01:00.0", &device) == 0);
    CHECK(handle("00000000:02:00.0", &device) != 0);
    CHECK(power(device, &milliwatts) == 0 && milliwatts > 0);
    OK(launch(poll, new_job(0), 2, 2, streams[0]));
    set("fallen", 1);
    expect_dead(CUDA_ERROR_UNKNOWN);
    CHECK_IS(15, power(device, &milliwatts));
    OK(cuda.CtxDestroy(context));
    CHECK_IS(CUDA_ERROR_UNKNOWN, cuda.CtxCreate(&none, 0, 0));
    set("fallen", 0);
    CHECK(power(device, &milliwatts) == 0 && stop() == 0);
    test_sum();
}

static void test_records(void)
{
    char text[4096], *at;
    begin();
    clear();
    OK(launch(sum, new_job(0), 1, 1, streams[0]));
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_SUCCESS);
    CHECK(calls(text, sizeof text) == strlen(text));
    CHECK(strncmp(text, "cuLaunchKernel ", 15) == 0 && count("cuLaunchKernel") == 1);
    at = strchr(text, '\n') + 1;
    CHECK(strncmp(at, "cuStreamQuery ", 14) == 0);
    CHECK(atoi(at + 14) == atoi(text + 15) && atoi(at + 14) > 0);
    CHECK(calls(text, 4) > 4 && strlen(text) == 3);
    end();
}

static void test_graph(void)
{
    CUgraph graph;
    CUgraphExec exec;
    begin();
    OK(cuda.StreamBeginCapture(streams[0], CU_STREAM_CAPTURE_MODE_RELAXED));
    OK(launch(sum, new_job(0), 2, 4, streams[0]));
    OK(cuda.StreamEndCapture(streams[0], &graph));
    OK(cuda.GraphInstantiateWithFlags(&exec, graph, 0));
    OK(cuda.GraphDestroy(graph));
    OK(cuda.GraphLaunch(exec, streams[0]));
    EVENTUALLY(cuda.StreamQuery(streams[0]) == CUDA_SUCCESS);
    check_sums(&jobs[0], 2, 4);
    OK(cuda.GraphExecDestroy(exec));
    end();
}

/* ---- what must end the program ---- */

static void forbidden_memory(void)
{
    CUdeviceptr device;
    begin();
    OK(launch(poll, new_job(0), 1, 2, streams[0]));
    cuda.MemAlloc(&device, 64);
}

static void forbidden_load(void)
{
    CUmodule other;
    begin();
    set("never_start", 1); /* accepted is as good as running */
    OK(launch(poll, new_job(0), 1, 2, streams[0]));
    cuda.ModuleLoadDataEx(&other, image_of_kernels().data, 0, NULL, NULL);
}

static void forbidden_stream(void)
{
    begin();
    launch(sum, new_job(0), 1, 1, NULL);
}

static void forbidden_lazy(void)
{
    CUfunction late;
    begin();
    OK(cuda.ModuleGetFunction(&late, module, "sum"));
    set("lazy", 1);
    OK(launch(poll, new_job(0), 1, 2, streams[0]));
    launch(late, new_job(1), 1, 2, streams[1]);
}

static void test_forbidden(void)
{
    must_abort(forbidden_memory, "fakecuda: cuMemAlloc_v2 is forbidden while a kernel runs");
    must_abort(forbidden_load, "fakecuda: cuModuleLoadDataEx is forbidden while a kernel runs");
    must_abort(forbidden_stream, "fakecuda: cuLaunchKernel on the NULL stream");
    must_abort(forbidden_lazy, "not loaded yet is forbidden while a kernel runs");
}

/* ---- random grids ---- */

/* xorshift64* (Vigna, 2016). */
static uint64_t next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

static unsigned long stress(void)
{
    uint64_t random = (seed + 1) * UINT64_C(0x9E3779B97F4A7C15) | 1;
    unsigned blocks[STREAMS] = {0}, threads[STREAMS];
    unsigned long grids = 0;
    int64_t deadline = rk__deadline(rk__seconds(seconds));
    begin();
    for (int i = 0; rk__now() < deadline || i % STREAMS != 0; i++) {
        int s = i % STREAMS;
        EVENTUALLY(cuda.StreamQuery(streams[s]) == CUDA_SUCCESS);
        check_sums(&jobs[s], blocks[s], blocks[s] > 0 ? threads[s] : 0);
        blocks[s] = 1 + (unsigned)(next(&random) % BLOCKS_MAX);
        threads[s] = 1 + (unsigned)(next(&random) % THREADS_MAX);
        OK(launch(sum, new_job(s), blocks[s], threads[s], streams[s]));
        grids++;
    }
    for (int s = 0; s < STREAMS; s++) {
        EVENTUALLY(cuda.StreamQuery(streams[s]) == CUDA_SUCCESS);
        check_sums(&jobs[s], blocks[s], blocks[s] > 0 ? threads[s] : 0);
    }
    end();
    return grids;
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (unsigned long long)rk__now();
    seconds = argc > 2 ? atof(argv[2]) : seconds;
    setenv("CUDA_MODULE_LOADING", "EAGER", 1);
    find_folder(argv[0]);
    test_forbidden();
    open_libraries();
    test_compiler();
    test_linker();
    test_driver_linker();
    test_start_faults();
    test_sum();
    test_memory();
    test_running();
    test_barrier();
    test_residency();
    test_memory_faults();
    test_load_faults();
    test_never_start();
    test_stall();
    test_sticky(0);
    test_sticky(1);
    test_fallen();
    test_records();
    test_graph();
    unsigned long grids = stress();
    printf("stress/fakecuda: seed %llu, %lu grids\n", seed, grids);
    return 0;
}

#endif
