// Short convolutions between two gates: h = c * (bias + sum of taps * u), u = b * z of a token and those before it.
//
// u lies in the pages where keys and values would, as rows [PAGE][numbers] in one place of a layer after the other, and
// is read from there only: what a token gets does not depend on which tokens are computed with it.

INLINE int place_numbers(const octavo_config& config) {
  return 2 * config.kv_heads * config.head_dim;
}

// Where numbers from `first` on of a token lie, as far as their place goes: whole panels.
INLINE uint8_t* u_at(const Context& context, const octavo_op& op, int page, int position, int first) {
  const octavo_config& config = *context.config;
  const int numbers = place_numbers(config);
  return page_head(context, op.layer + first / numbers, page, 0) +
         (size_t(position % PAGE) * numbers + first % numbers) * element_bytes(config);
}

INLINE F load_u(const octavo_config& config, const uint8_t* at) {
  if (config.kv_float32) return f_load(reinterpret_cast<const float*>(at));
  uint32_t bits[LANES];
  for (int i = 0; i < LANES; ++i) {
    uint16_t half;
    __builtin_memcpy(&half, at + 2 * i, 2);
    bits[i] = uint32_t(half) << 16;
  }
  float values[LANES];
  __builtin_memcpy(values, bits, sizeof values);
  return f_load(values);
}

// The run that a row is of.
static int run_of(const octavo_batch& batch, int row) {
  int low = 0, high = batch.runs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (batch.starts[middle] <= row ? low : high) = middle;
  }
  return low;
}

// One panel of b and z, as u to the pages of a block's rows.
static void write_u(const octavo_op& op, const Context& context, int first, const Block& block, const float* b,
                    const float* z) {
  const Step& step = *context.step;
  for (int r = 0; r < block.rows(); ++r) {
    const int row = block.row0() + r;
    const int page = step.row_page[size_t(op.group) * step.batch.tokens + row];
    uint8_t* at = u_at(context, op, page, step.batch.positions[row], first);
    for (int c = 0; c < PANEL; c += LANES) {
      const F u = f_load(b + r * PANEL + c) * f_load(z + r * PANEL + c);
      if (context.config->kv_float32)
        f_store(reinterpret_cast<float*>(at) + c, u);
      else
        f_store_bf16(reinterpret_cast<uint16_t*>(at) + c, u);
    }
  }
}

// One row: y = c * (bias + sum of taps * u), whole panels.
static void convolve(const octavo_op& op, const Context& context, int row, int cols, float* y) {
  const octavo_config& config = *context.config;
  const octavo_batch& batch = context.step->batch;
  const int32_t* table = table_of(config, batch, run_of(batch, row), op.group);
  const int position = batch.positions[row], before = position - op.window + 1;
  const float* gate = context.memory->q + size_t(row) * cols;
  for (int first = 0; first < cols; first += PANEL) {
    F sum[PANEL / LANES];
    for (int i = 0; i < PANEL / LANES; ++i) sum[i] = op.tap_bias ? f_load(op.tap_bias + first + i * LANES) : f_set(0);
    for (int tap = before < 0 ? -before : 0; tap < op.window; ++tap) {
      const uint8_t* at = u_at(context, op, table[(before + tap) / PAGE], before + tap, first);
      const float* by = op.taps + size_t(tap) * cols + first;
      for (int i = 0; i < PANEL / LANES; ++i)
        sum[i] = f_fma(f_load(by + i * LANES), load_u(config, at + i * LANES * element_bytes(config)), sum[i]);
    }
    for (int i = 0; i < PANEL / LANES; ++i) f_store(y + first + i * LANES, f_load(gate + first + i * LANES) * sum[i]);
  }
}

// One unit is 32 numbers of b, c and z; then, all of u being there, rows are tiled as what they are read by wants them.
static void conv(const octavo_op& op, const Context& context, const Rows& in, Rows& out, int tid) {
  const int width = context.config->width, cols = int(padded(width, PANEL));
  for_units(context, cols / PANEL, in, tid, [&](int unit, const Block& block) {
    alignas(64) float gates[2][BLOCK_TILES * TILE * PANEL];
    const int first = unit * PANEL, left = width - first < PANEL ? width - first : PANEL;
    float* c = context.memory->q + size_t(block.row0()) * cols + first;
    float* const to[] = {gates[0], c, gates[1]};
    for (int which = 0; which < 3; ++which) {
      const long ld = which == 1 ? cols : PANEL;
      panel(op.weight[which], unit, block, to[which], ld);
      add_bias(to[which], ld, block.rows(), op.vec[which] ? op.vec[which] + first : nullptr, left);
    }
    write_u(op, context, first, block, gates[0], gates[1]);
  });
  float* y = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  int first, last;
  while (context.pool->claim(tid, tiles_of(out.rows), &first, &last)) {
    for (int index = first; index < last; ++index) {
      const Tile tile = tile_at(out, index);
      for (int m = 0; m < tile.mr; ++m) convolve(op, context, tile.row0 + m, cols, y + m * size_t(cols));
      store_rows(out, tile.row0, tile.mr, 0, width, y, cols);
    }
  }
  context.pool->meet(tid);
}
