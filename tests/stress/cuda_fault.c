/*
 * What goes wrong on a GPU while kernels run: nobody waits for ever, everybody is told why, and what
 * can go on goes on. A device that is lost fails its actors; the cpu device, and a new runtime once
 * the old one is closed, work in the same process. Runs on the stand-in (tests/fakecuda).
 * usage: cuda_fault [seed] [seconds] [case...]
 */
#include "cuda_cases.h"

static const int64_t SHORT = 1000000000; /* device_timeout */

static rk_pid pids[8];
static int64_t counts[8];

static void spawn_all(int number)
{
    for (int i = 0; i < number; i++) {
        pids[i] = spawn(i + 1);
        counts[i] = 0;
    }
}

static void ask_all(int number)
{
    for (int i = 0; i < number; i++) {
        IS(++counts[i], call(pids[i], i, i + 1));
    }
}

/* ---- compiling, linking, loading ---- */

static void test_compile(void)
{
    rk_pid pid;
    open_cuda(0);
    spawn_all(2);
    ask_all(2);
    fault("compile_fail", 1);
    IS(RK_ECOMPILE, launch(&pid, 50));
    printf("compile: %s\n", rk_errdetail());
    CHECK(strstr(rk_errdetail(), "counting50") != NULL);
    ask_all(2);
    fault("compile_fail", 0);
    OK(launch(&pid, 50));
    OK(rk_activate(pid));
    IS(1, call(pid, 1, 50));
    ask_all(2);
    OK(rk_close(rt));
}

static void test_link(void)
{
    rk_pid pid, other;
    open_cuda(0);
    spawn_all(2);
    OK(launch(&pid, 51));
    fault("link_fail", 1);
    int code = rk_activate(pid);
    printf("link: %s: %s\n", rk_err_name(code), rk_errdetail());
    CHECK(code == RK_EDEVICE || code == RK_ECOMPILE);
    ask_all(2);
    CHECK(launch(&other, 52) < 0);
    ask_all(2);
    fault("link_fail", 0);
    OK(rk_activate(pid)); /* it is still LAUNCHED */
    IS(1, call(pid, 1, 51));
    ask_all(2);
    OK(rk_close(rt));
}

/* The new image cannot be loaded, the old one can. */
static void test_load(void)
{
    activation a;
    rk_pid pid;
    open_cuda(0);
    spawn_all(2);
    ask_all(2);
    OK(launch(&pid, 53));
    size_t loads = count("cuModuleLoadDataEx");
    fault("load_fail", 2);
    fault("load_blocks", 500); /* both loads take this long: time to reset the fault in between */
    start_activation(&a, pid);
    UNTIL(count("cuModuleLoadDataEx") == loads + 2);
    fault("load_fail", 0);
    pthread_join(a.thread, NULL);
    IS(RK_EDEVICE, a.code);
    says(__FILE__, __LINE__, a.detail, "CUDA_ERROR_OUT_OF_MEMORY");
    fault("load_blocks", 0);
    ask_all(2);
    OK(rk_activate(pid));
    IS(1, call(pid, 1, 53));
    ask_all(2);
    OK(rk_close(rt));
}

/* Nor can the old one: the device is lost. */
static void test_load_neither(void)
{
    rk_pid pid;
    open_cuda(0);
    spawn_all(2);
    ask_all(2);
    OK(launch(&pid, 53));
    fault("load_fail", 2);
    FAILS(RK_EDEVICE, "CUDA_ERROR_OUT_OF_MEMORY", rk_activate(pid));
    check_failed(pids[0], "CUDA_ERROR_OUT_OF_MEMORY");
    check_failed(pids[1], "CUDA_ERROR_OUT_OF_MEMORY");
    fault("load_fail", 0);
    OK(rk_close(rt));
    check_cpu();
    check_cuda();
}

/* A swap that takes long; mail that comes meanwhile waits. */
static void test_slow_load(void)
{
    activation a;
    rk_pid pid;
    open_cuda(0);
    spawn_all(2);
    ask_all(2);
    OK(launch(&pid, 54));
    size_t loads = count("cuModuleLoadDataEx");
    fault("load_blocks", 300);
    start_activation(&a, pid);
    UNTIL(count("cuModuleLoadDataEx") == loads + 1);
    for (int i = 0; i < 40; i++) { /* nothing runs now */
        OK(send(pids[i % 2], i, NULL));
    }
    for (int i = 0; i < 40; i++) {
        rk_message *m = NULL;
        OK(rk_receive(&m, PATIENCE));
        if (m != NULL) {
            const done_fields *d = rk_message_data(m);
            IS(d->number % 2 + 1, d->who);
            IS(++counts[d->who - 1], d->count);
            rk_message_release(m);
        }
    }
    pthread_join(a.thread, NULL);
    IS(0, a.code);
    IS(1, call(pid, 1, 54));
    ask_all(2);
    OK(rk_close(rt));
}

/* The driver does not return from loading; in the end it does. */
static void test_stuck_load(void)
{
    rk_pid pid;
    open_cuda(SHORT);
    spawn_all(2);
    ask_all(2);
    OK(launch(&pid, 55));
    fault("load_blocks", -1);
    int64_t begin = now();
    FAILS(RK_EDEVICE, "has not returned", rk_activate(pid));
    printf("%.1f s: %s\n", (double)(now() - begin) / 1e9, rk_errdetail());
    check_failed(pids[0], "has not returned");
    check_failed(pids[1], "has not returned");
    int code = rk_close(rt);
    printf("close: %s after %.1f s\n", rk_err_name(code), (double)(now() - begin) / 1e9);
    IS(0, code);
    check_cpu();
    fault("load_blocks", 0); /* now the thread that was left behind comes back */
    usleep(300000);
    check_cpu();
}

/* ---- lost devices ---- */

/* A kernel that freezes with a call in it. */
static void test_stall(void)
{
    caller c;
    gate g = {0, 0};
    open_cuda(SHORT);
    spawn_all(3);
    ask_all(3);
    start_caller(&c, pids[0], 1, &g, NULL);
    UNTIL(begun(&g));
    int64_t begin = now();
    fault("stall", 1);
    pthread_join(c.thread, NULL);
    printf("%.1f s: %s: %s\n", (double)(now() - begin) / 1e9, rk_err_name(c.code), c.detail);
    CHECK(c.code == RK_EDEVICE || c.code == RK_EDEAD);
    says(__FILE__, __LINE__, c.detail, "has not answered a ping");
    for (int i = 0; i < 3; i++) {
        check_failed(pids[i], "has not answered a ping");
    }
    IS(0, rk_close(rt));
    check_cpu();
    fault("stall", 0);
    open_gate(&g); /* what froze goes on, in memory that must still be there */
    usleep(300000);
    check_cpu();
}

/* A fault hits while calls come from all sides: each ends, and says so. */
static void check_fault(const char *name, long value, const char *reason)
{
    enum { CALLERS = 8 };
    caller c[CALLERS];
    rk_runtime *other = NULL, *first;
    uint32_t stop_word = 0;
    rk_config config = config_for("cuda");
    open_cuda(0);
    first = rt;
    spawn_all(4);
    ask_all(4);
    for (int i = 0; i < CALLERS; i++) {
        start_caller(&c[i], pids[i % 4], i % 4 + 1, NULL, &stop_word);
    }
    usleep(100000);
    fault(name, value);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(c[i].thread, NULL);
        CHECK(c[i].code == RK_EDEVICE || c[i].code == RK_EDEAD);
        says(__FILE__, __LINE__, c[i].detail, reason);
        CHECK(c[i].answers > 0);
    }
    printf("%s: %s\n", rk_err_name(c[0].code), c[0].detail);
    for (int i = 0; i < 4; i++) {
        check_failed(pids[i], reason);
    }
    FAILS(RK_EDEVICE, "close the runtimes that used it first", rk_open(&other, &config));
    rk_pid pid;
    int code = spawn_block(&pid, 1, 0);
    CHECK(code == RK_EDEVICE);
    says(__FILE__, __LINE__, rk_errdetail(), reason);
    OK(rk_close(first));
}

static void test_sticky(void)
{
    check_fault("sticky", 700, "CUDA_ERROR_ILLEGAL_ADDRESS");
    check_cpu();
    check_cuda();
}

static void test_fallen(void)
{
    rk_config config = config_for("cuda");
    rk_runtime *other = NULL;
    check_fault("fallen", 1, "CUDA_ERROR_UNKNOWN");
    check_cpu();
    int code = rk_open(&other, &config);
    printf("fallen: %s\n", rk_errdetail());
    IS(RK_EDEVICE, code);
    fault("fallen", 0);
    check_cuda();
}

/* The fault comes while an image is being changed. */
static void test_sticky_in_swap(void)
{
    activation a;
    rk_pid pid;
    open_cuda(0);
    spawn_all(2);
    ask_all(2);
    OK(launch(&pid, 56));
    size_t loads = count("cuModuleLoadDataEx");
    fault("load_blocks", 300);
    start_activation(&a, pid);
    UNTIL(count("cuModuleLoadDataEx") == loads + 1);
    fault("sticky", 719); /* nothing runs: the next launch is hit */
    pthread_join(a.thread, NULL);
    fault("load_blocks", 0);
    printf("%s: %s\n", rk_err_name(a.code), a.detail);
    check_failed(pids[0], "CUDA_ERROR_LAUNCH_FAILED");
    check_failed(pids[1], "CUDA_ERROR_LAUNCH_FAILED");
    OK(rk_close(rt));
    check_cuda();
}

/* ---- handlers that do not return ---- */

static void test_hang(void)
{
    caller c;
    rk_pid pid;
    gate g = {0, 0};
    open_cuda(SHORT);
    spawn_all(3);
    ask_all(3);
    OK(launch(&pid, 57));
    start_caller(&c, pids[0], 1, &g, NULL);
    UNTIL(begun(&g));
    int64_t begin = now();
    IS(RK_ETIMEOUT, rk_activate(pid));
    printf("%.1f s: %s\n", (double)(now() - begin) / 1e9, rk_errdetail());
    says(__FILE__, __LINE__, rk_errdetail(), "\"i1\"");
    says(__FILE__, __LINE__, rk_errdetail(), "the handler of Job");
    IS(++counts[1], call(pids[1], 1, 2));
    IS(++counts[2], call(pids[2], 2, 3));
    IS(RK_ACTIVE, state_of(pids[0]));
    /* An instance of what is loaded needs no new image. */
    rk_pid sibling = spawn(2);
    IS(1, call(sibling, 1, 2));
    open_gate(&g);
    pthread_join(c.thread, NULL);
    IS(0, c.code);
    counts[0]++;
    OK(rk_activate(pid));
    IS(1, call(pid, 1, 57));
    ask_all(3);
    OK(rk_close(rt));
}

/* And the runtime is closed over it. */
static void test_hang_close(void)
{
    caller c;
    gate g = {0, 0};
    rk_config config = config_for("cuda");
    config.device_timeout = SHORT;
    config.stop_timeout = SHORT / 2;
    open_with(&config);
    spawn_all(2);
    ask_all(2);
    start_caller(&c, pids[0], 1, &g, NULL);
    UNTIL(begun(&g));
    int code = rk_close(rt);
    printf("close: %s\n", rk_err_name(code));
    CHECK(code == 0 || code == RK_ETIMEOUT);
    pthread_join(c.thread, NULL);
    CHECK(c.code < 0);
    check_cpu();
    open_gate(&g);
    usleep(300000);
    check_cpu();
}

/* Terminating the one that hangs: others go on. */
static void test_hang_terminate(void)
{
    caller c;
    gate g = {0, 0};
    open_cuda(SHORT);
    spawn_all(2);
    ask_all(2);
    start_caller(&c, pids[0], 1, &g, NULL);
    UNTIL(begun(&g));
    IS(RK_ETIMEOUT, rk_terminate(pids[0], NULL, SHORT / 4));
    IS(++counts[1], call(pids[1], 1, 2));
    open_gate(&g);
    pthread_join(c.thread, NULL);
    UNTIL(state_of(pids[0]) == RK_TERMINATED);
    IS(++counts[1], call(pids[1], 1, 2));
    rk_pid again = spawn(1);
    IS(1, call(again, 1, 1));
    OK(rk_close(rt));
}

/* A handler that fails ends its actor, and nothing else. */
static void test_failing(void)
{
    open_cuda(0);
    spawn_all(2);
    for (int i = 0; i < 5; i++) {
        ask_all(2);
        FAILS(RK_EHANDLER, "below zero", (int)call(pids[0], -1, 1));
        IS(RK_FAILED, state_of(pids[0]));
        stop(pids[0]);
        pids[0] = spawn(1);
        counts[0] = 0;
    }
    ask_all(2);
    OK(rk_close(rt));
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"compile", test_compile},
        {"link", test_link},
        {"load", test_load},
        {"load_neither", test_load_neither},
        {"slow_load", test_slow_load},
        {"stuck_load", test_stuck_load},
        {"stall", test_stall},
        {"sticky", test_sticky},
        {"fallen", test_fallen},
        {"sticky_in_swap", test_sticky_in_swap},
        {"hang", test_hang},
        {"hang_close", test_hang_close},
        {"hang_terminate", test_hang_terminate},
        {"failing", test_failing},
    };
    return RUN_CASES(cases, argc, argv);
}
