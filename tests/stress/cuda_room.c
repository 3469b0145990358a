/*
 * Room on a GPU: memory, blocks, block sizes, definitions; who does not fit is told why, and those
 * that are there go on. And what is counted: images that are loaded, kernels that are launched,
 * memory that is pinned. Runs on the stand-in (tests/fakecuda).
 * usage: cuda_room [seed] [seconds] [case...]
 */
#include "cuda_cases.h"

enum { MANY = 200, THREADS = 4 };

static rk_pid pids[MANY];
static int64_t counts[MANY];

static void ask_all(int number, int who)
{
    for (int i = 0; i < number; i++) {
        IS(counts[i] + 1, call(pids[i], i, who));
        counts[i]++;
    }
}

/* Instances of definition 1 until one is refused; how many there are. */
static int fill(int *code)
{
    int there = 0;
    while (there < MANY && (*code = spawn_block(&pids[there], 1, 0)) == 0) {
        there++;
    }
    return there;
}

/* One goes, one comes: what was refused was refused for want of room alone. */
static void check_turnover(int there)
{
    for (int i = 0; i < 10 && there > 0; i++) {
        int at = i * 7 % there;
        stop(pids[at]);
        pids[at] = spawn(1);
        counts[at] = 0;
        ask_all(there, 1);
    }
}

static void test_reservation(void)
{
    int code = 0;
    rk_config config = config_for("cuda");
    config.pinned_memory = 2 << 20;
    fault("sms", 16);
    open_with(&config);
    int there = fill(&code);
    printf("%d instances: %s\n", there, rk_errdetail());
    IS(RK_ENOMEM, code);
    says(__FILE__, __LINE__, rk_errdetail(), "pinned_memory");
    CHECK(there > 0);
    ask_all(there, 1);
    check_turnover(there);
    OK(rk_close(rt));
}

static void test_device_reservation(void)
{
    int code = 0, there = 0;
    rk_config config = config_for("cuda");
    static const char big[] = "RK_STATE { int64_t n; char much[300000]; };\n"
                              "RK_ON(Job, j) { if (!rk_thread(ctx)) rk_get_state(ctx)->n++;\n"
                              "  rk_sync(ctx);\n"
                              "  rk_reply(ctx, Done, .count = rk_get_state(ctx)->n,\n"
                              "    .number = j->number, .who = 9); }\n";
    config.device_memory = 1 << 20;
    open_with(&config);
    OK(define_source("big", big));
    for (; there < MANY; there++) {
        char name[16];
        rk_options options = RK_OPTIONS_INIT;
        snprintf(name, sizeof name, "big%d", there);
        options.name = name;
        code = rk_spawn(rt, &pids[there], "big", &options);
        if (code < 0) {
            break;
        }
    }
    IS(3, there);
    IS(RK_ENOMEM, code);
    says(__FILE__, __LINE__, rk_errdetail(), "device_memory");
    ask_all(there, 9);
    stop(pids[0]);
    OK(rk_spawn(rt, &pids[0], "big", NULL));
    counts[0] = 0;
    ask_all(there, 9);
    OK(rk_close(rt));
}

static void test_blocks(void)
{
    int code = 0;
    fault("blocks", 16); /* four multiprocessors with four each, one of them kept free */
    open_cuda(0);
    int there = fill(&code);
    printf("%d instances: %s\n", there, rk_errdetail());
    IS(11, there); /* one seat answers pings */
    IS(RK_EDEVICE, code);
    says(__FILE__, __LINE__, rk_errdetail(), "4 multiprocessors take 4 such blocks each");
    says(__FILE__, __LINE__, rk_errdetail(), "11 are in use");
    ask_all(there, 1);
    check_turnover(there);
    /* Several blocks at once: three do not fit in the room of two, two do. */
    rk_options options = RK_OPTIONS_INIT;
    rk_pid wide;
    stop(pids[0]);
    stop(pids[1]);
    options.grid = 3;
    options.name = "wide";
    FAILS(RK_EDEVICE, "room for 3 more blocks", rk_spawn(rt, &wide, counting(1), &options));
    options.grid = 2;
    options.name = "less";
    OK(rk_spawn(rt, &wide, counting(1), &options));
    CHECK(call(wide, 1, 1) >= 1);
    OK(rk_close(rt));
}

static void test_block_sizes(void)
{
    open_cuda(0);
    for (uint32_t i = 0; i < 4; i++) {
        OK(spawn_block(&pids[i], 1 + (int)i % 2, 2 + i));
    }
    rk_pid fifth, again;
    FAILS(RK_EDEVICE, "2, 3, 4 and 5 threads", spawn_block(&fifth, 1, 6));
    says(__FILE__, __LINE__, rk_errdetail(), "6 would be a fifth");
    for (int i = 0; i < 4; i++) {
        CHECK(call(pids[i], i, 1 + i % 2) == 1);
    }
    OK(spawn_block(&again, 1, 4)); /* an old size is no fifth */
    stop(pids[1]);
    OK(spawn_block(&fifth, 1, 6));
    CHECK(call(fifth, 6, 1) == 1);
    CHECK(call(again, 7, 1) == 1);
    FAILS(RK_EDEVICE, "3 would be a fifth", spawn_block(&pids[1], 1, 3));
    for (int i = 0; i < 4; i++) {
        CHECK(i == 1 || call(pids[i], i, 1 + i % 2) == 2);
    }
    OK(rk_close(rt));
}

/* ---- counts ---- */

static void test_instances(void)
{
    open_cuda(0);
    pids[0] = spawn(1);
    size_t loads = count("cuModuleLoadDataEx"), compiles = count("nvrtcCompileProgram");
    size_t pinned = count("cuMemHostAlloc"), launches = count("cuLaunchKernel");
    IS(2, (long long)loads); /* that of the self-test, and this */
    int there = 1;
    while (there < 40) { /* 4 multiprocessors of 16, less one, less seat 0: 47 */
        pids[there++] = spawn(1);
    }
    ask_all(there, 1);
    IS((long long)loads, (long long)count("cuModuleLoadDataEx"));
    IS((long long)compiles, (long long)count("nvrtcCompileProgram"));
    IS((long long)pinned, (long long)count("cuMemHostAlloc"));
    printf("%zu launches for %d instances\n", count("cuLaunchKernel") - launches, there);
    CHECK(count("cuLaunchKernel") - launches < 10);
    for (int i = 40; i < 140; i++) { /* a hundred more, in turns: seats that were left */
        stop(pids[i % 40]);
        pids[i % 40] = spawn(1);
        counts[i % 40] = 0;
    }
    ask_all(there, 1);
    IS((long long)loads, (long long)count("cuModuleLoadDataEx"));
    IS((long long)compiles, (long long)count("nvrtcCompileProgram"));
    IS((long long)pinned, (long long)count("cuMemHostAlloc"));
    OK(rk_close(rt));
}

/* A hundred instances of one definition, where there is room for so many. */
static void test_hundred(void)
{
    fault("sms", 12);
    open_cuda(0);
    for (int i = 0; i < 100; i++) {
        pids[i] = spawn(1);
    }
    IS(2, (long long)count("cuModuleLoadDataEx"));
    printf("%zu launches\n", count("cuLaunchKernel"));
    CHECK(count("cuLaunchKernel") < 20);
    IS(1, (long long)count("cuMemHostAlloc"));
    ask_all(100, 1);
    ask_all(100, 1);
    OK(rk_close(rt));
}

typedef struct activator {
    int from, until;
    pthread_t thread;
} activator;

static void *activate_some(void *arg)
{
    const activator *a = arg;
    for (int i = a->from; i < a->until; i++) {
        OK(rk_activate(pids[i]));
        IS(1, call(pids[i], i, 1000 + i));
    }
    return NULL;
}

/* Definitions that are launched together come with few images. Compiling takes the time here. */
static void test_definitions(void)
{
    activator threads[THREADS];
    int number = seconds >= 100 ? 100 : 16;
    fault("sms", 12);
    open_cuda(0);
    for (int i = 0; i < number; i++) {
        OK(launch(&pids[i], 1000 + i));
    }
    size_t pinned = count("cuMemHostAlloc"), loads = count("cuModuleLoadDataEx");
    for (int t = 0; t < THREADS; t++) {
        threads[t] = (activator){t * number / THREADS, (t + 1) * number / THREADS, 0};
        OK(pthread_create(&threads[t].thread, NULL, activate_some, &threads[t]));
    }
    for (int t = 0; t < THREADS; t++) {
        pthread_join(threads[t].thread, NULL);
    }
    printf("%zu images for %d definitions\n", count("cuModuleLoadDataEx") - loads, number);
    CHECK(count("cuModuleLoadDataEx") - loads < (size_t)number);
    IS((long long)pinned, (long long)count("cuMemHostAlloc"));
    for (int i = 0; i < number; i++) {
        IS(2, call(pids[i], i, 1000 + i));
    }
    OK(rk_close(rt));
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"reservation", test_reservation}, {"device_reservation", test_device_reservation},
        {"blocks", test_blocks},           {"block_sizes", test_block_sizes},
        {"instances", test_instances},     {"hundred", test_hundred},
        {"definitions", test_definitions},
    };
    return RUN_CASES(cases, argc, argv);
}
