/*
 * cudacompile.c -- definitions through the real NVRTC and nvJitLink: numbers, errors, images, the
 * cache. Needs no GPU and no driver; where there is no NVRTC each test says so and is skipped.
 */
#if defined(RK_HAVE_CUDA)
#include <criterion/criterion.h>
#include <dirent.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/log.h"
#include "device/cuda/image.h"

#if defined(__SANITIZE_ADDRESS__)
/* nvJitLink keeps some memory of a link that failed, also when it is destroyed. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libnvJitLink\n";
}

const char *__lsan_default_options(void);
const char *__lsan_default_options(void)
{
    return "print_suppressions=0"; /* what is suppressed is no report */
}
#endif

static char folder[64];
static struct rk_runtime rt;
static const rk_type *number, *result;
static const rk__cuda_target sm_80 = {80, false}, sm_90 = {90, false}, ptx_90 = {90, true};

static void set_up(void)
{
    static const rk_field fields[] = {{"values", "f32[100]"}, {"n", "i32"}};
    static const rk_field outs[] = {{"sum", "f64"}, {"n", "i64"}};
    strcpy(folder, "/tmp/rk-test-cuda-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    rk__log_set_level(RK__LOG_OFF);
    rt.cache = folder;
    cr_assert_eq(rk_message_define(&number, "Number", fields, 2), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_message_define(&result, "Result", outs, 2), 0, "%s", rk_errdetail());
    if (rk__nvrtc_load() < 0 || rk__nvjitlink_load() < 0) {
        printf("cudacompile: skipped: %s\n", rk_errdetail());
        cr_skip_test("no NVRTC");
    }
}

static void tear_down(void)
{
    char command[128];
    snprintf(command, sizeof command, "/bin/rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(cudacompile, .init = set_up, .fini = tear_down, .timeout = 300);

static rk__kernel *define_as(const char *name, const char *source)
{
    const rk_type *accepts[] = {number}, *replies[] = {result};
    rk__definition *d;
    rk_kernel k = RK_KERNEL_INIT;
    k.name = name;
    k.source = source;
    k.accepts = accepts;
    k.accepts_count = 1;
    k.replies = replies;
    k.replies_count = 1;
    k.source_name = "app.lua";
    k.source_line = 40;
    cr_assert_eq(rk_kernel_define(&k), 0, "%s", rk_errdetail());
    cr_assert_eq(rk__definition_get(name, &d), 0, "%s", rk_errdetail());
    return (rk__kernel *)d;
}

static rk__module *build(const rk__cuda_target *target, const rk__kernel *k, uint32_t threads)
{
    rk__module *module = NULL;
    cr_assert_eq(rk__cuda_module_build(&rt, target, k, threads, &module), 0, "%s", rk_errdetail());
    return module;
}

/* Says `code` and each of the texts. */
static void refuses(const char *source, int code, const char *first, const char *second)
{
    rk__kernel *k = define_as("wrong", source);
    rk__module *module = NULL;
    cr_assert_eq(rk__cuda_module_build(&rt, &sm_90, k, 64, &module), code, "%s: %s", source,
                 rk_errdetail());
    cr_assert_not_null(strstr(rk_errdetail(), first), "no \"%s\" in: %s", first, rk_errdetail());
    cr_assert_not_null(strstr(rk_errdetail(), second), "no \"%s\" in: %s", second, rk_errdetail());
    rk__definition_release(&k->base);
}

#define SUMMER                                                                                     \
    "RK_STATE { int64_t calls; float last[7]; };\n"                                                \
    "static const float scale[] = {1, 2, 3};\n"                                                    \
    "RK_ON(Number, m) {\n"                                                                         \
    "    RK_SHARED(float, tile, [64]);\n"                                                          \
    "    RK_SHARED(double, wide, [2][3]);\n"                                                       \
    "    double sum = 0;\n"                                                                        \
    "    RK_FOR (i, m->n) { sum += m->values[i] * scale[i % 3]; }\n"                               \
    "    if (rk_thread(ctx) < 3) { tile[rk_thread(ctx)] = 1; wide[1][rk_thread(ctx)] = 2; }\n"     \
    "    rk_get_state(ctx)->calls++;\n"                                                            \
    "    rk_reply(ctx, Result, .sum = rk_block_sum(ctx, sum) + tile[0] + wide[1][0]);\n"           \
    "}\n"                                                                                          \
    "RK_ON_START { rk_get_state(ctx)->last[0] = 1; }\n"                                            \
    "RK_EVERY(0.25) { rk_log(ctx, RK_LOG_INFO, \"tick %d\", 1); }\n"                               \
    "RK_EVERY(3) { rk_get_state(ctx)->last[1] = 2; }\n"
#define PLAIN "RK_ON(Number, m) { rk_reply(ctx, Result, .n = m->n); }\n"

/* ---- numbers -------------------------------------------------------------------------------- */

static void same_numbers(const rk__module *a, const rk__module *b)
{
    const rk_entry *x = a->entry, *y = b->entry;
    cr_assert_eq(x->abi_version, y->abi_version);
    cr_assert_eq(x->abi_hash, y->abi_hash);
    cr_assert_eq(x->state_size, y->state_size);
    cr_assert_eq(x->state_align, y->state_align);
    cr_assert_eq(x->accepts, y->accepts);
    cr_assert_eq(x->types, y->types);
    cr_assert_eq(x->shared_size, y->shared_size);
    cr_assert_eq(x->every_count, y->every_count);
    for (uint32_t i = 0; i < x->every_count; i++) {
        cr_assert_eq(x->every_periods[i], y->every_periods[i]);
    }
}

Test(cudacompile, numbers_are_those_of_the_cpu)
{
    rk__kernel *k = define_as("summing", SUMMER);
    rk__module *cpu;
    cr_assert_eq(rk__module_build(&rt, k, 4, &cpu), 0, "%s", rk_errdetail());
    const rk__cuda_target *targets[] = {&sm_80, &sm_90, &ptx_90};
    for (int i = 0; i < 3; i++) {
        rk__module *gpu = build(targets[i], k, 64);
        size_t size;
        const char *bytes = rk__cuda_module_bytes(gpu, &size);
        same_numbers(gpu, cpu);
        cr_assert_eq(gpu->entry->every_periods[0], 250000000);
        cr_assert_eq(gpu->entry->shared_size, 64 * 4 + 48);
        cr_assert_eq(strncmp(rk__cuda_module_name(gpu), "rk_d_", 5), 0);
        if (i < 2) {
            cr_assert_eq(memcmp(bytes, ELFMAG, SELFMAG), 0);
        } else {
            cr_assert_not_null(strstr(bytes, ".target sm_90"));
            cr_assert_not_null(strstr(bytes, rk__cuda_module_name(gpu)));
        }
        rk__module_release(gpu);
    }
    rk__module_release(cpu);
    rk__definition_release(&k->base);
}

Test(cudacompile, blocks_with_the_same_registers_share_a_module)
{
    rk__kernel *k = define_as("plain", PLAIN);
    rk__module *a = build(&sm_90, k, 32), *b = build(&sm_90, k, 256), *c = build(&sm_90, k, 512);
    cr_assert_eq(a, b);
    cr_assert_neq(a, c);
    cr_assert_eq(rk__cuda_module_registers(a), 255);
    cr_assert_eq(rk__cuda_module_registers(c), 128);
    cr_assert_eq(rk__cuda_registers(1024), 64);
    cr_assert_str_neq(rk__cuda_module_name(a), rk__cuda_module_name(c));
    rk__module_release(a);
    rk__module_release(b);
    rk__module_release(c);
    rk__definition_release(&k->base);
}

static int compiled;

static void compile_definition(const rk__definition *d, void *arg)
{
    const rk__cuda_target *targets[] = {&sm_80, &sm_90, &ptx_90};
    (void)arg;
    for (int i = 0; i < 3 && strcmp(d->kind, "kernel") == 0; i++) {
        rk__module_release(build(targets[i], (const rk__kernel *)d, 256));
        compiled++;
    }
}

Test(cudacompile, ready_made_kernels_compile)
{
    rk_config config = RK_CONFIG_INIT;
    rk_runtime *lua;
    config.device = "cpu";
    config.cache = folder;
    cr_assert_eq(rk_open(&lua, &config), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_dostring(lua,
                             "for _, name in ipairs(require 'rk.kernels') do\n"
                             "  require('rk.kernels.' .. name)\nend",
                             "ready-made kernels"),
                 0, "%s", rk_errdetail());
    rk__definition_each(compile_definition, NULL);
    cr_assert_geq(compiled, 6);
    cr_assert_eq(rk_close(lua), 0);
}

/* ---- what is refused ------------------------------------------------------------------------ */

Test(cudacompile, compiler_errors_name_the_users_lines)
{
    refuses("\nRK_ON(Number, m) {\n    int n = oops;\n}\n", RK_ECOMPILE,
            "kernel \"wrong\" does not compile:\napp.lua:42: error: identifier \"oops\"",
            "undefined");
    refuses("RK_ON(Number, m) { rk_reply(ctx, Other, .x = 1); }\n", RK_ECOMPILE,
            "app.lua:40: Other is not among the accepts and replies of this kernel", "app.lua:40:");
    refuses("RK_ON(Number, m) { }\n\nstatic int f(int x) { return x }\n", RK_ECOMPILE,
            "app.lua:42: error: expected a \";\"", "kernel \"wrong\"");
    cr_assert_null(strstr(rk_errdetail(), "return x }"), "%s", rk_errdetail());
    cr_assert_null(strstr(rk_errdetail(), RK__GENERATED), "%s", rk_errdetail());
}

Test(cudacompile, a_function_that_is_nowhere_is_named)
{
    refuses("float missing(float);\nRK_ON(Number, m) { rk_reply(ctx, Result, .sum = "
            "missing(m->values[0])); }\n",
            RK_ECOMPILE, "kernel \"wrong\" does not link:\n",
            "calls what is nowhere to be found: missing");
    rk__kernel *k = define_as("ptx", "int nowhere(void);\n"
                                     "RK_ON(Number, m) { rk_reply(ctx, Result, .n = nowhere()); }");
    rk__module *module;
    cr_assert_eq(rk__cuda_module_build(&rt, &ptx_90, k, 64, &module), RK_ECOMPILE);
    cr_assert_not_null(strstr(rk_errdetail(), "nowhere to be found: nowhere"), "%s",
                       rk_errdetail());
    rk__definition_release(&k->base);
}

Test(cudacompile, shared_memory_and_periods_have_limits)
{
    refuses("RK_ON(Number, m) { RK_SHARED(double, a, [6000]); a[rk_thread(ctx)] = m->n; "
            "rk_reply(ctx, Result, .sum = a[0]); }\n",
            RK_ECOMPILE, "kernel \"wrong\" wants 48000 bytes of RK_SHARED", "a block has 47104");
    refuses(PLAIN "\nRK_EVERY(0) { }\n", RK_ECOMPILE, "app.lua:42: RK_EVERY(0) wants a period > 0",
            "kernel \"wrong\"");
}

Test(cudacompile, variables_outside_the_state_are_refused)
{
    static const char why[] = "variables that keep a value between messages";
    refuses("static int counter;\nRK_ON(Number, m) { counter += m->n; rk_reply(ctx, Result, .n = "
            "counter); }\n",
            RK_ECOMPILE, why, ": counter (app.lua:40); put them into RK_STATE");
    refuses("RK_ON(Number, m) {\n    static int calls;\n    calls += m->n;\n    rk_reply(ctx, "
            "Result, .n = calls);\n}\n",
            RK_ECOMPILE, why, ": calls (app.lua:41)");
    refuses("RK_ON(Number, m) { __shared__ int tile[32]; tile[rk_thread(ctx)] = m->n;"
            " rk_sync(ctx); rk_reply(ctx, Result, .n = tile[1]); }\n",
            RK_ECOMPILE, why, ": tile (app.lua:40)");
    refuses("__device__ float a = 1;\nint b[3];\nRK_ON(Number, m) { a += 1; b[m->n] += 1;"
            " rk_reply(ctx, Result, .sum = a, .n = b[1]); }\n",
            RK_ECOMPILE, why, ": a (app.lua:40), b (app.lua:41)");
}

Test(cudacompile, variables_that_nobody_uses_or_that_are_not_there_do_no_harm)
{
    rk__kernel *k = define_as("harmless", "#if 0\nstatic int never;\n#endif\n"
                                          "static const int table[] = {1, 2, 3};\n" PLAIN);
    rk__module_release(build(&sm_90, k, 64));
    rk__definition_release(&k->base);
}

/* ---- images --------------------------------------------------------------------------------- */

static bool image_has(const rk__cuda_image *image, const char *name)
{
    return memmem(image->bytes, image->size, name, strlen(name) + 1) != NULL;
}

Test(cudacompile, an_image_without_definitions_has_the_loop)
{
    rk__cuda_image image;
    cr_assert_eq(rk__cuda_image_link(rt.cache, &sm_90, NULL, 0, &image), 0, "%s", rk_errdetail());
    cr_assert_eq(memcmp(image.bytes, ELFMAG, SELFMAG), 0);
    cr_assert(image_has(&image, "rk_resident_0"));
    cr_assert_not(image_has(&image, "rk_resident_1"));
    cr_assert_eq(image.part_count, 0);
    rk__cuda_image_free(&image);
    cr_assert_null(image.bytes);
}

/* What DESIGN says of words that cross PCIe, looked for in what the compiler makes of the loop: units
 * are single accesses of 16 bytes, nothing is read, modified and written, and there is none of the dearer fences. */
Test(cudacompile, the_loop_keeps_the_rules_of_the_border)
{
    const rk__cuda_object *loop;
    size_t fences = 0;
    cr_assert_eq(rk__cuda_loop_build(rt.cache, &ptx_90, 0, 255, &loop), 0, "%s", rk_errdetail());
    const char *ptx = (const char *)loop->bytes;
    cr_assert_not_null(strstr(ptx, "ld.relaxed.sys.global.b128"));
    cr_assert_not_null(strstr(ptx, "st.relaxed.sys.global.b128"));
    static const char *const never[] = {"atom.",           "red.global",    "red.sys",
                                        "fence.sc",        "membar",        "vprintf",
                                        "barrier.cluster", "griddepcontrol"};
    for (size_t i = 0; i < sizeof never / sizeof *never; i++) {
        cr_assert_null(strstr(ptx, never[i]), "the loop has %s", never[i]);
    }
    for (const char *at = ptx; (at = strstr(at, "fence.acq_rel.sys")) != NULL; at++) {
        fences++;
    }
    cr_assert_geq(fences, 2, "for payloads by reference, in and out");
}

Test(cudacompile, definitions_of_two_block_sizes_are_linked_into_one_image)
{
    rk__kernel *a = define_as("summing", SUMMER), *b = define_as("plain", PLAIN);
    const rk__module *small[] = {build(&sm_90, a, 64), build(&sm_90, b, 64)};
    const rk__module *large[] = {build(&sm_90, b, 1024)};
    const uint32_t numbers[] = {7, 9}, one[] = {9};
    const rk__cuda_class classes[] = {{64, small, numbers, 2}, {1024, large, one, 1}};
    rk__cuda_image image, again;
    cr_assert_eq(rk__cuda_image_link(rt.cache, &sm_90, classes, 2, &image), 0, "%s",
                 rk_errdetail());
    cr_assert(image_has(&image, "rk_resident_0"));
    cr_assert(image_has(&image, "rk_resident_1"));
    cr_assert_not(image_has(&image, "rk_resident_2"));
    cr_assert_eq(rk__cuda_image_link(rt.cache, &sm_90, classes, 2, &again), 0, "%s",
                 rk_errdetail());
    cr_assert_eq(again.size, image.size);
    cr_assert_eq(memcmp(again.bytes, image.bytes, image.size), 0);
    cr_assert_eq(again.key.low, image.key.low);
    rk__cuda_image_free(&again);
    cr_assert_eq(rk__cuda_image_link(rt.cache, &sm_90, classes, 1, &again), 0, "%s",
                 rk_errdetail());
    cr_assert_neq(again.key.low, image.key.low);
    rk__cuda_image_free(&again);
    rk__cuda_image_free(&image);
    const uint32_t twice[] = {7, 7};
    const rk__cuda_class bad[] = {{64, small, twice, 2}}, other[] = {{512, small, numbers, 2}};
    cr_assert_eq(rk__cuda_image_link(rt.cache, &sm_90, bad, 1, &image), RK_EINVAL);
    cr_assert_eq(rk__cuda_image_link(rt.cache, &sm_90, other, 1, &image), RK_EINVAL);
    for (int i = 0; i < 3; i++) {
        rk__module_release((rk__module *)(i < 2 ? small[i] : large[0]));
    }
    rk__definition_release(&a->base);
    rk__definition_release(&b->base);
}

Test(cudacompile, an_image_of_ptx_keeps_its_parts)
{
    rk__kernel *k = define_as("plain", PLAIN);
    const rk__module *modules[] = {build(&ptx_90, k, 512)};
    const uint32_t numbers[] = {1};
    const rk__cuda_class classes[] = {{512, modules, numbers, 1}};
    rk__cuda_image image;
    cr_assert_eq(rk__cuda_image_link(rt.cache, &ptx_90, classes, 1, &image), 0, "%s",
                 rk_errdetail());
    cr_assert_null(image.bytes);
    cr_assert_eq(image.part_count, 3);
    for (size_t i = 0; i < 3; i++) {
        const rk__cuda_part *part = &image.parts[i];
        cr_assert_eq(part->registers, 128);
        cr_assert_eq(part->object.bytes[part->object.size - 1], '\0');
        cr_assert_not_null(strstr((const char *)part->object.bytes, ".target sm_90"));
    }
    cr_assert_str_eq(image.parts[0].name, "rk_resident_0");
    cr_assert_str_eq(image.parts[2].name, rk__cuda_module_name(modules[0]));
    rk__cuda_image_free(&image);
    rk__module_release((rk__module *)modules[0]);
    rk__definition_release(&k->base);
}

/* ---- the cache ------------------------------------------------------------------------------ */

/* Changes a byte in each file. Returns how many there are. */
static int damage_files(void)
{
    DIR *d = opendir(folder);
    int count = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        FILE *file = strstr(e->d_name, ".so") ? fopen(path, "r+") : NULL;
        if (file) {
            fseek(file, 700, SEEK_SET);
            int byte = fgetc(file);
            fseek(file, 700, SEEK_SET);
            fputc(byte ^ 1, file);
            fclose(file);
            count++;
        }
    }
    closedir(d);
    return count;
}

Test(cudacompile, what_was_compiled_is_found_again)
{
    rk__kernel *k = define_as("summing", SUMMER);
    char name[RK__CUDA_NAME];
    rk__module *first = build(&sm_90, k, 64);
    rk_entry entry = *first->entry;
    strcpy(name, rk__cuda_module_name(first));
    cr_assert_eq(rt.kernels_compiled, 1);
    cr_assert_eq(build(&sm_90, k, 64), first);
    rk__module_release(first);
    rk__module_release(first);
    rk__module *second = build(&sm_90, k, 64);
    cr_assert_eq(rt.kernels_compiled, 1);
    cr_assert_eq(rt.cache_hits, 1);
    cr_assert_str_eq(rk__cuda_module_name(second), name);
    cr_assert_eq(second->entry->shared_size, entry.shared_size);
    cr_assert_eq(second->entry->every_periods[1], 3000000000);
    rk__module_release(second);
    cr_assert_eq(damage_files(), 1);
    second = build(&sm_90, k, 64);
    cr_assert_eq(rt.kernels_compiled, 2);
    cr_assert_eq(rt.cache_hits, 1);
    rk__module_release(second);
    rk__definition_release(&k->base);
}

Test(cudacompile, nothing_that_was_refused_is_kept)
{
    refuses(PLAIN "RK_EVERY(0) { }\n", RK_ECOMPILE, "period > 0", "");
    refuses("static int n;\nRK_ON(Number, m) { rk_reply(ctx, Result, .n = n++); }", RK_ECOMPILE,
            "n (app.lua:40)", "");
    cr_assert_eq(damage_files(), 0);
}

Test(cudacompile, without_a_folder_everything_is_compiled)
{
    rk__kernel *k = define_as("plain", PLAIN);
    rt.cache = (char *)"/dev/null/nowhere";
    rk__module_release(build(&sm_90, k, 64));
    rk__module_release(build(&sm_90, k, 64));
    cr_assert_eq(rt.kernels_compiled, 2);
    rt.cache = folder;
    rk__definition_release(&k->base);
}

/* ---- the driver's linker, by the stand-in that is built beside this program ------------------ */

static void set_up_standin(void)
{
    char path[512], library[600];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 32);
    path[size > 0 ? size : 0] = '\0';
    char *end = strstr(path, "/tests/unit/");
    strcpy(end ? end : path, "/tests/fakecuda");
    snprintf(library, sizeof library, "%s/libcuda.so.1", path);
    if (access(library, R_OK) == 0) {
        setenv("RK_CUDA_LIBS", path, 1);
        cr_assert_eq(rk__cuda_load(), 0, "%s", rk_errdetail());
    }
    set_up();
    if (access(library, R_OK) < 0) {
        printf("cudacompile: skipped: there is no %s\n", library);
        cr_skip_test("no stand-in");
    }
}

TestSuite(cudaparts, .init = set_up_standin, .fini = tear_down, .timeout = 300);

static CUcontext open_context(void)
{
    CUcontext context;
    CUdevice device;
    cr_assert_eq(rk__cuda->DeviceGet(&device, 0), CUDA_SUCCESS);
    cr_assert_eq(rk__cuda->CtxCreate(&context, 0, device), CUDA_SUCCESS);
    return context;
}

Test(cudaparts, the_driver_links_the_parts_of_an_image)
{
    rk__kernel *k = define_as("plain", PLAIN);
    const rk__module *modules[] = {build(&ptx_90, k, 64)};
    const uint32_t numbers[] = {1};
    const rk__cuda_class classes[] = {{64, modules, numbers, 1}};
    rk__cuda_image image;
    CUmodule loaded;
    CUfunction loop;
    CUcontext context = open_context();
    cr_assert_eq(rk__cuda_image_link(rt.cache, &ptx_90, classes, 1, &image), 0, "%s",
                 rk_errdetail());
    cr_assert_eq(rk__cuda_image_load_parts(&image, &loaded), 0, "%s", rk_errdetail());
    cr_assert_eq(rk__cuda->ModuleGetFunction(&loop, loaded, "rk_resident_0"), CUDA_SUCCESS);
    cr_assert_eq(rk__cuda->ModuleUnload(loaded), CUDA_SUCCESS);
    image.part_count--; /* without the definition */
    cr_assert_eq(rk__cuda_image_load_parts(&image, &loaded), RK_EDEVICE);
    cr_assert_not_null(strstr(rk_errdetail(), rk__cuda_module_name(modules[0])), "%s",
                       rk_errdetail());
    image.part_count++;
    rk__cuda_image_free(&image);
    cr_assert_eq(rk__cuda->CtxDestroy(context), CUDA_SUCCESS);
    rk__module_release((rk__module *)modules[0]);
    rk__definition_release(&k->base);
}

Test(cudaparts, a_linked_image_loads)
{
    rk__kernel *k = define_as("summing", SUMMER);
    const rk__module *modules[] = {build(&sm_90, k, 64)};
    const uint32_t numbers[] = {5};
    const rk__cuda_class classes[] = {{64, modules, numbers, 1}, {64, modules, numbers, 1}};
    rk__cuda_image image;
    CUmodule loaded;
    CUfunction loop;
    CUcontext context = open_context();
    cr_assert_eq(rk__cuda_image_link(rt.cache, &sm_90, classes, 2, &image), 0, "%s",
                 rk_errdetail());
    cr_assert_eq(rk__cuda->ModuleLoadDataEx(&loaded, image.bytes, 0, NULL, NULL), CUDA_SUCCESS);
    cr_assert_eq(rk__cuda->ModuleGetFunction(&loop, loaded, "rk_resident_1"), CUDA_SUCCESS);
    cr_assert_eq(rk__cuda->ModuleUnload(loaded), CUDA_SUCCESS);
    rk__cuda_image_free(&image);
    cr_assert_eq(rk__cuda->CtxDestroy(context), CUDA_SUCCESS);
    rk__module_release((rk__module *)modules[0]);
    rk__definition_release(&k->base);
}
#endif
