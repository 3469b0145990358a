/*
 * tool.c -- runs the system's C compiler for the stand-in's NVRTC, nvJitLink and driver, in
 * temporary folders that go away again, and reads what is written on the objects it makes.
 *
 * Threads: any; nothing here is shared. The compiler is RK_CC, CC or cc, in this order, split at
 * spaces; no shell is involved.
 */
#include "fakecuda.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef FAKECUDA_SANITIZER
#define FAKECUDA_SANITIZER "" /* the flags this library was built with itself */
#endif

enum { ARGUMENTS = 256, PATH_SIZE = 4096 };

extern char **environ;

/* ---- folders and files ---- */

char *fc_folder_make(void)
{
    const char *temporary = getenv("TMPDIR");
    char *path = NULL;
    if (asprintf(&path, "%s/fakecuda-XXXXXX", temporary && *temporary ? temporary : "/tmp") < 0) {
        return NULL;
    }
    if (mkdtemp(path) == NULL) {
        free(path);
        return NULL;
    }
    return path;
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *where)
{
    (void)s, (void)type, (void)where;
    return remove(path);
}

void fc_folder_remove(char *folder)
{
    if (folder != NULL && !fc_fault(FC_keep)) {
        nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    }
    free(folder);
}

/* The folders above a file, inside the one at `path` (whose length is `from`). */
static int make_parents(char *path, size_t from)
{
    for (char *slash = strchr(path + from + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int result = mkdir(path, 0700);
        *slash = '/';
        if (result != 0 && errno != EEXIST) {
            return -1;
        }
    }
    return 0;
}

int fc_file_write(const char *folder, const char *name, const void *data, size_t size)
{
    char path[PATH_SIZE];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= PATH_SIZE || strstr(name, "..") ||
        make_parents(path, strlen(folder)) != 0) {
        return -1;
    }
    FILE *file = fopen(path, "we");
    if (file == NULL) {
        return -1;
    }
    size_t written = fwrite(data, 1, size, file);
    return fclose(file) == 0 && written == size ? 0 : -1;
}

int fc_file_read(const char *folder, const char *name, fc_blob *out)
{
    char path[PATH_SIZE];
    struct stat s;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    *out = (fc_blob){0};
    if (file == NULL || fstat(fileno(file), &s) != 0) {
        goto failed;
    }
    out->size = (size_t)s.st_size;
    out->data = malloc(out->size + 1);
    if (out->data == NULL || fread(out->data, 1, out->size, file) != out->size) {
        goto failed;
    }
    out->data[out->size] = '\0';
    fclose(file);
    return 0;
failed:
    free(out->data);
    *out = (fc_blob){0};
    if (file != NULL) {
        fclose(file);
    }
    return -1;
}

void fc_print(fc_blob *out, const char *format, ...)
{
    va_list list;
    free(out->data);
    va_start(list, format);
    int length = vasprintf(&out->data, format, list);
    va_end(list);
    *out = (fc_blob){length < 0 ? NULL : out->data, length < 0 ? 0 : (size_t)length};
}

/* ---- the compiler ---- */

/* Splits text at spaces, in place. */
static size_t split(char *text, char **words, size_t count)
{
    char *rest = NULL;
    for (char *word = strtok_r(text, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest)) {
        if (count < ARGUMENTS - 1) {
            words[count++] = word;
        }
    }
    return count;
}

/* Output to a file beside the objects; no blocked signal and no ignored one is passed on. */
static int spawn_in(const char *folder, char **words, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addchdir_np(&actions, folder);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "said", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    int error = posix_spawnp(pid, words[0], &actions, &attributes, words, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

static const char *compiler(void)
{
    const char *ours = getenv("RK_CC"), *usual = getenv("CC");
    return ours && *ours ? ours : usual && *usual ? usual : "cc";
}

int fc_compile(const char *folder, const char *const *arguments, fc_blob *said)
{
    char *words[ARGUMENTS], *command = NULL;
    size_t count = 0;
    pid_t pid;
    int status = -1;
    *said = (fc_blob){0};
    if (asprintf(&command, "%s %s", compiler(), FAKECUDA_SANITIZER) < 0) {
        return -1;
    }
    count = split(command, words, 0);
    for (size_t i = 0; arguments[i] != NULL && count < ARGUMENTS - 1; i++) {
        words[count++] = (char *)arguments[i];
    }
    words[count] = NULL;
    int error = spawn_in(folder, words, &pid);
    if (error != 0) {
        fc_print(said, "%s: %s\n", words[0], strerror(error));
    } else {
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
        fc_file_read(folder, "said", said);
    }
    free(command);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* ---- linking ---- */

/* nvJitLink's words for what the linker says; the rest of its text as it is. `name`: of the object
 * that the linker spoke of last. */
static void reword(FILE *out, char *line, const char *const *names, size_t count, const char **name)
{
    unsigned number;
    char *place = strstr(line, "standin-");
    if (place != NULL && sscanf(place, "standin-%u.o", &number) == 1 && number < count) {
        *name = names[number];
    }
    char *symbol = strstr(line, "undefined reference to `");
    if (symbol != NULL) {
        symbol += strlen("undefined reference to `");
        fprintf(out, "error   : Undefined reference to '%.*s' in '%s'\n", (int)strcspn(symbol, "'"),
                symbol, *name);
        return;
    }
    symbol = strstr(line, "multiple definition of `");
    if (symbol != NULL) {
        symbol += strlen("multiple definition of `");
        fprintf(out, "error   : Multiple definition of '%.*s' in '%s'\n", (int)strcspn(symbol, "'"),
                symbol, *name);
    } else if (strstr(line, ": in function `") == NULL && strstr(line, "collect2:") == NULL) {
        fprintf(out, "error   : %s\n", line);
    }
}

static void reword_all(fc_blob *said, const char *const *names, size_t count, fc_blob *log)
{
    char *rest = NULL;
    const char *name = "<unknown>";
    *log = (fc_blob){0};
    FILE *out = open_memstream(&log->data, &log->size);
    if (out == NULL) {
        return;
    }
    for (char *line = strtok_r(said->data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        reword(out, line, names, count, &name);
    }
    fclose(out);
}

static int link_in(const char *folder, const fc_blob *objects, size_t count, const char *arch,
                   fc_blob *said)
{
    char soname[128];
    char(*files)[32] = calloc(count + 1, sizeof *files);
    const char **arguments = calloc(count + 16, sizeof *arguments);
    size_t n = 0;
    int result = -1;
    *said = (fc_blob){0};
    if (files == NULL || arguments == NULL) {
        goto done;
    }
    snprintf(soname, sizeof soname, "-Wl,-soname," FC_IMAGE "%s;", arch);
    arguments[n++] = "-shared";
    arguments[n++] = "-Wl,-z,defs";
    /* Names of the program that loads the image must not take the place of the image's own. */
    arguments[n++] = "-Wl,-Bsymbolic";
    arguments[n++] = soname;
    arguments[n++] = "-o";
    arguments[n++] = "image.so";
    for (size_t i = 0; i < count; i++) {
        snprintf(files[i], sizeof *files, "standin-%u.o", (unsigned)i);
        if (fc_file_write(folder, files[i], objects[i].data, objects[i].size) != 0) {
            goto done;
        }
        arguments[n++] = files[i];
    }
    arguments[n++] = "-lm";
    result = fc_compile(folder, arguments, said);
done:
    free(files);
    free(arguments);
    return result;
}

int fc_link(const fc_blob *objects, const char *const *names, size_t count, const char *arch,
            fc_blob *image, fc_blob *log)
{
    fc_blob said = {0};
    char *folder = fc_folder_make();
    *image = *log = (fc_blob){0};
    int result = folder != NULL ? link_in(folder, objects, count, arch, &said) : -1;
    if (result == 0) {
        result = fc_file_read(folder, "image.so", image);
    } else if (said.data != NULL) {
        reword_all(&said, names, count, log);
    }
    if (result != 0 && log->data == NULL) {
        fc_print(log, "error   : the linker could not be run\n");
    }
    free(said.data);
    fc_folder_remove(folder);
    return result;
}

/* ---- what is written on objects and images ---- */

size_t fc_elf_size(const void *data)
{
    Elf64_Ehdr header;
    const char *bytes = data;
    if (data == NULL || strncmp(bytes, ELFMAG, SELFMAG) != 0) {
        return 0;
    }
    memcpy(&header, bytes, sizeof header);
    size_t size = header.e_shoff + (size_t)header.e_shnum * header.e_shentsize;
    for (unsigned i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr section;
        memcpy(&section, bytes + header.e_shoff + (size_t)i * header.e_shentsize, sizeof section);
        if (section.sh_type != SHT_NOBITS && section.sh_offset + section.sh_size > size) {
            size = section.sh_offset + section.sh_size;
        }
    }
    return size;
}

int fc_elf_is_object(const void *data)
{
    Elf64_Ehdr header;
    memcpy(&header, data, sizeof header);
    return header.e_type == ET_REL;
}

/* sm_NN runs on its own major capability from its minor one on; compute_NN on everything newer. */
static int mark_fits(const char *mark, long cc)
{
    long virtual = 0, real = 0;
    if (sscanf(mark, "compute_%ld", &virtual) == 1) {
        return virtual <= cc;
    }
    return sscanf(mark, "sm_%ld", &real) == 1 && real / 10 == cc / 10 && real <= cc;
}

static int marks_fit(const char *data, size_t size, const char *key, long cc, int *found)
{
    const char *at = data, *end = data + size;
    while ((at = memmem(at, (size_t)(end - at), key, strlen(key))) != NULL) {
        at += strlen(key);
        *found = 1;
        if (!mark_fits(at, cc)) {
            return 0;
        }
    }
    return 1;
}

int fc_fits(const void *data, size_t size, long cc)
{
    int found = 0;
    /* A linked image says itself what it is for; its objects may have been older. */
    int fits = marks_fit(data, size, FC_IMAGE, cc, &found);
    if (!found) {
        fits = marks_fit(data, size, FC_MARK, cc, &found);
    }
    return fits && found;
}
