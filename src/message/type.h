/*
 * type.h -- message types: schema, struct layout, hash, the process-wide registry.
 *
 * Layout (DESIGN §5). A schema contributes members: field `f` of a scalar or nested type is one
 * member; a field with brackets is two: the array `f` and its `uint32_t f_count`. Members are
 * sorted by alignment, largest first; inside one alignment the counts come first, then by name
 * (strcmp). Natural alignment as the C compiler's, size rounded up to the largest alignment (an
 * empty schema has size 1, like a struct with one byte: member `char rk_empty`).
 *
 *   bool            bool      1        f32[n]      float f[n] + count    (n 1..65536)
 *   i8..u64         intN_t             string[n]   char f[n] + count: n bytes, no final NUL needed
 *   f32 f64         float double       bytes[n]    uint8_t f[n] + count
 *   uuid            rk_uuid: uint8_t[16], align 1
 *   pid             uint64_t (rk_pid)  Name        the nested struct
 *   any[n]          uint8_t f[n] + count: one MessagePack value, or nothing, which is nil; `any` is
 *                   any[1000]. At most RK__ANY_DEPTH containers inside each other, so that it fits
 *                   the limit of MessagePack wherever the field is. On the host only.
 *   buffer<f32>     is refused with RK_ETYPE
 * Arrays may be of every scalar type, uuid and pid, not of nested types or strings.
 * The hash is rk__hash64 over the canonical text "Name{f:type;...}" with members in layout order,
 * nested types replaced by their own canonical text.
 *
 * Types are never freed and never move: a `const rk_type *` is valid for the life of the process.
 */
#ifndef RK_MESSAGE_TYPE_H
#define RK_MESSAGE_TYPE_H

#include "base/strbuf.h"
#include "rk.h"

typedef enum rk__kind {
    RK__BOOL,
    RK__I8,
    RK__I16,
    RK__I32,
    RK__I64,
    RK__U8,
    RK__U16,
    RK__U32,
    RK__U64,
    RK__F32,
    RK__F64,
    RK__UUID,
    RK__PID,
    RK__STRING,
    RK__BYTES,
    RK__ANY,
    RK__NESTED
} rk__kind;

typedef struct rk__fielddef {
    const char *name;
    rk__kind kind;         /* of the element, for arrays */
    bool array;            /* f32[64]; string, bytes, any are not `array` but have a count */
    uint32_t capacity;     /* elements (arrays) or bytes (string, bytes, any); 1 for scalars */
    uint32_t offset;       /* of the value, bytes from the start of the struct */
    uint32_t count_offset; /* of `f_count`; UINT32_MAX when there is none */
    uint32_t element;      /* bytes of one element */
    const rk_type *nested; /* RK__NESTED */
} rk__fielddef;

struct rk_type {
    const char *name;
    uint64_t hash;
    uint32_t size, align;
    uint32_t field_count;
    const rk__fielddef *fields; /* in layout order of their values */
    const char *canonical;
    bool host_only; /* an `any` field is in it, or in what it nests */
    uint32_t id;    /* 1, 2, ... in order of definition, process-wide */
    void *script;   /* unused by C; reserved for src/script (per-process data) */
};

/* Bytes with a count, that are no array: string, bytes, any. */
static inline bool rk__kind_is_bytes(rk__kind kind)
{
    return kind == RK__STRING || kind == RK__BYTES || kind == RK__ANY;
}

/* Bytes of one element of a kind (nested: 0), and its alignment. */
uint32_t rk__kind_size(rk__kind kind);
uint32_t rk__kind_align(rk__kind kind);
const char *rk__kind_name(rk__kind kind);

/* RK_ENOENT lists the fields of the type. thread: any. blocks: no */
int rk__type_field(const rk_type *type, const char *name, size_t size, const rk__fielddef **out);
/* The field's type as it was written: "f32[64]". */
const char *rk__field_text(const rk__fielddef *field, char text[96]);
/* Looks a type up without setting an error; NULL when unknown. thread: any. blocks: no */
const rk_type *rk__type_find(const char *name, size_t size);
/* All types in order of definition; returns how many there are. */
size_t rk__type_list(const rk_type **types, size_t capacity);

/* Types the runtime itself sends; defined on first use. NULL: out of memory. thread: any */
/* down, exit { pid = "pid", reason = "string[512]", traceback = "string[2048]", normal = "bool" } */
const rk_type *rk__type_down(void);
const rk_type *rk__type_exit(void);
const rk_type *rk__type_error(void); /* error { code = "i32", text = "string[4096]" } */

/* header.c: appends the struct definitions of `types` and of what they nest, each once, in
 * dependency order, guarded by `#ifndef RK_STRUCT_<Name>`; plain C and C++ (and NVRTC: no includes,
 * the rk prelude has the fixed-width names). A _Static_assert per struct checks size and offsets
 * when RK_CHECK_LAYOUT is defined. RK_ENOMEM. */
int rk__type_header(rk__strbuf *out, const rk_type *const *types, size_t count);

#endif
