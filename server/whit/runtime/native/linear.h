/* Linear layers: u8 activations by s8 weights, summed exactly in int32, in tiles of up to 12 tokens by 32 outputs. */
#ifndef WHIT_LINEAR_H
#define WHIT_LINEAR_H

#include "lanes.h"

#define TILE 12  /* rows of a tile: 24 registers of sums, and 8 left for what is multiplied */
#define PANEL 32 /* columns of a tile */
/* Bytes: weights are read once from front to back, and few rows are done with a cache line before the next one is there. */
#define AHEAD 4096

/* Where the codes of a layer's input come from. CALIBRATED: code = rint(x * factors) + zero. BY_TOKEN: each token has a scale of
 * its own. FLOAT: there are none, nor of weights. */
typedef enum { CALIBRATED, BY_TOKEN, FLOAT } Scheme;

/* y = (codes - zero) . weights * scales + biases. Weights lie in panels of 32 outputs: [panels][inputs / 4][32][4]. */
typedef struct {
    const int8_t *weights;    /* FLOAT: float32 [panels][inputs][32] */
    const float *scales;      /* [panels * 32]: CALIBRATED: the activations' scale times the output's; BY_TOKEN: the output's */
    const int32_t *offsets;   /* [panels * 32]: the activations' zero point times the sum of an output's weights */
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
    Fate fate;
    float *values; /* STORE, ADD: row r, column c at values[r * stride + c] */
    uint8_t *codes; /* ACTIVATE */
    int64_t stride;
    const Curve *curve;
    const float *factors; /* ACTIVATE: [columns], as in the Linear that reads the codes */
    int32_t zero;
} Sink;

INLINE void finish_lanes(const Sink *sink, const Fate fate, int64_t place, lanes value, lanes factor) {
    if (fate == STORE)
        store(sink->values + place, value);
    else if (fate == ADD)
        store(sink->values + place, add(value, load(sink->values + place)));
    else
        store_codes(sink->codes + place, mul(curve_at(sink->curve, value), factor), sink->zero);
}

INLINE void linear_tile(
    const int rows, const Fate fate, const Linear *linear, int64_t panel, const uint8_t *input, int64_t input_stride,
    const Sink *sink, int64_t first, int64_t column) {
    const int8_t *weights = linear->weights + panel * linear->input_count * PANEL;
    __m512i sums[TILE][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
    for (int64_t k = 0; k < linear->input_count; k += 4) {
        prefetch(weights + k * PANEL + AHEAD);
        prefetch(weights + k * PANEL + AHEAD + 64);
        __m512i w0 = _mm512_loadu_si512(weights + k * PANEL), w1 = _mm512_loadu_si512(weights + k * PANEL + 64);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            __m512i four = _mm512_set1_epi32(*(const int32_t *)(input + r * input_stride + k));
            sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], four, w0);
            sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], four, w1);
        }
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        int64_t at = panel * PANEL + half * LANES;
        __m512i offset = _mm512_loadu_si512(linear->offsets + at);
        lanes scale = load(linear->scales + at), bias = load(linear->biases + at);
        lanes factor = fate == ACTIVATE ? load(sink->factors + at) : all(1.0f);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            lanes value = mul_add(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][half], offset)), scale, bias);
            finish_lanes(sink, fate, (first + r) * sink->stride + column + half * LANES, value, factor);
        }
    }
}

#define EACH_ROW_COUNT(DO) \
    DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12)

/* Columns of one panel for all rows; they land at `column`. Tiles are as even as can be: 13 rows are 7 and 6. */
INLINE void linear_panel(
    const Fate fate, const Linear *linear, int64_t panel, const uint8_t *input, int64_t stride, int64_t rows,
    const Sink *sink, int64_t column) {
    int64_t tiles = (rows + TILE - 1) / TILE;
    for (int64_t t = 0; t < tiles; t++) {
        int64_t first = t * rows / tiles, count = (t + 1) * rows / tiles - first;
        switch (count) {
#define ROWS(n) \
    case n: linear_tile(n, fate, linear, panel, input + first * stride, stride, sink, first, column); break;
            EACH_ROW_COUNT(ROWS)
#undef ROWS
        }
    }
}

#endif
