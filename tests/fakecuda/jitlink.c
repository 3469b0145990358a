/*
 * jitlink.c -- the stand-in's nvJitLink: object files in, a shared object out.
 *
 * Threads: any, as with nvJitLink; a link belongs to the thread that works on it. The real library
 * exports each function twice, plain and with the version of its header (JITLINK_VERSION, "_13_0");
 * so does this one.
 */
#define NVJITLINK_NO_INLINE

#include "fakecuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What this header declares is exported. */
#pragma GCC visibility push(default)
#include <nvJitLink.h>

#define JOIN_(a, b, c)  a##b##c
#define JOIN(a, b, c)   JOIN_(a, b, c)
#define VERSIONED(name) JOIN(__nvJitLink, name, JITLINK_VERSION)
/* Declares the plain name, and makes it another name of the versioned one. */
#define PLAIN(name)                                                                                \
    extern __typeof__(VERSIONED(name)) nvJitLink##name;                                            \
    __typeof__(VERSIONED(name)) nvJitLink##name __attribute__((alias(TEXT(VERSIONED(name)))))
#define TEXT_(text) #text
#define TEXT(text)  TEXT_(text)

enum { INPUTS_MAX = 1024 };

struct nvJitLink {
    char arch[32];
    fc_blob inputs[INPUTS_MAX];
    char *names[INPUTS_MAX];
    size_t count;
    fc_blob image, log;
};

static int number_of(const char *arch)
{
    int number = 0;
    if (sscanf(arch, "sm_%d", &number) != 1) {
        sscanf(arch, "compute_%d", &number);
    }
    return number;
}

nvJitLinkResult VERSIONED(Create)(nvJitLinkHandle *out, uint32_t count, const char *const *options)
{
    nvJitLinkResult result = NVJITLINK_SUCCESS;
    struct nvJitLink *link = calloc(1, sizeof *link);
    if (out == NULL || link == NULL) {
        free(link);
        return NVJITLINK_ERROR_INVALID_INPUT;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (strncmp(options[i], "-arch=", 6) == 0) {
            snprintf(link->arch, sizeof link->arch, "%s", options[i] + 6);
        } else if (options[i][0] != '-') {
            result = NVJITLINK_ERROR_UNRECOGNIZED_OPTION;
        }
    }
    if (result == NVJITLINK_SUCCESS && link->arch[0] == '\0') {
        result = NVJITLINK_ERROR_MISSING_ARCH;
    } else if (result == NVJITLINK_SUCCESS && number_of(link->arch) == 0) {
        result = NVJITLINK_ERROR_UNRECOGNIZED_ARCH;
    }
    if (result != NVJITLINK_SUCCESS) {
        free(link);
        return result;
    }
    fc_print(&link->log, "%s", "");
    *out = link;
    return NVJITLINK_SUCCESS;
}
PLAIN(Create);

nvJitLinkResult VERSIONED(Destroy)(nvJitLinkHandle *handle)
{
    if (handle == NULL || *handle == NULL) {
        return NVJITLINK_ERROR_INVALID_INPUT;
    }
    struct nvJitLink *link = *handle;
    for (size_t i = 0; i < link->count; i++) {
        free(link->inputs[i].data);
        free(link->names[i]);
    }
    free(link->image.data);
    free(link->log.data);
    free(link);
    *handle = NULL;
    return NVJITLINK_SUCCESS;
}
PLAIN(Destroy);

nvJitLinkResult VERSIONED(AddData)(nvJitLinkHandle link, nvJitLinkInputType type, const void *data,
                                   size_t size, const char *name)
{
    if (link == NULL || data == NULL || link->count == INPUTS_MAX) {
        return data == NULL ? NVJITLINK_ERROR_NULL_INPUT : NVJITLINK_ERROR_INVALID_INPUT;
    }
    if (type != NVJITLINK_INPUT_CUBIN && type != NVJITLINK_INPUT_PTX &&
        type != NVJITLINK_INPUT_ANY) {
        return NVJITLINK_ERROR_INCORRECT_INPUT_TYPE;
    }
    if (size < 64 || fc_elf_size(data) > size || fc_elf_size(data) == 0) {
        fc_print(&link->log, "error   : input '%s' is no object\n", name ? name : "<unknown>");
        return NVJITLINK_ERROR_UNRECOGNIZED_INPUT;
    }
    if (!fc_elf_is_object(data)) {
        return NVJITLINK_ERROR_INVALID_INPUT;
    }
    if (!fc_fits(data, size, number_of(link->arch))) {
        fc_print(&link->log, "error   : '%s' was not compiled for %s\n", name ? name : "<unknown>",
                 link->arch);
        return NVJITLINK_ERROR_ARCH_MISMATCH;
    }
    fc_blob copy = {malloc(size), size};
    if (copy.data == NULL) {
        return NVJITLINK_ERROR_INTERNAL;
    }
    memcpy(copy.data, data, size);
    link->names[link->count] = strdup(name != NULL ? name : "<unknown>");
    link->inputs[link->count++] = copy;
    return NVJITLINK_SUCCESS;
}
PLAIN(AddData);

nvJitLinkResult VERSIONED(Complete)(nvJitLinkHandle link)
{
    fc_noted("nvJitLinkComplete");
    if (link == NULL || link->image.data != NULL) {
        return NVJITLINK_ERROR_INVALID_INPUT;
    }
    if (fc_fault(FC_link_fail)) {
        fc_print(&link->log, "error   : the stand-in was told to fail\n");
        return NVJITLINK_ERROR_FINALIZE;
    }
    free(link->log.data);
    link->log = (fc_blob){0};
    if (fc_link(link->inputs, (const char *const *)link->names, link->count, link->arch,
                &link->image, &link->log) != 0) {
        return NVJITLINK_ERROR_FINALIZE;
    }
    return NVJITLINK_SUCCESS;
}
PLAIN(Complete);

nvJitLinkResult VERSIONED(GetLinkedCubinSize)(nvJitLinkHandle link, size_t *size)
{
    if (link == NULL || size == NULL || link->image.data == NULL) {
        return NVJITLINK_ERROR_INVALID_INPUT;
    }
    *size = link->image.size;
    return NVJITLINK_SUCCESS;
}
PLAIN(GetLinkedCubinSize);

nvJitLinkResult VERSIONED(GetLinkedCubin)(nvJitLinkHandle link, void *out)
{
    if (link == NULL || out == NULL || link->image.data == NULL) {
        return NVJITLINK_ERROR_INVALID_INPUT;
    }
    memcpy(out, link->image.data, link->image.size);
    return NVJITLINK_SUCCESS;
}
PLAIN(GetLinkedCubin);

nvJitLinkResult VERSIONED(GetErrorLogSize)(nvJitLinkHandle link, size_t *size)
{
    if (link == NULL || size == NULL) {
        return NVJITLINK_ERROR_INVALID_INPUT;
    }
    *size = link->log.size + 1;
    return NVJITLINK_SUCCESS;
}
PLAIN(GetErrorLogSize);

nvJitLinkResult VERSIONED(GetErrorLog)(nvJitLinkHandle link, char *out)
{
    if (link == NULL || out == NULL) {
        return NVJITLINK_ERROR_INVALID_INPUT;
    }
    memcpy(out, link->log.data != NULL ? link->log.data : "", link->log.size + 1);
    return NVJITLINK_SUCCESS;
}
PLAIN(GetErrorLog);

nvJitLinkResult nvJitLinkVersion(unsigned *major, unsigned *minor)
{
    if (major == NULL || minor == NULL) {
        return NVJITLINK_ERROR_INVALID_INPUT;
    }
    *major = 13;
    *minor = 0;
    return NVJITLINK_SUCCESS;
}
