/* source.c -- the lexer that looks for RK_ON and its siblings in the text of a kernel. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "device/device.h"

static rk__source scan(const char *text, int first_line)
{
    rk__source source;
    cr_assert_eq(rk__source_scan("k.cu", text, first_line, &source), 0, "%s", rk_errdetail());
    return source;
}

static void refuses(const char *text, const char *what)
{
    rk__source source;
    cr_assert_eq(rk__source_scan("k.cu", text, 1, &source), RK_ECOMPILE, "%s", text);
    cr_assert(strstr(rk_errdetail(), what) != NULL, "%s: %s", text, rk_errdetail());
}

Test(source, finds_every_block_with_its_line)
{
    rk__source s = scan("#include \"rk_kernel.h\"\n"
                        "RK_STATE { int n; };\n"
                        "RK_ON(Alpha, a)\n{\n    int x[3] = {1, 2, 3};\n}\n"
                        "RK_ON ( Beta ,b) {}\n"
                        "RK_ON_START { }\n"
                        "RK_ON_STOP { }\n"
                        "RK_EVERY(0.5) { }\n"
                        "RK_EVERY( (1 + 2) * 0.25 ) { }\n",
                        100);
    cr_assert_eq(s.handler_count, 2);
    cr_assert_str_eq(s.handlers[0].type, "Alpha");
    cr_assert_eq(s.handlers[0].line, 102);
    cr_assert_str_eq(s.handlers[1].type, "Beta");
    cr_assert_eq(s.handlers[1].line, 106);
    cr_assert_eq(s.state_line, 101);
    cr_assert_eq(s.start_line, 107);
    cr_assert_eq(s.stop_line, 108);
    cr_assert_eq(s.every_count, 2);
    cr_assert_eq(s.every_lines[1], 110);
    cr_assert_str_eq(s.every_periods[0], "0.5");
    cr_assert_str_eq(s.every_periods[1], "(1 + 2) * 0.25");
    rk__source_free(&s);
}

Test(source, shared_scratch_is_noted_in_one_line)
{
    rk__source s = scan("RK_ON(A, a) {\n    RK_SHARED(struct\n pair /* p */, pairs,\n"
                        "        [(W + // wide\n          1)]);\n}\n",
                        1);
    cr_assert_eq(s.shared_count, 1);
    cr_assert_eq(s.shared[0].line, 2);
    cr_assert_eq(s.shared[0].last_line, 5);
    cr_assert_null(strpbrk(s.shared[0].type, "\n/"));
    cr_assert_null(strpbrk(s.shared[0].dims, "\n/"));
    cr_assert_eq(strncmp(s.shared[0].type, "struct  pair", 12), 0);
    cr_assert_eq(strncmp(s.shared[0].dims, "[(W +", 5), 0);
    rk__source_free(&s);
}

Test(source, looks_past_comments_strings_and_directives)
{
    rk__source s = scan("// RK_ON(A, a) { \\\n   RK_ON(B, b) {\n"
                        "/* RK_ON(C, c) {\n { */ const char *t = \"RK_ON(D, d) { \\\" {\";\n"
                        "#define OPEN { /* RK_ON(E, e)\n { */ \\\n  (\n"
                        "char q = '{', r = '\\'';\n"
                        "static void f(void) { RK_ON(F, f); }\n"
                        "/* a comment */ # define CLOSE }\n"
                        "int RK_ONLY; RK_ON(Real, r) { }\n",
                        1);
    cr_assert_eq(s.handler_count, 1);
    cr_assert_str_eq(s.handlers[0].type, "Real");
    cr_assert_eq(s.handlers[0].line, 11);
    rk__source_free(&s);
}

Test(source, text_without_blocks_is_fine)
{
    rk__source s = scan("", 1);
    cr_assert_eq(s.handler_count + s.every_count, 0);
    cr_assert_eq(s.start_line + s.stop_line + s.state_line, 0);
    rk__source_free(&s);
}

Test(source, errors_name_the_line)
{
    refuses("RK_ON(A, a) {\n", "k.cu:1: this { is not closed");
    refuses("RK_ON(A, a) { }\n}\n", "k.cu:2: this } closes nothing");
    refuses("RK_ON(A, a) {\n  f(1;\n}\n", "k.cu:3: this } does not match the ( of line 2");
    refuses("RK_ON(A, a) { }\n\nRK_ON(A, b) { }\n",
            "k.cu:3: a second RK_ON(A, ...); the first is in line 1");
    refuses("RK_STATE { };\nRK_STATE { };\n", "k.cu:2: a second RK_STATE; the first is in line 1");
    refuses("RK_ON_START { }\nRK_ON_START { }\n", "k.cu:2: a second RK_ON_START");
    refuses("RK_ON_STOP { } RK_ON_STOP { }\n", "k.cu:1: a second RK_ON_STOP");
    refuses("\n/* never ends\n\n", "k.cu:2: this comment does not end");
    refuses("char *s = \"abc\n\";", "k.cu:1: this string does not end");
    refuses("RK_ON { }", "k.cu:1: RK_ON wants arguments");
    refuses("RK_ON() { }", "RK_ON wants a message type");
    refuses("RK_EVERY() { }", "RK_EVERY wants a period");
    refuses("RK_EVERY(1) { } RK_EVERY(2) { }", "two RK_EVERY in one line");
}

Test(source, deep_nesting_is_refused)
{
    char text[1001];
    memset(text, '(', 1000);
    text[1000] = '\0';
    refuses(text, "nest too deep");
}

/* ---- variables that keep a value ------------------------------------------------------------ */

/* "name:line name:line ...", as the text has them from line 10 on. */
static void keeps(const char *text, const char *expected)
{
    rk__variable *found = NULL;
    rk__source source;
    size_t count = 0, used = 0;
    char said[512] = "";
    cr_assert_eq(rk__source_scan("k.cu", text, 10, &source), 0, "%s", rk_errdetail());
    rk__source_free(&source);
    cr_assert_eq(rk__source_variables(text, 10, &found, &count), 0, "%s", rk_errdetail());
    for (size_t i = 0; i < count; i++) {
        used += (size_t)snprintf(said + used, sizeof said - used, "%s%s:%d", i ? " " : "",
                                 found[i].name, found[i].line);
    }
    free(found);
    cr_assert_str_eq(said, expected, "%s", text);
}

Test(source, finds_variables_at_file_scope)
{
    keeps("int x;\nstatic float f = 1, *g, h[3] = {1, 2, 3};\n", "x:10 f:11 g:11 h:11");
    keeps("const char *name = \"x\";\nchar *const fixed = 0;\n", "name:10");
    keeps("static struct point { int x, y; } origin;\nstruct point *p, q = {1, 2};\n",
          "origin:10 p:11 q:11");
    keeps("enum kind { A, B } kind;\nunion { int i; float f; } both[2];\n", "kind:10 both:11");
    keeps("int (*call)(int), (*const fixed)(int) = 0;\nint (*calls[2])(void);\n",
          "call:10 calls:11");
    keeps("unsigned long long\n    total = 0\n;\n", "total:11");
    keeps("__device__ int a;\n__shared__ float b[4];\n__attribute__((aligned(16))) int c;\n"
          "int d __attribute__((unused)) = (1, 2);\n",
          "a:10 b:11 c:12 d:13");
    keeps("typedef struct { int x; } P;\nP p;\n__typeof__(1 + 1) q;\n", "p:11 q:12");
    keeps("extern int x;\nextern int y = 3;\nextern \"C\" {\nint z;\n}\nint w;\n",
          "y:11 z:13 w:15");
    keeps("const int a = 1, *b, *const c = &a;\n", "b:10");
    keeps("static volatile int flag;\nthread_local int mine;\nint n{3};\n", "flag:10 mine:11 n:12");
    keeps("DECLARE(a, b)\nint x;\nCHECK(1);\nint y;\n", "x:11 y:13");
    keeps("RK_STATE { int n; };\nRK_ON(A, a) { }\nint after;\n", "after:12");
    keeps("static int count = 0, f(int), more;\n", "count:10 more:10");
}

Test(source, finds_static_locals)
{
    keeps("RK_ON(A, a) {\n  int n = 0;\n  static int calls;\n  calls++;\n}\n", "calls:12");
    keeps("RK_EVERY(0.5) { if (1) { const static int t[] = {1}; static float x, *const y = 0; } }",
          "x:10");
    keeps("RK_ON_START { __shared__ float tile[256]; extern __shared__ char all[]; }\n",
          "tile:10 all:10");
    keeps("static int f(void)\n{\n    int static n;\n    return n++;\n}\n"
          "int g(void) { switch (1) { case 1: static int m; } return 0; }\n",
          "n:12 m:15");
    keeps("struct s *f(struct s *x) { static struct s y = {1}; return &y; }\n", "y:10");
}

Test(source, constants_and_code_are_no_variables)
{
    keeps("static const float table[] = {1, 2};\nconst int a = 1, b = 2;\nint const c = 3;\n"
          "static const char *const names[] = {\"a\", \"b\"};\n"
          "const struct p { int x; } origin = {0};\n__constant__ int k[3];\n"
          "static constexpr int n = 3;\nconst char *const *const deep = 0;\n",
          "");
    keeps("int f(void);\nstatic inline float g(const float *x, int n) { float y = x[n]; return y; "
          "}\nextern float h(float);\nint *pointer(int a, int (*b)(int));\n"
          "int (*chooser(int which))(int);\n__device__ __attribute__((noinline)) int d(int a)\n"
          "{\n    return a;\n}\nvoid (*back(void))(void) { return 0; }\n",
          "");
    keeps("typedef struct node { struct node *next; } node;\ntypedef int (*callback)(int);\n"
          "typedef float row[4];\nstruct forward;\nenum { LIMIT = 3 };\nenum color { RED, BLUE };\n"
          "struct pair { int a, b; static_assert(1, \"x\"); };\nunion u { int i; };\n"
          "using number = int;\n_Static_assert(sizeof(int) == 4, \"int\");\n",
          "");
    keeps("RK_STATE { int64_t total; float *p; };\n"
          "RK_ON(A, a) { int n = 0; RK_SHARED(float, tile, [256]); RK_FOR (i, 3) { n += i; } "
          "rk_reply(ctx, B, .n = n); }\nRK_ON_START { rk_get_state(ctx)->total = 0; }\n"
          "RK_ON_STOP\n{\n}\nRK_EVERY(0.5) { for (int i = 0; i < 3; i++) { } }\n",
          "");
    keeps("#define TABLE static const float\n#define LIST(x) static int x\n#define ONE 1 /* const "
          "*/\nTABLE t[] = {1, 2};\nRK_ENTRY_CONST int n = ONE;\ntypedef const int fixed;\n"
          "fixed f = 3;\n",
          "");
    keeps("/* int x; */ // int y;\nstatic const char *const t = \"int z;\";\n#if 1\n#endif\n"
          "template <typename T> __device__ T twice(T x) { return x + x; }\n"
          "namespace deep { static const int n = 1; }\n;;\n",
          "");
    keeps("static float scale(float x) { static const float by[] = {1, 2}; "
          "static const char *const t = \"static int n;\"; return x * by[1] * (float)*t; }\n",
          "");
    keeps("", "");
}

Test(source, a_text_that_ends_early_ends_the_reading)
{
    static const char text[] = "RK_ON(A, a) { static int n = f((1; \"";
    char part[sizeof text];
    for (size_t size = 0; size < sizeof text; size++) {
        rk__variable *found = NULL;
        size_t count = 0;
        memcpy(part, text, size);
        part[size] = '\0';
        cr_assert_eq(rk__source_variables(part, 1, &found, &count), 0);
        free(found);
    }
}
