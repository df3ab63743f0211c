// Sixteen lanes in plain loops, for any processor. See vec.h.

constexpr int ROWS = 2;
constexpr int CODE_ROWS = 2;
constexpr int CODE_SUMS = 4;
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
INLINE void f_store(float* p, F x) {
  EACH p[i] = x.v[i];
}
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
INLINE F f_reciprocal(F a) {
  EACH a.v[i] = 1.f / a.v[i];
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
  EACH y.v[i] = x.v[i] < low.v[i] ? 0.f : y.v[i];
  return y;
}
INLINE F f_hide(F x, int n) {  // lanes from n on become -inf
  EACH x.v[i] = i < n ? x.v[i] : -__builtin_inff();
  return x;
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
INLINE I i_zero() {
  return i_set(0);
}
INLINE I operator+(I a, I b) {
  EACH a.v[i] += b.v[i];
  return a;
}
INLINE F i_float(I a) {
  F r;
  EACH r.v[i] = float(a.v[i]);
  return r;
}
INLINE void i_store8(int8_t* p, I a) {
  EACH p[i] = int8_t(a.v[i] > 127 ? 127 : a.v[i] < -128 ? -128 : a.v[i]);
}
INLINE void i_store16(int16_t* p, I a) {
  EACH p[i] = int16_t(a.v[i]);
}
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
INLINE B b_pick(B table, B codes) {
  for (int i = 0; i < 64; ++i) codes.v[i] = table.v[codes.v[i]];
  return codes;
}
INLINE void b_store(uint8_t* p, B a) {
  __builtin_memcpy(p, a.v, 64);
}
constexpr float DOT_ZERO = 0.f;  // multiplying and adding rounds twice here, so bits of a large number would not do
constexpr int32_t DOT_START = 0;
INLINE F dot_value(I c) {
  return i_float(c);
}
INLINE I dot_offset(I c, B w, int32_t a, int offset) {
  int8_t s[4];
  __builtin_memcpy(s, &a, 4);
  EACH for (int j = 0; j < 4; ++j) c.v[i] += (int32_t(w.v[4 * i + j]) - offset) * s[j];
  return c;
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
  return dot_offset(c, w, a, 0);
}
INLINE I dot8(I c, B w, int32_t a) {
  return dot_offset(c, w, a, 128);
}
INLINE I dot16(I c, B w, int32_t a) {
  int16_t codes[32], pair[2];
  __builtin_memcpy(codes, w.v, 64);
  __builtin_memcpy(pair, &a, 4);
  EACH c.v[i] += codes[2 * i] * pair[0] + codes[2 * i + 1] * pair[1];
  return c;
}
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
  return float_of((x == x ? u + 0x7FFF + ((u >> 16) & 1) : u) & 0xFFFF0000);
}
INLINE F f_bf16(F a) {
  EACH a.v[i] = bf16_value(a.v[i]);
  return a;
}
INLINE void f_store_bf16(uint16_t* p, F a) {
  EACH p[i] = uint16_t(bits_of(bf16_value(a.v[i])) >> 16);
}
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
INLINE F dot_pairs(F c, B, uint32_t) {
  return c;
}
INLINE B b_pairs(F, F) {
  return B{};
}
INLINE F f_eights(B codes, int j, int side) {
  F r;
  EACH {
    const uint8_t code = codes.v[32 * j + 2 * i + side];
    r.v[i] = half_value(uint16_t((code & 0x80) << 8 | (code & 0x7F) << 7));
  }
  return r;
}
INLINE F f_pick(F table, B codes, int shift) {
  F r;
  EACH r.v[i] = table.v[codes.v[4 * i + shift / 8] >> shift % 8 & 15];
  return r;
}
#undef EACH
