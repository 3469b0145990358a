/*
 * driver.c -- finding, loading and keeping the NVIDIA libraries; what their results say.
 *
 * A library is looked for by name, where the dynamic linker looks, and then in the folders where a
 * CUDA Toolkit has its libraries. RK_CUDA_LIBS names a folder that is the only place (for tests).
 * Nothing is ever unloaded after it was found whole: driver and compiler have threads of their own.
 *
 * Threads: any; one lock is held while a library is loaded. Order: a table is complete before its
 * pointer is set, and a thread sees it set after it called the loader, under the lock.
 */
#include "device/cuda/driver.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/strbuf.h"

enum { DRIVER_MIN = 12000, NAMES_MAX = 3, FOLDERS_MAX = 3, PATH_SIZE = 1024 };

typedef struct library {
    const char *what;             /* "the CUDA driver" */
    const char *names[NAMES_MAX]; /* best first */
} library;

/* A symbol, where its address goes, and whether the library is of no use without it. */
typedef struct symbol {
    const char *name;
    size_t offset; /* in the table */
    bool required;
} symbol;

/* Guards all that follows, until a library's pointer is set: then its table stays as it is. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static rk__cuda_table cuda;
static rk__nvrtc_table nvrtc;
static rk__nvjitlink_table nvjitlink;
static rk__nvml_table nvml;
static int driver_version;

const rk__cuda_table *rk__cuda;
const rk__nvrtc_table *rk__nvrtc;
const rk__nvjitlink_table *rk__nvjitlink;
const rk__nvml_table *rk__nvml;

/* ---- where to look -------------------------------------------------------------------------- */

/* The folders to look into after the linker's own. */
typedef struct folders {
    char paths[FOLDERS_MAX][PATH_SIZE];
    unsigned count;
    bool only; /* RK_CUDA_LIBS: not by name */
} folders;

static bool has_folder(const folders *f, const char *path)
{
    for (unsigned i = 0; i < f->count; i++) {
        if (strcmp(f->paths[i], path) == 0) {
            return true;
        }
    }
    return false;
}

static void add_folder(folders *f, const char *folder, const char *below)
{
    char path[PATH_SIZE];
    if (folder == NULL || folder[0] == '\0') {
        return;
    }
    int n = snprintf(path, sizeof path, "%s%s", folder, below);
    if (n < PATH_SIZE && !has_folder(f, path)) {
        memcpy(f->paths[f->count++], path, (size_t)n + 1);
    }
}

static void find_folders(folders *f)
{
    const char *only = getenv("RK_CUDA_LIBS");
    f->count = 0;
    f->only = only != NULL && only[0] != '\0';
    if (f->only) {
        add_folder(f, only, "");
        return;
    }
    add_folder(f, "/usr/local/cuda", "/lib64");
    add_folder(f, getenv("CUDA_HOME"), "/lib64");
    add_folder(f, getenv("CUDA_PATH"), "/lib64");
}

/* ---- opening -------------------------------------------------------------------------------- */

/* What dlopen said, for the sentence: a file that is there and broken says more than one that is
 * not there. */
static void remember(char said[PATH_SIZE])
{
    const char *text = dlerror();
    bool absent = text == NULL || strstr(text, "cannot open shared object file") != NULL;
    if (text != NULL && (said[0] == '\0' || !absent)) {
        snprintf(said, PATH_SIZE, "%s", text);
    }
}

static void *open_names(const library *l, const char *folder, char said[PATH_SIZE])
{
    void *handle = NULL;
    for (unsigned i = 0; i < NAMES_MAX && l->names[i] != NULL && handle == NULL; i++) {
        char path[PATH_SIZE + 64];
        snprintf(path, sizeof path, "%s%s%s", folder, folder[0] != '\0' ? "/" : "", l->names[i]);
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (handle == NULL) {
            remember(said);
        }
    }
    return handle;
}

static int not_found(const library *l, const folders *f, const char *said)
{
    rk__strbuf text = RK__STRBUF_INIT;
    rk__strbuf_addf(&text, "cannot load %s: looked for %s", l->what, l->names[0]);
    for (unsigned i = 1; i < NAMES_MAX && l->names[i] != NULL; i++) {
        rk__strbuf_addf(&text, ", %s", l->names[i]);
    }
    rk__strbuf_adds(&text, f->only ? " in " : " where the system has its libraries");
    for (unsigned i = 0; i < f->count; i++) {
        rk__strbuf_addf(&text, "%s%s",
                        f->only            ? ""
                        : i + 1 < f->count ? ", in "
                                           : " and in ",
                        f->paths[i]);
    }
    rk__strbuf_adds(&text, f->only ? " (RK_CUDA_LIBS)" : "");
    int code = text.failed ? rk__fail(RK_ENOMEM, "no memory to say why there is no CUDA")
                           : rk__fail(RK_EDEVICE, "%s; dlopen said: %s", text.bytes, said);
    rk__strbuf_free(&text);
    return code;
}

static int open_library(const library *l, void **out)
{
    char said[PATH_SIZE] = "";
    folders f;
    find_folders(&f);
    *out = f.only ? NULL : open_names(l, "", said);
    for (unsigned i = 0; i < f.count && *out == NULL; i++) {
        *out = open_names(l, f.paths[i], said);
    }
    return *out != NULL ? 0 : not_found(l, &f, said);
}

/* ---- symbols -------------------------------------------------------------------------------- */

static const char *file_of(void *handle)
{
    struct link_map *map = NULL;
    return dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 ? map->l_name : "the file found";
}

static int fill(const library *l, void *handle, const symbol *symbols, unsigned count, void *table)
{
    for (unsigned i = 0; i < count; i++) {
        void *address = dlsym(handle, symbols[i].name);
        if (address == NULL && symbols[i].required) {
            return rk__fail(RK_EDEVICE,
                            "%s (%s) has no function %s: it is too old, or no library of NVIDIA's",
                            l->what, file_of(handle), symbols[i].name);
        }
        memcpy((char *)table + symbols[i].offset, &address, sizeof address);
    }
    return 0;
}

/* Opens a library and fills its table; on failure the library is closed again. */
static int load(const library *l, const symbol *symbols, unsigned count, void *table)
{
    void *handle;
    int code = open_library(l, &handle);
    if (code < 0) {
        return code;
    }
    code = fill(l, handle, symbols, count, table);
    if (code < 0) {
        dlclose(handle);
    }
    return code;
}

#define LENGTH(array)              (unsigned)(sizeof(array) / sizeof *(array))
#define NEED(name, exported, type) {#exported, offsetof(TABLE, name), true},
#define WANT(name, exported, type) {#exported, offsetof(TABLE, name), false},

/* ---- the driver ----------------------------------------------------------------------------- */

#define TABLE rk__cuda_table
static const symbol cuda_symbols[] = {RK__CUDA_REQUIRED(NEED) RK__CUDA_OPTIONAL(WANT)};
#undef TABLE

/* Before cuInit, which reads them, and even before the library is there. Everything of a module is
 * loaded when the module is, because loading on first use waits for kernels that never end; and
 * streams do not share a queue. */
static void prepare_environment(void)
{
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
}

static int fail_with(CUresult result, const char *what)
{
    const char *name = NULL, *text = NULL;
    cuda.GetErrorName(result, &name);
    cuda.GetErrorString(result, &text);
    return name == NULL || text == NULL
               ? rk__fail(RK_EDEVICE, "%s: CUDA error %d", what, (int)result)
               : rk__fail(RK_EDEVICE, "%s: %s (%s)", what, text, name);
}

static int start_cuda(void)
{
    int version = 0;
    CUresult result = cuda.DriverGetVersion(&version);
    if (result != CUDA_SUCCESS) {
        return fail_with(result, "asking the CUDA driver for its version");
    }
    if (version < DRIVER_MIN) {
        return rk__fail(RK_EDEVICE,
                        "the CUDA driver is one for CUDA %d.%d: one for CUDA %d.0 or newer is "
                        "needed",
                        version / 1000, version % 1000 / 10, DRIVER_MIN / 1000);
    }
    result = cuda.Init(0);
    if (result != CUDA_SUCCESS) {
        return fail_with(result, "starting the CUDA driver (cuInit)");
    }
    driver_version = version;
    return 0;
}

static int load_cuda(void)
{
    static const library driver = {"the CUDA driver", {"libcuda.so.1"}};
    static bool filled; /* under lock; cuInit may fail and be tried again */
    prepare_environment();
    int code = filled ? 0 : load(&driver, cuda_symbols, LENGTH(cuda_symbols), &cuda);
    filled = code == 0;
    code = code < 0 ? code : start_cuda();
    rk__cuda = code < 0 ? NULL : &cuda;
    return code;
}

int rk__cuda_load(void)
{
    pthread_mutex_lock(&lock);
    int code = rk__cuda != NULL ? 0 : load_cuda();
    pthread_mutex_unlock(&lock);
    return code;
}

int rk__cuda_driver_version(void)
{
    pthread_mutex_lock(&lock);
    int version = driver_version;
    pthread_mutex_unlock(&lock);
    return version;
}

/* ---- NVRTC and nvJitLink -------------------------------------------------------------------- */

#define TABLE rk__nvrtc_table
static const symbol nvrtc_symbols[] = {RK__NVRTC_REQUIRED(NEED)};
#undef TABLE
#define TABLE rk__nvjitlink_table
static const symbol nvjitlink_symbols[] = {RK__NVJITLINK_REQUIRED(NEED)
                                               RK__NVJITLINK_OPTIONAL(WANT)};
#undef TABLE

/* A driver of CUDA 12 does not load what the compiler of CUDA 13 makes, so with both toolkits
 * installed the older one is the better for it. Both libraries follow this rule, and so fit. */
static bool prefers_12(void)
{
    return driver_version != 0 && driver_version < 13000;
}

static const library nvrtc_library = {"the CUDA compiler NVRTC",
                                      {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"}};
static const library nvrtc_library_12 = {"the CUDA compiler NVRTC",
                                         {"libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so"}};
static const library link_library = {
    "the CUDA linker nvJitLink", {"libnvJitLink.so.13", "libnvJitLink.so.12", "libnvJitLink.so"}};
static const library link_library_12 = {
    "the CUDA linker nvJitLink", {"libnvJitLink.so.12", "libnvJitLink.so.13", "libnvJitLink.so"}};

int rk__nvrtc_load(void)
{
    int code = 0;
    pthread_mutex_lock(&lock);
    if (rk__nvrtc == NULL) {
        code = load(prefers_12() ? &nvrtc_library_12 : &nvrtc_library, nvrtc_symbols,
                    LENGTH(nvrtc_symbols), &nvrtc);
        rk__nvrtc = code < 0 ? NULL : &nvrtc;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

int rk__nvjitlink_load(void)
{
    int code = 0;
    pthread_mutex_lock(&lock);
    if (rk__nvjitlink == NULL) {
        code = load(prefers_12() ? &link_library_12 : &link_library, nvjitlink_symbols,
                    LENGTH(nvjitlink_symbols), &nvjitlink);
        rk__nvjitlink = code < 0 ? NULL : &nvjitlink;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

/* ---- NVML ----------------------------------------------------------------------------------- */

#define TABLE rk__nvml_table
static const symbol nvml_symbols[] = {RK__NVML_REQUIRED(NEED) RK__NVML_OPTIONAL(WANT)};
#undef TABLE

bool rk__nvml_load(void)
{
    static const library management = {"NVML", {"libnvidia-ml.so.1"}};
    static bool tried; /* under lock: what is optional is not looked for twice */
    pthread_mutex_lock(&lock);
    if (!tried && load(&management, nvml_symbols, LENGTH(nvml_symbols), &nvml) == 0 &&
        nvml.Init() == 0) {
        rk__nvml = &nvml;
    }
    tried = true;
    bool there = rk__nvml != NULL;
    pthread_mutex_unlock(&lock);
    return there;
}

/* ---- failures ------------------------------------------------------------------------------- */

enum { WHAT_SIZE = 1024 };

int rk__cuda_fail(CUresult result, const char *what, ...)
{
    char text[WHAT_SIZE];
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(text, sizeof text, what, arguments);
    va_end(arguments);
    return fail_with(result, text);
}

int rk__nvrtc_fail(nvrtcResult result, const char *what, ...)
{
    char text[WHAT_SIZE];
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(text, sizeof text, what, arguments);
    va_end(arguments);
    return rk__fail(RK_EDEVICE, "%s: %s (NVRTC error %d)", text, nvrtc.GetErrorString(result),
                    (int)result);
}

/* nvJitLink has no function for this. By number: older headers have fewer names. */
static const char *link_text(nvJitLinkResult result)
{
    static const char *const texts[] = {"no error",
                                        "unknown option",
                                        "the option -arch is missing",
                                        "invalid input",
                                        "PTX does not compile",
                                        "NVVM does not compile",
                                        "internal error",
                                        "no thread pool",
                                        "unrecognised input",
                                        "finalizer error",
                                        "an input is NULL",
                                        "options that exclude each other",
                                        "input is not of the type that was said",
                                        "input for another architecture",
                                        "the library is older than its input",
                                        "a fat binary is missing",
                                        "unrecognised architecture",
                                        "unsupported architecture",
                                        "link-time optimisation was not enabled"};
    return (unsigned)result < LENGTH(texts) ? texts[result] : "unknown error";
}

int rk__nvjitlink_fail(nvJitLinkResult result, const char *what, ...)
{
    char text[WHAT_SIZE];
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(text, sizeof text, what, arguments);
    va_end(arguments);
    return rk__fail(RK_EDEVICE, "%s: %s (nvJitLink error %d)", text, link_text(result),
                    (int)result);
}
