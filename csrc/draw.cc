#include "draw.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace octavo {

namespace {

constexpr float LOWEST = -std::numeric_limits<float>::max();
constexpr int CHUNK = 1024;  // values whose masses are summed together

// Temperature, penalties and bias of one row; values are changed in place and noted.
void shape_logits(const octavo_batch& b, int i, float* row, DrawScratch& s) {
  s.changed.clear();
  const auto change = [&](int32_t id, float value) {
    s.changed.emplace_back(id, row[id]);
    row[id] = std::min(std::max(value, LOWEST), -LOWEST);
  };
  for (int64_t j = b.bias_starts[i]; j < b.bias_starts[i + 1]; ++j)
    change(b.bias_ids[j], row[b.bias_ids[j]] + b.bias_values[j]);
  const int64_t start = b.history_starts[i], end = b.history_starts[i + 1];
  for (int64_t j = start; j < end; ++j)  // bit 0: seen; the rest counts generated tokens
    s.counts[b.history[j]] = (s.counts[b.history[j]] | 1) + (j - start >= b.prompt_lens[i] ? 2 : 0);
  for (int64_t j = start; j < end; ++j) {
    const int32_t id = b.history[j], seen = s.counts[id];
    if (seen == 0) continue;
    s.counts[id] = 0;
    float value = row[id];
    value = value > 0 ? value / b.repetition[i] : value * b.repetition[i];
    const int32_t count = seen >> 1;
    value -= b.frequency[i] * float(count);
    if (count > 0) value -= b.presence[i];
    change(id, value);
  }
}

// Likelier first, the lower id on a tie.
struct Likelier {
  const float* row;
  bool operator()(int32_t a, int32_t b) const { return row[a] != row[b] ? row[a] > row[b] : a < b; }
};

// The last in likelihood of the fewest tokens of `order` whose masses reach `goal`.
int32_t nucleus_end(const float* row, std::vector<int32_t>& order, double goal, float top, double factor) {
  const auto mass = [&](int32_t id) { return std::exp((double(row[id]) - top) * factor); };
  size_t low = 0, high = order.size();
  double before = 0;
  while (high - low > 64) {
    const size_t middle = (low + high) / 2;
    std::nth_element(order.begin() + low, order.begin() + middle, order.begin() + high, Likelier{row});
    double part = 0;
    for (size_t j = low; j < middle; ++j) part += mass(order[j]);
    if (before + part >= goal) {
      high = middle;
    } else {
      before += part;
      low = middle;
    }
  }
  std::sort(order.begin() + low, order.begin() + high, Likelier{row});
  for (size_t j = low; j < high; ++j) {
    before += mass(order[j]);
    if (before >= goal) return order[j];
  }
  return order[high - 1];
}

// Draws among all tokens.
int32_t draw_all(const Kernels& kernels, const float* row, int vocab, int n, float top, float factor, float u,
                 DrawScratch& s) {
  s.mass.clear();
  double total = 0;
  for (int from = 0; from < n; from += CHUNK) {
    s.mass.push_back(kernels.row_exp_sum(row + from, std::min(CHUNK, n - from), top, factor));
    total += s.mass.back();
  }
  double left = double(u) * total;
  int32_t last = -1;
  for (size_t chunk = 0; chunk < s.mass.size(); ++chunk) {
    if (left >= s.mass[chunk] && chunk + 1 < s.mass.size()) {
      left -= s.mass[chunk];
      continue;
    }
    const int end = std::min(vocab, int(chunk + 1) * CHUNK);
    for (int id = int(chunk) * CHUNK; id < end; ++id) {
      const double mass = std::exp((double(row[id]) - top) * factor);
      if (mass > 0) last = id;
      if ((left -= mass) < 0) return id;
    }
    if (last >= 0) return last;  // the sums differ in their last bits
  }
  return last;
}

int32_t draw_token(const Kernels& kernels, const octavo_batch& b, int i, const float* row, int vocab, int n,
                   DrawScratch& s) {
  bool finite;
  const float top = kernels.row_max(row, n, &finite);
  if (b.temperature[i] == 0.f) {
    kernels.row_collect(row, n, top, s.ids.data());
    return s.ids[0];
  }
  const float u = philox_uniform(b.seed[i], uint64_t(b.position[i]));
  const float factor = 1.f / b.temperature[i];
  const int top_k = b.top_k[i] > 0 && b.top_k[i] < vocab ? b.top_k[i] : 0;
  const bool top_p = b.top_p[i] < 1.f, min_p = b.min_p[i] > 0.f;
  if (!top_k && !top_p && !min_p) return draw_all(kernels, row, vocab, n, top, factor, u, s);

  // Collect downwards from the top until the candidates must hold every token that is kept.
  const float floor = min_p ? std::max(LOWEST, top + b.temperature[i] * std::log(b.min_p[i])) : LOWEST;
  const double all = top_p && !top_k && !min_p ? kernels.row_exp_sum(row, n, top, factor) : 0;
  const auto mass = [&](int32_t id) { return std::exp((double(row[id]) - top) * double(factor)); };
  int count = 0;
  for (const float width : {4.f, 8.f, 16.f, std::numeric_limits<float>::infinity()}) {
    const float from = std::max(floor, top - width * b.temperature[i]);
    count = kernels.row_collect(row, n, from, s.ids.data());
    while (count > 1 && s.ids[count - 1] >= vocab) --count;
    if (from == floor || (top_k && count >= top_k)) break;
    if (all > 0) {
      double held = 0;
      for (int j = 0; j < count; ++j) held += mass(s.ids[j]);
      if (held >= b.top_p[i] * all) break;
    }
  }
  s.order.assign(s.ids.begin(), s.ids.begin() + count);
  int32_t end = -1;  // the least likely token kept, or -1: all candidates
  if (top_k && count > top_k) {
    std::nth_element(s.order.begin(), s.order.begin() + top_k - 1, s.order.end(), Likelier{row});
    end = s.order[top_k - 1];
    s.order.resize(top_k);
  }
  if (top_p) {
    double kept = all;
    if (kept == 0)
      for (const int32_t id : s.order) kept += mass(id);
    end = nucleus_end(row, s.order, b.top_p[i] * kept, top, factor);
  }
  const Likelier likelier{row};
  const auto keeps = [&](int32_t id) { return end < 0 || !likelier(end, id); };
  double total = 0;
  for (int j = 0; j < count; ++j)
    if (keeps(s.ids[j])) total += mass(s.ids[j]);
  double left = double(u) * total;
  int32_t token = -1;
  for (int j = 0; j < count; ++j) {
    if (!keeps(s.ids[j])) continue;
    token = s.ids[j];
    if ((left -= mass(token)) < 0) break;
  }
  return token;
}

// The `wanted` likeliest tokens and their log-probabilities.
void report_top(const Kernels& kernels, const octavo_drawn& drawn, int i, int wanted, const float* row, int vocab,
                int n, float top, double log_sum, DrawScratch& s) {
  int32_t* ids = drawn.top_ids + int64_t(i) * drawn.alternatives;
  float* logprobs = drawn.top_logprobs + int64_t(i) * drawn.alternatives;
  int count = 0;
  for (const float width : {4.f, 8.f, 16.f, std::numeric_limits<float>::infinity()}) {
    count = kernels.row_collect(row, n, std::max(LOWEST, top - width), s.ids.data());
    while (count > 1 && s.ids[count - 1] >= vocab) --count;
    if (count >= wanted) break;
  }
  const int given = std::min(wanted, count);
  std::partial_sort(s.ids.begin(), s.ids.begin() + given, s.ids.begin() + count, Likelier{row});
  for (int j = 0; j < drawn.alternatives; ++j) {
    ids[j] = j < given ? s.ids[j] : -1;
    logprobs[j] = j < given ? float(double(row[s.ids[j]]) - top - log_sum) : 0.f;
  }
}

}  // namespace

DrawScratch::DrawScratch(int vocab) : ids(padded(vocab, PANEL)), counts(vocab) {
  order.reserve(ids.size());
  mass.reserve(ids.size() / CHUNK + 1);
  changed.reserve(2 * size_t(vocab));  // every token once by a bias and once by a penalty
}

size_t DrawScratch::bytes(int vocab) {
  const size_t ids = padded(vocab, PANEL);
  return (2 * ids + size_t(vocab)) * sizeof(int32_t) + (ids / CHUNK + 1) * sizeof(double) +
         2 * size_t(vocab) * sizeof(std::pair<int32_t, float>);
}

float philox_uniform(uint64_t seed, uint64_t position) {
  uint32_t c[4] = {uint32_t(position), uint32_t(position >> 32), 0, 0};
  uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p = uint64_t(0xD2511F53u) * c[0], q = uint64_t(0xCD9E8D57u) * c[2];
    const uint32_t next[4] = {uint32_t(q >> 32) ^ c[1] ^ key[0], uint32_t(q), uint32_t(p >> 32) ^ c[3] ^ key[1],
                              uint32_t(p)};
    std::copy(next, next + 4, c);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return float(c[0] >> 8) * 0x1p-24f;
}

void draw_row(const Kernels& kernels, const Step& step, int i, float* row, int vocab, int padded, DrawScratch& s) {
  const octavo_batch& b = step.batch;
  const octavo_drawn& drawn = step.drawn;
  std::fill(row + vocab, row + padded, LOWEST);
  bool finite;
  const float top = kernels.row_max(row, padded, &finite);
  drawn.bad[i] = !finite;
  drawn.tokens[i] = b.target[i];
  drawn.logprobs[i] = 0;
  drawn.ranks[i] = 0;
  if (!finite) {
    drawn.tokens[i] = std::max(0, b.target[i]);
    return;
  }
  if (b.target[i] < 0) {
    shape_logits(b, i, row, s);
    drawn.tokens[i] = draw_token(kernels, b, i, row, vocab, padded, s);
    for (size_t j = s.changed.size(); j-- > 0;) row[s.changed[j].first] = s.changed[j].second;
  }
  if (b.top[i] < 0) {
    for (int j = 0; j < drawn.alternatives; ++j) {
      drawn.top_ids[int64_t(i) * drawn.alternatives + j] = -1;
      drawn.top_logprobs[int64_t(i) * drawn.alternatives + j] = 0;
    }
    return;
  }
  const double log_sum = std::log(kernels.row_exp_sum(row, padded, top, 1.f));
  const float value = row[drawn.tokens[i]];
  drawn.logprobs[i] = float(double(value) - top - log_sum);
  drawn.ranks[i] = 1 + kernels.row_count(row, padded, value);
  report_top(kernels, drawn, i, b.top[i], row, vocab, padded, top, log_sum, s);
}

}  // namespace octavo
