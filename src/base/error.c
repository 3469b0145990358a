/*
 * error.c -- names and texts of the error codes, and the sentence about the last failure.
 *
 * Threads: any; the sentence is thread-local, nothing is shared, so there is no ordering to keep.
 * The buffer is too large for the static TLS block that a dlopen'ed library may use, and a library
 * has one TLS block for all its variables; so only a pointer is there, and a thread's buffer is
 * allocated at its first failure.
 */
#include "base/error.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local char *detail; /* RK__DETAIL_MAX bytes; NULL until the first failure */
static pthread_key_t detail_key;
static pthread_once_t detail_once = PTHREAD_ONCE_INIT;

static void detail_free(void *buffer)
{
    detail = NULL;
    free(buffer);
}

static void detail_key_make(void)
{
    if (pthread_key_create(&detail_key, detail_free) != 0) {
        abort(); /* a process has 1024 keys; without one every thread would leak its buffer */
    }
}

/* Keeps a sentence of `size` bytes and its NUL. Without memory the thread has no sentence. */
static void keep(const char *text, size_t size)
{
    if (detail == NULL) {
        pthread_once(&detail_once, detail_key_make);
        detail = malloc(RK__DETAIL_MAX);
        if (detail == NULL) {
            return;
        }
        pthread_setspecific(detail_key, detail);
    }
    memcpy(detail, text, size + 1);
}

const char *rk_err_name(int code)
{
    switch (code) {
    case RK_OK:
        return "OK";
#define RK_ERROR_NAME(name, number, text)                                                          \
    case RK_##name:                                                                                \
        return #name;
        RK_ERRORS(RK_ERROR_NAME)
#undef RK_ERROR_NAME
    default:
        return "EUNKNOWN";
    }
}

const char *rk_strerror(int code)
{
    switch (code) {
    case RK_OK:
        return "no error";
#define RK_ERROR_TEXT(name, number, text)                                                          \
    case RK_##name:                                                                                \
        return text;
        RK_ERRORS(RK_ERROR_TEXT)
#undef RK_ERROR_TEXT
    default:
        return "unknown error code";
    }
}

const char *rk_errdetail(void)
{
    return detail != NULL ? detail : "";
}

int rk__err_code(const char *name)
{
#define RK_ERROR_CODE(error, number, text)                                                         \
    if (strcmp(name, #error) == 0) {                                                               \
        return RK_##error;                                                                         \
    }
    RK_ERRORS(RK_ERROR_CODE)
#undef RK_ERROR_CODE
    return 0;
}

/* Puts "..." over the end of a sentence that was cut, after a whole UTF-8 character. */
static void mark_cut(char *text)
{
    size_t end = RK__DETAIL_MAX - 4;
    while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80) {
        end--;
    }
    memcpy(text + end, "...", 4);
}

/* Formats behind the first `used` bytes of text; returns the new length, cut to the buffer. */
static size_t append(char *text, size_t used, const char *format, va_list arguments)
{
    int n = vsnprintf(text + used, RK__DETAIL_MAX - used, format, arguments);
    if (n < 0) {
        text[used] = '\0';
        return used;
    }
    if ((size_t)n >= RK__DETAIL_MAX - used) {
        mark_cut(text);
        return strlen(text);
    }
    return used + (size_t)n;
}

static size_t append_text(char *text, size_t used, const char *format, ...) RK_PRINTF(3, 4);
static size_t append_text(char *text, size_t used, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    used = append(text, used, format, arguments);
    va_end(arguments);
    return used;
}

/* Every sentence is built aside, because its arguments may point into the old one. */
int rk__vfail(int code, const char *format, va_list arguments)
{
    char text[RK__DETAIL_MAX];
    size_t used = append(text, 0, format, arguments);
    keep(text, used);
    return code;
}

int rk__fail(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    rk__vfail(code, format, arguments);
    va_end(arguments);
    return code;
}

int rk__fail_prefix(int code, const char *format, ...)
{
    char text[RK__DETAIL_MAX];
    va_list arguments;
    va_start(arguments, format);
    size_t used = append(text, 0, format, arguments);
    va_end(arguments);
    used = append_text(text, used, ": %s", rk_errdetail());
    keep(text, used);
    return code;
}

int rk__fail_errno(int code, const char *format, ...)
{
    char text[RK__DETAIL_MAX], reason[128];
    int number = errno;
    va_list arguments;
    va_start(arguments, format);
    size_t used = append(text, 0, format, arguments);
    va_end(arguments);
    used = append_text(text, used, ": %s", strerror_r(number, reason, sizeof reason));
    keep(text, used);
    errno = number;
    return code;
}

void rk__check_failed(const char *file, int line, const char *function, const char *what,
                      const char *hint)
{
    dprintf(2, "%s:%d: %s: check failed: %s (%s)\n", file, line, function, what, hint);
    abort();
}
