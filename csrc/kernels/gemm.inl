// Projections: packed panels of 32 outputs against tiles of rows.
// The order of every sum depends on nothing but the column: rows, tiles and threads never change a result.

// One group of a packed panel, for 16 outputs. `by` scales its dots, `zero` takes away what they start at, `least` are
// its minima.
struct Scales {
  F by, zero, least;
};

// Two outputs a byte or one; with minima or not; codes as they are or picked from the panel's table.
template <bool FOUR_BITS, bool MIN, bool TABLE = false>
struct Codes {
  static constexpr bool SMALL = FOUR_BITS, MINIMA = MIN, PICKED = TABLE;
  static constexpr bool SHORT = SMALL && !TABLE;                   // no code is above 15
  static constexpr int QUAD = FOUR_BITS ? 64 : 128;                // bytes of four inputs
  static constexpr int OFFSET = !SHORT ? W8_OFFSET : MIN ? 0 : 8;  // what every code has too much in its dot
  static constexpr bool HALVES = !TABLE && (FOUR_BITS || !MIN);    // whether there are groups of 16
};

template <class Form>
INLINE Scales read_scales(const uint8_t* w, int half) {
  const F by = f_half(w + 32 * half);
  return {by, by * f_set(-DOT_ZERO), Form::MINIMA ? f_half(w + 64 + 32 * half) : f_set(0)};
}

// Four inputs of 16 outputs, one byte each.
template <class Form>
INLINE B read_quad(const uint8_t* w, B table, int side) {
  if (!Form::SMALL) return b_load(w + 64 * side);
  const B both = b_load(w), codes = side == 0 ? b_low(both) : b_high(both);
  return Form::PICKED ? b_pick(table, codes) : codes;
}

// The dots of 4 * COUNT inputs of N rows, for SIDES times 16 outputs from `side0` on. PLAIN: codes of a byte at `w`,
// whatever the form.
template <int N, int SIDES, int COUNT, class Form, bool PLAIN, class Sum>
INLINE void dots(Sum (&c)[N][SIDES], const uint8_t* w, B table, int side0, const int32_t* a, int mr) {
#pragma GCC unroll 8
  for (int quad = 0; quad < COUNT; ++quad) {
    B b[SIDES];
    for (int side = 0; side < SIDES; ++side)
      b[side] = PLAIN ? b_load(w + quad * 128 + 64 * (side0 + side))
                      : read_quad<Form>(w + quad * Form::QUAD, table, side0 + side);
#pragma GCC unroll 8
    for (int m = 0; m < N; ++m) {
      for (int side = 0; side < SIDES; ++side) {
        Sum& sum = c[m][side];
        if constexpr (Form::SHORT)
          sum = dot4(sum, b[side], a[quad * mr + m]);
        else
          sum = dot8(sum, b[side], a[quad * mr + m]);
      }
    }
  }
}

// As `dots`, but codes up to 15 are summed as Short before they are added to c.
template <int N, int SIDES, int COUNT, class Form, bool PLAIN>
INLINE void add_dots(I (&c)[N][SIDES], const uint8_t* w, B table, int side0, const int32_t* a, int mr) {
  if constexpr (Form::SHORT && SHORT_SUMS) {
    Short sum[N][SIDES];
    for (int m = 0; m < N; ++m)
      for (int side = 0; side < SIDES; ++side) sum[m][side] = short_zero();
    dots<N, SIDES, COUNT, Form, PLAIN>(sum, w, table, side0, a, mr);
    for (int m = 0; m < N; ++m)
      for (int side = 0; side < SIDES; ++side) c[m][side] = c[m][side] + short_sum(sum[m][side]);
  } else {
    dots<N, SIDES, COUNT, Form, PLAIN>(c, w, table, side0, a, mr);
  }
}

// What belongs to the codes that one dot of row m reads, row after row. `front` counts where a dot reads half a group
// of inputs: the first, or the second.
struct Starts {
  const int32_t *start, *front;
  const float* sum;

  template <class Form, bool HALVES>
  inline __attribute__((always_inline)) int32_t at(long m, bool second) const {
    if (Form::OFFSET == 0) return DOT_START;
    if (!HALVES) return start[m];
    return second ? start[m] + Form::OFFSET * front[m] : DOT_START - Form::OFFSET * front[m];
  }
  template <bool HALVES>
  inline __attribute__((always_inline)) float sum_of(long m, bool second) const {
    if (!HALVES) return sum[m];
    return second ? sum[m] - float(front[m]) : float(front[m]);
  }
};

// out[(tile * mr + m) * ldo + c]. Dots start at DOT_ZERO less what the offset of the codes adds, and so end as the bits
// of the float32 DOT_ZERO + dot: no conversion, and scale * x - scale * DOT_ZERO is rounded once. MANY strips: codes of
// four bits are unpacked once for all of them. GROUP: the weights' group where it is known, or 0; it is that of the
// inputs, or 16, half of theirs.
template <int N, int GROUP, bool MANY, class Form>
static void int_strips(const uint8_t* w, int any_group, const Strips& strips, float* out, long ldo) {
  constexpr bool HALVES = GROUP == 16, UNPACK = MANY && Form::SMALL;
  constexpr int COUNT = HALVES ? QUADS / 2 : QUADS;  // quads that are known to follow each other
  constexpr int SIDES = 2 * N <= CODE_SUMS ? 2 : 1;
  const Rows& in = strips.in;
  const int mr = strips.mr, K = in.cols, group = GROUP ? GROUP : any_group, tiles = MANY ? strips.tiles : 1;
  const int rows = CODE_ROWS < TILE ? strips.strips * N : N;
  const long sums = sums_of(K, HALVES ? 32 : group), scales = K / (HALVES ? 32 : group);
  const int32_t* a = reinterpret_cast<const int32_t*>(tile_data(in, strips.row0)) + strips.m0;
  const long s0 = strips.row0 * sums + strips.m0;
  Starts starts{(Form::SHORT ? in.start4 : in.start8) + s0, in.front + s0, in.sum + s0};
  const float* scale = in.scale + strips.row0 * scales + strips.m0;
  const B table = Form::PICKED ? b_load(w) : B{};
  if (Form::PICKED) w += 64;
  alignas(64) uint8_t plain[UNPACK ? DOT_BLOCK * PANEL : 1];
  for (int k = 0; k < K; k += group) {
    const uint8_t* head = w;
    w += Form::MINIMA ? 128 : 64;
    const bool second = HALVES && k % 32 != 0;
    for (int k1 = 0; k1 < group; k1 += DOT_BLOCK) {
      const int count = GROUP ? 1 : (group - k1 < DOT_BLOCK ? group - k1 : DOT_BLOCK) / (4 * COUNT);
      if (UNPACK) {
        for (int quad = 0; quad < count * COUNT; ++quad) {
          __builtin_prefetch(w + quad * Form::QUAD + 2048);
          for (int side = 0; side < 2; ++side)
            b_store(plain + quad * 128 + 64 * side, read_quad<Form>(w + quad * Form::QUAD, table, side));
        }
      }
      const bool first = k + k1 == 0;
      for (int side0 = 0; side0 < 2; side0 += SIDES) {
        Scales s[SIDES];
        for (int side = 0; side < SIDES; ++side) s[side] = read_scales<Form>(head, side0 + side);
        for (int tile = 0, m0 = 0; tile < tiles; m0 + N < rows ? m0 += N : (m0 = 0, ++tile)) {
          const int32_t* ta = a + long(tile) * mr * (K / 4) + m0;
          const long ts = long(tile) * mr * sums + m0;
          I c[N][SIDES];
          for (int m = 0; m < N; ++m)
            for (int side = 0; side < SIDES; ++side) c[m][side] = i_set(starts.at<Form, HALVES>(ts + m, second));
          for (int i = 0; i < count; ++i) {
            const uint8_t* codes = UNPACK ? plain + i * COUNT * 128 : w + i * COUNT * Form::QUAD;
            add_dots<N, SIDES, COUNT, Form, UNPACK>(c, codes, table, side0, ta + i * COUNT * mr, mr);
          }
          float* to = out + (long(tile) * mr + m0) * ldo + 16 * side0;
          const float* by = scale + long(tile) * mr * scales + m0;
          for (int m = 0; m < N; ++m) {
            for (int side = 0; side < SIDES; ++side) {
              F x = f_fma(s[side].by, dot_value(c[m][side]), s[side].zero);
              if (Form::MINIMA) x = f_fma(s[side].least, f_set(starts.sum_of<HALVES>(ts + m, second)), x);
              float* at = to + m * ldo + 16 * side;
              f_store(at, f_fma(f_set(by[m]), x, first ? f_set(0) : f_load(at)));
            }
          }
        }
      }
      w += count * COUNT * Form::QUAD;
      a += count * COUNT * mr;
      if (!HALVES || second) starts = {starts.start + mr, starts.front + mr, starts.sum + mr};
    }
    if (!HALVES || second) scale += mr;
  }
}

template <int N, int GROUP, class Form>
static void int_groups(const uint8_t* w, int group, const Strips& strips, float* out, long ldo) {
  if (strips.tiles * strips.strips == 1)
    int_strips<N, GROUP, false, Form>(w, group, strips, out, ldo);
  else
    int_strips<N, GROUP, true, Form>(w, group, strips, out, ldo);
}

template <int N, class Form>
static void int_panel(const uint8_t* w, int group, const Strips& strips, float* out, long ldo) {
  if (group == 32)
    int_groups<N, 32, Form>(w, group, strips, out, ldo);
  else if (group == 16)
    int_groups<N, Form::HALVES ? 16 : 32, Form>(w, group, strips, out, ldo);
  else
    int_groups<N, 0, Form>(w, group, strips, out, ldo);
}

// As int_strips, of int16 codes with float32 scales: W16 against inputs of 13 bits.
template <int N>
static void word_strips(const uint8_t* w, int group, const Strips& strips, float* out, long ldo) {
  constexpr int SIDES = 2 * N <= CODE_SUMS ? 2 : 1;
  const Rows& in = strips.in;
  const int K = in.cols, rows = strips.strips * N;
  const long mr = strips.mr, groups = K / group;
  const int32_t* a = reinterpret_cast<const int32_t*>(tile_data(in, strips.row0)) + strips.m0;
  const float* scale = in.scale + strips.row0 * groups + strips.m0;
  for (int k = 0; k < K; k += group) {
    const float* by = reinterpret_cast<const float*>(w);
    w += 4 * PANEL;
    for (int side0 = 0; side0 < 2; side0 += SIDES) {
      for (int tile = 0; tile < strips.tiles; ++tile) {
        for (int m0 = 0; m0 < rows; m0 += N) {
          const int32_t* ta = a + (tile * (K / 2) + k / 2) * mr + m0;
          I c[N][SIDES];
          for (int m = 0; m < N; ++m)
            for (int side = 0; side < SIDES; ++side) c[m][side] = i_zero();
#pragma GCC unroll 4
          for (int pair = 0; pair < group / 2; ++pair) {
            B b[SIDES];
            for (int side = 0; side < SIDES; ++side) b[side] = b_load(w + pair * 128 + 64 * (side0 + side));
#pragma GCC unroll 8
            for (int m = 0; m < N; ++m)
              for (int side = 0; side < SIDES; ++side) c[m][side] = dot16(c[m][side], b[side], ta[pair * mr + m]);
          }
          float* to = out + (tile * mr + m0) * ldo + 16 * side0;
          const float* inputs = scale + (tile * groups + k / group) * mr + m0;
          for (int m = 0; m < N; ++m) {
            for (int side = 0; side < SIDES; ++side) {
              const F x = i_float(c[m][side]) * f_load(by + 16 * (side0 + side));
              float* at = to + m * ldo + 16 * side;
              f_store(at, f_fma(f_set(inputs[m]), x, k == 0 ? f_set(0) : f_load(at)));
            }
          }
        }
      }
    }
    w += group * 64;
  }
}

template <int N>
static void code_strips(const octavo_weight& weight, const uint8_t* w, const Strips& strips, float* out, long ldo) {
  switch (weight.layout) {
    case OCTAVO_W8:
      return int_panel<N, Codes<false, false>>(w, weight.group, strips, out, ldo);
    case OCTAVO_W4:
      return int_panel<N, Codes<true, false>>(w, weight.group, strips, out, ldo);
    case OCTAVO_W4M:
      return int_panel<N, Codes<true, true>>(w, weight.group, strips, out, ldo);
    case OCTAVO_W8M:
      return int_panel<N, Codes<false, true>>(w, weight.group, strips, out, ldo);
    case OCTAVO_W4L:
      return int_panel<N, Codes<true, false, true>>(w, weight.group, strips, out, ldo);
    case OCTAVO_W16:
      return word_strips<N>(w, weight.group, strips, out, ldo);
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
    const bool codes = !is_float(weight.layout);
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
  const int tiles = tiles_of(in.rows), blocks = blocks_of_tiles(tiles);
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
INLINE Tile tile_at(int rows, int tile) {
  const int tiles = tiles_of(rows), row0 = tile_start(rows, tiles, tile);
  return {row0, tile_start(rows, tiles, tile + 1) - row0};
}
INLINE Tile tile_at(const Rows& in, int tile) {
  return tile_at(in.rows, tile);
}

INLINE void add_bias(float* out, long ldo, int rows, const float* bias, int cols) {
  if (bias == nullptr) return;
  for (int m = 0; m < rows; ++m)
    for (int c = 0; c < cols; ++c) out[m * ldo + c] += bias[c];
}
