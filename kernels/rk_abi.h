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
typedef unsigned long long uintptr_t;
typedef uint64_t rk_pid;
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
#define RK_ABI_VERSION 2u

enum {
    RK_UNIT_WORDS = 3,          /* data words of a unit */
    RK_SLOT_UNITS = 4,          /* units of a slot */
    RK_SLOT_SIZE = 64,          /* bytes of a slot: one cache line */
    RK_SLOT_DATA = 48,          /* data bytes of a slot */
    RK_PACKET_SLOTS = 8,        /* slots of a packet at most */
    RK_PACKET_INLINE = 368,     /* payload bytes of a packet at most; longer ones are elsewhere */
    RK_SHARED_SIZE = 46 * 1024, /* block-shared scratch: CUDA's usual 48 KiB less the loop's own */
    RK_LOOP_SHARED = 2048,      /* bytes of shared memory that the loop has in front of it */
    RK_LOG_NUMBERS = 8,
    RK_FAILURE_MAX = 512, /* bytes of a failure's text, with its end */
    RK_TYPES_MAX = 255    /* accepts + replies of one definition */
};

/*
 * A ring is an array of slots, a power of two of them, and has no index that crosses the border.
 * A slot is four units of 16 bytes, each with a stamp of its own: the position of the slot counted
 * for ever, plus 1. A unit is written data first, then stamp with release (on a GPU: as one store
 * of 16 bytes), and read with one load of 16 bytes (on the cpu: the stamp with acquire, then the
 * data). A read across PCIe is whole only that far, and this far it is. So the reader sees the
 * position it waits for in all units of a slot, or waits on: one read finds the message and brings
 * it, and no write needs a fence behind it.
 *
 * The producer must know what the consumer has taken. To the device: messages under way are bounded
 * by the host, and RK_SLOT_DONE says which are finished. From the device: rk_wire.consumed.
 */
typedef struct rk_unit {
    uint32_t words[RK_UNIT_WORDS];
    uint32_t stamp;
} rk_unit;

typedef struct rk_slot {
    rk_unit units[RK_SLOT_UNITS];
} rk_slot;

/* What a packet is. To the device: */
enum rk_packet_kind {
    RK_PACKET_MESSAGE = 1, /* a message for the handler of `type` */
    /* From the device: */
    RK_PACKET_REPLY = 2,   /* the answer to the message being handled */
    RK_PACKET_SEND = 3,    /* a message of its own, to pid `peer` */
    RK_PACKET_FORWARD = 4, /* the message being handled goes on to pid `peer` */
    RK_PACKET_LOG = 5,     /* an rk_log_record */
    RK_PACKET_FAIL = 6,    /* the handler failed; payload: the text */
    RK_PACKET_DONE = 7     /* nothing but its count of silent messages */
};

enum rk_packet_flag {
    /* The payload is not inline but whole elsewhere. To the device: words[0] is its address. From
     * the device: it is in the arena of the block at byte words[0]; words[1] is the value that
     * arena_tail gets once the host has read it (what was skipped at the arena's end included). */
    RK_PACKET_REF = 1,
    /* To the device: somebody waits for an answer, so the end of a handler that gave none is told
     * at once. */
    RK_PACKET_CALL = 2,
    /* From the device: the message being handled is finished with this packet. */
    RK_PACKET_LAST = 2,
    /* From the device: belongs to no message (RK_ON_START, RK_ON_STOP, RK_EVERY). */
    RK_PACKET_UNBOUND = 4,
    /* From the device, from this bit on: how many messages were finished without a word since the
     * last packet, before whatever this one says. */
    RK_PACKET_SILENT_SHIFT = 3,
    RK_PACKET_SILENT_MAX = 31
};

/*
 * A packet is the data of one to eight slots, in order: this head, then the payload, padded to
 * whole slots. Messages are numbered as they are handed over, and finish in that order, so what the
 * device says belongs to the first message that is not yet finished.
 */
typedef struct rk_packet {
    uint8_t kind;  /* enum rk_packet_kind */
    uint8_t flags; /* enum rk_packet_flag */
    uint8_t priority;
    uint8_t type;  /* index into the definition's types: accepts, then replies */
    uint32_t size; /* payload bytes */
    rk_pid peer;   /* to the device: the sender; from the device: the receiver */
    union {
        uint8_t bytes[RK_PACKET_INLINE];
        uint64_t words[RK_PACKET_INLINE / 8];
    } payload;
} rk_packet;

enum { RK_PACKET_HEAD = 16 }; /* bytes before the payload */

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
/* An image that is to end: its blocks wait at a message border, all together leave or go on. */
enum rk_hold { RK_HOLD_NONE = 0, RK_HOLD_WAIT = 1, RK_HOLD_LEAVE = 2 };
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

/* What the host knows of a compiled definition (symbol rk_definition, or RK_DEFINITION's value with
 * _entry behind it in an image). On the cpu device also the way into it. */
typedef struct rk_entry {
    uint32_t abi_version;
    uint32_t size;     /* sizeof(rk_entry) */
    uint64_t abi_hash; /* RK_ABI_HASH of the compiler that built it */
    uint32_t state_size, state_align;
    uint32_t accepts, types; /* types the handlers accept; accepts + replies */
    uint32_t every_count;
    uint32_t threads;     /* 1: compiled for a block of one thread */
    uint32_t shared_size; /* bytes of RK_SHARED */
    uint32_t spare;
    void (*handle)(struct rk_ctx *ctx, uint32_t type, const void *payload);
    /* step: enum rk_busy of a start, stop or every; index: of an RK_EVERY */
    void (*hook)(struct rk_ctx *ctx, uint32_t step, uint32_t index);
    const int64_t *every_periods; /* ns; in an image NULL: symbol RK_DEFINITION with _periods */
} rk_entry;

/* The words of a block that cross the border; on cuda in mapped host memory. */
typedef struct rk_wire {
    /* Written by the host. */
    uint32_t command;     /* enum rk_command */
    uint32_t hold;        /* enum rk_hold */
    uint32_t consumed;    /* slots of the outbox the host has taken, counted for ever */
    uint32_t spare0;
    uint64_t arena_tail;  /* bytes of the arena the host has read, counted for ever */
    int64_t clock_offset; /* host clock minus device clock, ns */
    uint32_t spare1[8];
    /* Written by the device. */
    uint32_t status __attribute__((aligned(64))); /* enum rk_status */
    uint32_t held;     /* enum rk_hold: RK_HOLD_WAIT: waits at a border; LEAVE: has left the grid */
    uint64_t activity; /* handlers begun << 32 | enum rk_busy of what runs now, 0: nothing */
    int64_t due;       /* device clock of the next RK_EVERY, when the block has left the grid */
    uint32_t spare2[10];
    /* Written by the device before RK_STATUS_FAILED, by blocks other than 0: why. */
    char failure[RK_FAILURE_MAX] __attribute__((aligned(64)));
} rk_wire;

/* One per block. On cuda the host writes it into mapped memory, the block copies it when it takes a
 * seat, and what follows `Private` lives on in device memory over images. */
typedef struct rk_block {
    /* Constant while the instance lives. */
    rk_slot *inbox; /* host -> device */
    rk_slot *outbox; /* device -> host; block 0 of an instance has one */
    rk_wire *wire;
    /* Payloads of the outbox that do not fit a packet, each on a 16-byte border. At least twice the
     * largest payload, so that one always fits after the rest was read. Block 0 has one. */
    uint8_t *arena;
    uint64_t arena_size; /* bytes, a power of two */
    const rk_entry *entry;        /* cpu; on cuda NULL */
    const int64_t *every_periods; /* ns */
    int64_t *due;                 /* device clock of each RK_EVERY's next turn; the block's own */
    uint8_t *shared;              /* RK_SHARED_SIZE bytes (cpu); on cuda it is shared memory */
    uint8_t *incoming;            /* cuda: the payload of a message that came by reference */
    uint8_t *outgoing; /* what rk_reply_begin fills; NULL: the arena itself (see rk_reply_begin) */
    void *state;
    uint64_t state_size;
    rk_pid self;
    struct rk_block *siblings; /* the instance's blocks, as an array */
    void *host;                /* the back end's own; never touched by handlers */
    uint32_t inbox_mask, outbox_mask; /* slots - 1 */
    uint32_t index, blocks, threads;
    uint32_t every_count;
    uint32_t definition; /* cuda: number in the image */
    uint32_t spare0;
    /* Private to the block, but `progress`, which its siblings look at. */
    uint32_t progress __attribute__((aligned(64))); /* messages finished */
    uint32_t at;        /* position in the inbox, slots counted for ever */
    uint32_t produced;  /* position in the outbox */
    uint32_t consumed;  /* rk_wire.consumed as last seen */
    uint64_t arena_head; /* bytes of the arena written, counted for ever */
    uint64_t arena_tail; /* rk_wire.arena_tail as last seen */
    uint32_t silent;     /* messages finished since the host was told */
    uint32_t steps;      /* handlers begun */
    uint32_t started;    /* RK_ON_START has run */
    uint32_t stopped;    /* RK_ON_STOP has run */
    uint32_t status;     /* rk_wire.status, without a look across the border */
    uint32_t spare1[3];
} rk_block;

/* ---- images: what a grid of blocks is given ------------------------------------------------- */

/* One per block of a grid: who lives there. In mapped host memory. */
typedef struct rk_seat {
    /* Written by the host. */
    rk_block *block;   /* as the host wrote it; whole when `turn` is new */
    rk_block *home;    /* device memory for the block's own copy */
    uint32_t turn;     /* counts the instances that had the seat */
    uint32_t hold;     /* enum rk_hold, for a seat where nobody lives */
    uint32_t ping;     /* seat 0: to be echoed */
    uint32_t spare0[9];
    /* Written by the device. */
    uint32_t taken __attribute__((aligned(64))); /* the turn whose block was copied */
    uint32_t left; /* the turn whose block has left its loop: the seat is free */
    uint32_t held; /* enum rk_hold, as in rk_wire */
    uint32_t pong; /* the last ping seen, */
    int64_t clock; /* and the device clock then */
    uint32_t spare1[10];
} rk_seat;

/* The parameter of rk_resident: one per launch, in mapped host memory, read once. */
typedef struct rk_grid {
    rk_seat *seats; /* one per block of the grid; seat 0 answers pings and is never taken */
    int64_t run;    /* ns until blocks leave by themselves at a border; INT64_MAX: never */
    int64_t idle;   /* ns without work until they do; INT64_MAX: never */
    uint64_t spare[5];
} rk_grid;

/* What a handler sees; one per thread of a block, kept in registers or local memory. */
typedef struct rk_ctx {
    rk_block *block;
    const rk_packet *message; /* what is being handled; NULL in start, stop and every */
    rk_packet *pending;       /* of the block: what was published last, not yet in the outbox */
    void *barrier;            /* cpu: of the block's threads */
    uint64_t *reduce;         /* for block reductions: a word per thread (cpu) or warp (cuda) */
    uint32_t thread;          /* in the block */
    uint32_t threads;
    uint32_t replied;   /* rk_reply or rk_forward was called */
    uint32_t failed;    /* rk_fail was called */
    uint32_t waiting;   /* a packet is pending */
    uint32_t open_type; /* rk_reply_begin: type of the open reply, */
    uint32_t open_size; /* its bytes (0: none is open), */
    uint32_t seen;      /* cpu: decisions of thread 0 that this thread has taken over */
    uint64_t open_at;   /* where it is in the arena */
    uint64_t open_end;  /* and words[1] of its packet */
} rk_ctx;

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define RK_ABI_FN static __host__ __device__ inline
#else
#define RK_ABI_FN static inline
#endif

/* Slots that a payload of `size` bytes takes; a longer one takes one, with its address. */
RK_ABI_FN uint32_t rk_slots_of(uint32_t size)
{
    uint32_t bytes = RK_PACKET_HEAD + (size <= RK_PACKET_INLINE ? size : 16);
    return (bytes + RK_SLOT_DATA - 1) / RK_SLOT_DATA;
}

/* A short one may go by reference too, where that is cheaper. */
RK_ABI_FN uint32_t rk_packet_slots(const rk_packet *packet)
{
    return packet->flags & RK_PACKET_REF ? 1 : rk_slots_of(packet->size);
}

#define RK_ABI_AT(type, member) __builtin_offsetof(type, member)
RK_ABI_ASSERT(sizeof(rk_unit) == 16, "rk_unit");
RK_ABI_ASSERT(sizeof(rk_slot) == RK_SLOT_SIZE, "rk_slot");
RK_ABI_ASSERT(sizeof(rk_packet) == RK_PACKET_SLOTS * RK_SLOT_DATA, "rk_packet");
RK_ABI_ASSERT(sizeof(rk_log_record) == 80, "rk_log_record");
RK_ABI_ASSERT(sizeof(rk_entry) == 72, "rk_entry");
RK_ABI_ASSERT(sizeof(rk_wire) == 640, "rk_wire");
RK_ABI_ASSERT(sizeof(rk_block) == 256, "rk_block");
RK_ABI_ASSERT(sizeof(rk_seat) == 128, "rk_seat");
RK_ABI_ASSERT(sizeof(rk_grid) == 64, "rk_grid");
RK_ABI_ASSERT(sizeof(rk_ctx) == 88, "rk_ctx");
/* Words of the host, of the device, and constants on lines of their own. */
RK_ABI_ASSERT(RK_ABI_AT(rk_wire, spare1) + sizeof(((rk_wire *)0)->spare1) == 64, "rk_wire: host");
RK_ABI_ASSERT(RK_ABI_AT(rk_wire, status) == 64 && RK_ABI_AT(rk_wire, failure) == 128, "rk_wire");
RK_ABI_ASSERT(RK_ABI_AT(rk_seat, taken) == 64, "rk_seat");
RK_ABI_ASSERT(RK_ABI_AT(rk_block, progress) == 192, "rk_block");
RK_ABI_ASSERT(RK_ABI_AT(rk_wire, command) == 0 && RK_ABI_AT(rk_wire, hold) == 4, "read as one word");

/* A constant of the layouts as this compiler sees them; compared when an image is loaded. */
#define RK_ABI_FOLD(hash, word) (((hash) ^ (uint64_t)(word)) * 0x100000001b3ull)
#define RK_ABI_HASH_1                                                                              \
    RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_FOLD(0xcbf29ce484222325ull, RK_ABI_VERSION), sizeof(rk_slot)),  \
                RK_ABI_AT(rk_unit, stamp))
#define RK_ABI_HASH_2                                                                              \
    RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_HASH_1, RK_ABI_AT(rk_packet, type)),                \
                            RK_ABI_AT(rk_packet, peer)),                                           \
                RK_ABI_AT(rk_packet, payload))
#define RK_ABI_HASH_3                                                                              \
    RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_HASH_2, RK_ABI_AT(rk_log_record, numbers)),         \
                            RK_ABI_AT(rk_entry, handle)),                                          \
                RK_ABI_AT(rk_wire, arena_tail))
#define RK_ABI_HASH_4                                                                              \
    RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_HASH_3, RK_ABI_AT(rk_wire, status)),                \
                            RK_ABI_AT(rk_wire, failure)),                                          \
                RK_ABI_AT(rk_seat, taken))
#define RK_ABI_HASH                                                                                \
    RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_FOLD(RK_ABI_HASH_4, RK_ABI_AT(rk_block, definition)),           \
                            RK_ABI_AT(rk_block, progress)),                                        \
                RK_ABI_AT(rk_ctx, thread) + (sizeof(rk_ctx) << 8))

#endif
