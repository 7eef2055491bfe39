/* Attention of one head over one text: every score in float32, in tiles of up to 12 queries. */
#ifndef WHIT_ATTENTION_H
#define WHIT_ATTENTION_H

#include "linear.h"

/* out[r][c] = sum over k of left[r * left_stride + k] * right[k * PANEL + c], for one or two times sixteen columns. */
INLINE void product_tile(
    const int rows, const int halves, const float *left, int64_t left_stride, const float *right, int64_t count,
    float *out, int64_t out_stride) {
    lanes sums[TILE][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = all(0.0f);
    for (int64_t k = 0; k < count; k++) {
        lanes r0 = load(right + k * PANEL), r1 = halves == 2 ? load(right + k * PANEL + LANES) : all(0.0f);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            lanes value = all(left[r * left_stride + k]);
            sums[r][0] = mul_add(value, r0, sums[r][0]);
            if (halves == 2) sums[r][1] = mul_add(value, r1, sums[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        store(out + r * out_stride, sums[r][0]);
        if (halves == 2) store(out + r * out_stride + LANES, sums[r][1]);
    }
}

INLINE void product(
    int64_t rows, const int halves, const float *left, int64_t left_stride, const float *right, int64_t count, float *out,
    int64_t out_stride) {
    switch (rows) {
#define ROWS(n) \
    case n: product_tile(n, halves, left, left_stride, right, count, out, out_stride); break;
        EACH_ROW_COUNT(ROWS)
#undef ROWS
    }
}

/* Keys of one head, [tokens][width], as panels of 32 tokens, [panels][width][32]. The sixteen cells that the last token is
 * among are 0 where there is none; others are left as they are. */
INLINE void turn_keys(const float *keys, int64_t tokens, int64_t width, float *panels) {
    for (int64_t first = 0; first < tokens; first += LANES) {
        int64_t rows = tokens - first < LANES ? tokens - first : LANES;
        float *panel = panels + first / PANEL * PANEL * width + first % PANEL;
        for (int64_t d = 0; d < width; d += LANES) turn(keys + first * width + d, width, rows, panel + d * PANEL, PANEL);
    }
}

/* Scores of one query to exp(score - largest), in place; returns 1 / their sum. */
INLINE float soften(float *scores, int64_t tokens, const float *bias) {
    int64_t whole = tokens / LANES * LANES, rest = tokens - whole;
    lanes top = all(-3e38f), total = all(0.0f);
    if (bias)
        for (int64_t t = 0; t < tokens; t += LANES) store(scores + t, add(load(scores + t), load(bias + t)));
    if (rest) store(scores + whole, first_lanes(rest, load(scores + whole), all(-3e38f)));
    for (int64_t t = 0; t < tokens; t += LANES) top = largest(top, load(scores + t));
    top = all(largest_of(top));
    for (int64_t t = 0; t < whole; t += LANES) {
        lanes e = exp_of(sub(load(scores + t), top));
        store(scores + t, e);
        total = add(total, e);
    }
    if (rest) {
        lanes e = first_lanes(rest, exp_of(sub(load(scores + whole), top)), all(0.0f));
        store(scores + whole, e);
        total = add(total, e);
    }
    return 1.0f / sum_of(total);
}

/* One head of one text. queries [tokens][width] already hold 1 / sqrt(width); values lie in panels [width / 32][values_stride][32].
 * `bias`: added to the score of query q and key k, bias[k - q]; or null. Writes out[token][width]. */
INLINE void attend(
    const float *queries, const float *key_panels, const float *values, int64_t values_stride, int64_t tokens,
    int64_t width, const float *bias, float *scores, float *out) {
    int64_t cells = (tokens + PANEL - 1) / PANEL * PANEL, tiles = (tokens + TILE - 1) / TILE;
    for (int64_t t = 0; t < tiles; t++) {
        int64_t first = t * tokens / tiles, rows = (t + 1) * tokens / tiles - first;
        for (int64_t k = 0; k < cells; k += PANEL) {
            const float *panel = key_panels + k * width;
            if (tokens - k > LANES)
                product(rows, 2, queries + first * width, width, panel, width, scores + k, cells);
            else
                product(rows, 1, queries + first * width, width, panel, width, scores + k, cells);
        }
        float shares[TILE];
        for (int64_t r = 0; r < rows; r++)
            shares[r] = soften(scores + r * cells, tokens, bias ? bias - (first + r) : 0);
        for (int64_t c = 0; c < width; c += PANEL)
            product(rows, 2, scores, cells, values + c * values_stride, tokens, out + first * width + c, width);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < width; c += LANES) {
                float *at = out + (first + r) * width + c;
                store(at, mul(load(at), all(shares[r])));
            }
    }
}

#endif
