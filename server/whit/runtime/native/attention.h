/* Attention of one head over one text, in eight bits. Queries lie side by side in the lanes while they are compared with keys,
 * so that nothing is compared or summed across lanes.
 *
 * Keys are u8 codes from 0, a column's least value in the text, to 255, its largest. A column's step is multiplied into the
 * queries; its least value adds the same to all scores of a query, which softmax does not see. Shares are u8 codes, 255 the
 * largest; in a long text, most are less than half a step. So values are coded as what they are above or below their column's
 * mean, and their sum is divided by that of the shares before rounding: what rounding takes away goes to the mean.
 */
#ifndef WHIT_ATTENTION_H
#define WHIT_ATTENTION_H

#include "linear.h"

#define LOG2_E 1.44269504f
#define LEAST_RANGE 1e-30f /* of what has none: its codes are all 0 */

/* Working memory for a head. */
typedef struct {
    int64_t width;                  /* of a head, in whole panels */
    float *queries, *keys, *values; /* [tokens][width] each, of all texts of a block; queries already hold 1 / sqrt(width) */
    uint8_t *key_codes;             /* [tokens][width] */
    int8_t *query_codes;            /* [width / 4][32][4] */
    int8_t *value_codes;            /* [tokens / 4][width][4], 0 beyond the last token */
    float *key_steps, *value_steps, *value_means; /* [width] each: what a code stands for */
    float *turned;                  /* [width][16] */
    float *scores;                  /* [tokens][32]; shares take their place, u8 [tokens / 4][32][4] */
} Head;

/* Where what a head gives goes: to codes, if there are any, else to values; those of a token at token * stride. */
typedef struct {
    uint8_t *codes;
    float *values;
    int64_t stride, width; /* width: of a head */
    const float *factors;  /* of codes, [width] */
    int32_t zero;          /* of codes */
    float *weights;        /* [tokens]: what each token gives itself; or null */
} Context;

typedef struct {
    lanes low, high, mean;
} Spread;

/* Of sixteen columns of x[tokens][stride]. */
INLINE Spread spread_of(const float *x, int64_t tokens, int64_t stride) {
    Spread s = {load(x), load(x), load(x)};
    for (int64_t t = 1; t < tokens; t++) {
        lanes value = load(x + t * stride);
        s.low = least(s.low, value);
        s.high = largest(s.high, value);
        s.mean = add(s.mean, value);
    }
    s.mean = mul(s.mean, all(1.0f / (float)tokens));
    return s;
}

INLINE void code_keys(const Head *head, const float *keys, int64_t tokens) {
    for (int64_t c = 0; c < head->width; c += LANES) {
        Spread s = spread_of(keys + c, tokens, head->width);
        lanes range = largest(sub(s.high, s.low), all(LEAST_RANGE)), factor = over(all(255.0f), range);
        store(head->key_steps + c, mul(range, all(1.0f / 255.0f)));
        for (int64_t at = c; at < tokens * head->width; at += head->width)
            store_codes(head->key_codes + at, mul(sub(load(keys + at), s.low), factor), 0);
    }
}

/* Steps and means are multiplied by the factors of the codes that they end in. */
INLINE void code_values(const Head *head, const float *values, int64_t tokens, const Context *context) {
    for (int64_t c = 0; c < head->width; c += LANES) {
        Spread s = spread_of(values + c, tokens, head->width);
        lanes range = largest(largest(sub(s.high, s.mean), sub(s.mean, s.low)), all(LEAST_RANGE));
        lanes factor = over(all(127.0f), range), out = context->codes ? load(context->factors + c) : all(1.0f);
        store(head->value_steps + c, mul(mul(range, all(1.0f / 127.0f)), out));
        store(head->value_means + c, mul(s.mean, out));
        for (int64_t t = 0; t < tokens; t += 4) {
            lanes four[4];
            for (int i = 0; i < 4; i++) {
                lanes value = t + i < tokens ? load(values + (t + i) * head->width + c) : s.mean;
                four[i] = mul(sub(value, s.mean), factor);
            }
            store_bytes(head->value_codes + t * head->width + c * 4, four);
        }
    }
}

/* Up to sixteen queries to s8 codes, from column `first` of the panel on; returns their steps, scores being powers of two. */
INLINE lanes code_queries(const Head *head, const float *queries, int64_t rows, int64_t first) {
    lanes range = all(LEAST_RANGE);
    for (int64_t c = 0; c < head->width; c += LANES) turn(queries + c, head->width, rows, head->turned + c * LANES, LANES);
    for (int64_t c = 0; c < head->width; c++) {
        lanes value = mul(load(head->turned + c * LANES), all(head->key_steps[c]));
        store(head->turned + c * LANES, value);
        range = largest(range, size_of(value));
    }
    lanes factor = over(all(127.0f), range);
    for (int64_t c = 0; c < head->width; c += 4) {
        lanes four[4];
        for (int i = 0; i < 4; i++) four[i] = mul(load(head->turned + (c + i) * LANES), factor);
        store_bytes(head->query_codes + c * PANEL + first * 4, four);
    }
    return mul(range, all(LOG2_E / 127.0f));
}

/* Scores of a panel of queries for some keys; `tops`: the largest of each query so far. */
INLINE void score_tile(
    const int rows, const int halves, const Head *head, const sums start[2], int64_t first, const float *bias,
    const lanes steps[2], lanes tops[2]) {
    sums tile[TILE][2];
    const uint8_t *keys = head->key_codes + first * head->width;
    multiply(rows, halves, 0, keys, head->width, 4, head->query_codes, PANEL * 4, head->width / 4, start, tile);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int half = 0; half < halves; half++) {
            lanes score = mul(value_of(tile[r][half]), steps[half]);
            if (bias) score = mul_add(load(bias - (first + r) + half * LANES), all(LOG2_E), score);
            tops[half] = largest(tops[half], score);
            store(head->scores + (first + r) * PANEL + half * LANES, score);
        }
}

/* Scores of sixteen queries for up to four keys to codes of their shares; adds the shares themselves to `total`. */
INLINE void soften_four(const int count, const float *scores, lanes top, lanes *total, void *to) {
    lanes four[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        four[i] = i < count ? share_of(sub(load(scores + i * PANEL), top)) : all(0.0f);
        *total = add(*total, four[i]);
    }
    store_shares(to, four);
}

/* Scores of sixteen queries to codes of their shares, 255 * 2^(score - top), in place; returns 1 / the sum of shares. */
INLINE lanes soften(float *scores, int64_t tokens, lanes top) {
    lanes total = all(0.0f);
    for (int64_t t = 0; t < tokens; t += 4) {
        const float *from = scores + t * PANEL;
        uint8_t *to = (uint8_t *)scores + t * PANEL;
        switch (tokens - t) {
            case 1: soften_four(1, from, top, &total, to); break;
            case 2: soften_four(2, from, top, &total, to); break;
            case 3: soften_four(3, from, top, &total, to); break;
            default: soften_four(4, from, top, &total, to);
        }
    }
    return over(all(1.0f), total);
}

/* What sixteen queries give themselves; `scores`: of the first one's key. */
INLINE lanes own_shares(const float *scores, int64_t rows, lanes top) {
    float own[LANES] = {0};
    for (int64_t r = 0; r < rows && r < LANES; r++) own[r] = scores[r * PANEL + r];
    return share_of(sub(load(own), top));
}

/* What some queries of a panel get, for 32 columns of the head. `at`: the panel's first token in the block. */
INLINE void context_tile(
    const int rows, const Head *head, const sums start[2], int64_t tokens, int64_t first, int64_t panel, const float *inverses,
    const Context *context, int64_t at) {
    const uint8_t *shares = (const uint8_t *)head->scores + first * 4;
    sums tile[TILE][2];
    multiply(rows, 2, 0, shares, 4, PANEL * 4, head->value_codes + panel * 4, head->width * 4, (tokens + 3) / 4, start, tile);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        int64_t column = panel + half * LANES, left = context->width - column;
        if (left <= 0) break;
        lanes steps = load(head->value_steps + column), means = load(head->value_means + column);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            lanes value = mul_add(mul(value_of(tile[r][half]), all(inverses[first + r])), steps, means);
            int64_t place = (at + first + r) * context->stride + column;
            if (context->codes)
                store_first_codes(left, context->codes + place, value, context->zero);
            else
                store_first(left, context->values + place, value);
        }
    }
}

/* A panel of `rows` queries, as many as `halves` times sixteen lanes hold, from token `first` of the text on. */
INLINE void attend_panel(
    const int halves, const Head *head, int64_t at, int64_t first, int64_t rows, int64_t tokens, const float *bias,
    const Context *context) {
    lanes steps[2], tops[2] = {all(-3e38f), all(-3e38f)};
    float inverses[PANEL];
    for (int64_t lane = 0; lane < halves * LANES; lane += LANES)
        steps[lane / LANES] = code_queries(head, head->queries + (at + first + lane) * head->width, rows - lane, lane);
    sums start[2];
    balance(head->query_codes, PANEL * 4, head->width / 4, start);
#define SCORE_TILE(n, from) score_tile(n, halves, head, start, from, bias, steps, tops)
    EACH_TILE(TILE, tokens, SCORE_TILE)
#undef SCORE_TILE
    for (int64_t lane = 0; lane < halves * LANES; lane += LANES) {
        float *scores = head->scores + lane;
        lanes top = tops[lane / LANES], own = all(0.0f);
        if (context->weights) own = own_shares(scores + (first + lane) * PANEL, rows - lane, top);
        lanes inverse = soften(scores, tokens, top);
        store(inverses + lane, inverse);
        if (context->weights) store_first(rows - lane, context->weights + at + first + lane, mul(own, inverse));
    }
    for (int64_t panel = 0; panel < context->width; panel += PANEL) {
        balance(head->value_codes + panel * 4, head->width * 4, (tokens + 3) / 4, start);
#define CONTEXT_TILE(n, from) context_tile(n, head, start, tokens, from, panel, inverses, context, at + first)
        EACH_TILE(TILE, rows, CONTEXT_TILE)
#undef CONTEXT_TILE
    }
}

/* One text, whose first token is token `at` of the block. `bias`: bias[q - k] is added to the score of query q and key k, and
 * may be read up to sixteen beyond the last query; or null. */
static void attend(const Head *head, int64_t at, int64_t tokens, const float *bias, const Context *context) {
    code_keys(head, head->keys + at * head->width, tokens);
    code_values(head, head->values + at * head->width, tokens, context);
    for (int64_t q = 0; q < tokens; q += PANEL) {
        int64_t rows = tokens - q < PANEL ? tokens - q : PANEL;
        if (rows > LANES)
            attend_panel(2, head, at, q, rows, tokens, bias ? bias + q : 0, context);
        else
            attend_panel(1, head, at, q, rows, tokens, bias ? bias + q : 0, context);
    }
}

#endif
