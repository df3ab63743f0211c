// Attention over pages: softmax(q k^T) v of tiles of rows against blocks of 512 keys. What a row gets depends on its
// own keys and the fixed ends of blocks alone: every sum has the same order for all numbers of rows, forms of pages and
// cuts of the work.

// How far reading runs ahead of itself, in panels of one page (2 KiB of bfloat16).
constexpr int AHEAD = 4;
// Widening pages to float32 pays for itself from this many tiles on.
constexpr int WIDEN_TILES = 4;
#if defined(OCTAVO_AVX512)
constexpr bool WIDENS = true;
#else
constexpr bool WIDENS = false;  // dots take bfloat16 as it is, or widening hides behind the multiply-adds
#endif

// Working memory of one thread, for one item.
struct Scratch {
  float* scores;                             // [TILE][BLOCK]: scores, then probabilities in the form the dots read
  float* part;                               // [TILE][D]: weighted values of one block
  float* q;                                  // [rows of the item][D] in the form the dots read
  float* wide;                               // [BLOCK / PAGE] page-heads widened to float32
  const uint8_t* page[BLOCK / PAGE];         // page-heads of one block
  float* row[ITEM_ROWS];                     // where each row's query lies, and its result
  int from[ITEM_ROWS], limit[ITEM_ROWS];     // positions of the keys that each row sees: [from, limit), both ascending
  int head[ITEM_ROWS], position[ITEM_ROWS];  // its query head, and its own position
  float top[ITEM_ROWS + LANES], sum[ITEM_ROWS + LANES];    // of the blocks so far
  float block_top[TILE + LANES], block_sum[TILE + LANES];  // of one block and tile
};

// Keys and values of one run and key head: one block, or from some page of it on.
struct Keys {
  const uint8_t* const* page;  // page-heads
  const uint8_t* next;         // the page-head that is read after them
  int first;                   // position of the first key
  bool wide;                   // float32, else bfloat16
};

// A page-head of bfloat16 as one of float32.
static void widen(const uint8_t* from, const uint8_t* next, int D, float* to) {
  for (int i = 0; i < D; ++i, to += 2 * PANEL) {
    __builtin_prefetch(next + i * 128, 0, 2);
    __builtin_prefetch(next + i * 128 + 64, 0, 2);
    const B w0 = b_load(from + i * 128), w1 = b_load(from + i * 128 + 64);
    f_store(to, b_even(w0));
    f_store(to + 16, b_even(w1));
    f_store(to + 32, b_odd(w0));
    f_store(to + 48, b_odd(w1));
  }
}

// c[m] += row m of `a` (PAIRS: `row` uint32 apart, else floats) times `pairs` pairs of a panel. Reads ahead of itself.
template <int N>
INLINE void add_pairs(F (&c)[N][2], const uint8_t* panel, const uint8_t* next, int pairs, const float* a, long row) {
  const uint32_t* x = reinterpret_cast<const uint32_t*>(a);
  for (int i = 0; i < pairs; ++i) {
    __builtin_prefetch(next + i * 128, 0, 2);
    __builtin_prefetch(next + i * 128 + 64, 0, 2);
    bf16_step<N>(c, panel + i * 128, x + i * (PAIRS ? 1 : 2), row, 1);
  }
}

template <int N>
INLINE void add_wide(F (&c)[N][2], const uint8_t* panel, int count, const float* a, long row) {
  const float* w = reinterpret_cast<const float*>(panel);
  for (int i = 0; i < count; ++i) f32_step<N>(c, w + i * PANEL, a + i, row);
}

// How many places of a value are summed: whole panels.
INLINE int value_places(const octavo_op& op) {
  return int(padded(op.head_dim, PANEL));
}

INLINE bool sees(const Keys& keys, int pages, int from, int limit) {
  return limit > keys.first && from < keys.first + pages * PAGE;
}

// Scores of N rows with the keys of `pages` pages, and their largest; scores of keys a row does not see are -inf. The
// rows' keys end at `limit` and begin at `from`.
template <int N>
INLINE void score_rows(const Keys& keys, int D, int pages, const float* q, const int* from, const int* limit,
                       float* scores, float* top) {
  F best[N];
  const int least = limit[0], most = from[N - 1];
  for (int m = 0; m < N; ++m) best[m] = f_set(-__builtin_inff());
  const int ahead = D < AHEAD * PANEL ? AHEAD * PANEL / D : 1;
  for (int i = 0; i < pages; ++i) {
    F c[N][2];
#pragma GCC unroll 8
    for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = f_set(0);
    if (keys.wide) {
      add_wide<N>(c, keys.page[i], D, q, D);
    } else {
      const int j = i + ahead;
      const uint8_t* next = j < pages ? keys.page[j] : keys.page[j % pages] + size_t(PAGE) * D * 2;
      add_pairs<N>(c, keys.page[i], next, D / 2, q, PAIRS ? D / 2 : D);
    }
    float* score = scores + i * PAGE;
#pragma GCC unroll 8
    for (int m = 0; m < N; ++m) {
      f_store(score + m * BLOCK, c[m][0]);
      f_store(score + m * BLOCK + 16, c[m][1]);
    }
    if (keys.first + (i + 1) * PAGE <= least && keys.first + i * PAGE >= most) {
#pragma GCC unroll 8
      for (int m = 0; m < N; ++m) best[m] = f_max(best[m], f_max(c[m][0], c[m][1]));
    } else {
      for (int m = 0; m < N; ++m)
        best[m] = f_max(best[m], hide_page(score + m * BLOCK, keys.first + i * PAGE, from[m], limit[m]));
    }
  }
  for (int m = 0; m < N; ++m) top[m] = sees(keys, pages, from[m], limit[m]) ? f_hmax(best[m]) : 0.f;
}

// As score_rows, where scores are shaped: the scores and tops again.
static void shape_rows(const octavo_op& op, const Keys& keys, int n, int pages, int row, const Scratch& s, float* top) {
  for (int m = 0; m < n; ++m) {
    float* score = s.scores + m * BLOCK;
    const int from = s.from[row + m], limit = s.limit[row + m];
    const float slope = op.slopes ? op.slopes[s.head[row + m]] : 0.f;
    shape_scores(op, slope, keys.first, s.position[row + m], pages * PAGE, score);
    F best = f_set(-__builtin_inff());
    for (int i = 0; i < pages; ++i) best = f_max(best, hide_page(score + i * PAGE, keys.first + i * PAGE, from, limit));
    top[m] = sees(keys, pages, from, limit) ? f_hmax(best) : 0.f;
  }
}

// Scores to probabilities 2^(score * log2e - top), in place; top becomes that power of two; gives their sums.
template <bool COARSE>
INLINE void weigh_rows(int n, int pages, float* scores, float* top, float* sum) {
  const F log2e = f_set(LOG2E);
  for (int m = 0; m < n; ++m) {
    float* score = scores + m * BLOCK;
    top[m] *= LOG2E;
    const F shift = f_set(-top[m]);
    F even = f_set(0), odd = f_set(0);
    for (int t = 0; t < pages * PAGE; t += PAGE) {
      const F p0 = f_exp2<COARSE>(f_fma(f_load(score + t), log2e, shift));
      const F p1 = f_exp2<COARSE>(f_fma(f_load(score + t + 16), log2e, shift));
      even = even + p0;
      odd = odd + p1;
      if (PAIRS && COARSE) {  // in place: the 16-bit probabilities never overtake the scores
        f_store_bf16(reinterpret_cast<uint16_t*>(score) + t, p0);
        f_store_bf16(reinterpret_cast<uint16_t*>(score) + t + 16, p1);
      } else {
        f_store(score + t, p0);
        f_store(score + t + 16, p1);
      }
    }
    sum[m] = f_hsum(even + odd);
  }
}

// part = probabilities times the values of `count` keys, an even number for pages that hold pairs; of the D places of
// a value the first `panels` panels.
template <int N>
INLINE void add_values(const Keys& keys, int D, int panels, int count, const float* scores, float* part) {
  const int pages = (count + PAGE - 1) / PAGE;
  const size_t values = size_t(PAGE) * D * (keys.wide ? 4 : 2), panel_size = values / (D / PANEL);
  for (int p = 0; p < panels; ++p) {
    F c[N][2];
#pragma GCC unroll 8
    for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = f_set(0);
    for (int i = 0; i < pages; ++i) {
      const int tokens = count - i * PAGE < PAGE ? count - i * PAGE : PAGE;
      const uint8_t* panel = keys.page[i] + values + p * panel_size;
      if (keys.wide) {
        add_wide<N>(c, panel, tokens, scores + i * PAGE, BLOCK);
      } else {
        const int j = p * pages + i + AHEAD, beyond = j - panels * pages;
        const uint8_t* next = beyond < 0 ? keys.page[j % pages] + values + j / pages * panel_size
                                         : keys.next + (beyond < panels ? beyond : 0) * panel_size;
        add_pairs<N>(c, panel, next, tokens / 2, scores + i * (PAIRS ? PAGE / 2 : PAGE), BLOCK);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < N; ++m) {
      f_store(part + m * D + p * PANEL, c[m][0]);
      f_store(part + m * D + p * PANEL + 16, c[m][1]);
    }
  }
}

// N rows from `row` on against one block: gives s.part, and each row's largest score (a power of two) and sum of
// probabilities. Pages before those that one of the rows sees are passed over.
template <int N>
static void attend_block(const octavo_config& config, const octavo_op& op, const Keys& block, const float* q, int row,
                         Scratch& s) {
  const int *from = s.from + row, *limit = s.limit + row;
  const int skipped = from[0] > block.first ? (from[0] - block.first) / PAGE : 0;
  const Keys keys{block.page + skipped, block.next, block.first + skipped * PAGE, block.wide};
  const int rest = BLOCK - skipped * PAGE, D = config.head_dim, panels = value_places(op) / PANEL;
  const int count = limit[N - 1] - keys.first < rest ? limit[N - 1] - keys.first : rest;
  const int pages = count > 0 ? (count + PAGE - 1) / PAGE : 0;
  score_rows<N>(keys, D, pages, q, from, limit, s.scores, s.block_top);
  if (op.soft_cap > 0 || op.slopes != nullptr) shape_rows(op, keys, N, pages, row, s, s.block_top);
  if (config.kv_float32) {
    weigh_rows<false>(N, pages, s.scores, s.block_top, s.block_sum);
    add_values<N>(keys, D, panels, count, s.scores, s.part);
  } else {
    weigh_rows<true>(N, pages, s.scores, s.block_top, s.block_sum);
    add_values<N>(keys, D, panels, (count + 1) / 2 * 2, s.scores, s.part);
  }
}

// Where each of `count` rows (token, head in group) of a run lies, from row0 on, and which keys it sees. Queries and
// results share their place.
static void place_rows(const octavo_op& op, const Context& context, int run, int kv_head, int row0, int count,
                       Scratch& s) {
  const octavo_config& config = *context.config;
  const octavo_batch& batch = context.step->batch;
  const Sight sight = sight_of(op);
  const int group = config.heads / config.kv_heads, length = batch.positions[batch.starts[run + 1] - 1] + 1;
  int token = batch.starts[run] + row0 / group, head = row0 % group;
  for (int i = 0; i < count; ++i) {
    s.head[i] = kv_head * group + head;
    s.row[i] = context.memory->q + (size_t(token) * config.heads + s.head[i]) * config.head_dim;
    s.position[i] = batch.positions[token];
    s.from[i] = sight.first(s.position[i]);
    s.limit[i] = sight.end(s.position[i], length);
    s.top[i] = s.sum[i] = 0.f;
    if (++head == group) {
      head = 0;
      ++token;
    }
  }
}

// Adds one block's result to what the blocks before it gave. Always called in order of blocks; rows start with a sum of
// 0, and keep what the first block gives whose keys they see. n <= TILE; tops and sums are readable to LANES values. Of
// D places of a part the first `count` are values.
static void merge_rows(int n, int D, int count, const float* part, const float* top, const float* sum,
                       float* const* row, float* out_top, float* out_sum) {
  alignas(64) float keep[LANES], add[LANES], tops[LANES];
  const F before = f_load(out_top), now = f_load(top), most = f_max(before, now);
  f_store(keep, f_exp2(before - most));
  f_store(add, f_exp2(now - most));
  f_store(tops, most);
  for (int m = 0; m < n; ++m) {
    if (sum[m] == 0.f) continue;  // it sees none of these keys
    if (out_sum[m] == 0.f) {
      out_top[m] = top[m];
      out_sum[m] = sum[m];
      for (int d = 0; d < count; d += LANES) f_store(row[m] + d, f_load(part + m * D + d));
      continue;
    }
    out_top[m] = tops[m];
    out_sum[m] = out_sum[m] * keep[m] + sum[m] * add[m];
    const F old = f_set(keep[m]), by = f_set(add[m]);
    for (int d = 0; d < count; d += LANES)
      f_store(row[m] + d, f_fma(f_load(row[m] + d), old, f_load(part + m * D + d) * by));
  }
}

static void divide_rows(const octavo_op& op, int n, const Scratch& s) {
  const int count = value_places(op);
  for (int m = 0; m < n; ++m) {
    const F by = f_set(share_of(s.top[m], s.sum[m], op.sinks ? op.sinks + s.head[m] : nullptr));
    for (int d = 0; d < count; d += LANES) f_store(s.row[m] + d, f_load(s.row[m] + d) * by);
  }
}

// Queries, scaled, in the form the dots read.
static void take_queries(const octavo_config& config, int n, float factor, Scratch& s) {
  const int D = config.head_dim;
  const F scale = f_set(factor);
  for (int i = 0; i < n; ++i) {
    for (int d = 0; d < D; d += LANES) {
      const F x = f_load(s.row[i] + d) * scale;
      if (PAIRS && !config.kv_float32)
        f_store_bf16(reinterpret_cast<uint16_t*>(s.q) + i * D + d, x);
      else
        f_store(s.q + i * D + d, config.kv_float32 ? x : f_bf16(x));
    }
  }
}

// `next`: the item that this thread takes after this one, or null.
static Keys keys_of(const Context& context, const octavo_op& op, const Item& item, const Item* next, int block,
                    int count, bool widened, Scratch& s) {
  const octavo_config& config = *context.config;
  const octavo_batch& batch = context.step->batch;
  const int32_t* pages = table_of(config, batch, item.run, op.group) + block * (BLOCK / PAGE);
  const int start = item.page0 > block * (BLOCK / PAGE) ? item.page0 - block * (BLOCK / PAGE) : 0;
  const int n = ((count < BLOCK ? count : BLOCK) + PAGE - 1) / PAGE;
  for (int i = start; i < n; ++i) s.page[i] = page_head(context, op.layer, pages[i], item.kv_head);
  Keys keys{s.page, s.page[n - 1], block * BLOCK, widened || config.kv_float32};
  if (block + 1 < item.block1)
    keys.next = page_head(context, op.layer, pages[BLOCK / PAGE], item.kv_head);
  else if (next != nullptr)
    keys.next = page_head(context, op.layer, table_of(config, batch, next->run, op.group)[next->page0], next->kv_head);
  for (int i = start; i < n && widened; ++i) {
    float* to = s.wide + size_t(i) * 2 * PAGE * config.head_dim;
    widen(s.page[i], i + 1 < n ? s.page[i + 1] : keys.next, config.head_dim, to);
    s.page[i] = reinterpret_cast<const uint8_t*>(to);
  }
  return keys;
}

static void attend_item(const octavo_op& op, const Context& context, const Item& item, const Item* next, Scratch& s) {
  const octavo_config& config = *context.config;
  const int D = config.head_dim, tiles = tiles_of(item.rows);
  const bool widened = WIDENS && !config.kv_float32 && tiles >= WIDEN_TILES;
  const int q_row = PAIRS && !config.kv_float32 ? D / 2 : D;
  place_rows(op, context, item.run, item.kv_head, item.row0, item.rows, s);
  take_queries(config, item.rows, op.scale, s);
  for (int block = item.block0; block < item.block1; ++block) {
    const int count = s.limit[item.rows - 1] - block * BLOCK;
    const Keys keys = keys_of(context, op, item, next, block, count, widened, s);
    for (int tile = 0; tile < tiles; ++tile) {
      const int end = tile_start(item.rows, tiles, tile + 1);
      for (int i = tile_start(item.rows, tiles, tile); i < end; i += ROWS) {
        const int n = end - i < ROWS ? end - i : ROWS;
        const bool none = s.limit[i + n - 1] <= keys.first || s.from[i] >= keys.first + BLOCK;
        if (item.partial < 0 && none) continue;
        WITH_ROWS(ROWS, n, attend_block, config, op, keys, s.q + i * q_row, i, s)
        if (item.partial < 0) {
          merge_rows(n, D, value_places(op), s.part, s.block_top, s.block_sum, s.row + i, s.top + i, s.sum + i);
          continue;
        }
        // One block of many, merged later: [TILE] tops, [TILE] sums, [TILE][D] values.
        float* place = context.memory->partials + size_t(item.partial + block - item.block0) * TILE * (D + 2);
        __builtin_memcpy(place + i, s.block_top, n * sizeof(float));
        __builtin_memcpy(place + TILE + i, s.block_sum, n * sizeof(float));
        __builtin_memcpy(place + 2 * TILE + i * D, s.part, n * D * sizeof(float));
      }
    }
  }
  if (item.partial < 0) divide_rows(op, item.rows, s);
}

// The first `dims` values of each of `heads` heads of D, side by side, in place.
static void close_up(float* row, int heads, int D, int dims) {
  for (int head = 1; head < heads && dims < D; ++head)
    __builtin_memmove(row + head * dims, row + head * D, dims * sizeof(float));
}

// What attention gave to the tile of tokens that begins at row0, in the form that is read. room: a row
static void give_tile(const octavo_op& op, const Context& context, const Tile& tile, const Rows& out, float* room) {
  const int heads = context.config->heads, D = context.config->head_dim, row = heads * D;
  float* values = context.memory->q + size_t(tile.row0) * row;
  if (op.apart) {
    const int tokens = context.step->batch.tokens;
    for (int head = 0; head < heads; ++head)
      store_rows(part_of(out, head * tokens, tokens), tile.row0, tile.mr, 0, out.cols, values + head * D, row);
    return;
  }
  for (int m = 0; m < tile.mr; ++m) {
    close_up(values + m * row, heads, D, op.head_dim);
    arrange(values + m * row, out.act.order, out.cols, room);
  }
  store_rows(out, tile.row0, tile.mr, 0, out.cols, values, row);
}

static void attend(const octavo_op& op, const Context& context, Rows& out, int tid) {
  const octavo_config& config = *context.config;
  const Step& step = *context.step;
  const int D = config.head_dim;
  float* memory = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  Scratch s{};
  s.scores = memory;
  s.part = s.scores + TILE * BLOCK;
  s.q = s.part + TILE * D;
  s.wide = s.q + ITEM_ROWS * D;
  int first, last;
  // The costliest items come first, so ranges are short from the start.
  const int most = step.item_count / (32 * context.pool->threads());
  while (context.pool->claim(tid, step.item_count, &first, &last, most)) {
    for (int i = first; i < last; ++i)
      attend_item(op, context, step.items[i], i + 1 < last ? step.items + i + 1 : nullptr, s);
  }
  context.pool->meet(tid);
  if (step.merge_count > 0) {
    while (context.pool->claim(tid, step.merge_count, &first, &last)) {
      for (int i = first; i < last; ++i) {
        const Merge& merge = step.merges[i];
        place_rows(op, context, merge.run, merge.kv_head, merge.row0, merge.rows, s);
        for (int part = 0; part < merge.count; ++part) {
          const float* place = context.memory->partials + size_t(merge.first + part) * TILE * (D + 2);
          merge_rows(merge.rows, D, value_places(op), place + 2 * TILE, place, place + TILE, s.row, s.top, s.sum);
        }
        divide_rows(op, merge.rows, s);
      }
    }
    context.pool->meet(tid);
  }
  const int tokens = step.batch.tokens;
  while (context.pool->claim(tid, tiles_of(tokens), &first, &last)) {
    for (int index = first; index < last; ++index) give_tile(op, context, tile_at(tokens, index), out, memory);
  }
  context.pool->meet(tid);
}
