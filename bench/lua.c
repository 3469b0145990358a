/*
 * lua.c -- the Lua cases: an embedder that runs a script with its main thread on the first cpu.
 *
 *     lua SCRIPT.lua [CASE]    the script finds cpus, seconds and case in the global `bench`
 */
#include "bench.h"
#include "rk.h"

int main(int argc, char **argv)
{
    rk_config config = RK_CONFIG_INIT;
    rk_runtime *rt;
    char settings[256];
    if (argc < 2) {
        bench_die("usage: %s SCRIPT.lua [CASE]", argv[0]);
    }
    config.device = "cpu";
    bench_start_on(bench_cpu(0));
    if (rk_open(&rt, &config) < 0) {
        bench_die("lua: %s", rk_errdetail());
    }
    bench_pin(bench_cpu(0));
    snprintf(settings, sizeof settings, "bench = {cpus = {%d, %d}, seconds = %.9f, case = [[%s]]}",
             bench_cpu(0), bench_cpu(1), (double)bench_seconds() / 1e9, argc > 2 ? argv[2] : "");
    if (rk_dostring(rt, settings, "=settings") < 0 || rk_dofile(rt, argv[1]) < 0) {
        bench_die("lua: %s", rk_errdetail());
    }
    if (rk_close(rt) < 0) {
        bench_die("lua: %s", rk_errdetail());
    }
    return 0;
}
