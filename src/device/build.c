/*
 * build.c -- from a definition to code in this process: key, look-up, compiler, loader.
 *
 * Looked up in this order: modules loaded in this process; the user's cache; precompiled kernels
 * for exactly this processor; the compiler; precompiled kernels for any processor of this kind. A
 * key is a hash over everything that changes the result, so a stale file is never found.
 *
 * The compiler runs as a child process without a shell, in a temporary folder of its own, so two
 * builds of one definition (threads or processes) do not meet before the rename into the cache.
 *
 * Threads: any. The table of loaded modules is under `table_lock`, which is never held while a
 * compiler runs or a file is read.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "base/embedded.h"
#include "base/error.h"
#include "base/log.h"
#include "device/compiler.h"
#include "device/device.h"

/* ---- variants and keys ---------------------------------------------------------------------- */

/* What a key is made for. `compiler` NULL: a precompiled kernel, whoever compiled it. */
struct variant {
    bool single; /* blocks of one thread */
    bool native; /* for this very processor */
    const rk__compiler *compiler;
};

static void add_flags(const struct variant *v, const char **flags, size_t *count)
{
    static const char *const common[] = {"-std=gnu11",
                                         "-O3",
                                         "-fPIC",
                                         "-fvisibility=hidden",
                                         "-fno-math-errno",
                                         "-fno-trapping-math",
                                         "-fno-signed-zeros",
                                         "-fassociative-math",
                                         "-Wall",
                                         "-Werror=implicit-function-declaration",
                                         "-Werror=int-conversion",
                                         "-Werror=return-type",
                                         "-Werror=incompatible-pointer-types"};
    for (size_t i = 0; i < sizeof common / sizeof *common; i++) {
        flags[(*count)++] = common[i];
    }
    if (v->single) {
        flags[(*count)++] = "-DRK_SINGLE";
    }
#if defined(__x86_64__) || defined(__aarch64__)
    if (v->native) {
        flags[(*count)++] = "-march=native";
    }
#endif
    if (RK__COMPILER_SANITIZE[0]) {
        flags[(*count)++] = RK__COMPILER_SANITIZE;
    }
}

const char *const rk__kernel_headers[RK__KERNEL_HEADERS] = {"rk_kernel.h", "rk_words.h",
                                                            "rk_abi.h"};

const char *rk__kernel_header(size_t i)
{
    char name[64];
    snprintf(name, sizeof name, "kernels/%s", rk__kernel_headers[i]);
    const rk__embedded *file = rk__embedded_find(name);
    RK_CHECK(file, "the library was built without its kernel headers");
    return (const char *)file->bytes;
}

/* The features of this processor, as the kernel lists them; the first of all is enough. */
static void add_processor(rk__strbuf *s)
{
    char text[8192];
    FILE *file = fopen("/proc/cpuinfo", "re");
    size_t size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) {
        fclose(file);
    }
    text[size] = '\0';
    char *from = strstr(text, "flags"), *features = from ? from : strstr(text, "Features");
    if (features) {
        rk__strbuf_add(s, features, strcspn(features, "\n"));
    }
}

static void add_machine(rk__strbuf *s)
{
    struct utsname name;
    rk__strbuf_adds(s, uname(&name) == 0 ? name.machine : "");
}

static int make_key(const rk__kernel *kernel, const struct variant *v, rk__hash128 *out)
{
    rk__strbuf s = RK__STRBUF_INIT;
    const char *flags[RK__COMPILER_FLAGS];
    size_t count = 0;
    rk__strbuf_addf(&s, "abi %u\n", RK_ABI_VERSION);
    for (size_t i = 0; i < RK__KERNEL_HEADERS; i++) {
        rk__strbuf_adds(&s, rk__kernel_header(i));
    }
    add_flags(v, flags, &count);
    for (size_t i = 0; i < count; i++) {
        rk__strbuf_addf(&s, "%s\n", flags[i]);
    }
    add_machine(&s);
    if (v->native) {
        add_processor(&s);
    }
    rk__strbuf_adds(&s, v->compiler ? v->compiler->identity : "precompiled");
    int rc = rk__kernel_unit(kernel, "", 1, &s);
    if (rc == 0 && s.failed) {
        rc = rk__fail(RK_ENOMEM, "kernel \"%s\": out of memory", kernel->base.name);
    }
    if (rc == 0) {
        *out = rk__hash128_of(s.bytes, s.size);
    }
    rk__strbuf_free(&s);
    return rc;
}

/* ---- modules loaded in this process --------------------------------------------------------- */

/* One of the cpu device. */
struct loaded {
    rk__module module; /* the first */
    void *library;     /* dlopen handle */
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static rk__module *table; /* of all devices */

static void unload(rk__module *module)
{
    struct loaded *l = (struct loaded *)module;
    dlclose(l->library);
    free(l);
}

static bool same_key(rk__hash128 a, rk__hash128 b)
{
    return a.high == b.high && a.low == b.low;
}

/* Retained, or NULL. Under table_lock. */
static rk__module *find_loaded(rk__hash128 key)
{
    for (rk__module *m = table; m; m = m->next) {
        if (same_key(m->key, key)) {
            __atomic_add_fetch(&m->refs, 1, __ATOMIC_RELAXED);
            return m;
        }
    }
    return NULL;
}

rk__module *rk__module_find(rk__hash128 key)
{
    pthread_mutex_lock(&table_lock);
    rk__module *module = find_loaded(key);
    pthread_mutex_unlock(&table_lock);
    return module;
}

rk__module *rk__module_enter(rk__module *module)
{
    pthread_mutex_lock(&table_lock);
    rk__module *first = find_loaded(module->key);
    if (!first) {
        module->refs = 1;
        module->next = table;
        table = module;
    }
    pthread_mutex_unlock(&table_lock);
    if (first) {
        module->unload(module);
    }
    return first ? first : module;
}

/* The count reaches zero under the lock, so that nobody finds a module that is going. */
void rk__module_release(rk__module *module)
{
    if (!module) {
        return;
    }
    pthread_mutex_lock(&table_lock);
    bool gone = __atomic_sub_fetch(&module->refs, 1, __ATOMIC_ACQ_REL) == 0;
    if (gone) {
        rk__module **at = &table;
        while (*at != module) {
            at = &(*at)->next;
        }
        *at = module->next;
    }
    pthread_mutex_unlock(&table_lock);
    if (gone) {
        module->unload(module);
    }
}

/* ---- loading -------------------------------------------------------------------------------- */

static const char *entry_fault(const rk_entry *entry, const rk__kernel *kernel, uint32_t threads)
{
    if (!entry || entry->abi_version != RK_ABI_VERSION || entry->size != sizeof *entry ||
        entry->abi_hash != RK_ABI_HASH) {
        return "it was built for another version of this library";
    }
    if (entry->accepts != kernel->accepts || entry->types != kernel->type_count ||
        entry->every_count != kernel->source.every_count || (entry->threads == 1 && threads != 1)) {
        return "it belongs to another definition";
    }
    return NULL;
}

static int check_entry(const rk_entry *entry, const rk__kernel *kernel)
{
    if (entry->shared_size > RK_SHARED_SIZE) {
        return rk__fail(RK_ECOMPILE, "kernel \"%s\" wants %u bytes of RK_SHARED; a block has %d",
                        kernel->base.name, entry->shared_size, RK_SHARED_SIZE);
    }
    for (uint32_t i = 0; i < entry->every_count; i++) {
        if (entry->every_periods[i] <= 0) {
            return rk__fail(RK_ECOMPILE, "kernel \"%s\": %s:%d: RK_EVERY(%s) wants a period > 0",
                            kernel->base.name, kernel->source_name, kernel->source.every_lines[i],
                            kernel->source.every_periods[i]);
        }
    }
    return 0;
}

int rk__module_check(const rk_entry *entry, const rk__kernel *kernel, uint32_t threads,
                     const char *from)
{
    const char *fault = entry_fault(entry, kernel, threads);
    return fault ? rk__fail(RK_EIO, "kernel \"%s\": cannot use %s: %s", kernel->base.name, from,
                            fault)
                 : check_entry(entry, kernel);
}

/* With a sanitizer the linker does not ask for every function, and the loader is the first to. */
static int load_error(const char *path, const rk__kernel *kernel, const char *why)
{
    static const char mark[] = "undefined symbol: ";
    const char *missing = strstr(why, mark);
    if (missing) {
        return rk__fail(RK_ECOMPILE,
                        "kernel \"%s\" does not link:\ncalls what is nowhere to be found: %s",
                        kernel->base.name, missing + sizeof mark - 1);
    }
    return rk__fail(RK_EIO, "kernel \"%s\": cannot load %s: %s", kernel->base.name, path, why);
}

/* gives library and entry in `out` */
static int open_library(const char *path, const rk__kernel *kernel, uint32_t threads,
                        struct loaded *out)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        return load_error(path, kernel, dlerror());
    }
    const rk_entry *entry = (const rk_entry *)dlsym(library, "rk_definition");
    int rc = rk__module_check(entry, kernel, threads, path);
    if (rc < 0) {
        dlclose(library);
        return rc;
    }
    out->library = library;
    out->module.entry = entry;
    return 0;
}

/* Loads a file and enters it into the table. */
static int load(const char *path, rk__hash128 key, const rk__kernel *kernel, uint32_t threads,
                rk__module **out)
{
    struct loaded *l = calloc(1, sizeof *l);
    if (!l) {
        return rk__fail(RK_ENOMEM, "kernel \"%s\": out of memory", kernel->base.name);
    }
    l->module.key = key;
    l->module.unload = unload;
    int rc = open_library(path, kernel, threads, l);
    if (rc < 0) {
        free(l);
        return rc;
    }
    *out = rk__module_enter(&l->module);
    return 0;
}

/* ---- precompiled kernels -------------------------------------------------------------------- */

/* `path` with its last component replaced by `end`; false: it does not fit. */
static bool beside(const char *path, const char *end, char *out, size_t size)
{
    const char *slash = strrchr(path, '/');
    int length = slash ? snprintf(out, size, "%.*s%s", (int)(slash - path), path, end) : 0;
    return length > 0 && (size_t)length < size;
}

/* The n-th place where precompiled kernels may be; false: there are no more. */
static bool ready_folder(int n, char *out, size_t size)
{
    const char *given = getenv("RK_KERNELS");
    char program[PATH_MAX] = "";
    Dl_info library = {0};
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = '\0';
    if (!dladdr((void *)&table_lock, &library) || !library.dli_fname ||
        library.dli_fname[0] != '/') {
        library.dli_fname = program; /* linked into it, and named as it was called */
    }
    switch (n) {
    case 0:
        return snprintf(out, size, "%s", given ? given : "") < (int)size;
    case 1:
        return beside(program, "/kernels", out, size);
    case 2:
        return beside(library.dli_fname, "/kernels", out, size);
    case 3:
        return beside(program, "/../lib/rk/kernels", out, size);
    case 4:
        return beside(library.dli_fname, "/rk/kernels", out, size);
    default:
        return false;
    }
}

static int find_ready(const rk__kernel *kernel, struct variant v, uint32_t threads,
                      rk__module **out)
{
    char folder[PATH_MAX], path[PATH_MAX];
    rk__hash128 key;
    v.compiler = NULL;
    int rc = make_key(kernel, &v, &key);
    if (rc < 0) {
        return rc;
    }
    *out = rk__module_find(key);
    for (int i = 0; !*out && ready_folder(i, folder, sizeof folder); i++) {
        if (folder[0] && rk__cache_get(folder, key, path, sizeof path) == 0) {
            load(path, key, kernel, threads, out);
        }
    }
    return *out ? 0 : RK_ENOENT;
}

/* ---- compiling ------------------------------------------------------------------------------ */

static int write_file(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "we");
    bool done = file && fwrite(bytes, 1, size, file) == size;
    done = (!file || fclose(file) == 0) && done;
    return done ? 0 : rk__fail_errno(RK_EIO, "cannot write %s", path);
}

static const char *const unit_files[] = {"unit.c", "unit.o", "unit.so"};
enum { UNIT_FILES = sizeof unit_files / sizeof *unit_files };

static int open_workshop(char *folder, size_t size)
{
    const char *temporary = getenv("TMPDIR");
    int length =
        snprintf(folder, size, "%s/rk-build-XXXXXX", temporary && *temporary ? temporary : "/tmp");
    if (length < 0 || (size_t)length >= size || !mkdtemp(folder)) {
        return rk__fail_errno(RK_EIO, "cannot make the folder %s for a build", folder);
    }
    return 0;
}

static void close_workshop(const char *folder)
{
    char path[PATH_MAX];
    for (size_t i = 0; i < UNIT_FILES + RK__KERNEL_HEADERS; i++) {
        snprintf(path, sizeof path, "%s/%s", folder,
                 i < UNIT_FILES ? unit_files[i] : rk__kernel_headers[i - UNIT_FILES]);
        unlink(path);
    }
    rmdir(folder);
}

static int write_unit(const char *folder, const rk__kernel *kernel)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < RK__KERNEL_HEADERS; i++) {
        const char *text = rk__kernel_header(i);
        rc = write_file(folder, rk__kernel_headers[i], text, strlen(text));
    }
    rk__strbuf text = RK__STRBUF_INIT;
    rc = rc < 0 ? rc : rk__kernel_unit(kernel, kernel->source_name, kernel->source_line, &text);
    rc = rc < 0 ? rc : write_file(folder, "unit.c", text.bytes, text.size);
    rk__strbuf_free(&text);
    return rc;
}

/* Leaves folder/unit.so. */
static int compile(const rk__kernel *kernel, const struct variant *v, const char *folder)
{
    char object[PATH_MAX];
    const char *flags[RK__COMPILER_FLAGS];
    size_t count = 0;
    int rc = write_unit(folder, kernel);
    if (rc < 0) {
        return rc;
    }
    add_flags(v, flags, &count);
    rc = rk__compiler_object(v->compiler, kernel, folder, flags, count);
    if (rc < 0) {
        return rc;
    }
    snprintf(object, sizeof object, "%s/unit.o", folder);
    rc = rk__symbols_check(object, kernel);
    return rc < 0 ? rc : rk__compiler_link(v->compiler, kernel, folder);
}

/* Compiles and puts into the cache; without a cache the module is loaded from where it was made. */
static int compile_and_load(const rk__kernel *kernel, const struct variant *v, const char *cache,
                            rk__hash128 key, uint32_t threads, rk__module **out)
{
    char folder[PATH_MAX - 16], made[PATH_MAX], path[PATH_MAX];
    int rc = open_workshop(folder, sizeof folder);
    if (rc < 0) {
        return rc;
    }
    rc = compile(kernel, v, folder);
    if (rc == 0) {
        snprintf(made, sizeof made, "%s/unit.so", folder);
        bool stored = cache && rk__cache_put(cache, key, made, path, sizeof path) == 0;
        if (cache && !stored) {
            rk__log(RK__LOG_WARN, NULL, "%s", rk_errdetail());
        }
        rc = load(stored ? path : made, key, kernel, threads, out);
    }
    close_workshop(folder);
    return rc;
}

/* ---- rk__module_build ----------------------------------------------------------------------- */

void rk__module_count_hit(rk_runtime *rt)
{
    if (rt) {
        __atomic_add_fetch(&rt->cache_hits, 1, __ATOMIC_RELAXED);
    }
}

void rk__module_count_compiled(rk_runtime *rt)
{
    if (rt) {
        __atomic_add_fetch(&rt->kernels_compiled, 1, __ATOMIC_RELAXED);
    }
}

static int build_with(rk_runtime *rt, const rk__kernel *kernel, const struct variant *v,
                      uint32_t threads, rk__module **out)
{
    char cache[PATH_MAX - 64], path[PATH_MAX];
    rk__hash128 key;
    int rc = make_key(kernel, v, &key);
    if (rc < 0) {
        return rc;
    }
    *out = rk__module_find(key);
    if (*out) {
        return 0;
    }
    bool cached = rk__cache_folder(rt != NULL ? rt->cache : NULL, cache, sizeof cache) == 0;
    if (cached && rk__cache_get(cache, key, path, sizeof path) == 0 &&
        load(path, key, kernel, threads, out) == 0) {
        rk__module_count_hit(rt);
        return 0;
    }
    if (find_ready(kernel, *v, threads, out) == 0) {
        rk__module_count_hit(rt);
        return 0;
    }
    rc = compile_and_load(kernel, v, cached ? cache : NULL, key, threads, out);
    if (rc == 0) {
        rk__module_count_compiled(rt);
    }
    return rc;
}

/* Ready-made kernels run without a compiler; the error says so for all others. */
static int build_without(rk_runtime *rt, const rk__kernel *kernel, struct variant v,
                         uint32_t threads, rk__module **out)
{
    char sought[512];
    snprintf(sought, sizeof sought, "%s", rk_errdetail());
    for (int native = 1; native >= 0; native--) {
        v.native = native;
        if (find_ready(kernel, v, threads, out) == 0) {
            rk__module_count_hit(rt);
            return 0;
        }
    }
    return rk__fail(
        RK_ENOCOMPILER,
        "kernel \"%s\" must be compiled, but there is no C compiler: %s. Install gcc or "
        "clang, or set RK_CC. Kernels that were compiled before (rk.kernels.*) run "
        "without one",
        kernel->base.name, sought);
}

int rk__module_build(rk_runtime *rt, const rk__kernel *kernel, uint32_t threads, rk__module **out)
{
    rk__compiler compiler;
    rk__module *module = NULL;
    struct variant v = {.single = threads == 1, .native = true};
    int rc = rk__compiler_find(&compiler);
    if (rc == 0) {
        v.compiler = &compiler;
        rc = build_with(rt, kernel, &v, threads, &module);
    } else if (rc == RK_ENOCOMPILER) {
        rc = build_without(rt, kernel, v, threads, &module);
    }
    if (rc == 0) {
        *out = module;
    }
    return rc;
}

static int precompile_one(const rk__kernel *kernel, struct variant v, const char *into)
{
    char folder[PATH_MAX - 16], made[PATH_MAX], path[PATH_MAX];
    rk__hash128 key;
    int rc = open_workshop(folder, sizeof folder);
    if (rc < 0) {
        return rc;
    }
    rc = compile(kernel, &v, folder);
    v.compiler = NULL;
    rc = rc < 0 ? rc : make_key(kernel, &v, &key);
    if (rc == 0) {
        snprintf(made, sizeof made, "%s/unit.so", folder);
        rc = rk__cache_put(into, key, made, path, sizeof path);
    }
    close_workshop(folder);
    return rc;
}

/* Four files: blocks of one thread and of several, for this processor and for any of its kind. */
int rk__module_precompile(const rk__kernel *kernel, const char *folder)
{
    rk__compiler compiler;
    int rc = rk__compiler_find(&compiler);
    for (int i = 0; rc == 0 && i < 4; i++) {
        struct variant v = {.single = i & 1, .native = i & 2, .compiler = &compiler};
        rc = precompile_one(kernel, v, folder);
    }
    return rc < 0 ? rk__fail_prefix(rc, "precompiling \"%s\"", kernel->base.name) : 0;
}
