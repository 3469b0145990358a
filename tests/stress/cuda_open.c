/*
 * Opening a GPU that is not there, will not start, or has no memory: what is said, and what "auto"
 * does then. Several runtimes and processes on one GPU; compiled images that are not what they were.
 * Runs on the stand-in (tests/fakecuda).
 * usage: cuda_open [seed] [seconds] [case...]
 */
#include "cuda_cases.h"

#include <dirent.h>

/* "cuda" fails with this text; "auto" goes to the cpu and works. */
static void check_refused(const rk_config *config, int code, const char *text)
{
    rk_runtime *other = NULL;
    rk_config second = *config;
    rk_info info = {0};
    FAILS(code, text, rk_open(&other, config));
    CHECK(other == NULL);
    fprintf(stderr, "said: %s\n", rk_errdetail());
    second.device = "auto";
    open_with(&second);
    rk_pid pid = spawn(1);
    IS(1, call(pid, 7, 1));
    OK(rk_inspect(pid, &info));
    says(__FILE__, __LINE__, info.device, "cpu");
    OK(rk_close(rt));
}

static void test_no_device(void)
{
    rk_config config = config_for("cuda");
    fault("no_device", 1);
    define_types();
    check_refused(&config, RK_EDEVICE, "the CUDA driver sees no device");
    fault("no_device", 0);
    config.device = "cuda:3";
    FAILS(RK_EDEVICE, "\"cuda:3\"", rk_open(&rt, &config));
}

/* No libraries at all: the sentence has their names. */
static void test_no_driver(void)
{
    rk_config config = config_for("cuda");
    setenv("RK_CUDA_LIBS", folder, 1);
    define_types();
    check_refused(&config, RK_EDEVICE, "libcuda.so.1");
}

static void test_init(void)
{
    rk_config config = config_for("cuda");
    fault("init", 999);
    define_types();
    check_refused(&config, RK_EDEVICE, "CUDA_ERROR_UNKNOWN");
}

static void test_context(void)
{
    rk_config config = config_for("cuda");
    fault("ctx", 46);
    define_types();
    check_refused(&config, RK_EDEVICE, "CUDA_ERROR_DEVICE_UNAVAILABLE");
    fault("ctx", 0);
    check_cuda();
}

static void test_pinned(void)
{
    rk_config config = config_for("cuda");
    fault("oom_host", 1 << 20);
    define_types();
    check_refused(&config, RK_EDEVICE, "pinned_memory");
    fault("oom_host", 0);
    check_cuda();
}

static void test_device_memory(void)
{
    rk_config config = config_for("cuda");
    fault("oom_device", 1 << 20);
    config.device_memory = (uint64_t)64 << 20;
    define_types();
    check_refused(&config, RK_EDEVICE, "device_memory");
    fault("oom_device", 0);
    check_cuda();
}

/* The kernel that was launched may start at any time, so nothing more is asked of the device. */
static void test_never_start(void)
{
    rk_runtime *other = NULL;
    rk_config config = config_for("cuda");
    config.device_timeout = SECOND;
    fault("never_start", 1);
    define_types();
    FAILS(RK_EDEVICE, "self-test", rk_open(&other, &config));
    FAILS(RK_EDEVICE, "cuda:0", rk_open(&other, &config));
    check_cpu();
    fault("never_start", 0);
    usleep(100000); /* it starts, and ends */
    int code = rk_open(&other, &config);
    printf("afterwards: %s\n", code == 0 ? "works" : rk_errdetail());
    CHECK(code == 0 || code == RK_EDEVICE);
    OK(code == 0 ? rk_close(other) : 0);
}

static void test_never_start_auto(void)
{
    rk_config config = config_for("auto");
    rk_info info = {0};
    config.device_timeout = SECOND;
    fault("never_start", 1);
    open_with(&config);
    rk_pid pid = spawn(1);
    IS(1, call(pid, 7, 1));
    OK(rk_inspect(pid, &info));
    says(__FILE__, __LINE__, info.device, "cpu");
    OK(rk_close(rt));
}

/* Two GPUs, each with a runtime; and what there is can be asked while kernels run. */
static void test_two_devices(void)
{
    rk_device found[4];
    size_t there = 0;
    rk_runtime *first;
    rk_config config = config_for("cuda:0");
    fault("devices", 2);
    open_with(&config);
    first = rt;
    rk_pid one = spawn(1);
    IS(1, call(one, 1, 1));
    OK(rk_devices(found, 4, &there, NULL));
    IS(3, (long long)there);
    config.device = "cuda:1";
    open_with(&config);
    rk_pid two = spawn(1), three = spawn(2);
    for (int i = 1; i <= 100; i++) {
        IS(i + 1, call(one, i, 1));
        IS(i, call(two, i, 1));
        IS(i, call(three, i, 2));
    }
    OK(rk_close(rt));
    IS(102, call(one, 102, 1));
    OK(rk_close(first));
}

/* A program that asks what there is, again and again, while kernels run. */
static void test_devices_while_running(void)
{
    rk_device found[2];
    size_t there = 0;
    open_cuda(0);
    rk_pid one = spawn(1);
    for (int i = 1; i <= 5; i++) {
        IS(i, call(one, i, 1));
        OK(rk_devices(found, 2, &there, NULL));
        IS(2, (long long)there);
        says(__FILE__, __LINE__, found[1].id, "cuda:0");
    }
    OK(rk_close(rt));
}

/* ---- company ---- */

static void test_two_runtimes(void)
{
    rk_runtime *first, *second;
    rk_config config = config_for("cuda");
    open_with(&config);
    first = rt;
    rk_pid one = spawn(1);
    open_with(&config);
    second = rt;
    rk_pid two = spawn(1), three = spawn(2);
    CHECK(first != second);
    config.mode = "batch";
    FAILS(RK_ESTATE, "batch", rk_open(&rt, &config));
    says(__FILE__, __LINE__, rk_errdetail(), "persistent");
    for (int i = 1; i <= 100; i++) {
        IS(i, call(one, i, 1));
        IS(i, call(two, i, 1));
        IS(i, call(three, i, 2));
    }
    IS(1, (long long)count("cuCtxCreate_v2"));
    OK(rk_close(first));
    IS(101, call(two, 101, 1));
    IS(101, call(three, 101, 2));
    OK(rk_close(second));
    IS(1, (long long)count("cuCtxDestroy_v2"));
    open_with(&config); /* nobody has it in another mode now */
    IS(1, call(spawn(1), 1, 1));
    OK(rk_close(rt));
}

static void use_for_a_while(int who)
{
    open_cuda(0);
    rk_pid pid = spawn(who);
    for (int i = 1; i <= 300; i++) {
        IS(i, call(pid, i, who));
    }
    OK(rk_close(rt));
}

static void test_two_processes(void)
{
    int status = -1;
    pid_t other = fork();
    if (other == 0) {
        use_for_a_while(1);
        exit(errors > 0);
    }
    use_for_a_while(2);
    IS(other, waitpid(other, &status, 0));
    IS(0, status);
}

/* ---- compiled files ---- */

enum spoiling { HEAD, MIDDLE, END };

static void spoil_file(const char *name, off_t size, enum spoiling where)
{
    static const char garbage[] = "what was here is gone; this is not what anybody compiled";
    FILE *file = fopen(name, "r+");
    CHECK(file != NULL);
    if (where == END) {
        CHECK(truncate(name, size / 2) == 0);
    } else if (file != NULL && size > (off_t)sizeof garbage) {
        fseek(file, where == HEAD ? 0 : ((long)size - (long)sizeof garbage) / 2, SEEK_SET);
        fwrite(garbage, 1, sizeof garbage, file);
    }
    if (file != NULL) {
        fclose(file);
    }
}

/* Changes every file under a folder; the number of files. */
static int spoil(const char *path, enum spoiling where)
{
    int files = 0;
    char name[4096];
    DIR *d = opendir(path);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        struct stat s;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (e->d_name[0] == '.' || stat(name, &s) < 0) {
            continue;
        }
        if (S_ISDIR(s.st_mode)) {
            files += spoil(name, where);
        } else {
            spoil_file(name, s.st_size, where);
            files++;
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    return files;
}

/* In a process of its own, so that nothing is known from before; how often NVRTC ran. */
static int compiles_of(const rk_config *config)
{
    int status = 0, compiles = 0, ends[2];
    OK(pipe(ends));
    pid_t other = fork();
    if (other == 0) {
        open_with(config);
        IS(1, call(spawn(1), 5, 1));
        compiles = (int)count("nvrtcCompileProgram");
        OK(rk_close(rt));
        CHECK(write(ends[1], &compiles, sizeof compiles) == sizeof compiles);
        exit(errors > 0);
    }
    close(ends[1]);
    CHECK(read(ends[0], &compiles, sizeof compiles) == sizeof compiles);
    close(ends[0]);
    IS(other, waitpid(other, &status, 0));
    IS(0, status);
    return compiles;
}

/* Files that are not what was written are compiled again, not believed. */
static void check_spoilt(enum spoiling where)
{
    char cache[sizeof folder + 16], home[sizeof folder + 16];
    rk_config config = config_for("cuda");
    snprintf(cache, sizeof cache, "%s/spoilt%d", folder, where);
    snprintf(home, sizeof home, "%s/home%d", folder, where);
    config.cache = cache;
    setenv("XDG_CACHE_HOME", home, 1);
    int first = compiles_of(&config);
    CHECK(first > 0);
    IS(0, compiles_of(&config));
    CHECK(spoil(cache, where) > 0);
    spoil(home, where);
    IS(first, compiles_of(&config));
    IS(0, compiles_of(&config));
}

static void test_spoilt_head(void)
{
    check_spoilt(HEAD);
}

static void test_spoilt_middle(void)
{
    check_spoilt(MIDDLE);
}

static void test_cut(void)
{
    check_spoilt(END);
}

/* The folder that was given is where everything that is compiled goes. */
static void test_cache_folder(void)
{
    char cache[sizeof folder + 16], home[sizeof folder + 32];
    struct stat s;
    rk_config config = config_for("cuda");
    snprintf(cache, sizeof cache, "%s/given", folder);
    snprintf(home, sizeof home, "%s/nobodys", folder);
    config.cache = cache;
    setenv("XDG_CACHE_HOME", home, 1);
    compiles_of(&config);
    CHECK(stat(cache, &s) == 0);
    CHECK(stat(home, &s) < 0);
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"no_device", test_no_device},
        {"no_driver", test_no_driver},
        {"init", test_init},
        {"context", test_context},
        {"pinned", test_pinned},
        {"device_memory", test_device_memory},
        {"never_start", test_never_start},
        {"never_start_auto", test_never_start_auto},
        {"two_runtimes", test_two_runtimes},
        {"two_processes", test_two_processes},
        {"two_devices", test_two_devices},
        {"devices_while_running", test_devices_while_running},
        {"spoilt_head", test_spoilt_head},
        {"spoilt_middle", test_spoilt_middle},
        {"cut", test_cut},
        {"cache_folder", test_cache_folder},
    };
    return RUN_CASES(cases, argc, argv);
}
