/* id.h -- 128-bit ids, printed as UUIDs. */
#ifndef RK_BASE_ID_H
#define RK_BASE_ID_H

#include <stdbool.h>
#include <stdint.h>

typedef struct rk__id {
    uint64_t high, low; /* big-endian halves of the UUID; both 0 is "no id" */
} rk__id;

enum { RK__ID_TEXT = 37 };

/* Unique over processes and machines: 62 random bits per thread (getrandom, drawn again after
 * fork) and a 60-bit counter of the thread, with the version (8) and variant bits of RFC 9562.
 * thread: any. blocks: no */
rk__id rk__id_new(void);
static inline bool rk__id_is_set(rk__id id)
{
    return (id.high | id.low) != 0;
}
static inline bool rk__id_equal(rk__id a, rk__id b)
{
    return a.high == b.high && a.low == b.low;
}
void rk__id_bytes(rk__id id, uint8_t bytes[16]);
rk__id rk__id_from_bytes(const uint8_t bytes[16]);
const char *rk__id_format(rk__id id, char text[RK__ID_TEXT]);
/* Accepts the 36-character form, any case. */
bool rk__id_parse(const char *text, rk__id *out);

#endif
