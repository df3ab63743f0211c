// The first half of a feed-forward.

// f(z), times its factor where there is one; what gpt-oss does needs a factor, and clamps both.
template <int ACTIVATION>
INLINE F f_joined(F z, const float* factor, float limit) {
  if (ACTIVATION == OCTAVO_SWIGLU_OAI) {
    const F most = f_set(limit), kept = f_min(most, z);
    const F by = f_max(f_set(-limit), f_min(most, f_load(factor)));
    return f_gated(kept, kept * f_set(1.702f)) * (by + f_set(1.f));
  }
  const F value = f_activate<ACTIVATION>(z);
  return factor ? value * f_load(factor) : value;
}

// In place: z, factor [rows][ld].
template <int ACTIVATION>
static void activate(float* z, const float* factor, float limit, long ld, int rows, int cols) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; c += LANES) {
      const long at = r * ld + c;
      f_store(z + at, f_joined<ACTIVATION>(f_load(z + at), factor ? factor + at : nullptr, limit));
    }
}

static void activate_by(const octavo_op& op, float* z, const float* factor, long ld, int rows, int cols) {
  switch (op.activation) {
    case OCTAVO_SILU:
      return activate<OCTAVO_SILU>(z, factor, 0, ld, rows, cols);
    case OCTAVO_GELU:
      return activate<OCTAVO_GELU>(z, factor, 0, ld, rows, cols);
    case OCTAVO_GELU_TANH:
      return activate<OCTAVO_GELU_TANH>(z, factor, 0, ld, rows, cols);
    case OCTAVO_RELU:
      return activate<OCTAVO_RELU>(z, factor, 0, ld, rows, cols);
    case OCTAVO_RELU2:
      return activate<OCTAVO_RELU2>(z, factor, 0, ld, rows, cols);
    default:
      return activate<OCTAVO_SWIGLU_OAI>(z, factor, op.limit, ld, rows, cols);
  }
}

// One unit of outputs for a block of rows: f(G h + bg) * (U h + bu), or without a second weight f(G h + bg). A unit is
// whole groups of the next projection's inputs. z: [2][BLOCK_TILES * TILE][outputs of a unit]
static void ffn_unit_of(const octavo_op& op, const octavo_weight* weight, const float* const* bias, int unit,
                        const Block& block, const Rows& out, float* z) {
  const int unit_cols = ffn_unit(op), inner = weight[0].rows;
  const bool gated = weight[1].data != nullptr;
  float* factor = gated ? z + BLOCK_TILES * TILE * unit_cols : nullptr;
  const int first = unit * unit_cols, cols = inner - first < unit_cols ? inner - first : unit_cols;
  const int row0 = block.row0(), rows = block.rows();
  for (int c = 0; c < cols; c += PANEL) {
    panel(weight[0], (first + c) / PANEL, block, z + c, unit_cols);
    if (gated) panel(weight[1], (first + c) / PANEL, block, factor + c, unit_cols);
  }
  add_bias(z, unit_cols, rows, bias[0] ? bias[0] + first : nullptr, cols);
  if (gated) add_bias(factor, unit_cols, rows, bias[1] ? bias[1] + first : nullptr, cols);
  activate_by(op, z, factor, unit_cols, rows, cols);
  for (int index = block.first; index < block.end; ++index) {
    const Tile tile = tile_at(out, index);
    store_rows(out, tile.row0, tile.mr, first, cols, z + (tile.row0 - row0) * unit_cols, unit_cols);
  }
}

static void ffn_in(const octavo_op& op, const Context& context, const Rows& in, Rows& out, int tid) {
  const int unit_cols = ffn_unit(op);
  float* z = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  for_units(context, (op.weight[0].rows + unit_cols - 1) / unit_cols, in, tid,
            [&](int unit, const Block& block) { ffn_unit_of(op, op.weight, op.vec, unit, block, out, z); });
}
