/*
 * handles.h -- the open runtimes as Lua sees them: a pointer and a serial number, so that a handle
 * which outlives its runtime is recognised instead of followed.
 */
#ifndef RK_SCRIPT_HANDLES_H
#define RK_SCRIPT_HANDLES_H

#include <pthread.h>
#include "base/strbuf.h"
#include "rk.h"

/* One open runtime. Entries are reused for later runtimes and never freed. */
typedef struct rk__handle {
    rk_runtime *rt;          /* atomic; NULL: free */
    uint64_t serial;         /* of the runtime; never reused */
    pthread_t thread;        /* who opened it; written before rt */
    uint64_t reader;         /* atomic rk_pid: who wants its dead letters */
    struct rk__handle *next; /* constant once the entry is in the list */
} rk__handle;

/* Opens a runtime with its devices and lists it; rk_open without the script. gives. blocks: yes */
int rk__handle_open(rk_runtime **out, const rk_config *config);
/* Takes it off the list, then closes it as rk_close. takes. thread: the one that opened it */
int rk__handle_close(rk_runtime *rt, rk__strbuf *killed);
/* The entry of a runtime; NULL: it is not open. thread: any. blocks: no */
rk__handle *rk__handle_of(const rk_runtime *rt);
/* rk_interrupt on every runtime that the calling thread opened. Async-signal-safe. */
void rk__handle_interrupt(void);
/* Forgets interrupts of them that nothing waited for. thread: the one that opened them */
void rk__handle_calm(void);

#endif
