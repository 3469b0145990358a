/*
 * rig.h -- what the programs of bench/gpu that use the runtime share: message types of exact sizes,
 * the ring kernel that answers them, opening a device. Through rk.h alone.
 */
#ifndef RK_BENCH_GPU_RIG_H
#define RK_BENCH_GPU_RIG_H

#include "out.h"
#include "rk.h"

/* Payloads of 0, 16, 48, 256, 1024 and 16384 bytes; each begins with its number, but the first. */
enum { RIG_SIZES = 6, RIG_48 = 2 };
extern const uint32_t rig_sizes[RIG_SIZES];
/* Threads of a block: a warp; each is a thread of the system on the stand-in, so one will do. */
#define RIG_BLOCK (bench_standin() ? 1 : 32)

typedef struct rig_48 { /* the struct of "Rig48" */
    uint64_t a_number, b, c, d, e, f;
} rig_48;

/* Opens a runtime; device "cuda" or "cpu", mode NULL: persistent; cache NULL: the usual one. Also
 * says where results come from (bench_source). */
rk_runtime *rig_open(const char *device, const char *mode, const char *cache);

/* The types and the kernel "rig_echo": answers each with its number + 1 and the same rest. */
const rk_type *rig_type(unsigned size); /* an index into rig_sizes */
void rig_define_echo(void);
/* A kernel `name` that answers Rig48 with its number + `add`, so that no two are alike. */
void rig_define_add(const char *name, unsigned add);

rk_message *rig_message(unsigned size, uint64_t number); /* filled */
/* Calls, checks that the answer is what rig_echo makes of it. thread: any */
void rig_call(rk_pid to, unsigned size, uint64_t number);
/* Calls with a Rig48, gives the number of the answer. thread: any */
uint64_t rig_ask(rk_pid to, uint64_t number);

/* Runs fn(arg) as a C actor and waits for its end; its return value is not looked at. */
void rig_run(rk_runtime *rt, rk_actor_fn fn, void *arg);

#endif
