/*
 * cuda_cases.h -- what the stress programs of the cuda device share: cases in processes of their own, the
 * stand-in's faults, a counting kernel, calls that are checked.
 *
 * A case runs in a child, since one that loses a device, or hangs, must not spoil the next; what it
 * printed is shown when it fails. Nothing of CUDA is called before the fork.
 */
#ifndef TESTS_STRESS_CUDA_CASES_H
#define TESTS_STRESS_CUDA_CASES_H

#include "rk.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HELPER static __attribute__((unused))

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, rk_errdetail());   \
            __atomic_add_fetch(&errors, 1, __ATOMIC_RELAXED);                                      \
        }                                                                                          \
    } while (0)
#define IS(wanted, call)                                                                           \
    do {                                                                                           \
        long long is_wanted = (wanted), is_found = (call);                                         \
        if (is_wanted != is_found) {                                                               \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld (%s)\n", __FILE__, __LINE__, #call,       \
                    is_found, is_wanted, rk_errdetail());                                          \
            __atomic_add_fetch(&errors, 1, __ATOMIC_RELAXED);                                      \
        }                                                                                          \
    } while (0)
#define OK(call) IS(0, call)
/* The call fails with this code, and rk_errdetail has the text. */
#define FAILS(code, text, call)                                                                    \
    do {                                                                                           \
        IS(code, call);                                                                            \
        says(__FILE__, __LINE__, rk_errdetail(), text);                                            \
    } while (0)
/* Waits for as long as the case may last. */
#define UNTIL(condition)                                                                           \
    while (!(condition)) {                                                                         \
        usleep(500);                                                                               \
    }

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { CASE_LIMIT = 120 }; /* seconds; also the compiler is slower then */
#else
enum { CASE_LIMIT = 60 };
#endif
static const int64_t SECOND = 1000000000, PATIENCE = 30000000000;

static uint64_t seed;
static double seconds;
static uint32_t errors;
static rk_runtime *rt;
static const rk_type *job, *done;
static char folder[128]; /* of this run: compiled kernels, what cases print */
static char libraries[4096];

HELPER void says(const char *file, int line, const char *found, const char *text)
{
    if (strstr(found, text) == NULL) {
        fprintf(stderr, "%s:%d: \"%s\" lacks \"%s\"\n", file, line, found, text);
        __atomic_add_fetch(&errors, 1, __ATOMIC_RELAXED);
    }
}

HELPER uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

HELPER int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

/* ---- the stand-in ---- */

HELPER void *standin(const char *name)
{
    static void *library;
    char path[sizeof libraries + 16];
    snprintf(path, sizeof path, "%s/libcuda.so.1", libraries);
    if (library == NULL) {
        setenv("CUDA_MODULE_LOADING", "EAGER", 0); /* the library looks at it once, now */
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    void *found = library != NULL ? dlsym(library, name) : NULL;
    if (found == NULL) {
        fprintf(stderr, "%s: %s\n", path, dlerror());
        exit(2);
    }
    return found;
}

HELPER void fault(const char *name, long value)
{
    int (*set)(const char *, long);
    *(void **)&set = standin("fakecuda_set");
    OK(set(name, value));
}

/* How often a CUDA function was called. */
HELPER size_t count(const char *name)
{
    size_t (*get)(const char *);
    *(void **)&get = standin("fakecuda_count");
    return get(name);
}

/* ---- runtimes ---- */

HELPER rk_config config_for(const char *device)
{
    static char cache[sizeof folder + 16];
    rk_config config = RK_CONFIG_INIT;
    snprintf(cache, sizeof cache, "%s/cache", folder);
    config.device = device;
    config.cache = cache;
    config.device_timeout = 20 * SECOND; /* this machine may be busy */
    return config;
}

HELPER void define_types(void)
{
    static const rk_field job_schema[] = {{"gate", "u64"}, {"number", "i64"}};
    static const rk_field done_schema[] = {{"number", "i64"}, {"count", "i64"}, {"who", "i64"}};
    OK(rk_message_define(&job, "Job", job_schema, 2));
    OK(rk_message_define(&done, "Done", done_schema, 3));
}

/* A runtime that everything must work in; without one the case is over. */
HELPER void open_with(const rk_config *config)
{
    define_types();
    if (rk_open(&rt, config) < 0) {
        fprintf(stderr, "rk_open: %s\n", rk_errdetail());
        exit(2);
    }
}

HELPER void open_cuda(int64_t timeout)
{
    rk_config config = config_for("cuda");
    config.device_timeout = timeout > 0 ? timeout : config.device_timeout;
    open_with(&config);
}

/* ---- kernels ---- */

/* What a handler waits for; its address travels in the message. On the stand-in the host's memory
 * is the device's. */
typedef struct gate {
    uint32_t open, begun;
} gate;

typedef struct job_fields {
    uint64_t gate;
    int64_t number;
} job_fields;

typedef struct done_fields {
    int64_t count, number, who;
} done_fields;

/* Answers with the number, how many messages there were, and which definition it is. */
#define COUNTING                                                                                   \
    "RK_STATE { int64_t count; };\n"                                                               \
    "RK_ON(Job, j) {\n"                                                                            \
    "    uint32_t *g = (uint32_t *)j->gate, n = 0;\n"                                              \
    "    if (g) {\n"                                                                               \
    "        rk__store_u32(g + 1, 1);\n"                                                           \
    "        while (!rk__load_u32(g)) rk__pause(63 + 64 * n++);\n"                                 \
    "    }\n"                                                                                      \
    "    if (j->number < 0) rk_fail(ctx, \"below zero\");\n"                                       \
    "    if (rk_thread(ctx) == 0) rk_get_state(ctx)->count++;\n"                                   \
    "    rk_sync(ctx);\n"                                                                          \
    "    rk_reply(ctx, Done, .number = j->number, .count = rk_get_state(ctx)->count,\n"            \
    "             .who = WHO);\n"                                                                  \
    "}\n"

HELPER int define_source(const char *name, const char *source)
{
    rk_kernel k = RK_KERNEL_INIT;
    k.name = name;
    k.source = source;
    k.accepts = &job;
    k.accepts_count = 1;
    k.replies = &done;
    k.replies_count = 1;
    k.block = 2;
    k.queue_size = 64;
    return rk_kernel_define(&k);
}

static __thread char kernel_text[32];

/* A definition of its own for each number; gives its name, until the thread's next. */
HELPER const char *counting(int who)
{
    char source[1024];
    snprintf(source, sizeof source, "enum { WHO = %d };\n" COUNTING, who);
    snprintf(kernel_text, sizeof kernel_text, "counting%d", who);
    OK(define_source(kernel_text, source));
    return kernel_text;
}

/* Names are of one instance each, so these get numbers. */
HELPER int spawn_block(rk_pid *out, int who, uint32_t block)
{
    static uint32_t number;
    char name[RK_NAME_MAX];
    rk_options options = RK_OPTIONS_INIT;
    snprintf(name, sizeof name, "i%u", __atomic_add_fetch(&number, 1, __ATOMIC_RELAXED));
    options.name = name;
    options.block = block;
    return rk_spawn(rt, out, counting(who), &options);
}

HELPER rk_pid spawn(int who)
{
    rk_pid pid = RK_NOBODY;
    OK(spawn_block(&pid, who, 0));
    return pid;
}

HELPER int launch(rk_pid *out, int who)
{
    static uint32_t number;
    char name[RK_NAME_MAX];
    rk_options options = RK_OPTIONS_INIT;
    snprintf(name, sizeof name, "l%u", __atomic_add_fetch(&number, 1, __ATOMIC_RELAXED));
    options.name = name;
    return rk_launch(rt, out, counting(who), &options);
}

/* ---- messages ---- */

HELPER rk_message *new_job(int64_t number, const gate *g)
{
    rk_message *m = NULL;
    OK(rk_message_new(&m, job));
    *(job_fields *)rk_message_data(m) = (job_fields){(uint64_t)(uintptr_t)g, number};
    return m;
}

HELPER int send(rk_pid to, int64_t number, const gate *g)
{
    rk_message *m = new_job(number, g);
    int code = rk_send(to, m, PATIENCE);
    if (code < 0) {
        rk_message_release(m);
    }
    return code;
}

HELPER void check_answer(rk_message *m, int64_t number, int who, int64_t *counted)
{
    const done_fields *d = rk_message_data(m);
    CHECK(rk_message_type(m) == done);
    IS(number, d->number);
    IS(who, d->who);
    *counted = d->count;
    rk_message_release(m);
}

/* Calls; a right answer's count, or the error. */
HELPER int64_t call(rk_pid to, int64_t number, int who)
{
    rk_message *answer = NULL;
    int64_t counted = 0;
    int code = rk_call(to, new_job(number, NULL), &answer, PATIENCE);
    if (code < 0) {
        return code;
    }
    check_answer(answer, number, who, &counted);
    return counted;
}

HELPER void stop(rk_pid pid)
{
    OK(rk_terminate(pid, NULL, PATIENCE));
}

HELPER void open_gate(gate *g)
{
    __atomic_store_n(&g->open, 1, __ATOMIC_RELEASE); /* pairs with rk__load_u32 in the handler */
}

HELPER bool begun(const gate *g)
{
    return __atomic_load_n(&g->begun, __ATOMIC_ACQUIRE) != 0; /* pairs with rk__store_u32 there */
}

HELPER enum rk_state state_of(rk_pid pid)
{
    rk_info info = {.state = RK_TERMINATED};
    rk_inspect(pid, &info);
    return info.state;
}

/* The device is lost: the actor has failed, and is refused mail at once, with the reason. */
HELPER void check_failed(rk_pid pid, const char *reason)
{
    UNTIL(state_of(pid) == RK_FAILED || state_of(pid) == RK_TERMINATED);
    IS(RK_FAILED, state_of(pid));
    rk_message *m = new_job(1, NULL);
    FAILS(RK_EDEAD, reason, rk_send(pid, m, PATIENCE));
    rk_message_release(m);
}

/* Whatever happened to a GPU: kernels on the cpu go on. */
HELPER void check_cpu(void)
{
    rk_config config = config_for("cpu");
    open_with(&config);
    IS(1, call(spawn(1), 5, 1));
    OK(rk_close(rt));
}

HELPER void check_cuda(void)
{
    open_cuda(0);
    IS(1, call(spawn(1), 5, 1));
    OK(rk_close(rt));
}

/* ---- threads ---- */

/* Calls until told to stop, or for ever until an error; counts what came back. */
typedef struct caller {
    rk_pid to;
    int who;
    const gate *gate;
    uint32_t *stop; /* atomic; NULL: one call */
    int64_t answers, refusals, last;
    int code; /* of the last call */
    char detail[512];
    pthread_t thread;
} caller;

HELPER void *caller_main(void *arg)
{
    caller *c = arg;
    do {
        rk_message *answer = NULL;
        c->code = rk_call(c->to, new_job(c->answers, c->gate), &answer, PATIENCE);
        if (c->code == 0) {
            check_answer(answer, c->answers++, c->who, &c->last);
        } else {
            c->refusals++;
            snprintf(c->detail, sizeof c->detail, "%s", rk_errdetail());
        }
    } while (c->code == 0 && c->stop != NULL && !__atomic_load_n(c->stop, __ATOMIC_RELAXED));
    return NULL;
}

HELPER void start_caller(caller *c, rk_pid to, int who, const gate *g, uint32_t *stop_word)
{
    *c = (caller){.to = to, .who = who, .gate = g, .stop = stop_word};
    OK(pthread_create(&c->thread, NULL, caller_main, c));
}

/* Activates on a thread of its own. */
typedef struct activation {
    rk_pid pid;
    int code;
    char detail[512];
    pthread_t thread;
} activation;

HELPER void *activation_main(void *arg)
{
    activation *a = arg;
    a->code = rk_activate(a->pid);
    snprintf(a->detail, sizeof a->detail, "%s", a->code < 0 ? rk_errdetail() : "");
    return NULL;
}

HELPER void start_activation(activation *a, rk_pid pid)
{
    *a = (activation){.pid = pid};
    OK(pthread_create(&a->thread, NULL, activation_main, a));
}

/* ---- cases ---- */

typedef struct test_case {
    const char *name;
    void (*fn)(void);
} test_case;

HELPER void child(const test_case *c, const char *output)
{
    FILE *file = freopen(output, "w", stdout);
    if (file == NULL || dup2(fileno(file), 2) < 0) {
        exit(2);
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    c->fn();
    exit(errors > 0);
}

HELPER void show(const char *path)
{
    char line[4096];
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        printf("    %s", line);
    }
    if (file != NULL) {
        fclose(file);
    }
}

/* 0: it ended well. */
HELPER int run_case(const test_case *c, double limit)
{
    char output[sizeof folder + 64];
    int status = -1;
    int64_t begin = now();
    snprintf(output, sizeof output, "%s/output", folder);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        child(c, output);
    }
    pid_t ended = 0;
    while (pid > 0 && (ended = waitpid(pid, &status, WNOHANG)) == 0) {
        if ((double)(now() - begin) / 1e9 > limit) {
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            break;
        }
        usleep(5000);
    }
    double took = (double)(now() - begin) / 1e9;
    bool well = ended == pid && status == 0;
    printf("%s %s, %.1f s%s\n", well ? "ok    " : "FAILED", c->name, took,
           ended == 0 ? ": did not end in time" : "");
    if (!well || getenv("CUDA_STRESS_SHOW") != NULL) {
        printf("    status %x\n", (unsigned)status);
        show(output);
    }
    fflush(stdout);
    return well ? 0 : 1;
}

/* Names after seed and seconds choose cases. */
HELPER bool chosen(const char *name, int argc, char **argv)
{
    bool found = argc <= 3;
    for (int i = 3; i < argc; i++) {
        found |= strcmp(argv[i], name) == 0;
    }
    return found;
}

HELPER void remove_folder(void)
{
    char command[sizeof folder + 32];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0) {
        printf("%s stays\n", folder);
    }
}

HELPER int run_cases(const test_case *cases, size_t number, int argc, char **argv)
{
    uint32_t failed = 0;
    const char *slash = strrchr(argv[0], '/');
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)getpid();
    seconds = argc > 2 ? atof(argv[2]) : 2;
    printf("%s %llu %g\n", argv[0], (unsigned long long)seed, seconds);
#if !defined(RK_HAVE_CUDA)
    printf("skipped: no CUDA Toolkit\n");
    return 0;
#endif
    snprintf(libraries, sizeof libraries, "%.*s/../fakecuda",
             (int)(slash != NULL ? slash - argv[0] : 1), slash != NULL ? argv[0] : ".");
    snprintf(folder, sizeof folder, "/tmp/rk-stress-cuda-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        perror(folder);
        return 2;
    }
    setenv("RK_CUDA_LIBS", libraries, 1);
    setenv("XDG_CACHE_HOME", folder, 1);
    for (size_t i = 0; i < number; i++) {
        if (chosen(cases[i].name, argc, argv)) {
            failed += (uint32_t)run_case(&cases[i], CASE_LIMIT + seconds);
        }
    }
    remove_folder();
    printf("%u cases failed; again: %s %llu %g\n", failed, argv[0], (unsigned long long)seed,
           seconds);
    return failed > 0;
}

#define RUN_CASES(cases, argc, argv) run_cases(cases, sizeof(cases) / sizeof(cases)[0], argc, argv)

#endif
