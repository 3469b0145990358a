/*
 * definition.c -- rk_kernel_define: from the options of a ring kernel to its definition, and from
 * there to the translation unit that is compiled.
 *
 * A definition is constant once registered; instances hold it by reference. Everything that can be
 * said about a definition without a compiler is said here, naming the kernel, the type and the
 * line.
 *
 * Threads: any. The registry of definitions has its own lock.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/embedded.h"
#include "base/error.h"
#include "device/device.h"
#include "message/schema.h"

enum { SOURCE_MAX = 4 << 20 }; /* bytes of handlers; more is a mistake */

#define STATE_TYPE "StateOfKernel"

/* ---- ending a definition -------------------------------------------------------------------- */

static void free_fields(rk_field *fields, size_t count)
{
    for (size_t i = 0; fields && i < count; i++) {
        free((char *)fields[i].name);
        free((char *)fields[i].type);
    }
    free(fields);
}

static void free_kernel(rk__definition *definition)
{
    rk__kernel *k = (rk__kernel *)definition;
    free(k->text);
    free(k->source_name);
    free(k->types);
    free_fields(k->state_fields, k->state ? k->state->field_count : 0);
    rk__source_free(&k->source);
    free(k);
}

/* ---- the handlers' text --------------------------------------------------------------------- */

static int no_memory(const char *name)
{
    return rk__fail(RK_ENOMEM, "kernel \"%s\": out of memory", name);
}

static int read_file(const char *path, char **out)
{
    FILE *file = fopen(path, "r");
    rk__strbuf text = RK__STRBUF_INIT;
    char chunk[4096];
    size_t got;
    if (!file) {
        return RK_ENOENT;
    }
    while (text.size <= SOURCE_MAX && (got = fread(chunk, 1, sizeof chunk, file)) > 0) {
        rk__strbuf_add(&text, chunk, got);
    }
    bool bad = ferror(file) || text.size > SOURCE_MAX;
    fclose(file);
    if (bad) {
        rk__strbuf_free(&text);
        return RK_EIO;
    }
    *out = rk__strbuf_take(&text);
    return *out ? 0 : RK_ENOMEM;
}

/* As given, then among the kernels that the library carries. */
static int load_file(rk__kernel *k, const char *file)
{
    char name[256];
    int rc = read_file(file, &k->text);
    if (rc == RK_EIO) {
        return rk__fail_errno(rc, "kernel \"%s\": cannot read %s", k->base.name, file);
    }
    if (rc == RK_ENOENT) {
        snprintf(name, sizeof name, "kernels/%s", file);
        const rk__embedded *ready = rk__embedded_find(name);
        if (!ready) {
            return rk__fail(rc, "kernel \"%s\": there is no file %s, here or in kernels/",
                            k->base.name, file);
        }
        k->text = strndup((const char *)ready->bytes, ready->size);
    }
    return k->text ? 0 : no_memory(k->base.name);
}

static int take_text(rk__kernel *k, const rk_kernel *options)
{
    const char *name = options->source_name ? options->source_name
                       : options->file      ? options->file
                                            : options->name;
    if (!options->source == !options->file) {
        return rk__fail(RK_EINVAL, "kernel \"%s\": give either source or file%s", k->base.name,
                        options->source ? ", not both" : "");
    }
    k->source_line = options->source_line > 0 ? options->source_line : 1;
    k->source_name = strdup(name);
    if (options->file) {
        int rc = load_file(k, options->file);
        if (rc < 0) {
            return rc;
        }
    } else {
        k->text = strdup(options->source);
    }
    if (!k->text || !k->source_name) {
        return no_memory(k->base.name);
    }
    int rc = rk__source_scan(k->source_name, k->text, k->source_line, &k->source);
    return rc < 0 ? rk__fail_prefix(rc, "kernel \"%s\"", k->base.name) : 0;
}

/* ---- message types -------------------------------------------------------------------------- */

static bool has_type(const rk__kernel *k, const rk_type *type)
{
    for (uint32_t i = 0; i < k->type_count; i++) {
        if (k->types[i] == type) {
            return true;
        }
    }
    return false;
}

static int add_types(rk__kernel *k, const rk_type *const *types, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++) {
        if (!types || !types[i]) {
            return rk__fail(RK_EINVAL, "kernel \"%s\": %s has no type at position %zu",
                            k->base.name, what, i + 1);
        }
        if (types[i]->host_only) {
            return rk__fail(RK_ETYPE,
                            "kernel \"%s\": message type '%s' has a field of type any, which is "
                            "host only; kernels take scalars, arrays, string and bytes",
                            k->base.name, types[i]->name);
        }
        if (has_type(k, types[i])) {
            continue;
        }
        if (k->type_count == RK_TYPES_MAX) {
            return rk__fail(RK_ELIMIT, "kernel \"%s\": more than %d message types", k->base.name,
                            (int)RK_TYPES_MAX);
        }
        k->types[k->type_count++] = types[i];
    }
    return 0;
}

static int take_types(rk__kernel *k, const rk_kernel *options)
{
    if (!options->accepts_count) {
        return rk__fail(RK_EINVAL,
                        "kernel \"%s\": accepts is empty; name the message types that "
                        "have an RK_ON",
                        k->base.name);
    }
    k->types = calloc(RK_TYPES_MAX, sizeof *k->types);
    if (!k->types) {
        return no_memory(k->base.name);
    }
    int rc = add_types(k, options->accepts, options->accepts_count, "accepts");
    k->accepts = k->type_count;
    return rc < 0 ? rc : add_types(k, options->replies, options->replies_count, "replies");
}

static const rk__handler *handler_of(const rk__kernel *k, const char *type)
{
    for (size_t i = 0; i < k->source.handler_count; i++) {
        if (strcmp(k->source.handlers[i].type, type) == 0) {
            return &k->source.handlers[i];
        }
    }
    return NULL;
}

static bool accepts_name(const rk__kernel *k, const char *type)
{
    for (uint32_t i = 0; i < k->accepts; i++) {
        if (strcmp(rk_type_name(k->types[i]), type) == 0) {
            return true;
        }
    }
    return false;
}

static void name_accepts(const rk__kernel *k, char *text, size_t size)
{
    size_t used = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < k->accepts && used < size; i++) {
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "",
                                 rk_type_name(k->types[i]));
    }
}

/* One RK_ON for each accepted type, and no others. */
static int match_handlers(const rk__kernel *k)
{
    char names[512];
    name_accepts(k, names, sizeof names);
    for (size_t i = 0; i < k->source.handler_count; i++) {
        const rk__handler *h = &k->source.handlers[i];
        if (!accepts_name(k, h->type)) {
            return rk__fail(
                RK_EINVAL, "kernel \"%s\": %s:%d: RK_ON(%s, ...), but accepts has no %s; it has %s",
                k->base.name, k->source_name, h->line, h->type, h->type, names);
        }
    }
    for (uint32_t i = 0; i < k->accepts; i++) {
        const char *type = rk_type_name(k->types[i]);
        if (!handler_of(k, type)) {
            return rk__fail(
                RK_EINVAL, "kernel \"%s\": accepts %s, but %s (from line %d) has no RK_ON(%s, ...)",
                k->base.name, type, k->source_name, k->source_line, type);
        }
    }
    return 0;
}

/* ---- state and numbers ---------------------------------------------------------------------- */

/* Types of states, which messages may hold on to: like all types they are never freed, and a
 * definition that is made again finds the one it had. */
struct state_type {
    rk_type *layout, message; /* differ in their names */
    struct state_type *next;
    char name[RK_NAME_MAX + 8];
};

static pthread_mutex_t state_lock = PTHREAD_MUTEX_INITIALIZER;
static struct state_type *state_types; /* under state_lock */

/* takes layout. NULL: out of memory */
static const struct state_type *keep_state_type(const char *kernel, rk_type *layout)
{
    char name[RK_NAME_MAX + 8];
    snprintf(name, sizeof name, "%s.state", kernel);
    pthread_mutex_lock(&state_lock);
    struct state_type *s = state_types;
    while (s &&
           (strcmp(s->name, name) != 0 || strcmp(s->layout->canonical, layout->canonical) != 0)) {
        s = s->next;
    }
    bool known = s != NULL;
    s = known ? s : calloc(1, sizeof *s);
    if (s && !known) {
        memcpy(s->name, name, sizeof name);
        s->layout = layout;
        s->message = *layout;
        s->message.name = s->name;
        s->next = state_types;
        state_types = s;
    }
    pthread_mutex_unlock(&state_lock);
    if (!s || known) {
        free(layout);
    }
    return s;
}

static int take_state(rk__kernel *k, const rk_kernel *options)
{
    rk_type *type;
    size_t count = options->state_count;
    if (!count) {
        return 0;
    }
    if (k->source.state_line) {
        return rk__fail(RK_EINVAL,
                        "kernel \"%s\": a state schema and %s:%d: RK_STATE; one of them is enough",
                        k->base.name, k->source_name, k->source.state_line);
    }
    int rc = rk__schema_build(&type, STATE_TYPE, options->state, count);
    if (rc < 0) {
        return rk__fail_prefix(rc, "kernel \"%s\": state", k->base.name);
    }
    if (type->host_only) {
        free(type);
        return rk__fail(RK_ETYPE,
                        "kernel \"%s\": state has a field of type any, which is host only",
                        k->base.name);
    }
    const struct state_type *kept = keep_state_type(k->base.name, type);
    if (!kept) {
        return no_memory(k->base.name);
    }
    k->state = kept->layout;
    k->state_message = &kept->message;
    k->state_fields = calloc(count, sizeof *k->state_fields);
    bool failed = !k->state_fields;
    for (size_t i = 0; !failed && i < count; i++) {
        k->state_fields[i].name = strdup(options->state[i].name);
        k->state_fields[i].type = strdup(options->state[i].type);
        failed = !k->state_fields[i].name || !k->state_fields[i].type;
    }
    return failed ? no_memory(k->base.name) : 0;
}

static int take_number(const rk__kernel *k, const char *what, uint32_t value, uint32_t most,
                       uint32_t *out)
{
    if (value < 1 || value > most) {
        return rk__fail(RK_ERANGE, "kernel \"%s\": %s is %u; it goes from 1 to %u", k->base.name,
                        what, value, most);
    }
    *out = value;
    return 0;
}

static int take_numbers(rk__kernel *k, const rk_kernel *options)
{
    int rc = take_number(k, "block", options->block, 1024, &k->block);
    rc = rc < 0 ? rc : take_number(k, "grid", options->grid, 64, &k->grid);
    rc = rc < 0 ? rc : take_number(k, "cpu_threads", options->cpu_threads, 64, &k->cpu_threads);
    rc = rc < 0 ? rc : take_number(k, "queue_size", options->queue_size, 1 << 24, &k->queue_size);
    if (rc < 0) {
        return rc;
    }
    if (options->full == RK_FULL_DROP_OLDEST) {
        return rk__fail(RK_EUNSUPPORTED,
                        "kernel \"%s\": drop_oldest needs a mailbox on the host, because messages "
                        "on their way to a device cannot be taken back; use block, reject or "
                        "drop_newest",
                        k->base.name);
    }
    k->handler_timeout = options->handler_timeout;
    k->timeout_fails = options->timeout_fails;
    k->full = options->full;
    return 0;
}

/* ---- rk_kernel_define ----------------------------------------------------------------------- */

static int fill(rk__kernel *k, const rk_kernel *options)
{
    int rc = take_text(k, options);
    rc = rc < 0 ? rc : take_types(k, options);
    rc = rc < 0 ? rc : match_handlers(k);
    rc = rc < 0 ? rc : take_state(k, options);
    return rc < 0 ? rc : take_numbers(k, options);
}

/* The definition alone, with one reference; for rk_kernel_define and for tests. */
static int make_kernel(rk__kernel **out, const rk_kernel *options)
{
    rk__kernel *k = calloc(1, sizeof *k);
    if (!k) {
        return no_memory(options->name);
    }
    strcpy(k->base.name, options->name);
    k->base.kind = "kernel";
    k->base.launch = rk__kernel_launch;
    k->base.free = free_kernel;
    k->base.refs = 1;
    int rc = fill(k, options);
    if (rc < 0) {
        free_kernel(&k->base);
        return rc;
    }
    *out = k;
    return 0;
}

int rk_kernel_define(const rk_kernel *kernel)
{
    rk__kernel *k = NULL;
    rk_kernel options = RK_KERNEL_INIT;
    RK_CHECK(kernel && kernel->size, "rk_kernel_define wants a struct made with RK_KERNEL_INIT");
    if (kernel->size > sizeof options) {
        return rk__fail(RK_EINVAL,
                        "rk_kernel has %zu bytes, this library knows %zu: it is older "
                        "than its header",
                        kernel->size, sizeof options);
    }
    memcpy(&options, kernel, kernel->size);
    if (!options.name || !*options.name || strlen(options.name) >= RK_NAME_MAX) {
        return rk__fail(RK_EINVAL, "a kernel wants a name of 1 to %d bytes", RK_NAME_MAX - 1);
    }
    int rc = make_kernel(&k, &options);
    if (rc < 0) {
        return rc;
    }
    rc = rk__definition_set(&k->base);
    if (rc < 0) {
        free_kernel(&k->base);
    }
    return rc;
}

int rk__kernel_precompile(const char *name, const char *folder)
{
    rk__definition *definition;
    int rc = rk__definition_get(name, &definition);
    if (rc < 0) {
        return rc;
    }
    rc =
        strcmp(definition->kind, "kernel") == 0
            ? rk__module_precompile((rk__kernel *)definition, folder)
            : rk__fail(RK_ETYPE, "\"%s\" is no ring kernel but of kind %s", name, definition->kind);
    rk__definition_release(definition);
    return rc;
}

/* ---- the translation unit ------------------------------------------------------------------- */

static void write_line_mark(rk__strbuf *s, int line, const char *name)
{
    rk__strbuf_addf(s, "\n#line %d \"", line);
    for (; *name; name++) {
        if (*name == '"' || *name == '\\') {
            rk__strbuf_addc(s, '\\');
        }
        rk__strbuf_addc(s, *name == '\n' ? ' ' : *name);
    }
    rk__strbuf_adds(s, "\"\n");
}

static int write_types(rk__strbuf *s, const rk__kernel *k)
{
    const rk_type *types[RK_TYPES_MAX + 1];
    size_t count = k->type_count;
    memcpy(types, k->types, count * sizeof *types);
    if (k->state) {
        types[count++] = k->state;
    }
    int rc = rk__type_header(s, types, count);
    if (rc < 0) {
        return rc;
    }
    rk__strbuf_adds(s, "enum {\n");
    for (uint32_t i = 0; i < k->type_count; i++) {
        rk__strbuf_addf(s, "    rk_type_%s = %u,\n", rk_type_name(k->types[i]), i);
    }
    rk__strbuf_adds(s, "};\n");
    if (k->state) {
        rk__strbuf_adds(s, "typedef " STATE_TYPE " rk_state;\n");
    }
    return 0;
}

static void write_dispatch(rk__strbuf *s, const rk__kernel *k)
{
    rk__strbuf_adds(s, "RK_ENTRY_FN void rk_handle(rk_ctx *ctx, uint32_t type, const void *payload)"
                       "\n{\n    rk__enter(ctx);\n    switch (type) {\n");
    for (uint32_t i = 0; i < k->accepts; i++) {
        const char *name = rk_type_name(k->types[i]);
        rk__strbuf_addf(s, "    case %u: rk_on_%s(ctx, (const %s *)payload); break;\n", i, name,
                        name);
    }
    rk__strbuf_adds(s, "    }\n    rk__leave(ctx);\n}\n");
}

/* Each RK_SHARED stands behind the one before it; see RK_SHARED in rk_kernel.h. */
static void write_places(rk__strbuf *s, const rk__kernel *k, int line)
{
    const rk__source *source = &k->source;
    int shift = line - k->source_line;
    rk__strbuf before = RK__STRBUF_INIT;
    rk__strbuf_adds(&before, "0");
    for (size_t i = 0; i < source->shared_count; i++) {
        const rk__shared_use *use = &source->shared[i];
        /* Compilers differ in which line a macro call over several lines has. */
        for (int at = use->line; at <= use->last_line; at++) {
            rk__strbuf_addf(s, "#define RK_PLACE_%d (%s)\n", at + shift, before.bytes);
        }
        rk__strbuf_clear(&before);
        rk__strbuf_addf(&before, "RK_PLACE_%d + RK__PLACES(sizeof(%s %s))", use->line + shift,
                        use->type, use->dims);
    }
    s->failed |= before.failed;
    rk__strbuf_free(&before);
}

/* The sum, with each part where the user wrote it: what is not known outside of the handler is
 * reported there. */
static void write_shared_total(rk__strbuf *s, const rk__kernel *k, const char *name, int line)
{
    const rk__source *source = &k->source;
    for (size_t i = 0; i < source->shared_count; i++) {
        const rk__shared_use *use = &source->shared[i];
        write_line_mark(s, use->line + line - k->source_line, name);
        rk__strbuf_addf(s, "enum { rk_shared_%zu = (int)sizeof(%s %s) };\n", i, use->type,
                        use->dims);
    }
    write_line_mark(s, 1, RK__GENERATED);
    rk__strbuf_adds(s, "enum { rk_shared_total = 0");
    for (size_t i = 0; i < source->shared_count; i++) {
        rk__strbuf_addf(s, " + RK__PLACES(rk_shared_%zu)", i);
    }
    rk__strbuf_adds(s, " };\n");
}

/* The periods are written where the user wrote them, so that a wrong one is reported there. */
static void write_periods(rk__strbuf *s, const rk__kernel *k, const char *name, int line)
{
    const rk__source *source = &k->source;
    int shift = line - k->source_line;
    if (!source->every_count) {
        return;
    }
    rk__strbuf_adds(s, "#if defined(RK_IMAGE)\n"
                       "RK__IMAGE_CONST int64_t RK__NAME_OF(_periods)[] = {\n#else\n"
                       "static const int64_t rk_every_periods[] = {\n#endif\n");
    for (size_t i = 0; i < source->every_count; i++) {
        write_line_mark(s, source->every_lines[i] + shift, name);
        rk__strbuf_addf(s, "(int64_t)((%s) * 1e9),\n", source->every_periods[i]);
    }
    write_line_mark(s, 1, RK__GENERATED);
    rk__strbuf_adds(s, "};\n");
}

/* RK_ON_START, RK_ON_STOP and RK_EVERY. */
static void write_hook(rk__strbuf *s, const rk__kernel *k, int line)
{
    const rk__source *source = &k->source;
    rk__strbuf_adds(s, "RK_ENTRY_FN void rk_hook(rk_ctx *ctx, uint32_t step, uint32_t index)\n{\n"
                       "    (void)index;\n    rk__enter(ctx);\n    switch (step) {\n");
    if (source->start_line) {
        rk__strbuf_adds(s, "    case RK_BUSY_START: rk_at_start(ctx); break;\n");
    }
    if (source->stop_line) {
        rk__strbuf_adds(s, "    case RK_BUSY_STOP: rk_at_stop(ctx); break;\n");
    }
    if (source->every_count) {
        rk__strbuf_adds(s, "    case RK_BUSY_EVERY:\n        switch (index) {\n");
        for (size_t i = 0; i < source->every_count; i++) {
            rk__strbuf_addf(s, "        case %zu: rk_every_%d(ctx); break;\n", i,
                            source->every_lines[i] + line - k->source_line);
        }
        rk__strbuf_adds(s, "        }\n        break;\n");
    }
    rk__strbuf_adds(s, "    default: break;\n    }\n    rk__leave(ctx);\n}\n");
}

/* What the host reads, and the ways in: pointers on the cpu, functions with a name in an image. */
static void write_entry(rk__strbuf *s, const rk__kernel *k)
{
    const rk__source *source = &k->source;
    bool state = k->state || source->state_line;
    rk__strbuf_addf(s,
                    "#define RK_ENTRY_NUMBERS RK_ABI_VERSION, sizeof(rk_entry), RK_ABI_HASH, %s, "
                    "%u, %u, %zu, RK_ENTRY_THREADS, rk_shared_total, 0\n",
                    state ? "sizeof(rk_state), __alignof__(rk_state)" : "0, 1", k->accepts,
                    k->type_count, source->every_count);
    rk__strbuf_addf(s,
                    "#if defined(RK_IMAGE)\n"
                    "RK__IMAGE_CONST rk_entry RK__NAME_OF(_entry) = {RK_ENTRY_NUMBERS, 0, 0, 0};\n"
                    "RK__IMAGE_FN void RK__NAME_OF(_handle)(rk_ctx *ctx, uint32_t type, "
                    "const void *payload)\n{\n    rk_handle(ctx, type, payload);\n}\n"
                    "RK__IMAGE_FN void RK__NAME_OF(_hook)(rk_ctx *ctx, uint32_t step, "
                    "uint32_t index)\n{\n    rk_hook(ctx, step, index);\n}\n#else\n"
                    "extern const rk_entry rk_definition;\n"
                    "__attribute__((visibility(\"default\"))) const rk_entry rk_definition = "
                    "{RK_ENTRY_NUMBERS, rk_handle, rk_hook, %s};\n#endif\n",
                    source->every_count ? "rk_every_periods" : "0");
}

int rk__kernel_unit(const rk__kernel *k, const char *name, int line, rk__strbuf *s)
{
    rk__strbuf_adds(s, "#include \"rk_kernel.h\"\n#define RK_CHECK_LAYOUT 1\n");
    int rc = write_types(s, k);
    if (rc < 0) {
        return rc;
    }
    write_places(s, k, line);
    write_line_mark(s, line, name);
    rk__strbuf_adds(s, k->text);
    write_line_mark(s, 1, RK__GENERATED);
    write_dispatch(s, k);
    write_hook(s, k, line);
    write_shared_total(s, k, name, line);
    write_periods(s, k, name, line);
    write_entry(s, k);
    return s->failed ? no_memory(k->base.name) : 0;
}

int rk__kernel_text(const rk__kernel *k, char **out)
{
    rk__strbuf s = RK__STRBUF_INIT;
    int rc = rk__kernel_unit(k, k->source_name, k->source_line, &s);
    if (rc < 0) {
        rk__strbuf_free(&s);
        return rc;
    }
    *out = rk__strbuf_take(&s);
    return 0;
}
