/*
 * gpu.h -- one GPU of this process: context, reservations, images, seats, and its two threads.
 *
 *   gpu.c      opening and closing, memory; the driver thread, which makes all CUDA calls
 *   request.c  what others ask of it
 *   grid.c     grids of seats: launching them, holding them at a border, swapping the image
 *   admit.c    who sits where: definitions, block sizes, room
 *   bridge.c   the bridge thread: what the device said reaches mailboxes and callers
 *   cuda.c     the back end's table, on top of all this
 *
 * One lock (rk__gpu.lock) guards seats, tenants, definitions, requests and the books of both
 * reservations; it is held for moments, never over a CUDA call or a look at a channel. What only
 * the driver thread touches is said so.
 */
#ifndef RK_DEVICE_CUDA_GPU_H
#define RK_DEVICE_CUDA_GPU_H

#include "base/park.h"
#include "device/cuda/extents.h"
#include "device/cuda/image.h"
#include "device/instance.h"

/* An instance on its GPU; rk__kernel_actor.device. */
typedef struct rk__tenant {
    struct rk__gpu *gpu;
    rk__kernel_actor *kernel;
    uint64_t pinned, near; /* what it has of both reservations */
    rk_block *homes;       /* device memory: the blocks' own copies */
    uint32_t threads;      /* of a block: a multiple of a warp */
    /* Under the lock, from when it is seated. */
    uint32_t definition, class;
    uint32_t seats[RK__BLOCKS_MAX]; /* by block */
    bool left[RK__BLOCKS_MAX];      /* the block has left its loop, and its seat is free */
    uint32_t staying;               /* blocks that have not */
    uint32_t seen[RK__BLOCKS_MAX];  /* status of each block when last told; RK__UNSEEN: tell it */
    struct rk__tenant *next;
} rk__tenant;

enum { RK__UNSEEN = 0xff, RK__GPU_ZEROS = 64 * 1024 /* bytes of rk__gpu.zeros */ };

/* Compiled handlers at one block size; its index is rk_block.definition. */
typedef struct rk__resident {
    rk__module *module; /* retained; NULL: a free place */
    uint32_t threads;
    uint32_t users; /* tenants */
    bool linked;    /* is in the image that is loaded */
} rk__resident;

/* All blocks of one size: a grid, when it runs. */
typedef struct rk__gpu_class {
    uint32_t threads;    /* 0: no definition has this class */
    uint32_t capacity;   /* seats for blocks: 1..capacity; seat 0 answers pings */
    rk_seat *seats;      /* pinned */
    rk__tenant **owners; /* by seat */
    uint32_t taken;      /* seats with an owner */
    /* Driver thread only. */
    rk_grid *grid; /* pinned */
    CUfunction function;
    CUstream stream;
    CUevent ended;
    bool running;
    uint32_t fits; /* blocks per multiprocessor */
    uint32_t ping;
    int64_t pinged; /* when the ping that was not yet answered was sent; 0: none */
} rk__gpu_class;

enum rk__request_kind { RK__REQUEST_ZERO, RK__REQUEST_READ, RK__REQUEST_ADMIT };

/* Something only the driver thread can do. Who gives up waiting leaves it to the driver thread, which
 * then must not touch `tenant` and `to` any more: `given_up` is looked at under the lock. */
typedef struct rk__request {
    enum rk__request_kind kind;
    rk__tenant *tenant; /* ADMIT */
    uint64_t near;      /* ZERO, READ: device memory, */
    uint64_t size;      /* bytes, */
    void *to;           /* READ: and where it goes */
    bool done, given_up;
    bool seated; /* ADMIT: the tenant sits, and whatever comes now comes to it by the bridge */
    /* ADMIT, by the driver thread: what it needs to know of the tenant. */
    uint32_t grid, class, definition;
    int code;       /* RK__WAITS: no image or no room yet */
    char text[512]; /* of a failure */
    struct rk__request *next;
} rk__request;

enum { RK__WAITS = 1 };

typedef struct rk__gpu {
    int ordinal;
    CUdevice device;
    char name[16]; /* "cuda:0" */
    enum rk_mode mode;
    int64_t timeout; /* ns the device gets to answer, to reach a border, to load */
    rk__cuda_target target;
    char *cache; /* as the runtime that opened it has it; NULL: the usual folder */
    uint32_t processors, warp, block_max;
    uint32_t users;       /* runtimes; under the registry's lock */
    struct rk__gpu *next; /* of the registry */

    pthread_mutex_t lock;
    pthread_cond_t answered; /* a request is done, or the driver thread has opened or ended */
    rk__extents pinned, near;
    rk__tenant *tenants; /* seated ones */
    rk__resident *residents;
    uint32_t resident_count; /* places */
    rk__request *requests;   /* oldest first */
    rk__gpu_class classes[RK__CUDA_CLASSES];
    bool linking;       /* an image is being linked: that may take long, and is no fault */
    const char *lost;   /* why the device cannot be used any more; NULL: it can. Also atomic */
    bool opened, ended; /* the driver thread has got through opening; has ended */
    int open_code;
    char open_text[1024];

    rk__park park; /* of the driver thread */
    rk__park bridge_park;
    uint32_t closing;     /* atomic */
    uint32_t wanted;      /* atomic: something for the driver thread to look at */
    int64_t clock_offset; /* host clock minus device clock; written by the driver thread, atomic */
    pthread_t driver, bridge;

    /* Driver thread only. */
    CUcontext context;
    CUmodule module;
    rk__cuda_image image;
    CUstream copies;
    CUevent copied;
    void *zeros;          /* pinned; also where copies from the device land */
    int64_t idle_since;   /* when the last tenant left; 0: there are some */
    int64_t tick;         /* ns until grids are looked at again while some may have ended */
    int64_t clock_target; /* what clock_offset should be; it goes back to it slowly */
    size_t stack;         /* bytes of a thread's stack that the context provides for */
} rk__gpu;

/* ---- gpu.c ---- */

/* The GPU with this ordinal, for one more runtime: opened by the first, with its options. RK_EDEVICE
 * says what failed, RK_ESTATE: it is open in another mode, or lost. gives. thread: any. blocks: yes
 */
int rk__gpu_open(int ordinal, const rk_runtime *rt, enum rk_mode mode, rk__gpu **out);
/* After the runtime's actors have ended. takes. blocks: for the threads */
void rk__gpu_close(rk__gpu *gpu);
/* Memory that both sides see, and the device's own; RK_ENOMEM names the option. thread: any */
int rk__gpu_take(rk__gpu *gpu, uint64_t pinned, uint64_t near, const char *who, rk__tenant *t);
void rk__gpu_give(rk__gpu *gpu, rk__tenant *t);
/* The time in `ns` from now, for pthread_cond_timedwait with `answered`. */
struct timespec rk__gpu_in(int64_t ns);
/* Something changed that may concern the driver thread. thread: any. blocks: no */
void rk__gpu_stir(rk__gpu *gpu);
/* The device cannot be used any more: once; the bridge fails its actors. thread: any. blocks: no */
void rk__gpu_lose(rk__gpu *gpu, const char *format, ...) RK_PRINTF(2, 3);
/* Why it cannot be used; NULL: it can. thread: any */
const char *rk__gpu_lost(const rk__gpu *gpu);

/* ---- request.c ---- */

/* Has the driver thread do it. copies. RK_EDEVICE: the device is lost. thread: any but the driver.
 * blocks: yes */
int rk__gpu_ask(rk__gpu *gpu, const rk__request *request);
/* The driver thread's: does what was asked; those who want seats and came since then; an answer, whose
 * text for a failure is rk_errdetail; the same answer for all when the device is lost. */
void rk__gpu_serve(rk__gpu *gpu);
rk__request *rk__gpu_more(rk__gpu *gpu);
void rk__gpu_answer(rk__gpu *gpu, rk__request *request, int code);
void rk__gpu_refuse_all(rk__gpu *gpu);

/* ---- grid.c: the driver thread's ---- */

/* Loads an image in place of the present one while nothing runs. takes image's contents; on failure
 * the old image is loaded again (or the device is lost). */
int rk__grid_load(rk__gpu *gpu, rk__cuda_image *image);
/* Starts a class whose image is loaded. RK_EDEVICE */
int rk__grid_launch(rk__gpu *gpu, uint32_t class);
/* All grids end at a message border; RK_ETIMEOUT names who did not reach one, and all go on. */
int rk__grid_quiesce(rk__gpu *gpu);
/* Notices grids that have ended; false: the device is lost. */
bool rk__grid_look(rk__gpu *gpu);
/* Bounded and batch mode: launches what has work; true: a grid that runs has some that it may leave
 * undone. */
bool rk__grid_relaunch(rk__gpu *gpu);
/* Pings grids, measures the clock; a grid that stays silent loses the device. */
void rk__grid_heartbeat(rk__gpu *gpu);
/* The device's clock, as it was last measured, becomes a little more true. */
void rk__grid_slew(rk__gpu *gpu);
/* A resident kernel answers a ping in time. RK_EDEVICE */
int rk__grid_self_test(rk__gpu *gpu);
/* Seats for `capacity` blocks, those of now kept. No grid of the class runs. */
int rk__grid_seats(rk__gpu *gpu, uint32_t class, uint32_t capacity);
bool rk__grid_any_running(const rk__gpu *gpu);

/* ---- admit.c: the driver thread's ---- */

/* Seats the tenants of these requests, with as few swaps as possible, and answers each. */
void rk__gpu_admit(rk__gpu *gpu, rk__request *list);
/* A block has left its seat; under the lock. True: it was the tenant's last. thread: bridge */
bool rk__gpu_vacate(rk__gpu *gpu, rk__tenant *t, uint32_t block);

/* ---- bridge.c ---- */

void *rk__gpu_bridge(void *arg); /* the thread */

#endif
