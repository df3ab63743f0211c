// The vocabulary projection, swept span by span: what a draw needs of a row is taken from the tile in the first-level
// cache, and only rows that must be read again are stored. What a sweep finds depends on threads and timing in one way
// only: how many candidates it leaves below those that are needed.

constexpr int RANKED = MOST_TOP_K / LANES;  // vectors that keep the largest values of each lane

INLINE float hmin(F x) {
  return -f_hmax(f_set(0) - x);
}

// The largest value ever given for *at, this one included.
INLINE float lift(float* at, float value) {
  float seen;
  __atomic_load(at, &seen, __ATOMIC_RELAXED);
  while (seen < value)
    if (__atomic_compare_exchange(at, &seen, &value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return value;
  return seen;
}

static int first_equal(const float* x, float value) {
  const F low = f_set(value);
  for (int i = 0; i < SPAN; i += LANES)
    if (const uint32_t mask = f_from(f_load(x + i), low)) return i + __builtin_ctz(mask);
  return 0;
}

// The largest of the SPAN values, NaN where one is not finite.
static float span_top(const float* x) {
  F top = f_load(x), check = f_set(0);
  const F zero = f_set(0);
  for (int i = 0; i < SPAN; i += LANES) {
    const F value = f_load(x + i);
    top = f_max(top, value);
    check = f_fma(value, zero, check);
  }
  return f_hsum(check) == 0.f ? f_hmax(top) : __builtin_nanf("");
}

// Sum of exp((x - top) * factor) over SPAN values.
static float span_mass(const float* x, float top, float factor) {
  const F at = f_set(top), by = f_set(factor * LOG2E);
  F sum = f_set(0);
  for (int i = 0; i < SPAN; i += LANES) sum = sum + f_exp2((f_load(x + i) - at) * by);
  return f_hsum(sum);
}

// Raises the least value of which `top_k` are known to lie at or above it. ranked: the largest values of each lane.
static float raise_least(const float* x, int top_k, float* ranked, float* least) {
  const int kept = (top_k + LANES - 1) / LANES;
  F best[RANKED];
  for (int j = 0; j < kept; ++j) best[j] = f_load(ranked + j * LANES);
  for (int i = 0; i < SPAN; i += LANES) {
    F value = f_load(x + i);
    for (int j = 0; j < kept; ++j) {
      const F larger = f_max(best[j], value);
      value = f_min(best[j], value);
      best[j] = larger;
    }
  }
  for (int j = 0; j < kept; ++j) f_store(ranked + j * LANES, best[j]);
  return lift(least, hmin(best[kept - 1]));
}

// Appends the values from `low` on to the row's candidates, in order of id. Without room they are only counted.
static void collect_span(const float* x, int first_id, float low, const Sweep& sweep, int row, int span) {
  const F from = f_set(low);
  uint32_t masks[SPAN / LANES];
  int count = 0;
  for (int i = 0; i < SPAN / LANES; ++i) {
    masks[i] = f_from(f_load(x + i * LANES), from);
    count += __builtin_popcount(masks[i]);
  }
  const int start = __atomic_fetch_add(&sweep.bounds[row].used, count, __ATOMIC_RELAXED);
  sweep.start[row * sweep.stride + span] = start;
  sweep.count[row * sweep.stride + span] = start + count <= sweep.room ? count : 0;
  if (start + count > sweep.room) return;
  Candidate* out = sweep.candidates + size_t(row) * sweep.room + start;
  for (int i = 0; i < SPAN / LANES; ++i)
    for (uint32_t mask = masks[i]; mask != 0; mask &= mask - 1) {
      const int at = i * LANES + __builtin_ctz(mask);
      *out++ = {x[at], first_id + at};
    }
}

// Takes away what the mask does not allow of a span; tokens beyond the vocabulary are the least already.
static void mask_span(const int32_t* mask, int vocab, int span, float* x) {
  const int first = span * SPAN;
  mask_values(mask, first, vocab - first < SPAN ? vocab - first : SPAN, x);
}

// A row that may draw nothing of the span.
static void pass_span(const Sweep& sweep, int row, int span) {
  const int at = row * sweep.stride + span;
  sweep.top[at] = LOWEST;
  sweep.mass[at] = 0.f;
  sweep.count[at] = 0;
}

// One row's SPAN logits, of which the mask, if there is one, is taken.
static void sweep_span(float* x, const int32_t* mask, int vocab, const Manner& manner, const Sweep& sweep, int row,
                       int span, float* ranked) {
  const int at = row * sweep.stride + span;
  Bounds& bounds = sweep.bounds[row];
  float top = sweep.top[at] = span_top(x);
  sweep.count[at] = 0;
  if (!(top == top)) return;
  if (mask) {
    mask_span(mask, vocab, span, x);
    top = sweep.top[at] = span_top(x);
  }
  const float best = lift(&bounds.best, top);
  if (top == best) sweep.best[at] = span * SPAN + first_equal(x, top);
  if (manner.mass) sweep.mass[at] = span_mass(x, top, manner.factor);
  if (!manner.collect) return;
  float low = best - manner.below;
  if (manner.top_k > 0) {
    float least;
    __atomic_load(&bounds.least, &least, __ATOMIC_RELAXED);
    if (top >= least) least = raise_least(x, manner.top_k, ranked, &bounds.least);
    low = low > least ? low : least;
  }
  if (mask && !(low > LOWEST)) low = ABOVE_LOWEST;  // what is masked is no candidate
  if (top >= low) collect_span(x, span * SPAN, low, sweep, row, span);
}

// Sums of a span to logits: cap(scale * (sum + bias)). bias: of the span's first token, or null.
static void finish_span(const octavo_op& op, const float* bias, int rows, int cols, float* out) {
  add_bias(out, SPAN, rows, bias, cols);
  if (op.scale != 1.f)
    for (int i = 0; i < rows * SPAN; ++i) out[i] *= op.scale;
  if (op.soft_cap == 0.f) return;
  const F cap = f_set(op.soft_cap), inverse = f_set(1.f / op.soft_cap);
  for (int i = 0; i < rows * SPAN; i += LANES) f_store(out + i, cap * f_tanh(f_load(out + i) * inverse));
}

// One span of the rows of some tiles: out[r * SPAN + c]; beyond the vocabulary the least number.
static void project_span(const octavo_op& op, const Block& tiles, int span, float* out) {
  const octavo_weight& weight = op.weight[0];
  const int panels = int(padded(weight.rows, PANEL) / PANEL), first = span * (SPAN / PANEL);
  for (int p = first; p < first + SPAN / PANEL && p < panels; ++p)
    panel(weight, p, tiles, out + (p - first) * PANEL, SPAN);
  const int left = weight.rows - span * SPAN, rows = tiles.rows();
  const float* bias = op.vec[0] ? op.vec[0] + span * SPAN : nullptr;
  if (bias || op.scale != 1.f || op.soft_cap > 0.f) finish_span(op, bias, rows, left < SPAN ? left : SPAN, out);
  for (int r = 0; r < rows && left < SPAN; ++r)
    for (int c = left; c < SPAN; ++c) out[r * SPAN + c] = LOWEST;
}

// The head's sweep over one block of rows: norm, then the vocabulary.
static void head(const octavo_op& op, const Context& context, Rows& in, int tid) {
  const octavo_weight& weight = op.weight[0];
  const Step& step = *context.step;
  const HeadBlock& block = step.block;
  const Sweep& sweep = context.memory->sweep;
  norm_rows(context, op.norm, block.inputs, in, tid);
  float* out = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  float* ranked = out + BLOCK_TILES * TILE * SPAN;
  for (int i = 0; i < block.rows * MOST_TOP_K; ++i) ranked[i] = LOWEST;
  const auto asks = [&](int row, int span) {
    const int32_t* mask = row < block.held ? nullptr : mask_of(step.batch, block.heads[row]);
    return mask == nullptr || leaves_any(mask, step.batch.mask_words, span);
  };
  const auto take = [&](int row, int span, float* x) {  // x: its logits, where it asks for them
    const int32_t* mask = mask_of(step.batch, block.heads[row]);
    if (row < block.held)
      __builtin_memcpy(context.memory->logits + (size_t(row) * sweep.stride + span) * SPAN, x, SPAN * 4);
    else if (asks(row, span))
      sweep_span(x, mask, weight.rows, step.manners[block.heads[row]], sweep, row, span, ranked + row * MOST_TOP_K);
    else
      pass_span(sweep, row, span);
  };
  for_units(context, spans_of(weight.rows), in, tid, [&](int span, const Block& tiles) {
    const auto asked = [&](int tile) {  // whether a row of the tile asks for the span
      for (int row = tile_start(in.rows, tiles.tiles, tile); row < tile_start(in.rows, tiles.tiles, tile + 1); ++row)
        if (asks(row, span)) return true;
      return false;
    };
    for (int tile = tiles.first, end = tile; tile < tiles.end; tile = end) {
      const bool some = asked(tile);
      while (end < tiles.end && (end == tile || asked(end) == some)) ++end;
      const Block alike{in, tiles.tiles, tile, end};
      if (some) project_span(op, alike, span, out);
      for (int row = 0; row < alike.rows(); ++row) take(alike.row0() + row, span, out + row * SPAN);
    }
  });
}

// One span of one row again: the same bits. room: [TILE * SPAN]
static const float* head_span(const octavo_op& op, const Rows& in, int row, int span, const int32_t* mask,
                              float* room) {
  const int tiles = tiles_of(in.rows);
  int index = 0;
  while (row >= tile_start(in.rows, tiles, index + 1)) ++index;
  project_span(op, Block{in, tiles, index, index + 1}, span, room);
  float* x = room + (row - tile_start(in.rows, tiles, index)) * SPAN;
  if (mask) mask_span(mask, op.weight[0].rows, span, x);
  return x;
}

static void row_masses(const float* row, int n, float top, float factor, float* masses) {
  const F at = f_set(top), by = f_set(factor * LOG2E);
  for (int i = 0; i < n; i += LANES) f_store(masses + i, f_exp2((f_load(row + i) - at) * by));
}

static float row_max(const float* row, int n, bool* finite) {
  F top = f_load(row), check = f_set(0);
  const F zero = f_set(0);
  for (int i = 0; i < n; i += LANES) {
    const F x = f_load(row + i);
    top = f_max(top, x);
    check = f_fma(x, zero, check);
  }
  *finite = f_hsum(check) == 0.f;
  return f_hmax(top);
}

static double row_exp_sum(const float* row, int n, float max, float factor) {
  const F top = f_set(max), by = f_set(factor * LOG2E);
  double total = 0;
  for (int i = 0; i < n;) {
    F part = f_set(0);
    const int end = i + 1024 < n ? i + 1024 : n;
    for (; i < end; i += LANES) part = part + f_exp2((f_load(row + i) - top) * by);
    total += double(f_hsum(part));
  }
  return total;
}

static double row_mass_from(const float* row, const float* masses, int n, float from) {
  const F low = f_set(from);
  double total = 0;
  for (int i = 0; i < n;) {
    F part = f_set(0);
    const int end = i + 1024 < n ? i + 1024 : n;
    for (; i < end; i += LANES) part = part + f_keep_from(f_load(row + i), low, f_load(masses + i));
    total += double(f_hsum(part));
  }
  return total;
}

static int row_collect(const float* row, int n, float from, int32_t* ids) {
  const F low = f_set(from);
  int count = 0;
  for (int i = 0; i < n; i += LANES)
    for (uint32_t mask = f_from(f_load(row + i), low); mask != 0; mask &= mask - 1)
      ids[count++] = i + __builtin_ctz(mask);
  return count;
}

static int row_count(const float* row, int n, float above) {
  const F low = f_set(above);
  int count = 0;
  for (int i = 0; i < n; i += LANES) count += __builtin_popcount(f_above(f_load(row + i), low));
  return count;
}
