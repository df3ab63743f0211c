#include "draw.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace octavo {

namespace {

constexpr float INFINITE = std::numeric_limits<float>::infinity();
// The nucleus of all tokens is looked for this far below the largest logit, in temperatures, and among so many; where
// it does not lie there, among all. On SmolLM2's text it lies there for 98 of 100 rows at temperature 1 and top_p 0.95,
// and for all at 0.7 and 0.99; for hotter rows it is not tried.
constexpr float WIDTH = 10.f;

bool is_hot(float temperature, float top_p) {
  return temperature > (top_p > 0.96f ? 0.75f : 1.05f);
}

// Takes away what the row's mask does not allow, and notes what was there where the row is reported on.
void mask_logits(const octavo_batch& b, int i, const int32_t* mask, float* row, int vocab, DrawScratch& s) {
  for (int id = 0; b.top[i] >= 0 && id < vocab; ++id)
    if (!(uint32_t(mask[id / 32]) >> id % 32 & 1)) s.changed.emplace_back(id, row[id]);
  mask_values(mask, 0, vocab, row);
}

// Bias, penalties and mask of one row; values are changed in place, and noted where the row is reported on.
void shape_logits(const octavo_batch& b, int i, float* row, int vocab, DrawScratch& s) {
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
  if (b.dry_starts)
    for (int64_t j = b.dry_starts[i]; j < b.dry_starts[i + 1]; ++j)
      change(b.dry_ids[j], row[b.dry_ids[j]] + b.dry_values[j]);
  if (const int32_t* mask = mask_of(b, i)) mask_logits(b, i, mask, row, vocab, s);
}

// Likelier first, the lower id on a tie; of places in a list that is in order of id.
struct Likelier {
  const float* values;
  bool operator()(int32_t a, int32_t b) const { return values[a] != values[b] ? values[a] > values[b] : a < b; }
};

// What is known of one row before a token is drawn from it.
struct Known {
  const float *top, *mass;  // of each span
  const int32_t* best;
  int spans;
  int vocab;
  const float* row;  // its logits, or null
  const int32_t* mask;
  const Sweep& sweep;
  int at;  // its place in the block
  float largest;
};

// The candidates from `from` on, in order of id.
int collect(const Kernels& kernels, const Known& known, float from, DrawScratch& s) {
  int count = 0;
  if (known.row != nullptr) {
    count = kernels.row_collect(known.row, known.spans * SPAN, from, s.ids.get());
    for (int j = 0; j < count; ++j) s.values[j] = known.row[s.ids[j]];
  }
  const int32_t* start = known.sweep.start + known.at * known.sweep.stride;
  const int32_t* counts = known.sweep.count + known.at * known.sweep.stride;
  const Candidate* all = known.sweep.candidates + size_t(known.at) * known.sweep.room;
  for (int span = 0; span < known.spans && known.row == nullptr; ++span) {
    for (const Candidate *one = all + start[span], *end = one + counts[span]; one != end; ++one) {
      if (!(one->value >= from)) continue;
      s.ids[count] = one->id;
      s.values[count++] = one->value;
    }
  }
  while (count > 1 && s.ids[count - 1] >= known.vocab) --count;
  return count;
}

// Keeps the likeliest of the `count` candidates.
int keep_likeliest(int kept, int count, DrawScratch& s) {
  int32_t* order = s.order.get();
  std::iota(order, order + count, 0);
  std::nth_element(order, order + kept, order + count, Likelier{s.values.get()});
  std::sort(order, order + kept);
  for (int j = 0; j < kept; ++j) {
    s.ids[j] = s.ids[order[j]];
    s.values[j] = s.values[order[j]];
    s.masses[j] = s.masses[order[j]];
  }
  return kept;
}

double sum_masses(const Kernels& kernels, int count, float top, float factor, DrawScratch& s) {
  const int whole = int(padded(count, 16));
  std::fill(s.values.get() + count, s.values.get() + whole, LOWEST);
  kernels.row_masses(s.values.get(), whole, top, factor, s.masses.get());
  double sum = 0;
  for (int j = 0; j < count; ++j) sum += s.masses[j];
  return sum;
}

// Keeps, of n tokens (a multiple of 16) with their masses, the fewest likeliest whose masses reach `goal`; they become
// the candidates. ids: null where they count from 0. The edge is found by halves, then in order between the last two.
int keep_nucleus(const Kernels& kernels, const float* values, const int32_t* ids, int n, float top, float temperature,
                 double goal, DrawScratch& s) {
  float low = std::max(LOWEST, top - 100.f * temperature), high = std::nextafter(top, INFINITE);  // no mass lies lower
  double before = 0;
  for (int i = 0; i < 12; ++i) {
    const float middle = low * 0.5f + high * 0.5f;
    const double mass = kernels.row_mass_from(values, s.masses.get(), n, middle);
    (mass < goal ? high : low) = middle;
    if (mass < goal) before = mass;
  }
  const int count = kernels.row_collect(values, n, low, s.places.get());
  int32_t *order = s.order.get(), *order_end = order;
  for (int j = 0; j < count; ++j)
    if (values[s.places[j]] < high) *order_end++ = s.places[j];
  std::sort(order, order_end, Likelier{values});
  float edge = high;  // the least likely token that is kept; none of `order` where the sum is there before
  int32_t last = -1;
  for (; order != order_end && before < goal; ++order) {
    before += s.masses[*order];
    edge = values[*order];
    last = *order;
  }
  int kept = 0;
  for (int j = 0; j < count; ++j) {
    const int at = s.places[j];
    if (values[at] < edge || (values[at] == edge && at > last)) continue;
    s.masses[kept] = s.masses[at];
    s.ids[kept] = ids ? ids[at] : at;
    s.values[kept++] = values[at];
  }
  return kept;
}

// The first of `count` tokens whose cumulative mass exceeds `left`, or the last one of positive mass; -1: none is.
int choose(const float* masses, int count, double left) {
  int last = -1;
  for (int j = 0; j < count; ++j) {
    if (masses[j] > 0) last = j;
    if ((left -= masses[j]) < 0) return j;
  }
  return last;
}

// Masses of the spans against the row's largest logit, in s.mass; gives their sum.
double sum_spans(const Kernels& kernels, const Known& known, float factor, DrawScratch& s) {
  const int whole = int(padded(known.spans, 16));
  std::copy(known.top, known.top + known.spans, s.values.get());
  std::fill(s.values.get() + known.spans, s.values.get() + whole, LOWEST);
  kernels.row_masses(s.values.get(), whole, known.largest, factor, s.masses.get());
  double sum = 0;
  for (int span = 0; span < known.spans; ++span) sum += s.mass[span] = known.mass[span] * s.masses[span];
  return sum;
}

// Draws among all tokens. The sums of spans and of tokens differ in their last bits: a draw past the end of a span
// takes its last token.
int32_t draw_all(const Kernels& kernels, const octavo_op& op, const Rows& in, const Known& known, float factor, float u,
                 DrawScratch& s) {
  double left = double(u) * sum_spans(kernels, known, factor, s);
  int chosen = 0;
  for (int span = 0; span < known.spans; ++span) {
    if (s.mass[span] == 0) continue;
    chosen = span;
    if (left < s.mass[span]) break;
    left -= s.mass[span];
  }
  const int first = chosen * SPAN;
  const float* x =
      known.row ? known.row + first : kernels.head_span(op, in, known.at, chosen, known.mask, s.span.data());
  kernels.row_masses(x, SPAN, known.largest, factor, s.masses.get());
  return first + std::max(0, choose(s.masses.get(), std::min(SPAN, known.vocab - first), left));
}

// The token, or -1 where the row must be held.
int32_t draw_token(const Kernels& kernels, const octavo_op& op, const Rows& in, const Known& known,
                   const octavo_batch& b, int i, const Manner& manner, DrawScratch& s) {
  if (manner.factor == 0.f) {
    const int span = int(std::find(known.top, known.top + known.spans, known.largest) - known.top);
    if (known.row == nullptr) return known.best[span];
    return int32_t(std::find(known.row + span * SPAN, known.row + known.vocab, known.largest) - known.row);
  }
  const float u = philox_uniform(b.seed[i], uint64_t(b.position[i])), factor = manner.factor, top = known.largest;
  if (!manner.collect) return draw_all(kernels, op, in, known, factor, u, s);
  if (known.row == nullptr && known.sweep.bounds[known.at].used > known.sweep.room) return -1;
  const float temperature = b.temperature[i];
  int count;
  if (manner.mass) {  // the nucleus of all tokens
    const double goal = b.top_p[i] * sum_spans(kernels, known, factor, s);
    const float from = std::max(LOWEST, top - manner.below);
    const int n = known.spans * SPAN;
    const bool near = !known.row || kernels.row_count(known.row, n, std::nextafter(from, -INFINITE)) <= NEAR;
    count = near ? collect(kernels, known, from, s) : 0;
    if (near && count <= NEAR && sum_masses(kernels, count, top, factor, s) >= goal) {
      count = keep_nucleus(kernels, s.values.get(), s.ids.get(), int(padded(count, 16)), top, temperature, goal, s);
    } else {
      if (known.row == nullptr) return -1;
      kernels.row_masses(known.row, n, top, factor, s.masses.get());
      count = keep_nucleus(kernels, known.row, nullptr, n, top, temperature, goal, s);
    }
  } else {
    // The candidates of a held row: enough for top_k, else down to min_p.
    const float floor = std::max(top > LOWEST ? std::nextafter(LOWEST, 0.f) : LOWEST, top - manner.below);
    for (const float width : {4.f, 16.f, INFINITE}) {
      const float from = known.row && manner.top_k ? std::max(floor, top - width * temperature) : floor;
      count = collect(kernels, known, from, s);
      if (from == floor || count >= manner.top_k) break;
    }
    sum_masses(kernels, count, top, factor, s);
    if (manner.top_k && count > manner.top_k) {
      count = keep_likeliest(manner.top_k, count, s);
    }
    if (b.top_p[i] < 1.f) {
      double kept = 0;
      for (int j = 0; j < count; ++j) kept += s.masses[j];
      const int whole = int(padded(count, 16));
      std::fill(s.values.get() + count, s.values.get() + whole, LOWEST);
      count = keep_nucleus(kernels, s.values.get(), s.ids.get(), whole, top, temperature, b.top_p[i] * kept, s);
    }
  }
  double total = 0;
  for (int j = 0; j < count; ++j) total += s.masses[j];
  return s.ids[std::max(0, choose(s.masses.get(), count, double(u) * total))];
}

// The `wanted` likeliest tokens and their log-probabilities.
void report_top(const Kernels& kernels, const octavo_drawn& drawn, int i, int wanted, const Known& known,
                double log_sum, DrawScratch& s) {
  int32_t* ids = drawn.top_ids + int64_t(i) * drawn.alternatives;
  float* logprobs = drawn.top_logprobs + int64_t(i) * drawn.alternatives;
  int count = 0;
  for (const float width : {4.f, 8.f, 16.f, INFINITE}) {
    count = collect(kernels, known, std::max(LOWEST, known.largest - width), s);
    if (count >= wanted) break;
  }
  const int given = std::min(wanted, count);
  int32_t* order = s.order.get();
  std::iota(order, order + count, 0);
  std::partial_sort(order, order + given, order + count, Likelier{s.values.get()});
  for (int j = 0; j < drawn.alternatives; ++j) {
    ids[j] = j < given ? s.ids[order[j]] : -1;
    logprobs[j] = j < given ? float(double(s.values[order[j]]) - known.largest - log_sum) : 0.f;
  }
}

// Reports on the drawn token, and on those that are named or likeliest, from the row's raw logits.
void report(const Kernels& kernels, const octavo_batch& b, const octavo_drawn& drawn, int i, const Known& known,
            DrawScratch& s) {
  const int n = known.spans * SPAN;
  const double log_sum = std::log(kernels.row_exp_sum(known.row, n, known.largest, 1.f));
  const float value = known.row[drawn.tokens[i]];
  drawn.logprobs[i] = float(double(value) - known.largest - log_sum);
  drawn.ranks[i] = 1 + kernels.row_count(known.row, n, value);
  const int64_t first = b.named_starts ? b.named_starts[i] : 0, end = b.named_starts ? b.named_starts[i + 1] : 0;
  if (first == end) return report_top(kernels, drawn, i, b.top[i], known, log_sum, s);
  for (int64_t j = first; j < std::min(end, first + b.top[i]); ++j) {
    const int64_t at = int64_t(i) * drawn.alternatives + j - first;
    drawn.top_ids[at] = b.named[j];
    drawn.top_logprobs[at] = float(double(known.row[b.named[j]]) - known.largest - log_sum);
  }
}

// What a sweep would have left of a held row.
void measure_spans(const Kernels& kernels, const Manner& manner, const float* row, int spans, DrawScratch& s) {
  for (int span = 0; span < spans; ++span) {
    const float* x = row + span * SPAN;
    const float top = s.top[span] = kernels.span_top(x);
    s.mass[span] = manner.mass ? kernels.span_mass(x, top, manner.factor) : 0.f;
  }
}

}  // namespace

DrawScratch::DrawScratch(int vocab)
    : counts(vocab), top(spans_of(vocab)), mass(top.size()), span(TILE * SPAN), left(vocab) {
  const size_t tokens = top.size() * SPAN;
  for (auto* list : {&ids, &places, &order}) list->reset(new int32_t[tokens]);
  for (auto* list : {&values, &masses}) list->reset(new float[tokens]);
  changed.reserve(4 * size_t(vocab));  // every token once by a bias, a penalty, DRY and a mask
}

size_t DrawScratch::bytes(int vocab) {
  const size_t spans = spans_of(vocab);
  return (5 * spans * SPAN + 2 * spans + size_t(vocab) + TILE * SPAN) * 4 +
         4 * size_t(vocab) * sizeof(std::pair<int32_t, float>) + Left::bytes(vocab);
}

Manner manner_of(const octavo_batch& b, int i, int vocab) {
  Manner m{};
  const float temperature = b.temperature[i];
  const bool adjusted = b.bias_starts[i + 1] > b.bias_starts[i] || b.history_starts[i + 1] > b.history_starts[i];
  const bool dry = b.dry_starts && b.dry_starts[i + 1] > b.dry_starts[i];
  m.spans = spans_of(vocab);
  if (const int32_t* mask = mask_of(b, i)) {
    for (int span = 0; span < spans_of(vocab); ++span) m.spans -= !leaves_any(mask, b.mask_words, span);
  }
  m.stepped = b.target[i] < 0 && b.steps && b.steps[i] != 0;
  m.held = b.target[i] >= 0 || b.top[i] >= 0 || adjusted || dry || m.stepped;
  if (temperature == 0.f) return m;
  m.factor = 1.f / temperature;
  m.top_k = b.top_k[i] > 0 && b.top_k[i] < vocab ? b.top_k[i] : 0;
  const bool top_p = b.top_p[i] < 1.f, min_p = b.min_p[i] > 0.f;
  m.collect = m.top_k || top_p || min_p;
  m.mass = !m.top_k && !min_p;
  m.below = min_p ? -temperature * std::log(b.min_p[i]) : m.top_k ? INFINITE : WIDTH * temperature;
  m.held = m.held || m.top_k > MOST_TOP_K || (m.collect && m.mass && is_hot(temperature, b.top_p[i]));
  return m;
}

bool draw_row(const Kernels& kernels, const octavo_op& op, const Rows& in, const Context& context, int at,
              DrawScratch& s) {
  const Step& step = *context.step;
  const octavo_batch& b = step.batch;
  const octavo_drawn& drawn = step.drawn;
  const Sweep& sweep = context.memory->sweep;
  const int i = step.block.heads[at], spans = spans_of(context.config->vocab);
  const bool held = at < step.block.held;
  float* row = held ? context.memory->logits + size_t(at) * sweep.stride * SPAN : nullptr;
  const Manner& manner = step.manners[i];
  drawn.tokens[i] = std::max(0, b.target[i]);
  drawn.logprobs[i] = 0;
  drawn.ranks[i] = 0;
  drawn.surprise[i] = 0;
  for (int j = 0; j < drawn.alternatives; ++j) {
    drawn.top_ids[int64_t(i) * drawn.alternatives + j] = -1;
    drawn.top_logprobs[int64_t(i) * drawn.alternatives + j] = 0;
  }
  const size_t first = size_t(at) * sweep.stride;
  const int vocab = context.config->vocab;
  Known known{
      sweep.top + first, sweep.mass + first, sweep.best + first, spans, vocab, row, mask_of(b, i), sweep, at, LOWEST};
  bool finite = true;
  if (held) {
    known.largest = kernels.row_max(row, spans * SPAN, &finite);
  } else {
    for (int span = 0; span < spans; ++span) {
      finite = finite && known.top[span] == known.top[span];
      known.largest = std::max(known.largest, known.top[span]);
    }
  }
  drawn.bad[i] = !finite;
  if (!finite) return true;
  if (!held && known.largest == LOWEST) return false;  // the mask leaves nothing
  if (b.target[i] < 0) {
    Known shaped = known;
    if (held) {
      shape_logits(b, i, row, vocab, s);
      if (!manner.stepped) measure_spans(kernels, manner, row, spans, s);
      shaped.top = s.top.data();
      shaped.mass = s.mass.data();
      shaped.largest = LOWEST;
      for (const float top : s.top) shaped.largest = std::max(shaped.largest, top);
    }
    if (manner.stepped) {
      const uint64_t position = uint64_t(b.position[i]);
      const float u = philox_uniform(b.seed[i], position), chance = philox_uniform(b.seed[i], position, 1);
      const Stepped token = draw_stepped(b, i, row, vocab, u, chance, s.left);
      drawn.tokens[i] = token.token;
      drawn.surprise[i] = token.surprise;
    } else {
      drawn.tokens[i] = draw_token(kernels, op, in, shaped, b, i, manner, s);
    }
    for (size_t j = s.changed.size(); held && j-- > 0;) row[s.changed[j].first] = s.changed[j].second;
    if (drawn.tokens[i] < 0) return false;
  }
  if (b.top[i] >= 0) report(kernels, b, drawn, i, known, s);
  return true;
}

}  // namespace octavo
