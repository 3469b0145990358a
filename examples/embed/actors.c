/*
 * actors.c -- actors of three kinds in one C program: a sensor and a display in C on threads of
 * their own, a ring kernel defined in C that smooths what the sensor says, and a policy in Lua that
 * the configuration spawned.
 *
 *     sensor (C)  ->  smooth (ring kernel)  ->  display (C)  ->  policy (Lua) says what is too hot
 *
 * ./actors [configuration.lua]; default examples/embed/app.lua
 */
#include <rk.h>
#include <stdio.h>
#include <string.h>

#define SECOND INT64_C(1000000000)
enum { READINGS = 12 };

/* The struct of `Reading` and `Alarm`: members by alignment, then by name (rk_type_header prints
 * it). */
typedef struct reading {
    double celsius;
    uint32_t sensor;
} reading;
typedef struct alarm {
    double celsius, limit;
    uint32_t sensor;
} alarm_message;

/* What the actors are given; main fills it in before it spawns them. */
typedef struct application {
    rk_runtime *runtime;
    const rk_type *reading, *alarm;
    rk_pid smooth, policy, display, sensor;
} application;

/* Each sensor's mean of its last two readings. */
static const char smooth_source[] =
    "enum { SENSORS = 8 };\n"
    "RK_ON(Reading, r)\n"
    "{\n"
    "    rk_state *s = rk_get_state(ctx);\n"
    "    if (r->sensor >= SENSORS) rk_fail(ctx, \"no such sensor\");\n"
    "    double mean = s->seen[r->sensor] ? (s->last[r->sensor] + r->celsius) / 2 : r->celsius;\n"
    "    rk_sync(ctx);\n"
    "    if (rk_thread(ctx) == 0) {\n"
    "        s->last[r->sensor] = r->celsius;\n"
    "        s->seen[r->sensor] = 1;\n"
    "    }\n"
    "    rk_reply(ctx, Reading, .sensor = r->sensor, .celsius = mean);\n"
    "}\n";

/* ---- the actors --------------------------------------------------------------------------- */

static int new_reading(const application *app, rk_message **out, uint32_t sensor, double celsius)
{
    int rc = rk_message_new(out, app->reading);
    if (rc == 0) {
        reading *r = rk_message_data(*out);
        r->sensor = sensor;
        r->celsius = celsius;
    }
    return rc;
}

/* Sensor 1 warms up by 10 degrees a reading, sensor 2 is steady: smoothed, then to the display. */
static int sensor_body(void *arg)
{
    application *app = arg;
    for (int i = 0; i < READINGS; i++) {
        rk_message *m, *smoothed;
        uint32_t sensor = (uint32_t)(1 + i % 2);
        int rc = new_reading(app, &m, sensor, sensor == 1 ? 40 + 5.0 * i : 20);
        if (rc == 0) {
            rc = rk_call(app->smooth, m, &smoothed, 5 * SECOND);
        }
        if (rc == 0) {
            rc = rk_send(app->display, smoothed, 5 * SECOND);
        }
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

/* Prints readings, with what the policy says of each; ends after READINGS of them or a stop. */
static int display_body(void *arg)
{
    application *app = arg;
    for (int i = 0; i < READINGS; i++) {
        rk_message *m, *opinion;
        int rc = rk_receive(&m, 10 * SECOND);
        if (rc == 0) {
            rc = rk_call(app->policy, m, &opinion, 5 * SECOND);
        }
        if (rc < 0) {
            return rc == RK_ESTOP ? 0 : rc;
        }
        if (rk_message_type(opinion) == app->alarm) {
            const alarm_message *a = rk_message_data(opinion);
            printf("sensor %u: %.1f degrees, more than %.1f\n", a->sensor, a->celsius, a->limit);
        } else {
            const reading *r = rk_message_data(opinion);
            printf("sensor %u: %.1f degrees\n", r->sensor, r->celsius);
        }
        rk_message_release(opinion);
    }
    return 0;
}

/* ---- main --------------------------------------------------------------------------------- */

static int find(application *app)
{
    int rc = rk_message_find(&app->reading, "Reading");
    if (rc == 0) {
        rc = rk_message_find(&app->alarm, "Alarm");
    }
    if (rc == 0) {
        rc = rk_whereis(app->runtime, "policy", &app->policy);
    }
    return rc;
}

static int spawn_kernel(application *app)
{
    static const rk_field state[] = {{"last", "f64[8]"}, {"seen", "u8[8]"}};
    rk_kernel kernel = RK_KERNEL_INIT;
    kernel.name = "smooth";
    kernel.source = smooth_source;
    kernel.accepts = kernel.replies = &app->reading;
    kernel.accepts_count = kernel.replies_count = 1;
    kernel.state = state;
    kernel.state_count = 2;
    int rc = rk_kernel_define(&kernel);
    return rc < 0 ? rc : rk_spawn(app->runtime, &app->smooth, "smooth", NULL);
}

static int spawn_actors(application *app)
{
    rk_options options = RK_OPTIONS_INIT;
    options.name = "display";
    int rc = rk_spawn_c(app->runtime, &app->display, display_body, app, &options);
    if (rc == 0) {
        options.name = "sensor";
        rc = rk_spawn_c(app->runtime, &app->sensor, sensor_body, app, &options);
    }
    return rc;
}

/* Waits for the `down` message of an actor and copies why it ended. */
static int wait_for_end(rk_pid pid, char reason[64])
{
    rk_message *down;
    const void *text;
    size_t size;
    int rc = rk_monitor(pid);
    if (rc == 0) {
        rc = rk_receive(&down, 30 * SECOND);
    }
    if (rc < 0) {
        return rc;
    }
    rc = rk_get_bytes(down, "reason", &text, &size);
    if (rc == 0) {
        snprintf(reason, 64, "%.*s", (int)size, (const char *)text);
    }
    rk_message_release(down);
    return rc;
}

/* A display without a sensor would wait in vain. */
static int wait_for_both(const application *app)
{
    char sensor[64], display[64];
    int rc = wait_for_end(app->sensor, sensor);
    if (rc == 0 && strcmp(sensor, "normal") != 0) {
        rc = rk_terminate(app->display, "no sensor", SECOND);
    }
    if (rc == 0) {
        rc = wait_for_end(app->display, display);
    }
    if (rc == 0) {
        printf("the sensor ended: %s; the display ended: %s\n", sensor, display);
    }
    return rc;
}

int main(int argc, char **argv)
{
    rk_config config = RK_CONFIG_INIT;
    application app = {0};
    config.script = argc > 1 ? argv[1] : "examples/embed/app.lua";
    int rc = rk_open(&app.runtime, &config);
    if (rc == 0) {
        rc = find(&app);
    }
    if (rc == 0) {
        rc = spawn_kernel(&app);
    }
    if (rc == 0) {
        rc = spawn_actors(&app);
    }
    if (rc == 0) {
        rc = wait_for_both(&app);
    }
    if (rc < 0) {
        fprintf(stderr, "actors: %s\n", rk_errdetail());
    }
    rk_close(app.runtime);
    return rc < 0;
}
