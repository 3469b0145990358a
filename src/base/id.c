/*
 * id.c -- ids from a random prefix per thread and a counter of that thread.
 *
 * Threads: any; the source is thread-local. The one shared word is the fork generation: only the
 * child's fork handler writes it, while the child has a single thread, so relaxed is enough. A
 * thread whose source is of another generation draws a new prefix, so parent and child differ.
 */
#include "base/id.h"
#include "base/clock.h"
#include "base/hash.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static const uint64_t version8 = UINT64_C(8) << 12;
static const uint64_t variant = UINT64_C(2) << 62;

typedef struct source {
    uint64_t prefix;  /* 62 random bits */
    uint64_t counter; /* 60 bits are used */
    unsigned generation;
} source;

static __thread source own __attribute__((tls_model("initial-exec")));
static unsigned generation = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void in_child(void)
{
    __atomic_fetch_add(&generation, 1, __ATOMIC_RELAXED);
}

static void watch_fork(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

/* Old kernels and sandboxes may refuse getrandom; then what differs between threads is hashed. */
static uint64_t random_bits(void)
{
    uint64_t bits;
    if (getrandom(&bits, sizeof bits, 0) == (ssize_t)sizeof bits) {
        return bits;
    }
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    int64_t seed[6] = {wall.tv_sec,       wall.tv_nsec,      rk__now(),
                       (int64_t)getpid(), (int64_t)gettid(), (int64_t)(intptr_t)&own};
    return rk__hash64(seed, sizeof seed);
}

static __attribute__((noinline)) void draw(unsigned now)
{
    pthread_once(&fork_once, watch_fork);
    own.prefix = random_bits() & ~(UINT64_C(3) << 62);
    own.counter = 0;
    own.generation = now;
}

rk__id rk__id_new(void)
{
    unsigned now = __atomic_load_n(&generation, __ATOMIC_RELAXED);
    if (own.generation != now) {
        draw(now);
    }
    uint64_t n = own.counter++;
    return (rk__id){(n >> 12) << 16 | version8 | (n & 0xFFF), variant | own.prefix};
}

void rk__id_bytes(rk__id id, uint8_t bytes[16])
{
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(id.high >> (56 - 8 * i));
        bytes[8 + i] = (uint8_t)(id.low >> (56 - 8 * i));
    }
}

rk__id rk__id_from_bytes(const uint8_t bytes[16])
{
    rk__id id = {0, 0};
    for (int i = 0; i < 8; i++) {
        id.high = id.high << 8 | bytes[i];
        id.low = id.low << 8 | bytes[8 + i];
    }
    return id;
}

static bool is_dash(int position)
{
    return position == 8 || position == 13 || position == 18 || position == 23;
}

const char *rk__id_format(rk__id id, char text[RK__ID_TEXT])
{
    static const char digits[] = "0123456789abcdef";
    uint8_t bytes[16];
    rk__id_bytes(id, bytes);
    int nibble = 0;
    for (int i = 0; i < RK__ID_TEXT - 1; i++) {
        if (is_dash(i)) {
            text[i] = '-';
        } else {
            text[i] = digits[bytes[nibble / 2] >> (nibble % 2 ? 0 : 4) & 15];
            nibble++;
        }
    }
    text[RK__ID_TEXT - 1] = '\0';
    return text;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool rk__id_parse(const char *text, rk__id *out)
{
    uint8_t bytes[16] = {0};
    int nibble = 0;
    for (int i = 0; i < RK__ID_TEXT - 1; i++) {
        int value = digit_value(text[i]);
        if (is_dash(i) ? text[i] != '-' : value < 0) {
            return false;
        }
        if (!is_dash(i)) {
            bytes[nibble / 2] = (uint8_t)(bytes[nibble / 2] << 4 | value);
            nibble++;
        }
    }
    if (text[RK__ID_TEXT - 1] != '\0') {
        return false;
    }
    *out = rk__id_from_bytes(bytes);
    return true;
}
