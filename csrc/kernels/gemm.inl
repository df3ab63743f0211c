// Projections: packed panels of 32 outputs against tiles of rows.
// The order of every sum depends on nothing but the column: rows, tiles and threads never change a result.

// The bytes of one tile of `in`, `unit` bytes an input.
INLINE const uint8_t* tile_data(const Rows& in, int row0) {
  const size_t cols = in.act.bits == 8 ? in.cols : padded(in.cols, 2);
  const size_t unit = in.act.bits == 8 ? 1 : in.act.bits == 16 && PAIRS ? 2 : 4;
  return in.data + row0 * cols * unit;
}

// `N` rows from row m0 of a tile of mr rows; out[m * ldo + c], c = 0..31.
struct Tile {
  const Rows& in;
  int row0, mr;
};

template <int N, bool W4, bool MIN>
static void int_panel(const octavo_weight& weight, const uint8_t* w, const Tile& tile, int m0, float* out, long ldo) {
  const Rows& in = tile.in;
  const int mr = tile.mr, K = in.cols;
  const int blocks = weight.group / SUM_GROUP;  // blocks of 32 inputs that share a scale
  const int32_t* a = reinterpret_cast<const int32_t*>(tile_data(in, tile.row0)) + m0;
  const int32_t* comp = in.comp + size_t(tile.row0) * (K / SUM_GROUP) + m0;
  const float* msum = in.msum + size_t(tile.row0) * (K / SUM_GROUP) + m0;
  const float* scale = in.scale + size_t(tile.row0) * (K / weight.group) + m0;
  F f[N][2];
  for (int m = 0; m < N; ++m) f[m][0] = f[m][1] = f_set(0);
  for (int k = 0; k < K; k += weight.group) {
    const F s0 = f_half(w), s1 = f_half(w + 32);
    F n0, n1;
    w += 64;
    if (MIN) {
      n0 = f_half(w);
      n1 = f_half(w + 32);
      w += 64;
    }
    I c[N][2];
    for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = i_zero();
    for (int block = 0; block < blocks; ++block) {
      if (MIN) {
        for (int m = 0; m < N; ++m) {
          const F sum = f_set(msum[m]);
          f[m][0] = f_fma(n0, sum, f[m][0]);
          f[m][1] = f_fma(n1, sum, f[m][1]);
        }
      } else if (W4 || W8_OFFSET != 0) {
        for (int m = 0; m < N; ++m) {
          const I start = i_set(W4 ? comp[m] : comp[m] * (W8_OFFSET / 8));
          c[m][0] = c[m][0] + start;
          c[m][1] = c[m][1] + start;
        }
      }
      msum += mr;
      comp += mr;
#pragma GCC unroll 8
      for (int quad = 0; quad < SUM_GROUP / 4; ++quad) {
        B low, high;
        if (W4) {
          const B both = b_load(w);
          w += 64;
          low = b_low(both);
          high = b_high(both);
        } else {
          low = b_load(w);
          high = b_load(w + 64);
          w += 128;
        }
#pragma GCC unroll 8
        for (int m = 0; m < N; ++m) {
          c[m][0] = W4 ? dot4(c[m][0], low, a[m]) : dot8(c[m][0], low, a[m]);
          c[m][1] = W4 ? dot4(c[m][1], high, a[m]) : dot8(c[m][1], high, a[m]);
        }
        a += mr;
      }
    }
    for (int m = 0; m < N; ++m) {
      const F s = f_set(scale[m]);
      f[m][0] = f_fma(s * s0, i_float(c[m][0]), f[m][0]);
      f[m][1] = f_fma(s * s1, i_float(c[m][1]), f[m][1]);
    }
    scale += mr;
  }
  for (int m = 0; m < N; ++m) {
    f_store(out + m * ldo, f[m][0]);
    f_store(out + m * ldo + 16, f[m][1]);
  }
}

// One pair of inputs against 32 outputs of bfloat16. Row m's pair lies at a + m * row (PAIRS: one uint32; else two
// floats, `next` apart).
template <int N>
INLINE void bf16_step(F (&c)[N][2], const uint8_t* w, const uint32_t* a, long row, long next) {
  const B w0 = b_load(w), w1 = b_load(w + 64);
  if (PAIRS) {
#pragma GCC unroll 8
    for (int m = 0; m < N; ++m) {
      c[m][0] = dot_pairs(c[m][0], w0, a[m * row]);
      c[m][1] = dot_pairs(c[m][1], w1, a[m * row]);
    }
    return;
  }
  const F even0 = b_even(w0), odd0 = b_odd(w0), even1 = b_even(w1), odd1 = b_odd(w1);
  const float* x = reinterpret_cast<const float*>(a);
#pragma GCC unroll 8
  for (int m = 0; m < N; ++m) {
    const F first = f_set(x[m * row]), second = f_set(x[m * row + next]);
    c[m][0] = f_fma(even0, first, c[m][0]);
    c[m][1] = f_fma(even1, first, c[m][1]);
    c[m][0] = f_fma(odd0, second, c[m][0]);
    c[m][1] = f_fma(odd1, second, c[m][1]);
  }
}

template <int N>
static void bf16_panel(const octavo_weight&, const uint8_t* w, const Tile& tile, int m0, float* out, long ldo) {
  const uint32_t* a = reinterpret_cast<const uint32_t*>(tile_data(tile.in, tile.row0)) + m0;
  const int mr = tile.mr;
  F c[N][2];
  for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = f_set(0);
  for (int pair = 0; pair < (tile.in.cols + 1) / 2; ++pair) {
    bf16_step<N>(c, w, a, 1, mr);
    w += 128;
    a += PAIRS ? mr : 2 * mr;
  }
  for (int m = 0; m < N; ++m) {
    f_store(out + m * ldo, c[m][0]);
    f_store(out + m * ldo + 16, c[m][1]);
  }
}

// One input against 32 outputs of float32.
template <int N>
INLINE void f32_step(F (&c)[N][2], const float* w, const float* a, long row) {
  const F w0 = f_load(w), w1 = f_load(w + 16);
#pragma GCC unroll 8
  for (int m = 0; m < N; ++m) {
    const F x = f_set(a[m * row]);
    c[m][0] = f_fma(w0, x, c[m][0]);
    c[m][1] = f_fma(w1, x, c[m][1]);
  }
}

template <int N>
static void f32_panel(const octavo_weight&, const uint8_t* w, const Tile& tile, int m0, float* out, long ldo) {
  const float* a = reinterpret_cast<const float*>(tile_data(tile.in, tile.row0)) + m0;
  const float* panel = reinterpret_cast<const float*>(w);
  F c[N][2];
  for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = f_set(0);
  for (int k = 0; k < tile.in.cols; ++k) f32_step<N>(c, panel + size_t(k) * PANEL, a + size_t(k) * tile.mr, 1);
  for (int m = 0; m < N; ++m) {
    f_store(out + m * ldo, c[m][0]);
    f_store(out + m * ldo + 16, c[m][1]);
  }
}

template <int N>
static void panel_rows(const octavo_weight& weight, const uint8_t* w, const Tile& tile, int m0, float* out, long ldo) {
  switch (weight.layout) {
    case OCTAVO_F32:
      return f32_panel<N>(weight, w, tile, m0, out, ldo);
    case OCTAVO_BF16:
      return bf16_panel<N>(weight, w, tile, m0, out, ldo);
    case OCTAVO_W8:
      return int_panel<N, false, false>(weight, w, tile, m0, out, ldo);
    case OCTAVO_W4:
      return int_panel<N, true, false>(weight, w, tile, m0, out, ldo);
    default:
      return int_panel<N, true, true>(weight, w, tile, m0, out, ldo);
  }
}

// A call of `f` with N rows known at compile time.
#define WITH_ROWS(n, f, ...)           \
  switch (n) {                         \
    case 1:                            \
      f<1>(__VA_ARGS__);               \
      break;                           \
    case 2:                            \
      f<2>(__VA_ARGS__);               \
      break;                           \
      OCTAVO_MORE_ROWS(f, __VA_ARGS__) \
  }
#if defined(OCTAVO_AVX512) || defined(OCTAVO_AVX512BF16)
#define OCTAVO_MORE_ROWS(f, ...) \
  case 3:                        \
    f<3>(__VA_ARGS__);           \
    break;                       \
  case 4:                        \
    f<4>(__VA_ARGS__);           \
    break;                       \
  case 5:                        \
    f<5>(__VA_ARGS__);           \
    break;                       \
  case 6:                        \
    f<6>(__VA_ARGS__);           \
    break;                       \
  case 7:                        \
    f<7>(__VA_ARGS__);           \
    break;                       \
  case 8:                        \
    f<8>(__VA_ARGS__);           \
    break;
#else
#define OCTAVO_MORE_ROWS(f, ...)
#endif

// out[m * ldo + c] = sum over inputs, for all rows of the tile and the 32 outputs of panel p.
static void panel(const octavo_weight& weight, int p, const Tile& tile, float* out, long ldo) {
  const uint8_t* w = weight.data + size_t(p) * panel_bytes(weight);
  for (int m0 = 0; m0 < tile.mr; m0 += ROWS) {
    const int n = tile.mr - m0 < ROWS ? tile.mr - m0 : ROWS;
    WITH_ROWS(n, panel_rows, weight, w, tile, m0, out + m0 * ldo, ldo)
  }
}

// Walks (unit of outputs) x (block of tiles): body(unit, tile) for every pair, on all threads; ends with a barrier.
// Tiles are the inner loop, so that a unit's weights are read from memory once.
template <class Body>
static void for_units(const Context& context, int units, int rows, int tid, Body body) {
  const int tiles = tiles_of(rows);
  const int blocks = tiles < 8 ? 1 : tiles / 4 < 8 ? tiles / 4 : 8;
  int first, last;
  while (context.pool->claim(tid, units * blocks, &first, &last)) {
    for (int item = first; item < last; ++item) {
      const int unit = item / blocks, block = item % blocks;
      const int end = (block + 1) * tiles / blocks;
      for (int tile = block * tiles / blocks; tile < end; ++tile) body(unit, tile);
    }
  }
  context.pool->meet(tid);
}

INLINE Tile tile_at(const Rows& in, int tile) {
  const int tiles = tiles_of(in.rows), row0 = tile_start(in.rows, tiles, tile);
  return {in, row0, tile_start(in.rows, tiles, tile + 1) - row0};
}

INLINE void add_bias(float* out, long ldo, int rows, const float* bias, int cols) {
  if (bias == nullptr) return;
  for (int m = 0; m < rows; ++m)
    for (int c = 0; c < cols; ++c) out[m * ldo + c] += bias[c];
}

// x += W h + b
static void proj(const octavo_op& op, const Context& context, const Rows& in, int tid) {
  const octavo_weight& weight = op.weight[0];
  const int width = context.config->width;
  float* x = context.memory->x;
  for_units(context, int(padded(weight.rows, PANEL) / PANEL), in.rows, tid, [&](int unit, int index) {
    const Tile tile = tile_at(in, index);
    alignas(64) float out[TILE * PANEL];
    panel(weight, unit, tile, out, PANEL);
    const int cols = weight.rows - unit * PANEL < PANEL ? weight.rows - unit * PANEL : PANEL;
    add_bias(out, PANEL, tile.mr, op.vec[0] ? op.vec[0] + unit * PANEL : nullptr, cols);
    for (int m = 0; m < tile.mr; ++m) {
      float* row = x + size_t(tile.row0 + m) * width + unit * PANEL;
      for (int c = 0; c < cols; ++c) row[c] += out[m * PANEL + c];
    }
  });
}
