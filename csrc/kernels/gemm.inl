// Projections: packed panels of 32 outputs against tiles of rows.
// The order of every sum depends on nothing but the column: rows, tiles and threads never change a result.

// The bytes of one tile of `in`, `unit` bytes an input.
INLINE const uint8_t* tile_data(const Rows& in, int row0) {
  const size_t cols = in.act.bits == 8 ? in.cols : padded(in.cols, 2);
  const size_t unit = in.act.bits == 8 ? 1 : in.act.bits == 16 && PAIRS ? 2 : 4;
  return in.data + row0 * cols * unit;
}

// Consecutive tiles of equally many rows, and which of their rows a kernel takes: `strips` times N from row m0 of each.
struct Strips {
  const Rows& in;
  int row0, mr, tiles, m0, strips;
};

// One group of a packed panel, for 16 outputs. `by` scales its dots, `zero` takes away what they start at, `least` are
// its minima.
struct Scales {
  F by, zero, least;
};

template <bool FOUR_BITS, bool MIN>
struct Codes {
  static constexpr bool SMALL = FOUR_BITS, MINIMA = MIN;
  static constexpr int QUAD = FOUR_BITS ? 64 : 128;  // bytes of four inputs
};

template <class Form>
INLINE Scales read_scales(const uint8_t* w, int half) {
  const F by = f_half(w + 32 * half);
  return {by, by * f_set(-DOT_ZERO), Form::MINIMA ? f_half(w + 64 + 32 * half) : f_set(0)};
}

// Four inputs of 16 outputs, one byte each.
template <class Form>
INLINE B read_quad(const uint8_t* w, int half) {
  if (!Form::SMALL) return b_load(w + 64 * half);
  const B both = b_load(w);
  return half == 0 ? b_low(both) : b_high(both);
}

// The dots of 32 inputs of N rows, for HALVES times 16 outputs from half h0 on. PLAIN: codes of a byte at `w`, whatever
// the form.
template <int N, int HALVES, class Form, bool PLAIN, class Sum>
INLINE void dots(Sum (&c)[N][HALVES], const uint8_t* w, int h0, const int32_t* a, int mr) {
#pragma GCC unroll 8
  for (int quad = 0; quad < QUADS; ++quad) {
    B b[HALVES];
    for (int half = 0; half < HALVES; ++half)
      b[half] = PLAIN ? b_load(w + quad * 128 + 64 * (h0 + half)) : read_quad<Form>(w + quad * Form::QUAD, h0 + half);
#pragma GCC unroll 8
    for (int m = 0; m < N; ++m) {
      for (int half = 0; half < HALVES; ++half) {
        Sum& sum = c[m][half];
        if constexpr (Form::SMALL)
          sum = dot4(sum, b[half], a[quad * mr + m]);
        else
          sum = dot8(sum, b[half], a[quad * mr + m]);
      }
    }
  }
}

// As `dots`, but codes of four bits are summed as Short before they are added to c.
template <int N, int HALVES, class Form, bool PLAIN>
INLINE void add_dots(I (&c)[N][HALVES], const uint8_t* w, int h0, const int32_t* a, int mr) {
  if constexpr (Form::SMALL && SHORT_SUMS) {
    Short sum[N][HALVES];
    for (int m = 0; m < N; ++m)
      for (int half = 0; half < HALVES; ++half) sum[m][half] = short_zero();
    dots<N, HALVES, Form, PLAIN>(sum, w, h0, a, mr);
    for (int m = 0; m < N; ++m)
      for (int half = 0; half < HALVES; ++half) c[m][half] = c[m][half] + short_sum(sum[m][half]);
  } else {
    dots<N, HALVES, Form, PLAIN>(c, w, h0, a, mr);
  }
}

// out[(tile * mr + m) * ldo + c]. Dots start at DOT_ZERO less what the offset of the codes adds, and so end as the bits
// of the float32 DOT_ZERO + dot: no conversion, and scale * x - scale * DOT_ZERO is rounded once. MANY strips: codes of
// four bits are unpacked once for all of them. GROUP: the group where it is known, or 0.
template <int N, int GROUP, bool MANY, class Form>
static void int_strips(const uint8_t* w, int any_group, const Strips& strips, float* out, long ldo) {
  const Rows& in = strips.in;
  const int mr = strips.mr, K = in.cols, group = GROUP ? GROUP : any_group, tiles = MANY ? strips.tiles : 1;
  const int rows = CODE_ROWS < TILE ? strips.strips * N : N;
  const long sums = sums_of(K, group), scales = K / group;
  const int32_t* a = reinterpret_cast<const int32_t*>(tile_data(in, strips.row0)) + strips.m0;
  const int32_t* start = (Form::SMALL ? in.start4 : in.start8) + strips.row0 * sums + strips.m0;
  const float* sum = in.sum + strips.row0 * sums + strips.m0;
  const float* scale = in.scale + strips.row0 * scales + strips.m0;
  constexpr bool UNPACK = MANY && Form::SMALL;
  constexpr int HALVES = 2 * N <= CODE_SUMS ? 2 : 1;
  alignas(64) uint8_t plain[UNPACK ? DOT_BLOCK * PANEL : 1];
  for (int k = 0; k < K; k += group) {
    const uint8_t* head = w;
    w += Form::MINIMA ? 128 : 64;
    for (int k1 = 0; k1 < group; k1 += DOT_BLOCK) {
      const int count = GROUP == 4 * QUADS ? 1 : (group - k1 < DOT_BLOCK ? group - k1 : DOT_BLOCK) / (4 * QUADS);
      if (UNPACK) {
        for (int quad = 0; quad < count * QUADS; ++quad) {
          __builtin_prefetch(w + quad * Form::QUAD + 2048);
          for (int half = 0; half < 2; ++half)
            b_store(plain + quad * 128 + 64 * half, read_quad<Form>(w + quad * Form::QUAD, half));
        }
      }
      const bool first = k + k1 == 0;
      for (int h0 = 0; h0 < 2; h0 += HALVES) {
        Scales s[HALVES];
        for (int half = 0; half < HALVES; ++half) s[half] = read_scales<Form>(head, h0 + half);
        for (int tile = 0, m0 = 0; tile < tiles; m0 + N < rows ? m0 += N : (m0 = 0, ++tile)) {
          const int32_t* ta = a + long(tile) * mr * (K / 4) + m0;
          const long ts = long(tile) * mr * sums + m0;
          I c[N][HALVES];
          for (int m = 0; m < N; ++m)
            for (int half = 0; half < HALVES; ++half) c[m][half] = i_set(Form::MINIMA ? DOT_START : start[ts + m]);
          for (int i = 0; i < count; ++i) {
            const uint8_t* codes = UNPACK ? plain + i * QUADS * 128 : w + i * QUADS * Form::QUAD;
            add_dots<N, HALVES, Form, UNPACK>(c, codes, h0, ta + i * QUADS * mr, mr);
          }
          float* to = out + (long(tile) * mr + m0) * ldo + 16 * h0;
          const float* by = scale + long(tile) * mr * scales + m0;
          for (int m = 0; m < N; ++m) {
            for (int half = 0; half < HALVES; ++half) {
              F x = f_fma(s[half].by, dot_value(c[m][half]), s[half].zero);
              if (Form::MINIMA) x = f_fma(s[half].least, f_set(sum[ts + m]), x);
              float* at = to + m * ldo + 16 * half;
              f_store(at, f_fma(f_set(by[m]), x, first ? f_set(0) : f_load(at)));
            }
          }
        }
      }
      w += count * QUADS * Form::QUAD;
      a += count * QUADS * mr;
      start += mr;
      sum += mr;
    }
    scale += mr;
  }
}

template <int N, class Form>
static void int_panel(const uint8_t* w, int group, const Strips& strips, float* out, long ldo) {
  const bool many = strips.tiles * strips.strips > 1;
  if (group == 4 * QUADS && !many)
    int_strips<N, 4 * QUADS, false, Form>(w, group, strips, out, ldo);
  else if (group == 4 * QUADS)
    int_strips<N, 4 * QUADS, true, Form>(w, group, strips, out, ldo);
  else if (!many)
    int_strips<N, 0, false, Form>(w, group, strips, out, ldo);
  else
    int_strips<N, 0, true, Form>(w, group, strips, out, ldo);
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
static void bf16_tile(const uint8_t* w, const Rows& in, int row0, int mr, int m0, float* out, long ldo) {
  const uint32_t* a = reinterpret_cast<const uint32_t*>(tile_data(in, row0)) + m0;
  F c[N][2];
  for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = f_set(0);
  for (int pair = 0; pair < (in.cols + 1) / 2; ++pair) {
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
static void f32_tile(const uint8_t* w, const Rows& in, int row0, int mr, int m0, float* out, long ldo) {
  const float* a = reinterpret_cast<const float*>(tile_data(in, row0)) + m0;
  const float* panel = reinterpret_cast<const float*>(w);
  F c[N][2];
  for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = f_set(0);
  for (int k = 0; k < in.cols; ++k) f32_step<N>(c, panel + size_t(k) * PANEL, a + size_t(k) * mr, 1);
  for (int m = 0; m < N; ++m) {
    f_store(out + m * ldo, c[m][0]);
    f_store(out + m * ldo + 16, c[m][1]);
  }
}

template <int N>
static void code_strips(const octavo_weight& weight, const uint8_t* w, const Strips& strips, float* out, long ldo) {
  if (weight.layout == OCTAVO_W8)
    int_panel<N, Codes<false, false>>(w, weight.group, strips, out, ldo);
  else if (weight.layout == OCTAVO_W4)
    int_panel<N, Codes<true, false>>(w, weight.group, strips, out, ldo);
  else
    int_panel<N, Codes<true, true>>(w, weight.group, strips, out, ldo);
}

template <int N>
static void float_strips(const octavo_weight& weight, const uint8_t* w, const Strips& strips, float* out, long ldo) {
  for (int tile = 0; tile < strips.tiles; ++tile) {
    const int row0 = strips.row0 + tile * strips.mr;
    for (int m0 = 0; m0 < strips.strips * N; m0 += N) {
      float* to = out + (long(tile) * strips.mr + m0) * ldo;
      if (weight.layout == OCTAVO_BF16)
        bf16_tile<N>(w, strips.in, row0, strips.mr, strips.m0 + m0, to, ldo);
      else
        f32_tile<N>(w, strips.in, row0, strips.mr, strips.m0 + m0, to, ldo);
    }
  }
}

// A call of `f` with n rows, at most MOST, known at compile time.
#define AT_MOST(MOST, n) ((n) <= (MOST) ? (n) : 1)
#define WITH_ROWS(MOST, n, f, ...)      \
  switch (n) {                          \
    case 1:                             \
      f<1>(__VA_ARGS__);                \
      break;                            \
    case 2:                             \
      f<AT_MOST(MOST, 2)>(__VA_ARGS__); \
      break;                            \
    case 3:                             \
      f<AT_MOST(MOST, 3)>(__VA_ARGS__); \
      break;                            \
    case 4:                             \
      f<AT_MOST(MOST, 4)>(__VA_ARGS__); \
      break;                            \
    case 5:                             \
      f<AT_MOST(MOST, 5)>(__VA_ARGS__); \
      break;                            \
    case 6:                             \
      f<AT_MOST(MOST, 6)>(__VA_ARGS__); \
      break;                            \
    case 7:                             \
      f<AT_MOST(MOST, 7)>(__VA_ARGS__); \
      break;                            \
    case 8:                             \
      f<AT_MOST(MOST, 8)>(__VA_ARGS__); \
      break;                            \
  }

// Some tiles of rows, which one unit of work takes together: [first, end) of all, rows [row0, row0 + rows).
struct Block {
  const Rows& in;
  int tiles, first, end;
  int row0() const { return tile_start(in.rows, tiles, first); }
  int rows() const { return tile_start(in.rows, tiles, end) - row0(); }
};

// out[r * ldo + c] = sum over inputs, for all rows of the block and the 32 outputs of panel p.
static void panel(const octavo_weight& weight, int p, const Block& block, float* out, long ldo) {
  const uint8_t* w = weight.data + size_t(p) * panel_bytes(weight);
  for (int tile = block.first; tile < block.end;) {
    const int row0 = tile_start(block.in.rows, block.tiles, tile);
    const int mr = tile_start(block.in.rows, block.tiles, tile + 1) - row0;
    const int alike = tiles_alike(block.in.rows, block.tiles, tile);
    const int count = alike < block.end - tile ? alike : block.end - tile;
    const bool codes = weight.layout != OCTAVO_F32 && weight.layout != OCTAVO_BF16;
    const int most = codes ? CODE_ROWS : ROWS;
    for (int m0 = 0; m0 < mr;) {
      const int n = mr - m0 < most ? mr - m0 : most;
      const Strips strips{block.in, row0, mr, count, m0, (mr - m0) / n};
      float* to = out + (row0 - block.row0() + m0) * ldo;
      if (codes) {
        WITH_ROWS(CODE_ROWS, n, code_strips, weight, w, strips, to, ldo)
      } else {
        WITH_ROWS(ROWS, n, float_strips, weight, w, strips, to, ldo)
      }
      m0 += strips.strips * n;
    }
    tile += count;
  }
}

// Walks (unit of outputs) x (block of tiles): body(unit, block) for all of them, on all threads, until all is done. A
// unit's weights are read from memory once for all tiles of a block.
template <class Body>
static void for_units(const Context& context, int units, const Rows& in, int tid, Body body) {
  const int tiles = tiles_of(in.rows), blocks = (tiles + BLOCK_TILES - 1) / BLOCK_TILES;
  int first, last;
  while (context.pool->claim(tid, units * blocks, &first, &last)) {
    for (int item = first; item < last; ++item) {
      const int unit = item / blocks, block = item % blocks;
      body(unit, Block{in, tiles, block * tiles / blocks, (block + 1) * tiles / blocks});
    }
  }
  context.pool->meet(tid);
}

struct Tile {
  int row0, mr;
};
INLINE Tile tile_at(const Rows& in, int tile) {
  const int tiles = tiles_of(in.rows), row0 = tile_start(in.rows, tiles, tile);
  return {row0, tile_start(in.rows, tiles, tile + 1) - row0};
}

INLINE void add_bias(float* out, long ldo, int rows, const float* bias, int cols) {
  if (bias == nullptr) return;
  for (int m = 0; m < rows; ++m)
    for (int c = 0; c < cols; ++c) out[m * ldo + c] += bias[c];
}
