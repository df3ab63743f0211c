// The C interface of the native library: what src/octavo/kernels/native.py mirrors. Plain structs, no Python.
// All pointers stay owned by the caller and must outlive the executor (weights, tables) or the call (batch, drawn).
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OCTAVO_API __attribute__((visibility("default")))

enum octavo_layout {
  OCTAVO_F32,
  OCTAVO_BF16,
  OCTAVO_W8,
  OCTAVO_W4,
  OCTAVO_W4M,
  OCTAVO_W8M,
  OCTAVO_W4L,
  OCTAVO_F8,
  OCTAVO_F4,
  OCTAVO_W16
};
enum octavo_kind {
  OCTAVO_EMBED,
  OCTAVO_NORM,
  OCTAVO_QKV,
  OCTAVO_ATTEND,
  OCTAVO_PROJ,
  OCTAVO_FFN_IN,
  OCTAVO_HEAD,
  OCTAVO_RENORM,
  OCTAVO_ROUTE,
  OCTAVO_MOE_IN,
  OCTAVO_MOE_OUT,
  OCTAVO_LATENT,
  OCTAVO_LATENT_QUERY,
  OCTAVO_PER_HEAD,
  OCTAVO_HIDDEN,
  OCTAVO_CONV
};
enum octavo_norm_kind { OCTAVO_NO_NORM, OCTAVO_RMS_NORM, OCTAVO_LAYER_NORM };
enum octavo_activation { OCTAVO_SILU, OCTAVO_GELU, OCTAVO_GELU_TANH, OCTAVO_RELU, OCTAVO_RELU2, OCTAVO_SWIGLU_OAI };
enum octavo_scoring { OCTAVO_SOFTMAX, OCTAVO_SIGMOID };

// A packed matrix [rows, cols]; the panel layouts are described in src/octavo/kernels/weight.py.
typedef struct {
  int32_t layout, rows, cols, group;
  const uint8_t* data;
} octavo_weight;

// The form of a projection's input: bits 32 (float32), 16 (bfloat16), 13 or 8 (int16 or
// int8 codes in groups).
typedef struct {
  int32_t bits, group;
  const int32_t* order;  // [inputs] which of what a norm or attention gives is read in each place; or null: as it lies
} octavo_act;

// A norm over n values. weight, bias: [n], or null: all ones, all zeros.
typedef struct {
  int32_t kind;  // octavo_norm_kind
  float eps;
  const float *weight, *bias;
} octavo_norm;

// The norm of a query or key. whole: over all heads together, n being heads * places; else each head apart, n being the
// places of a head, and head i's weight and bias lie i * stride floats behind those of head 0.
typedef struct {
  octavo_norm norm;
  int32_t whole, stride;
} octavo_head_norm;

// One expert: what is activated and, where gated, its factor; or its down projection. Biases may be null.
typedef struct {
  octavo_weight weight[2];
  const float* bias[2];
} octavo_expert;

// How experts are chosen: see Route of src/octavo/program/ops.py. correction: [experts], or null.
typedef struct {
  int32_t scoring, top, groups, top_groups, group_top, renormalise;
  const float* correction;
} octavo_routing;

// One operation of src/octavo/program/ops.py. Unused fields are zero, but for scale.
typedef struct {
  int32_t kind, layer, group;  // layer: the place in pages of that cache group
  int32_t source, out;         // which h it reads and writes: 0 or 1
  octavo_act act, act_out;
  float scale, soft_cap, clip;       // soft_cap, clip 0: none
  octavo_weight weight[3];           // of the feed-forward the one that is activated, then, where gated, its factor;
                                     // of a route the experts' and, where there is one, the gate's; of a latent key
                                     // and its query see src/octavo/program/ops.py; of a convolution its b, c and z
  const float* vec[3];               // biases of the weights, or null
  octavo_norm norm;                  // of a projection: what comes before its result is added; of a latent key
  octavo_head_norm head_norm[2];     // of queries and keys; of a latent key the first is that of its narrow query
  int32_t head_dim;                  // dimensions of a head; its other places hold zeros; of latent keys the rank
  const float *rope_cos, *rope_sin;  // [positions, half the places]: places i and i + half turn; or null
  const float* positions;            // [positions, width] embeddings of positions, or null
  const float* types;                // [types, width] embeddings of token types, or null
  int32_t activation;                // octavo_activation
  int32_t window, all_keys;          // a token sees so many positions up to its own, 0: all; and the ones behind it too
  const float *slopes, *sinks;       // [heads], or null
  int32_t gated;                     // of a projection: times the token's gate
  int32_t apart;                     // of attention: what it gives are rows by head, then by token
  octavo_routing routing;            // of a route; `scale` is that of the shares
  const octavo_expert* expert;       // [experts]
  int32_t experts, top;
  float limit;                   // of OCTAVO_SWIGLU_OAI
  const float *taps, *tap_bias;  // of a convolution: [window][width], [width] or null, in whole panels
} octavo_op;

typedef struct {
  int32_t width, heads, kv_heads, head_dim, vocab;  // head_dim: places of a head, a multiple of 32
  int32_t kv_float32;                               // 0: bfloat16 pages
  int32_t groups;                                   // cache groups: block tables of a sequence
  int32_t max_tokens;                               // rows of the largest step
  int32_t max_len;                                  // positions of the longest sequence
  int32_t head_rows;                                // head rows projected together
  int32_t threads;
} octavo_config;

// The samplers of src/octavo/program/samplers.py, four bits each in `steps` of a batch.
enum octavo_step {
  OCTAVO_END,
  OCTAVO_TEMPERATURE,
  OCTAVO_TOP_N_SIGMA,
  OCTAVO_MIN_P,
  OCTAVO_TOP_K,
  OCTAVO_TYPICAL_P,
  OCTAVO_TOP_P,
  OCTAVO_XTC,
  OCTAVO_MIROSTAT,
  OCTAVO_MIROSTAT_2
};

// What they need of a row.
typedef struct {
  float typical_p, top_n_sigma, xtc_probability, xtc_threshold, dynatemp_range, dynatemp_exponent, mirostat_mu;
} octavo_extras;

// program/batch.py
typedef struct {
  int32_t tokens, runs, head;  // T, R, H
  int64_t table_pages;         // of one group of one slot in `tables`
  int64_t mask_words;          // of one row of `masks`, at least vocab / 32; 0: no row is masked
  const int32_t *ids, *positions, *starts, *slots, *tables;
  const int32_t* types;  // [T], or null: all 0
  const int32_t *rows, *target, *top, *top_k;
  const float *temperature, *top_p, *min_p, *presence, *frequency, *repetition;
  const uint64_t* seed;
  const int64_t* position;
  const int64_t* history_starts;
  const int32_t *history, *prompt_lens;
  const int64_t* bias_starts;
  const int32_t* bias_ids;
  const float* bias_values;
  const int32_t *mask, *masks;
  const int64_t* steps;         // null: no row has any
  const octavo_extras* extras;  // null: as steps
  const int64_t* dry_starts;    // null: no row has any
  const int32_t* dry_ids;
  const float* dry_values;
  const int64_t* named_starts;  // null: no row has any
  const int32_t* named;
  const int32_t* given;  // [H] place in `logits` of a row that is not drawn but given, else -1; null: all are drawn
} octavo_batch;

typedef struct {
  int32_t alternatives;  // L, width of top_ids and top_logprobs
  int32_t *tokens, *ranks, *top_ids;
  float *logprobs, *top_logprobs;
  uint8_t* bad;
  float* surprise;
  float* logits;   // [given rows, vocab], or null
  float* vectors;  // [H, width] of a program that ends with hidden, for which nothing else is given
} octavo_drawn;

// Bytes of weight, act, norm, head_norm, expert, routing, op, config, batch and drawn: a caller that was written for
// another revision of this file sees it.
OCTAVO_API const int32_t* octavo_sizes(void);

// Names of the instruction sets this processor can run, best first, separated by spaces.
OCTAVO_API const char* octavo_isas(void);

// An executor for `count` ops, or null where `isa` is unknown or cannot run here, or memory or threads are missing.
// Weights are not copied.
OCTAVO_API void* octavo_create(const octavo_config* config, const octavo_op* ops, int32_t count, const char* isa);
OCTAVO_API void octavo_destroy(void* executor);
// Bytes of working memory beside weights and pages.
OCTAVO_API int64_t octavo_workspace(const octavo_config* config, const octavo_op* ops, int32_t count);
// The pages: [layers of a group][pages][kv_heads][K | V], 64-byte aligned; layer_stride in bytes.
OCTAVO_API void octavo_bind_pages(void* executor, uint8_t* pages, int64_t layer_stride);
OCTAVO_API void octavo_run(void* executor, const octavo_batch* batch, const octavo_drawn* drawn);

// Seconds since the executor was made or `reset`: of each op in its order, of drawing, and of octavo_run as a whole;
// `seconds` has room for count + 2. Gives the number of runs. Not while one is at work.
OCTAVO_API int64_t octavo_times(void* executor, double* seconds, int32_t reset);

// 0, or -1 without memory or threads. Rates of this machine with `threads` threads: read GB/s, int8 GOP/s, bfloat16 and
// float32 GFLOP/s, int16 GOP/s.
OCTAVO_API int32_t octavo_measure(const char* isa, int32_t threads, double out[5]);

#ifdef __cplusplus
}
#endif
