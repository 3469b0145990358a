/*
 * codec.h -- MessagePack through libmpack.
 *
 * Writing appends to a strbuf. Reading is a cursor over bytes with a depth limit; every length is
 * checked against what is left of the input before anything is allocated, so hostile bytes give an
 * error and never a large allocation.
 *
 * Form of a typed message (DESIGN §5): a map, "__type" first, then "message_id" and
 * "correlation_id" (when set) as {"__uuid_bin__": bin 16}, "priority" when it is not 128, then the
 * fields in layout order. Reading accepts: any order of the other keys, numeric arrays as a list or
 * as {"__ndarray__": true|bytes, "dtype": "<f4", "shape": [n], "data": bin}; ints for floats and
 * whole floats for ints; uuid as bin 16, as the 36-character string or as the map; pid as an
 * unsigned int. An `any` field is the value itself, nil when it is empty. uuid fields are written
 * as {"__uuid_bin__": bin 16}, nested types as maps of their fields. An unknown field is RK_ENOENT
 * naming type and field; a field given twice is RK_EFORMAT. Floats travel bit for bit: f32 as float
 * 32, f64 as float 64; integers in their shortest form.
 */
#ifndef RK_MESSAGE_CODEC_H
#define RK_MESSAGE_CODEC_H

#include "base/strbuf.h"
#include "message/message.h"

enum {
    RK__PACK_DEPTH = 32, /* nesting accepted on reading and writing */
    RK__ANY_DEPTH = 16   /* inside the value of an `any` field; the types around it have the rest */
};

/* ---- writing ---- (a failed allocation shows in s->failed) */
void rk__pack_nil(rk__strbuf *s);
void rk__pack_bool(rk__strbuf *s, bool value);
void rk__pack_int(rk__strbuf *s, int64_t value);
void rk__pack_uint(rk__strbuf *s, uint64_t value);
void rk__pack_float(rk__strbuf *s, float value);
void rk__pack_double(rk__strbuf *s, double value);
void rk__pack_str(rk__strbuf *s, const char *bytes, size_t size);
void rk__pack_bin(rk__strbuf *s, const void *bytes, size_t size);
void rk__pack_array(rk__strbuf *s, uint32_t count);
void rk__pack_map(rk__strbuf *s, uint32_t count);
void rk__pack_ext(rk__strbuf *s, int8_t type, const void *bytes, size_t size);

/* ---- reading ---- */
typedef enum rk__token_kind {
    RK__TOKEN_NIL,
    RK__TOKEN_BOOL,
    RK__TOKEN_INT,
    RK__TOKEN_UINT,
    RK__TOKEN_FLOAT,
    RK__TOKEN_STR,
    RK__TOKEN_BIN,
    RK__TOKEN_ARRAY,
    RK__TOKEN_MAP,
    RK__TOKEN_EXT
} rk__token_kind;

typedef struct rk__token {
    rk__token_kind kind;
    bool boolean;
    int8_t ext;                /* type of an ext */
    int64_t integer;           /* INT: any value below 0; UINT values that fit are INT too */
    uint64_t unsigned_integer; /* UINT: above INT64_MAX; FLOAT: its bits as they were sent */
    double number;
    const char *bytes; /* STR BIN EXT: inside the input */
    uint32_t size;     /* bytes, or items (a map: pairs); FLOAT: 4 or 8 */
} rk__token;

typedef struct rk__reader {
    const char *at, *end;
    const char *start; /* for the byte offset in errors */
} rk__reader;

void rk__reader_init(rk__reader *r, const void *bytes, size_t size);
/* Next token. RK_EFORMAT with the byte offset: truncated, invalid byte, a count that the rest of
 * the input cannot hold. Containers: the caller reads their items and checks the depth. */
int rk__read_token(rk__reader *r, rk__token *out);
/* What a token is, for errors: "a string". */
const char *rk__token_name(const rk__token *token);
/* Skips one whole value that lies inside `depth` containers; RK_ELIMIT when more than
 * RK__PACK_DEPTH containers are inside each other. */
int rk__read_skip(rk__reader *r, int depth);

/* ---- typed messages ---- */
/* Appends a message's MessagePack form; a message without a type is appended as it is. */
int rk__message_pack(rk__strbuf *out, rk_message *m);
/* A message from its form. Typed when it is a map whose "__type" names a known type (RK_ENOENT when
 * it names an unknown one), else a MessagePack body. Trailing bytes are RK_EFORMAT. gives */
int rk__message_unpack(rk_message **out, const void *bytes, size_t size);
/* Fills a zeroed struct from a map value at the reader that lies inside `depth` containers;
 * "__type" and envelope keys are skipped (what they say goes to m when m is not NULL). */
int rk__struct_unpack(rk__reader *r, const rk_type *type, void *base, rk_message *m, int depth);
/* ndarray.c: reads the rest of a {"__ndarray__": ...} map into an array field; `map` is its token,
 * which has been read. */
int rk__ndarray_unpack(rk__reader *r, const rk__token *map, const rk__fielddef *f, void *base,
                       int depth);
/* Memory is in out->failed. RK_EFORMAT: what is in an `any` field is no MessagePack value, as code
 * that writes structs itself may have it; out has a part of the struct then. */
int rk__struct_pack(rk__strbuf *out, const rk_type *type, const void *base);
/* field.c: moves one whole value from the reader to an `any` field, which is unchanged on failure.
 * RK_EFORMAT, RK_ELIMIT depth, RK_ERANGE size; the error does not name the field. */
int rk__field_read_any(void *base, const rk__fielddef *f, rk__reader *r);

#endif
