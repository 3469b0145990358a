/*
 * link.c -- objects of machine code -> an image of machine code, by nvJitLink; no device is needed.
 *
 * Threads: the worker of compile.c; touches only its arguments.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "device/compiler.h"
#include "device/cuda/compile.h"
#include "device/cuda/driver.h"

/* ---- what the linker said ------------------------------------------------------------------- */

/* C++ calls a function f(float) _Z1ff; the name in it is what the user wrote. */
static void add_plain(const char *name, size_t size, rk__strbuf *out)
{
    char *end;
    if (size > 3 && memcmp(name, "_Z", 2) == 0 && isdigit((unsigned char)name[2])) {
        unsigned long length = strtoul(name + 2, &end, 10);
        if (length <= size - (size_t)(end - name)) {
            name = end;
            size = length;
        }
    }
    rk__strbuf_add(out, name, size);
}

/* "Undefined reference to '_Z1ff' in 'x'" becomes a line as GNU ld says it. */
static void rewrite_log(const char *said, rk__strbuf *out)
{
    static const char mark[] = "ndefined reference to ";
    for (const char *at = said; (at = strstr(at, mark)) != NULL;) {
        at += sizeof mark - 1;
        at += *at == '\'' || *at == '`';
        size_t size = strcspn(at, "'\n");
        rk__strbuf_adds(out, "undefined reference to `");
        add_plain(at, size, out);
        rk__strbuf_adds(out, "'\n");
    }
}

/* Of one definition it is the user's fault; of an image, where each was tried before, ours. */
static int report(const rk__kernel *kernel, nvJitLinkResult result, const char *said)
{
    rk__strbuf lines = RK__STRBUF_INIT;
    rewrite_log(said, &lines);
    int rc = RK_EDEVICE;
    if (lines.size && kernel) {
        rc = rk__compiler_report(kernel, &lines, "link");
    } else if (kernel) {
        rk__nvjitlink_fail(result, "linking kernel \"%s\" (%s)", kernel->base.name, said);
    } else if (lines.size) {
        rc = rk__fail(RK_ECOMPILE, "the kernels of an image do not link:\n%s", lines.bytes);
    } else {
        rk__nvjitlink_fail(result, "linking an image (%s)", said);
    }
    rk__strbuf_free(&lines);
    return rc;
}

/* ---- nvJitLink; on the worker --------------------------------------------------------------- */

static int report_link(const rk__kernel *kernel, nvJitLinkHandle link, nvJitLinkResult result)
{
    size_t size = 0;
    char *log = NULL;
    if (rk__nvjitlink->GetErrorLogSize(link, &size) == NVJITLINK_SUCCESS && size) {
        log = calloc(1, size + 1);
    }
    if (log && rk__nvjitlink->GetErrorLog(link, log) != NVJITLINK_SUCCESS) {
        *log = '\0';
    }
    int rc = report(kernel, result, log && *log ? log : "it does not say why");
    free(log);
    return rc;
}

static nvJitLinkResult take_image(nvJitLinkHandle link, rk__cuda_object *out)
{
    nvJitLinkResult result = rk__nvjitlink->GetLinkedCubinSize(link, &out->size);
    if (result != NVJITLINK_SUCCESS) {
        return result;
    }
    out->bytes = malloc(out->size + 1);
    result =
        out->bytes ? rk__nvjitlink->GetLinkedCubin(link, out->bytes) : NVJITLINK_ERROR_INTERNAL;
    if (result != NVJITLINK_SUCCESS) {
        free(out->bytes);
        *out = (rk__cuda_object){0};
    }
    return result;
}

int rk__cuda_link(int arch, const rk__kernel *kernel, const rk__cuda_input *inputs, size_t count,
                  rk__cuda_object *out)
{
    char option[32];
    const char *const options[] = {option};
    nvJitLinkHandle link;
    int rc = rk__nvjitlink_load();
    if (rc < 0) {
        return rc;
    }
    snprintf(option, sizeof option, "-arch=sm_%d", arch);
    nvJitLinkResult result = rk__nvjitlink->Create(&link, 1, options);
    if (result != NVJITLINK_SUCCESS) {
        return rk__nvjitlink_fail(result, "beginning to link for sm_%d", arch);
    }
    for (size_t i = 0; result == NVJITLINK_SUCCESS && i < count; i++) {
        result = rk__nvjitlink->AddData(link, NVJITLINK_INPUT_CUBIN, inputs[i].object->bytes,
                                        inputs[i].object->size, inputs[i].name);
    }
    result = result == NVJITLINK_SUCCESS ? rk__nvjitlink->Complete(link) : result;
    result = result == NVJITLINK_SUCCESS ? take_image(link, out) : result;
    rc = result == NVJITLINK_SUCCESS ? 0 : report_link(kernel, link, result);
    rk__nvjitlink->Destroy(&link);
    return rc;
}
