/* log.h -- one atomic line per call, with level, time and the actor it came from. */
#ifndef RK_BASE_LOG_H
#define RK_BASE_LOG_H

#include "rk.h"

enum rk__level { RK__LOG_DEBUG, RK__LOG_INFO, RK__LOG_WARN, RK__LOG_ERROR, RK__LOG_OFF };

/* "debug" "info" "warn" "error" "off"; RK_EINVAL lists them. */
int rk__log_parse_level(const char *text, enum rk__level *out);
const char *rk__log_level_name(enum rk__level level);
/* Level (default warn) and destination: NULL is stderr, else a file opened for appending. Takes
 * "level[:file]". RK_EINVAL, RK_EIO; on failure nothing changes. thread: any. blocks: yes (file) */
int rk__log_configure(const char *spec);
void rk__log_set_level(enum rk__level level);
enum rk__level rk__log_level(void);
/* Format: `2026-11-22T10:11:12.123456 WARN  <1.7 "counter"> text`, one write(2) per line; newlines
 * inside text become "\n    ". `who` may be NULL. thread: any. blocks: yes (the destination) */
void rk__log(enum rk__level level, const char *who, const char *format, ...) RK_PRINTF(3, 4);

/* A REPL sets this to redraw its prompt around lines of other threads; NULL: write(2) direct.
 * Called with the whole line, newline included; must be thread-safe. fd is 1 or 2. */
typedef void (*rk__output_fn)(int fd, const char *line, size_t size);
void rk__output_hook(rk__output_fn fn);
/* Writes bytes to fd as one piece (through the hook if any); `print` of every Lua state and the
 * log use it. Short writes and EINTR are continued under a lock, so lines never interleave. */
void rk__output(int fd, const char *bytes, size_t size);

#endif
