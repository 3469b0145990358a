/*
 * logline.c -- formats what rk_log sent; see logline.h. The printf subset that makes sense without
 * pointers: %d %i %u %x %o %c %f %g %e %a with flags, width and precision.
 *
 * Threads: whoever drains a channel; nothing is shared.
 */
#include "device/logline.h"

#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "base/log.h"
#include "base/strbuf.h"

typedef struct numbers {
    const rk_log_record *record;
    uint32_t used;
} numbers;

static double next_double(numbers *n)
{
    const rk_log_record *r = n->record;
    uint32_t i = n->used++;
    if (i >= r->count) {
        return 0;
    }
    return r->floating >> i & 1 ? r->numbers[i].d : (double)r->numbers[i].i;
}

static long long next_integer(numbers *n)
{
    const rk_log_record *r = n->record;
    uint32_t i = n->used++;
    if (i >= r->count) {
        return 0;
    }
    if (!(r->floating >> i & 1)) {
        return r->numbers[i].i;
    }
    double d = r->numbers[i].d;
    return d >= -9.2e18 && d <= 9.2e18 ? (long long)d : 0;
}

/* One conversion after '%', with flags, width and precision, whatever the number's real type is;
 * returns how much of the format it used. */
static size_t convert(rk__strbuf *out, const char *format, size_t size, numbers *n)
{
    char spec[16] = "%", text[400] = "";
    size_t at = 0, used = 1;
    for (; at < size && strchr("-+ #0123456789.", format[at]) != NULL; at++) {
        if (used < 8) {
            spec[used++] = format[at];
        }
    }
    while (at < size && strchr("lhz", format[at]) != NULL) {
        at++;
    }
    char kind = at < size ? format[at++] : '%';
    if (kind == 'c') {
        rk__strbuf_addc(out, (char)next_integer(n));
    } else if (strchr("diuxXo", kind) != NULL) {
        memcpy(spec + used, (char[]){'l', 'l', kind, '\0'}, 4);
        snprintf(text, sizeof text, spec, next_integer(n));
    } else if (strchr("fFgGeEaA", kind) != NULL) {
        spec[used] = kind;
        snprintf(text, sizeof text, spec, next_double(n));
    } else {
        rk__strbuf_addc(out, kind);
    }
    rk__strbuf_adds(out, text);
    return at;
}

void rk__kernel_log(rk_pid pid, const void *payload, uint32_t size)
{
    rk_log_record record;
    rk__strbuf text = RK__STRBUF_INIT;
    char who[RK_PID_TEXT];
    memcpy(&record, payload, sizeof record);
    numbers n = {&record, 0};
    const char *format = (const char *)payload + sizeof record;
    rk_assert(record.text + sizeof record <= size && record.count <= RK_LOG_NUMBERS);
    (void)size;
    for (size_t i = 0; i < record.text;) {
        if (format[i] == '%') {
            i += 1 + convert(&text, format + i + 1, record.text - i - 1, &n);
        } else {
            rk__strbuf_addc(&text, format[i++]);
        }
    }
    rk__log((enum rk__level)record.level, rk_pid_format(pid, who), "%s",
            text.failed || text.bytes == NULL ? "" : text.bytes);
    rk__strbuf_free(&text);
}
