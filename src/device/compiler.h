/* compiler.h -- the system C compiler as a child process: which one, and what it said. */
#ifndef RK_DEVICE_COMPILER_H
#define RK_DEVICE_COMPILER_H

#include <limits.h>
#include "device/device.h"

enum {
    RK__COMPILER_FLAGS = 32, /* room for the flags of a variant */
    RK__COMPILER_WORDS = 8   /* of $CC: "ccache gcc -m64" */
};

/* Handlers are instrumented like the library around them. gcc has no macro for the undefined
 * behaviour sanitizer: a build with it says -DRK_SANITIZE_UNDEFINED. */
#if defined(__SANITIZE_ADDRESS__)
#define RK__COMPILER_SANITIZE "-fsanitize=address"
#elif defined(__SANITIZE_THREAD__)
#define RK__COMPILER_SANITIZE "-fsanitize=thread"
#elif defined(RK_SANITIZE_UNDEFINED)
#define RK__COMPILER_SANITIZE "-fsanitize=undefined"
#else
#define RK__COMPILER_SANITIZE ""
#endif

typedef struct rk__compiler {
    char words[RK__COMPILER_WORDS][PATH_MAX]; /* the first is a path */
    size_t word_count;
    bool clang;
    char identity[PATH_MAX + 128]; /* file, size, times: changes when the compiler does */
} rk__compiler;

/* $RK_CC when it is set; else the first of $CC, cc, gcc, clang that is on the PATH. Runs nothing.
 * RK_ENOCOMPILER: the sentence says what was looked for. thread: any. blocks: no */
int rk__compiler_find(rk__compiler *out);
/* folder/unit.c -> folder/unit.o. RK_ECOMPILE: what the compiler says about the user's lines.
 * RK_EIO. thread: any. blocks: yes */
int rk__compiler_object(const rk__compiler *c, const rk__kernel *kernel, const char *folder,
                        const char *const *flags, size_t count);
/* folder/unit.o -> folder/unit.so. RK_ECOMPILE names what is missing. */
int rk__compiler_link(const rk__compiler *c, const rk__kernel *kernel, const char *folder);
/* The sentence for what a compiler or linker said in gcc's form ("file:12:5: error: ...",
 * "undefined reference to `name'"): lines about the user's text, or names that are missing, or all.
 * what: "compile", "link". Returns RK_ECOMPILE. thread: any. blocks: no */
int rk__compiler_report(const rk__kernel *kernel, const rk__strbuf *said, const char *what);

#endif
