// Products of float weights, plain or in codes, with panels as in gemm.inl.

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

// Codes of floats. STEP: inputs whose codes lie in 64 bytes; PAIRED: whose numbers are bfloat16, for inputs in pairs.
// `at`: of such bytes the numbers of input j for 16 outputs.
struct Eights {
  static constexpr int STEP = 2;
  static constexpr bool PAIRED = PAIRS;
  static inline __attribute__((always_inline)) F at(B codes, F, int j, int side) { return f_eights(codes, j, side); }
};
struct Fours {
  static constexpr int STEP = 4;
  static constexpr bool PAIRED = false;
  static inline __attribute__((always_inline)) F at(B codes, F table, int j, int side) {
    return f_pick(table, codes, 8 * j + 4 * side);
  }
};

// The inputs of one 64 bytes of codes for N rows, which lie as in bf16_step and f32_step.
template <int N, class Form>
INLINE void coded_step(F (&c)[N][2], const uint8_t* w, F table, const uint8_t* in, long mr) {
  const B codes = b_load(w);
#pragma GCC unroll 4
  for (int j = 0; j < Form::STEP; j += Form::PAIRED ? 2 : 1) {
    for (int side = 0; side < 2; ++side) {
      const F x = Form::at(codes, table, j, side);
      if (Form::PAIRED) {
        const uint32_t* a = reinterpret_cast<const uint32_t*>(in) + j / 2 * mr;
        const B pair = b_pairs(x, Form::at(codes, table, j + 1, side));
        for (int m = 0; m < N; ++m) c[m][side] = dot_pairs(c[m][side], pair, a[m]);
      } else {
        const float* a = reinterpret_cast<const float*>(in) + j * mr;
        for (int m = 0; m < N; ++m) c[m][side] = f_fma(x, f_set(a[m]), c[m][side]);
      }
    }
  }
}

// Codes of n inputs as numbers: as F32 or, PAIRED, as BF16 lies in a panel.
template <class Form>
INLINE void expand(const uint8_t* w, F table, int n, uint8_t* plain) {
  for (int k = 0; k < n; k += Form::STEP, w += 64) {
    __builtin_prefetch(w + 2048);
    const B codes = b_load(w);
    for (int j = 0; j < Form::STEP; j += Form::PAIRED ? 2 : 1) {
      for (int side = 0; side < 2; ++side) {
        const F x = Form::at(codes, table, j, side);
        if (Form::PAIRED)
          b_store(plain + (k + j) / 2 * 128 + 64 * side, b_pairs(x, Form::at(codes, table, j + 1, side)));
        else
          f_store(reinterpret_cast<float*>(plain) + (k + j) * PANEL + 16 * side, x);
      }
    }
  }
}

// The products of n inputs, of rows from `in` on.
template <int N, bool MANY, class Form>
INLINE void coded_sums(F (&c)[N][2], const uint8_t* w, F table, int n, const uint8_t* in, long mr) {
  constexpr int UNIT = Form::PAIRED ? 2 : 4;  // bytes of an input
  for (int m = 0; m < N; ++m) c[m][0] = c[m][1] = f_set(0);
  if (!MANY) {
    for (int k = 0; k < n; k += Form::STEP, w += 64) {
      __builtin_prefetch(w + 2048);
      coded_step<N, Form>(c, w, table, in + k * mr * UNIT, mr);
    }
  } else if (Form::PAIRED) {
    const uint32_t* a = reinterpret_cast<const uint32_t*>(in);
    for (int pair = 0; pair < n / 2; ++pair) bf16_step<N>(c, w + pair * 128, a + pair * mr, 1, mr);
  } else {
    const float *x = reinterpret_cast<const float*>(w), *a = reinterpret_cast<const float*>(in);
    for (int k = 0; k < n; ++k) f32_step<N>(c, x + k * PANEL, a + k * mr, 1);
  }
}

// As int_strips of gemm.inl. MANY strips: codes become numbers once for all of them. Sums of a group's inputs,
// DOT_BLOCK at most, are scaled and added up.
template <int N, bool MANY, class Form>
static void coded_strips(const octavo_weight& weight, const uint8_t* w, const Strips& strips, float* out, long ldo) {
  constexpr long UNIT = Form::PAIRED ? 2 : 4;
  const int K = strips.in.cols, group = weight.group;
  const long mr = strips.mr;
  const uint8_t* in = tile_data(strips.in, strips.row0) + 4 * strips.m0;
  const F table = f_load(reinterpret_cast<const float*>(w));
  w += table_bytes(weight.layout);
  alignas(64) uint8_t plain[MANY ? DOT_BLOCK * PANEL * UNIT : 1];
  for (int k0 = 0; k0 < K; k0 += group) {
    const float* scale = reinterpret_cast<const float*>(w);
    w += head_bytes(weight.layout);
    for (int k = k0; k < k0 + group; k += DOT_BLOCK) {
      const int n = k0 + group - k < DOT_BLOCK ? k0 + group - k : DOT_BLOCK;
      if (MANY) expand<Form>(w, table, n, plain);
      for (int tile = 0; tile < strips.tiles; ++tile) {
        for (int m0 = 0; m0 < strips.strips * N; m0 += N) {
          F c[N][2];
          coded_sums<N, MANY, Form>(c, MANY ? plain : w, table, n, in + (tile * K + k) * mr * UNIT + 4 * m0, mr);
          float* to = out + (tile * mr + m0) * ldo;
          for (int m = 0; m < N; ++m) {
            for (int side = 0; side < 2; ++side) {
              float* at = to + m * ldo + 16 * side;
              f_store(at, f_fma(f_load(scale + 16 * side), c[m][side], k == 0 ? f_set(0) : f_load(at)));
            }
          }
        }
      }
      w += n / Form::STEP * 64;
    }
  }
}

template <int N, class Form>
static void coded_panel(const octavo_weight& weight, const uint8_t* w, const Strips& strips, float* out, long ldo) {
  if (strips.tiles * strips.strips == 1)
    coded_strips<N, false, Form>(weight, w, strips, out, ldo);
  else
    coded_strips<N, true, Form>(weight, w, strips, out, ldo);
}

template <int N>
static void float_strips(const octavo_weight& weight, const uint8_t* w, const Strips& strips, float* out, long ldo) {
  if (weight.layout == OCTAVO_F8) return coded_panel<N, Eights>(weight, w, strips, out, ldo);
  if (weight.layout == OCTAVO_F4) return coded_panel<N, Fours>(weight, w, strips, out, ldo);
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
