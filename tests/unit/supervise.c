/* supervise.c: actors written in C as children of a supervisor. */
#include <criterion/criterion.h>
#include <string.h>
#include "actor/actor.h"
#include "rk.h"

#define SECOND INT64_C(1000000000)

static const rk_type *number;
static rk_runtime *rt;

static int64_t value(rk_message *m)
{
    int64_t n = -1;
    cr_assert_eq(rk_get_int(m, "n", &n), 0, "%s", rk_errdetail());
    return n;
}

static rk_message *make(int64_t n)
{
    rk_message *m;
    cr_assert_eq(rk_message_new(&m, number), 0);
    rk_set_int(m, "n", n);
    return m;
}

/* Answers n with n + *arg; 13 fails the actor; 14 stops the supervisor and answers the code. */
static int adder(void *arg)
{
    rk_message *m;
    while (rk_receive(&m, -1) == 0) {
        int64_t n = value(m);
        rk_pid top;
        if (n == 13) {
            rk_message_release(m);
            return RK_EHANDLER;
        }
        if (n == 14) {
            n = rk_whereis(rt, "top", &top) < 0 ? 0 : rk_terminate(top, "from below", -1);
            rk_reply(m, make(n));
        } else {
            rk_reply(m, make(n + *(const int *)arg));
        }
        rk_message_release(m);
    }
    return 0;
}

static int more = 5;

static void open_runtime(void)
{
    static const rk_field fields[] = {{"n", "i64"}};
    rk_config config = RK_CONFIG_INIT;
    config.device = "cpu";
    cr_assert_eq(rk_message_define(&number, "SuperviseNumber", fields, 1), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_actor_define("adder", adder, &more), 0, "%s", rk_errdetail());
    cr_assert_eq(rk_open(&rt, &config), 0, "%s", rk_errdetail());
}

static void close_runtime(void)
{
    cr_assert_eq(rk_close(rt), 0, "%s", rk_errdetail());
}

TestSuite(supervise, .init = open_runtime, .fini = close_runtime, .timeout = 60);

static void supervise(void)
{
    const char *chunk =
        "runtime:supervise { name = 'top', { start = { 'adder' }, name = 'child' } }";
    cr_assert_eq(rk_dostring(rt, chunk, "=test"), 0, "%s", rk_errdetail());
}

static rk_pid child(void)
{
    rk_pid pid = RK_NOBODY;
    cr_assert_eq(rk_whereis(rt, "child", &pid), 0, "%s", rk_errdetail());
    return pid;
}

static int64_t ask(rk_pid pid, int64_t n)
{
    rk_message *answer;
    cr_assert_eq(rk_call(pid, make(n), &answer, 20 * SECOND), 0, "%s", rk_errdetail());
    n = value(answer);
    rk_message_release(answer);
    return n;
}

/* Whether the supervisor describes itself so. */
static bool label_is(const char *text)
{
    rk_pid top = RK_NOBODY;
    cr_assert_eq(rk_whereis(rt, "top", &top), 0, "%s", rk_errdetail());
    rk__actor *a = rk__actor_find(top);
    pthread_mutex_lock(&a->lock);
    bool same = strcmp(a->label, text) == 0;
    pthread_mutex_unlock(&a->lock);
    return same;
}

Test(supervise, a_c_actor_is_started_by_its_name)
{
    rk_pid pid;
    cr_assert_eq(rk_spawn(rt, &pid, "adder", NULL), 0, "%s", rk_errdetail());
    cr_expect_eq(ask(pid, 1), 6);
}

Test(supervise, a_c_actor_that_fails_is_started_again)
{
    supervise();
    cr_expect(label_is("one_for_one, 1 child, 0 restarts"));
    rk_pid first = child(), second = RK_NOBODY;
    cr_expect_eq(ask(first, 1), 6);
    cr_assert_eq(rk_send(first, make(13), -1), 0);
    for (int i = 0; i < 4000 && (second == RK_NOBODY || second == first); i++) {
        rk_sleep(SECOND / 200);
        if (rk_whereis(rt, "child", &second) < 0) {
            second = RK_NOBODY;
        }
    }
    cr_assert_neq(second, first);
    cr_expect_eq(ask(second, 2), 7);
    for (int i = 0; i < 4000 && !label_is("one_for_one, 1 child, 1 restart"); i++) {
        rk_sleep(SECOND / 200);
    }
    cr_expect(label_is("one_for_one, 1 child, 1 restart"));
}

Test(supervise, a_child_cannot_wait_for_the_end_of_its_supervisor)
{
    supervise();
    rk_pid pid = child();
    cr_expect_eq(ask(pid, 14), RK_ESELF);
    cr_expect_eq(ask(pid, 1), 6, "it runs on");
}

Test(supervise, a_definition_has_a_proper_name)
{
    cr_expect_eq(rk_actor_define("", adder, &more), RK_EINVAL);
    cr_expect_eq(rk_actor_define(
                     "a name that has more than the sixty-three bytes that a definition may have",
                     adder, &more),
                 RK_EINVAL);
}
