/*
 * log.c -- log lines and the one way bytes leave the process on a terminal.
 *
 * Threads: any, but no signal handler: one mutex is held while a piece is written, so that pieces
 * never interleave. The level is a relaxed atomic: a thread may see a new one a little late. The
 * log's file descriptor is only read and replaced under the mutex, so a line never goes to a file
 * that was just closed. The hook is called without the mutex.
 */
#include "base/log.h"
#include "base/error.h"
#include "base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};
static const char *const level_marks[] = {"DEBUG", "INFO ", "WARN ", "ERROR", "OFF  "};

static pthread_mutex_t output_lock = PTHREAD_MUTEX_INITIALIZER;
static int log_file = STDERR_FILENO;
static enum rk__level current_level = RK__LOG_WARN;
static rk__output_fn output_hook;

static int parse_level(const char *text, size_t size, enum rk__level *out)
{
    for (int i = RK__LOG_DEBUG; i <= RK__LOG_OFF; i++) {
        if (strlen(level_names[i]) == size && memcmp(level_names[i], text, size) == 0) {
            *out = (enum rk__level)i;
            return 0;
        }
    }
    return rk__fail(RK_EINVAL,
                    "unknown log level \"%.*s\"; levels are debug, info, warn, error, off",
                    (int)(size < 64 ? size : 64), text);
}

int rk__log_parse_level(const char *text, enum rk__level *out)
{
    return parse_level(text, strlen(text), out);
}

const char *rk__log_level_name(enum rk__level level)
{
    return level_names[level];
}

void rk__log_set_level(enum rk__level level)
{
    __atomic_store_n(&current_level, level, __ATOMIC_RELAXED);
}

enum rk__level rk__log_level(void)
{
    return __atomic_load_n(&current_level, __ATOMIC_RELAXED);
}

static void replace_log_file(int fd)
{
    pthread_mutex_lock(&output_lock);
    int old = log_file;
    log_file = fd;
    pthread_mutex_unlock(&output_lock);
    if (old != STDERR_FILENO) {
        close(old);
    }
}

int rk__log_configure(const char *spec)
{
    enum rk__level level = RK__LOG_WARN;
    int fd = STDERR_FILENO;
    if (spec != NULL) {
        const char *colon = strchr(spec, ':');
        int rc = parse_level(spec, colon != NULL ? (size_t)(colon - spec) : strlen(spec), &level);
        if (rc != 0) {
            return rc;
        }
        if (colon != NULL && colon[1] == '\0') {
            return rk__fail(RK_EINVAL, "log destination \"%s\" names no file after the colon",
                            spec);
        }
        if (colon != NULL) {
            fd = open(colon + 1, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        }
        if (fd < 0) {
            return rk__fail_errno(RK_EIO, "cannot open the log file \"%s\"", colon + 1);
        }
    }
    replace_log_file(fd);
    rk__log_set_level(level);
    return 0;
}

void rk__output_hook(rk__output_fn fn)
{
    /* Release: pairs with the acquire in through_hook, so what fn reads was set up before. */
    __atomic_store_n(&output_hook, fn, __ATOMIC_RELEASE);
}

static bool through_hook(int fd, const char *bytes, size_t size)
{
    if (fd != STDOUT_FILENO && fd != STDERR_FILENO) {
        return false;
    }
    /* Acquire: pairs with the release in rk__output_hook. */
    rk__output_fn fn = __atomic_load_n(&output_hook, __ATOMIC_ACQUIRE);
    if (fn != NULL) {
        fn(fd, bytes, size);
    }
    return fn != NULL;
}

/* Under output_lock. A descriptor that is closed or full for good loses the rest: there is nobody
 * left to tell. A non-blocking one is waited for. */
static void write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n > 0) {
            bytes += n;
            size -= (size_t)n;
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
        } else if (n == 0 || errno != EINTR) {
            return;
        }
    }
}

void rk__output(int fd, const char *bytes, size_t size)
{
    int saved = errno;
    if (!through_hook(fd, bytes, size)) {
        pthread_mutex_lock(&output_lock);
        write_all(fd, bytes, size);
        pthread_mutex_unlock(&output_lock);
    }
    errno = saved;
}

static void add_head(rk__strbuf *line, enum rk__level level, const char *who)
{
    struct timespec now;
    struct tm parts;
    char date[32];
    clock_gettime(CLOCK_REALTIME, &now);
    localtime_r(&now.tv_sec, &parts);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts);
    rk__strbuf_addf(line, "%s.%06ld %s ", date, now.tv_nsec / 1000, level_marks[level]);
    if (who != NULL) {
        rk__strbuf_addf(line, "%s ", who);
    }
}

/* Newlines at the very end are dropped, others are indented, so that a line is one record. */
static void add_text(rk__strbuf *line, const char *text, size_t size)
{
    while (size > 0 && text[size - 1] == '\n') {
        size--;
    }
    for (size_t i = 0; i < size; i++) {
        if (text[i] == '\n') {
            rk__strbuf_adds(line, "\n    ");
        } else {
            rk__strbuf_addc(line, text[i]);
        }
    }
    rk__strbuf_addc(line, '\n');
}

/* The destination is looked up under the lock that rk__log_configure replaces it under. */
static void emit(const char *bytes, size_t size)
{
    pthread_mutex_lock(&output_lock);
    int fd = log_file;
    if (fd != STDERR_FILENO) {
        write_all(fd, bytes, size);
    }
    pthread_mutex_unlock(&output_lock);
    if (fd == STDERR_FILENO) {
        rk__output(fd, bytes, size);
    }
}

void rk__log(enum rk__level level, const char *who, const char *format, ...)
{
    if (level < rk__log_level() || level >= RK__LOG_OFF) {
        return;
    }
    int saved = errno;
    rk__strbuf text = RK__STRBUF_INIT, line = RK__STRBUF_INIT;
    va_list arguments;
    va_start(arguments, format);
    rk__strbuf_vaddf(&text, format, arguments);
    va_end(arguments);
    add_head(&line, level, who);
    add_text(&line, text.bytes, text.size);
    if (text.failed || line.failed) {
        static const char lost[] = "(a log line was lost: out of memory)\n";
        emit(lost, sizeof lost - 1);
    } else {
        emit(line.bytes, line.size);
    }
    rk__strbuf_free(&text);
    rk__strbuf_free(&line);
    errno = saved;
}
