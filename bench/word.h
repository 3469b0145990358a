/* word.h -- the 64-byte message of the C cases, and the ring kernel that answers it. */
#ifndef RK_BENCH_WORD_H
#define RK_BENCH_WORD_H

#include "bench.h"
#include "rk.h"

enum kind { ECHO, COUNT, LAST };

/* The struct of the message type: members of one alignment are sorted by name. */
typedef struct word {
    uint64_t a_number, b_kind, c, d, e, f, g, h;
} word;

_Static_assert(sizeof(word) == 64, "one cache line");

static inline const rk_type *word_type(void)
{
    static const rk_field fields[] = {{"a_number", "u64"}, {"b_kind", "u64"}, {"c", "u64"},
                                      {"d", "u64"},        {"e", "u64"},      {"f", "u64"},
                                      {"g", "u64"},        {"h", "u64"}};
    const rk_type *type;
    if (rk_message_define(&type, "BenchWord", fields, 8) < 0) {
        bench_die("%s", rk_errdetail());
    }
    return type;
}

/* Does what the host actor in actors.c does: echo, or count and answer the last one. */
static const char word_source[] =
    "RK_STATE { uint64_t seen, wrong; };\n"
    "RK_ON(BenchWord, m) {\n"
    "    if (m->b_kind == 0) {\n"
    "        rk_reply(ctx, BenchWord, .a_number = m->a_number + 1, .c = m->c, .d = m->d,\n"
    "                 .e = m->e, .f = m->f, .g = m->g, .h = m->h);\n"
    "        return;\n"
    "    }\n"
    "    rk_state *s = rk_get_state(ctx);\n"
    "    s->wrong += m->a_number != s->seen++;\n"
    "    if (m->b_kind == 2) {\n"
    "        rk_reply(ctx, BenchWord, .a_number = s->seen, .b_kind = s->wrong);\n"
    "        s->seen = s->wrong = 0;\n"
    "    }\n"
    "}\n";

static inline void word_kernel(const rk_type *type)
{
    rk_kernel kernel = RK_KERNEL_INIT;
    kernel.name = "bench_word";
    kernel.source = word_source;
    kernel.accepts = kernel.replies = &type;
    kernel.accepts_count = kernel.replies_count = 1;
    if (rk_kernel_define(&kernel) < 0) {
        bench_die("%s", rk_errdetail());
    }
}

#endif
