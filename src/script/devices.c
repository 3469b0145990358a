/*
 * devices.c -- rk.devices(): what rk_devices finds, as plain tables.
 *
 * Threads: the state's own.
 */
#include "script/script.h"

enum { USUAL = 9 }; /* devices there is room for at once: a machine has up to eight GPUs */

static void set_text(lua_State *L, const char *key, const char *text)
{
    if (text[0] != '\0') {
        lua_pushstring(L, text);
        lua_setfield(L, -2, key);
    }
}

static void set_number(lua_State *L, const char *key, uint64_t number)
{
    if (number != 0) {
        lua_pushinteger(L, (lua_Integer)number);
        lua_setfield(L, -2, key);
    }
}

static void set_flag(lua_State *L, const char *key, bool flag)
{
    lua_pushboolean(L, flag);
    lua_setfield(L, -2, key);
}

/* 13000 as "13.0". */
static void set_version(lua_State *L, const char *key, int version)
{
    if (version != 0) {
        lua_pushfstring(L, "%d.%d", version / 1000, version % 1000 / 10);
        lua_setfield(L, -2, key);
    }
}

static void set_modes(lua_State *L, const rk_device *d)
{
    lua_createtable(L, 0, RK_MODES);
    for (int mode = 0; mode < RK_MODES; mode++) {
        if (d->refused[mode][0] != '\0') {
            lua_pushstring(L, d->refused[mode]);
        } else {
            lua_pushboolean(L, true);
        }
        lua_setfield(L, -2, rk_mode_name((enum rk_mode)mode));
    }
    lua_setfield(L, -2, "modes");
}

static void set_link(lua_State *L, const rk_device *d)
{
    if (d->pcie_generation == 0 && d->pcie_generation_max == 0) {
        return;
    }
    lua_createtable(L, 0, 4);
    set_number(L, "generation", d->pcie_generation);
    set_number(L, "width", d->pcie_width);
    set_number(L, "generation_max", d->pcie_generation_max);
    set_number(L, "width_max", d->pcie_width_max);
    lua_setfield(L, -2, "pcie");
}

/* What only GPUs have. */
static void set_gpu(lua_State *L, const rk_device *d)
{
    lua_pushfstring(L, "%d.%d", d->major, d->minor);
    lua_setfield(L, -2, "compute");
    set_text(L, "uuid", d->uuid);
    set_text(L, "pci_bus", d->pci_bus);
    set_text(L, "driver", d->driver);
    set_version(L, "cuda", d->driver_cuda);
    set_version(L, "nvrtc", d->nvrtc);
    set_text(L, "target", d->target);
    set_number(L, "warp", d->warp);
    set_number(L, "threads_per_processor", d->threads_per_processor);
    set_number(L, "threads_per_block", d->threads_per_block);
    set_number(L, "shared_per_processor", d->shared_per_processor);
    if (d->numa_node >= 0) {
        lua_pushinteger(L, d->numa_node);
        lua_setfield(L, -2, "numa_node");
    }
    set_link(L, d);
    set_flag(L, "watchdog", d->watchdog);
    set_flag(L, "integrated", d->integrated);
    set_flag(L, "host_atomics", d->host_atomics);
    set_flag(L, "dma_buf", d->dma_buf);
    lua_pushinteger(L, d->rdma_write_order);
    lua_setfield(L, -2, "rdma_write_order");
    set_number(L, "sync_domains", d->sync_domains);
    set_text(L, "compute_mode", d->compute_mode);
}

static void push_device(lua_State *L, const rk_device *d)
{
    lua_createtable(L, 0, 24);
    set_text(L, "id", d->id);
    set_text(L, "name", d->name);
    set_number(L, "memory", d->memory);
    set_number(L, "processors", d->processors);
    if (d->major != 0) {
        set_gpu(L, d);
    }
    set_modes(L, d);
}

int rk__lua_devices(lua_State *L)
{
    char missing[RK_DEVICE_TEXT];
    size_t capacity = USUAL, count;
    rk_device *list = lua_newuserdatauv(L, capacity * sizeof *list, 0);
    int code = rk_devices(list, capacity, &count, missing);
    while (code == 0 && count > capacity) {
        capacity = count;
        list = lua_newuserdatauv(L, capacity * sizeof *list, 0);
        code = rk_devices(list, capacity, &count, missing);
    }
    if (code < 0) {
        return rk__lua_raise(L, code, RK_NOBODY);
    }
    lua_createtable(L, (int)count, 1);
    for (size_t i = 0; i < count; i++) {
        push_device(L, &list[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    set_text(L, "missing", missing);
    return 1;
}
