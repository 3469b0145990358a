/*
 * object.c -- the objects behind ring kernels, kept for later instances and never freed: a late
 * sender to an earlier instance may still look at the locks of its channel.
 *
 * Threads: any, under one lock.
 */
#include "device/instance.h"

#include <stdlib.h>
#include <string.h>

static rk__kernel_actor *spare; /* under spare_lock */
static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;

static rk__kernel_actor *object_new(void)
{
    pthread_condattr_t attributes;
    rk__kernel_actor *k = aligned_alloc(64, sizeof *k);
    if (k == NULL) {
        return NULL;
    }
    memset(k, 0, sizeof *k);
    rk__channel_init(&k->channel);
    pthread_mutex_init(&k->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&k->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    return k;
}

rk__kernel_actor *rk__kernel_object_take(void)
{
    pthread_mutex_lock(&spare_lock);
    rk__kernel_actor *k = spare;
    if (k != NULL) {
        spare = k->next;
        k->next = NULL;
    }
    pthread_mutex_unlock(&spare_lock);
    return k != NULL ? k : object_new();
}

void rk__kernel_object_keep(rk__kernel_actor *k)
{
    pthread_mutex_lock(&spare_lock);
    k->next = spare;
    spare = k;
    pthread_mutex_unlock(&spare_lock);
}
