/*
 * topology.c -- the cpus this process may use, in what order actors take them, and the seats.
 *
 * Threads: any. What the machine looks like is captured once (pthread_once orders it before every
 * reader) and constant afterwards. Seats are relaxed atomic counters that order nothing else; a
 * seat is taken by compare-and-swap, so two threads that choose at one time choose apart.
 *
 * hwloc takes tens of milliseconds to look at the machine. It is asked only for the order of
 * hardware threads, at the first policy that uses more than one cpu, and only when the kernel
 * does not say that simultaneous multithreading is off.
 */
#include "base/topology.h"
#include "base/error.h"
#include "base/log.h"
#include "base/strbuf.h"

#include <errno.h>
#include <hwloc.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    cpu_set_t mask;
    unsigned count;             /* cpus in the mask */
    unsigned quota;             /* cpus the cgroup grants, UINT_MAX: no limit */
    uint16_t rank[RK__CPU_MAX]; /* 0: first hardware thread of its core, 1: second, ... */
    int main_cpu;
} machine;

static pthread_once_t machine_once = PTHREAD_ONCE_INIT;
static pthread_once_t rank_once = PTHREAD_ONCE_INIT;
static unsigned captured; /* set when machine.mask may be read by a forked child */
static unsigned seats[RK__CPU_MAX];
static unsigned awake[RK__CPU_MAX];

_Static_assert(RK__CPU_MAX <= CPU_SETSIZE, "a cpu number must fit into cpu_set_t");

/* ---- capture -------------------------------------------------------------------------------- */

/* Quota and period in microseconds to whole cpus, rounded up. */
static unsigned quota_cpus(long long quota, long long period)
{
    if (quota <= 0 || period <= 0) {
        return UINT_MAX;
    }
    long long cpus = (quota + period - 1) / period;
    return cpus < RK__CPU_MAX ? (unsigned)cpus : UINT_MAX;
}

/* The first line of a small file; false when there is none. */
static bool read_line(const char *path, char *line, int size)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    bool found = fgets(line, size, file) != NULL;
    fclose(file);
    return found;
}

static unsigned quota_v2(const char *folder)
{
    char path[PATH_MAX], line[128];
    long long quota, period;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", folder);
    if (!read_line(path, line, sizeof line) || sscanf(line, "%lld %lld", &quota, &period) != 2) {
        return UINT_MAX;
    }
    return quota_cpus(quota, period);
}

static unsigned quota_v1(const char *folder)
{
    char path[PATH_MAX], line[128];
    snprintf(path, sizeof path, "/sys/fs/cgroup/cpu%s/cpu.cfs_quota_us", folder);
    if (!read_line(path, line, sizeof line)) {
        return UINT_MAX;
    }
    long long quota = atoll(line);
    snprintf(path, sizeof path, "/sys/fs/cgroup/cpu%s/cpu.cfs_period_us", folder);
    return read_line(path, line, sizeof line) ? quota_cpus(quota, atoll(line)) : UINT_MAX;
}

/* A limit anywhere between the group and the root counts. Inside a container the path may be that
 * of the outside; then the folders do not exist here and the root's file has the limit. */
static unsigned quota_upwards(char *folder, unsigned (*quota)(const char *folder))
{
    unsigned least = UINT_MAX;
    for (;;) {
        unsigned cpus = quota(folder);
        least = cpus < least ? cpus : least;
        char *slash = strrchr(folder, '/');
        if (slash == NULL) {
            return least;
        }
        *slash = '\0';
    }
}

/* Lines are "id:controllers:/path"; version 2 has no controllers. */
static unsigned cgroup_quota(void)
{
    char line[PATH_MAX];
    unsigned least = UINT_MAX;
    FILE *file = fopen("/proc/self/cgroup", "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *folder = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (folder == NULL) {
            continue;
        }
        *folder++ = '\0';
        unsigned cpus = UINT_MAX;
        if (controllers[1] == '\0') {
            cpus = quota_upwards(folder, quota_v2);
        } else if (strcmp(controllers, ":cpu") == 0 || strncmp(controllers, ":cpu,", 5) == 0 ||
                   strstr(controllers, ",cpu,") != NULL) {
            cpus = quota_upwards(folder, quota_v1);
        }
        least = cpus < least ? cpus : least;
    }
    if (file != NULL) {
        fclose(file);
    }
    return least;
}

/* The mask is that of the main thread, because the caller may have been pinned by its program. */
static void capture(void)
{
    if (sched_getaffinity(getpid(), sizeof machine.mask, &machine.mask) != 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        for (long cpu = 0; cpu < online && cpu < RK__CPU_MAX; cpu++) {
            CPU_SET((size_t)cpu, &machine.mask);
        }
    }
    machine.count = (unsigned)CPU_COUNT(&machine.mask);
    machine.quota = cgroup_quota();
    machine.main_cpu = sched_getcpu();
    if (machine.main_cpu >= 0 && machine.main_cpu < RK__CPU_MAX) {
        __atomic_fetch_add(&seats[machine.main_cpu], 1, __ATOMIC_RELAXED);
        __atomic_fetch_add(&awake[machine.main_cpu], 1, __ATOMIC_RELAXED);
    }
    /* Release: pairs with the acquire in rk__affinity_restore. */
    __atomic_store_n(&captured, 1, __ATOMIC_RELEASE);
}

static void look(void)
{
    pthread_once(&machine_once, capture);
}

/* How many allowed hardware threads of the core come before this one. */
static uint16_t rank_in_core(hwloc_topology_t topology, hwloc_obj_t pu)
{
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu);
    uint16_t rank = 0;
    if (core == NULL) {
        return 0;
    }
    for (unsigned cpu = 0; cpu < pu->os_index && cpu < RK__CPU_MAX; cpu++) {
        rank += CPU_ISSET(cpu, &machine.mask) && hwloc_bitmap_isset(core->cpuset, cpu);
    }
    return rank;
}

static void capture_ranks(void)
{
    char line[16];
    hwloc_topology_t topology;
    if (read_line("/sys/devices/system/cpu/smt/active", line, sizeof line) && line[0] == '0') {
        return;
    }
    if (hwloc_topology_init(&topology) != 0) {
        return;
    }
    if (hwloc_topology_load(topology) == 0) {
        hwloc_obj_t pu = NULL;
        while ((pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)) != NULL) {
            if (pu->os_index < RK__CPU_MAX) {
                machine.rank[pu->os_index] = rank_in_core(topology, pu);
            }
        }
    }
    hwloc_topology_destroy(topology);
}

static bool allowed(long cpu)
{
    return cpu >= 0 && cpu < RK__CPU_MAX && CPU_ISSET((size_t)cpu, &machine.mask);
}

/* ---- policies ------------------------------------------------------------------------------- */

/* RK_EINVAL with the allowed cpus as a list of ranges. */
static int not_allowed(long cpu)
{
    rk__strbuf list = RK__STRBUF_INIT;
    for (long first = 0; first < RK__CPU_MAX; first++) {
        if (!allowed(first)) {
            continue;
        }
        long last = first;
        while (allowed(last + 1)) {
            last++;
        }
        rk__strbuf_addf(&list, "%s%ld", list.size > 0 ? "," : "", first);
        if (last > first) {
            rk__strbuf_addf(&list, "-%ld", last);
        }
        first = last;
    }
    rk__fail(RK_EINVAL, "cpu %ld is not among those this process may use: %s", cpu,
             list.size > 0 ? list.bytes : "(none known)");
    rk__strbuf_free(&list);
    return RK_EINVAL;
}

static int bad_list(const char *text)
{
    return rk__fail(RK_EINVAL,
                    "pin \"%s\" is not a policy: use \"auto\", \"off\" or a list like \"0,2-5\"",
                    text);
}

/* A cpu number; false when there is no digit. Numbers too large for a cpu stay too large. */
static bool take_number(const char **text, long *out)
{
    if (**text < '0' || **text > '9') {
        return false;
    }
    char *end;
    errno = 0;
    *out = strtol(*text, &end, 10);
    *text = end;
    return true;
}

static int parse_list(const char *text, cpu_set_t *set)
{
    const char *at = text;
    for (;;) {
        long first, last;
        if (!take_number(&at, &first)) {
            return bad_list(text);
        }
        last = first;
        if (*at == '-') {
            at++;
            if (!take_number(&at, &last) || last < first) {
                return bad_list(text);
            }
        }
        for (long cpu = first; cpu <= last; cpu++) {
            if (!allowed(cpu)) {
                return not_allowed(cpu);
            }
            CPU_SET((size_t)cpu, set);
        }
        if (*at == '\0') {
            return 0;
        }
        if (*at++ != ',') {
            return bad_list(text);
        }
    }
}

/* First hardware threads of all cores, then the second ones, ...; by number within a rank. */
static void spread(rk__pin *pin, const cpu_set_t *set, unsigned limit)
{
    unsigned total = (unsigned)CPU_COUNT(set);
    if (total > 1) {
        pthread_once(&rank_once, capture_ranks);
    }
    total = total < limit ? total : limit;
    pin->enabled = true;
    pin->count = 0;
    for (unsigned rank = 0; pin->count < total; rank++) {
        for (unsigned cpu = 0; cpu < RK__CPU_MAX && pin->count < total; cpu++) {
            if (CPU_ISSET(cpu, set) && machine.rank[cpu] == rank) {
                pin->cpus[pin->count++] = (uint16_t)cpu;
            }
        }
    }
}

int rk__pin_parse(const char *text, rk__pin *out)
{
    look();
    if (text == NULL || strcmp(text, "auto") == 0) {
        spread(out, &machine.mask, machine.quota);
        return 0;
    }
    if (strcmp(text, "off") == 0 || strcmp(text, "false") == 0) {
        out->enabled = false;
        out->count = 0;
        return 0;
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    int rc = parse_list(text, &set);
    if (rc == 0) {
        spread(out, &set, machine.quota);
    }
    return rc;
}

unsigned rk__cpu_count(void)
{
    look();
    return machine.count < machine.quota ? machine.count : machine.quota;
}

/* ---- seats ---------------------------------------------------------------------------------- */

/* The best cpu of the list, and how many seats were taken on it when it was chosen. */
static int choose(const rk__pin *pin, unsigned *taken)
{
    int best = -1;
    for (unsigned i = 0; i < pin->count; i++) {
        int cpu = pin->cpus[i];
        unsigned n = __atomic_load_n(&seats[cpu], __ATOMIC_RELAXED);
        if (best < 0 || n < *taken || (n == *taken && best == machine.main_cpu)) {
            best = cpu;
            *taken = n;
        }
    }
    return best;
}

int rk__cpu_seat(const rk__pin *pin)
{
    unsigned taken = 0;
    look();
    if (!pin->enabled) {
        return -1;
    }
    int cpu;
    do {
        cpu = choose(pin, &taken);
    } while (cpu >= 0 && !__atomic_compare_exchange_n(&seats[cpu], &taken, taken + 1, false,
                                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return cpu;
}

int rk__cpu_take(int cpu)
{
    look();
    if (!allowed(cpu)) {
        return not_allowed(cpu);
    }
    __atomic_fetch_add(&seats[cpu], 1, __ATOMIC_RELAXED);
    return 0;
}

void rk__cpu_leave(int cpu)
{
    if (cpu >= 0 && cpu < RK__CPU_MAX) {
        unsigned before = __atomic_fetch_sub(&seats[cpu], 1, __ATOMIC_RELAXED);
        rk_assert(before > 0);
        (void)before;
    }
}

unsigned rk__cpu_seats(int cpu)
{
    look();
    return cpu >= 0 && cpu < RK__CPU_MAX ? __atomic_load_n(&seats[cpu], __ATOMIC_RELAXED) : 0;
}

unsigned rk__cpu_awake(int cpu)
{
    return cpu >= 0 && cpu < RK__CPU_MAX ? __atomic_load_n(&awake[cpu], __ATOMIC_RELAXED) : 0;
}

void rk__cpu_awake_add(int cpu, int change)
{
    if (cpu >= 0 && cpu < RK__CPU_MAX) {
        __atomic_fetch_add(&awake[cpu], (unsigned)change, __ATOMIC_RELAXED);
    }
}

int rk__cpu_of_main(void)
{
    look();
    return getpid() == gettid() ? machine.main_cpu : -1;
}

/* ---- threads -------------------------------------------------------------------------------- */

void rk__thread_pin(int cpu)
{
    if (cpu >= 0 && cpu < RK__CPU_MAX) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)cpu, &set);
        if (pthread_setaffinity_np(pthread_self(), sizeof set, &set) != 0) {
            rk__log(RK__LOG_WARN, NULL, "a thread could not be pinned to cpu %d", cpu);
        }
    }
}

void rk__thread_leave(int cpu)
{
    rk__cpu_awake_add(cpu, -1);
}

void rk__thread_enter(int cpu, const char *name)
{
    rk__thread_pin(cpu);
    rk__cpu_awake_add(cpu, 1);
    if (name != NULL) {
        char kept[16];
        snprintf(kept, sizeof kept, "%s", name);
        pthread_setname_np(pthread_self(), kept);
    }
}

/* Async-signal-safe, because it runs between fork and exec. */
void rk__affinity_restore(void)
{
    /* Acquire: pairs with the release in capture. Before it nothing was pinned by us. */
    if (__atomic_load_n(&captured, __ATOMIC_ACQUIRE) != 0) {
        sched_setaffinity(0, sizeof machine.mask, &machine.mask);
    }
}
