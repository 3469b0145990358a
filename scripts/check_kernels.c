/*
 * check_kernels.c -- compiles kernels with NVRTC, without a GPU and without a driver.
 *
 *     check_kernels EXAMPLE.lua...
 *
 * Compiled: the resident loop, every ready-made kernel, and the kernels that the examples define
 * before they open a runtime; each for sm_80 and sm_90 as machine code and for compute_90 as PTX,
 * with the flags that the cuda device uses. Exit status 0: all compile; 1: one does not, and the
 * compiler's text is shown; 77: there is no NVRTC.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/embedded.h"
#include "device/device.h"

typedef void *program;

static struct nvrtc {
    int (*create)(program *, const char *, const char *, int, const char *const *,
                  const char *const *);
    int (*compile)(program, int, const char *const *);
    int (*log_size)(program, size_t *);
    int (*log)(program, char *);
    int (*destroy)(program *);
    int (*version)(int *, int *);
} nvrtc;

static bool load_nvrtc(void)
{
    static const char *const names[] = {"libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12",
                                        "/usr/local/cuda/lib64/libnvrtc.so",
                                        "/usr/lib/cuda/lib64/libnvrtc.so"};
    static const struct {
        const char *name;
        void *function;
    } symbols[] = {
        {"nvrtcCreateProgram", &nvrtc.create},       {"nvrtcCompileProgram", &nvrtc.compile},
        {"nvrtcGetProgramLogSize", &nvrtc.log_size}, {"nvrtcGetProgramLog", &nvrtc.log},
        {"nvrtcDestroyProgram", &nvrtc.destroy},     {"nvrtcVersion", &nvrtc.version}};
    void *library = NULL;
    for (size_t i = 0; !library && i < sizeof names / sizeof *names; i++) {
        library = dlopen(names[i], RTLD_NOW);
    }
    bool found = library != NULL;
    for (size_t i = 0; found && i < sizeof symbols / sizeof *symbols; i++) {
        void *address = dlsym(library, symbols[i].name);
        memcpy(symbols[i].function, &address, sizeof address);
        found = address != NULL;
    }
    return found;
}

static void show_log(program p)
{
    size_t size = 0;
    nvrtc.log_size(p, &size);
    char *text = calloc(1, size + 1);
    if (text && nvrtc.log(p, text) == 0) {
        fputs(text, stderr);
    }
    free(text);
}

static int failures, checked;

static void check(const char *name, const char *text)
{
    static const char *const targets[] = {"sm_80", "sm_90", "compute_90"};
    const char *const includes[] = {"rk_kernel.h", "rk_abi.h"};
    const char *const headers[] = {(const char *)rk__embedded_find("kernels/rk_kernel.h")->bytes,
                                   (const char *)rk__embedded_find("kernels/rk_abi.h")->bytes};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        char target[64];
        const char *const flags[] = {target, "--device-as-default-execution-space"};
        program p;
        snprintf(target, sizeof target, "--gpu-architecture=%s", targets[i]);
        if (nvrtc.create(&p, text, name, 2, headers, includes) != 0) {
            failures++;
            continue;
        }
        if (nvrtc.compile(p, 2, flags) != 0) {
            fprintf(stderr, "check-kernels: %s does not compile for %s:\n", name, targets[i]);
            show_log(p);
            failures++;
        }
        checked++;
        nvrtc.destroy(&p);
    }
}

/* A kernel is looked at again after each example, which may have defined another of its name. */
static bool is_new(const char *text)
{
    static uint64_t seen[256];
    static size_t count;
    uint64_t hash = rk__hash64(text, strlen(text));
    for (size_t i = 0; i < count; i++) {
        if (seen[i] == hash) {
            return false;
        }
    }
    seen[count < 256 ? count++ : 255] = hash;
    return true;
}

static void check_definition(const rk__definition *definition, void *arg)
{
    char *text;
    (void)arg;
    if (strcmp(definition->kind, "kernel") == 0 &&
        rk__kernel_text((const rk__kernel *)definition, &text) == 0) {
        if (is_new(text)) {
            check(definition->name, text);
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

static int run_example(rk_runtime *rt, const char *path)
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

static int define_all(rk_runtime *rt, int count, char **paths)
{
    static const char ready[] = "for _, name in ipairs(require 'rk.kernels') do\n"
                                "  require('rk.kernels.' .. name)\nend\n";
    int rc = rk_dostring(rt, ready, "ready-made kernels");
    if (rc < 0) {
        fprintf(stderr, "check-kernels: %s\n", rk_errdetail());
    }
    rk__definition_each(check_definition, NULL);
    for (int i = 0; rc == 0 && i < count; i++) {
        rc = run_example(rt, paths[i]);
    }
    return rc;
}

int main(int argc, char **argv)
{
    rk_config config = RK_CONFIG_INIT;
    rk_runtime *rt;
    int major = 0, minor = 0;
    if (!load_nvrtc()) {
        return 77;
    }
    config.device = "cpu";
    if (rk_open(&rt, &config) < 0) {
        fprintf(stderr, "check-kernels: %s\n", rk_errdetail());
        return 1;
    }
    int rc = define_all(rt, argc - 1, argv + 1);
    nvrtc.version(&major, &minor);
    check("resident.cu", (const char *)rk__embedded_find("kernels/resident.cu")->bytes);
    rk_close(rt);
    printf("check-kernels: %d of %d compilations with NVRTC %d.%d succeed\n", checked - failures,
           checked, major, minor);
    return rc < 0 || failures;
}
