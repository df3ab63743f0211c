// llama.cpp's samplers over one held row, as src/octavo/program/samplers.py defines them: in double, in its order.
#pragma once
#include <memory>

#include "octavo.h"

namespace octavo {

// Uniform in [0, 1) with 24 bits: Philox4x32-10 (Salmon et al. 2011), key seed, counter position. word: the first or
// second one of its words.
float philox_uniform(uint64_t seed, uint64_t position, int word = 0);

// The tokens that the steps so far left, in order of id; room for a whole vocabulary. Untouched where no row asks.
struct Left {
  explicit Left(int tokens);
  static size_t bytes(int tokens);

  int count = 0;
  std::unique_ptr<int32_t[]> ids, order;
  std::unique_ptr<uint8_t[]> kept;
  std::unique_ptr<double[]> x, log_share;  // logits; log_share: where a step made them
};

struct Stepped {
  int32_t token;
  float surprise;  // -log2 of its share among those that were left
};

// Takes row i's steps over its logits, and the token that `u` chooses. chance: in [0, 1), decides whether XTC takes
// part.
Stepped draw_stepped(const octavo_batch& batch, int i, const float* row, int vocab, double u, double chance,
                     Left& left);

}  // namespace octavo
