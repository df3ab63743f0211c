// Projections to queries, keys and values, their pages, and attention over pages.
//
// A page-head is K then V, each a packed panel of 32 tokens:
//   bfloat16  K [D/2][32 tokens][2]   V [D/32][16 token pairs][32 dims][2]
//   float32   K [D][32 tokens]        V [D/32][32 tokens][32 dims]
// so that q k^T and p v are the micro-kernels of the projections.

INLINE size_t element_bytes(const octavo_config& config) {
  return config.kv_float32 ? 4 : 2;
}

INLINE uint8_t* page_head(const Context& context, int layer, int page, int kv_head) {
  const octavo_config& config = *context.config;
  const size_t size = size_t(2) * PAGE * config.head_dim * element_bytes(config);
  return context.memory->pages + layer * context.memory->layer_stride +
         (size_t(page) * config.kv_heads + kv_head) * size;
}

INLINE uint16_t bf16_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return uint16_t((x == x ? u + 0x7FFF + ((u >> 16) & 1) : u) >> 16);
}

static void write_key(const octavo_config& config, uint8_t* page, int token, const float* k) {
  if (config.kv_float32) {
    float* at = reinterpret_cast<float*>(page) + token;
    for (int d = 0; d < config.head_dim; ++d) at[d * PAGE] = k[d];
    return;
  }
  uint32_t* at = reinterpret_cast<uint32_t*>(page) + token;
  for (int d = 0; d < config.head_dim; d += LANES) {
    uint16_t bits[LANES];
    f_store_bf16(bits, f_load(k + d));
    for (int j = 0; j < LANES / 2; ++j) __builtin_memcpy(at + (d / 2 + j) * PAGE, bits + 2 * j, 4);
  }
}

// `last`: no later token of this step shares the pair; its unused half must hold a number.
static void write_value(const octavo_config& config, uint8_t* page, int token, const float* v, bool last) {
  const int D = config.head_dim;
  uint8_t* values = page + size_t(PAGE) * D * element_bytes(config);
  for (int panel = 0; panel < D / PANEL; ++panel) {
    if (config.kv_float32) {
      float* at = reinterpret_cast<float*>(values) + (panel * PAGE + token) * PANEL;
      for (int c = 0; c < PANEL; ++c) at[c] = v[panel * PANEL + c];
      continue;
    }
    uint16_t* at = reinterpret_cast<uint16_t*>(values) + (panel * PAGE / 2 + token / 2) * PANEL * 2 + token % 2;
    for (int c = 0; c < PANEL; ++c) at[2 * c] = bf16_bits(v[panel * PANEL + c]);
    if (last && token % 2 == 0)
      for (int c = 0; c < PANEL; ++c) at[2 * c + 1] = 0;
  }
}

static void rotate(const octavo_op& op, int position, int head_dim, float* head) {
  const int half = head_dim / 2;
  const float* cos = op.rope_cos + size_t(position) * half;
  const float* sin = op.rope_sin + size_t(position) * half;
  for (int i = 0; i < half; i += LANES) {
    const F a = f_load(head + i), b = f_load(head + half + i), c = f_load(cos + i), s = f_load(sin + i);
    f_store(head + i, a * c - b * s);
    f_store(head + half + i, b * c + a * s);
  }
}

// One unit is one head, of queries, then keys, then values.
static void qkv(const octavo_op& op, const Context& context, const Rows& in, int tid) {
  const octavo_config& config = *context.config;
  const Step& step = *context.step;
  const int D = config.head_dim, heads = config.heads, kv_heads = config.kv_heads;
  float* out = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  for_units(context, heads + 2 * kv_heads, in, tid, [&](int unit, const Block& block) {
    const int which = unit < heads ? 0 : unit < heads + kv_heads ? 1 : 2;
    const int head = unit - (which == 0 ? 0 : which == 1 ? heads : heads + kv_heads);
    const int row0 = block.row0(), rows = block.rows();
    for (int c = 0; c < D; c += PANEL) panel(op.weight[which], (head * D + c) / PANEL, block, out + c, D);
    add_bias(out, D, rows, op.vec[which] ? op.vec[which] + head * D : nullptr, D);
    for (int r = 0; r < rows; ++r) {
      const int row = row0 + r, position = step.batch.positions[row];
      float* values = out + r * D;
      if (which != 2) rotate(op, position, D, values);
      if (which == 0) {
        __builtin_memcpy(context.memory->q + (size_t(row) * heads + head) * D, values, D * sizeof(float));
        continue;
      }
      uint8_t* page = page_head(context, op.layer, step.row_page[row], head);
      if (which == 1)
        write_key(config, page, position % PAGE, values);
      else
        write_value(config, page, position % PAGE, values, step.row_last[row]);
    }
  });
}

// Working memory of one attention item.
struct Scratch {
  float* scores;  // [TILE][BLOCK]: scores, then probabilities in the form the dots read
  float* q;       // [D][TILE] in that form
  float* out;     // [TILE][D]
  float* part;    // [TILE][D] of one block
  float top[TILE], sum[TILE];
};

// Scores and weighted values of N rows against the keys [block * BLOCK, ...) of one run. limit[m] is the number of keys
// row m sees. Gives part, and for each row the largest score and the sum of exp(score - largest); sum 0: it sees none.
template <int N>
static void attend_block(const Context& context, const octavo_op& op, const int32_t* table, int kv_head, int block,
                         const int* limit, Scratch& s, float* top, float* sum) {
  const octavo_config& config = *context.config;
  const int D = config.head_dim;
  int most = 0;
  for (int m = 0; m < N; ++m) most = limit[m] > most ? limit[m] : most;
  most = most - block * BLOCK < BLOCK ? most - block * BLOCK : BLOCK;
  const int pages = (most + PAGE - 1) / PAGE;
  const int32_t* page_ids = table + block * (BLOCK / PAGE);
  for (int i = 0; i < pages; ++i) {
    const uint8_t* keys = page_head(context, op.layer, page_ids[i], kv_head);
    F c[N][2];
    for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = f_set(0);
    if (config.kv_float32) {
      for (int d = 0; d < D; ++d) f32_step<N>(c, reinterpret_cast<const float*>(keys) + d * PAGE, s.q + d * N, 1);
    } else {
      const uint32_t* q = reinterpret_cast<const uint32_t*>(s.q);
      for (int d = 0; d < D / 2; ++d) bf16_step<N>(c, keys + d * 128, q + d * (PAIRS ? N : 2 * N), 1, N);
    }
    for (int m = 0; m < N; ++m) {
      f_store(s.scores + m * BLOCK + i * PAGE, c[m][0]);
      f_store(s.scores + m * BLOCK + i * PAGE + 16, c[m][1]);
    }
  }
  for (int m = 0; m < N; ++m) {
    float* score = s.scores + m * BLOCK;
    int n = limit[m] - block * BLOCK;
    n = n < 0 ? 0 : n < most ? n : most;
    const int wide = (n + LANES - 1) / LANES * LANES;
    for (int t = n; t < wide; ++t) score[t] = -__builtin_inff();
    F best = f_set(-__builtin_inff());
    for (int t = 0; t < wide; t += LANES) best = f_max(best, f_load(score + t));
    top[m] = n > 0 ? f_hmax(best) : 0.f;
    const F shift = f_set(top[m]), log2e = f_set(LOG2E);
    F total = f_set(0);
    for (int t = 0; t < wide; t += LANES) {
      const F p = f_exp2((f_load(score + t) - shift) * log2e);
      total = total + p;
      if (config.kv_float32)
        f_store(score + t, p);
      else if (PAIRS)  // in place: the 16-bit probabilities never overtake the scores
        f_store_bf16(reinterpret_cast<uint16_t*>(score) + t, p);
      else
        f_store(score + t, f_bf16(p));
    }
    sum[m] = n > 0 ? f_hsum(total) : 0.f;
    const int end = pages * PAGE;
    if (PAIRS && !config.kv_float32)
      __builtin_memset(reinterpret_cast<uint16_t*>(score) + wide, 0, (end - wide) * sizeof(uint16_t));
    else
      __builtin_memset(score + wide, 0, (end - wide) * sizeof(float));
  }
  for (int p = 0; p < D / PANEL; ++p) {
    F c[N][2];
    for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = f_set(0);
    for (int i = 0; i < pages; ++i) {
      const int tokens = most - i * PAGE < PAGE ? most - i * PAGE : PAGE;
      const uint8_t* values =
          page_head(context, op.layer, page_ids[i], kv_head) + size_t(PAGE) * D * element_bytes(config);
      if (config.kv_float32) {
        const float* v = reinterpret_cast<const float*>(values) + p * PAGE * PANEL;
        for (int t = 0; t < tokens; ++t) f32_step<N>(c, v + t * PANEL, s.scores + i * PAGE + t, BLOCK);
      } else {
        const uint8_t* v = values + p * PAGE * PANEL * 2;
        const uint32_t* a = reinterpret_cast<const uint32_t*>(s.scores) + i * (PAIRS ? PAGE / 2 : PAGE);
        for (int t = 0; t < (tokens + 1) / 2; ++t) bf16_step<N>(c, v + t * 128, a + t * (PAIRS ? 1 : 2), BLOCK, 1);
      }
    }
    for (int m = 0; m < N; ++m) {
      f_store(s.part + m * D + p * PANEL, c[m][0]);
      f_store(s.part + m * D + p * PANEL + 16, c[m][1]);
    }
  }
}

// Adds one block's result to what the blocks before it gave. Always called in order of blocks.
static void merge_rows(int n, int D, bool first, const float* part, const float* top, const float* sum, float* out,
                       float* out_top, float* out_sum) {
  for (int m = 0; m < n; ++m) {
    if (sum[m] == 0.f && !first) continue;
    float keep = 0.f, add = 1.f;
    if (!first) {
      const float most = top[m] > out_top[m] ? top[m] : out_top[m];
      alignas(64) float factor[LANES] = {(out_top[m] - most) * LOG2E, (top[m] - most) * LOG2E};
      f_store(factor, f_exp2(f_load(factor)));
      keep = factor[0];
      add = factor[1];
      out_top[m] = most;
      out_sum[m] = out_sum[m] * keep + sum[m] * add;
    } else {
      out_top[m] = top[m];
      out_sum[m] = sum[m];
    }
    const F old = f_set(keep), by = f_set(add);
    for (int d = 0; d < D; d += LANES) {
      const F value = f_load(part + m * D + d) * by;
      f_store(out + m * D + d, first ? value : f_fma(f_load(out + m * D + d), old, value));
    }
  }
}

// Rows of an item: (token, head in group), token by token.
struct ItemRows {
  int token0, group;  // the run's first row in the step; query heads of one key head
  int row(int i) const { return token0 + i / group; }
  int head(int i, int kv_head) const { return kv_head * group + i % group; }
};

INLINE void write_out(const Context& context, const ItemRows& rows, int row0, int n, int kv_head, const float* out,
                      const float* sum) {
  const octavo_config& config = *context.config;
  for (int m = 0; m < n; ++m) {
    const F by = f_set(1.f / sum[m]);
    float* to = context.memory->q +
                (size_t(rows.row(row0 + m)) * config.heads + rows.head(row0 + m, kv_head)) * config.head_dim;
    for (int d = 0; d < config.head_dim; d += LANES) f_store(to + d, f_load(out + m * config.head_dim + d) * by);
  }
}

template <int N>
static void attend_rows(const Context& context, const octavo_op& op, const Item& item, int offset, Scratch& s) {
  const octavo_config& config = *context.config;
  const octavo_batch& batch = context.step->batch;
  const int D = config.head_dim;
  const ItemRows rows{batch.starts[item.run], config.heads / config.kv_heads};
  const int row0 = item.row0 + offset;
  const int32_t* table = batch.tables + batch.slots[item.run] * batch.table_stride;
  int limit[N];
  const F scale = f_set(op.scale);
  for (int m = 0; m < N; ++m) {
    const int row = rows.row(row0 + m);
    limit[m] = batch.positions[row] + 1;
    const float* q = context.memory->q + (size_t(row) * config.heads + rows.head(row0 + m, item.kv_head)) * D;
    for (int d = 0; d < D; d += LANES) {
      const F x = f_load(q + d) * scale;
      alignas(64) float part[LANES];
      if (!config.kv_float32 && PAIRS) {
        uint16_t bits[LANES];
        f_store_bf16(bits, x);
        uint32_t* to = reinterpret_cast<uint32_t*>(s.q);
        for (int j = 0; j < LANES / 2; ++j) __builtin_memcpy(to + (d / 2 + j) * N + m, bits + 2 * j, 4);
      } else {
        f_store(part, config.kv_float32 ? x : f_bf16(x));
        for (int j = 0; j < LANES; ++j) s.q[(d + j) * N + m] = part[j];
      }
    }
  }
  float out_top[N], out_sum[N];
  for (int block = item.block0; block < item.block1; ++block) {
    attend_block<N>(context, op, table, item.kv_head, block, limit, s, s.top, s.sum);
    if (item.partial >= 0) {  // one block of many, merged later: [TILE] tops, [TILE] sums, [TILE][D] values
      float* place = context.memory->partials + size_t(item.partial + block - item.block0) * TILE * (D + 2);
      for (int m = 0; m < N; ++m) {
        place[offset + m] = s.top[m];
        place[TILE + offset + m] = s.sum[m];
      }
      __builtin_memcpy(place + 2 * TILE + offset * D, s.part, sizeof(float) * N * D);
    } else {
      merge_rows(N, D, block == item.block0, s.part, s.top, s.sum, s.out, out_top, out_sum);
    }
  }
  if (item.partial < 0) write_out(context, rows, row0, N, item.kv_head, s.out, out_sum);
}

static void attend(const octavo_op& op, const Context& context, Rows& out, int tid) {
  const octavo_config& config = *context.config;
  const Step& step = *context.step;
  const int D = config.head_dim;
  float* memory = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  Scratch s;
  s.scores = memory;
  s.q = s.scores + TILE * BLOCK;
  s.out = s.q + TILE * D;
  s.part = s.out + TILE * D;
  int first, last;
  while (context.pool->claim(tid, step.item_count, &first, &last)) {
    for (int i = first; i < last; ++i) {
      const Item& item = step.items[i];
      for (int offset = 0; offset < item.rows; offset += ROWS) {
        const int n = item.rows - offset < ROWS ? item.rows - offset : ROWS;
        WITH_ROWS(n, attend_rows, context, op, item, offset, s)
      }
    }
  }
  context.pool->meet(tid);
  if (step.merge_count > 0) {
    while (context.pool->claim(tid, step.merge_count, &first, &last)) {
      for (int i = first; i < last; ++i) {
        const Merge& merge = step.merges[i];
        float out_top[TILE], out_sum[TILE];
        for (int part = 0; part < merge.count; ++part) {
          const float* place = context.memory->partials + size_t(merge.first + part) * TILE * (D + 2);
          merge_rows(merge.rows, D, part == 0, place + 2 * TILE, place, place + TILE, s.out, out_top, out_sum);
        }
        const ItemRows rows{step.batch.starts[merge.run], config.heads / config.kv_heads};
        write_out(context, rows, merge.row0, merge.rows, merge.kv_head, s.out, out_sum);
      }
    }
    context.pool->meet(tid);
  }
  while (context.pool->claim(tid, tiles_of(out.rows), &first, &last)) {
    for (int index = first; index < last; ++index) {
      const Tile tile = tile_at(out, index);
      const int cols = config.heads * D;
      store_rows(out, tile.row0, tile.mr, 0, cols, context.memory->q + size_t(tile.row0) * cols, cols);
    }
  }
  context.pool->meet(tid);
}
