/* A packed int8 encoder of post-layer-norm transformer layers: token ids in, pooled vectors out.
 *
 * Texts go through all layers in blocks of about BLOCK tokens, so that what lies between two layers never leaves the core's
 * own cache; weights are read once a block. A token's values depend on its own text only: sums of integers are exact, and
 * every float operation has an order that neither the block nor the tile changes.
 */
#include <math.h>
#include <string.h>

#include "model.h"
#include "pooling.h"

#define BLOCK 128 /* tokens */

#ifndef SOURCES
#define SOURCES 0 /* a checksum of these files, if whoever compiles them says it */
#endif

/* Layer normalisation of one row, in place; its codes too, if anything reads them: no block may come next, or an empty one. */
static void normalise(float *x, int64_t width, const Norm *norm, float epsilon, const Linear *next, uint8_t *to) {
    const float *factors = next ? next->factors : 0;
    lanes total = all(0.0f), squares = all(0.0f);
    for (int64_t c = 0; c < width; c += LANES) total = add(total, load(x + c));
    lanes mean = all(sum_of(total) / (float)width);
    for (int64_t c = 0; c < width; c += LANES) {
        lanes d = sub(load(x + c), mean);
        squares = mul_add(d, d, squares);
    }
    lanes factor = all(1.0f / sqrtf(sum_of(squares) / (float)width + epsilon));
    for (int64_t c = 0; c < width; c += LANES) {
        lanes y = mul_add(mul(sub(load(x + c), mean), factor), load(norm->gain + c), load(norm->bias + c));
        store(x + c, y);
        if (factors) store_codes(to + c, mul(y, load(factors + c)), next->zero);
    }
}

/* Layer normalisation of a block, in place, and what the next linear layer reads of it; `next` null: none. */
static void normalise_all(const Model *m, Scratch *s, const Norm *norm, const Linear *next, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t++)
        normalise(s->x + t * m->width, m->width, norm, m->epsilon, next, s->codes + t * m->width);
    if (next && next->scheme == BY_TOKEN) prepare(next, s->x, m->width, tokens, s->codes, s->scales);
    spent(s, NORM);
}

static void add_embeddings(const Model *m, const int32_t *ids, const int64_t *lengths, int64_t count, float *x) {
    int64_t width = m->embedding_width;
    for (int64_t text = 0; text < count; text++)
        for (int64_t t = 0; t < lengths[text]; t++, x += width) {
            memset(x, 0, (size_t)width * sizeof *x);
            add_row(&m->words, *ids++, width, x);
            add_row(&m->positions, t + m->position_offset, width, x);
        }
}

/* States of a block's tokens before the first layer, and what `next` reads of them. */
static void embed(
    const Model *m, Scratch *s, const Linear *next, const int32_t *ids, const int64_t *lengths, int64_t count, int64_t tokens) {
    if (!m->projection.weights) {
        add_embeddings(m, ids, lengths, count, s->x);
        spent(s, EMBED);
        normalise_all(m, s, &m->norm, next, tokens);
        return;
    }
    int64_t width = m->embedding_width;
    add_embeddings(m, ids, lengths, count, s->wide);
    for (int64_t t = 0; t < tokens; t++) normalise(s->wide + t * width, width, &m->norm, m->epsilon, 0, 0);
    Input input = {.values = s->wide, .stride = width};
    Sink sink = {.values = s->x, .stride = m->width};
    for (int64_t p = 0; p < m->projection.panel_count; p++)
        any_panel(STORE, &m->projection, p, &input, tokens, &sink, p * PANEL);
    prepare(next, s->x, m->width, tokens, s->codes, s->scales);
    spent(s, EMBED);
}

static void add_bias(float *x, int64_t tokens, int64_t width, const float *bias) {
    for (int64_t t = 0; t < tokens; t++, x += width)
        for (int64_t c = 0; c < width; c += LANES) store(x + c, add(load(x + c), load(bias + c)));
}

/* Attention of all heads over the texts of a block; returns what layer->out reads. */
static Input attend_all(const Model *m, const Layer *layer, Scratch *s, const int64_t *lengths, int64_t count, int64_t tokens) {
    int64_t panels = m->head_panels, stride = layer->out.input_count;
    int coded = layer->out.scheme == CALIBRATED;
    float *parts[3] = {s->head.queries, s->head.keys, s->head.values};
    Input input = {s->codes, s->x, s->scales, m->width};
    if (!coded) memset(s->wide, 0, (size_t)(tokens * stride) * sizeof *s->wide);
    for (int64_t h = 0; h < layer->head_count; h++) {
        for (int64_t p = 0; p < 3 * panels; p++) {
            Sink sink = {.values = parts[p / panels], .stride = s->head.width};
            any_panel(STORE, &layer->qkv, h * 3 * panels + p, &input, tokens, &sink, p % panels * PANEL);
        }
        spent(s, PROJECT);
        int64_t column = h * m->head_width;
        Context context = {.codes = coded ? s->context + column : 0, .values = s->wide + column, .stride = stride,
                           .width = m->head_width, .factors = coded ? layer->out.factors + column : 0,
                           .zero = layer->out.zero, .weights = h == layer->weighing_head ? s->weights : 0};
        const float *bias = m->relative_bias ? m->relative_bias + h * (2 * m->relative_reach + LANES) + m->relative_reach : 0;
        for (int64_t text = 0, at = 0; text < count; at += lengths[text++]) attend(&s->head, at, lengths[text], bias, &context);
        spent(s, ATTEND);
    }
    if (coded) return (Input){.codes = s->context, .stride = stride};
    return prepare(&layer->out, s->wide, stride, tokens, s->context, s->scales);
}

static void linear_add(const Linear *linear, const Input *input, int64_t tokens, float *x, int64_t width) {
    Sink sink = {.values = x, .stride = width};
    for (int64_t p = 0; p < linear->panel_count; p++) any_panel(ADD, linear, p, input, tokens, &sink, p * PANEL);
}

/* What layer->down reads, where that is no more than a code of each value: all in one go. */
static Input activate_codes(const Model *m, const Layer *layer, Scratch *s, const Input *input, int64_t tokens) {
    int64_t stride = layer->inner_count;
    Sink sink = {.codes = s->inner, .stride = stride, .curve = m->curve, .factors = layer->down.factors,
                 .zero = layer->down.zero};
    for (int64_t p = 0; p < layer->up.panel_count; p++) any_panel(ACTIVATE, &layer->up, p, input, tokens, &sink, p * PANEL);
    return (Input){.codes = s->inner, .stride = stride};
}

/* What layer->down reads, by way of all values. */
static Input activate_values(const Model *m, const Layer *layer, Scratch *s, const Input *input, int64_t tokens) {
    int64_t stride = layer->inner_count;
    Sink sink = {.values = s->wide, .stride = stride};
    for (int64_t p = 0; p < layer->up.panel_count; p++) any_panel(STORE, &layer->up, p, input, tokens, &sink, p * PANEL);
    for (int64_t i = 0; i < tokens * stride; i += LANES)
        store(s->wide + i, least(curve_at(m->curve, load(s->wide + i)), all(layer->ceiling)));
    return prepare(&layer->down, s->wide, stride, tokens, s->inner, s->scales);
}

static void feed_forward(const Model *m, const Layer *layer, Scratch *s, int64_t tokens) {
    Input input = {s->codes, s->x, s->scales, m->width};
    int at_once = layer->down.scheme == CALIBRATED && isinf(layer->ceiling);
    Input inner = at_once ? activate_codes(m, layer, s, &input, tokens) : activate_values(m, layer, s, &input, tokens);
    spent(s, UP);
    linear_add(&layer->down, &inner, tokens, s->x, m->width);
}

static void run_layer(
    const Model *m, const Layer *layer, const Linear *next, Scratch *s, const int64_t *lengths, int64_t count, int64_t tokens) {
    if (layer->head_count) {
        Input context = attend_all(m, layer, s, lengths, count, tokens);
        linear_add(&layer->out, &context, tokens, s->x, m->width);
    } else
        add_bias(s->x, tokens, m->width, layer->out.biases);
    spent(s, OUT);
    normalise_all(m, s, &layer->attention_norm, &layer->up, tokens);
    if (layer->inner_count)
        feed_forward(m, layer, s, tokens);
    else
        add_bias(s->x, tokens, m->width, layer->down.biases);
    spent(s, DOWN);
    normalise_all(m, s, &layer->output_norm, next, tokens);
}

/* Bytes of the two structures that hold all others, and SOURCES: a caller that has another idea of them must not call. Then
 * what weights have to suit. */
void whit_version(int64_t version[5]) {
    version[0] = sizeof(Model);
    version[1] = sizeof(Layer);
    version[2] = SOURCES;
    version[3] = CODE_OFFSET;
    version[4] = SATURATES;
}

/* Bytes of scratch memory for a micro-batch whose longest text has `longest` tokens. */
int64_t whit_scratch_size(const Model *m, int64_t longest) {
    Scratch s;
    return lay_out(m, longest > BLOCK ? longest : BLOCK, 0, &s);
}

/* Vectors of `count` texts, float32 [count][dimension_count]. ids: their tokens back to back; lengths: at least 1 each, `longest` at most;
 * layer_count: how many layers to compute; scratch: whit_scratch_size(m, longest) bytes, 64-byte aligned; ticks:
 * what each Part took is added to ticks[part], or null. */
void whit_encode(
    const Model *m, const int32_t *ids, const int64_t *lengths, int64_t count, int64_t longest, int64_t layer_count,
    char *scratch, float *out, int64_t *ticks) {
    Scratch s = {.ticks = ticks, .last = ticks ? now() : 0};
    lay_out(m, longest > BLOCK ? longest : BLOCK, scratch, &s);
    for (int64_t start = 0; start < count;) {
        int64_t end = start + 1, tokens = lengths[start];
        while (end < count && tokens + lengths[end] <= BLOCK) tokens += lengths[end++];
        embed(m, &s, &m->layers[0].qkv, ids, lengths + start, end - start, tokens);
        for (int64_t i = 0; i < layer_count; i++) {
            run_layer(m, &m->layers[i], i + 1 < layer_count ? &m->layers[i + 1].qkv : 0, &s, lengths + start, end - start, tokens);
            if (i == 0 && m->averages) memcpy(s.first, s.x, (size_t)(tokens * m->width) * sizeof *s.x);
        }
        if (m->averages) average(s.x, s.first, tokens * m->width);
        for (int64_t text = start, at = 0; text < end; at += lengths[text++], out += m->dimension_count) {
            pool(m, s.x + at * m->width, lengths[text], s.weights + at, s.pooled[0]);
            finish(m, s.pooled[0], s.pooled[1], out);
        }
        spent(&s, POOL);
        ids += tokens;
        start = end;
    }
}
