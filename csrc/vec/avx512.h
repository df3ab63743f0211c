// Sixteen lanes in one register. See vec.h.

constexpr int ROWS = 8;
constexpr int CODE_ROWS = 8;
constexpr int CODE_SUMS = 16;
constexpr int W8_OFFSET = 128;  // what the dot of W8 codes must be corrected by

struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
struct B {
  __m512i v;
};

INLINE F f_set(float x) {
  return {_mm512_set1_ps(x)};
}
INLINE F f_load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
INLINE void f_store(float* p, F x) {
  _mm512_storeu_ps(p, x.v);
}
INLINE F operator+(F a, F b) {
  return {_mm512_add_ps(a.v, b.v)};
}
INLINE F operator-(F a, F b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
INLINE F operator*(F a, F b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
INLINE F f_reciprocal(F a) {  // of a normal number, within 2^-23 of itself
  const __m512 guess = _mm512_rcp14_ps(a.v);
  return {_mm512_mul_ps(guess, _mm512_fnmadd_ps(a.v, guess, _mm512_set1_ps(2.f)))};
}
INLINE F f_fma(F a, F b, F c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
INLINE F f_max(F a, F b) {
  return {_mm512_max_ps(a.v, b.v)};
}
INLINE F f_min(F a, F b) {
  return {_mm512_min_ps(a.v, b.v)};
}
INLINE F f_abs(F a) {
  return {_mm512_abs_ps(a.v)};
}
INLINE F f_half(const uint8_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
INLINE I f_round(F a) {
  return {_mm512_cvtps_epi32(a.v)};
}
INLINE F f_fraction(F x) {  // x - floor(x); of an infinity 0
  return {_mm512_reduce_ps(x.v, 9)};
}
INLINE F f_scale_floor(F p, F x) {  // p * 2^floor(x); 0 where x < -126: no denormal numbers, which are slow
  return {_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-126.f), _CMP_NLT_UQ), p.v, x.v)};
}
INLINE F f_hide(F x, int n) {  // lanes from n on become -inf
  const uint32_t hidden = n >= LANES ? 0 : n <= 0 ? 0xFFFF : 0xFFFFu << n;
  return {_mm512_mask_mov_ps(x.v, __mmask16(hidden), _mm512_set1_ps(-__builtin_inff()))};
}
INLINE F f_keep_from(F x, F low, F y) {  // 0 where x < low, else y
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, low.v, _CMP_NLT_UQ), y.v)};
}
INLINE uint32_t f_above(F x, F low) {
  return _mm512_cmp_ps_mask(x.v, low.v, _CMP_GT_OQ);
}
INLINE uint32_t f_from(F x, F low) {
  return _mm512_cmp_ps_mask(x.v, low.v, _CMP_GE_OQ);
}
INLINE I i_zero() {
  return {_mm512_setzero_si512()};
}
INLINE I i_set(int32_t x) {
  return {_mm512_set1_epi32(x)};
}
INLINE I operator+(I a, I b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
INLINE F i_float(I a) {
  return {_mm512_cvtepi32_ps(a.v)};
}
INLINE void i_store8(int8_t* p, I a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a.v));
}
INLINE void i_store16(int16_t* p, I a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(a.v));
}
INLINE int32_t i_sum(I a) {
  return _mm512_reduce_add_epi32(a.v);
}
INLINE B b_load(const uint8_t* p) {
  return {_mm512_loadu_si512(p)};
}
INLINE B b_low(B a) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))};
}
INLINE B b_high(B a) {
  return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))};
}
INLINE B b_pick(B table, B codes) {  // table[code], for codes 0..15; the table comes four times
  return {_mm512_shuffle_epi8(table.v, codes.v)};
}
INLINE I dot_words(I c, B w, int32_t a) {
  // GCC 12 copies registers around the intrinsic; the plain instruction does not.
  asm("vpdpbusd %2,%1,%0" : "+v"(c.v) : "v"(w.v), "v"(_mm512_set1_epi32(a)));
  return c;
}
INLINE void b_store(uint8_t* p, B a) {
  _mm512_storeu_si512(p, a.v);
}
constexpr float DOT_ZERO = 12582912.f;
constexpr int32_t DOT_START = 0x4B400000;
INLINE F dot_value(I c) {
  return {_mm512_castsi512_ps(c.v)};
}
constexpr bool SHORT_SUMS = false;
using Short = I;
INLINE I short_zero() {
  return i_zero();
}
INLINE I short_sum(I c) {
  return c;
}
INLINE I dot4(I c, B w, int32_t a) {
  return dot_words(c, w, a);
}  // codes 0..15
INLINE I dot8(I c, B w, int32_t a) {
  return dot_words(c, w, a);
}  // codes 0..255, offset W8_OFFSET
INLINE I dot16(I c, B w, int32_t a) {
  asm("vpdpwssd %2,%1,%0" : "+v"(c.v) : "v"(w.v), "v"(_mm512_set1_epi32(a)));
  return c;
}
INLINE float f_hmax(F a) {
  return _mm512_reduce_max_ps(a.v);
}
INLINE float f_hsum(F a) {
  return _mm512_reduce_add_ps(a.v);
}
INLINE F f_bf16(F a) {  // nearest bfloat16, ties to even, as float32; a NaN is cut, since rounding could carry it to 0
  __m512i x = _mm512_castps_si512(a.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  const __mmask16 number = _mm512_cmp_ps_mask(a.v, a.v, _CMP_ORD_Q);
  x = _mm512_mask_add_epi32(x, number, x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  return {_mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(int(0xFFFF0000))))};
}
INLINE void f_store_bf16(uint16_t* p, F a) {
  __m512i x = _mm512_srli_epi32(_mm512_castps_si512(f_bf16(a).v), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x));
}
INLINE F b_even(B w) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(w.v, 16))};
}
INLINE F b_odd(B w) {
  return {_mm512_castsi512_ps(_mm512_and_si512(w.v, _mm512_set1_epi32(int(0xFFFF0000))))};
}
INLINE F f_eights(B codes, int j, int side) {
  const __m512i words = side == 0 ? _mm512_slli_epi16(codes.v, 8) : codes.v;
  const __m512i half = _mm512_and_si512(_mm512_srai_epi16(words, 1), _mm512_set1_epi16(short(0xBF80)));
  return {_mm512_cvtph_ps(j == 0 ? _mm512_castsi512_si256(half) : _mm512_extracti64x4_epi64(half, 1))};
}
INLINE F f_pick(F table, B codes, int shift) {
  return {_mm512_permutexvar_ps(_mm512_srli_epi32(codes.v, shift), table.v)};
}

// Groups of 32 inputs of eight rows (x[m * lds + k]) as int8 codes [8 quads][8 rows][4], bit by bit as store_group
// makes them (kernels/rows.inl). False, and nothing done, where an input is not finite.
#define OCTAVO_EIGHT_ROWS
INLINE bool store_eight(const float* x, long lds, uint8_t* codes, float* scale, float* sum, int32_t* start4,
                        int32_t* start8, int32_t* front) {
  const __m512i size = _mm512_set1_epi32(0x7FFFFFFF);
  __m512 low[8], high[8];
  __m256i t[8];  // first the largest bits of each row, then its codes
  for (int m = 0; m < 8; ++m) {
    low[m] = _mm512_loadu_ps(x + m * lds);
    high[m] = _mm512_loadu_ps(x + m * lds + 16);
    const __m512i top = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low[m]), size),
                                         _mm512_and_si512(_mm512_castps_si512(high[m]), size));
    t[m] = _mm256_max_epi32(_mm512_castsi512_si256(top), _mm512_extracti64x4_epi64(top, 1));
  }
  for (int m = 0; m < 8; m += 2)
    t[m] = _mm256_max_epi32(_mm256_unpacklo_epi32(t[m], t[m + 1]), _mm256_unpackhi_epi32(t[m], t[m + 1]));
  for (int m = 0; m < 8; m += 4)
    t[m] = _mm256_max_epi32(_mm256_unpacklo_epi64(t[m], t[m + 2]), _mm256_unpackhi_epi64(t[m], t[m + 2]));
  const __m256i bits =
      _mm256_max_epi32(_mm256_permute2x128_si256(t[0], t[4], 0x20), _mm256_permute2x128_si256(t[0], t[4], 0x31));
  if (_mm256_cmpge_epi32_mask(bits, _mm256_set1_epi32(0x7F800000)) != 0) return false;
  const __m256 amax = _mm256_castsi256_ps(bits), most = _mm256_set1_ps(127.f);
  _mm256_storeu_ps(scale, _mm256_div_ps(amax, most));
  const __mmask8 some = _mm256_cmp_ps_mask(amax, _mm256_set1_ps(LEAST_AMAX), _CMP_GT_OQ);
  alignas(32) float inverse[8];
  _mm256_store_ps(inverse, _mm256_maskz_div_ps(some, most, amax));
  for (int m = 0; m < 8; ++m) {
    const __m512 by = _mm512_set1_ps(inverse[m]);
    const __m128i first = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low[m], by)));
    const __m128i second = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high[m], by)));
    t[m] = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
  }
  __m256i pairs[8], fours[8];
  for (int m = 0; m < 8; m += 2) {
    pairs[m] = _mm256_unpacklo_epi32(t[m], t[m + 1]);
    pairs[m + 1] = _mm256_unpackhi_epi32(t[m], t[m + 1]);
  }
  for (int m = 0; m < 8; m += 4)
    for (int i = 0; i < 2; ++i) {
      fours[m + 2 * i] = _mm256_unpacklo_epi64(pairs[m + i], pairs[m + 2 + i]);
      fours[m + 2 * i + 1] = _mm256_unpackhi_epi64(pairs[m + i], pairs[m + 2 + i]);
    }
  const __m256i ones = _mm256_set1_epi8(1);
  __m256i total = _mm256_setzero_si256();
  for (int q = 0; q < 8; ++q) {
    const __m256i quad = q < 4 ? _mm256_permute2x128_si256(fours[q], fours[q + 4], 0x20)
                               : _mm256_permute2x128_si256(fours[q - 4], fours[q], 0x31);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + 32 * q), quad);
    total = _mm256_dpbusd_epi32(total, ones, quad);
    if (q == 3) _mm256_storeu_si256(reinterpret_cast<__m256i*>(front), total);
  }
  const __m256i start = _mm256_set1_epi32(DOT_START);
  _mm256_storeu_ps(sum, _mm256_cvtepi32_ps(total));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(start4), _mm256_sub_epi32(start, _mm256_slli_epi32(total, 3)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(start8), _mm256_sub_epi32(start, _mm256_slli_epi32(total, 7)));
  return true;
}

#if defined(OCTAVO_AVX512BF16)
constexpr bool PAIRS = true;
INLINE F dot_pairs(F c, B w, uint32_t a) {
  return {_mm512_dpbf16_ps(c.v, (__m512bh)w.v, (__m512bh)_mm512_set1_epi32(int(a)))};
}
INLINE B b_pairs(F even, F odd) {
  return {_mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even.v), 16), _mm512_castps_si512(odd.v))};
}
#else
constexpr bool PAIRS = false;
INLINE F dot_pairs(F c, B, uint32_t) {
  return c;
}
INLINE B b_pairs(F, F) {
  return B{};
}
#endif
