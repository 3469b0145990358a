/* topology.h -- which cpus this process may use, and who already sits on them (hwloc). */
#ifndef RK_BASE_TOPOLOGY_H
#define RK_BASE_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RK__CPU_MAX = 1024 };

/* A pin policy: "auto", "off" (also "false"), or a list "0,2-5". */
typedef struct rk__pin {
    bool enabled;
    uint16_t count; /* cpus actors are spread over */
    uint16_t cpus[RK__CPU_MAX];
} rk__pin;

/* Parses a policy against the affinity mask of the process as it was at start and the cgroup quota
 * (quota of q cpus: no more than ceil(q) of them are used). NULL is "auto". RK_EINVAL names the cpu
 * that is not allowed and lists those that are. thread: any. blocks: no */
int rk__pin_parse(const char *text, rk__pin *out);

/* The cpu for a new thread: the one with the fewest seats taken; ties go to the first hardware
 * thread of a core before the second, then to the lower number (the order of pin->cpus), but
 * the cpu the main thread started on counts one seat and loses ties. -1 when pinning is off.
 * Takes a seat; rk__cpu_leave gives it back. thread: any. blocks: no */
int rk__cpu_seat(const rk__pin *pin);
/* Takes a seat on a given cpu. RK_EINVAL when it is not in the mask, listing what is. */
int rk__cpu_take(int cpu);
void rk__cpu_leave(int cpu);
/* How many threads of ours sit on a cpu (main's seat counts); relaxed, changes at any time. */
unsigned rk__cpu_seats(int cpu);
/* How many of them are not parked; the main thread counts on the cpu it started on. add: a pinned
 * thread begins or ends, parks or is woken (async-signal-safe); -1 is no cpu. relaxed */
unsigned rk__cpu_awake(int cpu);
void rk__cpu_awake_add(int cpu, int change);
/* The cpu the main thread started on when called by it, else -1. */
int rk__cpu_of_main(void);
/* Number of cpus this process may use (mask and quota). */
unsigned rk__cpu_count(void);

/* Pins the calling thread; -1 is "leave it". */
void rk__thread_pin(int cpu);
/* Pins it, names it (15 bytes are kept) and counts it as awake; leave counts it out. */
void rk__thread_enter(int cpu, const char *name);
void rk__thread_leave(int cpu);
/* Restores the full affinity mask in a child process, for posix_spawn-like helpers. */
void rk__affinity_restore(void);

#endif
