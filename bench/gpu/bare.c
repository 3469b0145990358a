/*
 * bare.c -- round trips without the runtime: the limit, the ways a channel could work, and today's
 * practice, a launch per message. Every answer is compared with its question.
 *
 * Threads: main alone; a kernel of one block answers (kernels.cu).
 */
#include "gpu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

enum { TRIPS = 100000, BAR_SIZE = 2 << 20 };

typedef struct bare_case {
    const char *name, *variant, *kernel;
    bool warp;      /* a warp, not one thread */
    uint32_t units; /* of a message */
    void (*trip)(box *b, rk_slot *in, uint32_t at, uint32_t number);
} bare_case;

static gpu device;
static gpu_boxes boxes;
static CUstream stream;
static rk_slot *bar_ring; /* the host's view of a ring in device memory, or NULL */
static CUdeviceptr bar_memory;
static char bar_missing[512];

/* ---- one trip each: question number `number` as message `at` --------------------------------- */

static void wrong(const char *what, uint32_t got, uint32_t wanted)
{
    bench_fail("%s: got %u where %u was sent", what, got, wanted);
}

static uint32_t load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static void await(const uint32_t *word, uint32_t value, const char *what)
{
    bench_wait w = {0, 0};
    while (load(word) != value) {
        bench_spin(&w, what);
    }
}

static void trip_word(box *b, rk_slot *in, uint32_t at, uint32_t number)
{
    (void)in, (void)at;
    store(&b->there, number);
    await(&b->back, number, "a word");
}

static void take_unit(const rk_unit *unit, uint32_t stamp, uint32_t first)
{
    await(&unit->stamp, stamp, "a unit");
    for (uint32_t i = 0; i < RK_UNIT_WORDS; i++) {
        if (unit->words[i] != first + i) {
            wrong("a unit", unit->words[i], first + i);
        }
    }
}

static void trip_units(box *b, rk_slot *in, uint32_t at, uint32_t number)
{
    rk_slot *to = &in[at % BOX_SLOTS], *from = &b->out[at % BOX_SLOTS];
    for (uint32_t u = 0; u < b->units; u++) {
        for (uint32_t i = 0; i < RK_UNIT_WORDS; i++) {
            to->units[u].words[i] = number + u * RK_UNIT_WORDS + i;
        }
        store(&to->units[u].stamp, at + 1);
    }
    for (uint32_t u = 0; u < b->units; u++) {
        take_unit(&from->units[u], at + 1, number + u * RK_UNIT_WORDS);
    }
}

/* Always the first place of the rings. */
static void trip_unit(box *b, rk_slot *in, uint32_t at, uint32_t number)
{
    for (uint32_t i = 0; i < RK_UNIT_WORDS; i++) {
        in->units[0].words[i] = number + i;
    }
    store(&in->units[0].stamp, at + 1);
    take_unit(&b->out->units[0], at + 1, number);
}

/* Through a write-combining mapping: whole units, and a fence that sends them off. */
static void trip_bar(box *b, rk_slot *in, uint32_t at, uint32_t number)
{
#if defined(__x86_64__)
    for (uint32_t u = 0; u < b->units; u++) {
        uint32_t first = number + u * RK_UNIT_WORDS;
        _mm_store_si128(
            (__m128i *)(void *)&in[at % BOX_SLOTS].units[u],
            _mm_set_epi32((int)(at + 1), (int)(first + 2), (int)(first + 1), (int)first));
    }
    _mm_sfence();
    for (uint32_t u = 0; u < b->units; u++) {
        take_unit(&b->out[at % BOX_SLOTS].units[u], at + 1, number + u * RK_UNIT_WORDS);
    }
#else
    (void)b, (void)in, (void)at, (void)number;
#endif
}

static void put_words(box_line *to, uint32_t units, uint32_t number)
{
    for (uint32_t i = 0; i < (units > 1 ? (uint32_t)BOX_INLINE : 1); i++) {
        to->words[i] = number + i;
    }
}

static void check_words(const box_line *from, uint32_t units, uint32_t number)
{
    for (uint32_t i = 0; i < (units > 1 ? (uint32_t)BOX_INLINE : 1); i++) {
        if (from->words[i] != number + i) {
            wrong("a line", from->words[i], number + i);
        }
    }
}

static void trip_acquire(box *b, rk_slot *in, uint32_t at, uint32_t number)
{
    box_line *to = (box_line *)(void *)&in[at % BOX_SLOTS];
    const box_line *from = (const box_line *)(void *)&b->out[at % BOX_SLOTS];
    put_words(to, b->units, number);
    store(&to->stamp, at + 1);
    await(&from->stamp, at + 1, "a line");
    check_words(from, b->units, number);
}

static void trip_index(box *b, rk_slot *in, uint32_t at, uint32_t number)
{
    put_words((box_line *)(void *)&in[at % BOX_SLOTS], b->units, number);
    store(&b->there, at + 1);
    await(&b->back, at + 1, "an index");
    check_words((const box_line *)(void *)&b->out[at % BOX_SLOTS], b->units, number);
}

static const bare_case cases[] = {
    {"limit", "one word", "bare_word", false, 1, trip_word},
    {"limit", "one 16-byte unit", "bare_unit", false, 1, trip_unit},
    {"channel", "(a) stamp per unit", "bare_units", true, 1, trip_units},
    {"channel", "(a) stamp per unit", "bare_units", true, 4, trip_units},
    {"channel", "(b) stamp, acquire, release", "bare_acquire", true, 1, trip_acquire},
    {"channel", "(b) stamp, acquire, release", "bare_acquire", true, 4, trip_acquire},
    {"channel", "(c) index pair", "bare_index", true, 1, trip_index},
    {"channel", "(c) index pair", "bare_index", true, 4, trip_index},
    {"channel", "(d) host to device by BAR1", "bare_units", true, 1, trip_bar},
    {"channel", "(d) host to device by BAR1", "bare_units", true, 4, trip_bar},
};
enum { CASES = sizeof cases / sizeof *cases };

/* ---- a ring in device memory that the host writes -------------------------------------------- */

static void no_bar(const char *what, const char *why)
{
    size_t length = strlen(bar_missing);
    snprintf(bar_missing + length, sizeof bar_missing - length, "%s%s: %s", length > 0 ? "; " : "",
             what, why);
}

/* Whether a word written by the host arrives in the device's memory. */
static bool bar_works(void *map)
{
    uint32_t value = 0x600df00d, seen = 0;
    memcpy(map, &value, sizeof value);
#if defined(__x86_64__)
    _mm_sfence();
#endif
    gpu_must(rk__cuda->MemcpyDtoH(&seen, bar_memory, sizeof seen), "reading device memory");
    gpu_must(rk__cuda->MemsetD8(bar_memory, 0, BAR_SIZE), "clearing device memory");
    gpu_must(rk__cuda->CtxSynchronize(), "clearing device memory");
    return seen == value;
}

static bool try_bar(unsigned long long flags, const char *what)
{
    int fd = -1;
    CUresult result = rk__cuda->MemGetHandleForAddressRange(
        &fd, bar_memory, BAR_SIZE, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, flags);
    if (result != CUDA_SUCCESS) {
        rk__cuda_fail(result, "cuMemGetHandleForAddressRange");
        no_bar(what, rk_errdetail());
        return false;
    }
    void *map = mmap(NULL, BAR_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        no_bar(what, strerror(errno));
    } else if (!bar_works(map)) {
        no_bar(what, "what the host writes does not arrive");
    } else {
        bar_ring = map;
    }
    close(fd); /* a mapping keeps what it needs */
    return bar_ring != NULL;
}

static void map_bar(void)
{
    int supported = 0;
#if !defined(__x86_64__)
    no_bar("this program", "writes through BAR1 on x86-64 only");
    return;
#endif
    rk__cuda->DeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED,
                                 device.device.handle);
    if (!supported || rk__cuda->MemGetHandleForAddressRange == NULL) {
        no_bar("the device", "no DMA-BUF (attribute 124 is 0, or the driver has no call for it)");
        return;
    }
    bar_memory = gpu_memory(BAR_SIZE);
    /* 1 is CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE, which older headers do not name. */
    if (!try_bar(1, "mmap of the dma-buf, PCIe mapping")) {
        try_bar(0, "mmap of the dma-buf");
    }
}

/* ---- cases ----------------------------------------------------------------------------------- */

/* Neighbouring questions have nothing in common, and none begins with BOX_STOP. */
static uint32_t question(uint32_t at)
{
    return (at + 1) * 16;
}

static void answer_all(const bare_case *c, box *b, rk_slot *in, bench_trips *t, uint64_t wanted)
{
    uint32_t at = 0;
    bench_begin(t, wanted);
    do {
        c->trip(b, in, at, question(at));
        at++;
    } while (bench_tick(t));
    c->trip(b, in, at, BOX_STOP);
}

static void run_case(const bare_case *c, uint64_t wanted, bool report)
{
    static bench_trips t;
    box *b = gpu_box(boxes, 0);
    bool bar = c->trip == trip_bar;
    rk_slot *host = b->out - BOX_SLOTS; /* where gpu_boxes_make has put it */
    uint32_t bytes = c->units > 1 ? RK_SLOT_DATA : 0;
    if (bar && bar_ring == NULL) {
        bench_missing(c->name, c->variant, BENCH_PARAMS({"payload", bytes}), "%s", bar_missing);
        return;
    }
    gpu_boxes_reset(boxes);
    if (bar) {
        gpu_must(rk__cuda->MemsetD8(bar_memory, 0, BAR_SIZE), "clearing device memory");
        gpu_must(rk__cuda->CtxSynchronize(), "clearing device memory");
    }
    b->units = c->units;
    b->in = bar ? (rk_slot *)(uintptr_t)bar_memory : host;
    gpu_launch(gpu_function(&device, c->kernel), 1, c->warp ? gpu_warp(&device) : 1, stream, boxes);
    answer_all(c, b, bar ? bar_ring : host, &t, wanted);
    gpu_finish(stream, c->kernel);
    if (report) {
        bench_histogram(c->name, c->variant, BENCH_PARAMS({"payload", bytes}), &t.histogram);
    }
}

/* ---- a launch per message -------------------------------------------------------------------- */

static void launch_once(CUfunction f, void *lines)
{
    void *parameters[] = {&lines};
    gpu_must(rk__cuda->LaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, stream, parameters, NULL),
             "launching a kernel");
}

static CUgraphExec make_graph(CUfunction f, void *lines)
{
    CUgraph graph;
    CUgraphExec exec;
    gpu_must(rk__cuda->StreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "capture");
    launch_once(f, lines);
    gpu_must(rk__cuda->StreamEndCapture(stream, &graph), "capture");
    gpu_must(rk__cuda->GraphInstantiateWithFlags(&exec, graph, 0), "making a graph");
    gpu_must(rk__cuda->GraphDestroy(graph), "freeing a graph");
    return exec;
}

static void run_launches(uint64_t wanted, CUgraphExec exec, CUfunction f, box_line *lines)
{
    static bench_trips t;
    uint32_t at = 0;
    bench_begin(&t, wanted);
    do {
        put_words(&lines[0], 4, question(at));
        if (exec != NULL) {
            gpu_must(rk__cuda->GraphLaunch(exec, stream), "launching a graph");
        } else {
            launch_once(f, lines);
        }
        gpu_must(rk__cuda->StreamSynchronize(stream), "a kernel");
        check_words(&lines[1], 4, question(at++) + 1);
    } while (bench_tick(&t));
    bench_histogram("practice", exec != NULL ? "graph and synchronize" : "launch and synchronize",
                    BENCH_PARAMS({"payload", RK_SLOT_DATA}), &t.histogram);
}

static void practice(uint64_t wanted)
{
    CUfunction f = gpu_function(&device, "bare_launch");
    box_line *lines = gpu_pinned(2 * sizeof *lines);
    run_launches(wanted, NULL, f, lines);
    if (rk__cuda->GraphLaunch == NULL || rk__cuda->StreamBeginCapture == NULL) {
        bench_missing("practice", "graph and synchronize", BENCH_PARAMS({"payload", RK_SLOT_DATA}),
                      "the driver has no graphs");
        return;
    }
    CUgraphExec exec = make_graph(f, lines);
    run_launches(wanted, exec, f, lines);
    gpu_must(rk__cuda->GraphExecDestroy(exec), "freeing a graph");
}

/* What a clock read adds to every round trip. */
static void clock_cost(void)
{
    enum { READS = 100000 };
    int64_t start = rk__now(), now = start;
    for (int i = 0; i < READS; i++) {
        now = rk__now();
    }
    bench_value("clock read", "host", BENCH_NONE, (double)(now - start) / READS, "ns");
}

int main(void)
{
    uint64_t wanted = bench_share(TRIPS);
    gpu_open(&device);
    boxes = gpu_boxes_make(1);
    stream = gpu_stream();
    map_bar();
    clock_cost();
    for (unsigned i = 0; i < bench_once(10, 1); i++) {
        run_case(&cases[0], wanted / 3 + 1, false); /* the GPU's clocks rise meanwhile */
    }
    for (unsigned i = 0; i < CASES; i++) {
        run_case(&cases[(i + bench_round()) % CASES], wanted, true);
    }
    gpu_clocks(&device);
    practice(wanted);
    gpu_must(rk__cuda->CtxDestroy(device.context), "ending the context");
    return 0;
}
