// What comes between a product of query and key and its softmax, but for the scale: which keys a row sees, caps of
// scores and slopes over distance; and the sink, which takes a share of the softmax for no value.

// Of the 32 scores of keys from position `first` on, those of keys outside of [from, limit) become -inf. Gives the
// largest in each lane.
INLINE F hide_page(float* score, int first, int from, int limit) {
  for (int t = 0; t < PAGE && t < from - first; ++t) score[t] = -__builtin_inff();
  const F low = f_hide(f_load(score), limit - first), high = f_hide(f_load(score + 16), limit - first - 16);
  f_store(score, low);
  f_store(score + 16, high);
  return f_max(low, high);
}

// cap(score) + slope * (position of the key - position) for keys from `first` on.
static void shape_scores(const octavo_op& op, float slope, int first, int position, int count, float* score) {
  alignas(64) static const float LANE[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  if (op.soft_cap > 0) {
    const F cap = f_set(op.soft_cap), inverse = f_set(1.f / op.soft_cap);
    for (int t = 0; t < count; t += LANES) f_store(score + t, cap * f_tanh(f_load(score + t) * inverse));
  }
  if (op.slopes == nullptr) return;
  const F by = f_set(slope), lane = f_load(LANE);
  for (int t = 0; t < count; t += LANES)
    f_store(score + t, f_fma(by, f_set(float(first + t - position)) + lane, f_load(score + t)));
}

// What values weighed with 2^(score - top) are multiplied by: `sum` is that of their weights.
static float share_of(float top, float sum, const float* sink) {
  if (sink == nullptr) return 1.f / sum;
  float lane[LANES];
  const float at = *sink * LOG2E, most = top > at ? top : at;
  f_store(lane, f_exp2(f_set(top - most)));
  const float keep = lane[0];
  f_store(lane, f_exp2(f_set(at - most)));
  return keep / (sum * keep + lane[0]);
}
