/* cache.c -- compiled kernels on disk: stored whole or not at all, verified, bounded. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/log.h"
#include "device/device.h"

static char folder[64], made[96];

static void make_folder(void)
{
    strcpy(folder, "/tmp/rk-test-cache-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    rk__log_set_level(RK__LOG_OFF); /* damaged files are warned about */
    snprintf(made, sizeof made, "%s/made", folder);
}

static void remove_folder(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    cr_assert_eq(system(command), 0);
}

TestSuite(cache, .init = make_folder, .fini = remove_folder, .timeout = 60);

static rk__hash128 key_of(uint64_t n)
{
    return (rk__hash128){n, ~n};
}

static void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(bytes, 1, size, file), size);
    fclose(file);
}

static void put(uint64_t n, const void *bytes, size_t size, char path[256])
{
    write_file(made, bytes, size);
    cr_assert_eq(rk__cache_put(folder, key_of(n), made, path, 256), 0, "%s", rk_errdetail());
}

static bool has(uint64_t n, char path[256])
{
    return rk__cache_get(folder, key_of(n), path, 256) == 0;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

Test(cache, gives_back_what_was_put)
{
    char path[256], again[256], bytes[8] = "";
    cr_assert_not(has(1, path));
    put(1, "hello", 5, path);
    cr_assert(has(1, again));
    cr_assert_str_eq(path, again);
    cr_assert_not(has(2, again));
    FILE *file = fopen(path, "r");
    cr_assert_eq(fread(bytes, 1, 5, file), 5);
    fclose(file);
    cr_assert_str_eq(bytes, "hello");
    put(1, "other", 5, path);
    cr_assert(has(1, again));
}

static void flip(const char *path, long at)
{
    FILE *file = fopen(path, "r+");
    fseek(file, at, SEEK_SET);
    int c = fgetc(file);
    fseek(file, at, SEEK_SET);
    fputc(c ^ 1, file);
    fclose(file);
}

Test(cache, every_changed_byte_is_noticed_and_removed)
{
    char path[256];
    for (long at = 0; at < 5 + 32; at++) {
        put(7, "hello", 5, path);
        flip(path, at);
        cr_assert_not(has(7, path), "byte %ld", at);
        cr_assert_not(exists(path), "byte %ld", at);
    }
}

Test(cache, truncated_and_empty_files_are_misses)
{
    char path[256];
    for (off_t size = 0; size < 5 + 32; size++) {
        put(7, "hello", 5, path);
        cr_assert_eq(truncate(path, size), 0);
        cr_assert_not(has(7, path), "size %ld", (long)size);
    }
}

static void set_age(const char *path, time_t age)
{
    struct timespec t[2] = {{time(NULL) - age, 0}, {time(NULL) - age, 0}};
    cr_assert_eq(utimensat(AT_FDCWD, path, t, 0), 0);
}

Test(cache, least_recently_used_go_first)
{
    char a[256], b[256], c[256], bytes[1000] = "";
    setenv("RK_CACHE_LIMIT", "2500", 1);
    put(1, bytes, sizeof bytes, a);
    put(2, bytes, sizeof bytes, b);
    set_age(a, 500);
    set_age(b, 300);
    cr_assert(has(1, a)); /* used again: now b is the oldest */
    put(3, bytes, sizeof bytes, c);
    cr_assert(exists(a));
    cr_assert_not(exists(b));
    cr_assert(exists(c));
}

Test(cache, what_was_just_stored_stays_whatever_the_limit)
{
    char path[256], bytes[1000] = "";
    setenv("RK_CACHE_LIMIT", "10", 1);
    put(1, bytes, sizeof bytes, path);
    cr_assert(has(1, path));
    put(2, bytes, sizeof bytes, path);
    cr_assert(has(2, path));
    cr_assert_not(has(1, path));
}

Test(cache, leftovers_of_dead_writers_go)
{
    char stale[128], fresh[128], path[256];
    snprintf(stale, sizeof stale, "%s/store-aaaaaa", folder);
    snprintf(fresh, sizeof fresh, "%s/store-bbbbbb", folder);
    write_file(stale, "x", 1);
    write_file(fresh, "x", 1);
    set_age(stale, 7200);
    put(1, "hello", 5, path);
    cr_assert_not(exists(stale));
    cr_assert(exists(fresh));
}

static void put_often(unsigned seed)
{
    char from[128], path[256], bytes[5000];
    snprintf(from, sizeof from, "%s/made.%u", folder, seed);
    memset(bytes, (int)seed, sizeof bytes);
    write_file(from, bytes, sizeof bytes);
    for (int i = 0; i < 200; i++) {
        if (rk__cache_put(folder, key_of(1), from, path, sizeof path) < 0 ||
            rk__cache_get(folder, key_of(1), path, sizeof path) < 0) {
            _exit(1);
        }
    }
    _exit(0);
}

Test(cache, two_processes_never_see_half_a_file)
{
    pid_t children[2];
    int status;
    for (unsigned i = 0; i < 2; i++) {
        children[i] = fork();
        if (!children[i]) {
            put_often(i + 1);
        }
    }
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(waitpid(children[i], &status, 0), children[i]);
        cr_assert_eq(status, 0);
    }
}

Test(cache, folder_comes_from_the_environment_and_is_made)
{
    char path[256], want[128];
    snprintf(want, sizeof want, "%s/deep/er", folder);
    setenv("XDG_CACHE_HOME", want, 1);
    cr_assert_eq(rk__cache_folder(NULL, path, sizeof path), 0, "%s", rk_errdetail());
    strcat(want, "/rk");
    cr_assert_str_eq(path, want);
    cr_assert(exists(path));
}

Test(cache, folder_that_others_may_write_to_is_refused)
{
    char path[256];
    cr_assert_eq(chmod(folder, 0777), 0);
    cr_assert_eq(rk__cache_folder(folder, path, sizeof path), RK_EIO);
    cr_assert(strstr(rk_errdetail(), "others may write") != NULL, "%s", rk_errdetail());
}

Test(cache, folder_under_a_file_is_an_error)
{
    char path[256], bad[160];
    write_file(made, "x", 1);
    snprintf(bad, sizeof bad, "%s/rk", made);
    cr_assert_eq(rk__cache_folder(bad, path, sizeof path), RK_EIO);
    cr_assert(strstr(rk_errdetail(), bad) != NULL, "%s", rk_errdetail());
    cr_assert_eq(rk__cache_put(bad, key_of(1), made, path, sizeof path), RK_EIO);
}
