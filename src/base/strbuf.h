/* strbuf.h -- a growing byte buffer. A failed allocation sets `failed` and further writes do
 * nothing, so that one check at the end is enough. thread: owner only. blocks: no */
#ifndef RK_BASE_STRBUF_H
#define RK_BASE_STRBUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include "rk.h"

typedef struct rk__strbuf {
    char *bytes; /* NUL after `size` bytes whenever capacity > 0 */
    size_t size, capacity;
    bool failed;
} rk__strbuf;

#define RK__STRBUF_INIT                                                                            \
    {                                                                                              \
        NULL, 0, 0, false                                                                          \
    }

bool rk__strbuf_reserve(rk__strbuf *s, size_t more);
void rk__strbuf_add(rk__strbuf *s, const void *bytes, size_t size);
void rk__strbuf_addc(rk__strbuf *s, char c);
void rk__strbuf_adds(rk__strbuf *s, const char *text);
void rk__strbuf_addf(rk__strbuf *s, const char *format, ...) RK_PRINTF(2, 3);
void rk__strbuf_vaddf(rk__strbuf *s, const char *format, va_list arguments);
void rk__strbuf_clear(rk__strbuf *s);
void rk__strbuf_free(rk__strbuf *s);
/* Hands the bytes to the caller (free()), or NULL when an allocation failed. gives */
char *rk__strbuf_take(rk__strbuf *s);

#endif
