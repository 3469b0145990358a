/*
 * message.h -- bodies and deliveries.
 *
 * A body is the fields of a message in one pooled, reference-counted block, immutable once sent.
 * A delivery (rk_message) is one sending of it. A body has room for one delivery inside; further
 * ones come from the pool. Memory: [rk__body 128 bytes][payload].
 *
 * Threads: a delivery belongs to one thread at a time (sender, then mailbox, then receiver). A body
 * is shared: `refs` and `id` are atomic, the rest is constant once sent.
 */
#ifndef RK_MESSAGE_MESSAGE_H
#define RK_MESSAGE_MESSAGE_H

#include <ck_stack.h>
#include <stdbool.h>
#include "base/id.h"
#include "message/type.h"
#include "rk.h"

enum rk__delivery_flag {
    RK__CALL = 1,       /* the sender waits for an answer with `token` */
    RK__REPLY = 2,      /* answer to a call: routed by `token`, bypasses the bound */
    RK__ERROR = 4,      /* the body is of type `error` */
    RK__SYSTEM = 8,     /* from the runtime itself: bypasses the bound */
    RK__CREDITED = 16,  /* counts against the bound of the mailbox it is in */
    RK__OUTPUT = 32,    /* answers go to the receiver's own output queue */
    RK__EMBEDDED = 64,  /* the delivery lives inside its body */
    RK__RECEIVED = 128, /* handed to user code by its receiver */
    RK__ANSWERED = 256,
    RK__STAMPED = 512,      /* `sent` is valid */
    RK__STOP = 1024,        /* system: please stop; body is `down` with the reason */
    RK__OUTSTANDING = 2048, /* on its receiver's list of unanswered calls */
    RK__TICKET = 4096,      /* a place in the line for a full mailbox; never shown to anybody */
    RK__UNBOUNDED = 8192,   /* an answer to a plain send: ordinary mail that takes no credit */
    RK__TOPIC = 16384,      /* published: `topic` is valid */
    RK__PARCEL = 32768      /* the body is a rk__parcel */
};

/*
 * One cache line holds what every hop touches: the first 16 bytes of the body and the first 48 of
 * the delivery inside it. What only some hops touch (times, ids) is on the second line.
 */
struct rk_message {
    ck_stack_entry_t link; /* intake stack, then next in a queue */
    struct rk__body *body;
    rk_pid from;
    union {
        uint64_t token;          /* of a call or its reply; 0: none */
        struct rk__topic *topic; /* with RK__TOPIC; nobody calls a topic */
    };
    uint32_t to_generation; /* of the receiver the sender meant: a reused slot is someone else */
    uint32_t sequence;      /* arrival number in its mailbox; then place among unanswered calls */
    uint32_t flags;
    uint8_t priority;
    uint8_t spare[3];
    int64_t sent;       /* rk__now; valid with RK__STAMPED */
    int64_t deadline;   /* rk__now; it expires then; 0: never */
    rk__id correlation; /* zero: none */
};

/* A name that deliveries share. Made by a publisher, freed with the last delivery on it. */
typedef struct rk__topic {
    uint32_t refs; /* atomic */
    char name[];
} rk__topic;

/* An object of this process as a message: freed with the body, unless the taker sets data to NULL. */
typedef struct rk__parcel {
    void *data;
    void (*free)(void *data);
} rk__parcel;

/* How an actor ended. */
typedef struct rk__end {
    const char *reason;    /* borrowed */
    const char *traceback; /* borrowed; NULL: none */
    bool failed;           /* its body or handler failed, or its device was lost */
    bool normal;           /* not failed, and nobody killed it */
} rk__end;

typedef struct rk__body {
    uint32_t refs;       /* atomic: deliveries and handles on this body */
    uint32_t size;       /* payload bytes in use */
    const rk_type *type; /* NULL: MessagePack */
    rk_message embedded;
    rk__id id;              /* made when first needed; only through rk__body_id and its like */
    uint32_t capacity;      /* payload bytes allocated */
    uint32_t embedded_used; /* atomic: the delivery inside is taken */
    uint32_t id_state;      /* atomic: of `id`: 0 none, 1 being written, 2 there */
    uint32_t parcel;        /* the payload is a rk__parcel */
    uint8_t payload[];
} rk__body;

_Static_assert(offsetof(rk__body, embedded.sent) == 64, "the hot part is one cache line");
_Static_assert(sizeof(rk__body) == 128, "the payload starts on a cache line");

/* A body with one reference and `size` bytes of zeroed payload (type: NULL for MessagePack).
 * NULL: out of memory. gives. thread: any. blocks: no */
rk__body *rk__body_new(const rk_type *type, uint32_t size);
void rk__body_retain(rk__body *body);
void rk__body_release(rk__body *body);
/* The body's message id, made by the first thread that asks. */
rk__id rk__body_id(rk__body *body);
/* The id if there is one already. thread: any. blocks: no */
bool rk__body_id_peek(const rk__body *body, rk__id *out);
/* Gives a body that nobody else knows yet an id that came from outside. thread: owner only */
void rk__body_id_set(rk__body *body, rk__id id);

/* A delivery on a body: uses the one inside when free, else the pool. Takes one reference of the
 * body (the caller's). priority 128, everything else zero. NULL: out of memory (the reference
 * stays the caller's). thread: any. blocks: no */
rk_message *rk__delivery_new(rk__body *body);
/* Frees the delivery and drops its reference on the body, with no questions asked: callers that may
 * hold an unanswered call use rk_message_release (actor layer). NULL is fine. */
void rk__delivery_free(rk_message *m);

/* An `error` message with this code and text (cut at the field's size). NULL: out of memory. */
rk_message *rk__message_error(int code, const char *text);
/* A `down`, or an `exit` (as_exit), message; the texts are cut at their fields' sizes. */
rk_message *rk__message_end(rk_pid pid, const rk__end *end, bool as_exit);
/* A delivery that carries an object; takes data on success. NULL: out of memory. */
rk_message *rk__message_parcel(void *data, void (*free_data)(void *data));
/* What it carries; NULL: it is no parcel, or it has been taken. Taking it makes it the caller's. */
void *rk__parcel_take(rk_message *m);
/* A topic with one reference. RK_ENOMEM: NULL. */
rk__topic *rk__topic_new(const char *name);
void rk__topic_release(rk__topic *topic);
/* The delivery is one that was published under the topic. A further reference; not for calls. */
void rk__topic_attach(rk_message *m, rk__topic *topic);

/* field.c: reads and writes by path are in rk.h (rk_set_int ...). These work on a struct in memory
 * and a field, and are what Lua uses. `base` is the struct that holds the field. */
int rk__field_set_int(void *base, const rk__fielddef *f, uint32_t index, int64_t value);
int rk__field_set_uint(void *base, const rk__fielddef *f, uint32_t index, uint64_t value);
int rk__field_set_number(void *base, const rk__fielddef *f, uint32_t index, double value);
int rk__field_set_bytes(void *base, const rk__fielddef *f, const void *bytes, size_t size);
uint32_t rk__field_count(const void *base, const rk__fielddef *f);          /* scalars: 1 */
int rk__field_set_count(void *base, const rk__fielddef *f, uint32_t count); /* RK_ERANGE */

#endif
