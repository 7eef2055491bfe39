/* Four floats, or four int32: Arm's NEON, and its dot product of signed bytes. */
#ifndef WHIT_NEON_H
#define WHIT_NEON_H

#include <arm_neon.h>

#define WIDTH 4

typedef float32x4_t part;
typedef int32x4_t whole;

INLINE part part_all(float value) { return vdupq_n_f32(value); }
INLINE part part_load(const float *from) { return vld1q_f32(from); }
INLINE void part_store(float *to, part value) { vst1q_f32(to, value); }
INLINE part part_add(part a, part b) { return vaddq_f32(a, b); }
INLINE part part_sub(part a, part b) { return vsubq_f32(a, b); }
INLINE part part_mul(part a, part b) { return vmulq_f32(a, b); }
INLINE part part_mul_add(part a, part b, part c) { return vfmaq_f32(c, a, b); }
/* Of a number and what is none, the number. */
INLINE part part_largest(part a, part b) { return vmaxnmq_f32(a, b); }
INLINE part part_least(part a, part b) { return vminnmq_f32(a, b); }
INLINE part part_over(part a, part b) { return vdivq_f32(a, b); }
INLINE part part_size(part a) { return vabsq_f32(a); }
INLINE part part_signed_as(part a, part b) { return vbslq_f32(vdupq_n_u32(0x80000000u), b, a); }
INLINE part part_nearest(part x) { return vrndnq_f32(x); }
INLINE part part_floor(part x) { return vrndmq_f32(x); }
INLINE part part_of_whole(whole n) { return vcvtq_f32_s32(n); }

/* 2^n for whole n from -126 to 127. */
INLINE part part_power(part n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
}

INLINE whole whole_all(int32_t value) { return vdupq_n_s32(value); }
INLINE whole whole_load(const void *from) { return vreinterpretq_s32_s8(vld1q_s8((const int8_t *)from)); }
INLINE void whole_store(int32_t *to, whole value) { vst1q_s32(to, value); }
INLINE whole whole_of(part x) { return vcvtnq_s32_f32(x); } /* rounded */
INLINE whole whole_cut(part x) { return vcvtq_s32_f32(x); }
INLINE whole whole_add(whole a, int32_t b) { return vaddq_s32(a, vdupq_n_s32(b)); }

/* Four s8 values; of bytes that hold 16 * a + b + 8 all a, or all b. */
INLINE whole whole_at(const int8_t *from) {
    int32_t four;
    memcpy(&four, from, sizeof four);
    return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)))));
}
INLINE whole high_codes(whole bytes) { return vshrq_n_s32(bytes, 4); }
INLINE whole low_codes(whole bytes) { return vsubq_s32(vandq_s32(bytes, vdupq_n_s32(15)), vdupq_n_s32(8)); }

/* The lowest bytes of four numbers, one after the other. */
INLINE whole interleave(const whole w[4]) {
    return vsliq_n_s32(vsliq_n_s32(vsliq_n_s32(w[0], w[1], 8), w[2], 16), w[3], 24);
}

#define CODE_OFFSET 128
#define SATURATES 0

INLINE whole less_offset(whole codes) { return veorq_s32(codes, vdupq_n_s32((int32_t)0x80808080u)); }

/* Sixteen numbers, clipped to 0..255, less CODE_OFFSET. */
INLINE void store_narrowed(uint8_t *to, const whole w[4]) {
    uint8x8_t low = vqmovun_s16(vcombine_s16(vqmovn_s32(w[0]), vqmovn_s32(w[1])));
    uint8x8_t high = vqmovun_s16(vcombine_s16(vqmovn_s32(w[2]), vqmovn_s32(w[3])));
    vst1q_u8(to, veorq_u8(vcombine_u8(low, high), vdupq_n_u8(CODE_OFFSET)));
}

/* Coefficients of four pieces. */
INLINE void part_look_up(const Curve *curve, const int32_t *pieces, part c[3]) {
    float32x4_t row[4];
    for (int i = 0; i < 4; i++) row[i] = vld1q_f32(curve->by_piece[pieces[i]]);
    float64x2_t first = vreinterpretq_f64_f32(vzip1q_f32(row[0], row[1]));
    float64x2_t other = vreinterpretq_f64_f32(vzip1q_f32(row[2], row[3]));
    c[0] = vreinterpretq_f32_f64(vzip1q_f64(first, other));
    c[1] = vreinterpretq_f32_f64(vzip2q_f64(first, other));
    first = vreinterpretq_f64_f32(vzip2q_f32(row[0], row[1]));
    other = vreinterpretq_f64_f32(vzip2q_f32(row[2], row[3]));
    c[2] = vreinterpretq_f32_f64(vzip1q_f64(first, other));
}

/* to[c][r] = row[r][c], four by four. */
INLINE void turn_four(const float *const row[4], float *to, int64_t stride) {
    float32x4_t a = vld1q_f32(row[0]), b = vld1q_f32(row[1]), c = vld1q_f32(row[2]), d = vld1q_f32(row[3]);
    float64x2_t low = vreinterpretq_f64_f32(vzip1q_f32(a, b)), high = vreinterpretq_f64_f32(vzip2q_f32(a, b));
    float64x2_t low_2 = vreinterpretq_f64_f32(vzip1q_f32(c, d)), high_2 = vreinterpretq_f64_f32(vzip2q_f32(c, d));
    vst1q_f32(to, vreinterpretq_f32_f64(vzip1q_f64(low, low_2)));
    vst1q_f32(to + stride, vreinterpretq_f32_f64(vzip2q_f64(low, low_2)));
    vst1q_f32(to + 2 * stride, vreinterpretq_f32_f64(vzip1q_f64(high, high_2)));
    vst1q_f32(to + 3 * stride, vreinterpretq_f32_f64(vzip2q_f64(high, high_2)));
}

/* Four bytes in every place. */
INLINE whole whole_repeat(const void *four) {
    int32_t value;
    memcpy(&value, four, sizeof value);
    return vdupq_n_s32(value);
}

/* sum + codes . weights, four bytes by four in every place. */
INLINE whole dot(whole sum, whole codes, const int8_t *weights) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(codes), vld1q_s8(weights));
}

/* sum + CODE_OFFSET times the sum of four weights. */
INLINE whole add_offset(whole sum, whole weights) {
    return vsubq_s32(sum, vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(-CODE_OFFSET), vreinterpretq_s8_s32(weights)));
}

/* The processor's clock, in ticks. */
INLINE int64_t now(void) {
    int64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
}

#endif
