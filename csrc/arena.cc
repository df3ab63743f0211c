// An executor's working memory: how much, and where everything lies.
#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "plan.h"

namespace octavo {

namespace {

// Candidates a row has room for: as many as a draw looks at (draw.cc), and all of the first span that each thread
// meets.
int candidates_of(int threads) {
  return NEAR + SPAN * threads;
}

// What the lists of head rows take for each row.
constexpr size_t HEAD_ROW_BYTES = sizeof(Manner) + sizeof(HeadBlock) + 4 * sizeof(int32_t) + 1;

// Those of all attention, each once.
std::vector<Sight> sights_of(const octavo_op* ops, int count) {
  std::vector<Sight> found;
  for (int i = 0; i < count; ++i) {
    const Sight sight = sight_of(ops[i]);
    if (ops[i].kind == OCTAVO_ATTEND && std::find(found.begin(), found.end(), sight) == found.end())
      found.push_back(sight);
  }
  return found;
}

}  // namespace

// The largest mixture of experts; one without any has no `pairs`.
struct Mixed {
  size_t experts = 0, top = 0, pairs = 0;  // experts of the largest step's rows
  size_t inner = 0;                        // outputs of an expert

  Mixed(const octavo_config& c, const octavo_op* ops, int count) {
    for (int i = 0; i < count; ++i) {
      const octavo_op& op = ops[i];
      if (op.kind == OCTAVO_ROUTE) {
        experts = std::max(experts, size_t(op.experts));
        top = std::max(top, size_t(op.routing.top));
      }
      if (op.kind != OCTAVO_MOE_IN) continue;
      inner = std::max(inner, padded(op.expert[0].weight[0].rows, 2 * PANEL));
    }
    pairs = top * c.max_tokens;
  }
  size_t stride() const { return padded(int(experts), PANEL); }
};

// What working memory is made of; offsets into the arena, in the order they are laid out.
struct Executor::Sizes {
  size_t x, q, y, data, sums, partials, logits, spans, candidates, bounds, scratch, arena, lists;
  size_t scores, gate, pairs, experts, chosen, gathered, gathered_sums;

  Sizes(const octavo_config& c, const octavo_op* ops, int count) {
    size_t cols = c.width, unit_cols = 0, waiting = 0, query = 0, gated = 0;
    for (int i = 0; i < count; ++i) {
      const octavo_op& op = ops[i];
      if (op.kind == OCTAVO_FFN_IN) {
        cols = std::max(cols, size_t(op.weight[0].rows));
        unit_cols = std::max(unit_cols, size_t(ffn_unit(op)));
      }
      if (op.kind == OCTAVO_MOE_IN) unit_cols = std::max(unit_cols, size_t(ffn_unit(op)));
      if ((op.kind == OCTAVO_PROJ || op.kind == OCTAVO_MOE_OUT) && op.norm.kind != OCTAVO_NO_NORM)
        waiting = std::max(waiting, size_t(c.width));
      if (op.head_norm[1].whole) waiting = std::max(waiting, size_t(c.kv_heads) * c.head_dim);
      if (op.kind == OCTAVO_LATENT) {
        cols = std::max(cols, size_t(op.weight[1].rows));
        waiting = std::max(waiting, latent_cols(op));
      }
      if (op.kind == OCTAVO_LATENT_QUERY) query = std::max(query, latent_query_room(c, op));
      if (op.kind == OCTAVO_CONV) gated = padded(c.width, PANEL);
      if (op.kind == OCTAVO_PER_HEAD) {
        cols = std::max(cols, size_t(op.weight[0].rows));
        unit_cols = std::max(unit_cols, size_t(ffn_unit(op)));
      }
    }
    const size_t attended = size_t(c.heads) * c.head_dim;
    cols = padded(int(std::max(cols, attended)), 2 * PANEL);
    const size_t rows = std::max(c.max_tokens, c.head_rows), D = c.head_dim;
    const auto lines = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
    x = lines(rows * c.width * 4);
    q = lines(rows * std::max(attended, gated) * 4);
    y = lines(rows * waiting * 4);
    const Mixed mixed(c, ops, count);
    const size_t inputs = std::max(rows * cols, mixed.pairs * mixed.inner);
    data = lines(inputs * 4);
    sums = lines(inputs / (4 * QUADS) * 4);
    scores = lines(c.max_tokens * mixed.stride() * 4);
    gate = mixed.experts ? lines(size_t(c.max_tokens) * 4) : 0;
    pairs = lines(mixed.pairs * 4);
    experts = lines((mixed.experts + 2) * 4);
    chosen = lines(mixed.experts * sizeof(Chosen));
    const size_t wide = mixed.pairs * padded(c.width, 2 * PANEL);
    gathered = lines(wide * 4);
    gathered_sums = lines(wide / (4 * QUADS) * 4);
    partials = lines(Work::places(c) * TILE * (D + 2) * 4);
    logits = lines(size_t(HELD_ROWS) * spans_of(c.vocab) * SPAN * 4);
    spans = lines(size_t(c.head_rows) * spans_of(c.vocab) * 4);
    candidates = lines(size_t(c.head_rows) * candidates_of(c.threads) * sizeof(Candidate));
    bounds = size_t(c.head_rows) * sizeof(Bounds);
    const size_t attend = TILE * BLOCK + (TILE + ITEM_ROWS + (c.kv_float32 ? 0 : 2 * BLOCK)) * D;
    const size_t most = BLOCK_TILES * TILE, head = most * SPAN + size_t(c.head_rows) * MOST_TOP_K;
    const size_t ranking = 3 * mixed.stride();
    const size_t row = std::max({size_t(c.width), gated, attended});  // one more than a tile's: room to arrange one
    scratch = lines(4 * std::max({(TILE + 1) * row, 2 * most * unit_cols, most * D, attend, head, ranking, query}));
    const size_t mixture = scores + gate + 4 * pairs + experts + chosen + gathered + 5 * gathered_sums;
    arena = x + q + y + 2 * (data + 5 * sums) + partials + logits + 5 * spans + candidates + bounds + mixture +
            scratch * c.threads;
    lists = sights_of(ops, count).size() * Work::bytes(c) + size_t(c.max_tokens) * (4 * c.groups + 1) +
            DrawScratch::bytes(c.vocab) * c.threads + rows * HEAD_ROW_BYTES;
  }
};

size_t Executor::workspace(const octavo_config& config, const octavo_op* ops, int count) {
  const Sizes sizes(config, ops, count);
  return sizes.arena + sizes.lists;
}

Executor::Executor(const octavo_config& config, const octavo_op* ops, int count, const Kernels* kernels)
    : config_(config), ops_(ops, ops + count), kernels_(kernels), pool_(config.threads), times_(count + 1) {
  const Sizes sizes(config, ops, count);
  row_page_.reserve(size_t(config.max_tokens) * config.groups);
  row_last_.reserve(config.max_tokens);
  const std::vector<Sight> sights = sights_of(ops, count);
  for (const Sight& sight : sights) works_.emplace_back(config, sight);
  for (const octavo_op& op : ops_)
    work_of_.push_back(int(std::find(sights.begin(), sights.end(), sight_of(op)) - sights.begin()));
  const size_t heads = std::max(config.max_tokens, config.head_rows);
  manners_.reserve(heads);
  again_.reserve(heads);
  blocks_.reserve(heads);
  for (auto* list : {&heads_, &inputs_}) list->reserve(2 * heads);
  draw_scratch_.reserve(config.threads);
  for (int tid = 0; tid < config.threads; ++tid) draw_scratch_.emplace_back(config.vocab);
  arena_bytes_ = sizes.arena;
  arena_ = mmap(nullptr, arena_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena_ == MAP_FAILED) throw std::bad_alloc();
  madvise(arena_, arena_bytes_, MADV_HUGEPAGE);
  uint8_t* at = static_cast<uint8_t*>(arena_);
  const auto take = [&](size_t bytes) {
    uint8_t* start = at;
    at += bytes;
    return start;
  };
  memory_.x = reinterpret_cast<float*>(take(sizes.x));
  memory_.q = reinterpret_cast<float*>(take(sizes.q));
  memory_.y = reinterpret_cast<float*>(take(sizes.y));
  for (Buffer& buffer : buffers_) {
    buffer.data = take(sizes.data);
    buffer.scale = reinterpret_cast<float*>(take(sizes.sums));
    buffer.sum = reinterpret_cast<float*>(take(sizes.sums));
    buffer.start4 = reinterpret_cast<int32_t*>(take(sizes.sums));
    buffer.start8 = reinterpret_cast<int32_t*>(take(sizes.sums));
    buffer.front = reinterpret_cast<int32_t*>(take(sizes.sums));
  }
  gathered_.data = take(sizes.gathered);
  gathered_.scale = reinterpret_cast<float*>(take(sizes.gathered_sums));
  gathered_.sum = reinterpret_cast<float*>(take(sizes.gathered_sums));
  gathered_.start4 = reinterpret_cast<int32_t*>(take(sizes.gathered_sums));
  gathered_.start8 = reinterpret_cast<int32_t*>(take(sizes.gathered_sums));
  gathered_.front = reinterpret_cast<int32_t*>(take(sizes.gathered_sums));
  Mixture& mixture = memory_.mixture;
  mixture.stride = int(Mixed(config, ops, count).stride());
  mixture.scores = reinterpret_cast<float*>(take(sizes.scores));
  mixture.gate = reinterpret_cast<float*>(take(sizes.gate));
  mixture.expert = reinterpret_cast<int32_t*>(take(sizes.pairs));
  mixture.share = reinterpret_cast<float*>(take(sizes.pairs));
  mixture.token = reinterpret_cast<int32_t*>(take(sizes.pairs));
  mixture.weight = reinterpret_cast<float*>(take(sizes.pairs));
  mixture.counts = reinterpret_cast<int32_t*>(take(sizes.experts));
  mixture.next = mixture.counts + 2;
  mixture.chosen = reinterpret_cast<Chosen*>(take(sizes.chosen));
  memory_.partials = reinterpret_cast<float*>(take(sizes.partials));
  memory_.logits = reinterpret_cast<float*>(take(sizes.logits));
  Sweep& sweep = memory_.sweep;
  sweep.stride = spans_of(config.vocab);
  sweep.room = candidates_of(config.threads);
  sweep.top = reinterpret_cast<float*>(take(sizes.spans));
  sweep.mass = reinterpret_cast<float*>(take(sizes.spans));
  sweep.best = reinterpret_cast<int32_t*>(take(sizes.spans));
  sweep.start = reinterpret_cast<int32_t*>(take(sizes.spans));
  sweep.count = reinterpret_cast<int32_t*>(take(sizes.spans));
  sweep.candidates = reinterpret_cast<Candidate*>(take(sizes.candidates));
  sweep.bounds = reinterpret_cast<Bounds*>(take(sizes.bounds));
  std::fill(sweep.bounds, sweep.bounds + config.head_rows, Bounds());
  memory_.scratch = take(sizes.scratch * config.threads);
  memory_.scratch_bytes = sizes.scratch;
}

Executor::~Executor() {
  munmap(arena_, arena_bytes_);
}

void Executor::bind_pages(uint8_t* pages, int64_t layer_stride) {
  memory_.pages = pages;
  memory_.layer_stride = layer_stride;
}

}  // namespace octavo
