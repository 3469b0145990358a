/* embedded.h -- files carried inside the library (made by scripts/embed): the Lua half of `rk` and
 * the kernel texts. Names are paths from the top of the tree: "lua/rk/server.lua". */
#ifndef RK_BASE_EMBEDDED_H
#define RK_BASE_EMBEDDED_H

#include <stddef.h>

typedef struct rk__embedded {
    const char *name;
    const unsigned char *bytes; /* a NUL follows */
    size_t size;
} rk__embedded;

extern const rk__embedded rk__embedded_files[]; /* ends with a NULL name */

/* NULL when there is no such file. thread: any. blocks: no */
const rk__embedded *rk__embedded_find(const char *name);

#endif
