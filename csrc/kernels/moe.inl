// The experts: each reads its own rows. An expert that no row goes to is not read.

// The rows of one expert, as if there were no others.
INLINE Rows rows_of(const Rows& all, const Chosen& chosen) {
  return part_of(all, chosen.row0, chosen.rows);
}

// Whether an expert reads all rows of a step: then it finds them where they are.
INLINE bool takes_all(const Rows& in, const Chosen& chosen) {
  return chosen.rows == in.rows;
}

INLINE Tile tile_of_row(const Rows& in, int row) {
  const int tiles = tiles_of(in.rows), size = in.rows / tiles, larger = in.rows % tiles;
  const int many = larger * (size + 1);
  return tile_at(in, row < many ? row / (size + 1) : larger + (row - many) / size);
}

// n words of one row of a tile into a row of another: those of a row lie `mr` apart.
INLINE void copy_words(const void* from, int from_mr, void* to, int to_mr, int n) {
  const uint32_t* source = static_cast<const uint32_t*>(from);
  uint32_t* target = static_cast<uint32_t*>(to);
  for (int i = 0; i < n; ++i) target[size_t(i) * to_mr] = source[size_t(i) * from_mr];
}

// Row `row` of `in` becomes row m of a tile.
static void copy_row(const Rows& in, int row, const Rows& out, const Tile& to, int m) {
  const Tile from = tile_of_row(in, row);
  const int at = row - from.row0;
  const auto part = [&](const auto* source, auto* target, int n) {
    copy_words(source + size_t(from.row0) * n + at, from.mr, target + size_t(to.row0) * n + m, to.mr, n);
  };
  const int pairs = int(padded(in.cols, 2)) / 2;
  const bool halves = in.act.bits == WORD_BITS || (in.act.bits == 16 && PAIRS);
  const int words = in.act.bits == 8 ? in.cols / 4 : halves ? pairs : 2 * pairs;
  part(reinterpret_cast<const uint32_t*>(in.data), reinterpret_cast<uint32_t*>(out.data), words);
  if (in.act.group == 0) return;
  part(in.scale, out.scale, in.cols / in.act.group);
  if (in.act.bits != 8) return;
  const int sums = sums_of(in.cols, in.act.group);
  part(in.sum, out.sum, sums);
  part(in.start4, out.start4, sums);
  part(in.start8, out.start8, sums);
  if (in.act.group == 32) part(in.front, out.front, sums);
}

// Each expert's rows of `in`, in tiles of their own.
static void gather(const Context& context, const Rows& in, const Rows& gathered, int tid) {
  const Mixture& mixture = context.memory->mixture;
  int first, last;
  while (context.pool->claim(tid, mixture.counts[0], &first, &last)) {
    for (int i = first; i < last; ++i) {
      const Chosen& chosen = mixture.chosen[i];
      if (takes_all(in, chosen)) continue;
      const Rows own = rows_of(gathered, chosen);
      for (int index = 0; index < tiles_of(own.rows); ++index) {
        const Tile tile = tile_at(own, index);
        for (int m = 0; m < tile.mr; ++m) copy_row(in, mixture.token[chosen.row0 + tile.row0 + m], own, tile, m);
      }
    }
  }
  context.pool->meet(tid);
}

// h = f(G h + bg) * (U h + bu) of each expert for its rows: units of outputs as in ffn_in.
static void moe_in(const octavo_op& op, const Context& context, const Rows& in, Rows& gathered, Rows& out, int tid) {
  const Mixture& mixture = context.memory->mixture;
  if (in.rows > 1) gather(context, in, gathered, tid);
  const int unit_cols = ffn_unit(op), units = (out.cols + unit_cols - 1) / unit_cols;
  float* gate = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  int first, last;
  while (context.pool->claim(tid, units * mixture.counts[1], &first, &last)) {
    const Chosen* chosen = mixture.chosen;
    for (int item = first; item < last; ++item) {
      while (chosen + 1 < mixture.chosen + mixture.counts[0] && item >= units * chosen[1].block0) ++chosen;
      const Rows own = takes_all(in, *chosen) ? in : rows_of(gathered, *chosen);
      const int tiles = tiles_of(own.rows), blocks = blocks_of_tiles(tiles), at = item - units * chosen->block0;
      const int unit = at / blocks, index = at % blocks;
      const Block block{own, tiles, index * tiles / blocks, (index + 1) * tiles / blocks};
      const octavo_expert& expert = op.expert[chosen->expert];
      ffn_unit_of(op, expert.weight, expert.bias, unit, block, rows_of(out, *chosen), gate);
    }
  }
  context.pool->meet(tid);
}

// The results of some experts' rows, added for the 32 outputs of panel p. to  # [tokens, width]
static void add_shares(const octavo_op& op, const Mixture& mixture, int row0, int rows, int p, int cols,
                       const float* out, float* to, int width, bool normed) {
  for (int r = 0; r < rows; ++r) {
    const float by = normed ? mixture.weight[row0 + r] : op.scale * mixture.weight[row0 + r];
    float* x = to + size_t(mixture.token[row0 + r]) * width + p * PANEL;
    const float* sums = out + r * PANEL;
    if (cols == PANEL) {
      for (int c = 0; c < PANEL; c += LANES) f_store(x + c, f_fma(f_set(by), f_load(sums + c), f_load(x + c)));
    } else {
      for (int c = 0; c < cols; ++c) x[c] += by * sums[c];
    }
  }
}

// x += scale * norm(sum of share * (W h + b) over a token's experts). Whoever has some outputs adds up those of all
// experts, in their order: the sum of a row depends on nothing but the row.
static void moe_out(const octavo_op& op, const Context& context, const Rows& in, int tid) {
  const Mixture& mixture = context.memory->mixture;
  const int width = context.config->width, tokens = context.step->batch.tokens;
  const bool normed = op.norm.kind != OCTAVO_NO_NORM;
  float* to = normed ? context.memory->y : context.memory->x;
  alignas(64) float out[BLOCK_TILES * TILE * PANEL];
  int first, last;
  while (context.pool->claim(tid, int(padded(width, PANEL) / PANEL), &first, &last)) {
    const int end = last * PANEL < width ? last * PANEL : width;
    for (int token = 0; normed && token < tokens; ++token)
      __builtin_memset(to + size_t(token) * width + first * PANEL, 0, (end - first * PANEL) * sizeof(float));
    for (int i = 0; i < mixture.counts[0]; ++i) {
      const Chosen& chosen = mixture.chosen[i];
      const octavo_expert& expert = op.expert[chosen.expert];
      const Rows own = rows_of(in, chosen);
      const int tiles = tiles_of(own.rows), blocks = blocks_of_tiles(tiles);
      for (int p = first; p < last; ++p) {
        const int cols = width - p * PANEL < PANEL ? width - p * PANEL : PANEL;
        for (int index = 0; index < blocks; ++index) {
          const Block block{own, tiles, index * tiles / blocks, (index + 1) * tiles / blocks};
          panel(expert.weight[0], p, block, out, PANEL);
          add_bias(out, PANEL, block.rows(), expert.bias[0] ? expert.bias[0] + p * PANEL : nullptr, cols);
          add_shares(op, mixture, chosen.row0 + block.row0(), block.rows(), p, cols, out, to, width, normed);
        }
      }
    }
  }
  context.pool->meet(tid);
  if (normed) add_normed(op, context, tid);
}
