/*
 * cpu.h -- what the resident loop calls on the cpu device, and the way into it.
 */
#ifndef RK_DEVICE_CPU_CPU_H
#define RK_DEVICE_CPU_CPU_H

#include <stdbool.h>
#include <stdint.h>
#include "base/error.h"
#include "rk_abi.h"

struct rk_ctx;

/* kernels/resident.cu: the life of one thread of a block; returns when the block left its loop. */
void rk__resident(struct rk_ctx *ctx);

/* Called by the loop; thread: those of the block. */

/* Thread 0's decision in all threads of the block. The others sleep until there is one. */
uint32_t rk__cpu_share(rk_block *block, uint32_t thread, uint32_t decision);
/* Thread 0: waits until ready(arg), `until` (device clock), or for no reason at all: the loop looks
 * again anyhow. */
void rk__cpu_idle(rk_block *block, bool (*ready)(void *arg), void *arg, int64_t until);
/* Thread 0, after publishing: block 0 delivers, the others let block 0 know. */
void rk__cpu_told(rk_block *block);
/* Thread 0, after a change of the block's status. */
void rk__cpu_status(rk_block *block);

#endif
