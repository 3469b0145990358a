/*
 * rk_abi.h -- the layouts shared by the host, the resident loop and every handler, on every device.
 *
 * Compiled as C by the host and the cpu device and as CUDA C++ by NVRTC, so: no includes beyond the
 * fixed-width names, no bit-fields, explicit padding, a static assertion on every size and offset.
 *
 * Rules (DESIGN §7): one writer per word; host-written, device-written and constant words on
 * different 64-byte lines; one producer and one consumer per ring; loads, stores and fences only
 * across the border, no read-modify-write.
 */
#ifndef RK_ABI_H
#define RK_ABI_H

#if defined(__CUDACC_RTC__)
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef uint64_t rk_pid;
#define INT64_MAX  9223372036854775807ll
#define INT8_MIN   (-128)
#define INT8_MAX   127
#define UINT8_MAX  255
#define INT16_MIN  (-32768)
#define INT16_MAX  32767
#define UINT16_MAX 65535
#define INT32_MIN  (-2147483647 - 1)
#define INT32_MAX  2147483647
#define UINT32_MAX 4294967295u
#define INT64_MIN  (-9223372036854775807ll - 1)
#define INT64_MAX  9223372036854775807ll
#define UINT64_MAX 18446744073709551615ull
/* NVRTC has no offsetof; this is how its front end spells an address that is a constant. */
#define __builtin_offsetof(type, member) __INTADDR__(&((type *)0)->member)
#elif defined(RK_DEVICE_SIDE) /* by rk_kernel.h: handlers know nothing of the host's rk.h */
#include <stdbool.h>
#include <stdint.h>
typedef uint64_t rk_pid;
#else
#include <stdint.h>
#include "rk.h"
#endif

#if defined(__cplusplus)
#define RK_ABI_ASSERT(condition, text) static_assert(condition, text)
#else
#define RK_ABI_ASSERT(condition, text) _Static_assert(condition, text)
#endif

/* Bumped by hand whenever a layout or the meaning of a word changes; part of every cache key and
 * checked when an image starts. */
#define RK_ABI_VERSION 1u

enum {
    RK_SLOT_SIZE = 64,
    RK_SLOT_INLINE = 40,        /* payload bytes that fit into a slot */
    RK_SHARED_SIZE = 48 * 1024, /* block-shared scratch, the static limit of CUDA */
    RK_LOG_NUMBERS = 8,
    RK_TYPES_MAX = 255 /* accepts + replies of one definition */
};

/*
 * A ring: the fields and the protocol of ck_ring_t (Concurrency Kit), which is what the host uses
 * for it. `produced` is stored with release after the slot is written and loaded with acquire
 * before it is read; `consumed` likewise the other way round. Holds size - 1 entries.
 */
typedef struct rk_ring {
    uint32_t consumed; /* written by the consumer */
    uint8_t pad0[60];
    uint32_t produced; /* written by the producer */
    uint32_t reserved; /* unused by single-producer rings */
    uint8_t pad1[56];
    uint32_t size, mask; /* constant */
    uint8_t pad2[56];
} rk_ring;

/* What a slot carries. To the device: */
enum rk_slot_kind {
    RK_SLOT_MESSAGE = 1, /* a message for the handler of `type` */
    /* From the device: */
    RK_SLOT_REPLY = 2,   /* the answer to message `token` */
    RK_SLOT_SEND = 3,    /* a message of its own, to pid `peer` */
    RK_SLOT_FORWARD = 4, /* message `token` goes on to pid `peer`, sender and correlation kept */
    RK_SLOT_LOG = 5,     /* an rk_log_record */
    RK_SLOT_FAIL = 6     /* the handler of message `token` failed; payload: the text */
};

enum rk_slot_flag {
    /* The payload is not inline. To the device: `address` is a pointer to it. From the device: it
     * is in the arena of the block, whole, at byte words[0]; words[1] is the value that arena_tail
     * gets once the host has read it (payloads skipped at the end of the arena are counted in it).
     */
    RK_SLOT_REF = 1
};

/* Token of slots that belong to no message (from RK_ON_START, RK_ON_STOP and RK_EVERY). */
#define RK_TOKEN_NONE 0xffffffffu

typedef struct rk_slot {
    uint32_t stamp; /* lap-stamped sequence: index + 1; checked in debug builds of the cpu device */
    uint8_t kind;   /* enum rk_slot_kind */
    uint8_t flags;  /* enum rk_slot_flag */
    uint8_t priority;
    uint8_t type;   /* index into the definition's types: accepts, then replies */
    uint32_t size;  /* payload bytes */
    uint32_t token; /* the message's number in this instance: 0, 1, 2, ... as it is pumped */
    rk_pid peer;    /* to the device: the sender; from the device: the receiver */
    union {
        uint8_t inline_bytes[RK_SLOT_INLINE];
        uint64_t address;
        uint64_t words[RK_SLOT_INLINE / 8];
    } payload;
} rk_slot;

/* rk_log on the device: the format travels with its numbers and is formatted on the host. */
typedef struct rk_log_record {
    uint32_t level;    /* enum rk__level */
    uint32_t count;    /* numbers in use */
    uint32_t floating; /* bit i: number i is a double, else an int64_t */
    uint32_t text;     /* bytes of format text that follow */
    union {
        int64_t i;
        double d;
    } numbers[RK_LOG_NUMBERS];
} rk_log_record;

enum rk_command {
    RK_COMMAND_RUN = 1,
    RK_COMMAND_PAUSE = 2,
    RK_COMMAND_STOP = 3, /* at the next message border: RK_ON_STOP, then leave the loop */
    RK_COMMAND_ABORT = 4 /* the same without RK_ON_STOP: a sibling failed, or a kill */
};
enum rk_status {
    RK_STATUS_NEW = 0,
    RK_STATUS_RUNNING = 1, /* RK_ON_START has run, messages are taken */
    RK_STATUS_PAUSED = 2,
    RK_STATUS_STOPPED = 3, /* RK_ON_STOP has run; the block has left the loop */
    RK_STATUS_FAILED = 4   /* a handler called rk_fail; the block has left the loop */
};

/* What a block runs: 1 + the type of a message, or one of these. */
enum rk_busy { RK_BUSY_START = 256, RK_BUSY_STOP = 257, RK_BUSY_EVERY = 258 /* + its index */ };

struct rk_ctx;

/* What a definition exports (symbol rk_definition on the cpu; linked by name into a cuda image). */
typedef struct rk_entry {
    uint32_t abi_version;
    uint32_t size;     /* sizeof(rk_entry) */
    uint64_t abi_hash; /* RK_ABI_HASH of the compiler that built it */
    uint32_t state_size, state_align;
    uint32_t accepts, types; /* types the handlers accept; accepts + replies */
    uint32_t every_count;
    uint32_t threads;             /* 1: compiled for a block of one thread */
    const int64_t *every_periods; /* ns */
    void (*handle)(struct rk_ctx *ctx, uint32_t type, const void *payload);
    void (*start)(struct rk_ctx *ctx);                 /* NULL: none */
    void (*stop)(struct rk_ctx *ctx);                  /* NULL: none */
    void (*every)(struct rk_ctx *ctx, uint32_t index); /* NULL: none */
} rk_entry;

/* One per instance, in memory local to the device. */
typedef struct rk_instance {
    const rk_entry *entry;
    void *state;
    rk_pid self;
    uint32_t blocks, threads;
    uint32_t spare[6];
} rk_instance;

/* One per block; the parameter of the resident loop. */
typedef struct rk_block {
    /* Constant while the loop runs. */
    rk_ring *inbox; /* host -> device */
    rk_slot *inbox_slots;
    rk_ring *outbox; /* device -> host; block 0 of an instance has one */
    rk_slot *outbox_slots;
    /* Payloads of the outbox that do not fit a slot, each on a 16-byte border. At least twice the
     * largest payload, so that one always fits after the rest was read. Every block has an arena;
     * that of a block other than 0 is scratch for rk_reply_begin, read by nobody. */
    uint8_t *arena;
    uint64_t arena_size; /* bytes, a power of two */
    rk_instance *instance;
    uint8_t *shared;           /* RK_SHARED_SIZE bytes (cpu); unused on cuda */
    struct rk_block *siblings; /* the instance's blocks, as an array */
    void *host;                /* the back end's own; never touched by handlers */
    int64_t *due;              /* device clock of each RK_EVERY's next turn; the block's own */
    uint32_t index;
    uint32_t spare0[9];
    /* Written by the host. */
    uint32_t command __attribute__((aligned(64))); /* enum rk_command */
    uint32_t spare1;
    uint64_t arena_tail;  /* bytes of the arena the host has read, counted for ever */
    int64_t clock_offset; /* host clock minus device clock, ns */
    uint32_t spare2[10];
    /* Written by the device. */
    uint32_t status __attribute__((aligned(64))); /* enum rk_status */
    uint32_t progress;    /* messages finished; release after their slots are committed */
    uint64_t arena_head;  /* bytes of the arena written, counted for ever */
    uint32_t busy;        /* enum rk_busy: what runs now; 0: nothing */
    uint32_t steps;       /* handlers begun: the same busy with the same steps is one handler */
    uint32_t polls_empty; /* telemetry: polls that found nothing */
    uint32_t spare4;
    uint32_t spare3[8];
} rk_block;

/* What a handler sees; one per thread of a block, kept in registers or local memory. */
typedef struct rk_ctx {
    rk_block *block;
    rk_instance *instance;
    const rk_slot *message; /* the slot being handled; NULL in start, stop and every */
    void *barrier;          /* cpu: of the block's threads; unused on cuda */
    uint64_t *reduce;       /* cpu: one word per thread, for block reductions */
    uint32_t thread;        /* in the block */
    uint32_t threads;
    uint32_t spare;
    uint32_t replied;   /* rk_reply or rk_forward was called */
    uint32_t failed;    /* rk_fail was called */
    uint32_t open_type; /* rk_reply_begin: type of the open reply, */
    uint32_t open_size; /* its bytes (0: none is open), */
    uint32_t spare2;
    uint64_t open_at;  /* where it is in the arena */
    uint64_t open_end; /* and words[1] of its slot */
} rk_ctx;

RK_ABI_ASSERT(sizeof(rk_ring) == 192, "rk_ring");
RK_ABI_ASSERT(sizeof(rk_slot) == RK_SLOT_SIZE, "rk_slot");
RK_ABI_ASSERT(sizeof(rk_log_record) == 80, "rk_log_record");
RK_ABI_ASSERT(sizeof(rk_entry) == 80, "rk_entry");
RK_ABI_ASSERT(sizeof(rk_instance) == 56, "rk_instance");
RK_ABI_ASSERT(sizeof(rk_block) == 256, "rk_block");
RK_ABI_ASSERT(sizeof(rk_ctx) == 88, "rk_ctx");

/* A constant of the layouts as this compiler sees them; compared when an image is loaded. */
#define RK_ABI_FOLD(hash, word) (((hash) ^ (uint64_t)(word)) * 0x100000001b3ull)
#define RK_ABI_AT(type, member) __builtin_offsetof(type, member)
#define RK_ABI_HASH_1                                                                              \
    RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_FOLD(0xcbf29ce484222325ull, RK_ABI_VERSION), sizeof(rk_ring)),  \
                RK_ABI_AT(rk_ring, produced))
#define RK_ABI_HASH_2                                                                              \
    RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_HASH_1, RK_ABI_AT(rk_slot, type)),                  \
                            RK_ABI_AT(rk_slot, token)),                                            \
                RK_ABI_AT(rk_slot, payload))
#define RK_ABI_HASH_3                                                                              \
    RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_HASH_2, RK_ABI_AT(rk_log_record, numbers)),         \
                            RK_ABI_AT(rk_entry, handle)),                                          \
                RK_ABI_AT(rk_instance, blocks))
#define RK_ABI_HASH                                                                                \
    RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_HASH_3, RK_ABI_AT(rk_block, command)),              \
                            RK_ABI_AT(rk_block, status)),                                          \
                RK_ABI_AT(rk_ctx, thread) + (sizeof(rk_ctx) << 8))

#endif
