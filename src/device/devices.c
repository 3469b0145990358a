/*
 * devices.c -- rk_devices: the cpu, and what the CUDA back end finds when it was built.
 *
 * Threads: any; nothing is shared, so there is no ordering to keep.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "base/error.h"
#include "base/topology.h"
#include "rk.h"
#ifdef RK_HAVE_CUDA
#include "device/cuda/probe.h"
#endif

const char *rk_mode_name(enum rk_mode mode)
{
    static const char *const names[RK_MODES] = {"persistent", "bounded", "batch"};
    return (unsigned)mode < RK_MODES ? names[mode] : "?";
}

/* ---- the cpu -------------------------------------------------------------------------------- */

/* The value of a line "model name : VALUE" of /proc/cpuinfo; false: there is no such line. */
static bool read_model(char *name, size_t size)
{
    char line[512];
    bool found = false;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && value != NULL) {
            value += 1 + strspn(value + 1, " \t");
            snprintf(name, size, "%.*s", (int)strcspn(value, "\n"), value);
            found = name[0] != '\0';
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

/* Not every architecture's kernel tells a model. */
static void name_cpu(char *name, size_t size)
{
    struct utsname system;
    if (!read_model(name, size)) {
        snprintf(name, size, "%s", uname(&system) == 0 ? system.machine : "cpu");
    }
}

static void describe_cpu(rk_device *d)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    memset(d, 0, sizeof *d);
    snprintf(d->id, sizeof d->id, "cpu");
    name_cpu(d->name, sizeof d->name);
    d->memory = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    d->processors = rk__cpu_count();
    d->warp = 1;
    d->numa_node = -1;
    d->host_atomics = true;
    for (int mode = RK_MODE_BOUNDED; mode < RK_MODES; mode++) {
        snprintf(d->refused[mode], sizeof d->refused[mode],
                 "mode \"%s\" is for GPUs: on the cpu device kernels are always \"persistent\" and "
                 "cost nothing while idle",
                 rk_mode_name((enum rk_mode)mode));
    }
}

/* ---- CUDA devices --------------------------------------------------------------------------- */

/* Makes an array of the facts of all CUDA devices. gives (free). RK_EDEVICE says why none. */
static int find_cuda(rk_device **list, size_t *count);

#ifdef RK_HAVE_CUDA
static int find_cuda(rk_device **list, size_t *count)
{
    rk__cuda_device *found;
    int code = rk__cuda_probe(&found, count);
    if (code < 0) {
        return code;
    }
    rk_device *facts = malloc(*count * sizeof *facts);
    for (size_t i = 0; i < *count && facts != NULL; i++) {
        facts[i] = found[i].facts;
    }
    free(found);
    *list = facts;
    return facts != NULL ? 0 : rk__fail(RK_ENOMEM, "no memory for a list of %zu devices", *count);
}
#else
static int find_cuda(rk_device **list, size_t *count)
{
    (void)list;
    (void)count;
    return rk__fail(RK_EDEVICE, "this build has no CUDA back end: the CUDA Toolkit was not there, "
                                "or CUDA=off was said, when it was made");
}
#endif

/* ---- the list ------------------------------------------------------------------------------- */

static bool usable(const rk_device *d)
{
    bool any = false;
    for (int mode = 0; mode < RK_MODES; mode++) {
        any = any || d->refused[mode][0] == '\0';
    }
    return any;
}

/* Why no device of the list can be used: what the first one says in its last mode, which is refused
 * only for reasons that all modes have. */
static void say_missing(const rk_device *list, size_t count, char missing[RK_DEVICE_TEXT])
{
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        any = any || usable(&list[i]);
    }
    snprintf(missing, RK_DEVICE_TEXT, "%s", any || count == 0 ? "" : list->refused[RK_MODES - 1]);
}

int rk_devices(rk_device *out, size_t capacity, size_t *count, char missing[RK_DEVICE_TEXT])
{
    char why[RK_DEVICE_TEXT], before[RK__DETAIL_MAX];
    rk_device *cuda = NULL;
    size_t found = 0;
    RK_CHECK(count != NULL && (out != NULL || capacity == 0),
             "rk_devices wants somewhere to write");
    snprintf(before, sizeof before, "%s", rk_errdetail());
    int code = find_cuda(&cuda, &found);
    if (code == RK_ENOMEM) {
        return code;
    }
    if (code < 0) {
        found = 0;
        snprintf(why, sizeof why, "%s", rk_errdetail());
    } else {
        say_missing(cuda, found, why);
    }
    rk__fail(RK_OK, "%s", before); /* a machine without a GPU is no failure to be told later */
    if (capacity > 0) {
        describe_cpu(&out[0]);
    }
    for (size_t i = 0; i < found && i + 1 < capacity; i++) {
        out[i + 1] = cuda[i];
    }
    free(cuda);
    *count = found + 1;
    if (missing != NULL) {
        memcpy(missing, why, sizeof why);
    }
    return 0;
}
