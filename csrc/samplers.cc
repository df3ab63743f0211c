#include "samplers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace octavo {

namespace {

constexpr int MIROSTAT_TOKENS = 100;
constexpr int FIRST_RANKED = 64;  // so many are put in order at first, eight times as many each time more are needed

struct Sums {
  double log_sum, entropy;  // of exp(x - top); in nats
};

double top_of(const Left& left) {
  return *std::max_element(left.x.get(), left.x.get() + left.count);
}

// Makes the logarithms of shares.
Sums make_shares(Left& left) {
  const double top = top_of(left);
  double sum = 0, weighted = 0;
  for (int j = 0; j < left.count; ++j) {
    const double below = left.x[j] - top, mass = std::exp(below);
    sum += mass;
    weighted += mass * below;
  }
  const double log_sum = std::log(sum);
  for (int j = 0; j < left.count; ++j) left.log_share[j] = left.x[j] - top - log_sum;
  return {log_sum, log_sum - weighted / sum};
}

template <typename Keep>
void keep_where(Left& left, Keep keep) {
  int count = 0;
  for (int j = 0; j < left.count; ++j) {
    if (!keep(j)) continue;
    left.ids[count] = left.ids[j];
    left.x[count++] = left.x[j];
  }
  left.count = count;
}

// Gives the places in order, as far as `more` wants them, and how many those were.
template <typename Before, typename More>
int rank(Left& left, Before before, More more) {
  int32_t *order = left.order.get(), *end = order + left.count;
  std::iota(order, end, 0);
  int done = 0;
  for (int64_t room = FIRST_RANKED; done < left.count; room *= 8) {
    const int sorted = int(std::min<int64_t>(left.count, room));
    if (sorted < left.count) std::nth_element(order + done, order + sorted, end, before);
    std::sort(order + done, order + sorted, before);
    while (done < sorted)
      if (!more(order[done++])) return done;
  }
  return done;
}

// Keeps the first that `rank` gave.
void keep_ranked(Left& left, int count) {
  std::fill(left.kept.get(), left.kept.get() + left.count, uint8_t(0));
  for (int j = 0; j < count; ++j) left.kept[left.order[j]] = 1;
  keep_where(left, [&](int j) { return left.kept[j] != 0; });
}

struct Likelier {
  const double* x;
  bool operator()(int32_t a, int32_t b) const { return x[a] != x[b] ? x[a] > x[b] : a < b; }
};

void keep_top(Left& left, int k) {
  if (k <= 0 || k >= left.count) return;
  int seen = 0;
  keep_ranked(left, rank(left, Likelier{left.x.get()}, [&](int) { return ++seen < k; }));
}

void temper(Left& left, double temperature, const octavo_extras& e) {
  if (e.dynatemp_range > 0) {
    if (left.count < 2) return;
    const double low = std::max(0.0, temperature - e.dynatemp_range), high = temperature + e.dynatemp_range;
    const double spread = make_shares(left).entropy / std::log(double(left.count));
    temperature = low + (high - low) * std::pow(spread, double(e.dynatemp_exponent));
  }
  if (temperature > 0) {
    for (int j = 0; j < left.count; ++j) left.x[j] /= temperature;
    return;
  }
  const int best = int(std::max_element(left.x.get(), left.x.get() + left.count) - left.x.get());
  keep_where(left, [&](int j) { return j == best; });
}

void top_n_sigma(Left& left, double n) {
  if (n <= 0) return;
  double sum = 0, squares = 0;
  for (int j = 0; j < left.count; ++j) sum += left.x[j];
  const double mean = sum / left.count;
  for (int j = 0; j < left.count; ++j) squares += (left.x[j] - mean) * (left.x[j] - mean);
  const double from = top_of(left) - n * std::sqrt(squares / left.count);
  keep_where(left, [&](int j) { return left.x[j] >= from; });
}

void min_p(Left& left, double p) {
  if (p <= 0) return;
  const double from = top_of(left) + std::log(p);
  keep_where(left, [&](int j) { return left.x[j] >= from; });
}

void top_p(Left& left, double p) {
  if (p >= 1) return;
  make_shares(left);
  double share = 0;
  keep_ranked(left,
              rank(left, Likelier{left.x.get()}, [&](int at) { return (share += std::exp(left.log_share[at])) < p; }));
}

void typical_p(Left& left, double p) {
  if (p >= 1) return;
  const double entropy = make_shares(left).entropy;
  const double* logs = left.log_share.get();
  const Likelier likelier{left.x.get()};
  double share = 0;
  const auto nearer = [&](int32_t a, int32_t b) {
    const double x = std::abs(-logs[a] - entropy), y = std::abs(-logs[b] - entropy);
    return x != y ? x < y : likelier(a, b);
  };
  keep_ranked(left, rank(left, nearer, [&](int at) { return (share += std::exp(logs[at])) <= p; }));
}

void xtc(Left& left, const octavo_extras& e, double chance) {
  if (chance >= e.xtc_probability || e.xtc_threshold > 0.5f) return;
  make_shares(left);
  const Likelier likelier{left.x.get()};
  const auto likely = [&](int j) { return std::exp(left.log_share[j]) >= double(e.xtc_threshold); };
  int last = -1;  // the least likely of those
  for (int j = 0; j < left.count; ++j)
    if (likely(j) && (last < 0 || likelier(last, j))) last = j;
  if (last < 0) return;
  for (int j = 0; j < left.count; ++j) left.kept[j] = !likelier(j, last);
  keep_where(left, [&](int j) { return left.kept[j] != 0; });
}

void mirostat(Left& left, double mu, int vocab) {
  const int wanted = std::min(MIROSTAT_TOKENS, left.count);
  int seen = 0;
  rank(left, Likelier{left.x.get()}, [&](int) { return ++seen < wanted; });
  double products = 0, squares = 0;
  for (int j = 0; j + 1 < wanted; ++j) {
    const double ratio = std::log(double(j + 2) / double(j + 1));
    products += ratio * (left.x[left.order[j]] - left.x[left.order[j + 1]]);
    squares += ratio * ratio;
  }
  const double slope = products / squares, beyond = slope - 1;
  const double k = std::pow(beyond * std::exp2(mu) / (1 - std::pow(double(vocab), -beyond)), 1 / slope);
  keep_top(left, k >= 1 ? int(std::min(k, double(left.count))) : 1);
}

void mirostat_2(Left& left, double mu) {
  make_shares(left);
  const double ln2 = std::log(2.0);
  for (int j = 0; j < left.count; ++j) left.kept[j] = -left.log_share[j] / ln2 <= mu;
  if (std::find(left.kept.get(), left.kept.get() + left.count, 1) == left.kept.get() + left.count)
    keep_top(left, 1);
  else
    keep_where(left, [&](int j) { return left.kept[j] != 0; });
}

void step(Left& left, const octavo_batch& b, int i, int kind, int vocab, double chance) {
  const octavo_extras& extras = b.extras[i];
  switch (kind) {
    case OCTAVO_TEMPERATURE:
      return temper(left, b.temperature[i], extras);
    case OCTAVO_TOP_N_SIGMA:
      return top_n_sigma(left, extras.top_n_sigma);
    case OCTAVO_MIN_P:
      return min_p(left, b.min_p[i]);
    case OCTAVO_TOP_K:
      return keep_top(left, b.top_k[i]);
    case OCTAVO_TYPICAL_P:
      return typical_p(left, extras.typical_p);
    case OCTAVO_TOP_P:
      return top_p(left, b.top_p[i]);
    case OCTAVO_XTC:
      return xtc(left, extras, chance);
    case OCTAVO_MIROSTAT:
      return mirostat(left, extras.mirostat_mu, vocab);
    case OCTAVO_MIROSTAT_2:
      return mirostat_2(left, extras.mirostat_mu);
  }
}

}  // namespace

Left::Left(int tokens)
    : ids(new int32_t[tokens]),
      order(new int32_t[tokens]),
      kept(new uint8_t[tokens]),
      x(new double[tokens]),
      log_share(new double[tokens]) {}

size_t Left::bytes(int tokens) {
  return size_t(tokens) * (2 * sizeof(int32_t) + 1 + 2 * sizeof(double));
}

float philox_uniform(uint64_t seed, uint64_t position, int word) {
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
  return float(c[word] >> 8) * 0x1p-24f;
}

Stepped draw_stepped(const octavo_batch& b, int i, const float* row, int vocab, double u, double chance, Left& left) {
  left.count = 0;
  for (int id = 0; id < vocab; ++id) {
    if (row[id] <= -std::numeric_limits<float>::max()) continue;  // not allowed: it has no part in any sum
    left.ids[left.count] = id;
    left.x[left.count++] = row[id];
  }
  if (left.count == 0) return {0, 0.f};
  for (int64_t steps = b.steps[i]; steps != 0; steps >>= 4) step(left, b, i, int(steps & 15), vocab, chance);
  make_shares(left);
  double sum = 0;
  int chosen = -1;
  for (int j = 0; j < left.count; ++j) {
    const double share = std::exp(left.log_share[j]);
    if (share > 0) chosen = j;
    if ((sum += share) > u) break;
  }
  return {left.ids[chosen], float(-left.log_share[chosen] / std::log(2.0))};
}

}  // namespace octavo
