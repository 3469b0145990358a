/*
 * Mail and kernels on a GPU: swaps with messages under way, the three modes, closing over queued
 * mail, and seeded chaos for the given seconds: every call ends, every answer is right. Runs on the
 * stand-in (tests/fakecuda).
 * usage: cuda_mail [seed] [seconds] [case...]
 */
#include "cuda_cases.h"

#define TICKING                                                                                    \
    "RK_STATE { int64_t count, ticks; };\n"                                                        \
    "RK_EVERY(0.02) { if (!rk_thread(ctx)) rk_get_state(ctx)->ticks++; }\n"                        \
    "RK_ON(Job, j) { if (!rk_thread(ctx)) rk_get_state(ctx)->count++;\n"                           \
    "    rk_sync(ctx);\n"                                                                          \
    "    rk_reply(ctx, Done, .number = j->number, .count = rk_get_state(ctx)->count,\n"            \
    "             .who = rk_get_state(ctx)->ticks); }\n"

static const char *const modes[] = {"persistent", "bounded", "batch"};

static void open_mode(const char *mode)
{
    rk_config config = config_for("cuda");
    config.mode = mode;
    open_with(&config);
}

/* ---- swaps ---- */

/* Definitions come and go while two threads call kernels that stay. */
static void swap_under_load(const char *mode)
{
    enum { SWAPS = 20, NAMES = 4 };
    caller c[2];
    uint32_t stop_word = 0;
    open_mode(mode);
    for (int i = 0; i < 2; i++) {
        start_caller(&c[i], spawn(i + 1), i + 1, NULL, &stop_word);
    }
    size_t loads = count("cuModuleLoadDataEx");
    for (int i = 0; i < SWAPS; i++) { /* two at a time, so that each leaves an image again */
        rk_pid pid = spawn(10 + i % NAMES), other = spawn(10 + (i + 1) % NAMES);
        IS(1, call(pid, i, 10 + i % NAMES));
        IS(1, call(other, i, 10 + (i + 1) % NAMES));
        stop(pid);
        stop(other);
    }
    __atomic_store_n(&stop_word, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++) {
        pthread_join(c[i].thread, NULL);
        IS(0, c[i].code);
        IS(c[i].answers, c[i].last); /* the state has lived through all swaps */
        CHECK(c[i].answers > 0);
    }
    printf("%zu images, %lld and %lld calls\n", count("cuModuleLoadDataEx") - loads,
           (long long)c[0].answers, (long long)c[1].answers);
    CHECK(count("cuModuleLoadDataEx") - loads >= SWAPS / 2);
    OK(rk_close(rt));
}

static void test_swap(void)
{
    swap_under_load("persistent");
}

static void test_swap_bounded(void)
{
    swap_under_load("bounded");
}

static void test_swap_batch(void)
{
    swap_under_load("batch");
}

/* Sends, not calls: queues are full of mail at each swap; answers come in order. */
static void test_swap_queued(void)
{
    int64_t sent = 0, answered = 0;
    open_cuda(0);
    rk_pid pid = spawn(1), extra = RK_NOBODY;
    for (int i = 0; i < 10; i++) {
        for (int k = 0; k < 50; k++) {
            OK(send(pid, sent++, NULL));
        }
        if (i % 2 == 0) {
            extra = spawn(20 + i);
        } else {
            stop(extra);
        }
    }
    while (answered < sent) {
        rk_message *m = NULL;
        int64_t counted = 0;
        if (rk_receive(&m, PATIENCE) < 0) {
            fprintf(stderr, "%lld of %lld answers\n", (long long)answered, (long long)sent);
            CHECK(!"an answer");
            break;
        }
        check_answer(m, answered, 1, &counted);
        IS(++answered, counted);
    }
    OK(rk_close(rt));
}

/* ---- modes ---- */

static void exchange(rk_pid pid, int number)
{
    int64_t counted = 0;
    for (int i = 0; i < number; i++) {
        OK(send(pid, i, NULL));
    }
    for (int i = 0; i < number; i++) {
        rk_message *m = NULL;
        if (rk_receive(&m, PATIENCE) < 0) {
            CHECK(!"an answer");
            return;
        }
        check_answer(m, i, 1, &counted);
        IS(i + 1, counted);
    }
}

static int64_t ticks_of(rk_pid pid)
{
    rk_message *answer = NULL;
    int64_t ticks = -1;
    if (rk_call(pid, new_job(1, NULL), &answer, PATIENCE) == 0) {
        ticks = ((done_fields *)rk_message_data(answer))->who;
        rk_message_release(answer);
    }
    return ticks;
}

/* Whether nothing is launched for a while, some time. */
static void until_quiet(void)
{
    size_t before;
    do {
        before = count("cuLaunchKernel");
        usleep(300000);
    } while (count("cuLaunchKernel") != before);
}

static void check_mode(const char *mode)
{
    open_mode(mode);
    rk_pid pid = spawn(1), other = spawn(2);
    exchange(pid, 2000);
    for (int i = 1; i <= 100; i++) {
        IS(2000 + i, call(pid, i, 1));
        IS(i, call(other, i, 2));
    }
    until_quiet(); /* grids end when nothing is to do */
    printf("%zu launches\n", count("cuLaunchKernel"));
    OK(rk_deactivate(pid)); /* while no grid runs */
    IS(RK_DEACTIVATED, state_of(pid));
    OK(send(pid, 7, NULL));
    usleep(50000);
    OK(rk_reactivate(pid));
    rk_message *m = NULL;
    int64_t counted = 0;
    OK(rk_receive(&m, PATIENCE));
    check_answer(m, 7, 1, &counted);
    IS(2101, counted);
    until_quiet();
    stop(other);
    rk_pid again = spawn(2);
    IS(1, call(again, 1, 2));
    IS(2102, call(pid, 1, 1));
    OK(rk_close(rt));
}

static void test_bounded(void)
{
    check_mode("bounded");
}

static void test_batch(void)
{
    check_mode("batch");
}

/* Timers fire while nobody sends anything. */
static void check_timers(const char *mode)
{
    rk_pid pid = RK_NOBODY;
    open_mode(mode);
    OK(define_source("ticking", TICKING));
    OK(rk_spawn(rt, &pid, "ticking", NULL));
    int64_t before = ticks_of(pid);
    CHECK(before >= 0);
    UNTIL(usleep(100000) == 0 && ticks_of(pid) >= before + 10);
    before = ticks_of(pid);
    usleep(400000);
    CHECK(ticks_of(pid) > before + 1); /* more than the call itself could have brought */
    OK(rk_deactivate(pid));
    OK(rk_reactivate(pid));
    before = ticks_of(pid);
    UNTIL(usleep(100000) == 0 && ticks_of(pid) > before);
    stop(pid);
    OK(rk_close(rt));
}

static void test_timers(void)
{
    check_timers("persistent");
}

static void test_timers_bounded(void)
{
    check_timers("bounded");
}

static void test_timers_batch(void)
{
    check_timers("batch");
}

/* ---- closing ---- */

static void test_close(void)
{
    enum { KERNELS = 20, CALLERS = 4, QUEUED = 30 };
    rk_pid pids[KERNELS];
    caller c[CALLERS];
    uint32_t stop_word = 0;
    size_t pinned;
    open_cuda(0);
    for (int i = 0; i < KERNELS; i++) {
        pids[i] = spawn(i % 3 + 1);
    }
    for (int i = 0; i < CALLERS; i++) {
        start_caller(&c[i], pids[i], i % 3 + 1, NULL, &stop_word);
    }
    for (int i = 0; i < KERNELS * QUEUED; i++) {
        OK(send(pids[i % KERNELS], i, NULL));
    }
    pinned = count("cuMemHostAlloc");
    OK(rk_close(rt));
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(c[i].thread, NULL);
        CHECK(c[i].code == RK_EDEAD || c[i].code == RK_ESTATE);
        printf("%lld answers, then %s: %s\n", (long long)c[i].answers, rk_err_name(c[i].code),
               c[i].detail);
    }
    IS(1, (long long)pinned);
    IS(1, (long long)count("cuCtxDestroy_v2"));
    size_t calls = count("cuEventQuery") + count("cuLaunchKernel");
    usleep(100000);
    IS((long long)calls, (long long)(count("cuEventQuery") + count("cuLaunchKernel")));
    check_cuda();
}

/* ---- chaos ---- */

enum { KEEPERS = 3, VICTIMS = 3, CHAOS_NAMES = 6 };

static uint32_t chaos_over;
static rk_pid keepers[KEEPERS];
static rk_pid victims[VICTIMS]; /* atomic */

static bool over(void)
{
    return __atomic_load_n(&chaos_over, __ATOMIC_RELAXED) != 0;
}

/* Calls kernels that may be gone: an answer or an error, but it ends. */
static void *pester(void *arg)
{
    uint64_t state = seed + 77 * (uint64_t)(uintptr_t)arg + 1;
    while (!over()) {
        rk_pid pid = __atomic_load_n(&victims[next_random(&state) % VICTIMS], __ATOMIC_RELAXED);
        rk_message *answer = NULL;
        int64_t number = next_random(&state) % 50 == 0 ? -1 : 5;
        int code =
            pid != RK_NOBODY ? rk_call(pid, new_job(number, NULL), &answer, PATIENCE) : RK_EDEAD;
        if (code == 0) {
            IS(5, ((done_fields *)rk_message_data(answer))->number);
            rk_message_release(answer);
        } else if (code == RK_ESTATE || code == RK_EDEAD || code == RK_EHANDLER) {
            usleep(200);
        } else if (code != RK_ETIMEOUT || number >= 0) {
            IS(RK_EDEAD, code);
        }
    }
    return NULL;
}

static void live_a_while(rk_pid pid, uint64_t *state)
{
    for (uint64_t i = 0, n = next_random(state) % 4; i < n; i++) {
        int code = 0;
        if (next_random(state) % 2) {
            usleep(next_random(state) % 3000);
        }
        if (next_random(state) % 2) {
            code = rk_deactivate(pid);
            code = code == 0 ? rk_reactivate(pid) : code;
        }
        if (code < 0) {
            IS(RK_ESTATE, code); /* a message has failed it meanwhile */
        }
    }
}

/* One victim after the other. */
static void *churn(void *arg)
{
    uint64_t index = (uint64_t)(uintptr_t)arg, state = (seed + 1) * 7919 + index;
    long rounds = 0;
    for (; !over(); rounds++) {
        rk_pid pid = RK_NOBODY;
        OK(launch(&pid, 30 + (int)(next_random(&state) % CHAOS_NAMES)));
        if (next_random(&state) % 8 != 0) {
            __atomic_store_n(&victims[index], pid, __ATOMIC_RELAXED);
            OK(rk_activate(pid));
            live_a_while(pid, &state);
        }
        OK(rk_terminate(pid, "round over", PATIENCE));
    }
    printf("%ld instances came and went\n", rounds);
    return NULL;
}

static void chaos_in(const char *mode)
{
    caller c[KEEPERS];
    pthread_t threads[2 * VICTIMS];
    open_mode(mode);
    for (int i = 0; i < KEEPERS; i++) {
        keepers[i] = spawn(i + 1);
        start_caller(&c[i], keepers[i], i + 1, NULL, &chaos_over);
    }
    for (uintptr_t i = 0; i < VICTIMS; i++) {
        OK(pthread_create(&threads[2 * i], NULL, churn, (void *)i));
        OK(pthread_create(&threads[2 * i + 1], NULL, pester, (void *)i));
    }
    usleep((useconds_t)(seconds * 1e6));
    __atomic_store_n(&chaos_over, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2 * VICTIMS; i++) {
        pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < KEEPERS; i++) {
        pthread_join(c[i].thread, NULL);
        IS(0, c[i].code);
        IS(c[i].answers, c[i].last);
        printf("%lld calls of keeper %d\n", (long long)c[i].answers, i);
    }
    printf("%zu images, %zu launches\n", count("cuModuleLoadDataEx"), count("cuLaunchKernel"));
    OK(rk_close(rt));
}

static void test_chaos(void)
{
    uint64_t state = seed * 2654435761u + 1;
    const char *mode = modes[next_random(&state) % 3];
    printf("mode %s\n", mode);
    chaos_in(mode);
}

static void test_chaos_persistent(void)
{
    chaos_in("persistent");
}

int main(int argc, char **argv)
{
    static const test_case cases[] = {
        {"swap", test_swap},
        {"swap_bounded", test_swap_bounded},
        {"swap_batch", test_swap_batch},
        {"swap_queued", test_swap_queued},
        {"bounded", test_bounded},
        {"batch", test_batch},
        {"timers", test_timers},
        {"timers_bounded", test_timers_bounded},
        {"timers_batch", test_timers_batch},
        {"close", test_close},
        {"chaos", test_chaos},
        {"chaos_persistent", test_chaos_persistent},
    };
    return RUN_CASES(cases, argc, argv);
}
