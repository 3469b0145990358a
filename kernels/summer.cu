/* summer.cu -- adds up the values of a request; see lua/rk/kernels/summer.lua for the types. */
#include "rk_kernel.h"

RK_ON(ComputeRequest, request)
{
    float sum = 0;
    RK_FOR (i, request->values_count) {
        sum += request->values[i];
    }
    sum = rk_block_sum(ctx, sum);
    rk_reply(ctx, ComputeResponse, .result = sum);
}
