// Sixteen lanes, whatever the machine: F holds floats, I int32s, B 64 bytes. Included once by each variant, inside its
// own anonymous namespace, after one of OCTAVO_AVX512BF16, OCTAVO_AVX512, OCTAVO_AVX2, OCTAVO_PORTABLE is defined.
// Every reduction has one fixed order. ROWS is how many rows a micro-kernel takes, CODE_ROWS one of codes, which keeps
// CODE_SUMS sums of 16 outputs of a row in registers. PAIRS: bfloat16 inputs lie as pairs for a dot instruction (uint32
// [cols/2][mr]), not as float32 (float [cols][mr]) for fused multiply-adds.

// An integer dot that starts at DOT_START has dot_value DOT_ZERO more than the integer, if that is less than 2^22 in
// size: where one instruction multiplies and adds, the bits of 1.5 * 2^23, whose float32 counts by ones.

// Of codes of floats (F8 and F4 of src/octavo/kernels/weight.py): f_eights gives E4M3 numbers of input j = 0, 1 for 16
// outputs, times 2^-8; f_pick the numbers of a table whose places are the four bits from `shift` on of each lane;
// b_pairs joins numbers that are bfloat16 as dot_pairs takes them.

// dot16 adds, to each of 16 sums, the products of its two int16 with the two of `a`; i_store16 stores int16.

constexpr int LANES = 16;
constexpr float LEAST_AMAX = 1e-30f;  // of a group of inputs; below, all its codes are zero
constexpr float LOG2E = 1.44269504f;
#define INLINE static inline __attribute__((always_inline))

#if defined(OCTAVO_AVX512BF16) || defined(OCTAVO_AVX512)
#include "vec/avx512.h"
#elif defined(OCTAVO_AVX2)
#include "vec/avx2.h"
#else
#include "vec/portable.h"
#endif

// c[0] x^(N-1) + ... + c[N-1]
template <int N>
INLINE F f_polynomial(F x, const float (&c)[N]) {
  F p = f_set(c[0]);
#pragma GCC unroll 8
  for (int i = 1; i < N; ++i) p = f_fma(p, x, f_set(c[i]));
  return p;
}

// 2^x: relative error 2.4e-7 on [-126, 126], 0 below, 2^126 above, NaN for NaN. COARSE: relative error 8e-5 and no
// bound above, for weights that need no more digits than bfloat16 has. The polynomials are minimax.
#if defined(OCTAVO_AVX512BF16) || defined(OCTAVO_AVX512)
constexpr float EXP2_COARSE[] = {0.0780245215f, 0.226067156f, 0.695833564f, 0.999925196f};  // on [0, 1]
constexpr float EXP2[] = {0.00187757669f, 0.00898933969f, 0.0558263175f, 0.240153611f, 0.693153083f, 0.99999994f};
template <bool COARSE = false>
INLINE F f_exp2(F x) {
  if (!COARSE) x = f_min(f_set(126.f), x);
  const F f = f_fraction(x);
  return f_scale_floor(COARSE ? f_polynomial(f, EXP2_COARSE) : f_polynomial(f, EXP2), x);
}
#else
constexpr float EXP2_COARSE[] = {0.05517162f, 0.24261113f, 0.69326097f, 0.99992806f};  // on [-0.5, 0.5]
constexpr float EXP2[] = {0.00132765f, 0.00967554f, 0.05550713f, 0.24022120f, 0.69314694f, 1.00000012f};
template <bool COARSE = false>
INLINE F f_exp2(F x) {
  // f_min and f_max give their second argument where either is NaN.
  const F low = f_set(-126.f);
  const F y = f_min(f_set(126.f), f_max(low, x));
  const I n = f_round(y);
  const F f = y - i_float(n);
  return f_keep_from(x, low, f_scale2(COARSE ? f_polynomial(f, EXP2_COARSE) : f_polynomial(f, EXP2), n));
}
#endif
