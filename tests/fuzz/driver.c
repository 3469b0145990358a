/*
 * driver.c -- a seeded mutation fuzzer for machines whose clang has no libFuzzer.
 *
 * usage: driver SECONDS [SEED [EXECUTIONS]]
 *
 * Each execution follows from the seed and its number alone. Ends after SECONDS, or after
 * EXECUTIONS when given, and prints "fuzz: N executions". When the target aborts, the last line on
 * stderr says how to run up to the same input again.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "fuzz.h"
#include "schemas.h"

enum { INPUT_MAX = 16384 };

static char rerun[256]; /* written before an execution, printed when it dies */
static uint64_t seed, executions;

static void on_abort(int signal_number)
{
    (void)signal_number;
    int n = snprintf(rerun, sizeof rerun, "rerun: driver 0 %llu %llu\n", (unsigned long long)seed,
                     (unsigned long long)executions + 1);
    ssize_t ignored = write(2, rerun, (size_t)n);
    (void)ignored;
    _exit(1);
}

static void put(uint8_t *input, size_t size, dice *d)
{
    /* Headers and limits are where decoders go wrong. */
    static const uint8_t bytes[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1,
                                    0xc4, 0xc6, 0xc7, 0xc9, 0xca, 0xcb, 0xcc, 0xcf, 0xd0, 0xd3,
                                    0xd4, 0xd8, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xff};
    input[below(d, (uint32_t)size)] = bytes[below(d, sizeof bytes)];
}

static size_t erase(uint8_t *input, size_t size, dice *d)
{
    size_t from = below(d, (uint32_t)size), n = 1 + below(d, 16);
    n = n < size - from ? n : size - from;
    memmove(input + from, input + from + n, size - from - n);
    return size - n;
}

static size_t insert(uint8_t *input, size_t size, dice *d, const uint8_t *other, size_t other_size)
{
    size_t at = below(d, (uint32_t)size + 1), from = below(d, (uint32_t)other_size);
    size_t n = 1 + below(d, 24);
    n = n < other_size - from ? n : other_size - from;
    if (size + n > INPUT_MAX) {
        return size;
    }
    memmove(input + at + n, input + at, size - at);
    memcpy(input + at, other + from, n);
    return size + n;
}

static size_t mutate(uint8_t *input, size_t size, dice *d, const uint8_t *other, size_t other_size)
{
    for (uint32_t left = 1 + below(d, 6); left && size; left--) {
        switch (below(d, 6)) {
        case 0:
            input[below(d, (uint32_t)size)] ^= (uint8_t)(1u << below(d, 8));
            break;
        case 1:
            input[below(d, (uint32_t)size)] = (uint8_t)roll(d);
            break;
        case 2:
            put(input, size, d);
            break;
        case 3:
            size = erase(input, size, d);
            break;
        case 4:
            size = insert(input, size, d, other, other_size);
            break;
        default:
            size = below(d, 4) ? size : below(d, (uint32_t)size);
            break;
        }
    }
    return size;
}

/* The target sees a block of exactly the input's size, so that a sanitizer sees its ends. */
static void execute(const uint8_t *input, size_t size)
{
    uint8_t *exact = malloc(size + 1);
    if (!exact) {
        return;
    }
    memcpy(exact + 1, input, size);
    LLVMFuzzerTestOneInput(exact + 1, size);
    free(exact);
    executions++;
}

static void one(void *const *seeds, const size_t *sizes, size_t count)
{
    static uint8_t input[INPUT_MAX];
    dice d = {seed ^ (executions * 0xd1342543de82ef95u)};
    size_t i = below(&d, (uint32_t)count), k = below(&d, (uint32_t)count);
    size_t size = sizes[i] < INPUT_MAX ? sizes[i] : INPUT_MAX;
    memcpy(input, seeds[i], size);
    size = executions < count ? size : mutate(input, size, &d, seeds[k], sizes[k]);
    execute(input, size);
}

int main(int argc, char **argv)
{
    void *seeds[64];
    size_t sizes[64], count = 0;
    LLVMFuzzerInitialize(&argc, &argv);
    while (count < 64 && count < fuzz_seed(count, &seeds[count], &sizes[count])) {
        count++;
    }
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 5;
    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)rk__now();
    uint64_t most = argc > 3 ? strtoull(argv[3], NULL, 0) : 0;
    int64_t end = rk__now() + (int64_t)(seconds * 1e9);
    printf("fuzz: seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    signal(SIGABRT, on_abort);
    while (most ? executions < most : executions == 0 || rk__now() < end) {
        one(seeds, sizes, count);
    }
    printf("fuzz: %llu executions\n", (unsigned long long)executions);
    for (size_t i = 0; i < count; i++) {
        free(seeds[i]);
    }
    return executions ? 0 : 1;
}
