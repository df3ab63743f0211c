// Functions of sixteen numbers, by polynomials fitted to them (minimax, relative error below 1e-7).

constexpr float TANH[] = {-0.00571704359f, 0.0206505861f, -0.0537434977f, 0.133314913f,
                          -0.333332839f};  // (tanh(x) / x - 1) / x^2 by x^2, |x| < TANH_NEAR
constexpr float TANH_NEAR = 0.625f, BELOW_NEAR = 0.62499994f;
constexpr float ERFC[] = {-0.0590689191f, 0.284574782f, -0.487199563f, 0.278066821f, -0.0266254635f,
                          0.202686797f,   0.243103778f, 0.282375307f,  0.282086418f};  // erfc(x) exp(x^2) / t by t
constexpr float ERFC_END = 10.f;  // beyond, erfc(x) is no normal number

INLINE F f_tanh(F x) {
  const F square = x * x, size = f_abs(x), one = f_set(1.f);
  const F near = f_fma(x * square, f_polynomial(square, TANH), x);
  const F far = one - f_set(2.f) * f_reciprocal(one + f_exp2(x * f_set(2 * LOG2E)));
  return f_keep_from(size, f_set(TANH_NEAR), far) + f_keep_from(f_set(0) - size, f_set(-BELOW_NEAR), near);
}

// z / (1 + exp(-by))
INLINE F f_gated(F z, F by) {
  const F one = f_set(1.f);
  return z * f_reciprocal(one + f_exp2(by * f_set(-LOG2E)));
}

// z (1 + erf(z / sqrt(2))) / 2: where z < 0, z erfc(|z| / sqrt(2)) / 2
INLINE F f_gelu(F z) {
  const F one = f_set(1.f), a = f_min(f_set(ERFC_END), f_abs(z) * f_set(0.707106781f));
  const F t = f_reciprocal(f_fma(a, f_set(0.5f), one));
  const F half = f_set(0.5f) * f_exp2(a * a * f_set(-LOG2E)) * (t * f_polynomial(t, ERFC));
  return z * (half + f_keep_from(z, f_set(0), one - half - half));
}

// z (1 + tanh(y)) / 2 = z / (1 + exp(-2y)), y = sqrt(2 / pi) (z + 0.044715 z^3)
INLINE F f_gelu_tanh(F z) {
  return f_gated(z, z * f_fma(z * z, f_set(0.0713548163f), f_set(1.59576912f)));
}

template <int ACTIVATION>
INLINE F f_activate(F z) {
  if (ACTIVATION == OCTAVO_GELU) return f_gelu(z);
  if (ACTIVATION == OCTAVO_GELU_TANH) return f_gelu_tanh(z);
  if (ACTIVATION == OCTAVO_SILU) return f_gated(z, z);
  const F positive = f_max(f_set(0), z);  // of a NaN a NaN
  return ACTIVATION == OCTAVO_RELU ? positive : positive * positive;
}
