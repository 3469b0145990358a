/* Unit tests of src/base: errors, strings, ids, hashes, log, topology, park. */
#include "base/clock.h"
#include "base/embedded.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/id.h"
#include "base/log.h"
#include "base/park.h"
#include "base/strbuf.h"
#include "base/topology.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- errors --------------------------------------------------------------------------------- */

Test(error, names_and_texts_round_trip)
{
    cr_assert_str_eq(rk_err_name(RK_ETIMEOUT), "ETIMEOUT");
    cr_assert_str_eq(rk_strerror(RK_ETIMEOUT), "timeout");
    cr_assert_str_eq(rk_err_name(0), "OK");
    cr_assert_str_eq(rk_err_name(-9999), "EUNKNOWN");
    cr_assert_str_eq(rk_strerror(12345), "unknown error code");
    for (int code = -1; code >= -24; code--) {
        cr_assert_eq(rk__err_code(rk_err_name(code)), code);
    }
    cr_assert_eq(rk__err_code("ENOSUCH"), 0);
}

Test(error, detail_may_quote_itself)
{
    cr_assert_str_eq(rk_errdetail(), "");
    cr_assert_eq(rk__fail(RK_ENOENT, "no actor \"%s\"", "x"), RK_ENOENT);
    cr_assert_eq(rk__fail(RK_EINVAL, "outer (%s)", rk_errdetail()), RK_EINVAL);
    cr_assert_str_eq(rk_errdetail(), "outer (no actor \"x\")");
    rk__fail_prefix(RK_EINVAL, "field %d", 3);
    cr_assert_str_eq(rk_errdetail(), "field 3: outer (no actor \"x\")");
    errno = ENOENT;
    cr_assert_eq(rk__fail_errno(RK_EIO, "cannot open %s", "f"), RK_EIO);
    cr_assert_str_eq(rk_errdetail(), "cannot open f: No such file or directory");
    cr_assert_eq(errno, ENOENT);
}

Test(error, long_detail_is_marked)
{
    char big[2 * RK__DETAIL_MAX];
    memset(big, 'a', sizeof big);
    big[sizeof big - 1] = '\0';
    rk__fail(RK_EINVAL, "%s", big);
    size_t n = strlen(rk_errdetail());
    cr_assert_eq(n, RK__DETAIL_MAX - 1);
    cr_assert_str_eq(rk_errdetail() + n - 4, "a...");
    rk__fail_prefix(RK_EINVAL, "where");
    cr_assert(strncmp(rk_errdetail(), "where: aaa", 10) == 0);
    cr_assert_str_eq(rk_errdetail() + strlen(rk_errdetail()) - 4, "a...");
}

static void *fail_elsewhere(void *arg)
{
    (void)arg;
    rk__fail(RK_EINVAL, "elsewhere");
    return strdup(rk_errdetail());
}

Test(error, detail_is_per_thread)
{
    pthread_t thread;
    void *theirs;
    rk__fail(RK_EINVAL, "here");
    pthread_create(&thread, NULL, fail_elsewhere, NULL);
    pthread_join(thread, &theirs);
    cr_assert_str_eq(theirs, "elsewhere");
    cr_assert_str_eq(rk_errdetail(), "here");
    free(theirs);
}

Test(error, check_aborts, .signal = SIGABRT)
{
    RK_CHECK(1 + 1 == 3, "arithmetic");
}

/* ---- strbuf --------------------------------------------------------------------------------- */

Test(strbuf, grows_and_formats)
{
    rk__strbuf s = RK__STRBUF_INIT;
    for (int i = 0; i < 1000; i++) {
        rk__strbuf_addf(&s, "%d,", i);
    }
    rk__strbuf_addc(&s, '!');
    rk__strbuf_adds(&s, "end");
    rk__strbuf_add(&s, "\0x", 2);
    cr_assert_not(s.failed);
    cr_assert_eq(s.size, 10 * 2 + 90 * 3 + 900 * 4 + 1 + 3 + 2);
    cr_assert(strncmp(s.bytes, "0,1,2,", 6) == 0);
    cr_assert_eq(memcmp(s.bytes + s.size - 10, "999,!end\0x", 11), 0);
    char *taken = rk__strbuf_take(&s);
    cr_assert(strstr(taken, ",998,999,!end") != NULL);
    cr_assert_null(s.bytes);
    free(taken);
}

Test(strbuf, empty_take_is_an_empty_string)
{
    rk__strbuf s = RK__STRBUF_INIT;
    char *taken = rk__strbuf_take(&s);
    cr_assert_str_eq(taken, "");
    free(taken);
}

Test(strbuf, failure_is_sticky)
{
    rk__strbuf s = RK__STRBUF_INIT;
    rk__strbuf_adds(&s, "kept");
    cr_assert_not(rk__strbuf_reserve(&s, SIZE_MAX - 2));
    cr_assert(s.failed);
    rk__strbuf_adds(&s, "dropped");
    rk__strbuf_addf(&s, "%d", 1);
    cr_assert_str_eq(s.bytes, "kept");
    cr_assert_null(rk__strbuf_take(&s));
    rk__strbuf_adds(&s, "again");
    rk__strbuf_clear(&s);
    cr_assert_eq(s.size, 0);
    cr_assert_str_eq(s.bytes, "");
    rk__strbuf_free(&s);
}

/* ---- hash and clock ------------------------------------------------------------------------- */

/* Published values of XXH3 for empty input with seed 0. */
Test(hash, known_values)
{
    char hex[33];
    cr_assert_eq(rk__hash64("", 0), UINT64_C(0x2D06800538D394C2));
    cr_assert_str_eq(rk__hash128_hex(rk__hash128_of("", 0), hex),
                     "99aa06d3014798d86001c324468d497f");
    cr_assert_neq(rk__hash64("a", 1), rk__hash64("b", 1));
}

Test(clock, deadlines_saturate)
{
    cr_assert_eq(rk__deadline(-1), RK__FOREVER);
    cr_assert_eq(rk__deadline(INT64_MAX), RK__FOREVER);
    cr_assert_eq(rk__remaining(RK__FOREVER), -1);
    cr_assert_eq(rk__remaining(rk__now() - 5), 0);
    cr_assert_eq(rk__seconds(0.5), 500000000);
    cr_assert_eq(rk__seconds(-1), -1);
    cr_assert_eq(rk__seconds(1e300), RK__FOREVER);
}

/* ---- ids ------------------------------------------------------------------------------------ */

Test(id, text_and_bytes_round_trip)
{
    char text[RK__ID_TEXT], again[RK__ID_TEXT];
    uint8_t bytes[16];
    rk__id id = rk__id_new(), parsed = {0, 0};
    rk__id_format(id, text);
    cr_assert_eq(strlen(text), 36);
    cr_assert_eq(text[14], '8', "version of %s", text);
    cr_assert(strchr("89ab", text[19]) != NULL, "variant of %s", text);
    cr_assert(rk__id_parse(text, &parsed));
    cr_assert(parsed.high == id.high && parsed.low == id.low);
    rk__id_bytes(id, bytes);
    cr_assert_str_eq(rk__id_format(rk__id_from_bytes(bytes), again), text);
    cr_assert(rk__id_parse("00112233-4455-8677-8899-AABBCCDDEEFF", &parsed));
    cr_assert_eq(parsed.high, UINT64_C(0x0011223344558677));
    cr_assert_eq(parsed.low, UINT64_C(0x8899AABBCCDDEEFF));
}

Test(id, malformed_text_is_refused)
{
    rk__id id = {1, 2};
    cr_assert_not(rk__id_parse("", &id));
    cr_assert_not(rk__id_parse("00112233-4455-8677-8899-AABBCCDDEEF", &id));
    cr_assert_not(rk__id_parse("00112233-4455-8677-8899-AABBCCDDEEFF0", &id));
    cr_assert_not(rk__id_parse("00112233x4455-8677-8899-AABBCCDDEEFF", &id));
    cr_assert_not(rk__id_parse("0011223g-4455-8677-8899-AABBCCDDEEFF", &id));
    cr_assert(id.high == 1 && id.low == 2);
}

enum { IDS = 20000, ID_THREADS = 4 };

static void *make_ids(void *arg)
{
    rk__id *ids = arg;
    for (int i = 0; i < IDS; i++) {
        ids[i] = rk__id_new();
    }
    return NULL;
}

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(rk__id));
}

Test(id, unique_over_threads)
{
    rk__id *ids = calloc(IDS * ID_THREADS, sizeof *ids);
    pthread_t threads[ID_THREADS];
    for (int i = 0; i < ID_THREADS; i++) {
        pthread_create(&threads[i], NULL, make_ids, ids + i * IDS);
    }
    for (int i = 0; i < ID_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    qsort(ids, IDS * ID_THREADS, sizeof *ids, compare_ids);
    for (int i = 0; i < IDS * ID_THREADS; i++) {
        cr_assert(rk__id_is_set(ids[i]));
        cr_assert(i == 0 || compare_ids(&ids[i - 1], &ids[i]) != 0, "id %d is there twice", i);
    }
    free(ids);
}

Test(id, child_gets_another_prefix)
{
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    rk__id before = rk__id_new(), child = {0, 0};
    pid_t pid = fork();
    if (pid == 0) {
        rk__id id = rk__id_new();
        _exit(write(ends[1], &id, sizeof id) == (ssize_t)sizeof id ? 0 : 1);
    }
    cr_assert_eq(read(ends[0], &child, sizeof child), (ssize_t)sizeof child);
    waitpid(pid, NULL, 0);
    rk__id after = rk__id_new();
    cr_assert_eq(before.low, after.low);
    cr_assert_neq(before.low, child.low);
}

/* ---- log ------------------------------------------------------------------------------------ */

static void read_file(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    size_t n = fread(text, 1, size - 1, file);
    text[n] = '\0';
    fclose(file);
}

static void temporary(char path[64])
{
    snprintf(path, 64, "%s", "/tmp/rk-base-test-XXXXXX");
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    close(fd);
}

Test(log, levels)
{
    enum rk__level level = RK__LOG_OFF;
    cr_assert_eq(rk__log_level(), RK__LOG_WARN);
    cr_assert_eq(rk__log_parse_level("debug", &level), 0);
    cr_assert_eq(level, RK__LOG_DEBUG);
    cr_assert_str_eq(rk__log_level_name(RK__LOG_ERROR), "error");
    cr_assert_eq(rk__log_parse_level("loud", &level), RK_EINVAL);
    cr_assert_eq(level, RK__LOG_DEBUG);
    cr_assert(strstr(rk_errdetail(), "loud") && strstr(rk_errdetail(), "debug, info, warn"));
    cr_assert_eq(rk__log_configure("info:"), RK_EINVAL);
    cr_assert_eq(rk__log_configure("info:/nonexistent/folder/log"), RK_EIO);
    cr_assert(strstr(rk_errdetail(), "/nonexistent/folder/log") != NULL);
    cr_assert_eq(rk__log_level(), RK__LOG_WARN, "a failure changes nothing");
}

Test(log, lines_reach_the_file)
{
    char path[64], spec[96], text[4096];
    temporary(path);
    snprintf(spec, sizeof spec, "info:%s", path);
    cr_assert_eq(rk__log_configure(spec), 0);
    rk__log(RK__LOG_DEBUG, NULL, "hidden");
    rk__log(RK__LOG_INFO, NULL, "number %d", 7);
    rk__log(RK__LOG_WARN, "<1.7 \"counter\">", "first\nsecond\n");
    rk__log_set_level(RK__LOG_OFF);
    rk__log(RK__LOG_ERROR, NULL, "hidden too");
    read_file(path, text, sizeof text);
    unlink(path);
    int year, end = 0;
    cr_assert_eq(sscanf(text, "%d-%*d-%*dT%*d:%*d:%*d.%*6d INFO  number 7\n%n", &year, &end), 1);
    cr_assert_gt(end, 0);
    cr_assert_gt(year, 2000);
    cr_assert_eq(text[26], ' ', "microseconds have six digits: %s", text);
    cr_assert(strstr(text, " WARN  <1.7 \"counter\"> first\n    second\n") != NULL, "%s", text);
    cr_assert_null(strstr(text, "hidden"));
    cr_assert_eq(rk__log_configure(NULL), 0);
}

enum { LOG_LINES = 300, LOG_THREADS = 4 };

static void *log_many(void *arg)
{
    char mark = *(char *)arg, body[201];
    memset(body, mark, 200);
    body[200] = '\0';
    for (int i = 0; i < LOG_LINES; i++) {
        rk__log(RK__LOG_WARN, NULL, "[%s]", body);
    }
    return NULL;
}

Test(log, lines_never_interleave)
{
    char path[64], spec[96], line[512];
    char marks[LOG_THREADS] = {'a', 'b', 'c', 'd'};
    pthread_t threads[LOG_THREADS];
    temporary(path);
    snprintf(spec, sizeof spec, "warn:%s", path);
    cr_assert_eq(rk__log_configure(spec), 0);
    for (int i = 0; i < LOG_THREADS; i++) {
        pthread_create(&threads[i], NULL, log_many, &marks[i]);
    }
    for (int i = 0; i < LOG_THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    FILE *file = fopen(path, "r");
    int lines = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        char *body = strchr(line, '[') + 1;
        cr_assert_eq(strspn(body, (char[]){body[0], '\0'}), 200);
        cr_assert_str_eq(body + 200, "]\n");
        lines++;
    }
    fclose(file);
    unlink(path);
    cr_assert_eq(lines, LOG_LINES * LOG_THREADS);
    rk__log_configure(NULL);
}

static void *read_slowly(void *arg)
{
    int fd = *(int *)arg;
    rk__strbuf *all = calloc(1, sizeof *all);
    char part[1000];
    ssize_t n;
    while ((n = read(fd, part, sizeof part)) > 0) {
        rk__strbuf_add(all, part, (size_t)n);
    }
    return all;
}

enum { PIECE = 1 << 18, PIECES = 4 };
static int piece_pipe[2];

static void *write_piece(void *arg)
{
    char *bytes = malloc(PIECE);
    memset(bytes, 'a' + (int)(intptr_t)arg, PIECE);
    rk__output(piece_pipe[1], bytes, PIECE);
    free(bytes);
    return NULL;
}

/* Non-blocking and larger than the pipe: short writes and EAGAIN both happen, and only the lock
 * keeps the pieces of several threads apart. */
Test(log, output_pieces_stay_whole, .timeout = 20)
{
    pthread_t reader, writers[PIECES];
    void *result;
    cr_assert_eq(pipe2(piece_pipe, O_NONBLOCK), 0);
    fcntl(piece_pipe[0], F_SETFL, 0);
    for (int i = 0; i < PIECES; i++) {
        pthread_create(&writers[i], NULL, write_piece, (void *)(intptr_t)i);
    }
    pthread_create(&reader, NULL, read_slowly, &piece_pipe[0]);
    for (int i = 0; i < PIECES; i++) {
        pthread_join(writers[i], NULL);
    }
    close(piece_pipe[1]);
    pthread_join(reader, &result);
    rk__strbuf *all = result;
    cr_assert_eq(all->size, PIECE * PIECES);
    for (int i = 0; i < PIECES; i++) {
        char *piece = all->bytes + i * PIECE;
        cr_assert_eq(strspn(piece, (char[]){piece[0], '\0'}) % PIECE, 0);
        cr_assert(i == 0 || piece[0] != piece[-1]);
    }
    rk__strbuf_free(all);
    free(all);
}

static char hooked[256];
static int hooked_fd;

static void catch_line(int fd, const char *line, size_t size)
{
    hooked_fd = fd;
    snprintf(hooked, sizeof hooked, "%.*s", (int)size, line);
}

Test(log, hook_gets_terminal_output)
{
    rk__output_hook(catch_line);
    rk__output(1, "hello\n", 6);
    cr_assert_str_eq(hooked, "hello\n");
    cr_assert_eq(hooked_fd, 1);
    rk__log(RK__LOG_ERROR, NULL, "bad");
    cr_assert(strstr(hooked, "ERROR bad\n") != NULL);
    cr_assert_eq(hooked_fd, 2);
    rk__output_hook(NULL);
}

/* ---- topology ------------------------------------------------------------------------------- */

static unsigned mask_of(cpu_set_t *set)
{
    sched_getaffinity(0, sizeof *set, set);
    return (unsigned)CPU_COUNT(set);
}

Test(topology, auto_uses_allowed_cpus_once)
{
    cpu_set_t set;
    unsigned n = mask_of(&set);
    rk__pin pin;
    cr_assert_eq(rk__pin_parse(NULL, &pin), 0);
    cr_assert(pin.enabled);
    cr_assert_eq(pin.count, rk__cpu_count());
    cr_assert(pin.count >= 1 && pin.count <= n);
    for (unsigned i = 0; i < pin.count; i++) {
        cr_assert(CPU_ISSET(pin.cpus[i], &set));
        CPU_CLR(pin.cpus[i], &set);
    }
}

Test(topology, lists)
{
    cpu_set_t set;
    char list[64];
    rk__pin pin;
    mask_of(&set);
    int first = 0;
    while (!CPU_ISSET(first, &set)) {
        first++;
    }
    snprintf(list, sizeof list, "%d,%d-%d", first, first, first);
    cr_assert_eq(rk__pin_parse(list, &pin), 0);
    cr_assert(pin.enabled && pin.count == 1 && pin.cpus[0] == first);
    cr_assert_eq(rk__pin_parse("off", &pin), 0);
    cr_assert_not(pin.enabled);
    cr_assert_eq(rk__cpu_seat(&pin), -1);
    const char *bad[] = {"", "x", "0,", ",0", "0-", "1-0", "0 ", "-1", "Auto"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_assert_eq(rk__pin_parse(bad[i], &pin), RK_EINVAL, "\"%s\"", bad[i]);
    }
    cr_assert_eq(rk__pin_parse("1023", &pin), RK_EINVAL);
    cr_assert(strstr(rk_errdetail(), "cpu 1023 is not") != NULL);
    snprintf(list, sizeof list, ": %d", first);
    cr_assert(strstr(rk_errdetail(), list) != NULL, "%s", rk_errdetail());
    cr_assert_eq(rk__pin_parse("99999999999999999999", &pin), RK_EINVAL);
}

Test(topology, seats_spread_and_come_back)
{
    rk__pin pin;
    cr_assert_eq(rk__pin_parse("auto", &pin), 0);
    unsigned before[RK__CPU_MAX] = {0}, sum = 0;
    for (unsigned i = 0; i < pin.count; i++) {
        before[i] = rk__cpu_seats(pin.cpus[i]);
        sum += before[i];
    }
    cr_assert_leq(sum, 1, "only the main thread sits");
    int cpu[64];
    for (int i = 0; i < 64; i++) {
        cpu[i] = rk__cpu_seat(&pin);
    }
    cr_assert(pin.count < 2 || before[0] == 0 || cpu[0] != pin.cpus[0], "main keeps its core");
    unsigned least = UINT32_MAX, most = 0;
    for (unsigned i = 0; i < pin.count; i++) {
        unsigned n = rk__cpu_seats(pin.cpus[i]);
        least = n < least ? n : least;
        most = n > most ? n : most;
    }
    cr_assert_leq(most - least, 1);
    for (int i = 0; i < 64; i++) {
        rk__cpu_leave(cpu[i]);
    }
    for (unsigned i = 0; i < pin.count; i++) {
        cr_assert_eq(rk__cpu_seats(pin.cpus[i]), before[i]);
    }
    cr_assert_eq(rk__cpu_take(1023), RK_EINVAL);
    cr_assert_eq(rk__cpu_take(pin.cpus[0]), 0);
    cr_assert_eq(rk__cpu_seats(pin.cpus[0]), before[0] + 1);
}

static void *enter(void *arg)
{
    int cpu = *(int *)arg;
    char *name = calloc(1, 16);
    cpu_set_t set;
    rk__thread_enter(cpu, "a-name-that-is-too-long");
    pthread_getname_np(pthread_self(), name, 16);
    cr_assert_eq(mask_of(&set), 1);
    cr_assert(CPU_ISSET(cpu, &set));
    return name;
}

Test(topology, threads_are_pinned_and_named)
{
    rk__pin pin;
    pthread_t thread;
    void *name;
    cr_assert_eq(rk__pin_parse("auto", &pin), 0);
    int cpu = pin.cpus[pin.count - 1];
    pthread_create(&thread, NULL, enter, &cpu);
    pthread_join(thread, &name);
    cr_assert_str_eq(name, "a-name-that-is-");
    free(name);
}

Test(topology, full_mask_is_restored)
{
    cpu_set_t full, now;
    mask_of(&full);
    rk__pin pin;
    rk__pin_parse("auto", &pin);
    rk__thread_enter(pin.cpus[0], NULL);
    cr_assert_eq(mask_of(&now), 1);
    rk__affinity_restore();
    mask_of(&now);
    cr_assert(CPU_EQUAL(&full, &now));
}

/* ---- park ----------------------------------------------------------------------------------- */

typedef struct side {
    rk__park park;
    unsigned mail; /* turns handed over; written by the other side */
    unsigned seen; /* written by the owner */
} side;

static bool has_mail(void *arg)
{
    side *s = arg;
    return __atomic_load_n(&s->mail, __ATOMIC_ACQUIRE) != s->seen;
}

enum { TURNS = 20000 };

typedef struct game {
    side sides[2];
} game;

static void play(side *mine, side *other, bool first)
{
    for (int i = 0; i < TURNS; i++) {
        if (!first || i > 0) {
            cr_assert(rk__park_wait(&mine->park, has_mail, mine, RK__FOREVER));
            mine->seen++;
        }
        __atomic_store_n(&other->mail, other->mail + 1, __ATOMIC_RELEASE);
        rk__park_notify(&other->park);
    }
}

static void *play_second(void *arg)
{
    game *g = arg;
    play(&g->sides[1], &g->sides[0], false);
    return NULL;
}

/* A lost wake-up is a hang, which the timeout finds. */
Test(park, ping_pong, .timeout = 60)
{
    static game g;
    pthread_t thread;
    rk__park_init(&g.sides[0].park);
    rk__park_init(&g.sides[1].park);
    pthread_create(&thread, NULL, play_second, &g);
    play(&g.sides[0], &g.sides[1], true);
    pthread_join(thread, NULL);
    cr_assert_eq(g.sides[0].mail, TURNS);
    cr_assert_eq(g.sides[1].mail, TURNS);
}

static bool never(void *arg)
{
    (*(int *)arg)++;
    return false;
}

Test(park, deadline_passes, .timeout = 20)
{
    rk__park p;
    int looked = 0;
    rk__park_init(&p);
    cr_assert_not(rk__park_wait(&p, never, &looked, 0));
    cr_assert_geq(looked, 1, "a poll looks once");
    int64_t deadline = rk__now() + 20000000;
    cr_assert_not(rk__park_wait(&p, never, &looked, deadline));
    cr_assert_geq(rk__now(), deadline, "woken before the deadline");
    cr_assert_leq(looked, 20, "slept instead of spinning");
}

static int kicked;
static rk__park signal_park;

static void on_signal(int number)
{
    (void)number;
    __atomic_store_n(&kicked, 1, __ATOMIC_SEQ_CST);
    rk__park_kick(&signal_park);
}

static bool was_kicked(void *arg)
{
    (void)arg;
    return __atomic_load_n(&kicked, __ATOMIC_SEQ_CST) != 0;
}

Test(park, signal_handler_wakes_its_own_thread, .timeout = 20)
{
    rk__park_init(&signal_park);
    signal(SIGALRM, on_signal);
    ualarm(20000, 0);
    cr_assert(rk__park_wait(&signal_park, was_kicked, NULL, RK__FOREVER));
}

enum { CROWD = 3, EACH = 20000 };

static void *send_many(void *arg)
{
    side *s = arg;
    for (int i = 0; i < EACH; i++) {
        __atomic_fetch_add(&s->mail, 1, __ATOMIC_ACQ_REL);
        rk__park_notify(&s->park);
        if (i % 64 == 0) {
            sched_yield();
        }
    }
    return NULL;
}

Test(park, many_producers_one_owner, .timeout = 60)
{
    static side s;
    pthread_t threads[CROWD];
    rk__park_init(&s.park);
    for (int i = 0; i < CROWD; i++) {
        pthread_create(&threads[i], NULL, send_many, &s);
    }
    while (s.seen < CROWD * EACH) {
        cr_assert(rk__park_wait(&s.park, has_mail, &s, RK__FOREVER));
        s.seen = __atomic_load_n(&s.mail, __ATOMIC_ACQUIRE);
    }
    for (int i = 0; i < CROWD; i++) {
        pthread_join(threads[i], NULL);
    }
    cr_assert_eq(s.seen, CROWD * EACH);
}

/* ---- embedded ------------------------------------------------------------------------------- */

Test(embedded, finds_by_whole_name)
{
    cr_assert_null(rk__embedded_find("no/such/file"));
    cr_assert_null(rk__embedded_find(""));
    for (const rk__embedded *f = rk__embedded_files; f->name != NULL; f++) {
        cr_assert_eq(rk__embedded_find(f->name), f);
        cr_assert_eq(f->bytes[f->size], 0);
    }
}
