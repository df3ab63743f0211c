// Latent attention: one key for all heads, in a space that each head's query is taken to and its values come from by
// matrices of its own.

// Keys that wait in y: normed, turned, and to their pages; narrow queries behind them: normed.
static void finish_latent(const octavo_op& op, const Context& context, int row, float* y) {
  const octavo_config& config = *context.config;
  const Step& step = *context.step;
  const int position = step.batch.positions[row], rank = op.head_dim, D = config.head_dim;
  norm_row(op.norm, y, rank, rank, y);
  rotate(op, position, D - rank, y + rank);
  uint8_t* page = row_head(context, op, row, 0);
  write_key(config, page, position % PAGE, y);
  write_value(config, page, position % PAGE, y, rank, step.row_last[row]);
  const int narrow = op.weight[1].rows;
  if (narrow > 0) norm_row(op.head_norm[0].norm, y + D, narrow, narrow, y + D);
}

// One unit is 32 outputs of the key, then of the narrow query.
static void latent(const octavo_op& op, const Context& context, const Rows& in, Rows& out, int tid) {
  const int D = context.config->head_dim, keys = D / PANEL;
  const size_t cols = latent_cols(op);
  for_units(context, int(cols) / PANEL, in, tid, [&](int unit, const Block& block) {
    const int which = unit < keys ? 0 : 1, first = (unit - which * keys) * PANEL;
    const int left = op.weight[which].rows - first;
    float* to = context.memory->y + block.row0() * cols + unit * PANEL;
    panel(op.weight[which], first / PANEL, block, to, long(cols));
    const float* bias = op.vec[which];
    add_bias(to, long(cols), block.rows(), bias ? bias + first : nullptr, left < PANEL ? left : PANEL);
  });
  int first, last;
  while (context.pool->claim(tid, tiles_of(in.rows), &first, &last)) {
    for (int index = first; index < last; ++index) {
      const Tile tile = tile_at(in, index);
      float* y = context.memory->y + tile.row0 * cols;
      for (int m = 0; m < tile.mr; ++m) finish_latent(op, context, tile.row0 + m, y + m * cols);
      if (out.cols > 0) store_rows(out, tile.row0, tile.mr, 0, out.cols, y + D, long(cols));
    }
  }
  context.pool->meet(tid);
}

// What the first part of a head's query is read in by its matrix; lies in a thread's own memory.
static Rows unit_rows(const octavo_op& op, const LatentUnit& unit, int rows, float* at) {
  const size_t most = BLOCK_TILES * TILE, inputs = padded(unit.plain, 4 * QUADS), sums = most * (inputs / (4 * QUADS));
  float* numbers = at + most * inputs;
  const auto integers = [&](int place) { return reinterpret_cast<int32_t*>(numbers + place * sums); };
  return {op.act_out,  rows,        unit.plain, reinterpret_cast<uint8_t*>(at), numbers, numbers + sums,
          integers(2), integers(3), integers(4)};
}

// One unit is one head: its product, the first part taken to the latent keys, the rest turned.
static void latent_query(const octavo_op& op, const Context& context, const Rows& in, int tid) {
  const octavo_config& config = *context.config;
  const int D = config.head_dim, rank = op.head_dim;
  const LatentUnit unit = latent_unit(config, op);
  float* z = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  float* lifted = z + BLOCK_TILES * TILE * unit.cols();
  for_units(context, config.heads, in, tid, [&](int head, const Block& block) {
    const int row0 = block.row0(), rows = block.rows();
    const auto query = [&](int row) { return context.memory->q + (size_t(row0 + row) * config.heads + head) * D; };
    for (int c = 0; c < unit.cols(); c += PANEL)
      panel(op.weight[0], (head * unit.cols() + c) / PANEL, block, z + c, unit.cols());
    const Rows own = unit_rows(op, unit, rows, lifted + BLOCK_TILES * TILE * PANEL);
    const Block all{own, tiles_of(rows), 0, tiles_of(rows)};
    for (int index = 0; index < all.end; ++index) {
      const Tile tile = tile_at(own, index);
      store_rows(own, tile.row0, tile.mr, 0, unit.plain, z + tile.row0 * unit.cols(), unit.cols());
    }
    for (int c = 0; c < rank; c += PANEL) {
      panel(op.weight[1], (head * rank + c) / PANEL, all, lifted, PANEL);
      for (int r = 0; r < rows; ++r) __builtin_memcpy(query(r) + c, lifted + r * PANEL, PANEL * sizeof(float));
    }
    for (int r = 0; r < rows; ++r) {
      float* rest = z + r * unit.cols() + unit.plain;
      rotate(op, context.step->batch.positions[row0 + r], unit.rest, rest);
      __builtin_memcpy(query(r) + rank, rest, unit.rest * sizeof(float));
    }
  });
}

// h = W_i h_i of all heads, side by side. A unit is whole groups of the next projection's inputs.
static void per_head(const octavo_op& op, const Context& context, const Rows& in, Rows& out, int tid) {
  const int unit_cols = ffn_unit(op), tokens = out.rows, each = op.weight[0].rows / context.config->heads;
  float* z = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  for_units(context, (out.cols + unit_cols - 1) / unit_cols, out, tid, [&](int unit, const Block& block) {
    const int first = unit * unit_cols, cols = out.cols - first < unit_cols ? out.cols - first : unit_cols;
    for (int c = 0; c < cols; c += PANEL) {
      const Rows own = part_of(in, (first + c) / each * tokens, tokens);
      panel(op.weight[0], (first + c) / PANEL, {own, block.tiles, block.first, block.end}, z + c, unit_cols);
    }
    for (int index = block.first; index < block.end; ++index) {
      const Tile tile = tile_at(out, index);
      store_rows(out, tile.row0, tile.mr, first, cols, z + (tile.row0 - block.row0()) * unit_cols, unit_cols);
    }
  });
}
