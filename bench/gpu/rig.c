/*
 * rig.c -- types, kernels and runtimes for the programs of bench/gpu that use the runtime.
 *
 * Threads: main; rig_message, rig_call and rig_ask any.
 */
#include "rig.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const uint32_t rig_sizes[RIG_SIZES] = {0, 16, 48, 256, 1024, 16384};

/* ---- opening -------------------------------------------------------------------------------- */

static void say_source(const char *device)
{
    rk_device list[8];
    char missing[RK_DEVICE_TEXT];
    size_t count, found = 0;
    bench_must(rk_devices(list, 8, &count, missing), "rk_devices");
    for (size_t i = 1; i < count && i < 8; i++) {
        found = found == 0 && strncmp(list[i].id, device, strlen(device)) == 0 ? i : found;
    }
    if (found == 0 && strcmp(device, "cpu") != 0) {
        bench_fail("no device %s: %s", device, missing);
    }
    char text[300];
    snprintf(text, sizeof text, "%s%.250s", found == 0 ? "cpu device: " : "", list[found].name);
    bench_source(text);
}

rk_runtime *rig_open(const char *device, const char *mode, const char *cache)
{
    rk_config config = RK_CONFIG_INIT;
    rk_runtime *rt;
    config.device = device;
    config.mode = mode;
    config.cache = cache;
    say_source(device);
    bench_must(rk_open(&rt, &config), "rk_open");
    return rt;
}

/* ---- types and kernels ---------------------------------------------------------------------- */

/* Up to 48 bytes fields, then a number, a count and bytes: together exactly so many bytes. */
static const rk_type *define_type(unsigned index)
{
    static const rk_field fields[] = {{"a_number", "u64"}, {"b", "u64"}, {"c", "u64"},
                                      {"d", "u64"},        {"e", "u64"}, {"f", "u64"}};
    const rk_type *type;
    char name[16], bytes[32];
    uint32_t size = rig_sizes[index];
    rk_field large[] = {{"a_number", "u64"}, {"data", bytes}};
    snprintf(name, sizeof name, "Rig%u", size);
    snprintf(bytes, sizeof bytes, "bytes[%u]", size - 12);
    bench_must(size <= sizeof(rig_48) ? rk_message_define(&type, name, fields, size / 8)
                                      : rk_message_define(&type, name, large, 2),
               "rk_message_define");
    if (rk_type_size(type) != (size > 0 ? size : 1)) { /* an empty struct has a byte */
        bench_fail("%s has %zu bytes", name, rk_type_size(type));
    }
    return type;
}

const rk_type *rig_type(unsigned size)
{
    static const rk_type *types[RIG_SIZES];
    if (types[size] == NULL) {
        types[size] = define_type(size);
    }
    return types[size];
}

#define LARGE_HANDLER(T)                                                                           \
    "RK_ON(" T ", m)\n{\n    " T " *r = rk_reply_begin(ctx, " T ");\n"                             \
    "    RK_FOR (i, m->data_count) r->data[i] = m->data[i];\n"                                     \
    "    if (rk_thread(ctx) == 0) {\n"                                                             \
    "        r->a_number = m->a_number + 1;\n        r->data_count = m->data_count;\n    }\n"      \
    "    rk_reply_end(ctx);\n}\n"

static const char echo_source[] =
    "RK_ON(Rig0, m) { (void)m; rk_reply(ctx, Rig0); }\n"
    "RK_ON(Rig16, m) { rk_reply(ctx, Rig16, .a_number = m->a_number + 1, .b = m->b); }\n"
    "RK_ON(Rig48, m) { rk_reply(ctx, Rig48, .a_number = m->a_number + 1, .b = m->b, .c = m->c,\n"
    "                           .d = m->d, .e = m->e, .f = m->f); }\n" LARGE_HANDLER("Rig256")
        LARGE_HANDLER("Rig1024") LARGE_HANDLER("Rig16384");

void rig_define_echo(void)
{
    const rk_type *types[RIG_SIZES];
    rk_kernel kernel = RK_KERNEL_INIT;
    for (unsigned i = 0; i < RIG_SIZES; i++) {
        types[i] = rig_type(i);
    }
    kernel.name = "rig_echo";
    kernel.source = echo_source;
    kernel.accepts = kernel.replies = types;
    kernel.accepts_count = kernel.replies_count = RIG_SIZES;
    kernel.block = RIG_BLOCK;
    bench_must(rk_kernel_define(&kernel), "rk_kernel_define");
}

void rig_define_add(const char *name, unsigned add)
{
    const rk_type *type = rig_type(RIG_48);
    rk_kernel kernel = RK_KERNEL_INIT;
    char source[256];
    snprintf(source, sizeof source,
             "RK_ON(Rig48, m) { rk_reply(ctx, Rig48, .a_number = m->a_number + %u); }\n", add);
    kernel.name = name;
    kernel.source = source;
    kernel.accepts = kernel.replies = &type;
    kernel.accepts_count = kernel.replies_count = 1;
    kernel.block = RIG_BLOCK;
    bench_must(rk_kernel_define(&kernel), "rk_kernel_define");
}

/* ---- messages ------------------------------------------------------------------------------- */

/* The struct of the larger types. */
typedef struct large {
    uint64_t number;
    uint32_t count;
    uint8_t data[];
} large;

rk_message *rig_message(unsigned size, uint64_t number)
{
    rk_message *m;
    uint32_t bytes = rig_sizes[size];
    bench_must(rk_message_new(&m, rig_type(size)), "rk_message_new");
    if (bytes > sizeof(rig_48)) {
        large *l = rk_message_data(m);
        l->number = number;
        l->count = bytes - 12;
        memset(l->data, (int)(number & 0xff), l->count);
    } else if (bytes > 0) {
        uint64_t *words = rk_message_data(m);
        for (uint32_t i = 0; i < bytes / 8; i++) {
            words[i] = number + i;
        }
    }
    return m;
}

/* The first and the last of what came, which is cheap enough for every answer. */
static bool is_answer(rk_message *m, unsigned size, uint64_t number)
{
    uint32_t bytes = rig_sizes[size];
    if (rk_message_type(m) != rig_type(size)) {
        return false;
    }
    if (bytes > sizeof(rig_48)) {
        const large *l = rk_message_data(m);
        return l->number == number + 1 && l->count == bytes - 12 &&
               l->data[l->count - 1] == (number & 0xff);
    }
    const uint64_t *words = rk_message_data(m);
    uint32_t last = bytes / 8 - 1;
    return bytes == 0 || (words[0] == number + 1 && words[last] == number + last);
}

void rig_call(rk_pid to, unsigned size, uint64_t number)
{
    rk_message *answer;
    bench_must(rk_call(to, rig_message(size, number), &answer, 20 * INT64_C(1000000000)),
               "rk_call");
    if (!is_answer(answer, size, number)) {
        bench_fail("a wrong answer to message %" PRIu64 " of %u bytes", number, rig_sizes[size]);
    }
    rk_message_release(answer);
}

uint64_t rig_ask(rk_pid to, uint64_t number)
{
    rk_message *answer;
    bench_must(rk_call(to, rig_message(RIG_48, number), &answer, 20 * INT64_C(1000000000)),
               "rk_call");
    if (rk_message_type(answer) != rig_type(RIG_48)) {
        bench_fail("an answer of another type");
    }
    number = ((const rig_48 *)rk_message_data(answer))->a_number;
    rk_message_release(answer);
    return number;
}

void rig_run(rk_runtime *rt, rk_actor_fn fn, void *arg)
{
    rk_pid pid;
    rk_message *down;
    bench_must(rk_spawn_c(rt, &pid, fn, arg, NULL), "rk_spawn_c");
    bench_must(rk_monitor(pid), "rk_monitor");
    bench_must(rk_receive(&down, -1), "rk_receive");
    rk_message_release(down);
}
