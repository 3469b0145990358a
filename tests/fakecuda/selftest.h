/*
 * selftest.h -- what the self-test of the stand-in (tests/stress/fakecuda.c) stands on: checks, the
 * libraries, a few kernels, and a context with everything loaded. Included once.
 */
#ifndef FAKECUDA_SELFTEST_H
#define FAKECUDA_SELFTEST_H

#include "base/clock.h"
#include "device/cuda/driver.h"

#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STREAMS = 3, JOBS = 8, LIMIT_SECONDS = 60 };

#define TEXT_(...) #__VA_ARGS__
#define TEXT(...)  TEXT_(__VA_ARGS__)
/* Shared with the kernels. */
#define JOB                                                                                        \
    struct job {                                                                                   \
        unsigned long long sums[64];                                                               \
        unsigned stop, started, ended, turns;                                                      \
        long long clock;                                                                           \
    }
JOB;

static const char job_header[] = TEXT(JOB) ";\n"
                                           "unsigned long long square(unsigned long long n);\n";
static const char square_source[] = "#include \"lib/job.h\"\n"
                                    "unsigned long long square(unsigned long long n)\n"
                                    "{\n"
                                    "    return n * n;\n"
                                    "}\n";
static const char kernels_source[] =
    "#include \"lib/job.h\"\n"
    "unsigned answer = ANSWER;\n"
    "void sum(struct job *job)\n"
    "{\n"
    "    unsigned long long *part = standin_shared();\n"
    "    unsigned t = standin_thread(), n = standin_threads(), b = standin_block();\n"
    "    part[t] += square(b * n + t) - 0xa5a5a5a5a5a5a5a5u;\n"
    "    standin_sync();\n"
    "    for (unsigned step = 1; step < n; step *= 2) {\n"
    "        if (t % (2 * step) == 0 && t + step < n) part[t] += part[t + step];\n"
    "        standin_sync();\n"
    "    }\n"
    "    if (t == 0) job->sums[b] = part[0];\n"
    "}\n"
    "void poll(struct job *job)\n"
    "{\n"
    "    if (standin_thread() == 0) {\n"
    "        __atomic_store_n(&job->clock, standin_clock(), __ATOMIC_RELAXED);\n"
    "        __atomic_add_fetch(&job->started, 1, __ATOMIC_RELEASE);\n"
    "    }\n"
    "    while (!__atomic_load_n(&job->stop, __ATOMIC_ACQUIRE)) {\n"
    "        __atomic_add_fetch(&job->turns, 1, __ATOMIC_RELAXED);\n"
    "        standin_sleep(20000);\n"
    "    }\n"
    "    standin_sync();\n"
    "    if (standin_thread() == 0) __atomic_add_fetch(&job->ended, 1, __ATOMIC_RELEASE);\n"
    "}\n"
    "void wait_for_others(struct job *job)\n"
    "{\n"
    "    if (standin_thread() == 0) return;\n"
    "    __atomic_add_fetch(&job->started, 1, __ATOMIC_RELEASE);\n"
    "    if (standin_thread() == 1) while (!__atomic_load_n(&job->stop, __ATOMIC_ACQUIRE))\n"
    "        standin_sleep(20000);\n"
    "    standin_sync();\n"
    "}\n";

static unsigned long long seed;
static double seconds = 2;
static char folder[PATH_MAX];

static int (*set)(const char *name, long value);
static size_t (*count)(const char *name);
static size_t (*calls)(char *out, size_t size);
static size_t (*errors)(char *out, size_t size);
static void (*clear)(void);
static void *nvml;

static rk__cuda_table cuda;
static rk__nvrtc_table nvrtc;
static rk__nvjitlink_table jitlink;

/* What one context has. */
static CUcontext context;
static CUmodule module;
static CUfunction sum, poll, waiting;
static CUstream streams[STREAMS];
static struct job *jobs; /* pinned */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "stress/fakecuda: line %d: %s; rerun: fakecuda %llu %g\n", __LINE__,   \
                    #condition, seed, seconds);                                                    \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define OK(call) CHECK_IS(CUDA_SUCCESS, call)
#define CHECK_IS(wanted, call)                                                                     \
    do {                                                                                           \
        int result_ = (int)(call);                                                                 \
        if (result_ != (int)(wanted)) {                                                            \
            fprintf(stderr, "stress/fakecuda: line %d: %s is %d; rerun: fakecuda %llu %g\n",       \
                    __LINE__, #call, result_, seed, seconds);                                      \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
/* Until it is so, or long past what it can take. */
#define EVENTUALLY(condition)                                                                      \
    do {                                                                                           \
        int64_t late_ = rk__deadline(rk__seconds(LIMIT_SECONDS));                                  \
        while (!(condition)) {                                                                     \
            CHECK(rk__now() < late_ || !#condition);                                               \
            usleep(500);                                                                           \
        }                                                                                          \
    } while (0)

static unsigned load(unsigned *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE); /* pairs with the kernels' releases */
}

static void store(unsigned *word, unsigned value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE); /* pairs with the kernels' acquires */
}

/* ---- the libraries ---- */

static void *open_library(const char *name)
{
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        fprintf(stderr, "stress/fakecuda: %s\n", dlerror());
        exit(1);
    }
    return library;
}

static void *symbol(void *library, const char *name)
{
    void *found = dlsym(library, name);
    if (found == NULL) {
        fprintf(stderr, "stress/fakecuda: %s is missing\n", name);
        exit(1);
    }
    return found;
}

#define MEMBER(table, library, member, name, type)                                                 \
    (table).member = (type *)symbol(library, TEXT_(name));
#define CUDA_MEMBER(member, name, type)    MEMBER(cuda, driver, member, name, type)
#define NVRTC_MEMBER(member, name, type)   MEMBER(nvrtc, compiler, member, name, type)
#define JITLINK_MEMBER(member, name, type) MEMBER(jitlink, linker, member, name, type)

static void open_libraries(void)
{
    void *driver = open_library("libcuda.so.1"), *compiler = open_library("libnvrtc.so.13");
    void *linker = open_library("libnvJitLink.so.13");
    nvml = open_library("libnvidia-ml.so.1");
    RK__CUDA_REQUIRED(CUDA_MEMBER)
    RK__CUDA_OPTIONAL(CUDA_MEMBER)
    RK__NVRTC_REQUIRED(NVRTC_MEMBER)
    RK__NVJITLINK_REQUIRED(JITLINK_MEMBER)
    RK__NVJITLINK_OPTIONAL(JITLINK_MEMBER)
    *(void **)&set = symbol(driver, "fakecuda_set");
    *(void **)&count = symbol(driver, "fakecuda_count");
    *(void **)&calls = symbol(driver, "fakecuda_calls");
    *(void **)&errors = symbol(driver, "fakecuda_errors");
    *(void **)&clear = symbol(driver, "fakecuda_clear");
}

static void find_folder(const char *program)
{
    const char *given = getenv("RK_CUDA_LIBS");
    if (given != NULL) {
        snprintf(folder, sizeof folder, "%s", given);
        return;
    }
    CHECK(realpath(program, folder) != NULL);
    *strrchr(folder, '/') = '\0';
    strcpy(strrchr(folder, '/') + 1, "fakecuda");
}

/* ---- compiling, linking, loading ---- */

/* The result; the object or, for compute_NN, the PTX, is the caller's to free. */
static nvrtcResult compile(const char *source, const char *arch, const char *extra, char **object,
                           size_t *size, char *log, size_t log_size)
{
    const char *const headers[] = {job_header}, *const names[] = {"lib/job.h"};
    char option[64];
    const char *const options[] = {
        option,        "-rdc=true", "--device-as-default-execution-space", "--maxrregcount=64",
        "-DANSWER=42", extra};
    nvrtcProgram program;
    size_t length;
    snprintf(option, sizeof option, "--gpu-architecture=%s", arch);
    CHECK(nvrtc.CreateProgram(&program, source, "unit.cu", 1, headers, names) == 0);
    nvrtcResult result = nvrtc.CompileProgram(program, extra ? 6 : 5, options);
    CHECK(nvrtc.GetProgramLogSize(program, &length) == 0 && length <= log_size);
    CHECK(nvrtc.GetProgramLog(program, log) == 0);
    if (object != NULL) {
        bool ptx = arch[0] == 'c';
        CHECK((ptx ? nvrtc.GetPTXSize : nvrtc.GetCUBINSize)(program, size) == 0);
        *object = malloc(*size + 1);
        CHECK((ptx ? nvrtc.GetPTX : nvrtc.GetCUBIN)(program, *object) == 0);
    }
    CHECK(nvrtc.DestroyProgram(&program) == 0);
    return result;
}

struct object {
    char *data;
    size_t size;
};

static struct object compiled(const char *source, const char *arch)
{
    struct object o;
    char log[4096];
    nvrtcResult result = compile(source, arch, NULL, &o.data, &o.size, log, sizeof log);
    if (result != NVRTC_SUCCESS) {
        fprintf(stderr, "%s", log);
    }
    CHECK(result == NVRTC_SUCCESS);
    CHECK(o.size > 0);
    return o;
}

static nvJitLinkResult linked(const struct object *objects, size_t object_count, const char *arch,
                              struct object *image, char *log, size_t log_size)
{
    const char *const options[] = {arch};
    nvJitLinkHandle link;
    nvJitLinkResult result = NVJITLINK_SUCCESS;
    size_t length;
    *image = (struct object){NULL, 0};
    CHECK(jitlink.Create(&link, 1, options) == 0);
    for (size_t i = 0; i < object_count && result == 0; i++) {
        result = jitlink.AddData(link, NVJITLINK_INPUT_CUBIN, objects[i].data, objects[i].size,
                                 i == 0 ? "first" : "second");
    }
    result = result == 0 ? jitlink.Complete(link) : result;
    CHECK(jitlink.GetErrorLogSize(link, &length) == 0 && length <= log_size);
    CHECK(jitlink.GetErrorLog(link, log) == 0);
    if (result == 0) {
        CHECK(jitlink.GetLinkedCubinSize(link, &image->size) == 0);
        image->data = malloc(image->size);
        CHECK(jitlink.GetLinkedCubin(link, image->data) == 0);
    }
    CHECK(jitlink.Destroy(&link) == 0 && link == NULL);
    return result;
}

static struct object image_of_kernels(void)
{
    static struct object image;
    char log[4096];
    if (image.data == NULL) {
        struct object objects[] = {compiled(kernels_source, "sm_90"),
                                   compiled(square_source, "sm_90")};
        CHECK(linked(objects, 2, "-arch=sm_90", &image, log, sizeof log) == 0);
        free(objects[0].data);
        free(objects[1].data);
    }
    return image;
}

static void begin(void)
{
    struct object image = image_of_kernels();
    OK(cuda.Init(0));
    OK(cuda.CtxCreate(&context, 0, 0));
    OK(cuda.ModuleLoadDataEx(&module, image.data, 0, NULL, NULL));
    OK(cuda.ModuleGetFunction(&sum, module, "sum"));
    OK(cuda.ModuleGetFunction(&poll, module, "poll"));
    OK(cuda.ModuleGetFunction(&waiting, module, "wait_for_others"));
    OK(cuda.FuncLoad(sum));
    OK(cuda.FuncLoad(poll));
    OK(cuda.FuncLoad(waiting));
    OK(cuda.MemHostAlloc((void **)&jobs, JOBS * sizeof *jobs, CU_MEMHOSTALLOC_PORTABLE));
    memset(jobs, 0, JOBS * sizeof *jobs);
    for (int i = 0; i < STREAMS; i++) {
        OK(cuda.StreamCreateWithPriority(&streams[i], CU_STREAM_NON_BLOCKING, 0));
    }
}

static void end(void)
{
    OK(cuda.CtxDestroy(context));
    CHECK_IS(CUDA_ERROR_INVALID_CONTEXT, cuda.MemFreeHost(jobs));
}

static CUresult launch(CUfunction kernel, struct job *job, unsigned blocks, unsigned threads,
                       CUstream stream)
{
    void *parameters[] = {&job};
    return cuda.LaunchKernel(kernel, blocks, 1, 1, threads, 1, 1,
                             threads * (unsigned)sizeof(uint64_t), stream, parameters, NULL);
}

static struct job *new_job(int index)
{
    memset(&jobs[index], 0, sizeof jobs[index]);
    return &jobs[index];
}

/* ---- what must end the program ---- */

/* The child is made before this process has any thread. */
static void must_abort(void (*run)(void), const char *wanted)
{
    char said[8192];
    size_t size = 0;
    int ends[2], status;
    CHECK(pipe(ends) == 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        dup2(ends[1], STDERR_FILENO);
        open_libraries();
        run();
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n = 1; n > 0 && size<sizeof said - 1; size += n> 0 ? (size_t)n : 0) {
        n = read(ends[0], said + size, sizeof said - 1 - size);
    }
    said[size] = '\0';
    close(ends[0]);
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || strstr(said, wanted) == NULL) {
        fprintf(stderr, "stress/fakecuda: a child should have said '%s', and said:\n%s\n", wanted,
                said);
        exit(1);
    }
}

#endif
