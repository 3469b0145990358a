/*
 * image.h -- several definitions and the resident loop, linked into one image that a GPU loads.
 */
#ifndef RK_DEVICE_CUDA_IMAGE_H
#define RK_DEVICE_CUDA_IMAGE_H

#include "device/cuda/compile.h"
#include "device/cuda/driver.h"

enum { RK__CUDA_CLASSES = 4 };

/* Definitions that run in blocks of one size. The i-th class of an image is kernel rk_resident_i. */
typedef struct rk__cuda_class {
    uint32_t threads;                 /* of a block */
    const rk__module *const *modules; /* of rk__cuda_module_build for these threads. borrows */
    const uint32_t *numbers;          /* rk_block.definition of each; unique in the class */
    size_t count;
} rk__cuda_class;

/* A part of an image that only the driver can link: PTX. */
typedef struct rk__cuda_part {
    char name[RK__CUDA_NAME];
    rk__cuda_object object;
    uint32_t registers;
} rk__cuda_part;

typedef struct rk__cuda_image {
    void *bytes; /* for cuModuleLoadDataEx; NULL: see parts */
    size_t size;
    rk__cuda_part *parts;
    size_t part_count;
    rk__hash128 key; /* of everything in it */
} rk__cuda_image;

/* Links, or finds in the cache. No classes: an image with an empty rk_resident_0. target->ptx: the
 * image has parts instead of bytes. cache: as rk__cache_folder takes it. RK_EINVAL: more than
 * RK__CUDA_CLASSES, a number twice; RK_ECOMPILE names what is missing; RK_EDEVICE, RK_ENOMEM.
 * gives: rk__cuda_image_free. thread: any. blocks: yes */
int rk__cuda_image_link(const char *cache, const rk__cuda_target *target,
                        const rk__cuda_class *classes, size_t class_count, rk__cuda_image *out);
void rk__cuda_image_free(rk__cuda_image *image); /* of zeroes: nothing */

/* Links the parts with the driver's own compiler, for the current context, and loads the result.
 * gives (cuModuleUnload). RK_EDEVICE with the driver's log. thread: the one with the context, while
 * no kernel runs. blocks: yes */
int rk__cuda_image_load_parts(const rk__cuda_image *image, CUmodule *out);

#endif
