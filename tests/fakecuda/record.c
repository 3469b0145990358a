/*
 * record.c -- which calls were made, in what order, and what was wrong with them.
 *
 * Threads: any. Calls are recorded with the lock held, so their order is the order in which the
 * stand-in took them.
 */
#include "fakecuda.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RECORDS = 1 << 16, NAMES = 256, ERRORS = 64, FRAMES = 64 };

static struct record {
    const char *name;
    unsigned stream;
    unsigned long times;
} records[RECORDS];
static size_t record_count; /* ever made; the last RECORDS of them are there */

static struct counter {
    const char *name;
    size_t times;
} counters[NAMES];
static size_t counter_count;

static char *errors[ERRORS];
static size_t error_count; /* ever made; the first ERRORS of them are there */

static struct counter *counter_of(const char *name)
{
    for (size_t i = 0; i < counter_count; i++) {
        if (strcmp(counters[i].name, name) == 0) {
            return &counters[i];
        }
    }
    return NULL;
}

void fc_called(const char *name, unsigned stream)
{
    struct counter *c = counter_of(name);
    if (c == NULL && counter_count < NAMES) {
        c = &counters[counter_count++];
        *c = (struct counter){.name = name};
    }
    if (c != NULL) {
        c->times++;
    }
    struct record *last = &records[(record_count - 1) % RECORDS];
    if (record_count > 0 && last->stream == stream && strcmp(last->name, name) == 0) {
        last->times++;
        return;
    }
    records[record_count++ % RECORDS] = (struct record){name, stream, 1};
}

void fc_noted(const char *name)
{
    fc_lock();
    fc_called(name, 0);
    fc_unlock();
}

size_t fakecuda_count(const char *name)
{
    fc_lock();
    struct counter *c = counter_of(name);
    size_t times = c != NULL ? c->times : 0;
    fc_unlock();
    return times;
}

/* Appends to out[size] what fits, and counts all of it. */
static size_t append(char *out, size_t size, size_t at, const char *text)
{
    size_t length = strlen(text);
    if (at < size) {
        size_t fits = length < size - at - 1 ? length : size - at - 1;
        memcpy(out + at, text, fits);
        out[at + fits] = '\0';
    }
    return at + length;
}

size_t fakecuda_calls(char *out, size_t size)
{
    size_t at = append(out, size, 0, "");
    fc_lock();
    size_t first = record_count > RECORDS ? record_count - RECORDS : 0;
    for (size_t i = first; i < record_count; i++) {
        const struct record *r = &records[i % RECORDS];
        char line[128];
        snprintf(line, sizeof line, "%s %u %lu\n", r->name, r->stream, r->times);
        at = append(out, size, at, line);
    }
    fc_unlock();
    return at;
}

static void forget_errors(void)
{
    for (size_t i = 0; i < ERRORS; i++) {
        free(errors[i]);
        errors[i] = NULL;
    }
    error_count = 0;
}

void fakecuda_clear(void)
{
    fc_lock();
    record_count = 0;
    counter_count = 0;
    forget_errors();
    fc_unlock();
}

size_t fakecuda_errors(char *out, size_t size)
{
    size_t at = append(out, size, 0, "");
    fc_lock();
    for (size_t i = 0; i < error_count && i < ERRORS; i++) {
        at = append(out, size, at, errors[i]);
        at = append(out, size, at, "\n");
    }
    size_t count = error_count;
    fc_unlock();
    return count;
}

static void say(const char *format, va_list list)
{
    char text[512];
    vsnprintf(text, sizeof text, format, list);
    fprintf(stderr, "fakecuda: %s\n", text);
    if (error_count < ERRORS) {
        errors[error_count] = strdup(text);
    }
    error_count++;
}

static void say_where(void)
{
    void *frames[FRAMES];
    int count = backtrace(frames, FRAMES);
    fflush(stderr);
    backtrace_symbols_fd(frames, count, STDERR_FILENO);
}

void fc_misuse(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    say(format, list);
    va_end(list);
}

void fc_fatal(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    say(format, list);
    va_end(list);
    say_where();
    abort();
}
