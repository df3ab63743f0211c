#include "plan.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "unpack.h"

namespace octavo {

namespace {

// The keys of a tile of rows are split among items only where it is more than this part of a thread's share of a step.
constexpr int SPLIT_SHARE = 4;
// Tiles are joined to items while there are at least about so many for each thread.
constexpr int ITEMS_WANTED = 16;

// Attention items of the largest step: each run's tiles of rows for each key head, or those and their parts.
size_t most_items(const octavo_config& c) {
  const size_t tiles = size_t(c.max_tokens) * (c.heads / c.kv_heads / TILE + 1);
  return tiles * c.kv_heads + size_t(SPLIT_SHARE) * c.threads * ((c.max_len + BLOCK - 1) / BLOCK);
}

// Time of attention, in some unit: every key is read once and used by all rows.
int64_t cost_of(int rows, int keys) {
  return int64_t(rows + 4) * keys;
}

// Candidates a row has room for: as many as a draw looks at (draw.cc), and all of the first span that each thread
// meets.
int candidates_of(int threads) {
  return NEAR + SPAN * threads;
}

// What the lists of head rows take for each row.
constexpr size_t HEAD_ROW_BYTES = sizeof(Manner) + sizeof(HeadBlock) + 4 * sizeof(int32_t) + 1;

int blocks_of(int keys) {
  return (keys + BLOCK - 1) / BLOCK;
}

}  // namespace

// What working memory is made of; offsets into the arena, in the order they are laid out.
struct Executor::Sizes {
  size_t x, q, data, sums, partials, logits, spans, candidates, bounds, scratch, arena, lists;

  Sizes(const octavo_config& c, const octavo_op* ops, int count) {
    size_t cols = c.width, unit_cols = 0;
    for (int i = 0; i < count; ++i) {
      if (ops[i].kind == OCTAVO_FFN_IN) {
        cols = std::max(cols, size_t(ops[i].weight[0].rows));
        unit_cols = std::max(unit_cols, size_t(ffn_unit(ops[i])));
      }
    }
    const size_t attended = size_t(c.heads) * c.head_dim;
    cols = padded(int(std::max(cols, attended)), 2 * PANEL);
    const size_t rows = std::max(c.max_tokens, c.head_rows), D = c.head_dim;
    const auto lines = [](size_t bytes) { return (bytes + 63) / 64 * 64; };
    x = lines(rows * c.width * 4);
    q = lines(rows * attended * 4);
    data = lines(rows * cols * 4);
    sums = lines(rows * (cols / (4 * QUADS)) * 4);
    const size_t places = size_t(SPLIT_SHARE) * c.threads * blocks_of(c.max_len);
    partials = lines(places * TILE * (D + 2) * 4);
    logits = lines(size_t(HELD_ROWS) * spans_of(c.vocab) * SPAN * 4);
    spans = lines(size_t(c.head_rows) * spans_of(c.vocab) * 4);
    candidates = lines(size_t(c.head_rows) * candidates_of(c.threads) * sizeof(Candidate));
    bounds = size_t(c.head_rows) * sizeof(Bounds);
    const size_t attend = TILE * BLOCK + (TILE + ITEM_ROWS + (c.kv_float32 ? 0 : 2 * BLOCK)) * D;
    const size_t most = BLOCK_TILES * TILE, head = most * SPAN + size_t(c.head_rows) * MOST_TOP_K;
    scratch = lines(4 * std::max({TILE * size_t(c.width), 2 * most * unit_cols, most * D, attend, head}));
    arena = x + q + 2 * (data + 5 * sums) + partials + logits + 5 * spans + candidates + bounds + scratch * c.threads;
    lists = most_items(c) * (sizeof(Item) + sizeof(Merge)) + size_t(c.max_tokens) * 5 +
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
  row_page_.reserve(config.max_tokens);
  row_last_.reserve(config.max_tokens);
  items_.reserve(most_items(config));
  merges_.reserve(most_items(config));
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
  for (Buffer& buffer : buffers_) {
    buffer.data = take(sizes.data);
    buffer.scale = reinterpret_cast<float*>(take(sizes.sums));
    buffer.sum = reinterpret_cast<float*>(take(sizes.sums));
    buffer.start4 = reinterpret_cast<int32_t*>(take(sizes.sums));
    buffer.start8 = reinterpret_cast<int32_t*>(take(sizes.sums));
    buffer.front = reinterpret_cast<int32_t*>(take(sizes.sums));
  }
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

Rows Executor::view(int buffer, octavo_act act, int rows, int cols) const {
  const Buffer& b = buffers_[buffer];
  return {act, rows, cols, b.data, b.scale, b.sum, b.start4, b.start8, b.front};
}

// Where each row's key goes, and the attention's work list, the same for all layers. Allocates nothing.
void Executor::prepare(const octavo_batch& b) {
  row_page_.resize(b.tokens);
  row_last_.assign(b.tokens, 0);
  const int group = config_.heads / config_.kv_heads;
  int64_t total = 0;
  for (int run = 0; run < b.runs; ++run) {
    const int32_t* table = b.tables + b.slots[run] * b.table_stride;
    for (int row = b.starts[run]; row < b.starts[run + 1]; ++row) {
      row_page_[row] = table[b.positions[row] / PAGE];
    }
    row_last_[b.starts[run + 1] - 1] = 1;
    const int rows = (b.starts[run + 1] - b.starts[run]) * group, tiles = tiles_of(rows);
    for (int tile = 0; tile < tiles; ++tile) {
      const int row0 = tile_start(rows, tiles, tile), end = tile_start(rows, tiles, tile + 1);
      total += cost_of(end - row0, b.positions[b.starts[run] + (end - 1) / group] + 1) * config_.kv_heads;
    }
  }
  items_.clear();
  merges_.clear();
  int places = 0;
  for (int run = 0; run < b.runs; ++run) {
    const int rows = (b.starts[run + 1] - b.starts[run]) * group, tiles = tiles_of(rows);
    const int64_t most = cost_of(tile_start(rows, tiles, 1), b.positions[b.starts[run + 1] - 1] + 1);
    const int64_t fit = total / (ITEMS_WANTED * config_.threads) / most;
    const int each = int(std::clamp(fit, int64_t(1), int64_t(ITEM_ROWS / TILE))), count = (tiles + each - 1) / each;
    for (int item = 0; item < count; ++item) {
      const int tile0 = tile_start(tiles, count, item), tile1 = tile_start(tiles, count, item + 1);
      const int row0 = tile_start(rows, tiles, tile0), end = tile_start(rows, tiles, tile1);
      const int keys = b.positions[b.starts[run] + (end - 1) / group] + 1, blocks = blocks_of(keys);
      const int64_t cost = cost_of(end - row0, keys);
      const bool split = tile1 - tile0 == 1 && blocks > 1 && cost * SPLIT_SHARE * config_.threads > total;
      for (int kv_head = 0; kv_head < config_.kv_heads; ++kv_head) {
        if (!split) {
          items_.push_back({run, kv_head, row0, end - row0, 0, blocks, -1, cost});
          continue;
        }
        merges_.push_back({run, kv_head, row0, end - row0, places, blocks});
        for (int block = 0; block < blocks; ++block)
          items_.push_back({run, kv_head, row0, end - row0, block, block + 1, places++, cost / blocks});
      }
    }
  }
  // The longest first, so that the threads end together.
  std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) { return a.cost > b.cost; });
}

void Executor::embed(const octavo_op& op, const Context& context, int tid) const {
  const octavo_batch& b = context.step->batch;
  int first, last;
  while (context.pool->claim(tid, b.tokens, &first, &last)) {
    for (int row = first; row < last; ++row) {
      float* x = memory_.x + size_t(row) * config_.width;
      unpack_row(op.weight[0], b.ids[row], x);
      if (op.scale != 1.f)
        for (int i = 0; i < config_.width; ++i) x[i] *= op.scale;
    }
  }
  context.pool->meet(tid);
}

// Blocks of head rows `wanted` in order; as few as may be, the rows that keep their logits first in each.
template <class Wanted, class Held>
void Executor::add_blocks(const octavo_batch& b, Wanted wanted, Held held) {
  const auto next = [&](int i, bool kept) {
    while (i < b.head && !(wanted(i) && held(i) == kept)) ++i;
    return i;
  };
  for (int kept = next(0, true), swept = next(0, false); kept < b.head || swept < b.head;) {
    const size_t start = heads_.size();
    HeadBlock block{};
    for (; kept < b.head && block.held < std::min(HELD_ROWS, config_.head_rows); kept = next(kept + 1, true)) {
      heads_.push_back(kept);
      ++block.held;
    }
    for (block.rows = block.held; swept < b.head && block.rows < config_.head_rows; swept = next(swept + 1, false)) {
      heads_.push_back(swept);
      ++block.rows;
    }
    for (size_t j = start; j < heads_.size(); ++j) inputs_.push_back(b.rows[heads_[j]]);
    block.heads = heads_.data() + start;
    block.inputs = inputs_.data() + start;
    blocks_.push_back(block);
  }
}

// How each head row is drawn, and in which company. Allocates nothing.
void Executor::prepare_head(const octavo_batch& b, const octavo_drawn& drawn) {
  manners_.clear();
  for (int i = 0; i < b.head; ++i) {
    manners_.push_back(manner_of(b, i, config_.vocab));
    manners_.back().held |= drawn.logits != nullptr;
  }
  blocks_.clear();
  heads_.clear();
  inputs_.clear();
  again_.assign(b.head, 0);
  any_again_ = false;
  add_blocks(b, [](int) { return true; }, [&](int i) { return manners_[i].held; });
}

void Executor::draw(const octavo_op& op, const Context& context, const Rows& in, int tid) {
  const Step& step = *context.step;
  int first, last;
  while (context.pool->claim(tid, step.block.rows, &first, &last)) {
    for (int at = first; at < last; ++at) {
      const int i = step.block.heads[at];
      if (step.drawn.logits != nullptr) {
        std::memcpy(step.drawn.logits + size_t(i) * config_.vocab,
                    memory_.logits + size_t(at) * memory_.sweep.stride * SPAN, size_t(config_.vocab) * 4);
      } else if (!draw_row(*kernels_, op, in, context, at, draw_scratch_[tid])) {
        again_[i] = 1;
        any_again_ = true;
      }
      memory_.sweep.bounds[at] = {};
    }
  }
  context.pool->meet(tid);
}

// Projects and draws; rows that the sweep could not decide a second time, with their logits held.
void Executor::head(const octavo_op& op, Step& step, const Context& context, int buffer, int tid, int place) {
  const int drawing = int(ops_.size());
  size_t done = 0, count = step.head_blocks;  // a late thread finds more in blocks_ by now
  for (int pass = 0; pass < 2; ++pass, count = blocks_.size()) {
    for (; done < count; ++done) {
      step.block = blocks_[done];
      Rows h = view(buffer, op.act, step.block.rows, config_.width);
      kernels_->head(op, context, h, tid);
      lap(tid, place);
      draw(op, context, h, tid);
      lap(tid, drawing);
    }
    if (pass == 1 || !any_again_) return;
    int first, last;
    while (context.pool->claim(tid, 1, &first, &last))
      add_blocks(step.batch, [&](int i) { return again_[i] != 0; }, [](int) { return true; });
    context.pool->meet(tid);
  }
}

void Executor::walk(int tid) {
  Step step = step_;
  const Context context{&config_, &step, &memory_, &pool_};
  const int T = step.batch.tokens;
  int at = 0;  // the buffer that holds h
  Rows h{};
  if (tid == 0) times_.skip();
  for (int i = 0; i < int(ops_.size()); ++i) {
    const octavo_op& op = ops_[i];
    switch (op.kind) {
      case OCTAVO_EMBED:
        embed(op, context, tid);
        break;
      case OCTAVO_NORM:
        h = view(at, op.act, T, config_.width);
        kernels_->norm(op, context, h, tid);
        break;
      case OCTAVO_QKV:
        kernels_->qkv(op, context, h, tid);
        break;
      case OCTAVO_ATTEND:
        h = view(at, op.act, T, config_.heads * config_.head_dim);
        kernels_->attend(op, context, h, tid);
        break;
      case OCTAVO_PROJ:
        kernels_->proj(op, context, h, tid);
        break;
      case OCTAVO_FFN_IN: {
        at ^= 1;
        Rows out = view(at, op.act_out, T, op.weight[0].rows);
        kernels_->ffn_in(op, context, h, out, tid);
        h = out;
        break;
      }
      case OCTAVO_HEAD:
        head(op, step, context, at, tid, i);
        break;
    }
    lap(tid, i);
  }
}

void Executor::run(const octavo_batch& batch, const octavo_drawn& drawn) {
  times_.begin();
  prepare(batch);
  prepare_head(batch, drawn);
  step_ = {batch,
           drawn,
           row_page_.data(),
           row_last_.data(),
           items_.data(),
           merges_.data(),
           int(items_.size()),
           int(merges_.size()),
           manners_.data(),
           blocks_.size(),
           {}};
  pool_.run([](void* self, int tid) { static_cast<Executor*>(self)->walk(tid); }, this);
  times_.end();
}

}  // namespace octavo
