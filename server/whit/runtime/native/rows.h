/* Embedding tables: how a row of float32, int8, four bits a value or product codes becomes float32. */
#ifndef WHIT_ROWS_H
#define WHIT_ROWS_H

#include "lanes.h"

typedef enum { FLOATS, BYTES } RowKind;

typedef struct {
    int32_t kind;
    const int32_t *places; /* which stored row a token reads; or null: its own */
    const void *codes;     /* FLOATS: float32, BYTES: int8, [rows][width] */
    const float *scales;   /* BYTES: [rows] */
} Rows;

/* Adds row `id` to x[width]. */
static void add_row(const Rows *rows, int64_t id, int64_t width, float *x) {
    if (rows->places) id = rows->places[id];
    if (rows->kind == FLOATS) {
        const float *row = (const float *)rows->codes + id * width;
        for (int64_t c = 0; c < width; c += LANES) store(x + c, add(load(x + c), load(row + c)));
        return;
    }
    const int8_t *row = (const int8_t *)rows->codes + id * width;
    lanes scale = all(rows->scales[id]);
    for (int64_t c = 0; c < width; c += LANES) {
        __m512i sixteen = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(row + c)));
        store(x + c, add(load(x + c), mul(_mm512_cvtepi32_ps(sixteen), scale)));
    }
}

#endif
