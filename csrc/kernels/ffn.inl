// The first half of a feed-forward.

// f(z), times its factor where there is one, in place: z, factor [rows][ld].
template <int ACTIVATION>
static void activate(float* z, const float* factor, long ld, int rows, int cols) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; c += LANES) {
      const F value = f_activate<ACTIVATION>(f_load(z + r * ld + c));
      f_store(z + r * ld + c, factor ? value * f_load(factor + r * ld + c) : value);
    }
}

static void activate_by(int activation, float* z, const float* factor, long ld, int rows, int cols) {
  switch (activation) {
    case OCTAVO_SILU:
      return activate<OCTAVO_SILU>(z, factor, ld, rows, cols);
    case OCTAVO_GELU:
      return activate<OCTAVO_GELU>(z, factor, ld, rows, cols);
    case OCTAVO_GELU_TANH:
      return activate<OCTAVO_GELU_TANH>(z, factor, ld, rows, cols);
    case OCTAVO_RELU:
      return activate<OCTAVO_RELU>(z, factor, ld, rows, cols);
    default:
      return activate<OCTAVO_RELU2>(z, factor, ld, rows, cols);
  }
}

// h = f(G h + bg) * (U h + bu), or without a second weight f(G h + bg), in units of whole groups of the next
// projection's inputs.
static void ffn_in(const octavo_op& op, const Context& context, const Rows& in, Rows& out, int tid) {
  const int inner = op.weight[0].rows;
  const int unit_cols = ffn_unit(op);
  const bool gated = op.weight[1].data != nullptr;
  float* gate = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  float* up = gated ? gate + BLOCK_TILES * TILE * unit_cols : nullptr;
  for_units(context, (inner + unit_cols - 1) / unit_cols, in, tid, [&](int unit, const Block& block) {
    const int first = unit * unit_cols, cols = inner - first < unit_cols ? inner - first : unit_cols;
    const int row0 = block.row0(), rows = block.rows();
    for (int c = 0; c < cols; c += PANEL) {
      panel(op.weight[0], (first + c) / PANEL, block, gate + c, unit_cols);
      if (gated) panel(op.weight[1], (first + c) / PANEL, block, up + c, unit_cols);
    }
    add_bias(gate, unit_cols, rows, op.vec[0] ? op.vec[0] + first : nullptr, cols);
    if (gated) add_bias(up, unit_cols, rows, op.vec[1] ? op.vec[1] + first : nullptr, cols);
    activate_by(op.activation, gate, up, unit_cols, rows, cols);
    for (int index = block.first; index < block.end; ++index) {
      const Tile tile = tile_at(out, index);
      store_rows(out, tile.row0, tile.mr, first, cols, gate + (tile.row0 - row0) * unit_cols, unit_cols);
    }
  });
}
