/* logline.h -- rk_log of a handler: the format and its numbers come over, the text is made here. */
#ifndef RK_DEVICE_LOGLINE_H
#define RK_DEVICE_LOGLINE_H

#include "rk_abi.h"

/* Writes one log line from an rk_log_record and the format text behind it, `size` bytes in all.
 * Whatever the conversions say, a number is read as what it is. thread: any. blocks: as rk__log */
void rk__kernel_log(rk_pid who, const void *payload, uint32_t size);

#endif
