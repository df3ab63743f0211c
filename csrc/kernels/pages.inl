// Projections to queries, keys and values, and the pages they go to.
//
// A page-head is K then V, each a packed panel of 32 tokens:
//   bfloat16  K [D/2][32 tokens][2]   V [D/32][16 token pairs][32 dims][2]
//   float32   K [D][32 tokens]        V [D/32][32 tokens][32 dims]
// so that q k^T and p v are the micro-kernels of the projections. D counts the places of a head.

INLINE size_t element_bytes(const octavo_config& config) {
  return config.kv_float32 ? 4 : 2;
}

INLINE uint8_t* page_head(const Context& context, int layer, int page, int kv_head) {
  const octavo_config& config = *context.config;
  const size_t size = size_t(2) * PAGE * config.head_dim * element_bytes(config);
  return context.memory->pages + layer * context.memory->layer_stride +
         (size_t(page) * config.kv_heads + kv_head) * size;
}

// The page-head that keys and values of one row go to.
INLINE uint8_t* row_head(const Context& context, const octavo_op& op, int row, int kv_head) {
  const Step& step = *context.step;
  return page_head(context, op.layer, step.row_page[size_t(op.group) * step.batch.tokens + row], kv_head);
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

// The first `count` places of a value, whole panels. `last`: no later token of this step shares the pair; its unused
// half must hold a number.
static void write_value(const octavo_config& config, uint8_t* page, int token, const float* v, int count, bool last) {
  uint8_t* values = page + size_t(PAGE) * config.head_dim * element_bytes(config);
  for (int panel = 0; panel < count / PANEL; ++panel) {
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

static void rotate(const octavo_op& op, int position, int places, float* head) {
  if (op.rope_cos == nullptr) return;
  const int half = places / 2;
  const float* cos = op.rope_cos + size_t(position) * half;
  const float* sin = op.rope_sin + size_t(position) * half;
  for (int i = 0; i < half; i += LANES) {
    const F a = f_load(head + i), b = f_load(head + half + i), c = f_load(cos + i), s = f_load(sin + i);
    f_store(head + i, a * c - b * s);
    f_store(head + half + i, b * c + a * s);
  }
}

// NaN stays NaN.
static void clamp(float* values, int n, float most) {
  const F high = f_set(most), low = f_set(-most);
  for (int i = 0; i < n; i += LANES) f_store(values + i, f_min(high, f_max(low, f_load(values + i))));
}

// One head of a query (which 0) or key (1), but for a norm over all heads.
static void finish_head(const octavo_op& op, int which, int head, int position, int places, float* values) {
  const octavo_head_norm& by = op.head_norm[which];
  if (by.norm.kind != OCTAVO_NO_NORM) {
    const int behind = head * by.stride;
    const octavo_norm norm{by.norm.kind, by.norm.eps, by.norm.weight + behind,
                           by.norm.bias ? by.norm.bias + behind : nullptr};
    norm_row(norm, values, places, op.head_dim, values);
  }
  rotate(op, position, places, values);
}

// Queries in their place and keys that wait in y: normed over all heads together, then turned.
static void finish_whole(const octavo_op& op, const Context& context, int tid) {
  const octavo_config& config = *context.config;
  const Step& step = *context.step;
  const int D = config.head_dim;
  int first, last;
  while (context.pool->claim(tid, step.batch.tokens, &first, &last)) {
    for (int row = first; row < last; ++row) {
      const int position = step.batch.positions[row];
      for (int which = 0; which < 2; ++which) {
        if (!op.head_norm[which].whole) continue;
        const int heads = which == 0 ? config.heads : config.kv_heads;
        float* values = (which == 0 ? context.memory->q : context.memory->y) + size_t(row) * heads * D;
        norm_row(op.head_norm[which].norm, values, heads * D, heads * op.head_dim, values);
        for (int head = 0; head < heads; ++head) {
          rotate(op, position, D, values + head * D);
          if (which == 0) continue;
          uint8_t* page = row_head(context, op, row, head);
          write_key(config, page, position % PAGE, values + head * D);
        }
      }
    }
  }
  context.pool->meet(tid);
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
    const bool whole = which != 2 && op.head_norm[which].whole;
    for (int c = 0; c < D; c += PANEL) panel(op.weight[which], (head * D + c) / PANEL, block, out + c, D);
    add_bias(out, D, rows, op.vec[which] ? op.vec[which] + head * D : nullptr, D);
    if (op.clip > 0) clamp(out, rows * D, op.clip);
    for (int r = 0; r < rows; ++r) {
      const int row = row0 + r, position = step.batch.positions[row];
      float* values = out + r * D;
      if (which != 2 && !whole) finish_head(op, which, head, position, D, values);
      if (which == 0 || whole) {
        float* to = which == 0 ? context.memory->q + (size_t(row) * heads + head) * D
                               : context.memory->y + (size_t(row) * kv_heads + head) * D;
        __builtin_memcpy(to, values, D * sizeof(float));
        continue;
      }
      uint8_t* page = row_head(context, op, row, head);
      if (which == 1)
        write_key(config, page, position % PAGE, values);
      else
        write_value(config, page, position % PAGE, values, D, step.row_last[row]);
    }
  });
  if (op.head_norm[0].whole || op.head_norm[1].whole) finish_whole(op, context, tid);
}
