/*
 * nvrtc.c -- the stand-in's NVRTC: the text of a kernel goes through the system's C compiler as C,
 * and a "cubin" is the object file.
 *
 * Threads: any, as with NVRTC; a program belongs to the thread that works on it. It runs while
 * kernels run: it has nothing to do with the device.
 */
#include "fakecuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What this header declares is exported. */
#pragma GCC visibility push(default)
#include <nvrtc.h>

enum { OPTIONS_MAX = 128, FLAGS_MAX = 16 };

struct _nvrtcProgram {
    char *name, *source;
    char **header_names, **headers;
    int header_count;
    fc_blob log, object;
    int real; /* compiled for sm_NN: there is a cubin */
};

static const int archs[] = {80, 86, 89, 90, 100, 103, 120};
enum { ARCHS = sizeof archs / sizeof *archs };

/* Options of NVRTC that mean nothing to a C compiler: accepted, as far as their spelling goes. A
 * name that ends in '=' takes a value. */
static const char *const ignored[] = {
    "--device-c",
    "-dc",
    "--device-w",
    "-dw",
    "--relocatable-device-code=",
    "-rdc=",
    "--extensible-whole-program",
    "-ewp",
    "--device-debug",
    "-G",
    "--generate-line-info",
    "-lineinfo",
    "--dopt=",
    "-dopt=",
    "--Ofast-compile=",
    "-Ofc=",
    "--ptxas-options=",
    "-Xptxas=",
    "--ftz=",
    "-ftz=",
    "--prec-sqrt=",
    "-prec-sqrt=",
    "--prec-div=",
    "-prec-div=",
    "--fmad=",
    "-fmad=",
    "--use_fast_math",
    "-use_fast_math",
    "--extra-device-vectorization",
    "-extra-device-vectorization",
    "--modify-stack-limit=",
    "-modify-stack-limit=",
    "--no-source-include",
    "-no-source-include",
    "--std=",
    "-std=",
    "--builtin-move-forward=",
    "--builtin-initializer-list=",
    "--disable-warnings",
    "-w",
    "--restrict",
    "-restrict",
    "--device-as-default-execution-space",
    "-default-device",
    "--device-int128",
    "-device-int128",
    "--device-float128",
    "--optimization-info=",
    "-opt-info=",
    "--display-error-number",
    "-err-no",
    "--no-display-error-number",
    "-no-err-no",
    "--diag-error=",
    "-diag-error=",
    "--diag-suppress=",
    "-diag-suppress=",
    "--diag-warn=",
    "-diag-warn=",
    "--brief-diagnostics=",
    "-brief-diag=",
    "--split-compile=",
    "-split-compile=",
    "--fdevice-syntax-only",
    "--minimal",
    "-minimal",
    "--version-ident=",
    "--device-stack-protector=",
    "--no-cache",
    "-no-cache",
    "--frandom-seed=",
    "--jump-table-density=",
    "-jtd=",
    "--pch",
    "-pch",
    "--gen-opt-lto",
    "--Wreorder",
};

/* ---- small questions ---- */

nvrtcResult nvrtcVersion(int *major, int *minor)
{
    if (major == NULL || minor == NULL) {
        return NVRTC_ERROR_INVALID_INPUT;
    }
    *major = 13;
    *minor = 0;
    return NVRTC_SUCCESS;
}

const char *nvrtcGetErrorString(nvrtcResult result)
{
    static const char *const texts[] = {
        "NVRTC_SUCCESS",
        "NVRTC_ERROR_OUT_OF_MEMORY",
        "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
        "NVRTC_ERROR_INVALID_INPUT",
        "NVRTC_ERROR_INVALID_PROGRAM",
        "NVRTC_ERROR_INVALID_OPTION",
        "NVRTC_ERROR_COMPILATION",
    };
    size_t index = (size_t)result;
    return index < sizeof texts / sizeof *texts ? texts[index] : "NVRTC_ERROR unknown";
}

nvrtcResult nvrtcGetNumSupportedArchs(int *count)
{
    if (count == NULL) {
        return NVRTC_ERROR_INVALID_INPUT;
    }
    *count = ARCHS;
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetSupportedArchs(int *out)
{
    if (out == NULL) {
        return NVRTC_ERROR_INVALID_INPUT;
    }
    memcpy(out, archs, sizeof archs);
    return NVRTC_SUCCESS;
}

/* ---- programs ---- */

nvrtcResult nvrtcDestroyProgram(nvrtcProgram *program)
{
    if (program == NULL || *program == NULL) {
        return NVRTC_ERROR_INVALID_PROGRAM;
    }
    nvrtcProgram p = *program;
    for (int i = 0; i < p->header_count; i++) {
        free(p->headers[i]);
        free(p->header_names[i]);
    }
    free(p->headers);
    free(p->header_names);
    free(p->name);
    free(p->source);
    free(p->log.data);
    free(p->object.data);
    free(p);
    *program = NULL;
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcCreateProgram(nvrtcProgram *out, const char *source, const char *name, int count,
                               const char *const *headers, const char *const *names)
{
    if (out == NULL || source == NULL || count < 0 || (count > 0 && (!headers || !names))) {
        return NVRTC_ERROR_INVALID_INPUT;
    }
    nvrtcProgram p = calloc(1, sizeof *p);
    if (p == NULL) {
        return NVRTC_ERROR_OUT_OF_MEMORY;
    }
    p->source = strdup(source);
    p->name = strdup(name != NULL && *name != '\0' ? name : "default_program");
    p->headers = calloc((size_t)count + 1, sizeof *p->headers);
    p->header_names = calloc((size_t)count + 1, sizeof *p->header_names);
    for (int i = 0; i < count; i++) {
        p->headers[i] = strdup(headers[i]);
        p->header_names[i] = strdup(names[i]);
    }
    p->header_count = count;
    fc_print(&p->log, "%s", "");
    *out = p;
    return NVRTC_SUCCESS;
}

/* ---- options ---- */

struct options {
    char arch[32], define[64];
    const char *passed[OPTIONS_MAX]; /* words for the C compiler */
    char *made[OPTIONS_MAX];         /* those of them that are ours to free */
    size_t passed_count, made_count;
};

/* The value when text is one of two spellings of an option, NULL when not. */
static const char *value_of(const char *text, const char *longer, const char *shorter)
{
    if (strncmp(text, longer, strlen(longer)) == 0) {
        return text + strlen(longer);
    }
    return strncmp(text, shorter, strlen(shorter)) == 0 ? text + strlen(shorter) : NULL;
}

static int is_ignored(const char *text)
{
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) {
        size_t length = strlen(ignored[i]);
        int takes = ignored[i][length - 1] == '=';
        if (takes ? strncmp(text, ignored[i], length) == 0 : strcmp(text, ignored[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

static int is_supported(const char *arch, int *real)
{
    int number = 0, used = 0;
    *real = sscanf(arch, "sm_%d%n", &number, &used) == 1;
    if (!*real && sscanf(arch, "compute_%d%n", &number, &used) != 1) {
        return 0;
    }
    for (int i = 0; i < ARCHS; i++) {
        if (archs[i] == number) {
            /* 90a and 100f are architectures of their own; here they are the plain ones. */
            return strspn(arch + used, "af") == strlen(arch + used);
        }
    }
    return 0;
}

static void pass(struct options *o, const char *flag, const char *value)
{
    char *word = NULL;
    if (o->passed_count < OPTIONS_MAX && asprintf(&word, "%s%s", flag, value) >= 0) {
        o->made[o->made_count++] = word;
        o->passed[o->passed_count++] = word;
    }
}

/* -D, -U and -I as one word or two, and their long spellings. The words taken; 0: another option. */
static int pass_on(struct options *o, const char *text, const char *next)
{
    static const char *const flags[][3] = {{"--define-macro=", "-D", "-D"},
                                           {"--undefine-macro=", "-U", "-U"},
                                           {"--include-path=", "-I", "-I"},
                                           {"--pre-include=", "-include=", "-include"}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        const char *value = value_of(text, flags[i][0], flags[i][1]);
        if (value == NULL || (*value == '\0' && next == NULL)) {
            continue;
        }
        pass(o, flags[i][2], i < 3 ? (*value ? value : next) : "");
        if (i == 3) {
            pass(o, "", value);
        }
        return *value ? 1 : 2;
    }
    return 0;
}

static nvrtcResult refuse(nvrtcProgram p, const char *format, const char *what)
{
    char text[256];
    snprintf(text, sizeof text, format, what);
    fc_print(&p->log, "nvrtc: error: %s\n", text);
    return NVRTC_ERROR_INVALID_OPTION;
}

static nvrtcResult read_options(nvrtcProgram p, struct options *o, int count,
                                const char *const *given)
{
    snprintf(o->arch, sizeof o->arch, "compute_80");
    p->real = 0;
    for (int i = 0; i < count;) {
        const char *text = given[i], *next = i + 1 < count ? given[i + 1] : NULL;
        const char *arch = value_of(text, "--gpu-architecture=", "-arch=");
        const char *registers = value_of(text, "--maxrregcount=", "-maxrregcount=");
        int taken = 1;
        if (arch != NULL) {
            if (!is_supported(arch, &p->real)) {
                return refuse(p, "invalid value for --gpu-architecture (-arch)%s", "");
            }
            snprintf(o->arch, sizeof o->arch, "%s", arch);
        } else if (registers != NULL) {
            char *end;
            if (strtol(registers, &end, 10) < 0 || *registers == '\0' || *end != '\0') {
                return refuse(p, "invalid value for --maxrregcount (-maxrregcount)%s", "");
            }
        } else if ((taken = pass_on(o, text, next)) == 0) {
            taken = 1;
            if (!is_ignored(text)) {
                return refuse(p, "unrecognized option %s found", text);
            }
        }
        i += taken;
    }
    return NVRTC_SUCCESS;
}

/* ---- what the compiler said ---- */

/* "./a.h:3:7: error: text" becomes "a.h(3): error: text"; other lines are left out. */
static void reword(FILE *out, const char *line, int *errors)
{
    static const char *const kinds[] = {"fatal error", "error", "warning", "note"};
    const char *told[] = {"catastrophic error", "error", "warning", "note"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char key[32];
        snprintf(key, sizeof key, ": %s: ", kinds[i]);
        const char *text = strstr(line, key), *from = strncmp(line, "./", 2) == 0 ? line + 2 : line;
        int place = 0;
        unsigned number = 0;
        for (const char *c = from; text != NULL && c < text; c++) {
            if (*c == ':' && sscanf(c, ":%u", &number) == 1) {
                place = (int)(c - from);
                break;
            }
        }
        if (text != NULL && place > 0) {
            fprintf(out, "%.*s(%u): %s: %s\n\n", place, from, number, told[i], text + strlen(key));
            *errors += i < 2;
            return;
        }
    }
}

static void reword_all(nvrtcProgram p, fc_blob *said, int failed)
{
    char *rest = NULL;
    int errors = 0;
    free(p->log.data);
    p->log = (fc_blob){0};
    FILE *out = open_memstream(&p->log.data, &p->log.size);
    if (out == NULL) {
        return;
    }
    char *text = said->data;
    for (char *line = text != NULL ? strtok_r(text, "\n", &rest) : NULL; line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        reword(out, line, &errors);
        if (failed && strstr(line, "error") == NULL && strstr(line, "No such file") != NULL) {
            fprintf(out, "nvrtc: error: %s\n", line);
        }
    }
    if (failed) {
        fprintf(out, "%d error%s detected in the compilation of \"%s\".\n", errors,
                errors == 1 ? "" : "s", p->name);
    }
    fclose(out);
}

static void compile_fails(nvrtcProgram p)
{
    fc_print(&p->log,
             "%s(1): error: the stand-in was told to fail\n\n"
             "1 error detected in the compilation of \"%s\".\n",
             p->name, p->name);
}

/* ---- compiling ---- */

/* The text begins with its own name, whatever the file is called. */
static int write_source(nvrtcProgram p, const char *folder)
{
    fc_blob text = {0};
    FILE *out = open_memstream(&text.data, &text.size);
    if (out == NULL) {
        return -1;
    }
    fputs("#line 1 \"", out);
    for (const char *c = p->name; *c != '\0'; c++) {
        fprintf(out, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
    }
    fprintf(out, "\"\n%s\n", p->source);
    fclose(out);
    int result = fc_file_write(folder, "standin.cu", text.data, text.size);
    free(text.data);
    return result;
}

static int write_all(nvrtcProgram p, const char *folder)
{
    for (int i = 0; i < p->header_count; i++) {
        const char *name = p->header_names[i];
        if (fc_file_write(folder, name, p->headers[i], strlen(p->headers[i])) != 0) {
            return -1;
        }
    }
    return write_source(p, folder);
}

/* The folder of this library: standin.h lies beside it. */
static void own_folder(struct options *o)
{
    Dl_info info;
    char path[4096];
    if (dladdr((void *)own_folder, &info) != 0 && realpath(info.dli_fname, path) != NULL) {
        *strrchr(path, '/') = '\0';
        pass(o, "-I", path);
    }
}

static int compile_in(nvrtcProgram p, const char *folder, struct options *o)
{
    static const char *const flags[FLAGS_MAX] = {"-std=gnu11",
                                                 "-O1",
                                                 "-g",
                                                 "-fPIC",
                                                 "-fno-strict-aliasing",
                                                 "-fno-diagnostics-show-caret",
                                                 "-fno-diagnostics-show-option",
                                                 "-fdiagnostics-color=never",
                                                 "-DRK_STANDIN=1",
                                                 "-I."};
    const char *arguments[FLAGS_MAX + OPTIONS_MAX + 16];
    fc_blob said;
    size_t n = 0;
    own_folder(o);
    snprintf(o->define, sizeof o->define, "-DSTANDIN_ARCH=\"%s\"", o->arch);
    for (size_t i = 0; flags[i] != NULL; i++) {
        arguments[n++] = flags[i];
    }
    arguments[n++] = o->define;
    for (size_t i = 0; i < o->passed_count; i++) {
        arguments[n++] = o->passed[i];
    }
    const char *const last[] = {"-include",   "standin.h", "-x",        "c", "-c",
                                "standin.cu", "-o",        "standin.o", NULL};
    memcpy(arguments + n, last, sizeof last);
    int result = fc_compile(folder, arguments, &said);
    reword_all(p, &said, result != 0);
    free(said.data);
    return result == 0 ? fc_file_read(folder, "standin.o", &p->object) : result;
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram p, int count, const char *const *given)
{
    struct options o = {.passed_count = 0};
    fc_noted(__func__);
    if (p == NULL) {
        return NVRTC_ERROR_INVALID_PROGRAM;
    }
    if (count > OPTIONS_MAX / 2) {
        return NVRTC_ERROR_INVALID_INPUT;
    }
    free(p->object.data);
    p->object = (fc_blob){0};
    nvrtcResult result = read_options(p, &o, count, given);
    if (result == NVRTC_SUCCESS && fc_fault(FC_compile_fail)) {
        compile_fails(p);
        result = NVRTC_ERROR_COMPILATION;
    }
    if (result == NVRTC_SUCCESS) {
        char *folder = fc_folder_make();
        if (folder == NULL || write_all(p, folder) != 0) {
            fc_print(&p->log, "nvrtc: error: a temporary file cannot be written\n");
            result = NVRTC_ERROR_COMPILATION;
        } else if (compile_in(p, folder, &o) != 0) {
            result = NVRTC_ERROR_COMPILATION;
        }
        fc_folder_remove(folder);
    }
    for (size_t i = 0; i < o.made_count; i++) {
        free(o.made[i]);
    }
    return result;
}

/* ---- results ---- */

nvrtcResult nvrtcGetCUBINSize(nvrtcProgram p, size_t *size)
{
    if (p == NULL || size == NULL) {
        return p == NULL ? NVRTC_ERROR_INVALID_PROGRAM : NVRTC_ERROR_INVALID_INPUT;
    }
    *size = p->real ? p->object.size : 0;
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetCUBIN(nvrtcProgram p, char *out)
{
    if (p == NULL || out == NULL) {
        return p == NULL ? NVRTC_ERROR_INVALID_PROGRAM : NVRTC_ERROR_INVALID_INPUT;
    }
    if (p->real && p->object.size > 0) {
        memcpy(out, p->object.data, p->object.size);
    }
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetPTXSize(nvrtcProgram p, size_t *size)
{
    if (p == NULL || size == NULL) {
        return p == NULL ? NVRTC_ERROR_INVALID_PROGRAM : NVRTC_ERROR_INVALID_INPUT;
    }
    *size = p->object.size + 1; /* its NUL is counted */
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetPTX(nvrtcProgram p, char *out)
{
    if (p == NULL || out == NULL) {
        return p == NULL ? NVRTC_ERROR_INVALID_PROGRAM : NVRTC_ERROR_INVALID_INPUT;
    }
    if (p->object.size > 0) {
        memcpy(out, p->object.data, p->object.size);
    }
    out[p->object.size] = '\0';
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram p, size_t *size)
{
    if (p == NULL || size == NULL) {
        return p == NULL ? NVRTC_ERROR_INVALID_PROGRAM : NVRTC_ERROR_INVALID_INPUT;
    }
    *size = p->log.size + 1;
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcGetProgramLog(nvrtcProgram p, char *out)
{
    if (p == NULL || out == NULL) {
        return p == NULL ? NVRTC_ERROR_INVALID_PROGRAM : NVRTC_ERROR_INVALID_INPUT;
    }
    memcpy(out, p->log.data != NULL ? p->log.data : "", p->log.size + 1);
    return NVRTC_SUCCESS;
}
