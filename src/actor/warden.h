/* warden.h -- one thread per runtime for what the thread that finds it out must not do itself. */
#ifndef RK_ACTOR_WARDEN_H
#define RK_ACTOR_WARDEN_H

#include "actor/runtime.h"

/* Kills an actor soon. copies reason. thread: any, whatever locks it holds. blocks: no */
void rk__warden_kill(rk_pid pid, const char *reason);
/* Once per runtime object; then at its close: does what is left to do and joins the thread. */
void rk__warden_init(rk__warden *w);
void rk__warden_stop(rk__warden *w);

#endif
