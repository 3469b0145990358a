/* host.h -- the record of a host actor's thread; shared by host.c and runtime.c. */
#ifndef RK_ACTOR_HOST_H
#define RK_ACTOR_HOST_H

#include "actor/actor.h"

struct rk__host {
    struct rk__host *next; /* list of threads to join, under the runtime's lock */
    uint32_t refs;         /* atomic: slot, thread, activator */
    rk_runtime *runtime;
    rk__actor *actor; /* the slot, while the thread runs */
    const rk__host_body *ops;
    void *body;
    size_t stack;
    pthread_t thread;
    pthread_mutex_t lock; /* running, against the freeing of body */
    bool running;
    int started; /* atomic: 1 started, -1 ended before it could; then: */
    int code;
    char *failure;
};

#endif
