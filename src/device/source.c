/*
 * source.c -- what the text of a ring kernel contains: its RK_ON, RK_EVERY, RK_STATE... blocks.
 *
 * A lexer, not a preprocessor: comments, strings and preprocessor lines are skipped, brackets are
 * counted, and the RK_ words outside all brackets are noted with their lines. The compiler has the
 * last word; this gives sentences that name types and lines before a compiler is asked, and tells
 * the generated end of the translation unit what to call.
 *
 * Threads: any; a scan touches only its arguments.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "device/device.h"

enum { NESTING_MAX = 256 };

struct lexer {
    const char *name, *at;
    int line;
    bool line_start; /* only blanks since the last newline: a # begins a directive */
    int depth;
    char open[NESTING_MAX];
    int open_lines[NESTING_MAX];
};

static int fail_at(const struct lexer *lex, int line, const char *what)
{
    return rk__fail(RK_ECOMPILE, "%s:%d: %s", lex->name, line, what);
}

/* Steps over one character, counting lines. */
static void step(struct lexer *lex)
{
    if (*lex->at == '\n') {
        lex->line++;
        lex->line_start = true;
    } else if (!isspace((unsigned char)*lex->at)) {
        lex->line_start = false;
    }
    lex->at++;
}

static int skip_block_comment(struct lexer *lex)
{
    int line = lex->line;
    bool line_start = lex->line_start;
    step(lex);
    step(lex);
    while (*lex->at && !(lex->at[0] == '*' && lex->at[1] == '/')) {
        step(lex);
    }
    if (!*lex->at) {
        return fail_at(lex, line, "this comment does not end");
    }
    step(lex);
    step(lex);
    lex->line_start = line_start;
    return 0;
}

/* To the end of the line; a backslash continues it. */
static void skip_line(struct lexer *lex)
{
    while (*lex->at && *lex->at != '\n') {
        if (lex->at[0] == '\\' && lex->at[1]) {
            step(lex);
        }
        step(lex);
    }
}

static int skip_literal(struct lexer *lex)
{
    char quote = *lex->at;
    int line = lex->line;
    step(lex);
    while (*lex->at && *lex->at != quote && *lex->at != '\n') {
        if (lex->at[0] == '\\' && lex->at[1]) {
            step(lex);
        }
        step(lex);
    }
    if (*lex->at != quote) {
        return fail_at(lex, line,
                       quote == '"' ? "this string does not end on its line"
                                    : "this character does not end on its line");
    }
    step(lex);
    return 0;
}

/* Directives are skipped with the comments in them, which may go on over the line. */
static int skip_directive(struct lexer *lex)
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
            step(lex);
        }
        step(lex);
    }
    return 0;
}

/* Skips what is no code: 1 something was skipped, 0 not, or an error. */
static int skip_other(struct lexer *lex)
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
        step(lex);
        return 1;
    }
    return 0;
}

static char closing(char open)
{
    return open == '{' ? '}' : open == '(' ? ')' : ']';
}

static int bracket(struct lexer *lex)
{
    char c = *lex->at;
    if (c == '{' || c == '(' || c == '[') {
        if (lex->depth == NESTING_MAX) {
            return fail_at(lex, lex->line, "brackets nest too deep");
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
    step(lex);
    return 0;
}

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

/* The text up to the first `,` or `)` of this bracket level, trimmed; copies. The lexer is behind
 * the opening bracket and stays there. */
static char *argument(const struct lexer *lex)
{
    const char *start = lex->at, *end;
    int depth = 0;
    while (isspace((unsigned char)*start)) {
        start++;
    }
    for (end = start; *end && !(depth == 0 && (*end == ',' || *end == ')')); end++) {
        depth += (*end == '(') - (*end == ')');
    }
    while (end > start && isspace((unsigned char)end[-1])) {
        end--;
    }
    return strndup(start, (size_t)(end - start));
}

/* Steps to behind the `(` that must follow a word. */
static int enter_arguments(struct lexer *lex, int line, const char *word)
{
    int rc = 1;
    while (rc == 1) {
        rc = skip_other(lex);
    }
    if (rc < 0) {
        return rc;
    }
    if (*lex->at != '(') {
        return rk__fail(RK_ECOMPILE, "%s:%d: %s wants arguments in parentheses", lex->name, line,
                        word);
    }
    return bracket(lex);
}

static int add_handler(struct lexer *lex, int line, rk__source *out)
{
    int rc = enter_arguments(lex, line, "RK_ON");
    if (rc < 0) {
        return rc;
    }
    char *type = argument(lex);
    rk__handler *grown = realloc(out->handlers, (out->handler_count + 1) * sizeof *out->handlers);
    out->handlers = grown ? grown : out->handlers;
    if (!type || !grown) {
        free(type);
        return rk__fail(RK_ENOMEM, "out of memory for the handlers of %s", lex->name);
    }
    if (!*type || strlen(type) >= RK_NAME_MAX) {
        rc = fail_at(lex, line, "RK_ON wants a message type and a name: RK_ON(Type, name)");
    }
    for (size_t i = 0; rc == 0 && i < out->handler_count; i++) {
        if (strcmp(out->handlers[i].type, type) == 0) {
            rc = rk__fail(RK_ECOMPILE, "%s:%d: a second RK_ON(%s, ...); the first is in line %d",
                          lex->name, line, type, out->handlers[i].line);
        }
    }
    if (rc == 0) {
        rk__handler *handler = &out->handlers[out->handler_count++];
        strcpy(handler->type, type);
        handler->line = line;
    }
    free(type);
    return rc;
}

static int add_every(struct lexer *lex, int line, rk__source *out)
{
    int rc = enter_arguments(lex, line, "RK_EVERY");
    if (rc < 0) {
        return rc;
    }
    if (out->every_count && out->every_lines[out->every_count - 1] == line) {
        return fail_at(lex, line, "two RK_EVERY in one line; put them on lines of their own");
    }
    size_t count = out->every_count + 1;
    int *lines = realloc(out->every_lines, count * sizeof *lines);
    out->every_lines = lines ? lines : out->every_lines;
    char **periods = realloc(out->every_periods, count * sizeof *periods);
    out->every_periods = periods ? periods : out->every_periods;
    char *period = argument(lex);
    if (!lines || !periods || !period) {
        free(period);
        return rk__fail(RK_ENOMEM, "out of memory for the timers of %s", lex->name);
    }
    out->every_lines[out->every_count] = line;
    out->every_periods[out->every_count++] = period;
    return *period ? 0 : fail_at(lex, line, "RK_EVERY wants a period in seconds: RK_EVERY(0.5)");
}

static int note_once(const struct lexer *lex, const char *word, int line, int *where)
{
    if (*where) {
        return rk__fail(RK_ECOMPILE, "%s:%d: a second %s; the first is in line %d", lex->name, line,
                        word, *where);
    }
    *where = line;
    return 0;
}

static int word(struct lexer *lex, rk__source *out)
{
    const char *start = lex->at;
    int line = lex->line;
    while (is_word(*lex->at)) {
        step(lex);
    }
    size_t size = (size_t)(lex->at - start);
    if (lex->depth || size > 16) {
        return 0;
    }
    char text[17] = "";
    memcpy(text, start, size);
    if (strcmp(text, "RK_ON") == 0) {
        return add_handler(lex, line, out);
    }
    if (strcmp(text, "RK_EVERY") == 0) {
        return add_every(lex, line, out);
    }
    if (strcmp(text, "RK_ON_START") == 0) {
        return note_once(lex, text, line, &out->start_line);
    }
    if (strcmp(text, "RK_ON_STOP") == 0) {
        return note_once(lex, text, line, &out->stop_line);
    }
    if (strcmp(text, "RK_STATE") == 0) {
        return note_once(lex, text, line, &out->state_line);
    }
    return 0;
}

static int scan(struct lexer *lex, rk__source *out)
{
    while (*lex->at) {
        int rc = skip_other(lex);
        if (rc == 0) {
            rc = is_word(*lex->at) ? word(lex, out) : bracket(lex);
        }
        if (rc < 0) {
            return rc;
        }
    }
    if (lex->depth) {
        int top = lex->depth - 1;
        return rk__fail(RK_ECOMPILE, "%s:%d: this %c is not closed", lex->name,
                        lex->open_lines[top], lex->open[top]);
    }
    return 0;
}

int rk__source_scan(const char *name, const char *text, int first_line, rk__source *out)
{
    struct lexer lex = {.name = name, .at = text, .line = first_line, .line_start = true};
    rk__source found = {0};
    int rc = scan(&lex, &found);
    if (rc < 0) {
        rk__source_free(&found);
        return rc;
    }
    *out = found;
    return 0;
}

void rk__source_free(rk__source *source)
{
    for (size_t i = 0; i < source->every_count; i++) {
        free(source->every_periods[i]);
    }
    free(source->every_periods);
    free(source->every_lines);
    free(source->handlers);
    memset(source, 0, sizeof *source);
}
