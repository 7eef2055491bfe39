/* A model's parts, and the memory that one micro-batch needs. */
#ifndef WHIT_MODEL_H
#define WHIT_MODEL_H

#include "attention.h"
#include "rows.h"
#include "schemes.h"
#include "team.h"

typedef struct {
    const float *gain, *bias; /* [width] */
} Norm;

typedef struct {
    Linear qkv; /* a head after the other: its query, key and value, each of Model.head_panels panels */
    Linear out, up, down;
    Norm attention_norm, output_norm;
    int64_t head_count, inner_count; /* 0: all that the block adds is out.biases or down.biases */
    int64_t weighing_head;           /* whose attention of each token to itself weighs the tokens (Ditto); or -1 */
    float ceiling;                   /* that activations end at; or infinity */
} Layer;

typedef enum { MEAN, FIRST, LARGEST, BY_ROOT, BY_PLACE, BY_HEAD } Pooling;
typedef enum { IDENTITY, RELU, TANH, GELU } Activation;

/* A layer after pooling. */
typedef struct {
    Linear linear;
    int32_t activation;
} Dense;

typedef struct {
    Rows words, positions;
    Norm norm;
    Linear projection; /* of the normalised embeddings; weights null: there is none */
    const Layer *layers;
    const Dense *dense;
    int64_t layer_count, dense_count;
    int64_t embedding_width, width, dimension_count; /* of embeddings, of states, of vectors */
    int64_t head_width, head_panels;                 /* panels of 32 that hold a head; columns beyond its width are 0 */
    int64_t most_heads, most_inner;                  /* of any layer */
    int64_t most_wide;   /* floats of a token that are kept for a layer that needs all of them, at most */
    int64_t most_pooled; /* values of a text's vector on its way, at most: whole panels */
    int64_t position_offset;
    const float *relative_bias; /* [heads][2 * relative_reach + LANES], that of query q and key k at relative_reach + q - k; or null */
    int64_t relative_reach;
    const Curve *curve;
    float epsilon;
    int32_t pooling;
    int32_t averages; /* whether the states pooled are half those of the first layer, half those of the last */
    int32_t normalize;
} Model;

/* Where the time goes, for those who ask. */
typedef enum { EMBED, PROJECT, ATTEND, OUT, UP, DOWN, NORM, POOL, PARTS } Part;

/* What a member of a team works in: memory that all share, but for `head`. */
typedef struct {
    Team *team;
    int64_t member;
    Share rows;     /* the member's tokens of a block */
    int keeps_rows; /* whether it computes all columns of these, or its columns of all tokens: then all meet after each step */
    int64_t *ticks; /* [PARTS], or null */
    int64_t last;
    float *x;            /* [tokens][width] */
    uint8_t *codes;      /* [tokens][width] */
    uint8_t *context;    /* [tokens][heads * head_width, rounded up: what lies beyond meets weights of 0] */
    uint8_t *inner;      /* [tokens][most_inner] */
    Head head;
    float *wide;         /* [tokens][most_wide] */
    float *scales;       /* [tokens]: of the codes that the next layer reads */
    float *first;        /* [tokens][width], if the model averages */
    float *weights;      /* [tokens], for pooling */
    float *pooled[2];    /* [most_pooled] */
} Scratch;

static void spent(Scratch *s, Part part) {
    if (!s->ticks) return;
    int64_t time = now();
    s->ticks[part] += time - s->last;
    s->last = time;
}

/* A member that reads all weights needs this many rows to do it for. */
#define LEAST_ROWS 24

static void take_share(Scratch *s, int64_t tokens) {
    s->rows = share(s->team, s->member, tokens);
    s->keeps_rows = tokens >= LEAST_ROWS * s->team->size;
}

/* After a step whose outcome is read by whoever has these rows next. */
static void pass_on(const Scratch *s) {
    if (!s->keeps_rows) meet(s->team);
}

static int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Lays out the scratch memory for one of `members`; returns how many bytes it takes for all. */
static int64_t lay_out(const Model *m, int64_t tokens, int64_t members, char *memory, Scratch *s) {
    int64_t head = m->head_panels * PANEL, size = 0;
#define TAKE(what, count) \
    s->what = (void *)(memory + size); \
    size += rounded((count) * (int64_t)sizeof *s->what + 64, 64)
    TAKE(x, tokens * m->width);
    TAKE(codes, tokens * m->width);
    TAKE(context, tokens * rounded(m->most_heads * m->head_width, LANES));
    TAKE(inner, tokens * m->most_inner);
    TAKE(wide, tokens * m->most_wide);
    TAKE(scales, tokens);
    TAKE(first, m->averages ? tokens * m->width : 0);
    TAKE(weights, tokens);
    TAKE(pooled[0], m->most_pooled);
    TAKE(pooled[1], m->most_pooled);
    int64_t shared = size;
    for (int64_t member = 0; member <= s->member; member++) {
        TAKE(head.queries, tokens * head);
        TAKE(head.keys, tokens * head);
        TAKE(head.values, tokens * head);
        TAKE(head.key_codes, tokens * head);
        TAKE(head.query_codes, head * PANEL);
        TAKE(head.value_codes, rounded(tokens, 4) * head);
        TAKE(head.key_steps, head);
        TAKE(head.value_steps, head);
        TAKE(head.value_means, head);
        TAKE(head.turned, head * LANES);
        TAKE(head.scores, tokens * PANEL);
    }
#undef TAKE
    s->head.width = head;
    return shared + (size - shared) / (s->member + 1) * members;
}

#endif
