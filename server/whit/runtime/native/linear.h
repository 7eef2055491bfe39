/* Linear layers: u8 activations by s8 weights, summed exactly in int32, in tiles of up to LINEAR_ROWS tokens by 32 outputs. */
#ifndef WHIT_LINEAR_H
#define WHIT_LINEAR_H

#include "lanes.h"

#define PANEL 32 /* columns of a tile */
/* Bytes: weights are read once from front to back, and few rows are done with a cache line before the next one is there. */
#define AHEAD 4096

/* Where the codes of a layer's input come from. CALIBRATED: code = rint(x * factors) + zero. BY_TOKEN: each token has a scale of
 * its own. FLOAT: there are none, nor of weights. */
typedef enum { CALIBRATED, BY_TOKEN, FLOAT } Scheme;

/* y = (codes - zero) . weights * scales + biases. Weights lie in panels of 32 outputs: [panels][inputs / 4][32][4]. Where the
 * processor SATURATES, halves of a panel lie one after the other, and groups of four inputs in an order of the half's own:
 * [panels][2][inputs / 4][16][4], couples first (couples.h). */
typedef struct {
    const int8_t *weights;    /* FLOAT: float32 [panels][inputs][32] */
    const int32_t *order;     /* SATURATES: [panels][2][inputs / 4], which group comes when */
    const int32_t *couples;   /* SATURATES: [panels][2], how many there are */
    const float *scales;      /* [panels * 32]: CALIBRATED: the activations' scale times the output's; BY_TOKEN: the output's */
    const int32_t *starts;    /* [panels * 32]: CODE_OFFSET less the activations' zero point, times the sum of an output's weights */
    const float *biases;      /* [panels * 32]: BY_TOKEN: zeros */
    const float *late_biases; /* BY_TOKEN, FLOAT: [panels * 32] */
    const float *factors;     /* CALIBRATED: [inputs and a panel more], smoothing over scale; else null */
    int64_t input_count;      /* a multiple of 4 but for FLOAT */
    int64_t panel_count;
    int32_t scheme, zero;
} Linear;

/* What becomes of a tile's values. */
typedef enum { STORE, ADD, ACTIVATE } Fate;

typedef struct {
    float *values; /* STORE, ADD: row r, column c at values[r * stride + c] */
    uint8_t *codes; /* ACTIVATE */
    int64_t stride;
    const Curve *curve;
    const float *factors; /* ACTIVATE: [columns], as in the Linear that reads the codes */
    int32_t zero;
} Sink;

INLINE Sink to_row(const Sink *sink, int64_t row) {
    Sink to = *sink;
    if (to.values) to.values += row * to.stride;
    if (to.codes) to.codes += row * to.stride;
    return to;
}

INLINE void finish_lanes(const Sink *sink, const Fate fate, int64_t place, lanes value, lanes factor) {
    if (fate == STORE)
        store(sink->values + place, value);
    else if (fate == ADD)
        store(sink->values + place, add(value, load(sink->values + place)));
    else
        store_codes(sink->codes + place, mul(curve_at(sink->curve, value), factor), sink->zero);
}

/* multiply: tile[r][half], lane c = start[half] + sum over k of left[r][k] . right[k][c], each four u8 codes by four s8 codes;
 * left[r][k] lies at left + r * row_stride + k * left_step, the first of `halves` times sixteen columns right[k] at right +
 * k * right_step; the columns are asked for `ahead` bytes before they are read, or 0: they are near.
 *
 * Where the processor multiplies signed bytes only, u8 codes are stored less CODE_OFFSET, which is 0 or 128. What that takes
 * from a sum is in its start: `balance` makes it of the columns, Linear.starts has it from where it was laid out. */

/* tile[r][half] = start and products of a panel's weights and of row r of the input. */
INLINE void linear_sums(const int rows, const Linear *linear, int64_t panel, const uint8_t *input, int64_t input_stride, sums tile[TILE][2]) {
    int64_t groups = linear->input_count / 4;
    const int8_t *weights = linear->weights + panel * groups * PANEL * 4;
    const int32_t *starts = linear->starts + panel * PANEL;
    sums start[2] = {load_sums(starts), load_sums(starts + LANES)};
#if SATURATES
    for (int half = 0; half < 2; half++)
        multiply_couples(
            rows, half, AHEAD, input, input_stride, linear->order + (panel * 2 + half) * groups, linear->couples[panel * 2 + half],
            weights + half * groups * LANES * 4, groups, start[half], tile);
#else
    multiply(rows, 2, AHEAD, input, input_stride, 4, weights, PANEL * 4, groups, start, tile);
#endif
}

INLINE void linear_tile(
    const int rows, const Fate fate, const Linear *linear, int64_t panel, const uint8_t *input, int64_t input_stride,
    const Sink *sink, int64_t first, int64_t column) {
    sums tile[TILE][2];
    linear_sums(rows, linear, panel, input, input_stride, tile);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        int64_t at = panel * PANEL + half * LANES;
        lanes scale = load(linear->scales + at), bias = load(linear->biases + at);
        lanes factor = fate == ACTIVATE ? load(sink->factors + at) : all(1.0f);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            lanes value = mul_add(value_of(tile[r][half]), scale, bias);
            finish_lanes(sink, fate, (first + r) * sink->stride + column + half * LANES, value, factor);
        }
    }
}

#if TILE == 12
#define TILES_FROM_7(DO, from) \
    case 7: DO(7, from); break; \
    case 8: DO(8, from); break; \
    case 9: DO(9, from); break; \
    case 10: DO(10, from); break; \
    case 11: DO(11, from); break; \
    case 12: DO(12, from); break;
#else
#define TILES_FROM_7(DO, from)
#endif

/* DO(n, from) for tiles of n rows, `most` at most, from row `from` on, n a constant; as even as can be: 13 rows are 7 and 6. */
#define EACH_TILE(most, rows, DO) \
    for (int64_t number = 0, tile_count = ((rows) + (most) - 1) / (most), from; number < tile_count; number++) { \
        from = number * (rows) / tile_count; \
        switch ((number + 1) * (rows) / tile_count - from) { \
            case 1: DO(1, from); break; \
            case 2: DO(2, from); break; \
            case 3: DO(3, from); break; \
            case 4: DO(4, from); break; \
            case 5: DO(5, from); break; \
            case 6: DO(6, from); break; \
            TILES_FROM_7(DO, from) \
        } \
    }

/* Columns of one panel for all rows; they land at `column`. */
INLINE void linear_panel(
    const Fate fate, const Linear *linear, int64_t panel, const uint8_t *input, int64_t stride, int64_t rows,
    const Sink *sink, int64_t column) {
#define LINEAR_TILE(n, first) linear_tile(n, fate, linear, panel, input + first * stride, stride, sink, first, column)
    EACH_TILE(LINEAR_ROWS, rows, LINEAR_TILE)
#undef LINEAR_TILE
}

#endif
