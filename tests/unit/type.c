/* type.c -- schemas: layout against the C and C++ compilers, identity, and every refusal. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/strbuf.h"
#include "message/type.h"
#include "schemas.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const rk_type *define(const char *name, const rk_field *fields, size_t count)
{
    const rk_type *type = NULL;
    int rc = rk_message_define(&type, name, fields, count);
    cr_assert_eq(rc, 0, "%s: %s", name, rk_errdetail());
    return type;
}

/* ---- the real compilers ---- */

static int run(const char *const *argv)
{
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool have(const char *program)
{
    char command[64];
    snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", program);
    return system(command) == 0;
}

static void write_file(const char *path, const char *text, size_t size)
{
    FILE *file = fopen(path, "w");
    cr_assert(file);
    cr_assert_eq(fwrite(text, 1, size, file), size);
    cr_assert_eq(fclose(file), 0);
}

/* Compiles text in a folder of its own; returns the compiler's exit status. */
static int compile(const char *compiler, const char *language, const rk__strbuf *text, bool quiet)
{
    char folder[] = "/tmp/rk-layout-XXXXXX", path[64];
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/layout.c", folder);
    write_file(path, text->bytes, text->size);
    const char *argv[] = {
        compiler,  "-x", language, "-fsyntax-only", "-DRK_CHECK_LAYOUT", "-Wall", "-Wextra",
        "-Werror", path, NULL};
    if (quiet) {
        cr_assert(freopen("/dev/null", "w", stderr), "the refusal is expected");
    }
    int status = run(argv);
    unlink(path);
    rmdir(folder);
    return status;
}

static const char prelude[] = "typedef signed char int8_t; typedef short int16_t;\n"
                              "typedef int int32_t; typedef long int64_t;\n"
                              "typedef unsigned char uint8_t; typedef unsigned short uint16_t;\n"
                              "typedef unsigned int uint32_t; typedef unsigned long uint64_t;\n"
                              "#ifdef __cplusplus\n#define CHECK(c) static_assert(c, #c)\n"
                              "#define ALIGN(t) alignof(t)\n#else\n#define bool _Bool\n"
                              "#define CHECK(c) _Static_assert(c, #c)\n"
                              "#define ALIGN(t) _Alignof(t)\n#endif\n";

/* Our own asserts, beside those the header carries. */
static void write_checks(rk__strbuf *s, const rk_type *type)
{
    rk__strbuf_addf(s, "CHECK(sizeof(%s) == %u && ALIGN(%s) == %u);\n", type->name, type->size,
                    type->name, type->align);
    for (uint32_t i = 0; i < type->field_count; i++) {
        const rk__fielddef *f = &type->fields[i];
        rk__strbuf_addf(s, "CHECK(__builtin_offsetof(%s, %s) == %u);\n", type->name, f->name,
                        f->offset);
        rk__strbuf_addf(s, "CHECK(sizeof(((%s *)0)->%s) == %u);\n", type->name, f->name,
                        f->element * f->capacity);
        if (f->count_offset != UINT32_MAX) {
            rk__strbuf_addf(s, "CHECK(__builtin_offsetof(%s, %s_count) == %u);\n", type->name,
                            f->name, f->count_offset);
        }
    }
}

enum { TYPES = 200 };

static void random_types(uint64_t seed, const rk_type *types[TYPES])
{
    dice d = {seed};
    for (size_t i = 0; i < TYPES; i++) {
        char name[32];
        snprintf(name, sizeof name, "Layout%zu", i);
        cr_assert_eq(random_type(&d, name, types, i, &types[i]), 0, "%s", rk_errdetail());
    }
}

Test(type, layout_is_the_compilers)
{
    const rk_type *types[TYPES];
    rk__strbuf text = RK__STRBUF_INIT;
    random_types(20261, types);
    rk__strbuf_adds(&text, prelude);
    cr_assert_eq(rk__type_header(&text, types, TYPES), 0);
    for (size_t i = 0; i < TYPES; i++) {
        write_checks(&text, types[i]);
    }
    cr_assert(!text.failed);
    cr_assert_not(strstr(text.bytes, "#include"), "NVRTC finds no headers");
    cr_assert_eq(compile("cc", "c", &text, false), 0);
    if (have("g++")) {
        cr_assert_eq(compile("g++", "c++", &text, false), 0);
    }
    rk__strbuf_free(&text);
}

Test(type, a_wrong_layout_does_not_compile)
{
    const rk_type *type = define("Wrong", (rk_field[]){{"x", "f32"}}, 1);
    rk__strbuf text = RK__STRBUF_INIT;
    rk__strbuf_adds(&text, prelude);
    cr_assert_eq(rk__type_header(&text, &type, 1), 0);
    cr_assert_eq(compile("cc", "c", &text, false), 0);
    char *size = strstr(text.bytes, "sizeof(Wrong) == 4");
    cr_assert(size);
    size[17] = '8';
    cr_assert_neq(compile("cc", "c", &text, true), 0);
    rk__strbuf_free(&text);
}

Test(type, header_has_each_type_once_nested_first)
{
    const rk_type *inner = define("HInner", (rk_field[]){{"x", "f32"}}, 1);
    const rk_type *outer = define("HOuter", (rk_field[]){{"a", "HInner"}, {"b", "HInner"}}, 2);
    const rk_type *types[] = {outer, inner, outer};
    char *text;
    cr_assert_eq(rk_type_header(&text, types, 3), 0);
    char *first = strstr(text, "typedef struct HInner"), *second = strstr(text, "struct HOuter");
    cr_assert(first && second && first < second);
    cr_assert_not(strstr(first + 1, "typedef struct HInner"));
    cr_assert(strstr(text, "#ifndef RK_STRUCT_HInner"));
    free(text);
}

/* ---- the documented layout ---- */

Test(type, members_come_by_alignment_counts_first)
{
    const rk_field fields[] = {{"a", "u8"},        {"b", "f64"}, {"c", "f32[3]"},
                               {"d", "string[5]"}, {"e", "i32"}, {"c0", "u16[2]"}};
    const rk_type *type = define("Order", fields, COUNT(fields));
    static const struct {
        const char *name;
        uint32_t offset, count_offset;
    } expected[] = {{"b", 0, UINT32_MAX}, {"c", 20, 12},         {"e", 32, UINT32_MAX},
                    {"c0", 36, 8},        {"a", 40, UINT32_MAX}, {"d", 41, 16}};
    cr_assert_eq(type->field_count, COUNT(expected));
    for (size_t i = 0; i < COUNT(expected); i++) {
        cr_expect_str_eq(type->fields[i].name, expected[i].name);
        cr_expect_eq(type->fields[i].offset, expected[i].offset, "%s", expected[i].name);
        cr_expect_eq(type->fields[i].count_offset, expected[i].count_offset, "%s",
                     expected[i].name);
    }
    cr_assert_eq(rk_type_size(type), 48);
    cr_assert_eq(type->align, 8);
    cr_assert_str_eq(type->canonical, "Order{b:f64;c:f32[3];e:i32;c0:u16[2];a:u8;d:string[5];}");
}

Test(type, an_empty_schema_has_one_byte)
{
    const rk_type *type = define("Empty", NULL, 0);
    cr_assert_eq(rk_type_size(type), 1);
    cr_assert_str_eq(type->canonical, "Empty{}");
}

Test(type, nested_types_are_part_of_the_identity)
{
    define("NInner", (rk_field[]){{"x", "f32"}, {"y", "u8"}}, 2);
    const rk_type *outer = define("NOuter", (rk_field[]){{"p", "NInner"}, {"z", "u8"}}, 2);
    cr_assert_str_eq(outer->canonical, "NOuter{p:NInner{x:f32;y:u8;};z:u8;}");
    cr_assert_eq(outer->size, 12);
    char text[96];
    cr_assert_str_eq(rk__field_text(&outer->fields[0], text), "NInner");
}

/* ---- identity ---- */

Test(type, the_same_schema_is_the_same_type)
{
    const rk_type *a = define("Same", (rk_field[]){{"x", "f32"}, {"y", "u8[4]"}}, 2);
    const rk_type *b = define("Same", (rk_field[]){{"y", "u8[4]"}, {"x", "f32"}}, 2);
    const rk_type *found = NULL;
    cr_assert_eq(a, b);
    cr_assert_eq(rk_message_find(&found, "Same"), 0);
    cr_assert_eq(found, a);
    const rk_type *other = define("Other", (rk_field[]){{"x", "f32"}, {"y", "u8[4]"}}, 2);
    cr_assert_neq(rk_type_hash(a), rk_type_hash(other));
    cr_assert_eq(other->id, a->id + 1);
}

Test(type, another_schema_of_a_name_is_refused_with_both)
{
    define("Twice", (rk_field[]){{"x", "f32"}}, 1);
    const rk_type *out = NULL;
    cr_assert_eq(rk_message_define(&out, "Twice", (rk_field[]){{"x", "f64"}}, 1), RK_EEXIST);
    cr_assert_null(out);
    cr_assert(strstr(rk_errdetail(), "Twice{x:f32;}") && strstr(rk_errdetail(), "Twice{x:f64;}"));
}

Test(type, names_of_the_runtimes_types_are_taken_from_the_start)
{
    const rk_type *out = NULL;
    cr_assert_eq(rk_message_define(&out, "down", (rk_field[]){{"x", "f32"}}, 1), RK_EEXIST);
    cr_assert_eq(rk_message_define(&out, "error", (rk_field[]){{"x", "f32"}}, 1), RK_EEXIST);
    cr_assert_eq(rk_message_find(&out, "down"), 0);
    cr_assert_eq(out, rk__type_down());
    cr_assert_str_eq(rk__type_error()->canonical, "error{code:i32;text:string[4096];}");
    cr_assert_null(rk__type_find("erro", 4));
    cr_assert_null(rk__type_find("down\0", 5));
}

static void *define_shared(void *arg)
{
    const rk_type **out = arg;
    rk_message_define(out, "Shared", (rk_field[]){{"x", "f32"}, {"y", "u64[8]"}}, 2);
    return NULL;
}

Test(type, threads_that_define_one_schema_get_one_type)
{
    pthread_t threads[8];
    const rk_type *types[8] = {NULL};
    for (size_t i = 0; i < 8; i++) {
        pthread_create(&threads[i], NULL, define_shared, &types[i]);
    }
    for (size_t i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        cr_assert(types[i]);
        cr_assert_eq(types[i], types[0]);
    }
    const rk_type *all[64];
    size_t count = rk__type_list(all, 64), seen = 0;
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(all[i]->id, i + 1);
        seen += strcmp(all[i]->name, "Shared") == 0;
    }
    cr_assert_eq(seen, 1);
}

/* ---- refusals ---- */

static void refused(const char *name, const rk_field *fields, size_t count, int code,
                    const char *part)
{
    const rk_type *out = NULL;
    int rc = rk_message_define(&out, name, fields, count);
    cr_expect_eq(rc, code, "%s: got %s (%s)", name, rk_err_name(rc), rk_errdetail());
    cr_expect_null(out);
    cr_expect(strstr(rk_errdetail(), part), "'%s' is not in '%s'", part, rk_errdetail());
}

Test(type, bad_field_types)
{
    define("Known", (rk_field[]){{"x", "f32"}}, 1);
    static const struct {
        const char *type;
        int code;
        const char *part;
    } cases[] = {
        {"f33", RK_ETYPE, "i64"},
        {"f33", RK_ETYPE, "Known"},
        {"f33", RK_ETYPE, "field 'v'"},
        {"", RK_ETYPE, "unknown type"},
        {"f32[0]", RK_ERANGE, "65536"},
        {"f32[65537]", RK_ERANGE, "65536"},
        {"u8[99999999999999999999]", RK_ERANGE, "65536"},
        {"f32[]", RK_EINVAL, "brackets"},
        {"f32[-1]", RK_EINVAL, "brackets"},
        {"f32[07]", RK_EINVAL, "brackets"},
        {"f32[4", RK_EINVAL, "brackets"},
        {"f32[4][4]", RK_EINVAL, "brackets"},
        {"f32 [4]", RK_ETYPE, "unknown type"},
        {"string", RK_EINVAL, "string[32]"},
        {"bytes", RK_EINVAL, "bytes[32]"},
        {"Unknown", RK_ETYPE, "Known"},
        {"Known[3]", RK_ETYPE, "no arrays of message types"},
        {"Bad", RK_ETYPE, "contain itself"},
        {"any[0]", RK_ERANGE, "65536"},
        {"any[65537]", RK_ERANGE, "65536"},
        {"buffer<f32>", RK_ETYPE, "later version"},
        {NULL, RK_EINVAL, "missing"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        refused("Bad", (rk_field[]){{"v", cases[i].type}}, 1, cases[i].code, cases[i].part);
    }
}

Test(type, any_is_bytes_with_a_count_on_the_host_only)
{
    char text[96];
    const rk_type *type = define("WithAny", (rk_field[]){{"v", "any"}, {"w", "any[3]"}}, 2);
    const rk_type *outer = define("AroundAny", (rk_field[]){{"in", "WithAny"}}, 1);
    cr_assert_str_eq(type->canonical, "WithAny{v:any[1000];w:any[3];}");
    cr_assert_eq(type->size, 1012);
    cr_assert_str_eq(rk__field_text(&type->fields[1], text), "any[3]");
    cr_assert(type->host_only && outer->host_only);
    cr_assert_not(define("NoAny", (rk_field[]){{"v", "bytes[3]"}}, 1)->host_only);
    rk__strbuf header = RK__STRBUF_INIT;
    cr_assert_eq(rk__type_header(&header, &type, 1), 0);
    cr_assert(strstr(header.bytes, "    uint32_t v_count;\n    uint32_t w_count;\n"
                                   "    uint8_t v[1000];\n    uint8_t w[3];\n"));
    rk__strbuf_free(&header);
}

Test(type, bad_field_names)
{
    static const char *const names[] = {
        "message_id",
        "correlation_id",
        "priority",
        "from",
        "sent",
        "type",
        "table",
        "pack",
        "x_count",
        "_count",
        "__x",
        "rk_x",
        "RK_x",
        "int",
        "class",
        "_Bool",
        "and",
        "",
        "9a",
        "a-b",
        "a b",
        "\xc3\xa9",
        "linux",
        NULL,
        "a123456789012345678901234567890123456789012345678901234567890123"};
    for (size_t i = 0; i < COUNT(names); i++) {
        refused("Names", (rk_field[]){{names[i], "f32"}}, 1, RK_EINVAL, "the name ");
    }
    refused("Names", (rk_field[]){{"x", "f32"}, {"y", "u8"}, {"x", "f64"}}, 3, RK_EINVAL,
            "two fields");
    define("LongName",
           (rk_field[]){{"a12345678901234567890123456789012345678901234567890123456789012", "u8"}},
           1);
}

Test(type, bad_type_names)
{
    static const char *const names[] = {"",        "9T",     "a-b",    "struct", "f32",
                                        "string",  "any",    "buffer", "rk_T",   "__T",
                                        "uint8_t", "float4", "NULL",   NULL,     "template"};
    for (size_t i = 0; i < COUNT(names); i++) {
        refused(names[i], (rk_field[]){{"x", "f32"}}, 1, RK_EINVAL, "the name ");
    }
    const rk_type *out;
    cr_assert_eq(rk_message_find(&out, "Nowhere"), RK_ENOENT);
    cr_assert(strstr(rk_errdetail(), "down"), "the error lists what exists");
}

Test(type, structs_have_a_limit)
{
    rk_field fields[20];
    char names[20][8];
    for (int i = 0; i < 20; i++) {
        snprintf(names[i], sizeof names[i], "f%d", i);
        fields[i] = (rk_field){names[i], "u8[65536]"};
    }
    cr_assert_eq(define("Large", fields, 15)->size, 15 * 65536 + 15 * 4);
    refused("TooLarge", fields, 17, RK_ERANGE, "1 MiB");
    fields[0] = (rk_field){"f0", "u64[65536]"};
    refused("TooLarge", fields, 20, RK_ERANGE, "1 MiB");
}

Test(type, nesting_has_a_limit)
{
    char name[16], inner[16];
    int rc = 0, depth = 0;
    for (; rc == 0 && depth < 64; depth++) {
        const rk_type *type;
        snprintf(inner, sizeof inner, "Deep%d", depth - 1);
        snprintf(name, sizeof name, "Deep%d", depth);
        rc = rk_message_define(&type, name, (rk_field[]){{"v", depth ? inner : "u8"}}, 1);
    }
    cr_assert_eq(rc, RK_ERANGE);
    cr_assert_eq(depth, 17);
}

Test(type, an_unknown_field_lists_the_fields)
{
    const rk_type *type = define("Fields", (rk_field[]){{"x", "f32"}, {"yy", "u8"}}, 2);
    const rk__fielddef *f = NULL;
    cr_assert_eq(rk__type_field(type, "yy", 2, &f), 0);
    cr_assert_str_eq(f->name, "yy");
    cr_assert_eq(rk__type_field(type, "y", 1, &f), RK_ENOENT);
    cr_assert_eq(rk__type_field(type, "x\0y", 3, &f), RK_ENOENT);
    cr_assert(strstr(rk_errdetail(), "x yy"));
}
