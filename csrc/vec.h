// Sixteen lanes, whatever the machine: F holds floats, I int32s, B 64 bytes. Included once by each variant, inside its
// own anonymous namespace, after one of OCTAVO_AVX512BF16, OCTAVO_AVX512, OCTAVO_AVX2, OCTAVO_PORTABLE is defined.
// Every reduction has one fixed order. ROWS is how many rows a micro-kernel takes; PAIRS whether bfloat16 inputs lie as
// pairs for a dot instruction (uint32 [cols/2][mr]) or as float32 (float [cols][mr]) for fused multiply-adds.

constexpr int LANES = 16;
constexpr float LOG2E = 1.44269504f;
#define INLINE static inline __attribute__((always_inline))

#if defined(OCTAVO_AVX512BF16) || defined(OCTAVO_AVX512)

constexpr int ROWS = 8;
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

INLINE F f_set(float x) { return {_mm512_set1_ps(x)}; }
INLINE F f_load(const float* p) { return {_mm512_loadu_ps(p)}; }
INLINE void f_store(float* p, F x) { _mm512_storeu_ps(p, x.v); }
INLINE F operator+(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
INLINE F operator-(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
INLINE F operator*(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
INLINE F operator/(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
INLINE F f_fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
INLINE F f_max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
INLINE F f_min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
INLINE F f_abs(F a) { return {_mm512_abs_ps(a.v)}; }
INLINE F f_half(const uint8_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
INLINE I f_round(F a) { return {_mm512_cvtps_epi32(a.v)}; }
INLINE F f_scale2(F a, I n) {  // a * 2^n
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), _mm512_slli_epi32(n.v, 23)))};
}
INLINE F f_keep_from(F x, F low, F y) {  // y where x >= low, else 0
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, low.v, _CMP_GE_OQ), y.v)};
}
INLINE uint32_t f_above(F x, F low) { return _mm512_cmp_ps_mask(x.v, low.v, _CMP_GT_OQ); }
INLINE uint32_t f_from(F x, F low) { return _mm512_cmp_ps_mask(x.v, low.v, _CMP_GE_OQ); }
INLINE I i_zero() { return {_mm512_setzero_si512()}; }
INLINE I i_set(int32_t x) { return {_mm512_set1_epi32(x)}; }
INLINE I operator+(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
INLINE F i_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
INLINE void i_store8(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a.v)); }
INLINE int32_t i_sum(I a) { return _mm512_reduce_add_epi32(a.v); }
INLINE B b_load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
INLINE B b_low(B a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
INLINE B b_high(B a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
INLINE I dot_words(I c, B w, int32_t a) {
  // GCC 12 copies registers around the intrinsic; the plain instruction does not.
  asm("vpdpbusd %2,%1,%0" : "+v"(c.v) : "v"(w.v), "v"(_mm512_set1_epi32(a)));
  return c;
}
INLINE I dot4(I c, B w, int32_t a) { return dot_words(c, w, a); }  // codes 0..15
INLINE I dot8(I c, B w, int32_t a) { return dot_words(c, w, a); }  // codes 0..255, offset W8_OFFSET
INLINE float f_hmax(F a) { return _mm512_reduce_max_ps(a.v); }
INLINE float f_hsum(F a) { return _mm512_reduce_add_ps(a.v); }
INLINE F f_bf16(F a) {  // nearest bfloat16, ties to even, as float32
  __m512i x = _mm512_castps_si512(a.v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
  x = _mm512_add_epi32(x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  return {_mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(int(0xFFFF0000))))};
}
INLINE void f_store_bf16(uint16_t* p, F a) {
  __m512i x = _mm512_srli_epi32(_mm512_castps_si512(f_bf16(a).v), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x));
}
INLINE F b_even(B w) { return {_mm512_castsi512_ps(_mm512_slli_epi32(w.v, 16))}; }
INLINE F b_odd(B w) { return {_mm512_castsi512_ps(_mm512_and_si512(w.v, _mm512_set1_epi32(int(0xFFFF0000))))}; }

#if defined(OCTAVO_AVX512BF16)
constexpr bool PAIRS = true;
INLINE F dot_pairs(F c, B w, uint32_t a) {
  return {_mm512_dpbf16_ps(c.v, (__m512bh)w.v, (__m512bh)_mm512_set1_epi32(int(a)))};
}
#else
constexpr bool PAIRS = false;
INLINE F dot_pairs(F c, B, uint32_t) { return c; }
#endif

#elif defined(OCTAVO_AVX2)

constexpr int ROWS = 2;
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

INLINE F f_set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE F f_load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
INLINE void f_store(float* p, F x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
INLINE F operator+(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
INLINE F operator-(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
INLINE F operator*(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
INLINE F operator/(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
INLINE F f_fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
INLINE F f_max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
INLINE F f_min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
INLINE F f_abs(F x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
INLINE F f_half(const uint8_t* p) {
  const __m128i* h = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
INLINE I f_round(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
INLINE F f_scale2(F x, I n) {
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.a), _mm256_slli_epi32(n.a, 23))),
          _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x.b), _mm256_slli_epi32(n.b, 23)))};
}
INLINE F f_keep_from(F x, F low, F y) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.a, low.a, _CMP_GE_OQ), y.a),
          _mm256_and_ps(_mm256_cmp_ps(x.b, low.b, _CMP_GE_OQ), y.b)};
}
INLINE uint32_t f_above(F x, F low) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.a, low.a, _CMP_GT_OQ))) |
         uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.b, low.b, _CMP_GT_OQ))) << 8;
}
INLINE uint32_t f_from(F x, F low) {
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.a, low.a, _CMP_GE_OQ))) |
         uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x.b, low.b, _CMP_GE_OQ))) << 8;
}
INLINE I i_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
INLINE I i_set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE I operator+(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
INLINE F i_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
INLINE void i_store8(int8_t* p, I x) {
  __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xD8);
  __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
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
INLINE __m256i dot_unsigned(__m256i c, __m256i w, __m256i a) {  // |w| * |a| pairs must fit 16 bits
  return _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
INLINE __m256i dot_signed(__m256i c, __m256i w, __m256i a) {  // w biased by 128; 128 * 127 * 2 fits 16 bits
  const __m256i plain = _mm256_xor_si256(w, _mm256_set1_epi8(char(0x80)));
  return dot_unsigned(c, _mm256_abs_epi8(plain), _mm256_sign_epi8(a, plain));
}
INLINE I dot4(I c, B w, int32_t a) {
  const __m256i v = _mm256_set1_epi32(a);
  return {dot_unsigned(c.a, w.a, v), dot_unsigned(c.b, w.b, v)};
}
INLINE I dot8(I c, B w, int32_t a) {
  const __m256i v = _mm256_set1_epi32(a);
  return {dot_signed(c.a, w.a, v), dot_signed(c.b, w.b, v)};
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
  x = _mm256_add_epi32(x, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int(0xFFFF0000))));
}
INLINE F f_bf16(F x) { return {bf16_half(x.a), bf16_half(x.b)}; }
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
INLINE F dot_pairs(F c, B, uint32_t) { return c; }

#else  // OCTAVO_PORTABLE: plain loops, for any processor

constexpr int ROWS = 2;
constexpr int W8_OFFSET = 0;
constexpr bool PAIRS = false;

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
struct B {
  uint8_t v[64];
};
#define EACH for (int i = 0; i < 16; ++i)

INLINE uint32_t bits_of(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}
INLINE float float_of(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}
INLINE float half_value(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7FFF;
  if (rest >= 0x7C00) return float_of(sign | 0x7F800000 | (rest & 0x3FF) << 13);
  if (rest < 0x400) return float_of(sign | bits_of(float(rest) * 0x1p-24f));
  return float_of(sign | ((rest << 13) + 0x38000000));
}
INLINE F f_set(float x) {
  F r;
  EACH r.v[i] = x;
  return r;
}
INLINE F f_load(const float* p) {
  F r;
  EACH r.v[i] = p[i];
  return r;
}
INLINE void f_store(float* p, F x) { EACH p[i] = x.v[i]; }
INLINE F operator+(F a, F b) {
  EACH a.v[i] += b.v[i];
  return a;
}
INLINE F operator-(F a, F b) {
  EACH a.v[i] -= b.v[i];
  return a;
}
INLINE F operator*(F a, F b) {
  EACH a.v[i] *= b.v[i];
  return a;
}
INLINE F operator/(F a, F b) {
  EACH a.v[i] /= b.v[i];
  return a;
}
INLINE F f_fma(F a, F b, F c) {
  EACH c.v[i] += a.v[i] * b.v[i];
  return c;
}
INLINE F f_max(F a, F b) {
  EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
INLINE F f_min(F a, F b) {
  EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
INLINE F f_abs(F a) {
  EACH a.v[i] = __builtin_fabsf(a.v[i]);
  return a;
}
INLINE F f_half(const uint8_t* p) {
  F r;
  EACH {
    uint16_t h;
    __builtin_memcpy(&h, p + 2 * i, 2);
    r.v[i] = half_value(h);
  }
  return r;
}
INLINE I f_round(F a) {
  I r;
  EACH {
    const float x = a.v[i];
    r.v[i] = x < -2147483648.f || !(x < 2147483648.f) ? INT32_MIN : int32_t(__builtin_rintf(x));
  }
  return r;
}
INLINE F f_scale2(F a, I n) {
  EACH a.v[i] = float_of(bits_of(a.v[i]) + (uint32_t(n.v[i]) << 23));
  return a;
}
INLINE F f_keep_from(F x, F low, F y) {
  EACH y.v[i] = x.v[i] >= low.v[i] ? y.v[i] : 0.f;
  return y;
}
INLINE uint32_t f_above(F x, F low) {
  uint32_t mask = 0;
  EACH mask |= uint32_t(x.v[i] > low.v[i]) << i;
  return mask;
}
INLINE uint32_t f_from(F x, F low) {
  uint32_t mask = 0;
  EACH mask |= uint32_t(x.v[i] >= low.v[i]) << i;
  return mask;
}
INLINE I i_set(int32_t x) {
  I r;
  EACH r.v[i] = x;
  return r;
}
INLINE I i_zero() { return i_set(0); }
INLINE I operator+(I a, I b) {
  EACH a.v[i] += b.v[i];
  return a;
}
INLINE F i_float(I a) {
  F r;
  EACH r.v[i] = float(a.v[i]);
  return r;
}
INLINE void i_store8(int8_t* p, I a) { EACH p[i] = int8_t(a.v[i] > 127 ? 127 : a.v[i] < -128 ? -128 : a.v[i]); }
INLINE int32_t i_sum(I a) {
  int32_t sum = 0;
  EACH sum += a.v[i];
  return sum;
}
INLINE B b_load(const uint8_t* p) {
  B r;
  __builtin_memcpy(r.v, p, 64);
  return r;
}
INLINE B b_low(B a) {
  for (int i = 0; i < 64; ++i) a.v[i] &= 15;
  return a;
}
INLINE B b_high(B a) {
  for (int i = 0; i < 64; ++i) a.v[i] >>= 4;
  return a;
}
INLINE I dot_offset(I c, B w, int32_t a, int offset) {
  int8_t s[4];
  __builtin_memcpy(s, &a, 4);
  EACH for (int j = 0; j < 4; ++j) c.v[i] += (int32_t(w.v[4 * i + j]) - offset) * s[j];
  return c;
}
INLINE I dot4(I c, B w, int32_t a) { return dot_offset(c, w, a, 0); }
INLINE I dot8(I c, B w, int32_t a) { return dot_offset(c, w, a, 128); }
INLINE float f_hmax(F a) {
  float best = a.v[0];
  EACH best = a.v[i] > best ? a.v[i] : best;
  return best;
}
INLINE float f_hsum(F a) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  return a.v[0];
}
INLINE float bf16_value(float x) {
  const uint32_t u = bits_of(x);
  return float_of((u + 0x7FFF + ((u >> 16) & 1)) & 0xFFFF0000);
}
INLINE F f_bf16(F a) {
  EACH a.v[i] = bf16_value(a.v[i]);
  return a;
}
INLINE void f_store_bf16(uint16_t* p, F a) { EACH p[i] = uint16_t(bits_of(bf16_value(a.v[i])) >> 16); }
INLINE F b_even(B w) {
  F r;
  EACH r.v[i] = float_of(uint32_t(w.v[4 * i]) << 16 | uint32_t(w.v[4 * i + 1]) << 24);
  return r;
}
INLINE F b_odd(B w) {
  F r;
  EACH r.v[i] = float_of(uint32_t(w.v[4 * i + 2]) << 16 | uint32_t(w.v[4 * i + 3]) << 24);
  return r;
}
INLINE F dot_pairs(F c, B, uint32_t) { return c; }
#undef EACH

#endif

// 2^x, relative error 2.4e-7 on [-126, 126] (minimax polynomial on [-0.5, 0.5]); 0 below, 2^126 above.
INLINE F f_exp2(F x) {
  const F low = f_set(-126.f);
  const F y = f_min(f_max(x, low), f_set(126.f));
  const I n = f_round(y);
  const F f = y - i_float(n);
  F p = f_fma(f_set(0.00132765f), f, f_set(0.00967554f));
  p = f_fma(p, f, f_set(0.05550713f));
  p = f_fma(p, f, f_set(0.24022120f));
  p = f_fma(p, f, f_set(0.69314694f));
  p = f_fma(p, f, f_set(1.00000012f));
  return f_keep_from(x, low, f_scale2(p, n));
}
