// What changes the residual stream x.

// x = norm(x)
static void renorm(const octavo_op& op, const Context& context, int tid) {
  const int width = context.config->width;
  int first, last;
  while (context.pool->claim(tid, context.step->batch.tokens, &first, &last)) {
    for (int row = first; row < last; ++row) {
      float* x = context.memory->x + size_t(row) * width;
      norm_row(op.norm, x, width, width, x);
    }
  }
  context.pool->meet(tid);
}

// norm(x) of the rows that are asked
static void hidden(const octavo_op& op, const Context& context, int tid) {
  const octavo_batch& batch = context.step->batch;
  const int width = context.config->width;
  int first, last;
  while (context.pool->claim(tid, batch.head, &first, &last)) {
    for (int i = first; i < last; ++i)
      norm_row(op.norm, context.memory->x + size_t(batch.rows[i]) * width, width, width,
               context.step->drawn.vectors + size_t(i) * width);
  }
  context.pool->meet(tid);
}

// What one token's result is multiplied with before it is added.
INLINE float share_of(const octavo_op& op, const Context& context, int row) {
  return op.gated ? op.scale * context.memory->mixture.gate[row] : op.scale;
}

// x += scale * norm(y), y being whole by now
static void add_normed(const octavo_op& op, const Context& context, int tid) {
  const int width = context.config->width;
  int first, last;
  while (context.pool->claim(tid, context.step->batch.tokens, &first, &last)) {
    for (int row = first; row < last; ++row) {
      float *x = context.memory->x + size_t(row) * width, *y = context.memory->y + size_t(row) * width;
      norm_row(op.norm, y, width, width, y);
      const float by = share_of(op, context, row);
      for (int i = 0; i < width; ++i) x[i] += by * y[i];
    }
  }
  context.pool->meet(tid);
}

// x += scale * norm(W h + b)
static void proj(const octavo_op& op, const Context& context, const Rows& in, int tid) {
  const octavo_weight& weight = op.weight[0];
  const int width = context.config->width;
  const bool normed = op.norm.kind != OCTAVO_NO_NORM;
  float* to = normed ? context.memory->y : context.memory->x;
  for_units(context, int(padded(weight.rows, PANEL) / PANEL), in, tid, [&](int unit, const Block& block) {
    alignas(64) float out[BLOCK_TILES * TILE * PANEL];
    panel(weight, unit, block, out, PANEL);
    const int cols = weight.rows - unit * PANEL < PANEL ? weight.rows - unit * PANEL : PANEL;
    const int row0 = block.row0(), rows = block.rows();
    add_bias(out, PANEL, rows, op.vec[0] ? op.vec[0] + unit * PANEL : nullptr, cols);
    for (int r = 0; r < rows; ++r) {
      const float by = share_of(op, context, row0 + r);
      float* row = to + size_t(row0 + r) * width + unit * PANEL;
      const float* sums = out + r * PANEL;
      if (normed) {
        __builtin_memcpy(row, sums, cols * sizeof(float));
      } else if (by == 1.f) {
        for (int c = 0; c < cols; ++c) row[c] += sums[c];
      } else {
        for (int c = 0; c < cols; ++c) row[c] += by * sums[c];
      }
    }
  });
  if (normed) add_normed(op, context, tid);
}
