/*
 * module.c -- modules: an image is a shared object that is written to a temporary file, opened and
 * forgotten; and the driver's own linker, which is nvJitLink's.
 *
 * Threads: any. The lock is released while the linker and the loader work.
 */
#include "driver.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUTS_MAX = 1024 };

typedef struct CUlinkState_st {
    fc_object object;
    fc_blob inputs[INPUTS_MAX];
    char *names[INPUTS_MAX];
    size_t count;
    fc_blob image;
    /* The options of cuLinkCreate; they belong to the caller and live as long as the link. */
    unsigned option_count;
    CUjit_option *options;
    void **values;
} fc_link_state;

/* The driver looks when it starts. */
static bool lazy_at_start;

__attribute__((constructor)) static void begin(void)
{
    const char *mode = getenv("CUDA_MODULE_LOADING");
    lazy_at_start = mode == NULL || strcmp(mode, "EAGER") != 0;
}

bool fc_lazy(void)
{
    return lazy_at_start || fc_fault(FC_lazy);
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *out)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_INIT, -1, NULL);
    if (result == CUDA_SUCCESS) {
        *out = fc_lazy() ? CU_MODULE_LAZY_LOADING : CU_MODULE_EAGER_LOADING;
        return fc_leave(CUDA_SUCCESS);
    }
    return result;
}

/* ---- the log that options ask for ---- */

static void tell(unsigned count, const CUjit_option *options, void **values, const char *text)
{
    char *buffer = NULL;
    size_t size = 0;
    for (unsigned i = 0; i < count; i++) {
        if (options[i] == CU_JIT_ERROR_LOG_BUFFER) {
            buffer = values[i];
        } else if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) {
            size = (size_t)(uintptr_t)values[i];
        }
    }
    if (buffer != NULL && size > 0) {
        snprintf(buffer, size, "%s", text != NULL ? text : "");
    }
}

/* ---- loading ---- */

/* Without the lock. */
static void *open_image(const fc_blob *image, fc_blob *log)
{
    char path[4096];
    void *handle = NULL;
    char *folder = fc_folder_make();
    if (folder == NULL || fc_file_write(folder, "image.so", image->data, image->size) != 0) {
        fc_print(log, "error   : a temporary file cannot be written\n");
    } else {
        snprintf(path, sizeof path, "%s/image.so", folder);
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (handle == NULL) {
            fc_print(log, "error   : %s\n", dlerror());
        }
    }
    fc_folder_remove(folder);
    return handle;
}

/* Without the lock. An object file is what the driver would compile: it is linked first. */
static CUresult load(fc_module *m, const void *data, long cc, fc_blob *log)
{
    static const char *const names[] = {"image"};
    fc_blob given = {(char *)data, fc_elf_size(data)}, linked = {0};
    char arch[32];
    if (given.size == 0) {
        return CUDA_ERROR_INVALID_IMAGE;
    }
    if (!fc_fits(data, given.size, cc)) {
        return CUDA_ERROR_NO_BINARY_FOR_GPU;
    }
    if (fc_elf_is_object(data)) {
        snprintf(arch, sizeof arch, "sm_%ld", cc);
        if (fc_fault(FC_link_fail) || fc_link(&given, names, 1, arch, &linked, log) != 0) {
            return CUDA_ERROR_INVALID_PTX;
        }
        given = linked;
    }
    m->handle = open_image(&given, log);
    free(linked.data);
    if (m->handle == NULL) {
        return CUDA_ERROR_SHARED_OBJECT_INIT_FAILED;
    }
    const struct standin_calls **calls = dlsym(m->handle, "standin_calls");
    if (calls == NULL) {
        dlclose(m->handle);
        return CUDA_ERROR_INVALID_IMAGE;
    }
    *calls = &fc_standin_calls;
    return CUDA_SUCCESS;
}

/* The fault `load_blocks`: so many milliseconds, or until it is reset. */
static void wait_for_load(void)
{
    long ms = fc_fault(FC_load_blocks);
    long long until = fc_now() + ms * 1000000ll;
    while (fc_fault(FC_load_blocks) < 0) {
        fc_wait();
    }
    while (ms > 0 && fc_fault(FC_load_blocks) != 0 && fc_now() < until) {
        fc_wait_until(until);
    }
}

CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned count, CUjit_option *options,
                            void **values)
{
    fc_context *c;
    fc_blob log = {0};
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    wait_for_load();
    if (fc_fault(FC_load_fail)) {
        tell(count, options, values, "error   : the stand-in was told to fail");
        return fc_leave((CUresult)fc_fault(FC_load_fail));
    }
    fc_module *m = out != NULL ? calloc(1, sizeof *m) : NULL;
    if (m == NULL) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    fc_unlock();
    result = load(m, image, fc_fault(FC_cc), &log);
    fc_lock();
    tell(count, options, values, log.data);
    free(log.data);
    if (result != CUDA_SUCCESS) {
        free(m);
        return fc_leave(result);
    }
    fc_object_add(&m->object, FC_MODULE, c);
    *out = m;
    return fc_leave(CUDA_SUCCESS);
}

static void module_free(fc_module *m)
{
    for (fc_object *o = fc_objects(), *next; o != NULL; o = next) {
        next = o->next;
        if (o->kind == FC_FUNCTION && ((fc_function *)o)->module == m) {
            fc_object_remove(o);
            free(o);
        }
    }
    fc_memory_forget_module(m);
    fc_object_remove(&m->object);
    dlclose(m->handle);
    free(m);
}

void fc_modules_free(fc_context *context)
{
    for (fc_module *m; (m = fc_object_any(context, FC_MODULE)) != NULL;) {
        module_free(m);
    }
}

CUresult cuModuleUnload(CUmodule module)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_module *m = fc_object_find(module, FC_MODULE);
    if (m == NULL) {
        fc_misuse("cuModuleUnload: no such module");
        return fc_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    module_free(m);
    return fc_leave(CUDA_SUCCESS);
}

/* ---- symbols ---- */

/* A symbol that the image itself defines: dlsym also finds those of the libraries behind it. */
static void *find_symbol(const fc_module *m, const char *name, int type, size_t *size)
{
    struct link_map *own = NULL;
    Dl_info info;
    ElfW(Sym) *symbol = NULL;
    void *at = dlsym(m->handle, name);
    if (at == NULL || dlinfo(m->handle, RTLD_DI_LINKMAP, &own) != 0 ||
        dladdr1(at, &info, (void **)&symbol, RTLD_DL_SYMENT) == 0 || symbol == NULL) {
        return NULL;
    }
    if ((ElfW(Addr))(uintptr_t)info.dli_fbase != own->l_addr ||
        ELF64_ST_TYPE(symbol->st_info) != type) {
        return NULL;
    }
    *size = symbol->st_size;
    return at;
}

CUresult cuModuleGetFunction(CUfunction *out, CUmodule module, const char *name)
{
    size_t size;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_module *m = fc_object_find(module, FC_MODULE);
    if (m == NULL || out == NULL || name == NULL) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    void *entry = find_symbol(m, name, STT_FUNC, &size);
    if (entry == NULL) {
        return fc_leave(CUDA_ERROR_NOT_FOUND);
    }
    fc_function *f = calloc(1, sizeof *f);
    if (f == NULL) {
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    fc_object_add(&f->object, FC_FUNCTION, m->object.context);
    f->module = m;
    f->entry = (void (*)(void *))entry;
    f->shared_max = FC_SHARED_PLAIN;
    *out = f;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuModuleGetGlobal(CUdeviceptr *out, size_t *size, CUmodule module, const char *name)
{
    size_t bytes = 0;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_module *m = fc_object_find(module, FC_MODULE);
    if (m == NULL || name == NULL) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    void *at = find_symbol(m, name, STT_OBJECT, &bytes);
    if (at == NULL) {
        return fc_leave(CUDA_ERROR_NOT_FOUND);
    }
    if (out != NULL) {
        *out = (CUdeviceptr)(uintptr_t)at;
    }
    if (size != NULL) {
        *size = bytes;
    }
    return fc_leave(fc_memory_of_module(m, at, bytes));
}

/* ---- functions ---- */

static CUresult enter_function(const char *name, CUfunction function, fc_function **out)
{
    CUresult result = fc_enter(name, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    *out = fc_object_find(function, FC_FUNCTION);
    return *out != NULL ? CUDA_SUCCESS : fc_leave(CUDA_ERROR_INVALID_HANDLE);
}

CUresult cuFuncLoad(CUfunction function)
{
    fc_function *f;
    CUresult result = enter_function(__func__, function, &f);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    f->loaded = true;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuFuncGetAttribute(int *out, CUfunction_attribute name, CUfunction function)
{
    fc_function *f;
    CUresult result = enter_function(__func__, function, &f);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    switch ((int)name) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *out = FC_THREADS_PER_BLOCK;
        break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *out = 32;
        break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *out = (int)fc_fault(FC_cc);
        break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *out = f->shared_max;
        break;
    default:
        *out = 0;
        break;
    }
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute name, int value)
{
    fc_function *f;
    CUresult result = enter_function(__func__, function, &f);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (name == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (value < 0 || value > FC_SHARED_OPTIN) {
            return fc_leave(CUDA_ERROR_INVALID_VALUE);
        }
        f->shared_max = value;
    } else if (name != CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    return fc_leave(CUDA_SUCCESS);
}

/* ---- the driver's linker ---- */

static void link_free(fc_link_state *l)
{
    for (size_t i = 0; i < l->count; i++) {
        free(l->inputs[i].data);
        free(l->names[i]);
    }
    free(l->image.data);
    fc_object_remove(&l->object);
    free(l);
}

void fc_links_free(fc_context *context)
{
    for (fc_link_state *l; (l = fc_object_any(context, FC_LINK)) != NULL;) {
        link_free(l);
    }
}

static CUresult enter_link(const char *name, CUlinkState state, fc_link_state **out)
{
    CUresult result = fc_enter(name, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    *out = fc_object_find(state, FC_LINK);
    return *out != NULL ? CUDA_SUCCESS : fc_leave(CUDA_ERROR_INVALID_HANDLE);
}

CUresult cuLinkCreate(unsigned count, CUjit_option *options, void **values, CUlinkState *out)
{
    fc_context *c;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_link_state *l = calloc(1, sizeof *l);
    if (l == NULL) {
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    fc_object_add(&l->object, FC_LINK, c);
    l->option_count = count;
    l->options = options;
    l->values = values;
    *out = l;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t size,
                       const char *name, unsigned count, CUjit_option *options, void **values)
{
    fc_link_state *l;
    (void)count, (void)options, (void)values;
    CUresult result = enter_link(__func__, state, &l);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if ((type != CU_JIT_INPUT_CUBIN && type != CU_JIT_INPUT_PTX) || l->count == INPUTS_MAX) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (size < 64 || fc_elf_size(data) == 0 || fc_elf_size(data) > size ||
        !fc_elf_is_object(data)) {
        tell(l->option_count, l->options, l->values, "error   : the input is no object");
        return fc_leave(type == CU_JIT_INPUT_PTX ? CUDA_ERROR_INVALID_PTX
                                                 : CUDA_ERROR_INVALID_IMAGE);
    }
    if (!fc_fits(data, size, fc_fault(FC_cc))) {
        return fc_leave(CUDA_ERROR_NO_BINARY_FOR_GPU);
    }
    fc_blob copy = {malloc(size), size};
    if (copy.data == NULL) {
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    memcpy(copy.data, data, size);
    l->names[l->count] = strdup(name != NULL ? name : "<unknown>");
    l->inputs[l->count++] = copy;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuLinkComplete(CUlinkState state, void **out, size_t *size)
{
    fc_link_state *l;
    fc_blob log = {0};
    char arch[32];
    int failed = 1;
    CUresult result = enter_link(__func__, state, &l);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    snprintf(arch, sizeof arch, "sm_%ld", fc_fault(FC_cc));
    if (fc_fault(FC_link_fail)) {
        fc_print(&log, "error   : the stand-in was told to fail\n");
    } else {
        free(l->image.data);
        fc_unlock();
        failed = fc_link(l->inputs, (const char *const *)l->names, l->count, arch, &l->image, &log);
        fc_lock();
    }
    tell(l->option_count, l->options, l->values, log.data);
    free(log.data);
    if (failed) {
        return fc_leave(CUDA_ERROR_UNKNOWN); /* what the driver says of an undefined symbol */
    }
    *out = l->image.data;
    *size = l->image.size;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuLinkDestroy(CUlinkState state)
{
    fc_link_state *l;
    CUresult result = enter_link(__func__, state, &l);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    link_free(l);
    return fc_leave(CUDA_SUCCESS);
}
