/* Eight floats, or eight int32: AVX2, with VNNI or without. */
#ifndef WHIT_AVX2_H
#define WHIT_AVX2_H

#include <immintrin.h>
#include <x86intrin.h>

#define WIDTH 8

typedef __m256 part;
typedef __m256i whole;

INLINE part part_all(float value) { return _mm256_set1_ps(value); }
INLINE part part_load(const float *from) { return _mm256_loadu_ps(from); }
INLINE void part_store(float *to, part value) { _mm256_storeu_ps(to, value); }
INLINE part part_add(part a, part b) { return _mm256_add_ps(a, b); }
INLINE part part_sub(part a, part b) { return _mm256_sub_ps(a, b); }
INLINE part part_mul(part a, part b) { return _mm256_mul_ps(a, b); }
INLINE part part_mul_add(part a, part b, part c) { return _mm256_fmadd_ps(a, b, c); }
INLINE part part_largest(part a, part b) { return _mm256_max_ps(a, b); }
INLINE part part_least(part a, part b) { return _mm256_min_ps(a, b); }
INLINE part part_over(part a, part b) { return _mm256_div_ps(a, b); }
INLINE part part_size(part a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE part part_signed_as(part a, part b) { return _mm256_or_ps(a, _mm256_and_ps(b, _mm256_set1_ps(-0.0f))); }
INLINE part part_nearest(part x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE part part_floor(part x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
INLINE part part_of_whole(whole n) { return _mm256_cvtepi32_ps(n); }

/* 2^n for whole n from -126 to 127. */
INLINE part part_power(part n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}

INLINE whole whole_all(int32_t value) { return _mm256_set1_epi32(value); }
INLINE whole whole_load(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }
INLINE void whole_store(int32_t *to, whole value) { _mm256_storeu_si256((__m256i *)to, value); }
INLINE whole whole_of(part x) { return _mm256_cvtps_epi32(x); } /* rounded */
INLINE whole whole_cut(part x) { return _mm256_cvttps_epi32(x); }
INLINE whole whole_add(whole a, int32_t b) { return _mm256_add_epi32(a, _mm256_set1_epi32(b)); }

/* Eight s8 values; of bytes that hold 16 * a + b + 8 all a, or all b. */
INLINE whole whole_at(const int8_t *from) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)); }
INLINE whole high_codes(whole bytes) { return _mm256_srai_epi32(bytes, 4); }
INLINE whole low_codes(whole bytes) {
    return _mm256_sub_epi32(_mm256_and_si256(bytes, _mm256_set1_epi32(15)), _mm256_set1_epi32(8));
}

/* The lowest bytes of four numbers, one after the other. */
INLINE whole interleave(const whole w[4]) {
    const whole byte = _mm256_set1_epi32(255);
    whole low = _mm256_or_si256(_mm256_and_si256(w[0], byte), _mm256_slli_epi32(w[1], 8));
    whole high = _mm256_or_si256(_mm256_slli_epi32(_mm256_and_si256(w[2], byte), 16), _mm256_slli_epi32(w[3], 24));
    return _mm256_blend_epi16(low, high, 0xaa);
}

/* Sixteen numbers, clipped to 0..255. */
INLINE void store_narrowed(uint8_t *to, const whole w[2]) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(w[0], w[1]), 0xd8);
    _mm_storeu_si128(
        (__m128i *)to, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

/* Coefficients of eight pieces. */
INLINE void part_look_up(const Curve *curve, const int32_t *pieces, part c[3]) {
    __m256 row[4];
    for (int i = 0; i < 4; i++)
        row[i] = _mm256_set_m128(_mm_load_ps(curve->by_piece[pieces[i + 4]]), _mm_load_ps(curve->by_piece[pieces[i]]));
    __m256 first = _mm256_unpacklo_ps(row[0], row[1]), other = _mm256_unpacklo_ps(row[2], row[3]);
    c[0] = _mm256_shuffle_ps(first, other, 0x44);
    c[1] = _mm256_shuffle_ps(first, other, 0xee);
    c[2] = _mm256_shuffle_ps(_mm256_unpackhi_ps(row[0], row[1]), _mm256_unpackhi_ps(row[2], row[3]), 0x44);
}

/* to[c][r] = row[r][c], four by four. */
INLINE void turn_four(const float *const row[4], float *to, int64_t stride) {
    __m128 a = _mm_loadu_ps(row[0]), b = _mm_loadu_ps(row[1]), c = _mm_loadu_ps(row[2]), d = _mm_loadu_ps(row[3]);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a), _mm_storeu_ps(to + stride, b), _mm_storeu_ps(to + 2 * stride, c), _mm_storeu_ps(to + 3 * stride, d);
}

/* Four bytes in every place. */
INLINE whole whole_repeat(const void *four) {
    int32_t value;
    memcpy(&value, four, sizeof value);
    return _mm256_set1_epi32(value);
}

#ifdef __AVXVNNI__
#define SATURATES 0
#else
#define SATURATES 1
#endif

/* sum + codes . weights, four u8 by four s8 in every place. */
INLINE whole dot(whole sum, whole codes, const int8_t *weights) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, codes, whole_load(weights));
#else
    whole w = whole_load(weights), byte = _mm256_set1_epi16(255);
    whole even = _mm256_madd_epi16(_mm256_and_si256(codes, byte), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
    whole odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(w, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
#endif
}

#if SATURATES
/* codes . weights as sums of two in 16 bits: of weights for which they cannot saturate (couples.h). They are read straight from
 * memory, since registers would be too few for a tile's sums; those in a register are for some of the products. */
INLINE whole pairs_at(whole codes, const int8_t *weights) {
    whole pairs;
    __asm__("vpmaddubsw %2, %1, %0" : "=x"(pairs) : "x"(codes), "m"(*(const char(*)[sizeof pairs])weights));
    return pairs;
}
INLINE whole kept_weights(const int8_t *weights) {
    whole kept = _mm256_load_si256((const __m256i *)weights);
    __asm__("" : "+x"(kept)); /* or the compiler would read it again for each product */
    return kept;
}
INLINE whole pairs_of(whole codes, whole weights) { return _mm256_maddubs_epi16(codes, weights); }
INLINE whole both_pairs(whole a, whole b) { return _mm256_add_epi16(a, b); }
INLINE whole widen_onto(whole sum, whole pairs) { return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))); }
#endif

#define CODE_OFFSET 0

INLINE whole less_offset(whole codes) { return codes; }
INLINE whole add_offset(whole sum, whole weights) {
    (void)weights;
    return sum;
}

INLINE int64_t now(void) { return (int64_t)__rdtsc(); }

#endif
