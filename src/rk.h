/*
 * rk.h -- the one public header of the runtime.
 *
 * Words used in every declaration:
 *   borrows   the callee reads the argument during the call and keeps nothing
 *   copies    the callee keeps its own copy
 *   takes     the callee becomes the owner when the call succeeds (0 is returned);
 *             on an error the caller still owns the argument
 *   gives     the caller becomes the owner and must release what it got
 *   thread: any | owner only          who may call
 *   blocks: yes | no                  whether the call may wait
 *
 * Errors: a function returns 0 (or a count) on success and a negative RK_E... on failure; out
 * parameters are left untouched on failure; rk_errdetail() has the human sentence, per thread.
 * Times: int64_t nanoseconds; negative waits for ever, 0 polls.
 */
#ifndef RK_H
#define RK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RK_VERSION "0.1.0"

#if defined(__GNUC__)
#define RK_API          __attribute__((visibility("default")))
#define RK_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define RK_API
#define RK_PRINTF(f, a)
#endif

/* ---- errors ------------------------------------------------------------------------------- */

/* One line per error: name, number, text. The enum, rk_err_name, rk_strerror and the Lua
 * constants are all made from it. Numbers are part of the ABI: append, never renumber. */
#define RK_ERRORS(X)                                                                               \
    X(EINVAL, 1, "invalid argument")                                                               \
    X(ENOMEM, 2, "out of memory")                                                                  \
    X(ETIMEOUT, 3, "timeout")                                                                      \
    X(ESTATE, 4, "illegal transition")                                                             \
    X(ENOENT, 5, "unknown name")                                                                   \
    X(EEXIST, 6, "already exists")                                                                 \
    X(EDEAD, 7, "actor is dead")                                                                   \
    X(EFULL, 8, "mailbox full")                                                                    \
    X(ETYPE, 9, "wrong type")                                                                      \
    X(ERANGE, 10, "out of range")                                                                  \
    X(EFORMAT, 11, "malformed data")                                                               \
    X(ELIMIT, 12, "limit exceeded")                                                                \
    X(ECOMPILE, 13, "does not compile")                                                            \
    X(ENOCOMPILER, 14, "no C compiler")                                                            \
    X(EDEVICE, 15, "device error")                                                                 \
    X(EHANDLER, 16, "handler failed")                                                              \
    X(ESTOP, 17, "stop")                                                                           \
    X(EINTR, 18, "interrupted")                                                                    \
    X(ENOREPLY, 19, "no reply")                                                                    \
    X(EFORK, 20, "runtime used after fork")                                                        \
    X(EIO, 21, "input/output error")                                                               \
    X(ELUA, 22, "Lua error")                                                                       \
    X(ESELF, 23, "would wait for itself")                                                          \
    X(EUNSUPPORTED, 24, "not supported")                                                           \
    X(EEXPIRED, 25, "expired")                                                                     \
    X(EDEADLOCK, 26, "deadlock")                                                                   \
    X(EREJECTED, 27, "rejected")

enum rk_error {
    RK_OK = 0,
#define RK_ERROR_ENUM(name, number, text) RK_##name = -(number),
    RK_ERRORS(RK_ERROR_ENUM)
#undef RK_ERROR_ENUM
};

/* Name ("ETIMEOUT") and text ("timeout") of a code; never NULL. thread: any. blocks: no */
RK_API const char *rk_err_name(int code);
RK_API const char *rk_strerror(int code);
/* What happened last on this thread, as a sentence with the names involved; valid until the next
 * failing call of this thread; "" when nothing failed. thread: any. blocks: no */
RK_API const char *rk_errdetail(void);

/* ---- handles ------------------------------------------------------------------------------ */

typedef uint64_t rk_pid; /* node 16 bits | generation 24 | index 24; 0 is nobody */
#define RK_NOBODY ((rk_pid)0)

typedef struct rk_runtime rk_runtime;
typedef struct rk_type rk_type;       /* a message type; lives as long as the process */
typedef struct rk_message rk_message; /* one delivery: an envelope on a shared, immutable body */

enum { RK_NAME_MAX = 64 }; /* bytes of any name, with the final NUL */
enum { RK_PRIORITY_NORMAL = 128 };
enum { RK_PID_TEXT = 96 }; /* bytes rk_pid_format may write */

/* Writes a pid as <generation.index "name">. Returns text. thread: any. blocks: no */
RK_API const char *rk_pid_format(rk_pid pid, char text[RK_PID_TEXT]);

/* ---- message types ------------------------------------------------------------------------ */

/* A field: its name, and its type in the words of DESIGN §5: "bool" "i8".."u64" "f32" "f64" "uuid"
 * "pid", arrays "f32[64]", "string[32]", "bytes[256]", the name of a message type, or "any"
 * ("any[n]": a MessagePack value of up to n bytes, 1000 when not said; host actors only). */
typedef struct rk_field {
    const char *name;
    const char *type;
} rk_field;

/* Defines a type; defining the same schema again gives the same type. copies its arguments.
 * The struct has its members sorted by alignment, largest first, then by name. Every field with
 * brackets, `f`, has a second member `uint32_t f_count`, and these counts come first among the
 * members of alignment 4 (see src/message/type.h).
 * RK_EEXIST another schema has this name; RK_EINVAL, RK_ETYPE, RK_ERANGE say which field and why.
 * thread: any. blocks: no */
RK_API int rk_message_define(const rk_type **out, const char *name, const rk_field *fields,
                             size_t count);
/* RK_ENOENT lists what exists. thread: any. blocks: no */
RK_API int rk_message_find(const rk_type **out, const char *name);

RK_API const char *rk_type_name(const rk_type *type);
RK_API size_t rk_type_size(const rk_type *type); /* sizeof the C struct, bytes */
RK_API uint64_t rk_type_hash(const rk_type *type);
/* The C header with the structs of `types` (nested ones first). gives a malloc'ed string.
 * RK_ENOMEM. thread: any. blocks: no */
RK_API int rk_type_header(char **out, const rk_type *const *types, size_t count);

/* ---- messages ----------------------------------------------------------------------------- */

/* A zeroed message of a type, priority 128. gives. RK_ENOMEM. thread: any. blocks: no */
RK_API int rk_message_new(rk_message **out, const rk_type *type);
/* A message without a schema that carries MessagePack bytes (checked to be one whole value).
 * copies bytes; gives. RK_EFORMAT, RK_ELIMIT, RK_ENOMEM. thread: any. blocks: no */
RK_API int rk_message_new_packed(rk_message **out, const void *bytes, size_t size);
/* A further handle on the same body, to send it again; the body is immutable from now on.
 * borrows m; gives. RK_ENOMEM. thread: any. blocks: no */
RK_API int rk_message_share(rk_message **out, rk_message *m);
/* Releases a handle; NULL is fine. A received request that is released unanswered answers its
 * caller with RK_ENOREPLY. takes. thread: any (for a received message: owner only). blocks: no */
RK_API void rk_message_release(rk_message *m);

RK_API const rk_type *rk_message_type(const rk_message *m); /* NULL: MessagePack body */
/* The C struct (or the MessagePack bytes), 16-byte aligned. Writable until first sent or shared. */
RK_API void *rk_message_data(rk_message *m);
RK_API size_t rk_message_size(const rk_message *m); /* bytes behind rk_message_data */

/* Envelope. rk_message_id makes the id when first asked. correlation: false when absent. */
RK_API rk_pid rk_message_from(const rk_message *m);
RK_API int rk_message_priority(const rk_message *m);
RK_API void rk_message_set_priority(rk_message *m, int priority); /* 0..255 */
RK_API void rk_message_id(rk_message *m, uint8_t id[16]);
RK_API bool rk_message_correlation(const rk_message *m, uint8_t id[16]);
/* Time to live: a message that its receiver has not taken `ttl` ns from now is not delivered any
 * more: it is a dead letter with RK_EEXPIRED, and a call is answered so. Negative: for ever. Goes
 * with this sending alone. */
RK_API void rk_message_set_ttl(rk_message *m, int64_t ttl);
/* The topic a message was published under; NULL: it was sent. borrows from m */
RK_API const char *rk_message_topic(const rk_message *m);

/* Fields by name; "inner.x" reaches into nested types. Values are checked against the field.
 * RK_ENOENT lists the fields, RK_ETYPE, RK_ERANGE. Strings and bytes (an `any` field: one whole
 * MessagePack value, else RK_EFORMAT): copies on set; get borrows
 * from the message. Arrays: `values` is an array of the element's C type. thread: owner only */
RK_API int rk_set_int(rk_message *m, const char *field, int64_t value);
RK_API int rk_set_number(rk_message *m, const char *field, double value);
RK_API int rk_set_bytes(rk_message *m, const char *field, const void *bytes, size_t size);
RK_API int rk_set_array(rk_message *m, const char *field, const void *values, size_t count);
RK_API int rk_get_int(const rk_message *m, const char *field, int64_t *value);
RK_API int rk_get_number(const rk_message *m, const char *field, double *value);
RK_API int rk_get_bytes(const rk_message *m, const char *field, const void **bytes, size_t *size);
RK_API int rk_get_array(const rk_message *m, const char *field, const void **values, size_t *count);

/* The MessagePack form (a map with "__type" first) and back. pack gives malloc'ed bytes; unpack
 * gives a message: typed when "__type" names a known type. RK_EFORMAT, RK_ELIMIT, RK_ETYPE... */
RK_API int rk_message_pack(rk_message *m, void **bytes, size_t *size);
RK_API int rk_message_unpack(rk_message **out, const void *bytes, size_t size);

/* ---- runtime ------------------------------------------------------------------------------ */

typedef struct rk_config {
    size_t size;          /* sizeof(rk_config), set by RK_CONFIG_INIT */
    const char *script;   /* Lua configuration run by rk_open; may be NULL */
    const char *device;   /* "auto" (default), "cpu", "cuda", "cuda:1" */
    const char *pin;      /* "auto" (default), "off", or a cpu list "0,2-5" */
    const char *mode;     /* "persistent" (default), "bounded", "batch" */
    const char *cache;    /* folder of compiled kernels; NULL: $XDG_CACHE_HOME/rk */
    int64_t stop_timeout; /* how long rk_close waits for an actor; default 2 s */
    int kill_signal;      /* real-time signal that interrupts Lua; 0: SIGRTMIN+3 */
    /* Of a CUDA device; the first runtime that opens it decides for all of the process. */
    int64_t device_timeout; /* for it to answer a ping, to reach a message border, to load; 5 s */
    uint64_t pinned_memory; /* bytes for rings and messages, reserved once; default 64 MiB */
    uint64_t device_memory; /* bytes for states; 0: 256 MiB, or a quarter of what is free */
    uint32_t dead_letters;  /* lost messages kept for rk_dead_letters; default 256 */
    int64_t drain;          /* how long rk_close lets actors work off their mail; default 0 */
} rk_config;

#define RK_CONFIG_INIT                                                                             \
    {                                                                                              \
        sizeof(rk_config), NULL, NULL, NULL, NULL, NULL, 2000000000, 0, 5000000000,                \
            (uint64_t)64 << 20, 0, 256, 0                                                          \
    }

/* Opens a runtime; runs config->script with globals `rk` and `runtime`. borrows config; gives.
 * RK_EINVAL names the option; RK_EDEVICE what was looked for; RK_ELUA the script's error.
 * thread: any. blocks: yes */
RK_API int rk_open(rk_runtime **out, const rk_config *config);
/* Stops every actor, joins every thread, frees the runtime; NULL is fine. takes. Newest first, the
 * children of a supervisor by their supervisor; each works off its mail first, while rk_config.drain
 * lasts, and is killed when it does not stop in time. Returns how many were killed (the log names them).
 * Returns RK_ETIMEOUT when a thread would not stop: it is named in the log and its memory is kept.
 * thread: the one that opened it. blocks: yes */
RK_API int rk_close(rk_runtime *rt);
/* Runs Lua in the runtime's own state. RK_ELUA with the traceback, RK_EIO.
 * thread: the one that opened it. blocks: yes */
RK_API int rk_dofile(rk_runtime *rt, const char *path);
RK_API int rk_dostring(rk_runtime *rt, const char *chunk, const char *chunkname);
/* Blocks until every actor stopped (0), `timeout` passed (RK_ETIMEOUT) or rk_interrupt (RK_EINTR).
 * thread: any. blocks: yes */
RK_API int rk_wait(rk_runtime *rt, int64_t timeout);
/* Makes blocking calls of ports return RK_EINTR once. Async-signal-safe. thread: any. blocks: no */
RK_API void rk_interrupt(rk_runtime *rt);

/* ---- actors ------------------------------------------------------------------------------- */

/* What a full mailbox does to a sender. DEFAULT: what the definition says, else BLOCK. */
enum rk_full {
    RK_FULL_DEFAULT,
    RK_FULL_BLOCK,
    RK_FULL_REJECT,
    RK_FULL_DROP_OLDEST,
    RK_FULL_DROP_NEWEST
};

typedef struct rk_options {
    size_t size;          /* sizeof(rk_options), set by RK_OPTIONS_INIT */
    const char *name;     /* registered name; NULL: none (a kernel: the definition's name) */
    int cpu;              /* cpu to pin to; -1: the runtime's policy */
    uint32_t mailbox;     /* bound, messages; 0: 4096 (a kernel: its queue_size) */
    enum rk_full full;    /* see enum rk_full */
    size_t stack;         /* bytes of thread stack; 0: 256 KiB */
    uint32_t block, grid; /* ring kernels: threads and blocks; 0: the definition's */
    uint32_t cpu_threads; /* ring kernels on cpu: threads of a block; 0: the definition's */
    uint32_t dedup; /* refuses a message whose id is among the last so many it had; 0: never */
} rk_options;

#define RK_OPTIONS_INIT                                                                            \
    {                                                                                              \
        sizeof(rk_options), NULL, -1, 0, RK_FULL_DEFAULT, 0, 0, 0, 0, 0                            \
    }

/* Body of a C actor; runs on the actor's own thread. Returns 0 or a negative code: the reason of
 * its exit. It should return soon after rk_receive says RK_ESTOP. */
typedef int (*rk_actor_fn)(void *arg);

/* Starts a C actor (launch and activate). borrows options; arg stays the caller's. Gives a pid.
 * RK_EEXIST the name is taken; RK_EINVAL, RK_ENOMEM, RK_ELIMIT. thread: any. blocks: no */
RK_API int rk_spawn_c(rk_runtime *rt, rk_pid *out, rk_actor_fn fn, void *arg,
                      const rk_options *options);
/* Registers a C actor under `name` (again: the new one serves later launches), for rk_spawn, Lua's
 * runtime:spawn and supervisors: each instance runs fn(arg). borrows arg for the life of the process.
 * RK_EINVAL a name of 0 or too many bytes; RK_ENOMEM. thread: any. blocks: no */
RK_API int rk_actor_define(const char *name, rk_actor_fn fn, void *arg);
/* Starts an actor or ring kernel from a definition registered in C or Lua under `name`:
 * rk_launch then rk_activate. RK_ENOENT lists the definitions. thread: any. blocks: yes */
RK_API int rk_spawn(rk_runtime *rt, rk_pid *out, const char *name, const rk_options *options);

/* The lifecycle verbs. launch compiles and allocates (LAUNCHED), activate starts processing
 * (ACTIVE), deactivate pauses at a message border (DEACTIVATED, mail is kept), reactivate goes on,
 * terminate stops for good. RK_ESTATE names both states. thread: any. blocks: yes */
RK_API int rk_launch(rk_runtime *rt, rk_pid *out, const char *name, const rk_options *options);
RK_API int rk_activate(rk_pid pid);
RK_API int rk_deactivate(rk_pid pid);
RK_API int rk_reactivate(rk_pid pid);
/* Asks to stop with `reason` (NULL: "stopped"), waits up to timeout. RK_ETIMEOUT still running;
 * RK_ESELF: it supervises the caller, at whatever depth, and would stop it first (timeout 0 is fine).
 */
RK_API int rk_terminate(rk_pid pid, const char *reason, int64_t timeout);

/* Names are per runtime. RK_EEXIST, RK_ENOENT (lists what exists). thread: any. blocks: no */
RK_API int rk_register(rk_runtime *rt, const char *name, rk_pid pid);
RK_API int rk_whereis(rk_runtime *rt, const char *name, rk_pid *out);
/* The calling thread's own pid: the actor's, or of the thread's port, made at the first call.
 * RK_NOBODY when memory is out. thread: any. blocks: no */
RK_API rk_pid rk_self(void);

/* Sends. takes m on success. A full mailbox under RK_FULL_BLOCK waits up to timeout.
 * A received message may be sent on; it can then no longer be answered. RK_EDEAD, RK_EFULL
 * (reject), RK_ETIMEOUT (block), RK_ESELF, RK_EINVAL (an unanswered request). thread: any. blocks:
 * yes */
RK_API int rk_send(rk_pid to, rk_message *m, int64_t timeout);
/* Sends and waits for the answer. Takes m whatever the outcome; gives the answer. A failing
 * handler, a dead target, a dropped request give their code and rk_errdetail at once. RK_ESELF,
 * RK_EINVAL (m is a request that waits for its answer: send on what rk_message_share makes of it).
 * thread: any. blocks: yes */
RK_API int rk_call(rk_pid to, rk_message *m, rk_message **answer, int64_t timeout);
/* The next message of the calling thread's mailbox, best band first. gives. RK_ETIMEOUT, RK_ESTOP
 * (asked to stop; once per request, then mail goes on), RK_EINTR. blocks: yes */
RK_API int rk_receive(rk_message **out, int64_t timeout);
/* The first message `accept` returns true for; others stay in order. blocks: yes */
RK_API int rk_receive_if(rk_message **out, bool (*accept)(const rk_message *m, void *arg),
                         void *arg, int64_t timeout);
/* Answers a received message; once per request. borrows request, takes answer on success.
 * RK_EINVAL: already answered, or not a received message. thread: owner of request. blocks: no */
RK_API int rk_reply(rk_message *request, rk_message *answer);
/* Answers with an error: the caller's rk_call returns `code` with this text. */
RK_API int rk_reply_error(rk_message *request, int code, const char *text);
/* Messages by the name of an actor, whose replies collect in its output for rk_output. */
RK_API int rk_send_named(rk_runtime *rt, const char *name, rk_message *m, int64_t timeout);
RK_API int rk_output(rk_runtime *rt, const char *name, rk_message **out, int64_t timeout);
/* True once somebody asked the calling actor to stop. thread: any. blocks: no */
RK_API bool rk_should_terminate(void);
RK_API int rk_sleep(int64_t duration); /* RK_ESTOP, RK_EINTR. blocks: yes */

/* One `down` message {pid, reason, traceback, normal} to the caller when `pid` ends, at once when it
 * is dead already. `normal` is false when it failed, was killed, or its device was lost. Monitoring
 * twice is as once. RK_ESELF, RK_ENOMEM. thread: any. blocks: no */
RK_API int rk_monitor(rk_pid pid);
/* No `down` of `pid` any more; one that is in the mailbox already stays. thread: any. blocks: no */
RK_API int rk_demonitor(rk_pid pid);

/* Links two actors: when one ends, and not normally, the other is killed with a reason that names it
 * (with RK_NOBODY as the second: the caller). An actor that traps exits is not killed but gets an
 * `exit` message, with the fields of `down`, and also for normal ends. Ports (the main script, threads
 * of the embedder) always trap. Linking to an actor that is dead counts as an end that was not normal.
 * Linking twice is as once. RK_ESELF: an actor cannot be linked to itself. RK_ENOMEM.
 * thread: any. blocks: no */
RK_API int rk_link(rk_pid pid, rk_pid other);
RK_API int rk_unlink(rk_pid pid, rk_pid other);
/* Whether the calling actor traps exits; *before (may be NULL) gets what it was. RK_EINVAL: a port
 * cannot stop trapping. thread: any. blocks: no */
RK_API int rk_trap_exit(bool on, bool *before);
/* A short text that says what the calling actor is doing or is for; shown by rk_inspect. copies (up to
 * RK_NAME_MAX - 1 bytes). thread: any. blocks: no */
RK_API int rk_label(const char *text);

/* Called on the thread that lost the message, for every drop and every message to the dead. The
 * hook borrows m and must not block. One hook per runtime; NULL removes it. thread: any */
typedef void (*rk_dead_letter_fn)(void *arg, rk_message *m, rk_pid to, int code);
RK_API void rk_on_dead_letter(rk_runtime *rt, rk_dead_letter_fn fn, void *arg);

/* A message that was lost. The runtime keeps the last ones: as many as rk_config.dead_letters, with
 * bodies of up to 16 MiB in all. */
typedef struct rk_dead_letter {
    uint64_t number; /* counts the letters of the runtime, from 1 */
    rk_pid to, from;
    char to_name[RK_NAME_MAX]; /* the name `to` had; "": none */
    int code;                  /* why: RK_EDEAD, RK_EFULL, RK_EEXPIRED, RK_EREJECTED, RK_ETYPE... */
    int64_t age;               /* ns since it was lost */
    rk_message *message;       /* a handle to be released, or sent */
} rk_dead_letter;
/* Copies up to `capacity` of the letters with numbers above `after`, oldest first, and returns how many
 * such are kept; gives their messages. RK_ENOMEM. thread: any. blocks: no */
RK_API int rk_dead_letters(rk_runtime *rt, uint64_t after, rk_dead_letter *letters,
                           size_t capacity);
/* Sends a letter once more, to `to` (RK_NOBODY: to whom it was sent, or to who has that name now), as a
 * plain message of its first sender without a time to live; it is a letter no more. Does not wait for
 * room. RK_ENOENT: no such letter (any more); as rk_send: then it stays. thread: any. blocks: no */
RK_API int rk_dead_letter_replay(rk_runtime *rt, uint64_t number, rk_pid to);
/* Forgets all letters. thread: any. blocks: no */
RK_API void rk_dead_letters_clear(rk_runtime *rt);
/* "dead", "full", "expired", "rejected" (the receiver does not take it), else "undeliverable". */
RK_API const char *rk_dead_letter_reason(int code);

/* ---- ring kernels ------------------------------------------------------------------------- */

typedef struct rk_kernel {
    size_t size; /* sizeof(rk_kernel), set by RK_KERNEL_INIT */
    const char *name;
    const char *source;            /* handlers (DESIGN §7); or */
    const char *file;              /* a file of them, looked for as given, then in kernels/ */
    const rk_type *const *accepts; /* types with an RK_ON each; at least one */
    size_t accepts_count;
    const rk_type *const *replies; /* types used by rk_reply; may be none */
    size_t replies_count;
    const rk_field *state; /* schema of the state, or NULL when RK_STATE or none is used */
    size_t state_count;
    uint32_t block;          /* threads of a block on a GPU, default 128 */
    uint32_t grid;           /* blocks of an instance, default 1 */
    uint32_t queue_size;     /* bound of the mailbox, default 1024 */
    uint32_t cpu_threads;    /* threads of a block on the cpu device, default 1 */
    int64_t handler_timeout; /* report a handler that runs longer; default 5 s, <0 never */
    enum rk_full full;       /* RK_FULL_DROP_OLDEST is RK_EUNSUPPORTED */
    const char *source_name; /* name and first line used in compiler messages; */
    int source_line;         /* NULL: the kernel's name (or its file), 1 */
    bool timeout_fails;      /* handler_timeout makes the actor FAILED instead of only telling */
} rk_kernel;

#define RK_KERNEL_INIT                                                                             \
    {                                                                                              \
        sizeof(rk_kernel), NULL, NULL, NULL, NULL, 0, NULL, 0, NULL, 0, 128, 1, 1024, 1,           \
            5000000000, RK_FULL_BLOCK, NULL, 1, false                                              \
    }

/* Registers a definition (again: the new one serves later launches). copies everything. Checks the
 * source's RK_ON blocks against `accepts`; compiling happens at launch. RK_EINVAL, RK_ENOENT.
 * thread: any. blocks: no */
RK_API int rk_kernel_define(const rk_kernel *kernel);

/* ---- devices ------------------------------------------------------------------------------ */

/* How ring kernels run on a device: in kernels that stay until they are stopped; in kernels that
 * end after a while and are started again; in one kernel per batch of messages. */
enum rk_mode { RK_MODE_PERSISTENT, RK_MODE_BOUNDED, RK_MODE_BATCH, RK_MODES };
RK_API const char *rk_mode_name(enum rk_mode mode); /* "persistent"; "?" for other numbers */

enum { RK_DEVICE_TEXT = 1024 }; /* bytes of a sentence about a device, with the final NUL */

/* What is unknown, or does not apply (most of it to the cpu), is 0, false or "". */
typedef struct rk_device {
    char id[16];         /* "cpu", "cuda:0": what rk_config.device takes */
    char name[256];      /* of the model */
    char uuid[40];       /* as 8-4-4-4-12 hexadecimal digits */
    char pci_bus[32];    /* "0000:3b:00.0" */
    char driver[80];     /* "580.65.06" */
    int driver_cuda;     /* CUDA version of the driver, 13000 is 13.0 */
    int nvrtc;           /* version of the compiler, in the same form */
    char target[16];     /* what is compiled for: "sm_90", or "compute_90" for newer devices */
    int major, minor;    /* compute capability */
    uint64_t memory;     /* bytes */
    uint32_t processors; /* multiprocessors, or cpus this process may use */
    uint32_t warp;       /* threads of a warp; cpu: 1 */
    uint32_t threads_per_processor, threads_per_block; /* at most */
    uint32_t shared_per_processor;                     /* bytes of shared memory */
    int numa_node;                                     /* closest to the device; -1: unknown */
    uint32_t pcie_generation, pcie_width;              /* of the link as it is now */
    uint32_t pcie_generation_max, pcie_width_max;
    bool watchdog;         /* kernels that run long are ended, for a display's sake */
    bool integrated;       /* shares the memory of the host */
    bool host_atomics;     /* host and device see each other's atomics */
    bool dma_buf;          /* its memory can be given away as a dma-buf */
    int rdma_write_order;  /* of GPUDirect RDMA: 0 none, 100 owner, 200 all devices */
    uint32_t sync_domains; /* memory synchronisation domains */
    char compute_mode[24]; /* "default", "exclusive process", "prohibited" */
    char refused[RK_MODES][RK_DEVICE_TEXT]; /* why a mode cannot be used; "": it can be */
} rk_device;

/* Looks for devices: writes up to `capacity` of them to `out`, the cpu first, and to *count how
 * many there are. `missing` (may be NULL) gets why no CUDA device can be used, "" when one can;
 * that is no failure. RK_ENOMEM. thread: any. blocks: yes (loads the CUDA libraries) */
RK_API int rk_devices(rk_device *out, size_t capacity, size_t *count, char missing[RK_DEVICE_TEXT]);

/* ---- looking at things -------------------------------------------------------------------- */

enum rk_state {
    RK_CREATED,
    RK_LAUNCHED,
    RK_ACTIVE,
    RK_DEACTIVATED,
    RK_TERMINATING,
    RK_TERMINATED,
    RK_FAILED
};
RK_API const char *rk_state_name(enum rk_state state);

typedef struct rk_info {
    rk_pid pid;
    char name[RK_NAME_MAX];
    char kind[16];   /* "c", "lua", "supervisor", "port", "kernel" */
    char device[16]; /* "host", "cpu", "cuda:0" */
    enum rk_state state;
    int cpu;                 /* -1: not pinned */
    uint32_t depth[4];       /* waiting messages by band: low, normal, high, system */
    uint64_t received, sent; /* messages taken out of the mailbox; messages sent */
    uint64_t dropped;        /* lost to a full mailbox */
    uint64_t failed;         /* handlers that failed */
    int64_t p50, p99;        /* ns from sent to handled, of stamped messages; 0 when none */
    size_t memory;           /* bytes this actor holds: state, rings, Lua heap */
} rk_info;

RK_API int rk_inspect(rk_pid pid, rk_info *out); /* RK_EDEAD. thread: any. blocks: no */
/* Fills up to `capacity` pids of the runtime, returns how many there are. */
RK_API size_t rk_actors(rk_runtime *rt, rk_pid *pids, size_t capacity);

typedef struct rk_stats {
    uint64_t actors, spawned, terminated, failed;
    uint64_t messages_sent, messages_received;
    uint64_t unfinished;   /* messages nobody waited for an answer to, whose handler did not come
                                 * to an end: it failed, or its actor was killed meanwhile */
    uint64_t dropped;      /* lost to full mailboxes */
    uint64_t dead_letters; /* lost for other reasons; of these: */
    uint64_t expired, rejected; /* time to live; not taken by the receiver */
    uint64_t late_replies;      /* answers that came after their caller had given up */
    uint64_t forgotten; /* calls that were taken and dropped: their callers heard ENOREPLY */
    uint64_t kernels_compiled, cache_hits;
} rk_stats;
RK_API int rk_runtime_stats(rk_runtime *rt, rk_stats *out);

#ifdef __cplusplus
}
#endif
#endif
