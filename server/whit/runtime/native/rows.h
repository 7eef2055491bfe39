/* Embedding tables: how a row of float32, int8, four bits a value or product codes becomes float32. */
#ifndef WHIT_ROWS_H
#define WHIT_ROWS_H

#include "lanes.h"

typedef enum { FLOATS, BYTES, PAIRS, PRODUCTS } RowKind;

typedef struct {
    int32_t kind;
    const int32_t *places; /* which stored row a token reads; or null: its own */
    const void *codes;     /* FLOATS: float32, BYTES: int8, [rows][width]; PAIRS: int8 [rows][width / 2], 16 * a + b + 8 for
                              the codes a of the row's first half and b of its second; PRODUCTS: uint8 [rows][code_count] */
    const float *scales;   /* [rows][scale_count] */
    int64_t scale_count;
    const int32_t *scale_of; /* PAIRS: which of a row's scales a value has, [width] */
    const int8_t *centroids; /* PRODUCTS: [code_count][256][width / code_count] */
    int64_t code_count;
} Rows;

INLINE void add_bytes(const int8_t *row, float scale, int64_t width, float *x) {
    for (int64_t c = 0; c < width; c += LANES) store(x + c, add(load(x + c), mul(bytes_at(row + c), all(scale))));
}

INLINE void add_pairs(const int8_t *row, const float *scales, const int32_t *scale_of, int64_t width, float *x) {
    for (int64_t c = 0; c < width; c += LANES) {
        lanes codes = c < width / 2 ? high_codes_at(row + c) : low_codes_at(row + c - width / 2);
        store(x + c, add(load(x + c), mul(codes, look_up(scales, scale_of + c))));
    }
}

INLINE void add_products(const uint8_t *row, float scale, const int8_t *centroids, int64_t count, int64_t size, float *x) {
    for (int64_t stretch = 0; stretch < count; stretch++, x += size) {
        const int8_t *centroid = centroids + (stretch * 256 + row[stretch]) * size;
        for (int64_t c = 0; c < size; c++) x[c] += (float)centroid[c] * scale;
    }
}

/* Adds row `id` to x[width]. */
static void add_row(const Rows *rows, int64_t id, int64_t width, float *x) {
    if (rows->places) id = rows->places[id];
    const float *scales = rows->scales + id * rows->scale_count;
    switch (rows->kind) {
    case FLOATS:;
        const float *row = (const float *)rows->codes + id * width;
        for (int64_t c = 0; c < width; c += LANES) store(x + c, add(load(x + c), load(row + c)));
        break;
    case BYTES: add_bytes((const int8_t *)rows->codes + id * width, *scales, width, x); break;
    case PAIRS: add_pairs((const int8_t *)rows->codes + id * (width / 2), scales, rows->scale_of, width, x); break;
    case PRODUCTS:
        add_products((const uint8_t *)rows->codes + id * rows->code_count, *scales, rows->centroids, rows->code_count,
                     width / rows->code_count, x);
    }
}

#endif
