/*
 * strbuf.c -- a growing byte buffer with a sticky failure flag.
 *
 * Threads: the owner of the buffer only; no ordering.
 */
#include "base/strbuf.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 64 };

/* Room for `more` bytes and the NUL behind them. */
bool rk__strbuf_reserve(rk__strbuf *s, size_t more)
{
    if (s->failed || more > SIZE_MAX / 2 - s->size - 1) {
        s->failed = true;
        return false;
    }
    size_t need = s->size + more + 1;
    if (need <= s->capacity) {
        return true;
    }
    size_t capacity = s->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : s->capacity;
    while (capacity < need) {
        capacity *= 2;
    }
    char *bytes = realloc(s->bytes, capacity);
    if (bytes == NULL) {
        s->failed = true;
        return false;
    }
    s->bytes = bytes;
    s->capacity = capacity;
    s->bytes[s->size] = '\0';
    return true;
}

void rk__strbuf_add(rk__strbuf *s, const void *bytes, size_t size)
{
    if (!rk__strbuf_reserve(s, size)) {
        return;
    }
    if (size > 0) {
        memcpy(s->bytes + s->size, bytes, size);
    }
    s->size += size;
    s->bytes[s->size] = '\0';
}

void rk__strbuf_addc(rk__strbuf *s, char c)
{
    rk__strbuf_add(s, &c, 1);
}

void rk__strbuf_adds(rk__strbuf *s, const char *text)
{
    rk__strbuf_add(s, text, strlen(text));
}

void rk__strbuf_vaddf(rk__strbuf *s, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    size_t room = s->failed ? 0 : s->capacity - s->size;
    int n = vsnprintf(room > 0 ? s->bytes + s->size : NULL, room, format, arguments);
    if (n < 0) {
        s->failed = true;
    } else if ((size_t)n < room) {
        s->size += (size_t)n;
    } else if (rk__strbuf_reserve(s, (size_t)n)) {
        vsnprintf(s->bytes + s->size, (size_t)n + 1, format, again);
        s->size += (size_t)n;
    } else if (room > 0) {
        s->bytes[s->size] = '\0';
    }
    va_end(again);
}

void rk__strbuf_addf(rk__strbuf *s, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    rk__strbuf_vaddf(s, format, arguments);
    va_end(arguments);
}

/* Empties the buffer and forgets a failure; the memory is kept for the next text. */
void rk__strbuf_clear(rk__strbuf *s)
{
    s->size = 0;
    s->failed = false;
    if (s->capacity > 0) {
        s->bytes[0] = '\0';
    }
}

void rk__strbuf_free(rk__strbuf *s)
{
    free(s->bytes);
    *s = (rk__strbuf)RK__STRBUF_INIT;
}

char *rk__strbuf_take(rk__strbuf *s)
{
    char *bytes = rk__strbuf_reserve(s, 0) ? s->bytes : NULL;
    if (bytes == NULL) {
        free(s->bytes);
    }
    *s = (rk__strbuf)RK__STRBUF_INIT;
    return bytes;
}
