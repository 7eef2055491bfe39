/* Sixteen floats in several registers, for processors whose registers are narrower: SPLIT parts of WIDTH floats. */
#ifndef WHIT_NARROW_H
#define WHIT_NARROW_H

#if defined(__aarch64__)
#include "neon.h"
#else
#include "avx2.h"
#endif

#define SPLIT (LANES / WIDTH)

typedef struct {
    part p[SPLIT];
} lanes;

typedef struct {
    whole p[SPLIT];
} sums;

/* `value` of every part i. */
#define EACH_PART(type, value) \
    type all_parts; \
    _Pragma("GCC unroll 4") for (int i = 0; i < SPLIT; i++) all_parts.p[i] = value; \
    return all_parts

INLINE lanes all(float value) { EACH_PART(lanes, part_all(value)); }
INLINE lanes load(const float *from) { EACH_PART(lanes, part_load(from + i * WIDTH)); }
INLINE lanes add(lanes a, lanes b) { EACH_PART(lanes, part_add(a.p[i], b.p[i])); }
INLINE lanes sub(lanes a, lanes b) { EACH_PART(lanes, part_sub(a.p[i], b.p[i])); }
INLINE lanes mul(lanes a, lanes b) { EACH_PART(lanes, part_mul(a.p[i], b.p[i])); }
INLINE lanes mul_add(lanes a, lanes b, lanes c) { EACH_PART(lanes, part_mul_add(a.p[i], b.p[i], c.p[i])); }
INLINE lanes largest(lanes a, lanes b) { EACH_PART(lanes, part_largest(a.p[i], b.p[i])); }
INLINE lanes least(lanes a, lanes b) { EACH_PART(lanes, part_least(a.p[i], b.p[i])); }
INLINE lanes over(lanes a, lanes b) { EACH_PART(lanes, part_over(a.p[i], b.p[i])); }
INLINE lanes size_of(lanes a) { EACH_PART(lanes, part_size(a.p[i])); }
INLINE lanes signed_as(lanes a, lanes b) { EACH_PART(lanes, part_signed_as(a.p[i], b.p[i])); }
INLINE lanes nearest(lanes x) { EACH_PART(lanes, part_nearest(x.p[i])); }
INLINE lanes above_floor(lanes x) { EACH_PART(lanes, part_sub(x.p[i], part_floor(x.p[i]))); }

INLINE void store(float *to, lanes value) {
#pragma GCC unroll 4
    for (int i = 0; i < SPLIT; i++) part_store(to + i * WIDTH, value.p[i]);
}

INLINE void store_first(int64_t count, float *to, lanes value) {
    float kept[LANES];
    store(kept, value);
    memcpy(to, kept, (size_t)(count < LANES ? count : LANES) * sizeof *kept);
}

/* Lane i and lane i + 8, what they give and the one four on, and so on. */
INLINE float sum_of(lanes a) {
    float x[LANES];
    store(x, a);
    for (int64_t half = LANES / 2; half; half /= 2)
        for (int64_t i = 0; i < half; i++) x[i] += x[i + half];
    return x[0];
}

INLINE float largest_of(lanes a) {
    float x[LANES], top;
    store(x, a);
    top = x[0];
    for (int64_t i = 1; i < LANES; i++) top = top > x[i] ? top : x[i];
    return top;
}

/* y * 2^floor(x); of what is too small for x = -126, some value as small. */
INLINE lanes times_power(lanes y, lanes x) {
    EACH_PART(lanes, part_mul(y.p[i], part_power(part_floor(part_largest(x.p[i], part_all(-126.0f))))));
}

INLINE lanes bytes_at(const int8_t *from) { EACH_PART(lanes, part_of_whole(whole_at(from + i * WIDTH))); }
INLINE lanes high_codes_at(const int8_t *from) { EACH_PART(lanes, part_of_whole(high_codes(whole_at(from + i * WIDTH)))); }
INLINE lanes low_codes_at(const int8_t *from) { EACH_PART(lanes, part_of_whole(low_codes(whole_at(from + i * WIDTH)))); }

INLINE lanes look_up(const float *table, const int32_t *places) {
    float found[LANES];
    for (int i = 0; i < LANES; i++) found[i] = table[places[i]];
    return load(found);
}

INLINE void look_up_pieces(const Curve *curve, lanes place, lanes c[3]) {
    int32_t pieces[LANES];
#pragma GCC unroll 4
    for (int i = 0; i < SPLIT; i++) whole_store(pieces + i * WIDTH, whole_cut(place.p[i]));
#pragma GCC unroll 4
    for (int i = 0; i < SPLIT; i++) {
        part of_part[3];
        part_look_up(curve, pieces + i * WIDTH, of_part);
        for (int k = 0; k < 3; k++) c[k].p[i] = of_part[k];
    }
}

INLINE void store_bytes(void *to, const lanes four[4]) {
#pragma GCC unroll 4
    for (int i = 0; i < SPLIT; i++) {
        whole w[4];
        for (int k = 0; k < 4; k++) w[k] = whole_of(four[k].p[i]);
        whole_store((int32_t *)to + i * WIDTH, interleave(w));
    }
}
INLINE void store_shares(void *to, const lanes four[4]) {
#pragma GCC unroll 4
    for (int i = 0; i < SPLIT; i++) {
        whole w[4];
        for (int k = 0; k < 4; k++) w[k] = whole_of(four[k].p[i]);
        whole_store((int32_t *)to + i * WIDTH, less_offset(interleave(w)));
    }
}

INLINE void store_codes(uint8_t *to, lanes value, int32_t zero) {
    whole w[SPLIT];
#pragma GCC unroll 4
    for (int i = 0; i < SPLIT; i++) w[i] = whole_add(whole_of(part_least(part_all(256.0f), value.p[i])), zero);
    store_narrowed(to, w);
}

INLINE void store_first_codes(int64_t count, uint8_t *to, lanes value, int32_t zero) {
    uint8_t kept[LANES];
    store_codes(kept, value, zero);
    memcpy(to, kept, (size_t)(count < LANES ? count : LANES));
}

INLINE void turn(const float *from, int64_t from_stride, int64_t rows, float *to, int64_t to_stride) {
    static const float none[LANES];
    for (int64_t r = 0; r < LANES; r += 4)
        for (int64_t c = 0; c < LANES; c += 4) {
            const float *row[4];
            for (int64_t i = 0; i < 4; i++) row[i] = (r + i < rows ? from + (r + i) * from_stride : none) + c;
            turn_four(row, to + c * to_stride + r, to_stride);
        }
}

INLINE sums no_sums(void) { EACH_PART(sums, whole_all(0)); }
INLINE sums load_sums(const int32_t *from) { EACH_PART(sums, whole_load(from + i * WIDTH)); }
INLINE lanes value_of(sums sum) { EACH_PART(lanes, part_of_whole(sum.p[i])); }

#define TILE 6

/* As linear.h says. Sixteen columns at a time: as many sums as there are registers for. */
INLINE void multiply(
    const int rows, const int halves, const int64_t ahead, const uint8_t *left, int64_t row_stride, int64_t left_step,
    const int8_t *right, int64_t right_step, int64_t count, const sums start[2], sums tile[TILE][2]) {
    for (int half = 0; half < halves; half++, right += LANES * 4) {
        sums sum[TILE];
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) sum[r] = start[half];
        for (int64_t k = 0; k < count; k++) {
            const int8_t *column = right + k * right_step;
            if (ahead) prefetch(column + ahead);
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                whole four = whole_repeat(left + r * row_stride + k * left_step);
#pragma GCC unroll 4
                for (int i = 0; i < SPLIT; i++) sum[r].p[i] = dot(sum[r].p[i], four, column + i * WIDTH * 4);
            }
        }
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) tile[r][half] = sum[r];
    }
}

#if SATURATES
#define LINEAR_ROWS 5 /* as many sums as there are registers for beside the products of a couple */

/* As `multiply` for one half of sixteen columns, whose groups lie in an order of their own: `couples` times two, whose sums of two
 * products are added in 16 bits before they are widened, and then single ones. */
INLINE void multiply_couples(
    const int rows, const int half, const int64_t ahead, const uint8_t *left, int64_t row_stride, const int32_t *order, int64_t couples,
    const int8_t *right, int64_t count, sums start, sums tile[TILE][2]) {
    sums sum[TILE];
#pragma GCC unroll 5
    for (int r = 0; r < rows; r++) sum[r] = start;
    int64_t k = 0;
    for (; k < 2 * couples; k += 2, right += 2 * LANES * 4) {
        const uint8_t *one = left + order[k] * 4, *other = left + order[k + 1] * 4;
        prefetch(right + ahead), prefetch(right + ahead + LANES * 4);
        whole first = kept_weights(right);
#pragma GCC unroll 5
        for (int r = 0; r < rows; r++) {
            whole four = whole_repeat(one + r * row_stride), four_more = whole_repeat(other + r * row_stride);
#pragma GCC unroll 2
            for (int i = 0; i < SPLIT; i++) {
                whole pairs = i ? pairs_at(four, right + i * WIDTH * 4) : pairs_of(four, first);
                whole more = pairs_at(four_more, right + (LANES + i * WIDTH) * 4);
                sum[r].p[i] = widen_onto(sum[r].p[i], both_pairs(pairs, more));
            }
        }
    }
    for (; k < count; k++, right += LANES * 4) {
        prefetch(right + ahead);
#pragma GCC unroll 5
        for (int r = 0; r < rows; r++) {
            whole four = whole_repeat(left + r * row_stride + order[k] * 4);
#pragma GCC unroll 2
            for (int i = 0; i < SPLIT; i++) sum[r].p[i] = widen_onto(sum[r].p[i], pairs_at(four, right + i * WIDTH * 4));
        }
    }
#pragma GCC unroll 5
    for (int r = 0; r < rows; r++) tile[r][half] = sum[r];
}
#else
#define LINEAR_ROWS TILE
#endif

INLINE void balance(const int8_t *right, int64_t right_step, int64_t count, sums start[2]) {
    start[0] = start[1] = no_sums();
    if (!CODE_OFFSET) return;
    for (int half = 0; half < 2; half++)
        for (int64_t k = 0; k < count; k++)
            for (int i = 0; i < SPLIT; i++)
                start[half].p[i] = add_offset(start[half].p[i], whole_load(right + k * right_step + half * LANES * 4 + i * WIDTH * 4));
}

#endif
