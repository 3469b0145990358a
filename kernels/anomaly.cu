/*
 * anomaly.cu -- finds outliers in streams of measurements, one sliding window per series.
 *
 * Each measurement is compared with the window of its series *before* it joins it, by the modified
 * z-score of B. Iglewicz and D. C. Hoaglin, "How to Detect and Handle Outliers", ASQC Basic
 * References in Quality Control 16, 1993:
 *
 *     M = 0.6745 (x - median) / MAD            MAD: median of |x_i - median|
 *     M = (x - median) / (1.253314 MeanAD)     when MAD is 0; MeanAD: mean of |x_i - median|
 *
 * |M| > 3.5 is an outlier (their recommendation; AnomalyConfigure changes it). When all values of
 * the window are equal, any other value is an outlier with a score of FAR. A series has no outliers
 * before it has FEW values. Median and mean do not depend on the order of a block's threads, so
 * every block size gives the same verdicts, but for the last bits of MeanAD.
 *
 * Refused (accepted = false, score 0, window untouched): a series number from SERIES on, and values
 * that are not finite. State: 256 series of 64 values, in order of arrival and sorted.
 */
#include "rk_kernel.h"

enum { SERIES = 256, WINDOW = 64, FEW = 8 };
#define THRESHOLD 3.5
#define FAR       1e9

typedef struct history {
    double arrived[WINDOW]; /* a ring: the oldest value is at `next` once it is full */
    double sorted[WINDOW];
    uint32_t count, next;
} history;

typedef struct verdict {
    double score, median;
    bool anomaly, accepted;
} verdict;

RK_STATE
{
    double threshold; /* 0: THRESHOLD */
    uint32_t window;  /* 0: WINDOW */
    history series[SERIES];
};

static double threshold_of(const rk_state *s)
{
    return s->threshold > 0 ? s->threshold : THRESHOLD;
}

static uint32_t window_of(const rk_state *s)
{
    return s->window ? s->window : (uint32_t)WINDOW;
}

static double median_of(const double *sorted, uint32_t count)
{
    uint32_t half = count / 2;
    return count % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/*
 * The k-th smallest distance from the median. Going outwards from the median the distances to the
 * left and to the right both grow, so this is the k-th of two sorted lists: a binary search for how
 * many of the k + 1 smallest are on the left. Every thread does it alone.
 */
static double distance(const double *sorted, uint32_t count, double median, uint32_t k)
{
    uint32_t left = (count + 1) / 2, right = count - left;
    uint32_t low = k + 1 > right ? k + 1 - right : 0, high = k + 1 < left ? k + 1 : left;
    while (low < high) {
        uint32_t i = (low + high) / 2, j = k + 1 - i;
        if (i < left && j > 0 && sorted[left + j - 1] - median > median - sorted[left - 1 - i]) {
            low = i + 1;
        } else {
            high = i;
        }
    }
    double a = low ? median - sorted[left - low] : 0;
    double b = k + 1 > low ? sorted[left + k - low] - median : 0;
    return a > b ? a : b;
}

static double deviation(const double *sorted, uint32_t count, double median)
{
    double upper = distance(sorted, count, median, count / 2);
    return count % 2 ? upper : (distance(sorted, count, median, count / 2 - 1) + upper) / 2;
}

/* By all threads. */
static double score_of(rk_ctx *ctx, const history *h, double value, double median)
{
    double away = value - median;
    double mad = deviation(h->sorted, h->count, median);
    if (mad > 0) {
        return 0.6745 * away / mad;
    }
    double sum = 0;
    RK_FOR (i, h->count) {
        sum += fabs(h->sorted[i] - median);
    }
    sum = rk_block_sum(ctx, sum);
    if (sum > 0) {
        return away / (1.253314 * (sum / h->count));
    }
    return away > 0 ? FAR : away < 0 ? -FAR : 0;
}

/* How many values of the window are smaller; by all threads. */
static uint32_t rank_of(rk_ctx *ctx, const history *h, double value)
{
    uint32_t smaller = 0;
    RK_FOR (i, h->count) {
        smaller += h->sorted[i] < value ? 1u : 0u;
    }
    return rk_block_sum(ctx, smaller);
}

/* Takes the oldest value out of a full window and puts the new one in; by all threads. */
static void remember(rk_ctx *ctx, history *h, uint32_t window, double value)
{
    RK_SHARED(double, old, [WINDOW]);
    bool full = h->count == window;
    uint32_t count = h->count, next = h->next;
    uint32_t gone = full ? rank_of(ctx, h, h->arrived[next]) : count;
    uint32_t place = rank_of(ctx, h, value);
    place -= place > gone ? 1 : 0;
    RK_FOR (i, count) {
        old[i] = h->sorted[i];
    }
    rk_sync(ctx);
    RK_FOR (i, full ? count : count + 1) {
        uint32_t at = (uint32_t)i;
        uint32_t from = at > place ? at - 1 : at; /* among the values that stay */
        h->sorted[at] = at == place ? value : old[from < gone ? from : from + 1];
    }
    if (rk_thread(ctx) == 0) {
        h->arrived[next] = value;
        h->next = (next + 1) % window;
        h->count = full ? count : count + 1;
    }
    rk_sync(ctx);
}

/* One measurement; by all threads, with the same result for all. */
static verdict observe(rk_ctx *ctx, uint32_t series, double value)
{
    rk_state *s = rk_get_state(ctx);
    verdict v;
    v.score = 0;
    v.median = 0;
    v.anomaly = false;
    v.accepted = series < SERIES && isfinite(value);
    if (!v.accepted) {
        return v;
    }
    history *h = &s->series[series];
    v.median = h->count ? median_of(h->sorted, h->count) : value;
    if (h->count >= FEW) {
        v.score = score_of(ctx, h, value, v.median);
        v.anomaly = fabs(v.score) > threshold_of(s);
    }
    rk_sync(ctx); /* all have read the window */
    remember(ctx, h, window_of(s), value);
    return v;
}

RK_ON(Measurement, m)
{
    verdict v = observe(ctx, m->series, m->value);
    rk_reply(ctx, Verdict, .series = m->series, .sequence = m->sequence, .value = m->value,
             .score = v.score, .median = v.median, .anomaly = v.anomaly, .accepted = v.accepted);
}

RK_ON(MeasurementBatch, m)
{
    VerdictBatch *r = rk_reply_begin(ctx, VerdictBatch);
    uint32_t anomalies = 0, refused = 0;
    for (uint32_t i = 0; i < m->values_count; i++) {
        verdict v = observe(ctx, m->series, m->values[i]);
        anomalies += v.anomaly ? 1u : 0u;
        refused += v.accepted ? 0u : 1u;
        if (rk_thread(ctx) == 0) {
            r->scores[i] = (float)v.score;
            r->flags[i] = (uint8_t)(v.anomaly ? 1 : v.accepted ? 0 : 2);
        }
    }
    if (rk_thread(ctx) == 0) {
        r->series = m->series;
        r->first = m->first;
        r->anomalies = anomalies;
        r->refused = refused;
        r->scores_count = m->values_count;
        r->flags_count = m->values_count;
    }
    rk_reply_end(ctx);
}

/* Zero keeps what is. Another window forgets all series, since their order would not fit it. */
RK_ON(AnomalyConfigure, m)
{
    rk_state *s = rk_get_state(ctx);
    uint32_t window = m->window ? m->window : window_of(s);
    bool accepted =
        window >= FEW && window <= WINDOW && m->threshold >= 0 && isfinite(m->threshold);
    bool forget = accepted && window != window_of(s);
    rk_sync(ctx); /* all have read the old settings */
    if (forget) {
        RK_FOR (i, SERIES) {
            s->series[i].count = 0;
            s->series[i].next = 0;
        }
    }
    if (accepted && rk_thread(ctx) == 0) {
        s->window = window;
        s->threshold = m->threshold > 0 ? m->threshold : s->threshold;
    }
    rk_sync(ctx);
    rk_reply(ctx, AnomalyAck, .accepted = accepted, .threshold = threshold_of(s),
             .window = window_of(s));
}
