/*
 * embedded.c -- finds a file in the generated table of files carried by the library.
 *
 * Threads: any; the table is constant.
 */
#include "base/embedded.h"

#include <string.h>

const rk__embedded *rk__embedded_find(const char *name)
{
    for (const rk__embedded *file = rk__embedded_files; file->name != NULL; file++) {
        if (strcmp(file->name, name) == 0) {
            return file;
        }
    }
    return NULL;
}
