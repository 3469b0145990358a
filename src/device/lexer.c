/*
 * lexer.c -- steps through the text of a kernel: a lexer, not a preprocessor.
 *
 * Threads: any; a lexer belongs to its caller.
 */
#include "device/lexer.h"

#include <ctype.h>
#include "base/error.h"

int rk__lexer_fail(const rk__lexer *lex, int line, const char *what)
{
    return rk__fail(RK_ECOMPILE, "%s:%d: %s", lex->name, line, what);
}

void rk__lexer_step(rk__lexer *lex)
{
    if (*lex->at == '\n') {
        lex->line++;
        lex->line_start = true;
    } else if (!isspace((unsigned char)*lex->at)) {
        lex->line_start = false;
    }
    lex->at++;
}

static int skip_block_comment(rk__lexer *lex)
{
    int line = lex->line;
    bool line_start = lex->line_start;
    rk__lexer_step(lex);
    rk__lexer_step(lex);
    while (*lex->at && !(lex->at[0] == '*' && lex->at[1] == '/')) {
        rk__lexer_step(lex);
    }
    if (!*lex->at) {
        return rk__lexer_fail(lex, line, "this comment does not end");
    }
    rk__lexer_step(lex);
    rk__lexer_step(lex);
    lex->line_start = line_start;
    return 0;
}

/* To the end of the line; a backslash continues it. */
static void skip_line(rk__lexer *lex)
{
    while (*lex->at && *lex->at != '\n') {
        if (lex->at[0] == '\\' && lex->at[1]) {
            rk__lexer_step(lex);
        }
        rk__lexer_step(lex);
    }
}

static int skip_literal(rk__lexer *lex)
{
    char quote = *lex->at;
    int line = lex->line;
    rk__lexer_step(lex);
    while (*lex->at && *lex->at != quote && *lex->at != '\n') {
        if (lex->at[0] == '\\' && lex->at[1]) {
            rk__lexer_step(lex);
        }
        rk__lexer_step(lex);
    }
    if (*lex->at != quote) {
        return rk__lexer_fail(lex, line,
                              quote == '"' ? "this string does not end on its line"
                                           : "this character does not end on its line");
    }
    rk__lexer_step(lex);
    return 0;
}

/* Directives are skipped with the comments in them, which may go on over the line. */
static int skip_directive(rk__lexer *lex)
{
    while (*lex->at && *lex->at != '\n') {
        if (lex->at[0] == '/' && lex->at[1] == '*') {
            int rc = skip_block_comment(lex);
            if (rc < 0) {
                return rc;
            }
            continue;
        }
        if (lex->at[0] == '\\' && lex->at[1]) {
            rk__lexer_step(lex);
        }
        rk__lexer_step(lex);
    }
    return 0;
}

int rk__lexer_skip(rk__lexer *lex)
{
    const char *at = lex->at;
    if (at[0] == '/' && at[1] == '*') {
        int rc = skip_block_comment(lex);
        return rc < 0 ? rc : 1;
    }
    if (at[0] == '/' && at[1] == '/') {
        skip_line(lex);
        return 1;
    }
    if (at[0] == '"' || at[0] == '\'') {
        int rc = skip_literal(lex);
        return rc < 0 ? rc : 1;
    }
    if (at[0] == '#' && lex->line_start) {
        int rc = skip_directive(lex);
        return rc < 0 ? rc : 1;
    }
    if (isspace((unsigned char)at[0])) {
        rk__lexer_step(lex);
        return 1;
    }
    return 0;
}

static char closing(char open)
{
    return open == '{' ? '}' : open == '(' ? ')' : ']';
}

int rk__lexer_bracket(rk__lexer *lex)
{
    char c = *lex->at;
    if (c == '{' || c == '(' || c == '[') {
        if (lex->depth == RK__LEXER_NESTING) {
            return rk__lexer_fail(lex, lex->line, "brackets nest too deep");
        }
        lex->open_lines[lex->depth] = lex->line;
        lex->open[lex->depth++] = c;
    } else if (c == '}' || c == ')' || c == ']') {
        if (lex->depth == 0) {
            return rk__fail(RK_ECOMPILE, "%s:%d: this %c closes nothing", lex->name, lex->line, c);
        }
        lex->depth--;
        if (closing(lex->open[lex->depth]) != c) {
            return rk__fail(RK_ECOMPILE, "%s:%d: this %c does not match the %c of line %d",
                            lex->name, lex->line, c, lex->open[lex->depth],
                            lex->open_lines[lex->depth]);
        }
    }
    rk__lexer_step(lex);
    return 0;
}

bool rk__lexer_is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}
