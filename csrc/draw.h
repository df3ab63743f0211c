// Drawing a token from one row of logits, as program/batch.py defines it. Never sorts the vocabulary, and reads all of
// a row's logits only where what the sweep left (table.h) cannot decide.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "samplers.h"
#include "table.h"

namespace octavo {

// Working memory of one thread. It has its full size from the start: a failure to grow inside a step could not be told.
// What no draw needs is never touched.
struct DrawScratch {
  explicit DrawScratch(int vocab);
  static size_t bytes(int vocab);

  std::unique_ptr<int32_t[]> ids, places, order;
  std::unique_ptr<float[]> values, masses;  // of the candidates `ids`
  std::vector<int32_t> counts;
  std::vector<float> top, mass, span;  // of each span; mass of each span against the row's largest; logits of one span
  std::vector<std::pair<int32_t, float>> changed;
  Left left;
};

Manner manner_of(const octavo_batch& batch, int i, int vocab);

// Draws for row `at` of the step's block; `in` holds the block's inputs of the projection `op`. False where its logits
// must be held to draw from it: nothing is drawn. Held logits are changed.
bool draw_row(const Kernels& kernels, const octavo_op& op, const Rows& in, const Context& context, int at,
              DrawScratch& scratch);

}  // namespace octavo
