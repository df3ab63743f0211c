#include "plan.h"

#include <algorithm>
#include <cstring>

#include "unpack.h"

namespace octavo {

namespace {

void add_row(const float* row, int n, float* x) {
  for (int i = 0; i < n; ++i) x[i] += row[i];
}

}  // namespace

Rows Executor::view(const Buffer& b, octavo_act act, int rows, int cols) {
  return {act, rows, cols, b.data, b.scale, b.sum, b.start4, b.start8, b.front};
}

Rows Executor::view(int buffer, octavo_act act, int rows, int cols) const {
  return view(buffers_[buffer], act, rows, cols);
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
      const int type = b.types != nullptr ? b.types[row] : 0;
      if (op.types != nullptr) add_row(op.types + size_t(type) * config_.width, config_.width, x);
      if (op.positions != nullptr) add_row(op.positions + size_t(b.positions[row]) * config_.width, config_.width, x);
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
    std::sort(heads_.begin() + start + block.held, heads_.end(), [&](int i, int j) {
      return manners_[i].spans != manners_[j].spans ? manners_[i].spans > manners_[j].spans : i < j;
    });
    for (size_t j = start; j < heads_.size(); ++j) inputs_.push_back(b.rows[heads_[j]]);
    block.heads = heads_.data() + start;
    block.inputs = inputs_.data() + start;
    blocks_.push_back(block);
  }
}

// How each head row is drawn, and in which company. Allocates nothing.
void Executor::prepare_head(const octavo_batch& b) {
  manners_.clear();
  for (int i = 0; i < b.head; ++i) {
    manners_.push_back(manner_of(b, i, config_.vocab));
    manners_.back().held |= b.given != nullptr && b.given[i] >= 0;
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
      const int given = step.batch.given ? step.batch.given[i] : -1;
      if (given >= 0) {
        std::memcpy(step.drawn.logits + size_t(given) * config_.vocab,
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
void Executor::head(const octavo_op& op, Step& step, const Context& context, int tid, int place) {
  const int drawing = int(ops_.size());
  size_t done = 0, count = step.head_blocks;  // a late thread finds more in blocks_ by now
  for (int pass = 0; pass < 2; ++pass, count = blocks_.size()) {
    for (; done < count; ++done) {
      step.block = blocks_[done];
      Rows h = view(0, op.act, step.block.rows, config_.width);
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

// The experts of a mixture: rows are (token, expert) pairs.
void Executor::walk_mixture(const octavo_op& op, const Context& context, int tid) const {
  const int tokens = context.step->batch.tokens;
  const octavo_weight& weight = op.expert[0].weight[0];
  if (op.kind == OCTAVO_MOE_OUT) {
    kernels_->moe_out(op, context, view(op.source, op.act, tokens * op.top, weight.cols), tid);
    return;
  }
  Rows gathered = view(gathered_, op.act, tokens * op.top, weight.cols);
  Rows out = view(op.out, op.act_out, tokens * op.top, weight.rows);
  kernels_->moe_in(op, context, view(op.source, op.act, tokens, weight.cols), gathered, out, tid);
}

void Executor::walk(int tid) {
  Step step = step_;
  const Context context{&config_, &step, &memory_, &pool_};
  const int T = step.batch.tokens;
  if (tid == 0) times_.skip();
  for (int i = 0; i < int(ops_.size()); ++i) {
    const octavo_op& op = ops_[i];
    const Rows in = view(op.source, op.act, T, op.weight[0].cols);
    switch (op.kind) {
      case OCTAVO_EMBED:
        embed(op, context, tid);
        break;
      case OCTAVO_RENORM:
        kernels_->renorm(op, context, tid);
        break;
      case OCTAVO_NORM: {
        Rows out = view(op.out, op.act, T, config_.width);
        kernels_->norm(op, context, out, tid);
        break;
      }
      case OCTAVO_QKV:
        kernels_->qkv(op, context, in, tid);
        break;
      case OCTAVO_ATTEND: {
        const Work& work = works_[work_of_[i]];
        step.items = work.items.data();
        step.merges = work.merges.data();
        step.item_count = int(work.items.size());
        step.merge_count = int(work.merges.size());
        Rows out = op.apart ? view(op.out, op.act, T * config_.heads, op.head_dim)
                            : view(op.out, op.act, T, config_.heads * op.head_dim);
        kernels_->attend(op, context, out, tid);
        break;
      }
      case OCTAVO_LATENT: {
        Rows out = view(op.out, op.act_out, T, op.weight[1].rows);
        kernels_->latent(op, context, in, out, tid);
        break;
      }
      case OCTAVO_LATENT_QUERY:
        kernels_->latent_query(op, context, in, tid);
        break;
      case OCTAVO_PER_HEAD: {
        Rows out = view(op.out, op.act_out, T, op.weight[0].rows);
        kernels_->per_head(op, context, view(op.source, op.act, T * config_.heads, op.weight[0].cols), out, tid);
        break;
      }
      case OCTAVO_CONV: {
        Rows out = view(op.out, op.act_out, T, config_.width);
        kernels_->conv(op, context, in, out, tid);
        break;
      }
      case OCTAVO_PROJ:
        kernels_->proj(op, context, in, tid);
        break;
      case OCTAVO_FFN_IN: {
        Rows out = view(op.out, op.act_out, T, op.weight[0].rows);
        kernels_->ffn_in(op, context, in, out, tid);
        break;
      }
      case OCTAVO_ROUTE:
        kernels_->route(op, context, in, tid);
        break;
      case OCTAVO_MOE_IN:
      case OCTAVO_MOE_OUT:
        walk_mixture(op, context, tid);
        break;
      case OCTAVO_HIDDEN:
        kernels_->hidden(op, context, tid);
        break;
      case OCTAVO_HEAD:
        head(op, step, context, tid, i);
        break;
    }
    lap(tid, i);
  }
}

void Executor::run(const octavo_batch& batch, const octavo_drawn& drawn) {
  times_.begin();
  place_keys(config_, batch, row_page_, row_last_);
  for (Work& work : works_) work.plan(config_, batch);
  if (drawn.vectors == nullptr) prepare_head(batch);
  step_ = {batch, drawn, row_page_.data(), row_last_.data(), nullptr, nullptr,
           0,     0,     manners_.data(),  blocks_.size(),   {}};
  pool_.run([](void* self, int tid) { static_cast<Executor*>(self)->walk(tid); }, this);
  times_.end();
}

}  // namespace octavo
