/* Linear layers of the three schemes that a package may choose from, one panel at a time.
 *
 * CALIBRATED ones are the rule: `linear_panel` makes what follows of their sums at once. The others, BY_TOKEN and FLOAT, pass
 * through a tile of values.
 */
#ifndef WHIT_SCHEMES_H
#define WHIT_SCHEMES_H

#include "linear.h"
#include "team.h"

/* What linear layers read: rows of codes, of the layer that comes next; or of values, for FLOAT ones. */
typedef struct {
    const uint8_t *codes; /* [rows][stride] */
    const float *values;  /* [rows][stride] */
    const float *scales;  /* BY_TOKEN: [rows] */
    int64_t stride;
} Input;

INLINE Input from_row(const Input *input, int64_t row) {
    Input from = *input;
    if (from.codes) from.codes += row * from.stride;
    if (from.values) from.values += row * from.stride;
    if (from.scales) from.scales += row;
    return from;
}

/* Codes of one row by its own largest value, 128 for 0; returns their scale. */
INLINE float code_row(const float *x, int64_t width, uint8_t *codes) {
    lanes top = all(0.0f);
    for (int64_t c = 0; c < width; c += LANES) top = largest(top, size_of(load(x + c)));
    float scale = largest_of(top) * (1.0f / 127.0f);
    scale = scale > 1e-30f ? scale : 1e-30f;
    for (int64_t c = 0; c < width; c += LANES) store_codes(codes + c, over(load(x + c), all(scale)), 128);
    return scale;
}

/* Makes of some rows of x[..][stride] what a layer reads; `codes` and `scales` have room for all. */
static void prepare(const Linear *linear, const float *x, int64_t stride, Share rows, uint8_t *codes, float *scales) {
    for (int64_t r = rows.from; r < rows.to; r++) {
        if (linear->scheme == BY_TOKEN) scales[r] = code_row(x + r * stride, stride, codes + r * stride);
        if (!linear->factors) continue;
        for (int64_t c = 0; c < stride; c += LANES)
            store_codes(codes + r * stride + c, mul(load(x + r * stride + c), load(linear->factors + c)), linear->zero);
    }
}

/* tile[r][c] = sum over k of rows[r * stride + k] * weights[k][c], for 32 columns. */
INLINE void float_tile(const int rows, const float *values, int64_t stride, const float *weights, int64_t count, float *tile) {
    for (int64_t half = 0; half < PANEL; half += LANES) {
        lanes sum[TILE];
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) sum[r] = all(0.0f);
        for (int64_t k = 0; k < count; k++) {
            lanes weight = load(weights + k * PANEL + half);
#pragma GCC unroll 12
            for (int r = 0; r < rows; r++) sum[r] = mul_add(all(values[r * stride + k]), weight, sum[r]);
        }
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) store(tile + r * PANEL + half, sum[r]);
    }
}

/* Values of up to TILE rows by 32 columns, before their scale and bias. */
static void other_tile(const Linear *linear, int64_t panel, const Input *input, int64_t first, int64_t count, float *tile) {
    if (linear->scheme == FLOAT) {
        const float *weights = (const float *)linear->weights + panel * linear->input_count * PANEL;
        const float *values = input->values + first * input->stride;
#define FLOAT_TILE(n, from) float_tile(n, values, input->stride, weights, linear->input_count, tile)
        EACH_TILE(TILE, count, FLOAT_TILE)
#undef FLOAT_TILE
    } else {
        Sink sink = {.values = tile, .stride = PANEL};
        linear_panel(STORE, linear, panel, input->codes + first * input->stride, input->stride, count, &sink, 0);
    }
}

static __attribute__((noinline)) void other_panel(
    const Fate fate, const Linear *linear, int64_t panel, const Input *input, int64_t rows, const Sink *sink, int64_t column) {
    float tile[TILE * PANEL];
    for (int64_t first = 0; first < rows; first += TILE) {
        int64_t count = rows - first < TILE ? rows - first : TILE;
        other_tile(linear, panel, input, first, count, tile);
        for (int64_t r = 0; r < count; r++)
            for (int64_t c = 0; c < PANEL; c += LANES) {
                lanes scale = all(linear->scheme == FLOAT ? 1.0f : input->scales[first + r]);
                lanes value = mul_add(load(tile + r * PANEL + c), scale, load(linear->late_biases + panel * PANEL + c));
                lanes factor = fate == ACTIVATE ? load(sink->factors + panel * PANEL + c) : all(1.0f);
                finish_lanes(sink, fate, (first + r) * sink->stride + column + c, value, factor);
            }
    }
}

/* Columns of one panel for all rows; they land at `column`. */
INLINE void any_panel(
    const Fate fate, const Linear *linear, int64_t panel, const Input *input, int64_t rows, const Sink *sink, int64_t column) {
    if (linear->scheme == CALIBRATED)
        linear_panel(fate, linear, panel, input->codes, input->stride, rows, sink, column);
    else
        other_panel(fate, linear, panel, input, rows, sink, column);
}

#endif
