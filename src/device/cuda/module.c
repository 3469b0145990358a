/*
 * module.c -- from a definition to a compiled module of the cuda device; build.c's counterpart.
 *
 * Looked up in this order: modules of this process; the cache; the compiler. The key is also the
 * name that the definition has in an image, so definitions never clash.
 *
 * What the host must know of a definition (rk_entry, timer periods) is read from the object's
 * symbols and kept with it in the cache. PTX has no symbols that could be read, so for a device
 * newer than NVRTC the definition is compiled a second time, to machine code of the architecture
 * that the PTX is for: the numbers are the same on all of them.
 *
 * Threads: any; one call of the compiler at a time (compile.c). The table of modules is build.c's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "device/cuda/compile.h"

struct cuda_module {
    rk__module module; /* the first */
    rk_entry entry;
    char name[RK__CUDA_NAME];
    uint32_t registers;
    rk__cuda_object object;
    int64_t periods[]; /* of entry.every_count */
};

/* The parts of a module in the cache: the object, and an rk_entry with the periods behind it. */
enum { PART_OBJECT, PART_NUMBERS, PARTS };

const char *rk__cuda_module_name(const rk__module *module)
{
    return ((const struct cuda_module *)module)->name;
}

const void *rk__cuda_module_bytes(const rk__module *module, size_t *size)
{
    const struct cuda_module *m = (const struct cuda_module *)module;
    *size = m->object.size;
    return m->object.bytes;
}

uint32_t rk__cuda_module_registers(const rk__module *module)
{
    return ((const struct cuda_module *)module)->registers;
}

static int no_memory(const rk__kernel *kernel)
{
    return rk__fail(RK_ENOMEM, "kernel \"%s\": out of memory", kernel->base.name);
}

/* ---- numbers -------------------------------------------------------------------------------- */

static int unreadable(const rk__kernel *kernel)
{
    return rk__fail(RK_EDEVICE,
                    "kernel \"%s\": the object that NVRTC made lacks the numbers of the definition",
                    kernel->base.name);
}

/* gives out->bytes: rk_entry, then periods. */
static int read_numbers(const rk__cuda_object *object, const char *name, const rk__kernel *kernel,
                        rk__cuda_object *out)
{
    char symbol[RK__CUDA_NAME + 16];
    size_t periods = kernel->source.every_count * sizeof(int64_t);
    unsigned char *bytes = calloc(1, sizeof(rk_entry) + periods);
    if (!bytes) {
        return no_memory(kernel);
    }
    snprintf(symbol, sizeof symbol, "%s_entry", name);
    int rc = rk__symbols_read(object->bytes, object->size, symbol, bytes, sizeof(rk_entry));
    if (rc == 0 && periods) {
        snprintf(symbol, sizeof symbol, "%s_periods", name);
        rc = rk__symbols_read(object->bytes, object->size, symbol, bytes + sizeof(rk_entry),
                              periods);
    }
    if (rc < 0) {
        free(bytes);
        return unreadable(kernel);
    }
    *out = (rk__cuda_object){bytes, sizeof(rk_entry) + periods};
    return 0;
}

/* ---- modules -------------------------------------------------------------------------------- */

static void unload(rk__module *module)
{
    struct cuda_module *m = (struct cuda_module *)module;
    free(m->object.bytes);
    free(m);
}

static void name_of(rk__hash128 key, char name[RK__CUDA_NAME])
{
    char hex[33];
    snprintf(name, RK__CUDA_NAME, "rk_d_%s", rk__hash128_hex(key, hex));
}

/* Makes a module of its parts and enters it. takes the object when it succeeds */
static int enter(const rk__cuda_object parts[PARTS], rk__hash128 key, uint32_t registers,
                 const rk__kernel *kernel, uint32_t threads, rk__module **out)
{
    size_t periods = kernel->source.every_count * sizeof(int64_t);
    if (parts[PART_NUMBERS].size != sizeof(rk_entry) + periods) {
        return unreadable(kernel);
    }
    struct cuda_module *m = calloc(1, sizeof *m + periods);
    if (!m) {
        return no_memory(kernel);
    }
    memcpy(&m->entry, parts[PART_NUMBERS].bytes, sizeof m->entry);
    memcpy(m->periods, parts[PART_NUMBERS].bytes + sizeof m->entry, periods);
    m->entry.handle = NULL;
    m->entry.hook = NULL;
    m->entry.every_periods = m->periods;
    int rc = rk__module_check(&m->entry, kernel, threads, "what NVRTC made");
    if (rc < 0) {
        free(m);
        return rc;
    }
    m->module = (rk__module){.entry = &m->entry, .key = key, .unload = unload};
    m->object = parts[PART_OBJECT];
    m->registers = registers;
    name_of(key, m->name);
    *out = rk__module_enter(&m->module);
    return 0;
}

/* ---- compiling; on the worker --------------------------------------------------------------- */

struct build {
    rk__cuda_order order;
    const rk__kernel *kernel;
    char name[RK__CUDA_NAME];
    rk__cuda_object code; /* machine code, also for PTX; borrowed from the order otherwise */
    rk__cuda_object numbers;
};

/* Links the definition alone, so that what is missing is found before it spoils an image with
 * others. nvJitLink looks only at what a kernel reaches. */
static int try_link(const struct build *b)
{
    char text[1024];
    rk__cuda_order trial = b->order;
    rk__cuda_object image = {0};
    snprintf(text, sizeof text,
             "#include \"rk_kernel.h\"\n"
             "RK__IMAGE_FN void %s_handle(rk_ctx *ctx, uint32_t type, const void *payload);\n"
             "RK__IMAGE_FN void %s_hook(rk_ctx *ctx, uint32_t step, uint32_t index);\n"
             "#if defined(RK_CUDA)\nextern \"C\" __global__\n#endif\n"
             "void rk_trial(rk_ctx *ctx)\n{\n"
             "    %s_handle(ctx, 0, 0);\n    %s_hook(ctx, 0, 0);\n}\n",
             b->name, b->name, b->name, b->name);
    trial.name = "trial";
    trial.text = text;
    trial.kernel = NULL;
    trial.target.ptx = false;
    trial.out = (rk__cuda_object){0};
    int rc = rk__cuda_compile(&trial);
    const rk__cuda_input inputs[] = {{"trial", &trial.out}, {b->name, &b->code}};
    rc = rc < 0 ? rc : rk__cuda_link(trial.target.arch, b->kernel, inputs, 2, &image);
    free(trial.out.bytes);
    free(image.bytes);
    return rc;
}

static int compile_code(struct build *b)
{
    rk__cuda_order again = b->order;
    again.target.ptx = false;
    again.out = (rk__cuda_object){0};
    int rc = b->order.target.ptx ? rk__cuda_compile(&again) : 0;
    b->code = b->order.target.ptx ? again.out : b->order.out;
    return rc;
}

static int work(void *arg)
{
    struct build *b = arg;
    int rc = rk__cuda_compile(&b->order);
    rc = rc < 0 ? rc : compile_code(b);
    rc = rc < 0 ? rc : rk__symbols_check_text(b->code.bytes, b->code.size, b->kernel);
    if (rc == 0 && rk__symbols_calls_out(b->code.bytes, b->code.size)) {
        rc = try_link(b);
    }
    rc = rc < 0 ? rc : read_numbers(&b->code, b->name, b->kernel, &b->numbers);
    if (b->order.target.ptx) {
        free(b->code.bytes);
    }
    return rc;
}

static int compile(rk_runtime *rt, struct build *b, rk__hash128 key, uint32_t threads,
                   rk__module **out)
{
    rk__strbuf unit = RK__STRBUF_INIT;
    const rk__kernel *kernel = b->kernel;
    int rc = rk__kernel_unit(kernel, kernel->source_name, kernel->source_line, &unit);
    name_of(key, b->name);
    snprintf(b->order.define, sizeof b->order.define, "-DRK_DEFINITION=%s", b->name);
    b->order.text = unit.bytes;
    rc = rc < 0 ? rc : rk__cuda_work(work, b);
    rk__strbuf_free(&unit);
    rk__cuda_object parts[PARTS] = {b->order.out, b->numbers};
    rc = rc < 0 ? rc : enter(parts, key, b->order.registers, kernel, threads, out);
    if (rc == 0) { /* kept now that it is known to be good; the bytes are the module's */
        parts[PART_OBJECT] = ((const struct cuda_module *)*out)->object;
        rk__cuda_cache_put(rt != NULL ? rt->cache : NULL, key, parts, PARTS);
    }
    if (rc < 0) {
        free(b->order.out.bytes);
    }
    free(b->numbers.bytes);
    return rc;
}

/* ---- rk__cuda_module_build ------------------------------------------------------------------ */

static int key_of(const rk__cuda_order *order, const rk__kernel *kernel, rk__hash128 *out)
{
    rk__strbuf unit = RK__STRBUF_INIT;
    int rc = rk__kernel_unit(kernel, "", 1, &unit);
    rc = rc < 0 ? rc : rk__cuda_order_key(order, unit.bytes, out);
    rk__strbuf_free(&unit);
    return rc;
}

static int from_cache(rk_runtime *rt, rk__hash128 key, uint32_t registers, const rk__kernel *kernel,
                      uint32_t threads, rk__module **out)
{
    rk__cuda_object parts[PARTS];
    int rc = rk__cuda_cache_get(rt != NULL ? rt->cache : NULL, key, parts, PARTS);
    if (rc < 0) {
        return rc;
    }
    rc = enter(parts, key, registers, kernel, threads, out);
    if (rc < 0) {
        free(parts[PART_OBJECT].bytes);
    }
    free(parts[PART_NUMBERS].bytes);
    return rc;
}

int rk__cuda_module_build(rk_runtime *rt, const rk__cuda_target *target, const rk__kernel *kernel,
                          uint32_t threads, rk__module **out)
{
    char who[RK_NAME_MAX + 16];
    rk__hash128 key;
    struct build b = {.kernel = kernel};
    snprintf(who, sizeof who, "kernel \"%s\"", kernel->base.name);
    b.order = (rk__cuda_order){.who = who,
                               .name = "unit",
                               .target = *target,
                               .registers = rk__cuda_registers(threads),
                               .kernel = kernel};
    int rc = key_of(&b.order, kernel, &key);
    if (rc < 0) {
        return rc;
    }
    rk__module *known = rk__module_find(key);
    if (known) {
        *out = known;
        return 0;
    }
    if (from_cache(rt, key, b.order.registers, kernel, threads, out) == 0) {
        rk__module_count_hit(rt);
        return 0;
    }
    rc = compile(rt, &b, key, threads, out);
    if (rc == 0) {
        rk__module_count_compiled(rt);
    }
    return rc;
}
