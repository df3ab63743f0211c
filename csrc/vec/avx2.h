// Sixteen lanes in two registers. See vec.h.

constexpr int ROWS = 2;
constexpr int CODE_ROWS = 4;
constexpr int CODE_SUMS = 4;
constexpr int W8_OFFSET = 0;
constexpr bool PAIRS = false;

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
struct B {
  __m256i a, b;
};

INLINE F f_set(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
INLINE F f_load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
INLINE void f_store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
INLINE F operator+(F x, F y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
INLINE F operator-(F x, F y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
INLINE F operator*(F x, F y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
INLINE F f_reciprocal(F x) {
  const __m256 one = _mm256_set1_ps(1.f);
  return {_mm256_div_ps(one, x.a), _mm256_div_ps(one, x.b)};
}
INLINE F f_fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
INLINE F f_max(F x, F y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
INLINE F f_min(F x, F y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
INLINE F f_abs(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
INLINE F f_half(const uint8_t* p) {
  const __m128i* h = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
INLINE I f_round(F x) {
  return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)};
}
INLINE F f_scale2(F x, I n) {
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.a), _mm256_slli_epi32(n.a, 23))),
          _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.b), _mm256_slli_epi32(n.b, 23)))};
}
INLINE F f_keep_from(F x, F low, F y) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.a, low.a, _CMP_NLT_UQ), y.a),
          _mm256_and_ps(_mm256_cmp_ps(x.b, low.b, _CMP_NLT_UQ), y.b)};
}
INLINE F f_hide(F x, int n) {  // lanes from n on become -inf
  const __m256 least = _mm256_set1_ps(-__builtin_inff());
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_blendv_ps(least, x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane))),
          _mm256_blendv_ps(least, x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane)))};
}
INLINE uint32_t f_above(F x, F low) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.a, low.a, _CMP_GT_OQ))) |
         uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.b, low.b, _CMP_GT_OQ))) << 8;
}
INLINE uint32_t f_from(F x, F low) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.a, low.a, _CMP_GE_OQ))) |
         uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.b, low.b, _CMP_GE_OQ))) << 8;
}
INLINE I i_zero() {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
INLINE I i_set(int32_t x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
INLINE I operator+(I x, I y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
INLINE F i_float(I x) {
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
INLINE void i_store8(int8_t* p, I x) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xD8);
  __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
INLINE void i_store16(int16_t* p, I x) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), words);
}
INLINE int32_t i_sum(I x) {
  alignas(32) int32_t lane[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), _mm256_add_epi32(x.a, x.b));
  return lane[0] + lane[1] + lane[2] + lane[3] + lane[4] + lane[5] + lane[6] + lane[7];
}
INLINE B b_load(const uint8_t* p) {
  const __m256i* h = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(h), _mm256_loadu_si256(h + 1)};
}
INLINE B b_low(B x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
INLINE B b_high(B x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(x.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(x.b, 4), mask)};
}
INLINE B b_pick(B table, B codes) {  // table[code], for codes 0..15; the table comes four times
  return {_mm256_shuffle_epi8(table.a, codes.a), _mm256_shuffle_epi8(table.b, codes.b)};
}
INLINE __m256i dot_signed(__m256i c, __m256i w, __m256i a) {  // w biased by 128; 128 * 127 * 2 fits 16 bits
  const __m256i plain = _mm256_xor_si256(w, _mm256_set1_epi8(char(0x80)));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(plain), _mm256_sign_epi8(a, plain));
  return _mm256_add_epi32(c, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
INLINE void b_store(uint8_t* p, B x) {
  // Plain stores GCC 12 follows into later loads, keeps all that was stored in registers, and runs out of them.
  __m256i* to = reinterpret_cast<__m256i*>(p);
  asm("vmovdqu %1,%0" : "=m"(to[0]) : "x"(x.a));
  asm("vmovdqu %1,%0" : "=m"(to[1]) : "x"(x.b));
}
constexpr float DOT_ZERO = 12582912.f;
constexpr int32_t DOT_START = 0x4B400000;
INLINE F dot_value(I c) {
  return {_mm256_castsi256_ps(c.a), _mm256_castsi256_ps(c.b)};
}
// Dots of 32 inputs with codes of four bits: 8 quads of 2 * 15 * 127 fit 16 bits.
constexpr bool SHORT_SUMS = true;
struct Short {
  __m256i a, b;
};
INLINE Short short_zero() {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
INLINE I short_sum(Short c) {
  const __m256i one = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(c.a, one), _mm256_madd_epi16(c.b, one)};
}
INLINE __m256i add_pairs16(__m256i c, __m256i w, __m256i a) {
  // As intrinsics, GCC 12 takes all products first and adds them later, through memory.
  __m256i product;
  asm("vpmaddubsw %3,%2,%1\n\tvpaddw %1,%0,%0" : "+x"(c), "=&x"(product) : "x"(w), "x"(a));
  return c;
}
INLINE Short dot4(Short c, B w, int32_t a) {
  const __m256i v = _mm256_set1_epi32(a);
  return {add_pairs16(c.a, w.a, v), add_pairs16(c.b, w.b, v)};
}
INLINE I dot8(I c, B w, int32_t a) {
  const __m256i v = _mm256_set1_epi32(a);
  return {dot_signed(c.a, w.a, v), dot_signed(c.b, w.b, v)};
}
INLINE __m256i add_products(__m256i c, __m256i w, __m256i a) {
  __m256i product;  // as in add_pairs16
  asm("vpmaddwd %3,%2,%1\n\tvpaddd %1,%0,%0" : "+x"(c), "=&x"(product) : "x"(w), "x"(a));
  return c;
}
INLINE I dot16(I c, B w, int32_t a) {
  const __m256i v = _mm256_set1_epi32(a);
  return {add_products(c.a, w.a, v), add_products(c.b, w.b, v)};
}
INLINE float f_hmax(F x) {
  alignas(32) float lane[8];
  _mm256_store_ps(lane, _mm256_max_ps(x.a, x.b));
  float best = lane[0];
  for (int i = 1; i < 8; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}
INLINE float f_hsum(F x) {  // the order of _mm512_reduce_add_ps
  __m256 y = _mm256_add_ps(x.a, x.b);
  __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  z = _mm_add_ps(z, _mm_movehl_ps(z, z));
  return _mm_cvtss_f32(_mm_add_ss(z, _mm_shuffle_ps(z, z, 1)));
}
INLINE __m256 bf16_half(__m256 a) {
  __m256i x = _mm256_castps_si256(a);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
  const __m256i number = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_ORD_Q));
  x = _mm256_add_epi32(x, _mm256_and_si256(number, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))));
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int(0xFFFF0000))));
}
INLINE F f_bf16(F x) {
  return {bf16_half(x.a), bf16_half(x.b)};
}
INLINE void f_store_bf16(uint16_t* p, F x) {
  const F y = f_bf16(x);
  const __m256i a = _mm256_srli_epi32(_mm256_castps_si256(y.a), 16);
  const __m256i b = _mm256_srli_epi32(_mm256_castps_si256(y.b), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8));
}
INLINE F b_even(B w) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(w.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(w.b, 16))};
}
INLINE F b_odd(B w) {
  const __m256i mask = _mm256_set1_epi32(int(0xFFFF0000));
  return {_mm256_castsi256_ps(_mm256_and_si256(w.a, mask)), _mm256_castsi256_ps(_mm256_and_si256(w.b, mask))};
}
INLINE F dot_pairs(F c, B, uint32_t) {
  return c;
}
INLINE B b_pairs(F, F) {
  return B{};
}
INLINE F f_eights(B codes, int j, int side) {
  const __m256i words = j == 0 ? codes.a : codes.b, high = side == 0 ? _mm256_slli_epi16(words, 8) : words;
  const __m256i half = _mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16(short(0xBF80)));
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)), _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}
INLINE __m256 pick_eight(F table, __m256i codes, int shift) {
  const __m256i index = _mm256_srli_epi32(codes, shift);
  const __m256 low = _mm256_permutevar8x32_ps(table.a, index), high = _mm256_permutevar8x32_ps(table.b, index);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28 - shift)));
}
INLINE F f_pick(F table, B codes, int shift) {
  return {pick_eight(table, codes.a, shift), pick_eight(table, codes.b, shift)};
}
