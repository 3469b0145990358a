/*
 * repl.c -- a plain line REPL: expressions are echoed, unfinished statements go on in the next
 * line, Ctrl-C stops what runs or drops what was typed, the end of input ends it.
 *
 * Threads: main.
 */
#include "rklua/rklua.h"

#include <errno.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "base/log.h"

typedef struct line {
    char *text;
    size_t capacity;
} line;

typedef enum input { INPUT_LINE, INPUT_END, INPUT_INTERRUPTED } input;

/* ---- reading ---- */

static void show(const char *text)
{
    if (isatty(STDIN_FILENO)) {
        fflush(stdout);
        rk__output(STDOUT_FILENO, text, strlen(text));
    }
}

static input read_line(line *l, const char *prompt)
{
    show(prompt);
    errno = 0;
    /* A terminal gives one line at a time, so nothing is left in stdin's buffer here. */
    bool ready = !isatty(STDIN_FILENO) || rk__signals_wait(STDIN_FILENO);
    ssize_t n = ready ? getline(&l->text, &l->capacity, stdin) : -1;
    if (n < 0) {
        bool interrupted = !ready || errno == EINTR;
        clearerr(stdin);
        show("\n");
        return interrupted ? INPUT_INTERRUPTED : INPUT_END;
    }
    if (n > 0 && l->text[n - 1] == '\n') {
        l->text[n - 1] = '\0';
    }
    return INPUT_LINE;
}

static int load(lua_State *L, const char *text)
{
    return luaL_loadbufferx(L, text, strlen(text), "=stdin", "t");
}

/* Whether the message on top says that the chunk could go on. */
static bool is_incomplete(lua_State *L, int status)
{
    static const char mark[] = "<eof>";
    size_t size;
    const char *text = lua_tolstring(L, -1, &size);
    return status == LUA_ERRSYNTAX && size >= sizeof mark - 1 &&
           strcmp(text + size - (sizeof mark - 1), mark) == 0;
}

/* Compiles the text on top, as an expression if it is one, and pushes the chunk or the message of
 * the statement. *more: either could go on in the next line. */
static int load_either(lua_State *L, bool *more)
{
    const char *text = lua_tostring(L, -1);
    const char *expression = lua_pushfstring(L, "return %s", text);
    int status = load(L, expression);
    *more = status != LUA_OK && is_incomplete(L, status);
    lua_remove(L, -2);
    if (status != LUA_OK) {
        lua_pop(L, 1);
        status = load(L, text);
        *more = status != LUA_OK && (*more || is_incomplete(L, status));
    }
    return status;
}

/* Replaces the text on top by its chunk (LUA_OK) or the message, reading further lines while it is
 * incomplete. *how says whether the input ended in between. */
static int load_lines(lua_State *L, line *l, input *how)
{
    for (;;) {
        bool more;
        int status = load_either(L, &more);
        if (more) {
            *how = read_line(l, ">> ");
        }
        if (!more || *how != INPUT_LINE) {
            lua_remove(L, -2);
            return status;
        }
        lua_pop(L, 1);
        lua_pushliteral(L, "\n");
        lua_pushstring(L, l->text);
        lua_concat(L, 3);
    }
}

/* ---- echo ---- */

static int terminal_width(void)
{
    struct winsize size;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20;
    return known ? size.ws_col : 80;
}

static bool wants_colour(void)
{
    const char *no_colour = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && (no_colour == NULL || no_colour[0] == '\0') &&
           (term == NULL || strcmp(term, "dumb") != 0);
}

/* Shows the values above `base` through rk.pretty; on top remains nothing. */
static void echo(lua_State *L, int base)
{
    int n = lua_gettop(L) - base;
    if (n == 0) {
        return;
    }
    lua_getglobal(L, "require");
    lua_pushliteral(L, "rk.pretty");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "echo");
    lua_replace(L, -2);
    lua_pushinteger(L, terminal_width());
    lua_pushboolean(L, wants_colour());
    lua_rotate(L, base + 1, 3);
    if (rk__signals_run(L, n + 2, 1) != LUA_OK) {
        rk__report(L, false);
        return;
    }
    lua_pushliteral(L, "\n");
    lua_concat(L, 2);
    size_t size;
    const char *text = lua_tolstring(L, -1, &size);
    fflush(stdout);
    rk__output(STDOUT_FILENO, text, size);
}

/* ---- the loop ---- */

static void run_chunk(lua_State *L, int base)
{
    rk__signals_clear();
    if (rk__signals_run(L, 0, LUA_MULTRET) == LUA_OK) {
        echo(L, base);
    } else {
        rk__report(L, false);
    }
}

/* One statement or expression. False: no more input. */
static bool read_and_run(lua_State *L, line *l)
{
    int base = lua_gettop(L);
    input how = read_line(l, "> ");
    if (how == INPUT_LINE) {
        const char *text = l->text + strspn(l->text, " \t");
        lua_pushfstring(L, "%s%s", text[0] == '=' ? "return " : "",
                        text[0] == '=' ? text + 1 : text);
        int status = load_lines(L, l, &how);
        if (how == INPUT_LINE && status == LUA_OK) {
            run_chunk(L, base);
        } else if (how != INPUT_INTERRUPTED) {
            rk__report(L, false);
        }
    }
    lua_settop(L, base);
    if (rk__signals_caught() == SIGINT) {
        rk__signals_clear();
    }
    return how != INPUT_END && rk__signals_caught() == 0;
}

void rk__repl(lua_State *L)
{
    line l = {NULL, 0};
    rk__signals_clear();
    while (read_and_run(L, &l)) {}
    free(l.text);
}
