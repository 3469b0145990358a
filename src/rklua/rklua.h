/* rklua.h -- what the files of the program share. */
#ifndef RK_RKLUA_RKLUA_H
#define RK_RKLUA_RKLUA_H

#include <lua.h>
#include <stdbool.h>

enum { EXIT_OK = 0, EXIT_ERROR = 1, EXIT_USAGE = 2 };

/* ---- arguments.c ---- */

typedef struct arguments {
    int argc;
    char **argv;
    int script; /* index of the script's name; argc: there is none */
    bool interactive, show_version, no_environment, warnings, execute;
    bool help, version; /* --help, --version: nothing else happens */
    const char *config;
} arguments;

/* Reads the command line; remembers --device and --log where they belong. 0, or the exit status
 * after saying on stderr what is wrong. */
int rk__arguments_read(arguments *a, int argc, char **argv);
/* The next -e or -l before the script, from *i on: its letter and its value; 0: no more. */
char rk__arguments_next(const arguments *a, int *i, const char **value);
void rk__arguments_help(void);

/* ---- signals.c ---- */

/* SIGINT and SIGTERM interrupt what this state runs; the same again within two seconds ends the
 * process at once. thread: main */
void rk__signals_open(lua_State *L);
/* Runs the function below its arguments as rk__lua_run does, interruptible; an error is left as a
 * text with its traceback. */
int rk__signals_run(lua_State *L, int argument_count, int results);
/* Waits until there is something to read; false: a signal came instead. */
bool rk__signals_wait(int fd);
/* The signal that came since the last clear, or 0. */
int rk__signals_caught(void);
void rk__signals_clear(void);

/* ---- repl.c ---- */

/* Reads, runs and echoes lines until the input ends or SIGTERM. */
void rk__repl(lua_State *L);

/* ---- main.c ---- */

/* Writes the text on top of L, and pops it, to stderr: "rklua: text" (or "text" alone). */
void rk__report(lua_State *L, bool with_name);
void rk__print_version(void);

#endif
