/*
 * summer.c -- the smallest embedding: a ring kernel defined, launched and called from C.
 *
 * cc summer.c $(pkg-config --cflags --libs rk); ./summer [configuration.lua]     -> Sum: 15.0
 */
#include <rk.h>
#include <stdio.h>

static const char source[] = "RK_ON(SumRequest, request)\n"
                             "{\n"
                             "    float sum = 0;\n"
                             "    RK_FOR (i, request->values_count) sum += request->values[i];\n"
                             "    sum = rk_block_sum(ctx, sum);\n"
                             "    rk_reply(ctx, SumResponse, .result = sum);\n"
                             "}\n";

static int define(const rk_type **request)
{
    static const rk_field in[] = {{"values", "f32[1000]"}}, out[] = {{"result", "f32"}};
    const rk_type *response;
    int rc = rk_message_define(request, "SumRequest", in, 1);
    if (rc == 0) {
        rc = rk_message_define(&response, "SumResponse", out, 1);
    }
    if (rc == 0) {
        rk_kernel kernel = RK_KERNEL_INIT;
        kernel.name = "summer";
        kernel.source = source;
        kernel.accepts = request;
        kernel.accepts_count = 1;
        kernel.replies = &response;
        kernel.replies_count = 1;
        rc = rk_kernel_define(&kernel);
    }
    return rc;
}

/* Asks for a sum and prints it. */
static int ask(rk_pid summer, const rk_type *type)
{
    static const float values[] = {1, 2, 3, 4, 5};
    rk_message *request, *response;
    double sum;
    int rc = rk_message_new(&request, type);
    if (rc < 0) {
        return rc;
    }
    rc = rk_set_array(request, "values", values, sizeof values / sizeof values[0]);
    if (rc < 0) {
        rk_message_release(request);
        return rc;
    }
    rc = rk_call(summer, request, &response, 5000000000); /* takes the request; waits 5 s */
    if (rc < 0) {
        return rc;
    }
    rc = rk_get_number(response, "result", &sum);
    if (rc == 0) {
        printf("Sum: %.1f\n", sum);
    }
    rk_message_release(response);
    return rc;
}

int main(int argc, char **argv)
{
    rk_config config = RK_CONFIG_INIT;
    config.script = argc > 1 ? argv[1] : NULL;
    rk_runtime *runtime = NULL;
    const rk_type *request;
    rk_pid summer;
    int rc = rk_open(&runtime, &config);
    if (rc == 0) {
        rc = define(&request);
    }
    if (rc == 0) {
        rc = rk_launch(runtime, &summer, "summer", NULL); /* compile, allocate */
    }
    if (rc == 0) {
        rc = rk_activate(summer); /* start taking messages */
    }
    if (rc == 0) {
        rc = ask(summer, request);
    }
    if (rc < 0) {
        fprintf(stderr, "summer: %s\n", rk_errdetail());
    }
    rk_close(runtime);
    return rc < 0;
}
