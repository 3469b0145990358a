/* source.c -- the lexer that looks for RK_ON and its siblings in the text of a kernel. */
#include <criterion/criterion.h>
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
