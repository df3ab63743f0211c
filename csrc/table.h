// What the parts of the library share: one step's data, the working memory, and the table of kernels of one ISA.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "octavo.h"
#include "pool.h"

namespace octavo {

constexpr int PAGE = 32;         // tokens in a page
constexpr int PANEL = 32;        // outputs in a panel
constexpr int BLOCK_TILES = 16;  // most tiles that a unit of weights is read for at once
constexpr int TILE = 8;          // most rows in a row tile
constexpr int ITEM_ROWS = 192;   // most rows in an item of attention: whole tiles
constexpr int BLOCK = 512;       // tokens of keys whose softmax is taken at once; partial results meet at its multiples
constexpr int QUADS = 8;         // steps of four inputs that every group of inputs is a multiple of
constexpr int DOT_BLOCK = 128;   // most inputs of one integer dot
constexpr int SPAN = 256;        // tokens of the vocabulary that are projected, and whose masses are summed, together
constexpr int MOST_TOP_K = 64;   // largest top_k whose candidates are found without keeping the row
constexpr int HELD_ROWS = 32;    // head rows whose logits are kept at once
constexpr int NEAR = 4096;       // candidates that a draw looks among before it looks among all tokens
constexpr float LOWEST = -3.4028234e38f;
constexpr float ABOVE_LOWEST = -0x1.fffffcp127f;  // the next number

// Sums of codes kept for each row: one for each integer dot.
inline int sums_of(int cols, int group) {
  return cols / group * ((group + DOT_BLOCK - 1) / DOT_BLOCK);
}

// Rows are cut into tiles of at most TILE rows whose sizes differ by at most one, the larger ones first.
inline int tiles_of(int rows) {
  return (rows + TILE - 1) / TILE;
}
inline int tile_start(int rows, int tiles, int tile) {
  const int size = rows / tiles, larger = rows % tiles;
  return tile * size + (tile < larger ? tile : larger);
}
// Blocks of tiles: what a unit of weights is read for at once.
inline int blocks_of_tiles(int tiles) {
  return (tiles + BLOCK_TILES - 1) / BLOCK_TILES;
}
// How many tiles from this one on have its size.
inline int tiles_alike(int rows, int tiles, int tile) {
  return (tile < rows % tiles ? rows % tiles : tiles) - tile;
}

// Inputs of a projection, tile by tile; int8 codes share scales in the groups of the weights that read them; a tile of
// `mr` rows starting at row r0 occupies
//   bits 8:  codes  int8  [cols/4][mr][4]  at r0 * cols;   bits 16, 32: see vec.h (PAIRS)
//   bits 13: codes  int16 [cols/2][mr][2]  at r0 * cols; of what follows only scales
//   scale  float [cols/group][mr] at r0 * (cols/group)
//   sum, start4, start8  [sums][mr] at r0 * sums, sums = sums_of(cols, group): the sum of the codes of one dot, and
//   what dots with weights of four and of eight bits start at (see DOT_START in vec.h)
//   front  [cols/32][mr] at r0 * (cols/32), of groups of 32 only: the sum of a group's first 16 codes, for weights
//   whose groups are halves of it.
struct Rows {
  octavo_act act;
  int rows, cols;
  uint8_t* data;
  float *scale, *sum;
  int32_t *start4, *start8, *front;
};

// Which keys a token sees: the `window` up to its own position, 0: all of them; and with `all` those behind it as well.
struct Sight {
  int32_t window;
  bool all;
  int first(int position) const { return window > 0 && position >= window ? position - window + 1 : 0; }
  int end(int position, int length) const {
    if (!all) return position + 1;
    return window > 0 && window < length - position ? position + window : length;
  }
  bool operator==(const Sight& other) const { return window == other.window && all == other.all; }
};

inline Sight sight_of(const octavo_op& op) {
  return {op.window, op.all_keys != 0};
}

// The pages of one run in one cache group.
inline const int32_t* table_of(const octavo_config& config, const octavo_batch& batch, int run, int group) {
  return batch.tables + (int64_t(batch.slots[run]) * config.groups + group) * batch.table_pages;
}

// One unit of attention work: rows [row0, row0 + rows) of (token, head in group) of one run and one key head, against
// the blocks of keys [block0, block1), from page `page0` of the run on. partial >= 0: it is one tile of rows, and its
// results go to that place, to be merged in order of blocks.
struct Item {
  int32_t run, kv_head, row0, rows, block0, block1, page0, partial;
  int64_t cost;  // about proportional to the time it takes
};

// Items of one tile of rows whose blocks were computed apart: partials [first, first + count).
struct Merge {
  int32_t run, kv_head, row0, rows, first, count;
};

// How a head row is drawn, decided by what its request asks for alone.
struct Manner {
  bool held;      // its logits are kept, to be read as often as need be
  bool stepped;   // it is drawn by samplers.h
  bool mass;      // the masses of all tokens are summed
  bool collect;   // candidates are collected: values down to `below` under the largest, and among the top_k largest
  int32_t top_k;  // 0: all
  int32_t spans;  // of the vocabulary that its mask leaves
  float factor;   // 1 / temperature; 0: the largest is taken
  float below;
};

// Head rows that are projected together: the first `held` keep their logits, the others come by their spans, most
// first, so that rows whose masks leave little lie in tiles that most spans pass over.
struct HeadBlock {
  int rows, held;
  const int32_t *heads, *inputs;  // [rows] index of the head row, and of its row of x
};

struct Candidate {
  float value;
  int32_t id;
};

// What all threads know of a row so far. One cache line each. A row's draw leaves it as it was at first.
struct alignas(64) Bounds {
  float best = LOWEST, least = LOWEST;  // the largest value; a value with top_k at or above it
  int32_t used = 0;                     // candidates, those without room too
};

// What a sweep over the vocabulary leaves of the rows of a block that are not held, span by span.
struct Sweep {
  int stride, room;        // spans and candidates of a row
  float *top, *mass;       // [rows][stride] largest logit, NaN where one is not finite; sum of exp((x - top) * factor)
  int32_t* best;           // id of `top`, where none before was larger
  int32_t *start, *count;  // the span's candidates
  Candidate* candidates;   // [rows][room]
  Bounds* bounds;          // [rows]
};

struct Step {
  octavo_batch batch;
  octavo_drawn drawn;
  const int32_t* row_page;  // [groups][T] the page its key goes to
  const uint8_t* row_last;  // [T] 1: the last row of its run
  const Item* items;        // of the attention at work
  const Merge* merges;
  int item_count, merge_count;
  const Manner* manners;  // [H]
  size_t head_blocks;     // of all head rows, before any is drawn again
  HeadBlock block;        // of head rows, at work
};

// Some rows of a step's (token, expert) pairs: those of one expert, in the order of tokens.
struct Chosen {
  int32_t expert, row0, rows, block0;  // blocks of rows that come before: of BLOCK_TILES tiles at most
};

// Which experts the step's tokens go to, from one route to the next. Rows are ordered by expert, then by token.
struct Mixture {
  float* scores;    // [T, stride] of all experts
  float* gate;      // [T]
  int32_t* expert;  // [T, top] the best first
  float* share;     // [T, top]
  int32_t* token;   // [T * top] of each row
  float* weight;    // [T * top] of each row: its share
  int32_t* next;    // [experts] room to sort in
  Chosen* chosen;   // [experts] those with any rows, ascending
  int32_t* counts;  // how many those are, and their blocks
  int stride;
};

struct Memory {
  float* x;  // [T, width]
  float* q;  // [T, heads * head_dim], queries, then attention's result; or [T, width in panels], c of convolutions
  float* y;  // [T, ..] what a norm is taken of across units of work: sums to add to x, or keys; or null
  float* partials;  // [places][TILE * (head_dim + 2)]
  float* logits;    // [HELD_ROWS][spans][SPAN]
  Sweep sweep;
  uint8_t* scratch;  // [threads][scratch_bytes]
  size_t scratch_bytes;
  Mixture mixture;
  uint8_t* pages;
  int64_t layer_stride;
};

struct Context {
  const octavo_config* config;
  const Step* step;
  const Memory* memory;
  Pool* pool;
};

struct Kernels {
  const char* name;
  // Each walks its part of an op on thread `tid`; all threads call it, claim work of the pool and meet inside.
  void (*renorm)(const octavo_op&, const Context&, int tid);
  void (*norm)(const octavo_op&, const Context&, Rows& out, int tid);
  void (*qkv)(const octavo_op&, const Context&, const Rows& in, int tid);
  void (*attend)(const octavo_op&, const Context&, Rows& out, int tid);
  void (*proj)(const octavo_op&, const Context&, const Rows& in, int tid);
  void (*ffn_in)(const octavo_op&, const Context&, const Rows& in, Rows& out, int tid);
  void (*route)(const octavo_op&, const Context&, const Rows& in, int tid);
  // gathered: room for the rows of `in` once for each expert that reads them
  void (*moe_in)(const octavo_op&, const Context&, const Rows& in, Rows& gathered, Rows& out, int tid);
  void (*moe_out)(const octavo_op&, const Context&, const Rows& in, int tid);
  void (*latent)(const octavo_op&, const Context&, const Rows& in, Rows& out, int tid);
  void (*latent_query)(const octavo_op&, const Context&, const Rows& in, int tid);
  void (*per_head)(const octavo_op&, const Context&, const Rows& in, Rows& out, int tid);
  void (*hidden)(const octavo_op&, const Context&, int tid);
  void (*conv)(const octavo_op&, const Context&, const Rows& in, Rows& out, int tid);
  void (*head)(const octavo_op&, const Context&, Rows& in, int tid);  // the step's block of head rows
  // Logits of one span of a block's row, again; room: [TILE * SPAN]. It gives a part of `room`. mask: as mask_of gives
  // it
  const float* (*head_span)(const octavo_op&, const Rows& in, int row, int span, const int32_t* mask, float* room);
  float (*span_top)(const float* x);                            // largest of SPAN values, NaN where one is not finite
  float (*span_mass)(const float* x, float top, float factor);  // sum of exp((x - top) * factor) over SPAN values
  // Passes over one row of n values, n a multiple of 16.
  void (*row_masses)(const float* row, int n, float top, float factor, float* masses);  // exp((row - top) * factor)
  float (*row_max)(const float* row, int n, bool* finite);
  double (*row_exp_sum)(const float* row, int n, float max, float factor);  // sum of exp((row - max) * factor)
  double (*row_mass_from)(const float* row, const float* masses, int n, float from);  // of the values >= from
  int (*row_collect)(const float* row, int n, float from, int32_t* ids);  // ids of values >= from, ascending
  int (*row_count)(const float* row, int n, float above);                 // number of values > above
  void (*peak)(
      int kind,
      int64_t rounds);  // 0: int8, 1: bfloat16, 2: float32, 3: int16; 2 * 32 * 12 dots (kind 0, 1, 3) or FMAs a round
  int64_t (*read)(const uint8_t* data, int64_t bytes);
};

extern const Kernels* const kernels_avx512bf16;
extern const Kernels* const kernels_avx512;
extern const Kernels* const kernels_avx2;
extern const Kernels* const kernels_portable;

// Best first; `kernels_for` gives null for an unknown name or one this processor cannot run.
const Kernels* kernels_for(const char* isa);

// Outputs of the feed-forward that one unit of work makes: whole groups of the next projection's inputs.
inline int ffn_unit(const octavo_op& op) {
  return op.act_out.group > PANEL ? op.act_out.group : PANEL;
}

inline size_t padded(int n, int to) {
  return size_t(n + to - 1) / to * to;
}
// Of one unit of latent queries, a head: its first part, as floats and as inputs of its matrix, and the turned rest.
struct LatentUnit {
  int plain, rest;
  int cols() const { return plain + rest; }
};
inline LatentUnit latent_unit(const octavo_config& c, const octavo_op& op) {
  return {op.weight[1].cols, c.head_dim - op.head_dim};
}
// Floats that a unit works in: its products, its inputs in whatever form, and five numbers of each group of those.
inline size_t latent_query_room(const octavo_config& c, const octavo_op& op) {
  const LatentUnit unit = latent_unit(c, op);
  const size_t most = BLOCK_TILES * TILE, inputs = padded(unit.plain, 4 * QUADS);
  return most * (unit.cols() + PANEL + inputs + 5 * inputs / (4 * QUADS));
}
// A latent key and its narrow query, where they wait to be normed: floats of a row, those of the key first.
inline size_t latent_cols(const octavo_op& op) {
  return padded(op.weight[0].rows, PANEL) + padded(op.weight[1].rows, PANEL);
}
inline int spans_of(int vocab) {
  return (vocab + SPAN - 1) / SPAN;
}
// The tokens that a row may draw, as words of bits; null: all.
inline const int32_t* mask_of(const octavo_batch& b, int i) {
  if (b.mask_words == 0 || b.mask[i] < 0 || b.target[i] >= 0) return nullptr;
  return b.masks + int64_t(b.mask[i]) * b.mask_words;
}
// Whether a mask of `words` words leaves any token of a span.
inline bool leaves_any(const int32_t* mask, int words, int span) {
  constexpr int SPAN_WORDS = SPAN / 32;
  const int end = words < (span + 1) * SPAN_WORDS ? words : (span + 1) * SPAN_WORDS;
  int32_t any = 0;
  for (int word = span * SPAN_WORDS; word < end; ++word) any |= mask[word];
  return any != 0;
}
// Takes away what a mask does not allow of the tokens from `first` on, a multiple of 32.
inline void mask_values(const int32_t* mask, int first, int count, float* x) {
  for (int at = 0; at < count; at += 32) {
    const uint32_t word = uint32_t(mask[(first + at) / 32]);
    const int end = count - at < 32 ? count - at : 32;
    if (word == ~0u) continue;
    if (word == 0)  // as most are
      for (int j = 0; j < end; ++j) x[at + j] = LOWEST;
    else
      for (int j = 0; j < end; ++j) x[at + j] = word >> j & 1 ? x[at + j] : LOWEST;
  }
}
// Whether products are sums of floats, not integer dots.
inline bool is_float(int layout) {
  return layout == OCTAVO_F32 || layout == OCTAVO_BF16 || layout == OCTAVO_F8 || layout == OCTAVO_F4;
}
// Of panels of codes: bytes before all groups, of the scales and minima before a group's codes, of 32 outputs' codes.
inline int table_bytes(int layout) {
  return layout == OCTAVO_W4L || layout == OCTAVO_F4 ? 64 : 0;
}
inline int head_bytes(int layout) {
  return layout == OCTAVO_W8 || layout == OCTAVO_W4 || layout == OCTAVO_W4L ? 64 : 128;  // of W16 float32
}
inline int input_bytes(int layout) {
  if (layout == OCTAVO_W16) return 64;
  return layout == OCTAVO_W8 || layout == OCTAVO_W8M || layout == OCTAVO_F8 ? 32 : 16;
}
inline size_t panel_bytes(const octavo_weight& w) {
  size_t k = w.cols;
  switch (w.layout) {
    case OCTAVO_F32:
      return k * PANEL * 4;
    case OCTAVO_BF16:
      return (k + 1) / 2 * 2 * PANEL * 2;
    default:
      return table_bytes(w.layout) + k / w.group * (head_bytes(w.layout) + size_t(w.group) * input_bytes(w.layout));
  }
}

}  // namespace octavo
