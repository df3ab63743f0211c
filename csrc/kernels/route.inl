// The choice of experts: in float32, row by row, and a list of each expert's rows.

// Logits of one row become scores, in place; places beyond the last expert hold zeros.
static void score_row(int scoring, float* z, int experts) {
  const int places = int(padded(experts, LANES));
  if (scoring == OCTAVO_SIGMOID) {
    for (int i = 0; i < places; i += LANES) f_store(z + i, f_gated(f_set(1.f), f_load(z + i)));
    for (int i = experts; i < places; ++i) z[i] = 0;
    return;
  }
  float top = z[0];
  for (int i = 1; i < experts; ++i) top = z[i] > top ? z[i] : top;
  for (int i = 0; i < places; i += LANES) f_store(z + i, f_exp2((f_load(z + i) - f_set(top)) * f_set(LOG2E)));
  for (int i = experts; i < places; ++i) z[i] = 0;
  F sum = f_set(0);
  for (int i = 0; i < places; i += LANES) sum = sum + f_load(z + i);
  const F total = f_set(f_hsum(sum));
  for (int i = 0; i < places; i += LANES) f_store(z + i, f_load(z + i) * f_reciprocal(total));
}

// The place of the largest of n values that is not taken, the first of equals; some place that is free, whatever NaNs
// there are.
static int best_of(const float* values, const uint8_t* taken, int n) {
  int best = -1;
  for (int i = 0; i < n; ++i)
    if (!taken[i] && (best < 0 || values[i] > values[best])) best = i;
  return best;
}

// What experts are chosen by: room for one row.
struct Ranking {
  float *rank, *groups;
  uint8_t *taken, *group_taken;
  Ranking(uint8_t* room, int experts)
      : rank(reinterpret_cast<float*>(room)),
        groups(rank + padded(experts, LANES)),
        taken(reinterpret_cast<uint8_t*>(groups + experts)),
        group_taken(taken + experts) {}
};

// Takes the experts of all groups but the best ones; a group is as good as the sum of its `group_top` best experts.
static void take_groups(const octavo_routing& routing, int experts, const Ranking& r) {
  const int size = experts / routing.groups;
  for (int group = 0; group < routing.groups; ++group) {
    float sum = 0;
    uint8_t* taken = r.taken + group * size;
    for (int i = 0; i < routing.group_top; ++i) {
      const int best = best_of(r.rank + group * size, taken, size);
      sum += r.rank[group * size + best];
      taken[best] = 1;
    }
    __builtin_memset(taken, 1, size);
    r.groups[group] = sum;
    r.group_taken[group] = 0;
  }
  for (int i = 0; i < routing.top_groups; ++i) {
    const int best = best_of(r.groups, r.group_taken, routing.groups);
    r.group_taken[best] = 1;
    __builtin_memset(r.taken + best * size, 0, size);
  }
}

// The experts of one row and their shares.
static void choose_row(const octavo_op& op, float* z, int32_t* expert, float* share, const Ranking& r) {
  const octavo_routing& routing = op.routing;
  const int experts = op.experts;
  // Softmax keeps the order of logits, but for those it rounds to one number.
  const bool by_score = routing.scoring != OCTAVO_SOFTMAX || routing.correction;
  if (!by_score) __builtin_memcpy(r.rank, z, experts * sizeof(float));
  score_row(routing.scoring, z, experts);
  for (int i = 0; by_score && i < experts; ++i) r.rank[i] = routing.correction ? z[i] + routing.correction[i] : z[i];
  __builtin_memset(r.taken, 0, experts);
  if (routing.groups > 1) take_groups(routing, experts, r);
  float sum = 0;
  for (int i = 0; i < routing.top; ++i) {
    const int best = best_of(r.rank, r.taken, experts);
    r.taken[best] = 1;
    expert[i] = best;
    share[i] = z[best];
    sum += share[i];
  }
  const float by = routing.renormalise ? op.scale / (sum + 1e-20f) : op.scale;
  for (int i = 0; i < routing.top; ++i) share[i] *= by;
}

// Each expert's rows, by counting.
static void list_rows(const octavo_op& op, int tokens, const Mixture& to) {
  const int top = op.routing.top;
  __builtin_memset(to.next, 0, op.experts * sizeof(int32_t));
  for (int i = 0; i < tokens * top; ++i) ++to.next[to.expert[i]];
  int row = 0, count = 0, blocks = 0;
  for (int e = 0; e < op.experts; ++e) {
    const int rows = to.next[e];
    to.next[e] = row;
    if (rows == 0) continue;
    to.chosen[count++] = {e, row, rows, blocks};
    row += rows;
    blocks += blocks_of_tiles(tiles_of(rows));
  }
  to.counts[0] = count;
  to.counts[1] = blocks;
  for (int token = 0; token < tokens; ++token) {
    for (int i = 0; i < top; ++i) {
      const int at = to.next[to.expert[token * top + i]]++;
      to.token[at] = token;
      to.weight[at] = to.share[token * top + i];
    }
  }
}

static void route(const octavo_op& op, const Context& context, const Rows& in, int tid) {
  const Mixture& to = context.memory->mixture;
  const int panels = int(padded(op.experts, PANEL) / PANEL);
  const bool gated = op.weight[1].data != nullptr;
  for_units(context, panels + gated, in, tid, [&](int unit, const Block& block) {
    alignas(64) float out[BLOCK_TILES * TILE * PANEL];
    const int row0 = block.row0(), rows = block.rows();
    if (unit == panels) {
      panel(op.weight[1], 0, block, out, PANEL);
      for (int r = 0; r < rows; ++r) {
        f_store(out + r * PANEL, f_gated(f_set(1.f), f_load(out + r * PANEL)));
        to.gate[row0 + r] = out[r * PANEL];
      }
      return;
    }
    panel(op.weight[0], unit, block, out, PANEL);
    const int cols = op.experts - unit * PANEL < PANEL ? op.experts - unit * PANEL : PANEL;
    add_bias(out, PANEL, rows, op.vec[0] ? op.vec[0] + unit * PANEL : nullptr, cols);
    for (int r = 0; r < rows; ++r)
      __builtin_memcpy(to.scores + size_t(row0 + r) * to.stride + unit * PANEL, out + r * PANEL, PANEL * sizeof(float));
  });
  const Ranking ranking(context.memory->scratch + tid * context.memory->scratch_bytes, op.experts);
  int first, last;
  while (context.pool->claim(tid, in.rows, &first, &last)) {
    for (int row = first; row < last; ++row) {
      const size_t at = size_t(row) * op.routing.top;
      choose_row(op, to.scores + size_t(row) * to.stride, to.expert + at, to.share + at, ranking);
    }
  }
  context.pool->meet(tid);
  while (context.pool->claim(tid, 1, &first, &last)) list_rows(op, in.rows, to);
  context.pool->meet(tid);
}
