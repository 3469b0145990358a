/* error.h -- error codes of rk.h and the per-thread sentence that explains the last failure. */
#ifndef RK_BASE_ERROR_H
#define RK_BASE_ERROR_H

#include <stdarg.h>
#include "rk.h"

enum { RK__DETAIL_MAX = 4096 }; /* bytes kept of a sentence; longer ones end in "..." */

/* Stores the sentence and returns code, so that `return rk__fail(RK_EINVAL, "...", ...)` reads as
 * one step. The text says what happened, where, and what would work. thread: any. blocks: no */
int rk__fail(int code, const char *format, ...) RK_PRINTF(2, 3);
int rk__vfail(int code, const char *format, va_list arguments);
/* Puts "prefix: " before the stored sentence; returns code. */
int rk__fail_prefix(int code, const char *format, ...) RK_PRINTF(2, 3);
/* rk__fail with strerror(errno) appended. */
int rk__fail_errno(int code, const char *format, ...) RK_PRINTF(2, 3);
/* The code with this name ("ETIMEOUT"), or 0. */
int rk__err_code(const char *name);

/* Two kinds of assert (HOUSE 5). RK_CHECK: the embedder's misuse, always on, aborts with the call
 * site. rk_assert: our own invariants, off with -DNDEBUG. */
void rk__check_failed(const char *file, int line, const char *function, const char *what,
                      const char *hint) __attribute__((noreturn));
#define RK_CHECK(condition, hint)                                                                  \
    ((condition) ? (void)0 : rk__check_failed(__FILE__, __LINE__, __func__, #condition, hint))
#ifdef NDEBUG
#define rk_assert(condition) ((void)0)
#else
#define rk_assert(condition) RK_CHECK(condition, "internal invariant")
#endif

#endif
