/*
 * cache.c -- compiled kernels on disk: one file per key in one folder.
 *
 * A file is the shared object as the linker made it, followed by a trailer (magic, length,
 * checksum) that dlopen does not look at. It is written under a temporary name and renamed, so that
 * a reader sees a whole file or none, also when two processes store the same key: the last rename
 * wins, and whoever has mapped the other file keeps it. Every get verifies the trailer; a file that
 * fails is removed and counts as a miss.
 *
 * The folder is kept below a limit (RK_CACHE_LIMIT bytes, default 256 MiB): least recently used
 * first, by modification time, which a hit renews.
 *
 * Threads: any; the file system is the only shared state, and the flag of a warning given once.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "base/error.h"
#include "base/log.h"
#include "device/device.h"

#define MAGIC     "rkcache1"
#define TEMPORARY "store-"

struct trailer {
    char magic[8];
    uint64_t size; /* of what stands before the trailer */
    rk__hash128 checksum;
};
_Static_assert(sizeof(struct trailer) == 32, "trailer on disk");

/* ---- the folder ----------------------------------------------------------------------------- */

static int make_folders(const char *path)
{
    char part[PATH_MAX];
    size_t size = strlen(path);
    if (size >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
    for (size_t i = 1; i <= size; i++) {
        if (path[i] == '/' || path[i] == '\0') {
            memcpy(part, path, i);
            part[i] = '\0';
            if (mkdir(part, 0700) < 0 && errno != EEXIST) {
                return -1;
            }
        }
    }
    return 0;
}

/* What is loaded from the folder runs as us, so nobody else may write there. */
static const char *folder_fault(const char *path)
{
    struct stat s;
    if (make_folders(path) < 0 || stat(path, &s) < 0) {
        return strerror(errno);
    }
    if (!S_ISDIR(s.st_mode)) {
        return "it is no folder";
    }
    if (s.st_uid != geteuid()) {
        return "it belongs to somebody else";
    }
    if (s.st_mode & 022) {
        return "others may write to it";
    }
    return access(path, W_OK | X_OK) < 0 ? strerror(errno) : NULL;
}

static int warn_once(const char *path, const char *why)
{
    static uint32_t warned;
    if (!__atomic_exchange_n(&warned, 1, __ATOMIC_RELAXED)) {
        rk__log(RK__LOG_WARN, NULL, "compiled kernels are not kept: cache folder %s: %s", path,
                why);
    }
    return rk__fail(RK_EIO, "cache folder %s: %s", path, why);
}

int rk__cache_folder(const char *given, char *path, size_t size)
{
    const char *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    int length;
    if (given) {
        length = snprintf(path, size, "%s", given);
    } else if (xdg && xdg[0] == '/') {
        length = snprintf(path, size, "%s/rk", xdg);
    } else {
        length = snprintf(path, size, "%s/.cache/rk", home ? home : "");
    }
    if (length < 0 || (size_t)length >= size || !path[0]) {
        return warn_once(given ? given : "(unnamed)", "its name is empty or too long");
    }
    const char *fault = folder_fault(path);
    return fault ? warn_once(path, fault) : 0;
}

static int entry_path(const char *folder, rk__hash128 key, char *path, size_t size)
{
    char hex[33];
    int length = snprintf(path, size, "%s/%s.so", folder, rk__hash128_hex(key, hex));
    return length < 0 || (size_t)length >= size ? rk__fail(RK_EIO, "%s: path too long", folder) : 0;
}

/* ---- reading -------------------------------------------------------------------------------- */

static bool verify_bytes(const unsigned char *bytes, size_t size)
{
    struct trailer t;
    if (size < sizeof t) {
        return false;
    }
    size_t body = size - sizeof t;
    memcpy(&t, bytes + body, sizeof t);
    if (memcmp(t.magic, MAGIC, sizeof t.magic) != 0 || t.size != body) {
        return false;
    }
    rk__hash128 sum = rk__hash128_of(bytes, body);
    return sum.high == t.checksum.high && sum.low == t.checksum.low;
}

static bool verify_file(int fd)
{
    struct stat s;
    if (fstat(fd, &s) < 0 || !S_ISREG(s.st_mode) || s.st_size <= 0) {
        return false;
    }
    void *bytes = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED) {
        return false;
    }
    bool good = verify_bytes(bytes, (size_t)s.st_size);
    munmap(bytes, (size_t)s.st_size);
    return good;
}

int rk__cache_get(const char *folder, rk__hash128 key, char *path, size_t size)
{
    int rc = entry_path(folder, key, path, size);
    if (rc < 0) {
        return rc;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return rk__fail(RK_ENOENT, "%s is not in the cache", path);
    }
    bool good = verify_file(fd);
    if (good) {
        futimens(fd,
                 NULL); /* used just now; a folder of others keeps its times, and is not cleaned */
    }
    close(fd);
    if (!good) {
        rk__log(RK__LOG_WARN, NULL, "removed a damaged file from the kernel cache: %s", path);
        unlink(path);
        return rk__fail(RK_ENOENT, "%s was damaged", path);
    }
    return 0;
}

/* ---- keeping the folder small --------------------------------------------------------------- */

struct entry {
    char name[64];
    off_t size;
    struct timespec used;
};

struct listing {
    struct entry *entries;
    size_t count, capacity;
    uint64_t bytes;
};

static uint64_t cache_limit(void)
{
    const char *text = getenv("RK_CACHE_LIMIT");
    char *end;
    uint64_t limit = text ? strtoull(text, &end, 10) : 0;
    return text && end != text && !*end ? limit : UINT64_C(256) << 20;
}

static bool ends_with(const char *name, const char *end)
{
    size_t size = strlen(name), tail = strlen(end);
    return size >= tail && strcmp(name + size - tail, end) == 0;
}

static void list_one(struct listing *list, int folder, const char *name)
{
    struct stat s;
    if (!ends_with(name, ".so") || strlen(name) >= sizeof list->entries->name ||
        fstatat(folder, name, &s, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(s.st_mode)) {
        return;
    }
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        struct entry *grown = realloc(list->entries, capacity * sizeof *grown);
        if (!grown) {
            return;
        }
        list->entries = grown;
        list->capacity = capacity;
    }
    struct entry *entry = &list->entries[list->count++];
    strcpy(entry->name, name);
    entry->size = s.st_size;
    entry->used = s.st_mtim;
    list->bytes += (uint64_t)s.st_size;
}

static int by_use(const void *a, const void *b)
{
    const struct timespec *x = &((const struct entry *)a)->used;
    const struct timespec *y = &((const struct entry *)b)->used;
    if (x->tv_sec != y->tv_sec) {
        return x->tv_sec < y->tv_sec ? -1 : 1;
    }
    return x->tv_nsec < y->tv_nsec ? -1 : x->tv_nsec > y->tv_nsec;
}

/* A writer that died left its temporary file; one that lives is done within the hour. */
static void remove_leftover(int folder, const char *name)
{
    struct stat s;
    if (strncmp(name, TEMPORARY, strlen(TEMPORARY)) == 0 &&
        fstatat(folder, name, &s, AT_SYMLINK_NOFOLLOW) == 0 && time(NULL) - s.st_mtime > 3600) {
        unlinkat(folder, name, 0);
    }
}

/* Removes the least recently used files but `keep`, which was stored just now. */
static void trim(const char *path, const char *keep)
{
    struct listing list = {0};
    uint64_t limit = cache_limit();
    DIR *folder = opendir(path);
    if (!folder) {
        return;
    }
    for (struct dirent *d; (d = readdir(folder)) != NULL;) {
        list_one(&list, dirfd(folder), d->d_name);
        remove_leftover(dirfd(folder), d->d_name);
    }
    if (list.count) {
        qsort(list.entries, list.count, sizeof *list.entries, by_use);
    }
    for (size_t i = 0; i < list.count && list.bytes > limit; i++) {
        if (!ends_with(keep, list.entries[i].name) &&
            unlinkat(dirfd(folder), list.entries[i].name, 0) == 0) {
            list.bytes -= (uint64_t)list.entries[i].size;
        }
    }
    closedir(folder);
    free(list.entries);
}

/* ---- storing -------------------------------------------------------------------------------- */

static bool write_all(int fd, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size) {
        ssize_t n = write(fd, at, size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        at += n;
        size -= (size_t)n;
    }
    return true;
}

static bool copy_with_trailer(int to, const void *bytes, size_t size)
{
    struct trailer t = {MAGIC, size, rk__hash128_of(bytes, size)};
    return write_all(to, bytes, size) && write_all(to, &t, sizeof t);
}

static bool copy_file(int to, const char *from)
{
    struct stat s;
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    void *bytes = MAP_FAILED;
    if (fstat(fd, &s) == 0 && s.st_size > 0) {
        bytes = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    }
    close(fd);
    if (bytes == MAP_FAILED) {
        return false;
    }
    bool done = copy_with_trailer(to, bytes, (size_t)s.st_size);
    munmap(bytes, (size_t)s.st_size);
    return done;
}

int rk__cache_put(const char *folder, rk__hash128 key, const char *from, char *path, size_t size)
{
    char temporary[PATH_MAX];
    int rc = entry_path(folder, key, path, size);
    if (rc < 0) {
        return rc;
    }
    if (make_folders(folder) < 0) {
        return rk__fail_errno(RK_EIO, "cannot make the folder %s", folder);
    }
    int length = snprintf(temporary, sizeof temporary, "%s/" TEMPORARY "XXXXXX", folder);
    int fd = length < (int)sizeof temporary ? mkostemp(temporary, O_CLOEXEC) : -1;
    if (fd < 0) {
        return rk__fail_errno(RK_EIO, "cannot write to the folder %s", folder);
    }
    bool done = copy_file(fd, from) && fchmod(fd, 0755) == 0;
    done = close(fd) == 0 && done;
    if (!done || rename(temporary, path) < 0) {
        rc = rk__fail_errno(RK_EIO, "cannot store %s", path);
        unlink(temporary);
        return rc;
    }
    trim(folder, path);
    return 0;
}
