// Drawing a token from one row of logits, as program/batch.py defines it. Never sorts the vocabulary.
#pragma once
#include <utility>
#include <vector>

#include "table.h"

namespace octavo {

// Working memory of one thread. It has its full size from the start: a failure to grow inside a step could not be told.
struct DrawScratch {
  explicit DrawScratch(int vocab);
  static size_t bytes(int vocab);

  std::vector<int32_t> ids, order, counts;
  std::vector<double> mass;
  std::vector<std::pair<int32_t, float>> changed;
};

// Draws for head row `i`, whose raw logits are row[0, vocab); row[vocab, padded) is overwritten, the rest left as
// found.
void draw_row(const Kernels& kernels, const Step& step, int i, float* row, int vocab, int padded, DrawScratch& scratch);

// Uniform in [0, 1) with 24 bits: Philox4x32-10 (Salmon et al. 2011), key seed, counter position.
float philox_uniform(uint64_t seed, uint64_t position);

}  // namespace octavo
