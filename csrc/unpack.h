// Single rows of packed matrices, for the embedding.
#pragma once
#include "octavo.h"

namespace octavo {

// Row `id` of a packed matrix, as float32: what src/octavo/kernels/weight.py says its bytes stand for.
void unpack_row(const octavo_weight& w, int id, float* out);

}  // namespace octavo
