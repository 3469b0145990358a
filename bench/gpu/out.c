/*
 * out.c -- settings, waiting and result lines of the programs of bench/gpu.
 *
 * Threads: see out.h; nothing is shared but the counts of waiting, which are each thread's own.
 */
#include "out.h"

#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "rk.h"

/* ---- settings ------------------------------------------------------------------------------- */

static bool is_set(const char *name)
{
    const char *text = getenv(name);
    return text != NULL && text[0] != '\0' && strcmp(text, "0") != 0;
}

static double number(const char *name, double otherwise)
{
    const char *text = getenv(name);
    double value = text != NULL ? atof(text) : 0;
    return value > 0 ? value : otherwise;
}

bool bench_standin(void)
{
    return is_set("RK_CUDA_LIBS") || is_set("RK_GPU_STANDIN");
}

bool bench_quick(void)
{
    return is_set("RK_BENCH_QUICK") || bench_standin();
}

uint64_t bench_share(uint64_t full)
{
    uint64_t share = bench_once(full, full / 1000) / (uint64_t)number("BENCH_ROUNDS", 1);
    return share > 20 ? share + 1 : 20;
}

uint64_t bench_once(uint64_t full, uint64_t quick)
{
    return bench_quick() ? quick : full;
}

unsigned bench_round(void)
{
    return (unsigned)number("BENCH_ROUND", 0);
}

int64_t bench_cap(void)
{
    return (int64_t)(number("BENCH_CAP", bench_quick() ? 0.5 : 2) * 1e9);
}

/* ---- failing and waiting -------------------------------------------------------------------- */

enum { WAIT_MAX = 20 }; /* seconds */

void bench_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("bench/gpu: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    fflush(NULL);
    _exit(1); /* nothing of the process's end may wait for a kernel that does not */
}

void bench_must(int code, const char *what)
{
    if (code < 0) {
        bench_fail("%s: %s", what, rk_errdetail());
    }
}

bool bench_wait_crowded(void)
{
    static int crowded = -1;
    if (crowded < 0) {
        crowded = bench_standin() || sysconf(_SC_NPROCESSORS_ONLN) < 4;
    }
    return crowded;
}

void bench_wait_long(bench_wait *w, const char *what)
{
    if (bench_wait_crowded()) {
        sched_yield();
    }
    if (w->spins % 4096 != 0) {
        return; /* a clock read would lengthen what is measured */
    }
    if (w->since == 0) {
        w->since = rk__now();
    } else if (rk__now() - w->since > WAIT_MAX * INT64_C(1000000000)) {
        bench_fail("%s: nothing came in %d s", what, WAIT_MAX);
    }
}

void bench_begin(bench_trips *t, uint64_t wanted)
{
    rk__histogram_reset(&t->histogram);
    t->wanted = wanted;
    t->warm = wanted / 10 < 1000 ? wanted / 10 : 1000;
    t->last = rk__now();
    t->until = t->last + bench_cap();
}

/* ---- lines ---------------------------------------------------------------------------------- */

static char source[512] = "unknown";

void bench_source(const char *name)
{
    snprintf(source, sizeof source, "%s", bench_standin() ? "stand-in, not a GPU" : name);
}

static void put_text(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < ' ' || c == '"' || c == '\\') {
            printf("\\u%04x", c);
        } else {
            putchar(c);
        }
    }
    putchar('"');
}

static void put_number(double value)
{
    printf("%.9g", value == value && value < 1e300 && value > -1e300 ? value : 0);
}

static void begin_line(const char *name, const char *variant, const bench_param *params)
{
    fputs("{\"name\":", stdout);
    put_text(name);
    fputs(",\"variant\":", stdout);
    put_text(variant);
    fputs(",\"source\":", stdout);
    put_text(source);
    fputs(",\"params\":{", stdout);
    for (const bench_param *p = params; p->name != NULL; p++) {
        printf("%s\"%s\":", p == params ? "" : ",", p->name);
        put_number(p->value);
    }
    fputs("}", stdout);
}

static void end_line(void)
{
    fputs("}\n", stdout);
    fflush(stdout); /* a later case may not come back */
}

static uint64_t upper_edge(unsigned bucket)
{
    if (bucket < 32) {
        return bucket;
    }
    unsigned shift = bucket / 32 - 1;
    uint64_t lower = (uint64_t)(32 + bucket % 32) << shift;
    return lower + ((UINT64_C(1) << shift) - 1);
}

static void put_unit(const char *unit)
{
    printf(",\"unit\":\"%s%s\"", unit, bench_standin() ? " (stand-in, not a GPU)" : "");
}

void bench_histogram(const char *name, const char *variant, const bench_param *params,
                     const rk__histogram *h)
{
    bool first = true;
    begin_line(name, variant, params);
    put_unit("ns");
    printf(",\"n\":%" PRIu64 ",\"p50\":%" PRId64 ",\"p99\":%" PRId64 ",\"p999\":%" PRId64, h->count,
           rk__histogram_quantile(h, 0.5), rk__histogram_quantile(h, 0.99),
           rk__histogram_quantile(h, 0.999));
    printf(",\"min\":%" PRIu64 ",\"max\":%" PRIu64 ",\"mean\":%.1f,\"buckets\":[", h->min, h->max,
           rk__histogram_mean(h));
    for (unsigned i = 0; i < RK__HISTOGRAM_BUCKETS; i++) {
        if (h->buckets[i] > 0) {
            printf("%s[%" PRIu64 ",%" PRIu64 "]", first ? "" : ",", upper_edge(i), h->buckets[i]);
            first = false;
        }
    }
    fputs("]", stdout);
    end_line();
}

void bench_value(const char *name, const char *variant, const bench_param *params, double value,
                 const char *unit)
{
    begin_line(name, variant, params);
    put_unit(unit);
    fputs(",\"value\":", stdout);
    put_number(value);
    end_line();
}

static void put_sentence(const char *key, const char *format, va_list args)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, args);
    printf(",\"%s\":", key);
    put_text(text);
    end_line();
}

void bench_missing(const char *name, const char *variant, const bench_param *params,
                   const char *format, ...)
{
    va_list args;
    begin_line(name, variant, params);
    va_start(args, format);
    put_sentence("missing", format, args);
    va_end(args);
}

void bench_says(const char *name, const char *variant, const char *format, ...)
{
    va_list args;
    begin_line(name, variant, BENCH_NONE);
    va_start(args, format);
    put_sentence("says", format, args);
    va_end(args);
}
