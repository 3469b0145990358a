/*
 * source.c -- what the text of a ring kernel contains: its RK_ON, RK_EVERY, RK_STATE... blocks.
 *
 * Comments, strings and preprocessor lines are skipped (lexer.h), brackets are counted, and the RK_
 * words outside all brackets are noted with their lines. The compiler has the last word; this gives
 * sentences that name types and lines before a compiler is asked, and tells the generated end of
 * the translation unit what to call.
 *
 * Threads: any; a scan touches only its arguments.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "device/device.h"
#include "device/lexer.h"

/* The text up to the first `,` or `)` of this bracket level, trimmed; copies. The lexer is behind
 * the opening bracket and stays there. */
static char *argument(const rk__lexer *lex)
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
static int enter_arguments(rk__lexer *lex, int line, const char *word)
{
    int rc = 1;
    while (rc == 1) {
        rc = rk__lexer_skip(lex);
    }
    if (rc < 0) {
        return rc;
    }
    if (*lex->at != '(') {
        return rk__fail(RK_ECOMPILE, "%s:%d: %s wants arguments in parentheses", lex->name, line,
                        word);
    }
    return rk__lexer_bracket(lex);
}

static int add_handler(rk__lexer *lex, int line, rk__source *out)
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
        rc = rk__lexer_fail(lex, line, "RK_ON wants a message type and a name: RK_ON(Type, name)");
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

static int add_every(rk__lexer *lex, int line, rk__source *out)
{
    int rc = enter_arguments(lex, line, "RK_EVERY");
    if (rc < 0) {
        return rc;
    }
    if (out->every_count && out->every_lines[out->every_count - 1] == line) {
        return rk__lexer_fail(lex, line,
                              "two RK_EVERY in one line; put them on lines of their own");
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
    return *period ? 0
                   : rk__lexer_fail(lex, line, "RK_EVERY wants a period in seconds: RK_EVERY(0.5)");
}

/* The n-th argument (0, 1, ...) of the list the lexer stands in, trimmed; copies. */
static char *argument_at(const rk__lexer *lex, int n)
{
    rk__lexer at = *lex;
    for (int depth = 0; *at.at && (n > 0 || depth > 0); at.at++) {
        depth += (*at.at == '(') - (*at.at == ')');
        n -= depth == 0 && *at.at == ',';
    }
    return argument(&at);
}

/* Makes one line of several, without comments, so that it can stand in a #define. */
static char *in_one_line(char *text)
{
    char *to = text;
    for (const char *at = text; at && *at;) {
        if (at[0] == '/' && (at[1] == '*' || at[1] == '/')) {
            const char *end = strstr(at + 2, at[1] == '*' ? "*/" : "\n");
            at = !end ? at + strlen(at) : end + (at[1] == '*' ? 2 : 1);
            *to++ = ' ';
        } else if (isspace((unsigned char)*at) || (at[0] == '\\' && at[1] == '\n')) {
            at++;
            *to++ = ' ';
        } else {
            *to++ = *at++;
        }
    }
    if (to) {
        *to = '\0';
    }
    return text;
}

static int closing_line(const rk__lexer *lex)
{
    int depth = 0, line = lex->line;
    for (const char *at = lex->at; *at && !(depth == 0 && *at == ')'); at++) {
        depth += (*at == '(') - (*at == ')');
        line += *at == '\n';
    }
    return line;
}

static int add_shared(rk__lexer *lex, int line, rk__source *out)
{
    int rc = enter_arguments(lex, line, "RK_SHARED");
    if (rc < 0) {
        return rc;
    }
    const rk__shared_use *last = out->shared_count ? &out->shared[out->shared_count - 1] : NULL;
    if (last && last->last_line >= line) {
        return rk__lexer_fail(lex, line,
                              "two RK_SHARED in one line; put them on lines of their own");
    }
    rk__shared_use *grown = realloc(out->shared, (out->shared_count + 1) * sizeof *grown);
    rk__shared_use use = {line, closing_line(lex), in_one_line(argument(lex)),
                          in_one_line(argument_at(lex, 2))};
    out->shared = grown ? grown : out->shared;
    if (!grown || !use.type || !use.dims) {
        free(use.type);
        free(use.dims);
        return rk__fail(RK_ENOMEM, "out of memory for the RK_SHARED of %s", lex->name);
    }
    out->shared[out->shared_count++] = use;
    return *use.type && *use.dims == '['
               ? 0
               : rk__lexer_fail(lex, line,
                                "RK_SHARED wants a type, a name and dimensions: "
                                "RK_SHARED(float, tile, [256])");
}

static int note_once(const rk__lexer *lex, const char *word, int line, int *where)
{
    if (*where) {
        return rk__fail(RK_ECOMPILE, "%s:%d: a second %s; the first is in line %d", lex->name, line,
                        word, *where);
    }
    *where = line;
    return 0;
}

static int word(rk__lexer *lex, rk__source *out)
{
    const char *start = lex->at;
    int line = lex->line;
    while (rk__lexer_is_word(*lex->at)) {
        rk__lexer_step(lex);
    }
    size_t size = (size_t)(lex->at - start);
    if (size > 16) {
        return 0;
    }
    char text[17] = "";
    memcpy(text, start, size);
    if (strcmp(text, "RK_SHARED") == 0) {
        return add_shared(lex, line, out);
    }
    if (lex->depth) {
        return 0;
    }
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

static int scan(rk__lexer *lex, rk__source *out)
{
    while (*lex->at) {
        int rc = rk__lexer_skip(lex);
        if (rc == 0) {
            rc = rk__lexer_is_word(*lex->at) ? word(lex, out) : rk__lexer_bracket(lex);
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
    rk__lexer lex = {.name = name, .at = text, .line = first_line, .line_start = true};
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
    for (size_t i = 0; i < source->shared_count; i++) {
        free(source->shared[i].type);
        free(source->shared[i].dims);
    }
    free(source->shared);
    free(source->every_periods);
    free(source->every_lines);
    free(source->handlers);
    memset(source, 0, sizeof *source);
}
