/*
 * compile.c -- texts through NVRTC to objects: options, keys, what the compiler says, the cache.
 *
 * A key is a hash over everything that changes the result, so a stale file is never found. A file
 * of the cache has one or more parts, each with its length.
 *
 * Threads: any. NVRTC and nvJitLink run on a thread of their own with a large stack, one at a time:
 * `worker_lock` is held by whoever waits for it. `loops_lock` guards the list of loops, which grows
 * only, and is not held while anything is compiled.
 */
#include "device/cuda/compile.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/embedded.h"
#include "base/error.h"
#include "base/log.h"
#include "device/compiler.h"
#include "device/cuda/driver.h"

enum { WORKER_STACK = 16 << 20, OPTIONS_MAX = 12 };

uint32_t rk__cuda_registers(uint32_t threads)
{
    return threads <= 256 ? 255 : threads <= 512 ? 128 : 64;
}

static int no_memory(const char *who)
{
    return rk__fail(RK_ENOMEM, "%s: out of memory", who);
}

/* ---- a thread with a stack ------------------------------------------------------------------ */

static pthread_mutex_t worker_lock = PTHREAD_MUTEX_INITIALIZER;

struct work {
    int (*fn)(void *arg);
    void *arg;
    int code;
    char said[RK__DETAIL_MAX];
};

static void *work_main(void *arg)
{
    struct work *w = arg;
    pthread_setname_np(pthread_self(), "rk-nvrtc");
    w->code = w->fn(w->arg);
    if (w->code < 0) {
        snprintf(w->said, sizeof w->said, "%s", rk_errdetail());
    }
    return NULL;
}

static int run_thread(struct work *w)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, WORKER_STACK);
    int error = pthread_create(&thread, &attributes, work_main, w);
    pthread_attr_destroy(&attributes);
    if (error) {
        return rk__fail(RK_ENOMEM, "cannot start a thread for NVIDIA's compiler: %s",
                        strerror(error));
    }
    pthread_join(thread, NULL);
    return 0;
}

int rk__cuda_work(int (*fn)(void *arg), void *arg)
{
    struct work *w = calloc(1, sizeof *w);
    if (!w) {
        return no_memory("NVIDIA's compiler");
    }
    *w = (struct work){.fn = fn, .arg = arg};
    pthread_mutex_lock(&worker_lock);
    int rc = run_thread(w);
    pthread_mutex_unlock(&worker_lock);
    if (rc == 0) {
        rc = w->code < 0 ? rk__fail(w->code, "%s", w->said) : w->code;
    }
    free(w);
    return rc;
}

/* ---- which compiler ------------------------------------------------------------------------- */

/* The file behind the links, its size and time. */
void rk__cuda_add_file(void *function, rk__strbuf *out)
{
    Dl_info library;
    struct stat s;
    char real[PATH_MAX];
    if (!dladdr(function, &library) || !library.dli_fname) {
        return;
    }
    const char *path = realpath(library.dli_fname, real) ? real : library.dli_fname;
    rk__strbuf_adds(out, path);
    if (stat(path, &s) == 0) {
        rk__strbuf_addf(out, " %lld %lld.%09ld", (long long)s.st_size, (long long)s.st_mtim.tv_sec,
                        s.st_mtim.tv_nsec);
    }
    rk__strbuf_addc(out, '\n');
}

int rk__cuda_compiler_name(rk__strbuf *out)
{
    int major, minor, rc = rk__nvrtc_load();
    if (rc < 0) {
        return rc;
    }
    nvrtcResult result = rk__nvrtc->Version(&major, &minor);
    if (result != NVRTC_SUCCESS) {
        return rk__nvrtc_fail(result, "asking NVRTC for its version");
    }
    rk__strbuf_addf(out, "NVRTC %d.%d", major, minor);
    return 0;
}

static int add_compiler(rk__strbuf *out)
{
    int rc = rk__cuda_compiler_name(out);
    if (rc == 0) {
        rk__strbuf_addc(out, ' ');
        rk__cuda_add_file((void *)(uintptr_t)rk__nvrtc->Version, out);
    }
    return rc;
}

/* ---- texts and options ---------------------------------------------------------------------- */

static const char *embedded(const char *name)
{
    const rk__embedded *file = rk__embedded_find(name);
    RK_CHECK(file, "the library was built without its kernel texts");
    return (const char *)file->bytes;
}

/* An option per line, but the definition's name, which is made from them. */
static void add_options(const rk__cuda_order *o, rk__strbuf *out)
{
    char arch[16];
    rk__cuda_target_text(o->target, arch);
    rk__strbuf_addf(out,
                    "--gpu-architecture=%s\n-rdc=true\n--std=c++17\n"
                    "--device-as-default-execution-space\n--maxrregcount=%u\n-DRK_IMAGE=1\n",
                    arch, o->registers);
}

int rk__cuda_order_key(const rk__cuda_order *o, const char *text, rk__hash128 *out)
{
    rk__strbuf s = RK__STRBUF_INIT;
    rk__strbuf_addf(&s, "cuda abi %u\n%s\n", RK_ABI_VERSION, RK__COMPILER_SANITIZE);
    for (size_t i = 0; i < RK__KERNEL_HEADERS; i++) {
        rk__strbuf_adds(&s, rk__kernel_header(i));
    }
    add_options(o, &s);
    rk__strbuf_addf(&s, "%s\n", o->define);
    int rc = add_compiler(&s);
    rk__strbuf_adds(&s, text);
    if (rc == 0 && s.failed) {
        rc = no_memory(o->who);
    }
    if (rc == 0) {
        *out = rk__hash128_of(s.bytes, s.size);
    }
    rk__strbuf_free(&s);
    return rc;
}

/* ---- NVRTC; on the worker ------------------------------------------------------------------- */

static int take_output(rk__cuda_order *o, nvrtcProgram program)
{
    bool ptx = o->target.ptx;
    size_t size = 0;
    nvrtcResult result =
        ptx ? rk__nvrtc->GetPTXSize(program, &size) : rk__nvrtc->GetCUBINSize(program, &size);
    o->out.bytes = result == NVRTC_SUCCESS && size ? malloc(size) : NULL;
    if (result == NVRTC_SUCCESS && !o->out.bytes) {
        return size ? no_memory(o->who) : rk__fail(RK_EDEVICE, "%s: NVRTC made nothing", o->who);
    }
    if (result == NVRTC_SUCCESS) {
        result = ptx ? rk__nvrtc->GetPTX(program, (char *)o->out.bytes)
                     : rk__nvrtc->GetCUBIN(program, (char *)o->out.bytes);
    }
    if (result != NVRTC_SUCCESS) {
        free(o->out.bytes);
        o->out = (rk__cuda_object){0};
        return rk__nvrtc_fail(result, "%s: taking what NVRTC made", o->who);
    }
    o->out.size = size;
    return 0;
}

static void take_log(rk__cuda_order *o, nvrtcProgram program)
{
    size_t size = 0;
    if (rk__nvrtc->GetProgramLogSize(program, &size) != NVRTC_SUCCESS || !size ||
        !rk__strbuf_reserve(&o->log, size)) {
        return;
    }
    if (rk__nvrtc->GetProgramLog(program, o->log.bytes) == NVRTC_SUCCESS) {
        o->log.size = strnlen(o->log.bytes, size);
    }
}

static nvrtcResult run_program(const rk__cuda_order *o, nvrtcProgram program)
{
    const char *options[OPTIONS_MAX];
    int count = 0;
    rk__strbuf s = RK__STRBUF_INIT;
    add_options(o, &s);
    rk__strbuf_adds(&s, o->define);
    if (s.failed) {
        rk__strbuf_free(&s);
        return NVRTC_ERROR_OUT_OF_MEMORY;
    }
    for (char *next, *at = s.bytes; *at; at = next) {
        next = at + strcspn(at, "\n");
        next += *next ? (*next = '\0', 1) : 0;
        options[count++] = at;
    }
    nvrtcResult result = rk__nvrtc->CompileProgram(program, count, options);
    rk__strbuf_free(&s);
    return result;
}

/* 1: it does not compile, and the log says why. */
static int compile(rk__cuda_order *o)
{
    const char *texts[RK__KERNEL_HEADERS];
    nvrtcProgram program;
    for (size_t i = 0; i < RK__KERNEL_HEADERS; i++) {
        texts[i] = rk__kernel_header(i);
    }
    nvrtcResult result = rk__nvrtc->CreateProgram(&program, o->text, o->name, RK__KERNEL_HEADERS,
                                                  texts, rk__kernel_headers);
    if (result != NVRTC_SUCCESS) {
        return rk__nvrtc_fail(result, "%s: giving it to NVRTC", o->who);
    }
    int rc = 1;
    result = run_program(o, program);
    take_log(o, program);
    if (result == NVRTC_SUCCESS) {
        rc = take_output(o, program);
    } else if (result != NVRTC_ERROR_COMPILATION) {
        rc = rk__nvrtc_fail(result, "%s: compiling it%s%s", o->who, o->log.size ? ": " : "",
                            o->log.size ? o->log.bytes : "");
    }
    rk__nvrtc->DestroyProgram(&program);
    return rc;
}

/* ---- what NVRTC said ------------------------------------------------------------------------ */

/* "app.lua(43): error: ..." becomes "app.lua:43: error: ...", as C compilers say it, and the lines
 * that show the text, which may be of a macro of ours, go. In the generated part of a unit lines
 * have no meaning. */
static void add_line(const char *line, size_t size, rk__strbuf *out)
{
    const char *mark = memmem(line, size, "): ", 3), *open = mark;
    while (open && open > line && open[-1] >= '0' && open[-1] <= '9') {
        open--;
    }
    if (mark && open > line && open < mark && open[-1] == '(') {
        size_t name = (size_t)(open - 1 - line);
        rk__strbuf_add(out, line, name);
        if (name != strlen(RK__GENERATED) || memcmp(line, RK__GENERATED, name) != 0) {
            rk__strbuf_addf(out, ":%.*s", (int)(mark - open), open);
        }
        rk__strbuf_add(out, mark + 1, size - (size_t)(mark + 1 - line));
        rk__strbuf_addc(out, '\n');
    } else if (memmem(line, size, "error:", 6)) {
        rk__strbuf_add(out, line, size);
        rk__strbuf_addc(out, '\n');
    }
}

static void rewrite_log(const rk__strbuf *said, rk__strbuf *out)
{
    for (const char *line = said->bytes; line && *line;) {
        size_t size = strcspn(line, "\n");
        if (!memmem(line, size, "was declared but never referenced", 33)) {
            add_line(line, size, out);
        }
        line += size + (line[size] == '\n');
    }
}

/* Of the user's text it is the user's; of ours it is a defect, or an NVRTC that is not for it. */
static int report(const rk__cuda_order *o)
{
    rk__strbuf lines = RK__STRBUF_INIT;
    rewrite_log(&o->log, &lines);
    const rk__strbuf *shown = lines.size ? &lines : &o->log;
    int rc = o->kernel ? rk__compiler_report(o->kernel, shown, "compile")
                       : rk__fail(RK_EDEVICE, "%s does not compile with NVRTC: %s", o->who,
                                  shown->size ? shown->bytes : "it does not say why");
    rk__strbuf_free(&lines);
    return rc;
}

int rk__cuda_compile(rk__cuda_order *o)
{
    int rc = compile(o);
    rc = rc > 0 ? report(o) : rc;
    rk__strbuf_free(&o->log);
    return rc;
}

static int work_order(void *arg)
{
    return rk__cuda_compile(arg);
}

/* ---- the cache ------------------------------------------------------------------------------ */

enum { PARTS_MAX = 4 };
#define PARTS_MAGIC "rkcuda1"

struct parts {
    char magic[8];
    uint64_t count, sizes[PARTS_MAX];
};

static void free_parts(rk__cuda_object *parts, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        free(parts[i].bytes);
        parts[i] = (rk__cuda_object){0};
    }
}

static bool read_parts(FILE *file, rk__cuda_object *parts, uint32_t count)
{
    struct parts head;
    if (!file || fread(&head, sizeof head, 1, file) != 1 ||
        memcmp(head.magic, PARTS_MAGIC, sizeof head.magic) != 0 || head.count != count) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        parts[i].size = head.sizes[i];
        parts[i].bytes = malloc(head.sizes[i] + 1);
        if (!parts[i].bytes || fread(parts[i].bytes, 1, parts[i].size, file) != parts[i].size) {
            return false;
        }
    }
    return true;
}

int rk__cuda_cache_get(const char *cache, rk__hash128 key, rk__cuda_object *parts, uint32_t count)
{
    char folder[PATH_MAX - 64], path[PATH_MAX];
    if (rk__cache_folder(cache, folder, sizeof folder) < 0 ||
        rk__cache_get(folder, key, path, sizeof path) < 0) {
        return RK_ENOENT;
    }
    memset(parts, 0, count * sizeof *parts);
    FILE *file = fopen(path, "re");
    bool whole = read_parts(file, parts, count);
    if (file) {
        fclose(file);
    }
    if (!whole) {
        free_parts(parts, count);
    }
    return whole ? 0 : rk__fail(RK_ENOENT, "%s cannot be read", path);
}

static bool write_parts(FILE *file, const rk__cuda_object *parts, uint32_t count)
{
    struct parts head = {.magic = PARTS_MAGIC, .count = count};
    for (uint32_t i = 0; i < count; i++) {
        head.sizes[i] = parts[i].size;
    }
    bool done = fwrite(&head, sizeof head, 1, file) == 1;
    for (uint32_t i = 0; done && i < count; i++) {
        done = fwrite(parts[i].bytes, 1, parts[i].size, file) == parts[i].size;
    }
    return fclose(file) == 0 && done;
}

/* Into a file beside no other, which the cache then copies. */
static int store_parts(const char *folder, rk__hash128 key, const rk__cuda_object *parts,
                       uint32_t count)
{
    char made[PATH_MAX], path[PATH_MAX];
    const char *temporary = getenv("TMPDIR");
    snprintf(made, sizeof made, "%s/rk-cuda-XXXXXX", temporary && *temporary ? temporary : "/tmp");
    int fd = mkostemp(made, O_CLOEXEC);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!file) {
        return rk__fail_errno(RK_EIO, "cannot write %s", made);
    }
    int rc = write_parts(file, parts, count) ? rk__cache_put(folder, key, made, path, sizeof path)
                                             : rk__fail_errno(RK_EIO, "cannot write %s", made);
    unlink(made);
    return rc;
}

void rk__cuda_cache_put(const char *cache, rk__hash128 key, const rk__cuda_object *parts,
                        uint32_t count)
{
    char folder[PATH_MAX - 64];
    rk_assert(count <= PARTS_MAX);
    if (rk__cache_folder(cache, folder, sizeof folder) == 0 &&
        store_parts(folder, key, parts, count) < 0) {
        rk__log(RK__LOG_WARN, NULL, "%s", rk_errdetail());
    }
}

/* ---- our own texts -------------------------------------------------------------------------- */

/* From the cache, or compiled. gives o->out */
static int build_text(const char *cache, rk__cuda_order *o)
{
    rk__hash128 key;
    int rc = rk__cuda_order_key(o, o->text, &key);
    if (rc < 0 || rk__cuda_cache_get(cache, key, &o->out, 1) == 0) {
        return rc;
    }
    rc = rk__cuda_work(work_order, o);
    if (rc == 0) {
        rk__cuda_cache_put(cache, key, &o->out, 1);
    }
    return rc;
}

int rk__cuda_text_build(const char *cache, const rk__cuda_target *target, const char *what,
                        const char *text, uint32_t registers, rk__cuda_object *out)
{
    rk__cuda_order o = {
        .who = what, .name = what, .text = text, .target = *target, .registers = registers};
    int rc = build_text(cache, &o);
    if (rc == 0) {
        *out = o.out;
    }
    return rc;
}

/* One per target, class and registers; few. */
struct loop {
    rk__cuda_target target;
    unsigned class;
    uint32_t registers;
    rk__cuda_object object;
    struct loop *next;
};

static pthread_mutex_t loops_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop *loops;

static bool same_loop(const struct loop *a, const struct loop *b)
{
    return a->target.arch == b->target.arch && a->target.ptx == b->target.ptx &&
           a->class == b->class && a->registers == b->registers;
}

/* The one that is known; `made`, if any, becomes it when there is none. */
static const struct loop *find_loop(const struct loop *wanted, struct loop *made)
{
    pthread_mutex_lock(&loops_lock);
    struct loop *l = loops;
    while (l && !same_loop(l, wanted)) {
        l = l->next;
    }
    if (!l && made) {
        made->next = loops;
        loops = l = made;
    }
    pthread_mutex_unlock(&loops_lock);
    return l;
}

static int make_loop(const char *cache, struct loop *l)
{
    rk__cuda_order o = {.who = "the resident loop",
                        .name = "resident.cu",
                        .text = embedded("kernels/resident.cu"),
                        .target = l->target,
                        .registers = l->registers};
    snprintf(o.define, sizeof o.define, "-DRK_CLASS=%u", l->class);
    int rc = build_text(cache, &o);
    l->object = o.out;
    return rc;
}

int rk__cuda_loop_build(const char *cache, const rk__cuda_target *target, unsigned class,
                        uint32_t registers, const rk__cuda_object **out)
{
    struct loop wanted = {.target = *target, .class = class, .registers = registers};
    const struct loop *known = find_loop(&wanted, NULL);
    if (known) {
        *out = &known->object;
        return 0;
    }
    struct loop *made = calloc(1, sizeof *made);
    int rc = made ? (*made = wanted, make_loop(cache, made)) : no_memory("the resident loop");
    if (rc < 0) {
        free(made);
        return rc;
    }
    known = find_loop(&wanted, made);
    if (known != made) {
        free(made->object.bytes);
        free(made);
    }
    *out = &known->object;
    return 0;
}
