/* From the states of a text's tokens to its vector. */
#ifndef WHIT_POOLING_H
#define WHIT_POOLING_H

#include <math.h>
#include <string.h>

#include "model.h"

/* x, of `count` values, becomes half itself and half `first`. */
static void average(float *x, const float *first, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) store(x + i, mul(add(load(first + i), load(x + i)), all(0.5f)));
}

/* out[c] = sum over tokens of weights[t] * x[t][c], times factor; `weights` null: 1 each. */
static void add_up(const float *x, int64_t width, const float *weights, int64_t length, float factor, float *out) {
    for (int64_t c = 0; c < width; c += LANES) {
        lanes total = weights ? mul(load(x + c), all(weights[0])) : load(x + c);
        for (int64_t t = 1; t < length; t++) {
            lanes state = load(x + t * width + c);
            total = weights ? mul_add(state, all(weights[t]), total) : add(state, total);
        }
        store(out + c, mul(total, all(factor)));
    }
}

static void take_largest(const float *x, int64_t width, int64_t length, float *out) {
    for (int64_t c = 0; c < width; c += LANES) {
        lanes top = load(x + c);
        for (int64_t t = 1; t < length; t++) top = largest(top, load(x + t * width + c));
        store(out + c, top);
    }
}

/* One row of states [length][width] to one of out[width]. `weights`: BY_HEAD: each token's; BY_PLACE: room for them. */
static void pool(const Model *m, const float *x, int64_t length, float *weights, float *out) {
    float total = 0;
    switch (m->pooling) {
    case FIRST: memcpy(out, x, (size_t)m->width * sizeof *out); return;
    case LARGEST: take_largest(x, m->width, length, out); return;
    case MEAN: add_up(x, m->width, 0, length, 1.0f / (float)length, out); return;
    case BY_ROOT: add_up(x, m->width, 0, length, 1.0f / sqrtf((float)length), out); return;
    case BY_PLACE:
        for (int64_t t = 0; t < length; t++) weights[t] = (float)(t + 1);
    }
    for (int64_t t = 0; t < length; t++) total += weights[t];
    add_up(x, m->width, weights, length, 1.0f / total, out);
}

INLINE lanes tanh_of(lanes x) {
    lanes e = exp_of(mul(size_of(x), all(-2.0f)));
    return signed_as(over(sub(all(1.0f), e), add(all(1.0f), e)), x);
}

/* x / 2 * (1 + erf(x / sqrt 2)), erf within 1.5e-7 (Abramowitz & Stegun, 7.1.26). */
INLINE lanes gelu_of(lanes x) {
    lanes z = mul(size_of(x), all(0.70710678f)), t = over(all(1.0f), mul_add(z, all(0.3275911f), all(1.0f)));
    lanes sum = all(1.061405429f);
    sum = mul_add(sum, t, all(-1.453152027f));
    sum = mul_add(sum, t, all(1.421413741f));
    sum = mul_add(sum, t, all(-0.284496736f));
    sum = mul_add(sum, t, all(0.254829592f));
    lanes erf = sub(all(1.0f), mul(mul(sum, t), exp_of(mul(mul(z, z), all(-1.0f)))));
    return mul(mul(x, all(0.5f)), add(all(1.0f), signed_as(erf, x)));
}

static void activate(Activation kind, float *x, int64_t count) {
    if (kind == IDENTITY) return;
    for (int64_t c = 0; c < count; c += LANES) {
        lanes value = load(x + c);
        store(x + c, kind == RELU ? largest(value, all(0.0f)) : kind == TANH ? tanh_of(value) : gelu_of(value));
    }
}

/* What comes after pooling: dense layers, unit length. from and to: room for m->most_pooled values, `from` holds the text's. */
static void finish(const Model *m, float *from, float *to, float *out) {
    int64_t width = m->width;
    for (int64_t i = 0; i < m->dense_count; i++) {
        const Linear *linear = &m->dense[i].linear;
        Input input = {.values = from, .stride = width};
        Sink sink = {.values = to, .stride = width};
        for (int64_t p = 0; p < linear->panel_count; p++) any_panel(STORE, linear, p, &input, 1, &sink, p * PANEL);
        width = linear->panel_count * PANEL;
        activate(m->dense[i].activation, to, width);
        float *swap = from;
        from = to;
        to = swap;
    }
    if (m->normalize) {
        lanes squares = all(0.0f);
        for (int64_t c = 0; c < width; c += LANES) squares = mul_add(load(from + c), load(from + c), squares);
        lanes factor = all(1.0f / fmaxf(sqrtf(sum_of(squares)), 1e-12f));
        for (int64_t c = 0; c < width; c += LANES) store(from + c, mul(load(from + c), factor));
    }
    memcpy(out, from, (size_t)m->dimension_count * sizeof *out);
}

#endif
