/* A packed int8 encoder of post-layer-norm transformer layers: token ids in, pooled vectors out.
 *
 * Texts go through all layers in blocks of about BLOCK tokens, so that what lies between two layers never leaves the core's
 * own cache; weights are read once a block. A token's values depend on its own text only: sums of integers are exact, and
 * every float operation has an order that neither the block nor the tile changes.
 *
 * Several threads may compute a micro-batch as a team (team.h): each does its share of what each function here does, and they
 * meet before what the others wrote is read.
 */
#define _GNU_SOURCE /* where a thread runs */

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "couples.h"
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
static void normalise_all(const Model *m, Scratch *s, const Norm *norm, const Linear *next) {
    for (int64_t t = s->rows.from; t < s->rows.to; t++)
        normalise(s->x + t * m->width, m->width, norm, m->epsilon, next, s->codes + t * m->width);
    if (next && next->scheme == BY_TOKEN) prepare(next, s->x, m->width, s->rows, s->codes, s->scales);
    pass_on(s);
    spent(s, NORM);
}

/* A linear layer, for all rows. */
INLINE void any_linear(const Fate fate, const Linear *linear, const Input *input, int64_t rows, const Sink *sink, const Scratch *s) {
    Share all_rows = {0, rows}, all_panels = {0, linear->panel_count};
    Share mine = s->keeps_rows ? s->rows : all_rows, panels = s->keeps_rows ? all_panels : share(s->team, s->member, linear->panel_count);
    Input from = from_row(input, mine.from);
    Sink to = to_row(sink, mine.from);
    for (int64_t p = panels.from; p < panels.to; p++) any_panel(fate, linear, p, &from, mine.to - mine.from, &to, p * PANEL);
    pass_on(s);
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

/* States of a block's tokens before the first layer, and what `next` reads of them. Looking them up takes next to nothing: one does it. */
static void embed(
    const Model *m, Scratch *s, const Linear *next, const int32_t *ids, const int64_t *lengths, int64_t count, int64_t tokens) {
    int64_t width = m->embedding_width;
    if (s->member == 0) add_embeddings(m, ids, lengths, count, m->projection.weights ? s->wide : s->x);
    meet(s->team);
    if (!m->projection.weights) {
        spent(s, EMBED);
        normalise_all(m, s, &m->norm, next);
        if (s->keeps_rows) meet(s->team);
        return;
    }
    for (int64_t t = s->rows.from; t < s->rows.to; t++) normalise(s->wide + t * width, width, &m->norm, m->epsilon, 0, 0);
    pass_on(s);
    any_linear(STORE, &m->projection, &(Input){.values = s->wide, .stride = width}, tokens, &(Sink){.values = s->x, .stride = m->width}, s);
    prepare(next, s->x, m->width, s->rows, s->codes, s->scales);
    meet(s->team);
    spent(s, EMBED);
}

static void add_bias(const Model *m, Scratch *s, const float *bias) {
    for (int64_t t = s->rows.from; t < s->rows.to; t++)
        for (int64_t c = 0; c < m->width; c += LANES) {
            float *x = s->x + t * m->width + c;
            store(x, add(load(x), load(bias + c)));
        }
    pass_on(s);
}

/* Attention of all heads over the texts of a block; returns what layer->out reads. */
static Input attend_all(const Model *m, const Layer *layer, Scratch *s, const int64_t *lengths, int64_t count, int64_t tokens) {
    int64_t panels = m->head_panels, stride = layer->out.input_count;
    int coded = layer->out.scheme == CALIBRATED;
    float *parts[3] = {s->head.queries, s->head.keys, s->head.values};
    Input input = {s->codes, s->x, s->scales, m->width};
    Share heads = share(s->team, s->member, layer->head_count), rows = s->rows;
    if (!coded) {
        memset(s->wide + rows.from * stride, 0, (size_t)((rows.to - rows.from) * stride) * sizeof *s->wide);
        meet(s->team);
    }
    for (int64_t h = heads.from; h < heads.to; h++) {
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
    meet(s->team);
    if (coded) return (Input){.codes = s->context, .stride = stride};
    prepare(&layer->out, s->wide, stride, rows, s->context, s->scales);
    pass_on(s);
    return (Input){s->context, s->wide, s->scales, stride};
}

/* What layer->down reads, where that is no more than a code of each value: all in one go. */
static Input activate_codes(const Model *m, const Layer *layer, Scratch *s, const Input *input, int64_t tokens) {
    int64_t stride = layer->inner_count;
    Sink sink = {.codes = s->inner, .stride = stride, .curve = m->curve, .factors = layer->down.factors,
                 .zero = layer->down.zero};
    any_linear(ACTIVATE, &layer->up, input, tokens, &sink, s);
    return (Input){.codes = s->inner, .stride = stride};
}

/* What layer->down reads, by way of all values. */
static Input activate_values(const Model *m, const Layer *layer, Scratch *s, const Input *input, int64_t tokens) {
    int64_t stride = layer->inner_count;
    any_linear(STORE, &layer->up, input, tokens, &(Sink){.values = s->wide, .stride = stride}, s);
    for (int64_t i = s->rows.from * stride; i < s->rows.to * stride; i += LANES)
        store(s->wide + i, least(curve_at(m->curve, load(s->wide + i)), all(layer->ceiling)));
    prepare(&layer->down, s->wide, stride, s->rows, s->inner, s->scales);
    pass_on(s);
    return (Input){s->inner, s->wide, s->scales, stride};
}

static void feed_forward(const Model *m, const Layer *layer, Scratch *s, int64_t tokens) {
    Input input = {s->codes, s->x, s->scales, m->width};
    int at_once = layer->down.scheme == CALIBRATED && isinf(layer->ceiling);
    Input inner = at_once ? activate_codes(m, layer, s, &input, tokens) : activate_values(m, layer, s, &input, tokens);
    spent(s, UP);
    any_linear(ADD, &layer->down, &inner, tokens, &(Sink){.values = s->x, .stride = m->width}, s);
}

static void run_layer(
    const Model *m, const Layer *layer, const Linear *next, Scratch *s, const int64_t *lengths, int64_t count, int64_t tokens) {
    if (layer->head_count) {
        Input context = attend_all(m, layer, s, lengths, count, tokens);
        any_linear(ADD, &layer->out, &context, tokens, &(Sink){.values = s->x, .stride = m->width}, s);
    } else
        add_bias(m, s, layer->out.biases);
    spent(s, OUT);
    normalise_all(m, s, &layer->attention_norm, &layer->up);
    if (layer->inner_count)
        feed_forward(m, layer, s, tokens);
    else
        add_bias(m, s, layer->down.biases);
    spent(s, DOWN);
    normalise_all(m, s, &layer->output_norm, next);
    if (s->keeps_rows) meet(s->team);
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

/* Bytes of scratch memory for a micro-batch whose longest text has `longest` tokens, computed by `members` threads. */
int64_t whit_scratch_size(const Model *m, int64_t longest, int64_t members) {
    Scratch s = {0};
    return lay_out(m, longest > BLOCK ? longest : BLOCK, members, 0, &s);
}

/* What a team computes. */
typedef struct {
    const Model *model;
    const int32_t *ids;
    const int64_t *lengths;
    int64_t count, longest, layer_count, members;
    char *scratch;
    float *out;
    int64_t *ticks;
    Team team;
} Work;

static void compute(Work *work, int64_t member) {
    const Model *m = work->model;
    const int32_t *ids = work->ids;
    const int64_t *lengths = work->lengths;
    float *out = work->out;
    int64_t *ticks = member ? 0 : work->ticks;
    Scratch s = {.team = &work->team, .member = member, .ticks = ticks, .last = ticks ? now() : 0};
    lay_out(m, work->longest > BLOCK ? work->longest : BLOCK, work->members, work->scratch, &s);
    for (int64_t start = 0; start < work->count;) {
        int64_t end = start + 1, tokens = lengths[start];
        while (end < work->count && tokens + lengths[end] <= BLOCK) tokens += lengths[end++];
        take_share(&s, tokens);
        embed(m, &s, &m->layers[0].qkv, ids, lengths + start, end - start, tokens);
        for (int64_t i = 0; i < work->layer_count; i++) {
            const Linear *next = i + 1 < work->layer_count ? &m->layers[i + 1].qkv : 0;
            run_layer(m, &m->layers[i], next, &s, lengths + start, end - start, tokens);
            if (member == 0 && i == 0 && m->averages) memcpy(s.first, s.x, (size_t)(tokens * m->width) * sizeof *s.x);
            if (m->averages) meet(s.team);
        }
        if (member == 0) {
            if (m->averages) average(s.x, s.first, tokens * m->width);
            for (int64_t text = start, at = 0; text < end; at += lengths[text++], out += m->dimension_count) {
                pool(m, s.x + at * m->width, lengths[text], s.weights + at, s.pooled[0]);
                finish(m, s.pooled[0], s.pooled[1], out);
            }
        }
        meet(s.team);
        spent(&s, POOL);
        ids += tokens;
        start = end;
    }
}

typedef struct {
    Work *work;
    int64_t member;
} Member;

static void *join(void *member) {
    Work *work = ((Member *)member)->work;
    wait_while(&work->team.size, 0);
    compute(work, ((Member *)member)->member);
    return 0;
}

/* A new thread that begins on the core of who made it waits for its time slice: it is not to begin there. */
static void on_other_cores(pthread_attr_t *attributes) {
    cpu_set_t cores;
    pthread_attr_init(attributes);
    if (sched_getaffinity(0, sizeof cores, &cores)) return;
    CPU_CLR(sched_getcpu(), &cores);
    if (CPU_COUNT(&cores)) pthread_attr_setaffinity_np(attributes, sizeof cores, &cores);
}

/* Vectors of `count` texts, float32 [count][dimension_count]. ids: their tokens back to back; lengths: at least 1 each, `longest` at most;
 * layer_count: how many layers to compute; members: how many threads compute them, this one among them, 1 to MOST_MEMBERS;
 * scratch: whit_scratch_size(m, longest, members) bytes, 64-byte aligned; ticks: what each Part took is added to ticks[part], or null. */
void whit_encode(
    const Model *m, const int32_t *ids, const int64_t *lengths, int64_t count, int64_t longest, int64_t layer_count, int64_t members,
    char *scratch, float *out, int64_t *ticks) {
    Work work = {m, ids, lengths, count, longest, layer_count, members, scratch, out, ticks, {0}};
    pthread_t threads[MOST_MEMBERS];
    Member others[MOST_MEMBERS];
    int64_t size = 1;
    sigset_t every, before;
    if (members > 1) { /* signals are for the threads of the program */
        sigfillset(&every);
        pthread_sigmask(SIG_SETMASK, &every, &before);
        pthread_attr_t elsewhere;
        on_other_cores(&elsewhere);
        for (; size < members; size++) {
            others[size] = (Member){&work, size};
            if (pthread_create(&threads[size], &elsewhere, join, &others[size])) break; /* as many as there can be */
        }
        pthread_attr_destroy(&elsewhere);
        pthread_sigmask(SIG_SETMASK, &before, 0);
    }
    atomic_store_explicit(&work.team.size, size, memory_order_release);
    compute(&work, 0);
    while (size-- > 1) pthread_join(threads[size], 0);
}
