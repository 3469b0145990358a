/*
 * image.c -- links definitions, the resident loop and the dispatcher between them into an image.
 *
 * An image has one class per block size that is in use: a kernel rk_resident_C, compiled for the
 * registers that such a block may have, which calls rk_image_handle_C and rk_image_hook_C. These
 * are a switch over the numbers of the definitions in that class, written here. A definition that
 * is in two classes is linked once.
 *
 * Machine code is linked by nvJitLink (link.c), in advance and without a device. PTX can only be
 * linked by the driver of the device it is for, so such an image keeps its parts.
 *
 * Threads: any; nvJitLink runs on the worker of compile.c. rk__cuda_image_load_parts belongs to the
 * thread that has the device's context.
 */
#include "device/cuda/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/embedded.h"
#include "base/error.h"

/* ---- the dispatcher ------------------------------------------------------------------------- */

/* The modules of all classes, each once. */
struct plan {
    const char *cache;
    rk__cuda_target target;
    const rk__cuda_class *classes;
    size_t class_count;
    const rk__module **modules;
    size_t module_count;
    uint32_t registers; /* the fewest of all classes */
    rk__strbuf text;    /* the dispatcher */
    rk__cuda_object dispatcher;
    rk__cuda_object image;
};

static void write_switch(rk__strbuf *s, const rk__cuda_class *c, const char *call,
                         const char *arguments)
{
    rk__strbuf_adds(s, "{\n    switch (definition) {\n");
    for (size_t i = 0; i < c->count; i++) {
        rk__strbuf_addf(s, "    case %uu: %s_%s(ctx, %s); break;\n", c->numbers[i],
                        rk__cuda_module_name(c->modules[i]), call, arguments);
    }
    rk__strbuf_adds(s,
                    "    default: rk__fail_now(ctx, \"the image does not have this definition\"); "
                    "break;\n    }\n}\n");
}

static void write_dispatcher(struct plan *p)
{
    rk__strbuf *s = &p->text;
    rk__strbuf_adds(s, "#include \"rk_kernel.h\"\n");
    for (size_t i = 0; i < p->module_count; i++) {
        const char *name = rk__cuda_module_name(p->modules[i]);
        rk__strbuf_addf(s,
                        "RK__IMAGE_FN void %s_handle(rk_ctx *ctx, uint32_t type, const void "
                        "*payload);\nRK__IMAGE_FN void %s_hook(rk_ctx *ctx, uint32_t step, "
                        "uint32_t index);\n",
                        name, name);
    }
    for (size_t i = 0; i < p->class_count; i++) {
        rk__strbuf_addf(s,
                        "RK__IMAGE_FN void rk_image_handle_%zu(uint32_t definition, rk_ctx *ctx, "
                        "uint32_t type, const void *payload)\n",
                        i);
        write_switch(s, &p->classes[i], "handle", "type, payload");
        rk__strbuf_addf(s,
                        "RK__IMAGE_FN void rk_image_hook_%zu(uint32_t definition, rk_ctx *ctx, "
                        "uint32_t step, uint32_t index)\n",
                        i);
        write_switch(s, &p->classes[i], "hook", "step, index");
    }
}

/* ---- the plan ------------------------------------------------------------------------------- */

static int no_memory(void)
{
    return rk__fail(RK_ENOMEM, "out of memory for an image of kernels");
}

static void add_once(struct plan *p, const rk__module *module)
{
    for (size_t i = 0; i < p->module_count; i++) {
        if (p->modules[i] == module) {
            return;
        }
    }
    p->modules[p->module_count++] = module;
}

static int check_class(const rk__cuda_class *c)
{
    for (size_t i = 0; i < c->count; i++) {
        for (size_t j = 0; j < i; j++) {
            if (c->numbers[i] == c->numbers[j]) {
                return rk__fail(RK_EINVAL, "two kernels of an image have number %u", c->numbers[i]);
            }
        }
        if (rk__cuda_module_registers(c->modules[i]) != rk__cuda_registers(c->threads)) {
            return rk__fail(RK_EINVAL, "a kernel of an image was compiled for other blocks than %u",
                            c->threads);
        }
    }
    return 0;
}

static int make_plan(struct plan *p)
{
    size_t most = 0;
    int rc = p->class_count > RK__CUDA_CLASSES
                 ? rk__fail(RK_EINVAL, "an image has %d block sizes at most", RK__CUDA_CLASSES)
                 : 0;
    p->registers = 255;
    for (size_t i = 0; rc == 0 && i < p->class_count; i++) {
        uint32_t registers = rk__cuda_registers(p->classes[i].threads);
        p->registers = registers < p->registers ? registers : p->registers;
        most += p->classes[i].count;
        rc = check_class(&p->classes[i]);
    }
    p->modules = rc == 0 ? calloc(most + 1, sizeof *p->modules) : NULL;
    if (!p->modules) {
        return rc < 0 ? rc : no_memory();
    }
    for (size_t i = 0; i < p->class_count; i++) {
        for (size_t j = 0; j < p->classes[i].count; j++) {
            add_once(p, p->classes[i].modules[j]);
        }
    }
    write_dispatcher(p);
    return p->text.failed ? no_memory() : 0;
}

static int add_linker(rk__strbuf *out)
{
    unsigned major = 0, minor = 0;
    int rc = rk__nvjitlink_load();
    if (rc < 0) {
        return rc;
    }
    if (rk__nvjitlink->Version) {
        rk__nvjitlink->Version(&major, &minor);
    }
    rk__strbuf_addf(out, "nvjitlink %u.%u ", major, minor);
    rk__cuda_add_file((void *)(uintptr_t)rk__nvjitlink->Complete, out);
    return 0;
}

/* The dispatcher names the definitions by their keys; its own key has the compiler, the headers and
 * the target. */
static int make_key(const struct plan *p, rk__hash128 *out)
{
    rk__strbuf s = RK__STRBUF_INIT;
    rk__hash128 key = {0};
    rk__cuda_order order = {
        .who = "an image of kernels", .target = p->target, .registers = p->registers};
    const rk__embedded *loop = rk__embedded_find("kernels/resident.cu");
    RK_CHECK(loop, "the library was built without its kernel texts");
    int rc = rk__cuda_order_key(&order, p->text.bytes, &key);
    rc = rc < 0 || p->target.ptx ? rc : add_linker(&s);
    rk__strbuf_addf(&s, "image %016llx%016llx\n", (unsigned long long)key.high,
                    (unsigned long long)key.low);
    for (size_t i = 0; i < p->class_count; i++) {
        rk__strbuf_addf(&s, "%u\n", rk__cuda_registers(p->classes[i].threads));
    }
    rk__strbuf_add(&s, loop->bytes, loop->size);
    if (rc == 0) {
        rc = s.failed ? no_memory() : 0;
        *out = rk__hash128_of(s.bytes, s.size);
    }
    rk__strbuf_free(&s);
    return rc;
}

/* ---- the parts ------------------------------------------------------------------------------ */

static int copy_part(rk__cuda_part *part, const char *name, const void *bytes, size_t size,
                     uint32_t registers)
{
    part->object.bytes = malloc(size + 1);
    if (!part->object.bytes) {
        return no_memory();
    }
    memcpy(part->object.bytes, bytes, size);
    part->object.size = size;
    part->registers = registers;
    snprintf(part->name, sizeof part->name, "%s", name);
    return 0;
}

static int add_loop(struct plan *p, size_t i, rk__cuda_part *part)
{
    char name[RK__CUDA_NAME];
    const rk__cuda_object *loop;
    uint32_t registers = rk__cuda_registers(p->classes[i].threads);
    snprintf(name, sizeof name, "rk_resident_%zu", i);
    int rc = rk__cuda_loop_build(p->cache, &p->target, (unsigned)i, registers, &loop);
    return rc < 0 ? rc : copy_part(part, name, loop->bytes, loop->size, registers);
}

/* Loops, dispatcher, definitions. On failure the image has what was made, to be freed. */
static int make_parts(struct plan *p, rk__cuda_image *out)
{
    int rc = 0;
    size_t n = 0, size;
    out->parts = calloc(p->class_count + 1 + p->module_count, sizeof *out->parts);
    if (!out->parts) {
        return no_memory();
    }
    out->part_count = p->class_count + 1 + p->module_count;
    for (size_t i = 0; rc == 0 && i < p->class_count; i++) {
        rc = add_loop(p, i, &out->parts[n++]);
    }
    rc = rc < 0 ? rc
                : rk__cuda_text_build(p->cache, &p->target, "the dispatcher of an image",
                                      p->text.bytes, p->registers, &p->dispatcher);
    rc = rc < 0 ? rc
                : copy_part(&out->parts[n++], "dispatcher", p->dispatcher.bytes, p->dispatcher.size,
                            p->registers);
    for (size_t i = 0; rc == 0 && i < p->module_count; i++) {
        const void *bytes = rk__cuda_module_bytes(p->modules[i], &size);
        rc = copy_part(&out->parts[n++], rk__cuda_module_name(p->modules[i]), bytes, size,
                       rk__cuda_module_registers(p->modules[i]));
    }
    return rc;
}

static void free_parts(rk__cuda_image *image)
{
    for (size_t i = 0; i < image->part_count; i++) {
        free(image->parts[i].object.bytes);
    }
    free(image->parts);
    image->parts = NULL;
    image->part_count = 0;
}

struct link_work {
    int arch;
    const rk__cuda_image *image;
    rk__cuda_object out;
};

static int link_parts(void *arg)
{
    struct link_work *w = arg;
    rk__cuda_input *inputs = calloc(w->image->part_count, sizeof *inputs);
    if (!inputs) {
        return no_memory();
    }
    for (size_t i = 0; i < w->image->part_count; i++) {
        inputs[i] = (rk__cuda_input){w->image->parts[i].name, &w->image->parts[i].object};
    }
    int rc = rk__cuda_link(w->arch, NULL, inputs, w->image->part_count, &w->out);
    free(inputs);
    return rc;
}

/* ---- rk__cuda_image_link -------------------------------------------------------------------- */

static int make_image(struct plan *p, rk__cuda_image *out)
{
    rk__cuda_object made;
    if (!p->target.ptx && rk__cuda_cache_get(p->cache, out->key, &made, 1) == 0) {
        out->bytes = made.bytes;
        out->size = made.size;
        return 0;
    }
    int rc = make_parts(p, out);
    if (rc < 0 || p->target.ptx) {
        return rc;
    }
    struct link_work work = {.arch = p->target.arch, .image = out};
    rc = rk__cuda_work(link_parts, &work);
    if (rc == 0) {
        rk__cuda_cache_put(p->cache, out->key, &work.out, 1);
        out->bytes = work.out.bytes;
        out->size = work.out.size;
        free_parts(out);
    }
    return rc;
}

int rk__cuda_image_link(const char *cache, const rk__cuda_target *target,
                        const rk__cuda_class *classes, size_t class_count, rk__cuda_image *out)
{
    static const rk__cuda_class nobody = {.threads = 32};
    struct plan p = {.cache = cache,
                     .target = *target,
                     .classes = class_count ? classes : &nobody,
                     .class_count = class_count ? class_count : 1};
    rk__cuda_image image = {0};
    int rc = make_plan(&p);
    rc = rc < 0 ? rc : make_key(&p, &image.key);
    rc = rc < 0 ? rc : make_image(&p, &image);
    rk__strbuf_free(&p.text);
    free(p.dispatcher.bytes);
    free(p.modules);
    if (rc < 0) {
        rk__cuda_image_free(&image);
        return rc;
    }
    *out = image;
    return 0;
}

void rk__cuda_image_free(rk__cuda_image *image)
{
    free_parts(image);
    free(image->bytes);
    *image = (rk__cuda_image){0};
}

/* ---- PTX: the driver's linker --------------------------------------------------------------- */

enum { LOG_SIZE = 4096 };

static int add_part(CUlinkState link, const rk__cuda_part *part)
{
    CUjit_option options[] = {CU_JIT_MAX_REGISTERS};
    void *values[] = {(void *)(uintptr_t)part->registers};
    CUresult result = rk__cuda->LinkAddData(link, CU_JIT_INPUT_PTX, part->object.bytes,
                                            part->object.size, part->name, 1, options, values);
    return result == CUDA_SUCCESS ? 0
                                  : rk__cuda_fail(result, "giving %s to the driver", part->name);
}

static int complete(CUlinkState link, CUmodule *out)
{
    void *bytes;
    size_t size;
    CUresult result = rk__cuda->LinkComplete(link, &bytes, &size);
    if (result != CUDA_SUCCESS) {
        return rk__cuda_fail(result, "linking an image with the driver");
    }
    result = rk__cuda->ModuleLoadDataEx(out, bytes, 0, NULL, NULL); /* bytes are the link's */
    return result == CUDA_SUCCESS ? 0 : rk__cuda_fail(result, "loading an image");
}

int rk__cuda_image_load_parts(const rk__cuda_image *image, CUmodule *out)
{
    char *log = calloc(1, LOG_SIZE);
    CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[] = {log, (void *)(uintptr_t)LOG_SIZE};
    CUlinkState link;
    if (!log) {
        return no_memory();
    }
    CUresult result = rk__cuda->LinkCreate(2, options, values, &link);
    if (result != CUDA_SUCCESS) {
        free(log);
        return rk__cuda_fail(result, "beginning to link an image with the driver");
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < image->part_count; i++) {
        rc = add_part(link, &image->parts[i]);
    }
    rc = rc < 0 ? rc : complete(link, out);
    if (rc < 0 && log[0]) {
        rk__fail_prefix(rc, "%.*s", (int)strcspn(log, "\n"), log);
    }
    rk__cuda->LinkDestroy(link);
    free(log);
    return rc;
}
