/*
 * transfer.h -- what an image is made of; capture.c writes it, restore.c reads it.
 *
 * The bytes are one value (the root) and then one record per object, numbered from 1 in the order
 * in which they were met, so nothing is nested and no depth limit is needed. A value is a tag and
 * its content; an object is a value that names its number. A record is
 *
 *   table     RK__IMAGE_TABLE, u32 items, u32 pairs, metatable (a value), then key and value of
 * each function  RK__IMAGE_FUNCTION, u64 size, the dump, u8 upvalues, for each: u32 cell, and the
 * value of the cell when it is mentioned for the first time (its number is then the next)
 *
 * Numbers are in the order of this machine: an image never leaves the process.
 */
#ifndef RK_SCRIPT_TRANSFER_H
#define RK_SCRIPT_TRANSFER_H

#include "script/values.h"

enum rk__image_tag {
    RK__IMAGE_NIL,
    RK__IMAGE_FALSE,
    RK__IMAGE_TRUE,
    RK__IMAGE_INTEGER,    /* i64 */
    RK__IMAGE_FLOAT,      /* f64 */
    RK__IMAGE_STRING,     /* u64 size, bytes */
    RK__IMAGE_OBJECT,     /* u32 number */
    RK__IMAGE_GLOBALS,    /* the table of globals */
    RK__IMAGE_NAMED,      /* u64 size, bytes: module NUL key NUL key... */
    RK__IMAGE_TYPE,       /* const rk_type * */
    RK__IMAGE_PID,        /* rk_pid */
    RK__IMAGE_RUNTIME,    /* rk_runtime *, u64 serial */
    RK__IMAGE_MESSAGE,    /* u32 index of the body, u8 priority, rk__id correlation */
    RK__IMAGE_DEFINITION, /* u32 index of the definition */
    RK__IMAGE_TABLE,
    RK__IMAGE_FUNCTION
};

/* Constant once captured: any number of threads may restore it at the same time. */
struct rk__image {
    rk__strbuf bytes;
    uint32_t objects, cells;
    rk__body **bodies; /* one reference each */
    uint32_t body_count;
    struct rk__definition **definitions; /* one reference each */
    uint32_t definition_count;
};

/* ---- modnames.c ---- */

/* Pushes the table value -> name of this state; true when it was made just now. */
bool rk__lua_find_names(lua_State *L);
/* Pushes a new one, for what became part of a module after the last one was made. */
void rk__lua_make_names(lua_State *L);
/* The name of the value at index, in the form of RK__IMAGE_NAMED; NULL: it has none. Lives as long
 * as the table at `names`. */
const char *rk__lua_name_of(lua_State *L, int names, int index, size_t *size);

#endif
