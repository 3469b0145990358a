/* values.h -- what the files of src/script that make and read Lua values share: the userdata of
 * messages, types and pids, and what each lua_State keeps for them. */
#ifndef RK_SCRIPT_VALUES_H
#define RK_SCRIPT_VALUES_H

#include "script/script.h"

/* Codes of MessagePack ext values. */
enum {
    RK__EXT_PID = 1,  /* 8 bytes, little endian */
    RK__EXT_UUID = 2, /* 16 bytes; read as text */
    RK__EXT_ENTRY = 3 /* the name of a handler entry: first item of a call or cast by name */
};

/* One per lua_State: a userdata in the registry. Its user values are the last untyped value that
 * was received, and the weak-keyed table of earlier ones (table -> delivery). */
typedef struct rk__lua_values {
    rk_message *last;   /* delivery of the last untyped value; NULL: none, or nothing to answer */
    rk__strbuf scratch; /* bytes on their way to a body or a Lua string */
    size_t unseen;      /* bytes of bodies the collector was not told about yet */
} rk__lua_values;

/* Our userdata begin with the address of one of these, which no other library can have there: a
 * check costs two loads and no look-up by name. */
extern const char rk__lua_message_tag, rk__lua_array_tag, rk__lua_type_tag, rk__lua_pid_tag,
    rk__lua_entry_tag;

/* A message: constructed (no delivery), received (owns its delivery), or a nested message (a view
 * with a reference of its own on the outer body). User value 1: the array view used last. */
typedef struct rk__lua_message {
    const char *tag;
    const rk_type *type;
    const char *base;           /* the struct; NULL: closed */
    rk__body *body;             /* a reference, which is the delivery's when there is one */
    rk_message *delivery;       /* received: owned; NULL otherwise */
    const rk__fielddef *cached; /* field of the view in user value 1 */
    rk__id correlation;         /* constructed only */
    uint8_t priority;           /* constructed only */
} rk__lua_message;

/* An array field. User value 1 is the message, which keeps `owner` alive. */
typedef struct rk__lua_array {
    const char *tag;
    const rk__lua_message *owner;
    const rk__fielddef *field;
    const char *values;
    uint32_t count;
} rk__lua_array;

/* What the key table of a type holds for names that are no fields. */
enum {
    RK__KEY_MESSAGE_ID = -1,
    RK__KEY_CORRELATION_ID = -2,
    RK__KEY_PRIORITY = -3,
    RK__KEY_FROM = -4,
    RK__KEY_SENT = -5,
    RK__KEY_TYPE = -6
};

/* The userdata at index when it begins with this tag, else NULL. Never raises. */
static inline void *rk__lua_tagged(lua_State *L, int index, const char *tag, size_t size)
{
    const char **data = lua_touserdata(L, index);
    return data && lua_rawlen(L, index) >= size && *data == tag ? data : NULL;
}

static inline rk__lua_message *rk__lua_to_message(lua_State *L, int index)
{
    return rk__lua_tagged(L, index, &rk__lua_message_tag, sizeof(rk__lua_message));
}

static inline rk__lua_array *rk__lua_to_array(lua_State *L, int index)
{
    return rk__lua_tagged(L, index, &rk__lua_array_tag, sizeof(rk__lua_array));
}

/* ---- delivery.c ---- */

/* Lets go of the last received table, which can still be answered while anybody else has it. True:
 * there was one. Raises Lua memory errors. */
bool rk__lua_retire_last(lua_State *L);
/* Makes what a state keeps; before everything else here. Idempotent. */
void rk__lua_open_deliveries(lua_State *L);
/* Takes the delivery away from the received value at index, which can then be answered no more.
 * NULL: there is none (any more). gives */
rk_message *rk__lua_take_delivery(lua_State *L, int index);
/* The values of this state; also pushed when `push` is true. */
rk__lua_values *rk__lua_values_of(lua_State *L, bool push);
/* Tells the collector of `bytes` it cannot see. May run finalizers, so: the last thing to do. */
void rk__lua_account(lua_State *L, size_t bytes);
/* Pushes a message that nobody sent: a reference on its body, priority and correlation. takes m,
 * also when it raises. */
void rk__lua_push_unsent(lua_State *L, rk_message *m);

/* ---- entry.c ---- */

void rk__lua_open_entries(lua_State *L);
/* A handler entry's name as a Lua value that no plain value equals; one userdata per name. */
void rk__lua_push_entry(lua_State *L, const char *name, size_t size);
/* The name, or NULL when the value at index is none. Lives as long as the value. */
const char *rk__lua_to_entry(lua_State *L, int index, size_t *size);
/* A call or cast by name: the array [entry, "call"|"cast", values first..last]. NULL: error set */
rk_message *rk__lua_to_entry_call(lua_State *L, const char *name, size_t size, const char *verb,
                                  int first, int last);
/* Whether a message is one. Pushes nothing; *args is then before the first of *count arguments, and
 * name and verb are inside the body. */
bool rk__lua_entry_call(const rk_message *m, rk__token *name, rk__token *verb, rk__reader *args,
                        uint32_t *count);

/* ---- message.c ---- */

/* Pushes the metatable for messages of a type; [1] is its key table (name -> field number, a
 * negative RK__KEY_..., or a method), [2] its type object. */
void rk__lua_push_meta(lua_State *L, const rk_type *type);
/* Pushes an empty message userdata whose metatable is at index `meta`. */
rk__lua_message *rk__lua_new_message(lua_State *L, int meta, const rk_type *type);
/* Raises when the message is closed. */
const char *rk__lua_message_base(lua_State *L, const rk__lua_message *m);
/* A body of exactly this message: shared, or a copy for a nested one. NULL: error set. gives */
rk__body *rk__lua_message_body(const rk__lua_message *m);
/* Appends the MessagePack form. 0 or negative. */
int rk__lua_message_pack(rk__strbuf *out, const rk__lua_message *m);
/* Priority and correlation as the envelope has them. */
uint8_t rk__lua_message_priority(const rk__lua_message *m);
rk__id rk__lua_message_correlation(const rk__lua_message *m);

/* ---- fields.c ---- */

/* Pushes a field of the struct of message m, which is at index `owner`. */
void rk__lua_push_field(lua_State *L, int owner, rk__lua_message *m, const rk__fielddef *f);
/* Pushes a new table with all fields, arrays and nested messages as tables. */
void rk__lua_push_struct(lua_State *L, const rk_type *type, const char *base);
/* Appends a short text of a struct: `{ values = [5] 1, 2, 3, ... }`. */
void rk__lua_describe_struct(rk__strbuf *out, const rk_type *type, const char *base, int depth);
void rk__lua_open_arrays(lua_State *L);

/* ---- construct.c ---- */

/* __call of a type object: T{...}, T(message), T(message, {changes}). */
int rk__lua_construct(lua_State *L);

#endif
