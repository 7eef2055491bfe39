/* Sixteen floats at a time: the few operations that the kernels are written in, and functions of one variable.
 *
 * Every operation is exact or rounded once, in an order that the code fixes, so results depend on nothing but their inputs: not
 * on the processor either. One header for each instruction set has the operations.
 */
#ifndef WHIT_LANES_H
#define WHIT_LANES_H

#include <stdint.h>
#include <string.h>

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

/* Asks for the cache line at an address, which need not exist. */
INLINE void prefetch(const void *at) { __builtin_prefetch(at); }

/* A function of one variable as 32 parabolas, c[0] + x * (c[1] + x * c[2]): of width 1 / STEPS from FROM on, the outermost
 * two going on for ever. */
#define PIECES 32
#define PIECES_FROM (-4.0f)
#define PIECES_STEPS 4.0f

typedef struct {
    float c[3][PIECES];
    float by_piece[PIECES][4]; /* the same, and a 0 each */
} Curve;

#ifdef __AVX512VNNI__
#include "avx512.h"
#else
#include "narrow.h"
#endif

/* exp(x) for x <= 0, within 2 units in the last place: 2^n times a polynomial of the rest (Cephes, expf). */
INLINE lanes exp_of(lanes x) {
    x = largest(x, all(-87.0f));
    lanes n = nearest(mul(x, all(1.44269504f)));
    lanes rest = mul_add(n, all(-0.693359375f), x);
    rest = mul_add(n, all(2.12194440e-4f), rest);
    lanes y = all(1.9875691500e-4f);
    y = mul_add(y, rest, all(1.3981999507e-3f));
    y = mul_add(y, rest, all(8.3334519073e-3f));
    y = mul_add(y, rest, all(4.1665795894e-2f));
    y = mul_add(y, rest, all(1.6666665459e-1f));
    y = mul_add(y, rest, all(5.0000001201e-1f));
    y = add(mul_add(y, mul(rest, rest), rest), all(1.0f));
    return times_power(y, n);
}

/* 255 * 2^x within 1e-4 of itself, for x <= 0: 2^floor(x) times a cubic of the rest, which ends in 0 for what is too small. */
INLINE lanes share_of(lanes x) {
    lanes rest = above_floor(x);
    lanes y = all(19.8962606f);
    y = mul_add(y, rest, all(57.6471322f));
    y = mul_add(y, rest, all(177.437544f));
    y = mul_add(y, rest, all(254.98094f));
    return times_power(y, x);
}

INLINE lanes curve_at(const Curve *curve, lanes x) {
    lanes place = mul_add(x, all(PIECES_STEPS), all(-PIECES_FROM * PIECES_STEPS)), c[3];
    look_up_pieces(curve, least(largest(place, all(0.0f)), all(PIECES - 1)), c);
    return mul_add(mul_add(c[2], x, c[1]), x, c[0]);
}

#endif
