/*
 * launch.c -- phase one of a ring kernel's life: options, compiler, memory, a slot of the registry.
 *
 * Threads: any; nothing here is shared before the actor is in the registry.
 */
#include <stdio.h>
#include <stdlib.h>
#include "base/error.h"
#include "device/instance.h"

enum {
    UNDER_WAY = 64,       /* messages handed to the device at most */
    ARENA_MIN = 16 * 1024 /* bytes */
};

static uint32_t chosen(uint32_t option, uint32_t definition)
{
    return option != 0 ? option : definition;
}

/* The options an instance runs with; mailbox and what is under way together make the queue. */
static int settle(const rk__kernel *kernel, const rk_options *given, rk__kernel_actor *k,
                  rk_options *out)
{
    uint32_t queue = chosen(given->mailbox, kernel->queue_size);
    *out = *given;
    out->name = given->name != NULL ? given->name : kernel->base.name;
    out->full = given->full != RK_FULL_DEFAULT ? given->full : kernel->full;
    k->grid = chosen(given->grid, kernel->grid);
    k->grid = k->grid != 0 ? k->grid : 1;
    if (out->full == RK_FULL_DROP_OLDEST) {
        return rk__fail(RK_EUNSUPPORTED,
                        "ring kernel \"%s\": drop_oldest exists on host actors "
                        "only; use block, reject or drop_newest",
                        out->name);
    }
    if (k->grid > RK__BLOCKS_MAX) {
        return rk__fail(RK_ERANGE, "ring kernel \"%s\": %u blocks; an instance has up to %d",
                        out->name, k->grid, RK__BLOCKS_MAX);
    }
    k->limit = queue / 2 < 1 ? 1 : queue / 2 > UNDER_WAY ? UNDER_WAY : queue / 2;
    out->mailbox = queue > k->limit ? queue - k->limit : 1;
    return k->backend->settle(out, k, kernel);
}

/* At least twice the largest payload, so that one fits whole after the rest was read. */
static uint64_t arena_size(const rk__kernel *kernel)
{
    uint64_t largest = 1024, size = ARENA_MIN; /* log records and failure texts are below 1 KiB */
    for (uint32_t i = 0; i < kernel->type_count; i++) {
        largest = kernel->types[i]->size > largest ? kernel->types[i]->size : largest;
    }
    while (size < 4 * largest) {
        size *= 2;
    }
    return size;
}

static int prepare(rk__kernel_actor *k, rk__kernel *kernel, rk__module *module)
{
    k->kernel = kernel;
    k->module = module;
    k->arena_size = arena_size(kernel);
    k->phase = RK__PHASE_LAUNCHED;
    k->command = 0;
    k->stopping = k->failing = k->abandoned = false;
    k->fresh = true;
    k->channel.staging = NULL;
    k->channel.inline_max = RK_PACKET_INLINE;
    snprintf(k->device_name, sizeof k->device_name, "%s", rk__device_name(k->runtime));
    k->samples = calloc(k->grid, sizeof *k->samples);
    if (k->samples == NULL) {
        return rk__fail(RK_ENOMEM, "no memory for ring kernel \"%s\"", kernel->base.name);
    }
    int code = k->backend->prepare(k);
    return code < 0 ? code : rk__channel_prepare(&k->channel, k, k->limit);
}

int rk__kernel_launch(rk_runtime *rt, rk__definition *definition, const rk_options *options,
                      rk__actor **out)
{
    static const rk_options defaults = RK_OPTIONS_INIT;
    rk__kernel *kernel = (rk__kernel *)definition;
    rk__module *module;
    rk__actor *a;
    rk_options settled;
    rk__kernel_actor *k = rk__kernel_object_take();
    int code = k != NULL ? rk__devices_settle(rt) : rk__fail(RK_ENOMEM, "no memory for an actor");
    if (code == 0) {
        k->runtime = rt;
        k->backend = rk__device_backend(rt);
        code = settle(kernel, options != NULL ? options : &defaults, k, &settled);
    }
    if (code == 0) {
        code = k->backend->build(rt, kernel, k->threads, &module);
    }
    if (code < 0) {
        if (k != NULL) {
            rk__kernel_object_keep(k);
        }
        return code;
    }
    __atomic_add_fetch(&definition->refs, 1, __ATOMIC_RELAXED); /* the caller holds one */
    code = prepare(k, kernel, module);
    if (code == 0) {
        code = rk__actor_launch(&a, rt, &rk__kernel_class, k, settled.mailbox, &settled);
    }
    if (code < 0) {
        rk__kernel_dismantle(k);
        return code;
    }
    rk__kernel_adopt(a);
    *out = a;
    return 0;
}
