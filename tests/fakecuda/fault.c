/*
 * fault.c -- the stand-in's one lock, and the faults it plays: from FAKECUDA ("name=value;...") when
 * it is loaded, from fakecuda_set while it runs.
 *
 * Threads: any. A fault's value is atomic, so that kernel threads look at it without the lock; whoever
 * waits for one to change waits on the lock's condition, which every change tells.
 */
#include "fakecuda.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FAULT_TEXT(name, value)  #name,
#define FAULT_VALUE(name, value) value,

static const char *const names[] = {FC_FAULTS(FAULT_TEXT)};
static long values[] = {FC_FAULTS(FAULT_VALUE)};
static void (*on_change)(void);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;

/* ---- the lock ---- */

void fc_lock(void)
{
    pthread_mutex_lock(&lock);
}

void fc_unlock(void)
{
    pthread_mutex_unlock(&lock);
}

void fc_wait(void)
{
    pthread_cond_wait(&changed, &lock);
}

int fc_wait_until(long long t)
{
    struct timespec until = {.tv_sec = t / 1000000000, .tv_nsec = t % 1000000000};
    return pthread_cond_timedwait(&changed, &lock, &until) == 0;
}

void fc_broadcast(void)
{
    pthread_cond_broadcast(&changed);
}

long long fc_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* ---- faults ---- */

long fc_fault(enum fc_fault which)
{
    return __atomic_load_n(&values[which], __ATOMIC_ACQUIRE); /* pairs with set_value */
}

static void set_value(size_t which, long value)
{
    __atomic_store_n(&values[which], value, __ATOMIC_RELEASE); /* pairs with fc_fault */
}

void fc_fault_reset(enum fc_fault which)
{
    set_value(which, 0);
}

void fc_on_fault(void (*call)(void))
{
    fc_lock();
    on_change = call;
    fc_unlock();
}

static int find(const char *name, size_t length)
{
    for (int i = 0; i < FC_FAULT_COUNT; i++) {
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0) {
            return i;
        }
    }
    return -1;
}

int fakecuda_set(const char *name, long value)
{
    int which = find(name, strlen(name));
    if (which < 0) {
        return -1;
    }
    fc_lock();
    set_value((size_t)which, value);
    if (on_change != NULL) {
        on_change();
    }
    fc_broadcast();
    fc_unlock();
    return 0;
}

/* A word that is not understood ends the program: a test with a typing error tests nothing. */
static void from_environment(const char *text)
{
    while (text != NULL && *text != '\0') {
        size_t length = strcspn(text, ";");
        size_t name = strcspn(text, "=;");
        if (length > 0) {
            int which = find(text, name);
            char *end = NULL;
            long value = name < length ? strtol(text + name + 1, &end, 0) : 0;
            if (which < 0 || name == length || end != text + length) {
                fprintf(stderr, "fakecuda: FAKECUDA: '%.*s' is not understood\n", (int)length,
                        text);
                exit(2);
            }
            set_value((size_t)which, value);
        }
        text += length;
        text += *text == ';';
    }
}

__attribute__((constructor)) static void begin(void)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    from_environment(getenv("FAKECUDA"));
}
