/*
 * memory.c -- the stand-in's device memory and pinned host memory.
 *
 * Threads: any. Device addresses come from a range of their own and are never given out twice, with a
 * hole behind every block, and freed memory is unmapped: a use after free or past the end faults. New
 * memory is not zero. (Host code that touches device memory is not found: the threads of a kernel
 * live in the same address space.)
 */
#include "driver.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Where mappings are possible: ThreadSanitizer leaves the process its low and its highest part,
 * AddressSanitizer has its shadow low. */
#if defined(__SANITIZE_THREAD__)
#define DEVICE_BASE UINT64_C(0x2000000000)
#else
#define DEVICE_BASE UINT64_C(0x300000000000)
#endif

enum {
    GRANULE = 2 << 20,
    FILL = 0xa5,
    FILL_MAX = 64 << 20 /* bytes at the start of a block that are filled; the rest is zero */
};

static uint64_t next_device = DEVICE_BASE;
static const size_t device_total = (size_t)8 << 30;

static size_t used(enum fc_where where, CUdevice device)
{
    size_t sum = 0;
    for (fc_object *o = fc_objects(); o != NULL; o = o->next) {
        const fc_memory *m = (const fc_memory *)o;
        if (o->kind == FC_MEMORY && m->where == where &&
            (where == FC_ON_HOST || o->context->device == device)) {
            sum += m->size;
        }
    }
    return sum;
}

static size_t device_limit(void)
{
    size_t limit = (size_t)fc_fault(FC_oom_device);
    return limit != 0 && limit < device_total ? limit : device_total;
}

/* ---- blocks ---- */

static void *map(enum fc_where where, size_t size)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (where == FC_ON_HOST) {
        return mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
    }
    void *at = (void *)(uintptr_t)next_device;
    next_device += size + GRANULE;
    return mmap(at, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE, -1, 0);
}

static fc_memory *allocate(fc_context *c, enum fc_where where, size_t size)
{
    fc_memory *m = calloc(1, sizeof *m);
    if (m == NULL) {
        return NULL;
    }
    m->where = where;
    m->size = size;
    m->mapped = (size + GRANULE - 1) / GRANULE * GRANULE;
    m->base = map(where, m->mapped);
    if (m->base == MAP_FAILED) {
        free(m);
        return NULL;
    }
    memset(m->base, FILL, size < FILL_MAX ? size : FILL_MAX);
    fc_object_add(&m->object, FC_MEMORY, c);
    return m;
}

static void release(fc_memory *m)
{
    if (m->where != FC_IN_MODULE) {
        munmap(m->base, m->mapped);
    }
    fc_object_remove(&m->object);
    free(m);
}

static fc_memory *starting_at(const void *base, enum fc_where where)
{
    for (fc_object *o = fc_objects(); o != NULL; o = o->next) {
        fc_memory *m = (fc_memory *)o;
        if (o->kind == FC_MEMORY && m->where == where && m->base == base) {
            return m;
        }
    }
    return NULL;
}

void fc_memory_free_all(fc_context *context)
{
    for (fc_memory *m; (m = fc_object_any(context, FC_MEMORY)) != NULL;) {
        release(m);
    }
}

CUresult fc_memory_of_module(fc_module *module, void *base, size_t size)
{
    if (starting_at(base, FC_IN_MODULE) != NULL) {
        return CUDA_SUCCESS;
    }
    fc_memory *m = calloc(1, sizeof *m);
    if (m == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *m = (fc_memory){.where = FC_IN_MODULE, .base = base, .size = size, .module = module};
    fc_object_add(&m->object, FC_MEMORY, module->object.context);
    return CUDA_SUCCESS;
}

void fc_memory_forget_module(fc_module *module)
{
    for (fc_object *o = fc_objects(), *next; o != NULL; o = next) {
        fc_memory *m = (fc_memory *)o;
        next = o->next;
        if (o->kind == FC_MEMORY && m->where == FC_IN_MODULE && m->module == module) {
            release(m);
        }
    }
}

/* ---- ranges ---- */

static bool is_inside(const void *base, size_t size, bool pinned)
{
    for (fc_object *o = fc_objects(); o != NULL; o = o->next) {
        const fc_memory *m = (const fc_memory *)o;
        const char *from = base;
        if (o->kind == FC_MEMORY && (m->where == FC_ON_HOST) == pinned && from >= m->base &&
            from - m->base <= (ptrdiff_t)m->size && size <= m->size - (size_t)(from - m->base)) {
            return true;
        }
    }
    return false;
}

bool fc_is_device(const char *name, const void *base, size_t size)
{
    if (!is_inside(base, size, false)) {
        fc_misuse("%s: %zu bytes at %p are not in one block of device memory", name, size, base);
        return false;
    }
    return true;
}

bool fc_is_pinned(const char *name, const void *base, size_t size)
{
    if (!is_inside(base, size, true)) {
        fc_misuse("%s: %zu bytes at %p are not in one block of pinned memory", name, size, base);
        return false;
    }
    return true;
}

bool fc_is_reachable(const char *name, const void *base, size_t size)
{
    return is_inside(base, size, true) || fc_is_device(name, base, size);
}

/* ---- device memory ---- */

CUresult cuMemAlloc(CUdeviceptr *out, size_t size)
{
    fc_context *c;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (out == NULL || size == 0) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    size_t taken = used(FC_ON_DEVICE, c->device), limit = device_limit();
    if (taken > limit || size > limit - taken) {
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    fc_memory *m = allocate(c, FC_ON_DEVICE, size);
    if (m == NULL) {
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    *out = (CUdeviceptr)(uintptr_t)m->base;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuMemFree(CUdeviceptr address)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_memory *m = starting_at((void *)(uintptr_t)address, FC_ON_DEVICE);
    if (m == NULL) {
        fc_misuse("cuMemFree_v2: %#llx is no block of device memory", (unsigned long long)address);
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    release(m);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuMemGetInfo(size_t *left, size_t *total)
{
    fc_context *c;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    size_t taken = used(FC_ON_DEVICE, c->device), limit = device_limit();
    *total = device_total;
    *left = taken < limit ? limit - taken : 0;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuMemGetHandleForAddressRange(void *handle, CUdeviceptr address, size_t size,
                                       CUmemRangeHandleType type, unsigned long long flags)
{
    (void)handle, (void)address, (void)size, (void)type, (void)flags;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    return result != CUDA_SUCCESS ? result : fc_leave(CUDA_ERROR_NOT_SUPPORTED);
}

/* ---- pinned memory ---- */

CUresult cuMemHostAlloc(void **out, size_t size, unsigned flags)
{
    fc_context *c;
    const unsigned known =
        CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, &c);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (out == NULL || size == 0 || (flags & ~known) != 0) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    size_t limit = (size_t)fc_fault(FC_oom_host), taken = used(FC_ON_HOST, 0);
    if (limit != 0 && (taken > limit || size > limit - taken)) {
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    fc_memory *m = allocate(c, FC_ON_HOST, size);
    if (m == NULL) {
        return fc_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    *out = m->base;
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuMemFreeHost(void *base)
{
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    fc_memory *m = starting_at(base, FC_ON_HOST);
    if (m == NULL) {
        fc_misuse("cuMemFreeHost: %p is no block of pinned memory", base);
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    release(m);
    return fc_leave(CUDA_SUCCESS);
}

/* ---- copies that wait ---- */

CUresult cuMemsetD8(CUdeviceptr address, unsigned char value, size_t size)
{
    void *to = (void *)(uintptr_t)address;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!fc_is_device("cuMemsetD8_v2", to, size)) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    memset(to, value, size);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuMemcpyHtoD(CUdeviceptr address, const void *from, size_t size)
{
    void *to = (void *)(uintptr_t)address;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!fc_is_device("cuMemcpyHtoD_v2", to, size)) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    memcpy(to, from, size);
    return fc_leave(CUDA_SUCCESS);
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr address, size_t size)
{
    const void *from = (const void *)(uintptr_t)address;
    CUresult result = fc_enter(__func__, FC_NEEDS_ALIVE, -1, NULL);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!fc_is_device("cuMemcpyDtoH_v2", from, size)) {
        return fc_leave(CUDA_ERROR_INVALID_VALUE);
    }
    memcpy(to, from, size);
    return fc_leave(CUDA_SUCCESS);
}
