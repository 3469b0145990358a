/*
 * launch.c -- how long a ring kernel takes from its definition to its first answer.
 *
 *     launch NAME FOLDER    results are called NAME_...; FOLDER is the cache of compiled kernels
 *
 * One process, one launch, so nothing is warm but the folder. Whether it was compiled or found is
 * taken from the runtime's counters, not believed.
 */
#include "word.h"

static void must(int code)
{
    if (code < 0) {
        bench_die("launch: %s", rk_errdetail());
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        bench_die("usage: %s NAME FOLDER", argv[0]);
    }
    rk_config config = RK_CONFIG_INIT;
    rk_options options = RK_OPTIONS_INIT;
    rk_runtime *rt;
    rk_pid pid;
    rk_message *request, *reply;
    rk_stats stats;
    config.device = "cpu";
    config.cache = argv[2];
    int64_t start = rk__now();
    must(rk_open(&rt, &config));
    int64_t opened = rk__now();
    const rk_type *type = word_type();
    word_kernel(type);
    options.cpu = bench_cpu(1);
    int64_t defined = rk__now();
    must(rk_launch(rt, &pid, "bench_word", &options));
    int64_t launched = rk__now();
    must(rk_activate(pid));
    must(rk_message_new(&request, type));
    ((word *)rk_message_data(request))->a_number = 41;
    must(rk_call(pid, request, &reply, -1));
    int64_t answered = rk__now();
    if (((const word *)rk_message_data(reply))->a_number != 42) {
        bench_die("launch: wrong answer");
    }
    rk_message_release(reply);
    must(rk_runtime_stats(rt, &stats));
    bench_result(argv[1], "open", (double)(opened - start));
    bench_result(argv[1], "launch", (double)(launched - defined));
    bench_result(argv[1], "answer", (double)(answered - defined));
    bench_result(argv[1], "compiled", (double)stats.kernels_compiled);
    bench_result(argv[1], "hits", (double)stats.cache_hits);
    must(rk_close(rt));
    return 0;
}
