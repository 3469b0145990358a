/*
 * decode.c -- fuzz target: MessagePack decoding.
 *
 * Whatever decodes is encoded, decoded and encoded again: both encodings must be equal. An input
 * without a type must come back byte for byte. Runs under libFuzzer, or under driver.c where clang
 * has no fuzzer runtime. With RK_FUZZ_CORPUS set, the first messages are written to that folder.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/strbuf.h"
#include "fuzz.h"
#include "message/codec.h"
#include "schemas.h"

enum { TYPES = 6, SEEDS = 24 };

static const rk_type *types[TYPES];

static void must(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "decode: %s (%s)\n", what, rk_errdetail());
        abort();
    }
}

static void define_types(void)
{
    static const rk_field point[] = {{"x", "f32"}, {"y", "f64"}, {"n", "i16"}};
    static const rk_field all[] = {{"b", "bool"},     {"i", "i8"},     {"j", "i64"},
                                   {"u", "u64"},      {"f", "f32"},    {"d", "f64"},
                                   {"id", "uuid"},    {"p", "pid"},    {"s", "string[16]"},
                                   {"r", "bytes[9]"}, {"at", "Point"}, {"z", "any[64]"}};
    static const rk_field arrays[] = {{"f", "f32[8]"}, {"d", "f64[4]"},  {"i", "i16[4]"},
                                      {"u", "u8[16]"}, {"b", "bool[3]"}, {"id", "uuid[2]"},
                                      {"p", "pid[2]"}};
    static const rk_field nest[] = {{"a", "All"}, {"v", "Arrays"}, {"at", "Point"}};
    must(rk_message_define(&types[0], "Point", point, 3) == 0, "define");
    must(rk_message_define(&types[1], "All", all, 12) == 0, "define");
    must(rk_message_define(&types[2], "Arrays", arrays, 7) == 0, "define");
    must(rk_message_define(&types[3], "Nest", nest, 3) == 0, "define");
    must(rk_message_define(&types[4], "E", NULL, 0) == 0, "define");
    types[5] = rk__type_error();
    must(types[5] != NULL, "define");
}

size_t fuzz_seed(size_t i, void **bytes, size_t *size)
{
    if (i >= SEEDS) {
        return SEEDS;
    }
    dice d = {i};
    rk_message *m;
    must(rk_message_new(&m, types[i % TYPES]) == 0, "new");
    if (i >= TYPES) { /* the first of each type is all zero */
        random_struct(&d, types[i % TYPES], rk_message_data(m));
        rk__body_id_set(m->body, (rk__id){roll(&d), roll(&d)});
        m->correlation = (rk__id){roll(&d), roll(&d)};
        rk_message_set_priority(m, (int)below(&d, 256));
    }
    must(rk_message_pack(m, bytes, size) == 0, "pack");
    rk__delivery_free(m);
    return SEEDS;
}

static void write_corpus(const char *folder)
{
    for (size_t i = 0; i < SEEDS; i++) {
        char path[4096];
        void *bytes;
        size_t size;
        fuzz_seed(i, &bytes, &size);
        snprintf(path, sizeof path, "%s/seed%zu", folder, i);
        FILE *file = fopen(path, "wb");
        must(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0, path);
        free(bytes);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    define_types();
    const char *folder = getenv("RK_FUZZ_CORPUS");
    if (folder) {
        write_corpus(folder);
    }
    return 0;
}

static void check_again(rk_message *m, const void *input, size_t input_size)
{
    void *first, *second;
    size_t size, size_again;
    rk_message *copy;
    must(rk_message_pack(m, &first, &size) == 0, "what decodes must encode");
    must(rk_message_unpack(&copy, first, size) == 0, "what was encoded must decode");
    must(rk_message_type(copy) == rk_message_type(m), "the type must survive");
    must(rk_message_pack(copy, &second, &size_again) == 0, "the copy must encode");
    must(size == size_again && memcmp(first, second, size) == 0, "both encodings must be equal");
    if (!rk_message_type(m)) {
        must(size == input_size && memcmp(first, input, size) == 0, "bytes must stay bytes");
    }
    rk__delivery_free(copy);
    free(first);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rk_message *m = NULL;
    int rc = rk__message_unpack(&m, data, size);
    if (rc == 0) {
        check_again(m, data, size);
        rk__delivery_free(m);
    } else {
        must(m == NULL, "nothing is given on failure");
        must(*rk_errdetail() != '\0', "every failure has a sentence");
    }
    return 0;
}
