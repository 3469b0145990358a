/*
 * read.c -- a copy of an instance's state, taken at a message border.
 *
 * Threads: any. An ACTIVE instance is paused for the copy without anybody noticing but its mail,
 * which waits; in short turns, so that one that hangs can be stopped meanwhile.
 */
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/error.h"
#include "device/instance.h"

enum {
    READ_PATIENCE = 20000000, /* ns the slot is kept while a reader waits for a border */
    READ_PAUSE = 1000         /* us between two such turns */
};

static const int64_t READ_TIMEOUT = 5000000000; /* ns until a reader of the state gives up */

static int no_schema(const rk__kernel_actor *k)
{
    return rk__fail(RK_EUNSUPPORTED,
                    "ring kernel \"%s\" has no state schema: define it with `state` fields instead "
                    "of RK_STATE to read its state from outside",
                    k->kernel->base.name);
}

static int copy_state(const rk__kernel_actor *k, rk_message **out)
{
    const rk_type *type = k->kernel->state_message;
    rk_assert(type->size == k->module->entry->state_size);
    int code = rk_message_new(out, type);
    if (code == 0) {
        code = k->backend->read_state(k, rk_message_data(*out), type->size);
        if (code < 0) {
            rk_message_release(*out);
        }
    }
    return code;
}

/* An ACTIVE one is paused for the copy, and stays ACTIVE meanwhile. 1: no message border was
 * reached before the deadline. A verb that waits for the same border (pausing) finds it kept. The
 * copy may have to wait for a thread of the back end, so k->lock is given up for it: what is paused
 * stays, since the caller holds the lifecycle lock. */
static int copy_at_border(rk__kernel_actor *k, rk_message **out, int64_t deadline)
{
    int code = 1;
    pthread_mutex_lock(&k->lock);
    rk__kernel_command(k, RK_COMMAND_PAUSE);
    if (rk__kernel_await(k, RK_STATUS_PAUSED, deadline)) {
        pthread_mutex_unlock(&k->lock);
        code = copy_state(k, out);
        pthread_mutex_lock(&k->lock);
    }
    if (k->pausing == 0) {
        rk__kernel_command(k, RK_COMMAND_RUN);
        rk__kernel_await(k, RK_STATUS_RUNNING, RK__FOREVER);
    }
    pthread_mutex_unlock(&k->lock);
    return code;
}

/* Under the lifecycle lock. 1: try again. */
static int try_read(rk__actor *a, rk_message **out)
{
    rk__kernel_actor *k = rk__kernel_adopt(a);
    enum rk_state state = rk__actor_state(a);
    char text[RK_PID_TEXT];
    int code;
    if (state == RK_ACTIVE) {
        return k->kernel->state_message != NULL ? copy_at_border(k, out, rk__now() + READ_PATIENCE)
                                                : no_schema(k);
    }
    pthread_mutex_lock(&k->lock);
    bool still = k->actor == a && (k->phase == RK__PHASE_LAUNCHED || k->phase == RK__PHASE_FAILED ||
                                   (k->phase == RK__PHASE_RUNNING && state == RK_DEACTIVATED));
    if (k->actor != a || k->phase == RK__PHASE_GONE) {
        code = rk__fail(RK_EDEAD, "%s is ending: its state is gone",
                        rk_pid_format(rk__actor_pid(a), text));
    } else if (k->kernel->state_message == NULL) {
        code = no_schema(k);
    } else {
        code = still ? copy_state(k, out) : 1;
    }
    pthread_mutex_unlock(&k->lock);
    return code;
}

int rk__kernel_read_state(rk_pid pid, rk_message **out)
{
    rk__actor *a;
    char text[RK_PID_TEXT];
    int64_t deadline = rk__now() + READ_TIMEOUT;
    int code = rk__actor_get(pid, &a);
    if (code < 0) {
        return code;
    }
    if (__atomic_load_n(&a->class, __ATOMIC_ACQUIRE) !=
        &rk__kernel_class) { /* pairs with rk__actor_new */
        return rk__fail(RK_EUNSUPPORTED, "%s is no ring kernel: only those have a state to read",
                        rk_pid_format(pid, text));
    }
    do {
        /* In short turns, so that a kernel that hangs can be stopped meanwhile. */
        pthread_mutex_lock(&a->lifecycle);
        code = rk__actor_find(pid) == a ? try_read(a, out) : rk__actor_dead(pid);
        pthread_mutex_unlock(&a->lifecycle);
        if (code == 1) {
            usleep(READ_PAUSE);
        }
    } while (code == 1 && rk__now() < deadline);
    return code != 1
               ? code
               : rk__fail(RK_ETIMEOUT, "%s reached no message border in time to read its state",
                          rk_pid_format(pid, text));
}
