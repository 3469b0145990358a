/*
 * box.h -- what the bare kernels (kernels.cu) and their host share: one box per block of a launch,
 * in pinned host memory. Included behind rk_abi.h (host) or rk_kernel.h (kernels).
 */
#ifndef RK_BENCH_GPU_BOX_H
#define RK_BENCH_GPU_BOX_H

enum {
    BOX_SLOTS = 64,        /* of each ring; a power of two */
    BOX_STOP = 0x7fffffff, /* first word of a message: the kernel is to end */
    BOX_RESULTS = 16,
    BOX_SIZE = 1024,               /* the boxes of a launch are this far apart */
    BOX_INLINE = RK_SLOT_DATA / 4, /* words of a payload */
    BOX_LINE_WORDS = RK_SLOT_SIZE / 4
};

/* A slot of variant (b): a line with one stamp, which vouches for the rest. */
typedef struct box_line {
    uint32_t stamp;
    uint32_t words[BOX_LINE_WORDS - 1];
} box_line;

typedef struct box {
    /* Constant while a kernel runs; written by the host. */
    rk_slot *in, *out; /* rings of BOX_SLOTS slots; (b), (c) see them as box_lines */
    void *from, *to;   /* `bytes` each, for copies; host words for the latency of accesses */
    uint64_t bytes;
    uint32_t units; /* 16-byte units of a message: 1 (no payload) or 4 (48 bytes with its number) */
    uint32_t count; /* how often, for measurements inside a kernel */
    uint32_t wait;  /* ns, for the measurement of __nanosleep */
    uint32_t spare0;
    /* Written by the host. */
    uint32_t there __attribute__((aligned(64))); /* a word, or the position behind the last slot */
    uint32_t stop __attribute__((aligned(64)));
    /* Written by the kernel. */
    uint32_t back __attribute__((aligned(64)));
    uint32_t alive __attribute__((aligned(64)));
    int64_t results[BOX_RESULTS] __attribute__((aligned(64)));
} box;

RK_ABI_ASSERT(sizeof(box) <= BOX_SIZE, "box");
RK_ABI_ASSERT(sizeof(box_line) == RK_SLOT_SIZE, "box_line");

#endif
