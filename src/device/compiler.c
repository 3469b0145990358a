/*
 * compiler.c -- finds the system C compiler, runs it without a shell, and turns what it says into
 * sentences about the user's own lines.
 *
 * Threads: any; a call owns its child process and its buffers. The child gets the full affinity of
 * the process (the caller may be pinned to one core) and no blocked signals.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/error.h"
#include "base/topology.h"
#include "device/compiler.h"

enum {
    OUTPUT_MAX = 64 << 10,
    ARGUMENTS_MAX = RK__COMPILER_WORDS + RK__COMPILER_FLAGS + 16,
    LOOK_PERIOD = 20,   /* ms between looks for an interrupt */
    WAIT_PERIOD = 1000, /* us between looks for the end of the compiler */
    END_TURNS = 500     /* of WAIT_PERIOD that an interrupted compiler gets to tidy up */
};

/* ---- finding one ---------------------------------------------------------------------------- */

static bool is_program(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISREG(s.st_mode) && access(path, X_OK) == 0;
}

/* Like execvp: a name with a slash is a path, others are looked for on the PATH. */
static bool on_path(const char *name, char out[PATH_MAX])
{
    const char *path = getenv("PATH");
    if (strchr(name, '/')) {
        return snprintf(out, PATH_MAX, "%s", name) < PATH_MAX && is_program(out);
    }
    for (path = path ? path : "/usr/bin:/bin"; *path; path += *path == ':') {
        size_t size = strcspn(path, ":");
        int length =
            snprintf(out, PATH_MAX, "%.*s/%s", size ? (int)size : 1, size ? path : ".", name);
        if (length < PATH_MAX && is_program(out)) {
            return true;
        }
        path += size;
    }
    return false;
}

static bool split(const char *command, rk__compiler *out)
{
    out->word_count = 0;
    for (;;) {
        command += strspn(command, " \t");
        size_t size = strcspn(command, " \t");
        if (!size) {
            return out->word_count > 0;
        }
        if (out->word_count == RK__COMPILER_WORDS || size >= PATH_MAX) {
            return false;
        }
        char *word = out->words[out->word_count++];
        memcpy(word, command, size);
        word[size] = '\0';
        command += size;
    }
}

/* The file behind the links tells gcc from clang, and a new version from the old one. */
static void identify(rk__compiler *out)
{
    char real[PATH_MAX];
    struct stat s = {0};
    const char *path = realpath(out->words[0], real) ? real : out->words[0];
    const char *name = strrchr(path, '/');
    stat(path, &s);
    int used = snprintf(out->identity, sizeof out->identity, "%s %lld %lld.%09ld %llu", path,
                        (long long)s.st_size, (long long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec,
                        (unsigned long long)s.st_ino);
    for (size_t i = 1; i < out->word_count && used < (int)sizeof out->identity; i++) {
        used += snprintf(out->identity + used, sizeof out->identity - (size_t)used, " %s",
                         out->words[i]);
    }
    out->clang = strstr(name ? name : path, "clang") != NULL;
}

static bool try_command(const char *command, rk__compiler *out)
{
    char path[PATH_MAX];
    if (!command || !split(command, out) || !on_path(out->words[0], path)) {
        return false;
    }
    strcpy(out->words[0], path);
    identify(out);
    return true;
}

int rk__compiler_find(rk__compiler *out)
{
    const char *ours = getenv("RK_CC"), *usual = getenv("CC");
    if (ours && *ours) {
        return try_command(ours, out)
                   ? 0
                   : rk__fail(RK_ENOCOMPILER, "RK_CC is \"%s\", which is no program", ours);
    }
    const char *const names[] = {usual, "cc", "gcc", "clang"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (try_command(names[i], out)) {
            return 0;
        }
    }
    return rk__fail(RK_ENOCOMPILER, "looked for %s%scc, gcc and clang on the PATH",
                    usual && *usual ? usual : "", usual && *usual ? " (CC), " : "");
}

/* ---- running it ----------------------------------------------------------------------------- */

extern char **environ;

/* Messages are parsed, so they must be in plain English. gives the array, borrows its strings */
static char **plain_environment(void)
{
    size_t count = 0, kept = 0;
    while (environ[count]) {
        count++;
    }
    char **copy = malloc((count + 2) * sizeof *copy);
    if (!copy) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        if (strncmp(environ[i], "LC_", 3) != 0 && strncmp(environ[i], "LANG", 4) != 0 &&
            strncmp(environ[i], "GCC_COLORS", 10) != 0) {
            copy[kept++] = environ[i];
        }
    }
    copy[kept++] = (char *)"LC_ALL=C";
    copy[kept] = NULL;
    return copy;
}

/* As in rk__wait: a port is interrupted once, an actor for good. */
static bool interrupted(void)
{
    rk__actor *self = rk__self_peek();
    /* Pairs with whoever interrupts. */
    if (self == NULL || !__atomic_load_n(&self->interrupted, __ATOMIC_SEQ_CST)) {
        return false;
    }
    if (self->runtime == NULL) {
        rk__runtime_calm(self);
    }
    return true;
}

/* Reads to the end, keeps the first part; false: interrupted. */
static bool read_output(int fd, rk__strbuf *out)
{
    char chunk[4096];
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    for (;;) {
        if (interrupted()) {
            return false;
        }
        if (poll(&ready, 1, LOOK_PERIOD) <= 0) {
            continue; /* time to look, or a signal */
        }
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n == 0 || (n < 0 && errno != EINTR)) {
            return true;
        }
        if (n > 0 && out->size < OUTPUT_MAX) {
            rk__strbuf_add(out, chunk, (size_t)n);
        }
    }
}

static int start(pid_t *child, char *const *arguments, char *const *environment, int output)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    cpu_set_t pinned;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&files, output, 2);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                              POSIX_SPAWN_SETPGROUP); /* a group of its own */
    bool known = sched_getaffinity(0, sizeof pinned, &pinned) == 0;
    rk__affinity_restore(); /* the child inherits what this thread has now */
    int error = posix_spawn(child, arguments[0], &files, &attributes, arguments, environment);
    if (known) {
        sched_setaffinity(0, sizeof pinned, &pinned);
    }
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    return error;
}

/* 1: the status is known; 0: it is not; RK_EINTR. A compiler that says no more ends soon. */
static int wait_for(pid_t child, int *status)
{
    for (;;) {
        pid_t ended = waitpid(child, status, WNOHANG);
        if (ended == child) {
            return 1;
        }
        if (ended < 0 && errno != EINTR) {
            return 0; /* the program around us reaps all children: judge by the result file */
        }
        if (interrupted()) {
            return RK_EINTR;
        }
        usleep(WAIT_PERIOD);
    }
}

/* The compiler's group: cc is only the parent of those that work. SIGTERM lets it remove its
 * temporary files. */
static int end_child(pid_t child)
{
    int status;
    bool ended = false;
    kill(-child, SIGTERM);
    for (int i = 0; i < END_TURNS && !ended; i++) {
        usleep(WAIT_PERIOD);
        ended = waitpid(child, &status, WNOHANG) != 0;
    }
    if (!ended) {
        kill(-child, SIGKILL);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    }
    return rk__fail(RK_EINTR, "interrupted while the compiler was running");
}

/* 0: it succeeded; 1: it did not, and `output` has what it said; negative: it could not run. */
static int run(const char **arguments, const char *result, rk__strbuf *output)
{
    int ends[2], status = 0;
    pid_t child;
    char **environment = plain_environment();
    if (!environment || pipe2(ends, O_CLOEXEC) < 0) {
        free(environment);
        return rk__fail_errno(RK_EIO, "cannot run %s", arguments[0]);
    }
    int error = start(&child, (char *const *)(void *)arguments, environment, ends[1]);
    close(ends[1]);
    free(environment);
    if (error) {
        close(ends[0]);
        errno = error;
        return rk__fail_errno(RK_EIO, "cannot run %s", arguments[0]);
    }
    bool whole = read_output(ends[0], output);
    close(ends[0]);
    int known = whole ? wait_for(child, &status) : RK_EINTR;
    if (known < 0) {
        return end_child(child);
    }
    if (known && WIFSIGNALED(status)) {
        return rk__fail(RK_EIO, "%s was ended by signal %d (%s)", arguments[0], WTERMSIG(status),
                        strsignal(WTERMSIG(status)));
    }
    bool failed = (known && WEXITSTATUS(status)) || access(result, R_OK) < 0;
    if (failed && output->size == 0) {
        rk__strbuf_addf(output,
                        "%s ended with exit status %d, printed nothing and made no output; "
                        "is it a C compiler? (RK_CC chooses another)",
                        arguments[0], known ? WEXITSTATUS(status) : -1);
    }
    return failed;
}

static size_t add_words(const rk__compiler *c, const char **arguments)
{
    for (size_t i = 0; i < c->word_count; i++) {
        arguments[i] = c->words[i];
    }
    return c->word_count;
}

/* ---- what it said --------------------------------------------------------------------------- */

static bool starts_with(const char *line, size_t size, const char *start)
{
    size_t length = strlen(start);
    return size >= length && memcmp(line, start, length) == 0;
}

static bool contains(const char *line, size_t size, const char *what)
{
    return memmem(line, size, what, strlen(what)) != NULL;
}

/* Lines about the user's text: "name:12:5: error: ..."; the rest is about ours. */
static bool is_about_user(const char *line, size_t size, const rk__kernel *kernel)
{
    size_t name = strlen(kernel->source_name);
    return starts_with(line, size, kernel->source_name) && size > name + 1 && line[name] == ':' &&
           line[name + 1] >= '0' && line[name + 1] <= '9' &&
           !contains(line, size, "note: in expansion of") &&
           !contains(line, size, "note: each undeclared identifier") &&
           !contains(line, size, "[-Wunused-");
}

/* rk_reply(ctx, Sum, ...) with a type that the kernel does not name ends up here. */
static void explain_type(const char *line, size_t size, rk__strbuf *out)
{
    const char *at = memmem(line, size, "rk_type_", 8);
    if (at && (contains(line, size, "undeclared") || contains(line, size, "undefined"))) {
        at += 8;
        size_t length =
            strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
        const char *place = memmem(line, size, ": error:", 8);
        rk__strbuf_add(out, line, place ? (size_t)(place - line) : 0);
        rk__strbuf_addf(out, ": %.*s is not among the accepts and replies of this kernel\n",
                        (int)length, at);
    }
}

static void filter(const rk__strbuf *said, const rk__kernel *kernel, rk__strbuf *out)
{
    for (const char *line = said->bytes; line && *line;) {
        size_t size = strcspn(line, "\n");
        if (is_about_user(line, size, kernel)) {
            explain_type(line, size, out);
            rk__strbuf_add(out, line, size);
            rk__strbuf_addc(out, '\n');
        }
        line += size + (line[size] == '\n');
    }
}

/* The linker's "undefined reference to `name'", each name once in a row. */
static void filter_missing(const rk__strbuf *said, rk__strbuf *out)
{
    static const char mark[] = "undefined reference to `";
    const char *last = "", *at = said->bytes;
    while (at && (at = strstr(at, mark)) != NULL) {
        at += sizeof mark - 1;
        size_t size = strcspn(at, "'\n");
        if (strncmp(at, last, size + 1) != 0) {
            rk__strbuf_addf(out, "%s%.*s",
                            *last ? ", " : "calls what is nowhere to be found: ", (int)size, at);
            last = at;
        }
    }
}

int rk__compiler_report(const rk__kernel *kernel, const rk__strbuf *said, const char *what)
{
    rk__strbuf lines = RK__STRBUF_INIT;
    filter(said, kernel, &lines);
    if (!lines.size) {
        filter_missing(said, &lines);
    }
    const rk__strbuf *shown = lines.size ? &lines : said;
    int size = (int)shown->size;
    while (size > 0 && shown->bytes[size - 1] == '\n') {
        size--;
    }
    rk__fail(RK_ECOMPILE, "kernel \"%s\" does not %s:\n%.*s", kernel->base.name, what, size,
             size ? shown->bytes : "");
    rk__strbuf_free(&lines);
    return RK_ECOMPILE;
}

/* ---- the two steps -------------------------------------------------------------------------- */

static int finish(const char **arguments, const char *result, const rk__kernel *kernel,
                  const char *what)
{
    rk__strbuf said = RK__STRBUF_INIT;
    int rc = run(arguments, result, &said);
    if (rc > 0) {
        rc = rk__compiler_report(kernel, &said, what);
    }
    rk__strbuf_free(&said);
    return rc;
}

/* gcc reports an error inside a macro of ours where the user called it; clang does so by itself.
 * What C++ would refuse is refused here, because NVRTC compiles C++. */
static const char *const gcc_flags[] = {"-ftrack-macro-expansion=0", "-fno-diagnostics-show-caret",
                                        "-fdiagnostics-color=never", "-Werror=c++-compat"};
static const char *const clang_flags[] = {"-fno-caret-diagnostics", "-fno-color-diagnostics",
                                          "-Wno-gnu-folding-constant", "-Wno-unused-function"};

int rk__compiler_object(const rk__compiler *c, const rk__kernel *kernel, const char *folder,
                        const char *const *flags, size_t count)
{
    char unit[PATH_MAX], object[PATH_MAX];
    const char *arguments[ARGUMENTS_MAX];
    const char *const *own = c->clang ? clang_flags : gcc_flags;
    size_t n = add_words(c, arguments);
    for (size_t i = 0; i < count; i++) {
        arguments[n++] = flags[i];
    }
    for (size_t i = 0; i < 4; i++) {
        arguments[n++] = own[i];
    }
    snprintf(unit, sizeof unit, "%s/unit.c", folder);
    snprintf(object, sizeof object, "%s/unit.o", folder);
    const char *const last[] = {"-iquote", folder, "-c", "-o", object, unit, NULL};
    memcpy(arguments + n, last, sizeof last);
    return finish(arguments, object, kernel, "compile");
}

/* -z defs makes a function that is nowhere an error here; sanitizers leave theirs undefined. */
int rk__compiler_link(const rk__compiler *c, const rk__kernel *kernel, const char *folder)
{
    char object[PATH_MAX], library[PATH_MAX];
    const char *arguments[ARGUMENTS_MAX];
    const char *sanitize = RK__COMPILER_SANITIZE;
    size_t n = add_words(c, arguments);
    snprintf(object, sizeof object, "%s/unit.o", folder);
    snprintf(library, sizeof library, "%s/unit.so", folder);
    const char *const common[] = {"-shared", "-o", library, object, "-lm"};
    memcpy(arguments + n, common, sizeof common);
    n += sizeof common / sizeof *common;
    arguments[n++] = *sanitize ? sanitize : "-Wl,-z,defs";
    arguments[n] = NULL;
    return finish(arguments, library, kernel, "link");
}
