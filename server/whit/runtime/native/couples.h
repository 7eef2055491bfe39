/* Couples of groups of four inputs, for processors that SATURATE: they add products in pairs, in 16 bits, and widen the sums in an
 * instruction of its own. Where no weights of two groups can make more than 16 bits, the sums of both are added first and widened
 * once. Sums are exact either way, so that the order of groups changes no vector.
 */
#ifndef WHIT_COUPLES_H
#define WHIT_COUPLES_H

#include <stdint.h>
#include <string.h>

#define MOST_OF_A_PAIR 128 /* times the largest code, 255, is less than 2^15 */
#define PAIR_SUMS 64       /* of a group and sixteen columns: two pairs each, weights above 0 and weights below */

/* Whether the sums of both stay within bounds; each alone does. */
static int fit(const uint8_t *one, const uint8_t *other) {
    uint8_t beyond = 0;
    for (int i = 0; i < PAIR_SUMS; i++) beyond |= one[i] > (uint8_t)(MOST_OF_A_PAIR - other[i]);
    return !beyond;
}

/* Finds couples among the groups of each of some halves of panels, first fit. sums: [halves][groups][PAIR_SUMS], the sizes of a pair's
 * weights above 0 added up, and of those below; groups that are hard to couple first. order: [halves][groups], where the couples are
 * in `sums`, one after the other, and then the groups that are left; couples: [halves], how many. */
void whit_couple(const uint8_t *sums, int64_t halves, int64_t groups, int32_t *order, int32_t *couples) {
    for (int64_t half = 0; half < halves; half++, sums += groups * PAIR_SUMS, order += groups) {
        int64_t from = 0, to = groups; /* of `order`: those that are yet to be coupled */
        for (int64_t i = 0; i < groups; i++) order[i] = (int32_t)i;
        while (from < to) {
            int32_t one = order[from];
            int64_t at = from + 1;
            while (at < to && !fit(sums + one * PAIR_SUMS, sums + order[at] * PAIR_SUMS)) at++;
            if (at < to) { /* the other comes next to it, those between move up */
                int32_t other = order[at];
                memmove(order + from + 2, order + from + 1, (size_t)(at - from - 1) * sizeof *order);
                order[from + 1] = other;
                from += 2;
            } else { /* it stays alone: to the end */
                memmove(order + from, order + from + 1, (size_t)(to - from - 1) * sizeof *order);
                order[--to] = one;
            }
        }
        couples[half] = (int32_t)(from / 2);
    }
}

#endif
