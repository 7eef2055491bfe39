/* A packed int8 encoder of post-layer-norm transformer layers: token ids in, pooled vectors out.
 *
 * Texts go through all layers in blocks of about BLOCK tokens, so that what lies between two layers never leaves the core's
 * own cache; weights are read once a block. A token's values depend on its own text only: sums of integers are exact, and
 * every float operation has an order that neither the block nor the tile changes.
 */
#include <math.h>
#include <string.h>

#include "attention.h"
#include "rows.h"

#define BLOCK 128 /* tokens */

typedef struct {
    const float *gain, *bias; /* [width] */
} Norm;

typedef struct {
    Linear qkv; /* a head after the other: its query, key and value, each of Model.head_panels panels */
    Linear out, up, down;
    Quantizer qkv_codes, out_codes, up_codes, down_codes;
    Norm attention_norm, output_norm;
    int64_t head_count, inner_count; /* 0: all that the block adds is out.biases or down.biases */
} Layer;

typedef struct {
    Rows words, positions;
    Norm norm;
    const Layer *layers;
    int64_t layer_count, width;
    int64_t head_width, head_panels; /* panels of 32 that hold a head; columns beyond its width are 0 */
    int64_t most_heads, most_inner;  /* of any layer */
    int64_t position_offset;
    const float *relative_bias; /* [heads][2 * relative_reach + LANES], the bias of distance 0 at relative_reach; or null */
    int64_t relative_reach;
    const Curve *curve;
    float epsilon;
    int32_t pooling; /* 0: mean, 1: first token */
    int32_t normalize;
} Model;

/* Where the time goes, for those who ask. */
typedef enum { EMBED, PROJECT, ATTEND, OUT, UP, DOWN, NORM, POOL, PARTS } Part;

typedef struct {
    int64_t *ticks; /* [PARTS], or null */
    int64_t last;
    float *x;            /* [tokens][width] */
    uint8_t *codes;      /* [tokens][width] */
    uint8_t *context;    /* [tokens][heads * head_width, rounded up to 4: what lies beyond meets weights of 0] */
    uint8_t *inner;      /* [tokens][most_inner] */
    float *queries, *keys, *values; /* [tokens][head_panels * 32] each */
    float *key_panels;   /* as keys, tokens rounded up to 32 */
    float *scores;       /* [TILE][tokens rounded up to 32] */
    float *head;         /* [tokens][head_panels * 32] */
} Scratch;

static void spent(Scratch *s, Part part) {
    if (!s->ticks) return;
    int64_t time = now();
    s->ticks[part] += time - s->last;
    s->last = time;
}

static int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Lays out the scratch memory; returns how many bytes it takes. */
static int64_t lay_out(const Model *m, int64_t tokens, char *memory, Scratch *s) {
    int64_t head = m->head_panels * PANEL, cells = rounded(tokens, PANEL), size = 0;
#define TAKE(what, count) \
    s->what = (void *)(memory + size); \
    size += rounded((count) * (int64_t)sizeof *s->what + 64, 64)
    TAKE(x, tokens * m->width);
    TAKE(codes, tokens * m->width);
    TAKE(context, tokens * rounded(m->most_heads * m->head_width, 4));
    TAKE(inner, tokens * m->most_inner);
    TAKE(queries, tokens * head);
    TAKE(keys, tokens * head);
    TAKE(values, tokens * head);
    TAKE(key_panels, cells * head);
    TAKE(scores, TILE * cells);
    TAKE(head, tokens * head);
#undef TAKE
    return size;
}

/* Layer normalisation of one row, in place; its codes too, if anything reads them: no block may come next, or an empty one. */
static void normalise(float *x, int64_t width, const Norm *norm, float epsilon, const Quantizer *next, uint8_t *to) {
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

static void embed(const Model *m, const int32_t *ids, const int64_t *lengths, int64_t count, float *x) {
    for (int64_t text = 0; text < count; text++)
        for (int64_t t = 0; t < lengths[text]; t++, x += m->width) {
            memset(x, 0, (size_t)m->width * sizeof *x);
            add_row(&m->words, *ids++, m->width, x);
            add_row(&m->positions, t + m->position_offset, m->width, x);
        }
}

static void add_bias(float *x, int64_t tokens, int64_t width, const float *bias) {
    for (int64_t t = 0; t < tokens; t++, x += width)
        for (int64_t c = 0; c < width; c += LANES) store(x + c, add(load(x + c), load(bias + c)));
}

/* codes to context codes: attention of all heads over the texts of a block. */
static void attend_all(const Model *m, const Layer *layer, Scratch *s, const int64_t *lengths, int64_t count, int64_t tokens) {
    int64_t panels = m->head_panels, head = panels * PANEL, stride = layer->out.input_count;
    for (int64_t h = 0; h < layer->head_count; h++) {
        for (int64_t p = 0; p < panels; p++) {
            int64_t panel = h * 3 * panels + p;
            Sink queries = {STORE, .values = s->queries, .stride = head}, keys = {STORE, .values = s->keys, .stride = head};
            Sink values = {STORE, .values = s->values + p * tokens * PANEL, .stride = PANEL};
            linear_panel(STORE, &layer->qkv, panel, s->codes, m->width, tokens, &queries, p * PANEL);
            linear_panel(STORE, &layer->qkv, panel + panels, s->codes, m->width, tokens, &keys, p * PANEL);
            linear_panel(STORE, &layer->qkv, panel + 2 * panels, s->codes, m->width, tokens, &values, 0);
        }
        spent(s, PROJECT);
        const float *bias = m->relative_bias ? m->relative_bias + h * (2 * m->relative_reach + LANES) + m->relative_reach : 0;
        for (int64_t text = 0, at = 0; text < count; at += lengths[text++]) {
            turn_keys(s->keys + at * head, lengths[text], head, s->key_panels);
            attend(s->queries + at * head, s->key_panels, s->values + at * PANEL, tokens, lengths[text], head, bias,
                   s->scores, s->head + at * head);
        }
        const float *factors = layer->out_codes.factors + h * m->head_width;
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t c = 0; c < m->head_width; c += LANES) {
                lanes value = mul(load(s->head + t * head + c), load(factors + c));
                uint8_t *to = s->context + t * stride + h * m->head_width + c;
                store_first_codes(m->head_width - c, to, value, layer->out_codes.zero);
            }
        spent(s, ATTEND);
    }
}

static void linear_add(const Linear *linear, const uint8_t *codes, int64_t tokens, float *x, int64_t width) {
    Sink sink = {ADD, .values = x, .stride = width};
    for (int64_t p = 0; p < linear->panel_count; p++)
        linear_panel(ADD, linear, p, codes, linear->input_count, tokens, &sink, p * PANEL);
}

static void feed_forward(const Model *m, const Layer *layer, Scratch *s, int64_t tokens) {
    Sink sink = {ACTIVATE, .codes = s->inner, .stride = layer->down.input_count, .curve = m->curve,
                 .factors = layer->down_codes.factors, .zero = layer->down_codes.zero};
    for (int64_t p = 0; p < layer->up.panel_count; p++)
        linear_panel(ACTIVATE, &layer->up, p, s->codes, m->width, tokens, &sink, p * PANEL);
    spent(s, UP);
    linear_add(&layer->down, s->inner, tokens, s->x, m->width);
}

static void run_layer(
    const Model *m, const Layer *layer, const Quantizer *next, Scratch *s, const int64_t *lengths, int64_t count, int64_t tokens) {
    if (layer->head_count) {
        attend_all(m, layer, s, lengths, count, tokens);
        linear_add(&layer->out, s->context, tokens, s->x, m->width);
    } else
        add_bias(s->x, tokens, m->width, layer->out.biases);
    spent(s, OUT);
    for (int64_t t = 0; t < tokens; t++)
        normalise(s->x + t * m->width, m->width, &layer->attention_norm, m->epsilon, &layer->up_codes, s->codes + t * m->width);
    spent(s, NORM);
    if (layer->inner_count)
        feed_forward(m, layer, s, tokens);
    else
        add_bias(s->x, tokens, m->width, layer->down.biases);
    spent(s, DOWN);
    for (int64_t t = 0; t < tokens; t++)
        normalise(s->x + t * m->width, m->width, &layer->output_norm, m->epsilon, next, s->codes + t * m->width);
    spent(s, NORM);
}

static void pool(const Model *m, const float *x, int64_t length, float *out) {
    lanes squares = all(0.0f);
    for (int64_t c = 0; c < m->width; c += LANES) {
        lanes total = load(x + c);
        if (m->pooling == 0) {
            for (int64_t t = 1; t < length; t++) total = add(total, load(x + t * m->width + c));
            total = mul(total, all(1.0f / (float)length));
        }
        store(out + c, total);
        squares = mul_add(total, total, squares);
    }
    if (!m->normalize) return;
    lanes factor = all(1.0f / fmaxf(sqrtf(sum_of(squares)), 1e-12f));
    for (int64_t c = 0; c < m->width; c += LANES) store(out + c, mul(load(out + c), factor));
}

/* Bytes of the two structures that hold all others: a caller that has another idea of them must not call. */
void whit_sizes(int64_t sizes[2]) {
    sizes[0] = sizeof(Model);
    sizes[1] = sizeof(Layer);
}

/* Bytes of scratch memory for a micro-batch whose longest text has `longest` tokens. */
int64_t whit_scratch_size(const Model *m, int64_t longest) {
    Scratch s;
    return lay_out(m, longest > BLOCK ? longest : BLOCK, 0, &s);
}

/* Vectors of `count` texts, float32 [count][width]. ids: their tokens back to back; lengths: at least 1 each, `longest` at most;
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
        embed(m, ids, lengths + start, end - start, s.x);
        spent(&s, EMBED);
        for (int64_t t = 0; t < tokens; t++)
            normalise(s.x + t * m->width, m->width, &m->norm, m->epsilon, &m->layers[0].qkv_codes, s.codes + t * m->width);
        spent(&s, NORM);
        for (int64_t i = 0; i < layer_count; i++)
            run_layer(m, &m->layers[i], i + 1 < layer_count ? &m->layers[i + 1].qkv_codes : 0, &s, lengths + start, end - start, tokens);
        const float *x = s.x;
        for (int64_t text = start; text < end; x += lengths[text++] * m->width, out += m->width) pool(m, x, lengths[text], out);
        spent(&s, POOL);
        ids += tokens;
        start = end;
    }
}
