/* Sixteen floats in one register: AVX-512, and its VNNI. */
#ifndef WHIT_AVX512_H
#define WHIT_AVX512_H

#include <immintrin.h>
#include <stdint.h>
#include <x86intrin.h>

typedef __m512 lanes;

INLINE lanes all(float value) { return _mm512_set1_ps(value); }
INLINE lanes load(const float *from) { return _mm512_loadu_ps(from); }
INLINE void store(float *to, lanes value) { _mm512_storeu_ps(to, value); }
INLINE lanes add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
INLINE lanes sub(lanes a, lanes b) { return _mm512_sub_ps(a, b); }
INLINE lanes mul(lanes a, lanes b) { return _mm512_mul_ps(a, b); }
INLINE lanes mul_add(lanes a, lanes b, lanes c) { return _mm512_fmadd_ps(a, b, c); }
INLINE lanes largest(lanes a, lanes b) { return _mm512_max_ps(a, b); }
INLINE lanes least(lanes a, lanes b) { return _mm512_min_ps(a, b); }
INLINE lanes over(lanes a, lanes b) { return _mm512_div_ps(a, b); }
INLINE lanes size_of(lanes a) { return _mm512_abs_ps(a); }
INLINE lanes signed_as(lanes a, lanes b) { /* the size of a, which has no sign, with the sign of b */
    __m512i sign = _mm512_and_si512(_mm512_castps_si512(b), _mm512_set1_epi32((int32_t)0x80000000));
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(a), sign));
}
INLINE float sum_of(lanes a) { /* lane i and lane i + 8, what they give and the one four on, and so on */
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
INLINE float largest_of(lanes a) { return _mm512_reduce_max_ps(a); }


/* The first `count` lanes are written; 16 and more are all. */
INLINE void store_first(int64_t count, float *to, lanes value) {
    _mm512_mask_storeu_ps(to, count >= LANES ? (__mmask16)-1 : (__mmask16)((1u << count) - 1), value);
}

/* Sixteen s8 values; or the halves of sixteen bytes that hold 16 * a + b + 8 each, for a and b from -8 to 7: all a, or all b. */
INLINE __m512i whole_at(const int8_t *from) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)); }
INLINE lanes bytes_at(const int8_t *from) { return _mm512_cvtepi32_ps(whole_at(from)); }
INLINE lanes high_codes_at(const int8_t *from) { return _mm512_cvtepi32_ps(_mm512_srai_epi32(whole_at(from), 4)); }
INLINE lanes low_codes_at(const int8_t *from) {
    __m512i low = _mm512_and_si512(whole_at(from), _mm512_set1_epi32(15));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(low, _mm512_set1_epi32(8)));
}

/* table[places[0]], table[places[1]] and so on. */
INLINE lanes look_up(const float *table, const int32_t *places) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(places), table, sizeof *table);
}

/* Four times sixteen values from -128 to 255, rounded, as bytes [16][4]. */
INLINE void store_bytes(void *to, const lanes four[4]) {
    __m512i whole[4];
    for (int i = 0; i < 4; i++) whole[i] = _mm512_cvtps_epi32(four[i]);
    __m512i low = _mm512_mask_blend_epi8(0x2222222222222222, whole[0], _mm512_slli_epi32(whole[1], 8));
    __m512i high = _mm512_mask_blend_epi8(0x8888888888888888, _mm512_slli_epi32(whole[2], 16), _mm512_slli_epi32(whole[3], 24));
    _mm512_storeu_si512(to, _mm512_mask_blend_epi8(0xcccccccccccccccc, low, high));
}

/* u8 codes: rint(value) + zero, clipped to 0..255; `value` is already divided by the scale. What is too large for an int32
 * would become the least of all, so it is clipped before; what is too small becomes that in any case. */
INLINE __m128i codes_of(lanes value, int32_t zero) {
    __m512i rounded = _mm512_cvtps_epi32(_mm512_min_ps(all(256.0f), value));
    __m512i whole = _mm512_add_epi32(rounded, _mm512_set1_epi32(zero));
    return _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole, _mm512_setzero_si512()));
}
INLINE void store_codes(uint8_t *to, lanes value, int32_t zero) { _mm_storeu_si128((__m128i *)to, codes_of(value, zero)); }

/* The first `count` of them; 16 and more are all. */
INLINE void store_first_codes(int64_t count, uint8_t *to, lanes value, int32_t zero) {
    if (count >= LANES)
        store_codes(to, value, zero);
    else
        _mm_mask_storeu_epi8(to, (__mmask16)((1u << count) - 1), codes_of(value, zero));
}

/* to[c][r] = from[r][c] for sixteen columns of up to sixteen rows; columns of `to` without a row are 0. */
INLINE void turn(const float *from, int64_t from_stride, int64_t rows, float *to, int64_t to_stride) {
    lanes a[LANES], b[LANES];
#pragma GCC unroll 16
    for (int r = 0; r < LANES; r++) a[r] = r < rows ? load(from + r * from_stride) : all(0.0f);
    /* Pairs, then fours within 128 bits, then 128-bit blocks by halves and quarters. */
#pragma GCC unroll 8
    for (int r = 0; r < LANES; r += 2) {
        b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < LANES; r += 4) {
        a[r] = _mm512_shuffle_ps(b[r], b[r + 2], 0x44);
        a[r + 1] = _mm512_shuffle_ps(b[r], b[r + 2], 0xee);
        a[r + 2] = _mm512_shuffle_ps(b[r + 1], b[r + 3], 0x44);
        a[r + 3] = _mm512_shuffle_ps(b[r + 1], b[r + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        b[c] = _mm512_shuffle_f32x4(a[c], a[c + 4], 0x88);
        b[c + 4] = _mm512_shuffle_f32x4(a[c], a[c + 4], 0xdd);
        b[c + 8] = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0x88);
        b[c + 12] = _mm512_shuffle_f32x4(a[c + 8], a[c + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        store(to + c * to_stride, _mm512_shuffle_f32x4(b[c], b[c + 8], 0x88));
        store(to + (c + 4) * to_stride, _mm512_shuffle_f32x4(b[c + 4], b[c + 12], 0x88));
        store(to + (c + 8) * to_stride, _mm512_shuffle_f32x4(b[c], b[c + 8], 0xdd));
        store(to + (c + 12) * to_stride, _mm512_shuffle_f32x4(b[c + 4], b[c + 12], 0xdd));
    }
}

INLINE void store_shares(void *to, const lanes four[4]) { store_bytes(to, four); }

INLINE lanes nearest(lanes x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE lanes above_floor(lanes x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }

/* y * 2^floor(x) */
INLINE lanes times_power(lanes y, lanes x) { return _mm512_scalef_ps(y, x); }

/* Coefficients of the pieces in which the places, from 0 to PIECES - 1, lie. */
INLINE void look_up_pieces(const Curve *curve, lanes place, lanes c[3]) {
    __m512i piece = _mm512_cvttps_epi32(place);
    for (int i = 0; i < 3; i++)
        c[i] = _mm512_permutex2var_ps(load(curve->c[i]), piece, load(curve->c[i] + LANES));
}

typedef __m512i sums;

INLINE sums no_sums(void) { return _mm512_setzero_si512(); }
INLINE sums load_sums(const int32_t *from) { return _mm512_loadu_si512(from); }
INLINE lanes value_of(sums sum) { return _mm512_cvtepi32_ps(sum); }

#define TILE 12 /* 24 registers of sums, and 8 left for what is multiplied */
#define LINEAR_ROWS TILE

/* As linear.h says. */
INLINE void multiply(
    const int rows, const int halves, const int64_t ahead, const uint8_t *left, int64_t row_stride, int64_t left_step,
    const int8_t *right, int64_t right_step, int64_t count, const sums start[2], sums tile[TILE][2]) {
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) tile[r][0] = start[0], tile[r][1] = start[1];
    for (int64_t k = 0; k < count; k++) {
        if (ahead) prefetch(right + k * right_step + ahead);
        if (ahead) prefetch(right + k * right_step + ahead + 64);
        __m512i r0 = _mm512_loadu_si512(right + k * right_step);
        __m512i r1 = halves == 2 ? _mm512_loadu_si512(right + k * right_step + 64) : r0;
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            __m512i four = _mm512_set1_epi32(*(const int32_t *)(left + r * row_stride + k * left_step));
            tile[r][0] = _mm512_dpbusd_epi32(tile[r][0], four, r0);
            if (halves == 2) tile[r][1] = _mm512_dpbusd_epi32(tile[r][1], four, r1);
        }
    }
}

#define CODE_OFFSET 0
#define SATURATES 0

INLINE void balance(const int8_t *right, int64_t right_step, int64_t count, sums start[2]) {
    (void)right, (void)right_step, (void)count;
    start[0] = start[1] = no_sums();
}

/* The processor's clock, in ticks. */
INLINE int64_t now(void) { return (int64_t)__rdtsc(); }

#endif
