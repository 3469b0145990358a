/*
 * arguments.c -- the command line: options as in `lua`, and the long ones.
 *
 * Threads: main, before there are others.
 */
#include "rklua/rklua.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/error.h"
#include "base/log.h"
#include "script/settings.h"

static const char usage[] =
    "usage: rklua [options] [script [args]]\n"
    "  -e stat          execute string 'stat'\n"
    "  -i               enter interactive mode after executing 'script'\n"
    "  -l mod           require library 'mod' into global 'mod'\n"
    "  -l g=mod         require library 'mod' into global 'g'\n"
    "  -v               show version information\n"
    "  -E               ignore environment variables\n"
    "  -W               turn warnings on\n"
    "  --               stop handling options\n"
    "  -                stop handling options and execute stdin\n"
    "  --device NAME    where ring kernels run: auto, cpu, cuda or cuda:N\n"
    "  --config FILE    a Lua file that returns a table of runtime options\n"
    "  --log LEVEL[:FILE]  debug, info, warn, error or off; to FILE instead of stderr\n"
    "  --version        show version information and stop\n"
    "  --help           show this text and stop\n";

void rk__arguments_help(void)
{
    fputs(usage, stdout);
}

static int wrong(const char *what, const char *argument)
{
    fprintf(stderr, "rklua: %s '%s'\n%s", what, argument, usage);
    return EXIT_USAGE;
}

/* "auto", "cpu", "cuda" or "cuda:N". */
static bool is_device(const char *text)
{
    if (strncmp(text, "cuda:", 5) == 0) {
        return text[5] != '\0' && strspn(text + 5, "0123456789") == strlen(text + 5);
    }
    return strcmp(text, "auto") == 0 || strcmp(text, "cpu") == 0 || strcmp(text, "cuda") == 0;
}

static int set_device(const char *value)
{
    if (!is_device(value)) {
        return wrong("the device must be auto, cpu, cuda or cuda:N, not", value);
    }
    return rk__setting_set(RK__LAYER_COMMAND_LINE, "device", value) < 0 ? EXIT_ERROR : 0;
}

static int set_log(const char *value)
{
    int rc = rk__log_configure(value);
    if (rc < 0) {
        fprintf(stderr, "rklua: --log: %s\n", rk_errdetail());
    }
    return rc == 0 ? 0 : rc == RK_EINVAL ? EXIT_USAGE : EXIT_ERROR;
}

/* "--name value" or "--name=value"; moves *i past what it used. */
static int read_long(arguments *a, int *i)
{
    const char *text = a->argv[*i];
    if (strcmp(text, "--help") == 0) {
        a->help = true;
        return 0;
    }
    if (strcmp(text, "--version") == 0) {
        a->version = true;
        return 0;
    }
    size_t size = strcspn(text, "=");
    const char *value = text[size] == '=' ? text + size + 1 : NULL;
    bool device = size == 8 && strncmp(text, "--device", size) == 0;
    bool config = size == 8 && strncmp(text, "--config", size) == 0;
    bool log = size == 5 && strncmp(text, "--log", size) == 0;
    if (!device && !config && !log) {
        return wrong("unrecognized option", text);
    }
    if (value == NULL && (value = a->argv[++*i]) == NULL) {
        return wrong("missing value after", text);
    }
    if (config) {
        a->config = value;
        return 0;
    }
    return device ? set_device(value) : set_log(value);
}

/* -e and -l: the value is the rest of the argument or the next one. */
static int read_value(arguments *a, int *i)
{
    const char *text = a->argv[*i];
    a->execute = a->execute || text[1] == 'e';
    if (text[2] != '\0') {
        return 0;
    }
    const char *value = a->argv[++*i];
    return value == NULL || value[0] == '-' ? wrong("missing value after", text) : 0;
}

static int read_short(arguments *a, int *i)
{
    const char *text = a->argv[*i];
    char letter = text[1];
    if (letter == 'e' || letter == 'l') {
        return read_value(a, i);
    }
    if (strchr("ivEW", letter) == NULL || text[2] != '\0') {
        return wrong("unrecognized option", text);
    }
    a->interactive = a->interactive || letter == 'i';
    a->show_version = a->show_version || letter == 'i' || letter == 'v';
    a->no_environment = a->no_environment || letter == 'E';
    a->warnings = a->warnings || letter == 'W';
    return 0;
}

int rk__arguments_read(arguments *a, int argc, char **argv)
{
    *a = (arguments){.argc = argc, .argv = argv, .script = argc};
    for (int i = 1; i < argc; i++) {
        const char *text = argv[i];
        if (text[0] != '-' || text[1] == '\0') {
            a->script = i;
            break;
        }
        if (strcmp(text, "--") == 0) {
            a->script = i + 1;
            break;
        }
        int status = text[1] == '-' ? read_long(a, &i) : read_short(a, &i);
        if (status != 0 || a->help || a->version) {
            return status;
        }
    }
    return 0;
}

char rk__arguments_next(const arguments *a, int *i, const char **value)
{
    for (; *i < a->script && *i < a->argc; ++*i) {
        const char *text = a->argv[*i];
        char letter = text[1];
        if (letter == '-') {
            *i += text[2] != '\0' && strchr(text, '=') == NULL;
        } else if (letter == 'e' || letter == 'l') {
            *value = text[2] != '\0' ? text + 2 : a->argv[++*i];
            ++*i;
            return letter;
        }
    }
    return 0;
}
