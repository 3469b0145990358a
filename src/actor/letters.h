/* letters.h -- the dead-letter queue of a runtime. */
#ifndef RK_ACTOR_LETTERS_H
#define RK_ACTOR_LETTERS_H

#include "actor/runtime.h"

/* RK_ENOMEM, RK_ERANGE. By the thread that opens the runtime, before anybody else knows it. */
int rk__letters_open(rk_runtime *rt, uint32_t capacity);
/* Keeps m as the newest letter; older ones make room. takes m. thread: any. blocks: no */
void rk__letters_keep(rk_runtime *rt, rk_pid to, rk_message *m, int code);
/* Frees all, and none are kept from now on. thread: any. blocks: no */
void rk__letters_close(rk_runtime *rt);

#endif
