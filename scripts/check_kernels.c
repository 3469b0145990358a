/*
 * check_kernels.c -- compiles kernels with NVRTC, without a GPU and without a driver.
 *
 *     check_kernels CACHE EXAMPLE.lua...
 *
 * Compiled: the resident loop for each number of registers, every ready-made kernel, and the
 * kernels that the examples define before they open a runtime; each as the cuda device does it, for
 * sm_80 and sm_90 as machine code and for compute_90 as PTX. What compiled before is found in the
 * folder CACHE. Exit status 0: all compile; 1: one does not, and the compiler's text is shown; 77:
 * there is no NVRTC.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/cuda/compile.h"

static const rk__cuda_target targets[] = {{80, false}, {90, false}, {90, true}};
enum { TARGETS = sizeof targets / sizeof *targets };

static rk_runtime *rt;
static int failures, checked;

static void count(int rc, const char *name, const rk__cuda_target *target)
{
    char text[16];
    checked++;
    if (rc < 0) {
        rk__cuda_target_text(*target, text);
        fprintf(stderr, "check-kernels: %s for %s: %s\n", name, text, rk_errdetail());
        failures++;
    }
}

static void check_loop(void)
{
    static const uint32_t threads[] = {256, 512, 1024};
    for (size_t i = 0; i < TARGETS * 3; i++) {
        const rk__cuda_object *loop;
        unsigned class = (unsigned)(i / TARGETS);
        const rk__cuda_target *target = &targets[i % TARGETS];
        uint32_t registers = rk__cuda_registers(threads[class]);
        count(rk__cuda_loop_build(rt->cache, target, class, registers, &loop), "resident.cu", target);
    }
}

static void check_kernel(const rk__kernel *kernel)
{
    for (size_t i = 0; i < TARGETS; i++) {
        rk__module *module = NULL;
        int rc = rk__cuda_module_build(rt, &targets[i], kernel, 256, &module);
        count(rc, kernel->base.name, &targets[i]);
        rk__module_release(module);
    }
}

/* A kernel is looked at again after each example, which may have defined another of its name. */
static bool is_new(const char *text)
{
    static uint64_t seen[256];
    static size_t known;
    uint64_t hash = rk__hash64(text, strlen(text));
    for (size_t i = 0; i < known; i++) {
        if (seen[i] == hash) {
            return false;
        }
    }
    seen[known < 256 ? known++ : 255] = hash;
    return true;
}

static void check_definition(const rk__definition *definition, void *arg)
{
    char *text;
    const rk__kernel *kernel = (const rk__kernel *)definition;
    (void)arg;
    if (strcmp(definition->kind, "kernel") == 0 && rk__kernel_text(kernel, &text) == 0) {
        if (is_new(text)) {
            check_kernel(kernel);
        }
        free(text);
    }
}

/* Runs an example up to its first rk.runtime(): by then it has defined its kernels. */
static const char chunk[] = "local rk, path = require 'rk', ...\n"
                            "local stop, open = {}, rk.runtime\n"
                            "rk.runtime = function() error(stop, 0) end\n"
                            "local ok, why = pcall(function(...)\n"
                            "  local f = assert(loadfile(path))\n  arg = {[0] = path}\n  f()\n"
                            "end)\n"
                            "rk.runtime = open\n"
                            "if not ok and why ~= stop then error(why, 0) end\n";

static int run_example(const char *path)
{
    rk__strbuf text = RK__STRBUF_INIT;
    rk__strbuf_addf(&text, "(load(%s%s%s))(%s%s%s)", "[==[", chunk, "]==]", "[==[", path, "]==]");
    int rc = text.failed ? RK_ENOMEM : rk_dostring(rt, text.bytes, path);
    rk__strbuf_free(&text);
    if (rc < 0) {
        fprintf(stderr, "check-kernels: %s: %s\n", path, rk_errdetail());
    }
    rk__definition_each(check_definition, NULL);
    return rc;
}

static int define_all(int path_count, char **paths)
{
    static const char ready[] = "for _, name in ipairs(require 'rk.kernels') do\n"
                                "  require('rk.kernels.' .. name)\nend\n";
    int rc = rk_dostring(rt, ready, "ready-made kernels");
    if (rc < 0) {
        fprintf(stderr, "check-kernels: %s\n", rk_errdetail());
    }
    rk__definition_each(check_definition, NULL);
    for (int i = 0; rc == 0 && i < path_count; i++) {
        rc = run_example(paths[i]);
    }
    return rc;
}

int main(int argc, char **argv)
{
    rk_config config = RK_CONFIG_INIT;
    rk__strbuf compiler = RK__STRBUF_INIT;
    if (argc < 2) {
        fprintf(stderr, "usage: check_kernels CACHE EXAMPLE.lua...\n");
        return 1;
    }
    config.device = "cpu";
    config.cache = argv[1];
    if (rk_open(&rt, &config) < 0) {
        fprintf(stderr, "check-kernels: %s\n", rk_errdetail());
        return 1;
    }
    if (rk__cuda_compiler_name(&compiler) < 0) {
        rk_close(rt);
        return 77;
    }
    int rc = define_all(argc - 2, argv + 2);
    check_loop();
    rk_close(rt);
    printf("check-kernels: %d of %d compilations with %s succeed\n", checked - failures, checked,
           compiler.bytes);
    rk__strbuf_free(&compiler);
    return rc < 0 || failures;
}
