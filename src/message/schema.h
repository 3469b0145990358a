/* schema.h -- from the words of a schema to a type: names, field types, layout, canonical text. */
#ifndef RK_MESSAGE_SCHEMA_H
#define RK_MESSAGE_SCHEMA_H

#include "message/type.h"

enum {
    RK__FIELDS_MAX = 1024,    /* fields of a type */
    RK__ELEMENTS_MAX = 65536, /* elements of an array, bytes of a string */
    RK__STRUCT_MAX = 1 << 20, /* bytes of a struct, and of a canonical text */
    RK__ANY_BYTES = 1000,     /* of `any` without brackets */
    RK__NESTING_MAX = 16      /* types inside types; the codec's depth limit is above it */
};

/* Checks a schema and lays it out. The type is not registered: its id is 0. copies its arguments;
 * gives one malloc'ed block. RK_EINVAL names, RK_ETYPE types, RK_ERANGE sizes, RK_ENOMEM.
 * thread: any. blocks: no */
int rk__schema_build(rk_type **out, const char *name, const rk_field *fields, size_t count);

/* names.c: why a name cannot be that of a type, or of a field: the rest of the sentence "the name
 * ...", or NULL when it is fine. thread: any. blocks: no */
const char *rk__type_name_fault(const char *name);
const char *rk__field_name_fault(const char *name);

/* type.c: appends the names of all message types, separated by spaces. */
void rk__type_names(rk__strbuf *s);

#endif
