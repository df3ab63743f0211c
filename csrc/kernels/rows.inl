// Rows of float32 into the form a projection reads, and norms.

// Where the codes of one row's group go, and what belongs to them. Rows lie `mr` apart.
struct Coded {
  uint8_t* data;
  float *scale, *sum;
  int32_t *start4, *start8;
  int32_t* front;  // null: not wanted
  int mr;
};

// The largest size of n values, and whether all are finite.
struct Largest {
  float size;
  bool finite;
};
INLINE Largest largest_of(const float* x, int n) {
  const F largest = f_set(3.4028234e38f);
  F top = f_set(0);
  uint32_t finite = 0xFFFF;
  for (int i = 0; i < n; i += LANES) {
    const F size = f_abs(f_load(x + i));
    top = f_max(top, size);
    finite &= f_from(largest, size);
  }
  return {f_hmax(top), finite == 0xFFFF};
}

// One group of one row as int8 codes. The scale of a group that is not all finite is NaN: integers would lose the
// fault.
static void store_group(const float* x, int group, const Coded& to) {
  const auto [amax, finite] = largest_of(x, group);
  const F inverse = f_set(amax > LEAST_AMAX ? 127.f / amax : 0.f);
  *to.scale = finite ? amax / 127.f : __builtin_nanf("");
  for (int i = 0, at = 0; i < group; i += DOT_BLOCK, at += to.mr) {
    I sum = i_zero();
    for (int j = i; j < group && j < i + DOT_BLOCK; j += LANES) {
      const I code = finite ? f_round(f_load(x + j) * inverse) : i_zero();
      sum = sum + code;
      if (j == 0 && to.front != nullptr) *to.front = i_sum(sum);
      alignas(16) int8_t bytes[LANES];
      i_store8(bytes, code);
      for (int q = 0; q < LANES / 4; ++q) __builtin_memcpy(to.data + size_t(j / 4 + q) * to.mr * 4, bytes + 4 * q, 4);
    }
    const int32_t total = i_sum(sum);
    to.sum[at] = float(total);
    to.start4[at] = DOT_START - 8 * total;
    to.start8[at] = DOT_START - W8_OFFSET * total;
  }
}

// Stores inputs [k0, k0 + n) of `mr` rows (src[m * lds + k]) into a tile as int8 codes; n is a multiple of the group.
static void store_codes(const Rows& out, int row0, int mr, int k0, int n, const float* src, long lds) {
  const int group = out.act.group, sums = sums_of(group, group);
  const size_t r = row0, groups = out.cols / group;
  for (int k = k0; k < k0 + n; k += group) {
    const size_t at = r * groups + size_t(k / group) * mr, sum = at * sums;
    const float* x = src + (k - k0);
    uint8_t* data = const_cast<uint8_t*>(tile_data(out, row0)) + size_t(k) * mr;
    const Coded to{data, out.scale + at, out.sum + sum, out.start4 + sum, out.start8 + sum, out.front + at, mr};
#if defined(OCTAVO_EIGHT_ROWS)
    if (mr == 8 && group == 32 && store_eight(x, lds, to.data, to.scale, to.sum, to.start4, to.start8, to.front))
      continue;
#endif
    for (int m = 0; m < mr; ++m)
      store_group(x + m * lds, group,
                  {to.data + 4 * m, to.scale + m, to.sum + m, to.start4 + m, to.start8 + m,
                   group == 32 ? to.front + m : nullptr, mr});
  }
}

// As store_codes, of int16 codes: up to 4095, so that a dot of 128 inputs, the largest group, fits 32 bits.
static void store_words(const Rows& out, int row0, int mr, int k0, int n, const float* src, long lds) {
  constexpr float MOST = 4095.f;
  const int group = out.act.group;
  const size_t first = size_t(row0) * (out.cols / group);
  uint8_t* data = const_cast<uint8_t*>(tile_data(out, row0));
  for (int k = k0; k < k0 + n; k += group) {
    for (int m = 0; m < mr; ++m) {
      const float* x = src + m * lds + (k - k0);
      const Largest found = largest_of(x, group);
      const F inverse = f_set(found.size > LEAST_AMAX ? MOST / found.size : 0.f);
      out.scale[first + size_t(k / group) * mr + m] = found.finite ? found.size / MOST : __builtin_nanf("");
      for (int i = 0; i < group; i += LANES) {
        alignas(32) int16_t codes[LANES];
        i_store16(codes, found.finite ? f_round(f_load(x + i) * inverse) : i_zero());
        uint8_t* to = data + (size_t((k + i) / 2) * mr + m) * 4;
        for (int pair = 0; pair < LANES / 2; ++pair) __builtin_memcpy(to + size_t(pair) * mr * 4, codes + 2 * pair, 4);
      }
    }
  }
}

// Stores inputs [k0, k0 + n) of `mr` rows (src[m * lds + k]) into a tile. n is a multiple of the group (bits 8, 13) or
// of 2, but for the last inputs.
static void store_rows(const Rows& out, int row0, int mr, int k0, int n, const float* src, long lds) {
  if (out.act.bits == WORD_BITS) return store_words(out, row0, mr, k0, n, src, lds);
  if (out.act.bits == 8) return store_codes(out, row0, mr, k0, n, src, lds);
  uint8_t* data = const_cast<uint8_t*>(tile_data(out, row0));
  for (int m = 0; m < mr; ++m) {
    const float* x = src + m * lds;
    if (out.act.bits == 16 && PAIRS) {
      uint16_t* half = reinterpret_cast<uint16_t*>(data);
      for (int i = 0; i < n; i += LANES) {
        float part[LANES] = {};
        const int count = n - i < LANES ? n - i : LANES;
        for (int j = 0; j < count; ++j) part[j] = x[i + j];
        uint16_t bits[LANES];
        f_store_bf16(bits, f_load(part));
        for (int j = 0; j < (count + 1) / 2; ++j)
          __builtin_memcpy(half + (size_t((k0 + i) / 2 + j) * mr + m) * 2, bits + 2 * j, 4);
      }
    } else {
      float* full = reinterpret_cast<float*>(data);
      for (int i = 0; i < n; i += LANES) {
        float part[LANES] = {};
        const int count = n - i < LANES ? n - i : LANES;
        for (int j = 0; j < count; ++j) part[j] = x[i + j];
        const F value = f_load(part);
        f_store(part, out.act.bits == 16 ? f_bf16(value) : value);
        for (int j = 0; j < count; ++j) full[size_t(k0 + i + j) * mr + m] = part[j];
      }
      if (k0 + n == out.cols && out.cols % 2) full[size_t(out.cols) * mr + m] = 0;
    }
  }
}

INLINE float row_sum(const float* x, int n) {
  F part = f_set(0);
  int i = 0;
  for (; i + LANES <= n; i += LANES) part = part + f_load(x + i);
  float sum = f_hsum(part);
  for (; i < n; ++i) sum += x[i];
  return sum;
}

// Norm of n values, of which `count` are true; the others hold zeros, count for nothing and have zeros as weight and
// bias. y may be x.
static void norm_row(const octavo_norm& norm, const float* x, int n, int count, float* y) {
  if (norm.kind == OCTAVO_NO_NORM) {
    if (y != x) __builtin_memcpy(y, x, n * sizeof(float));
    return;
  }
  const float mean = norm.kind == OCTAVO_LAYER_NORM ? row_sum(x, n) / float(count) : 0.f;
  const F shift = f_set(mean);
  F squares = f_set(0);
  int i = 0;
  for (; i + LANES <= n; i += LANES) {
    const F z = f_load(x + i) - shift;
    squares = f_fma(z, z, squares);
  }
  float sum = f_hsum(squares);
  for (; i < n; ++i) sum += (x[i] - mean) * (x[i] - mean);
  sum -= float(n - count) * mean * mean;
  const float factor = 1.f / __builtin_sqrtf(sum / float(count) + norm.eps);
  const F by = f_set(factor);
  for (i = 0; i + LANES <= n; i += LANES) {
    F z = (f_load(x + i) - shift) * by;
    if (norm.weight) z = z * f_load(norm.weight + i);
    if (norm.bias) z = z + f_load(norm.bias + i);
    f_store(y + i, z);
  }
  for (; i < n; ++i) {
    const float z = (x[i] - mean) * factor * (norm.weight ? norm.weight[i] : 1.f);
    y[i] = norm.bias ? z + norm.bias[i] : z;
  }
}

// Puts a row of n values in the order in which they are read, where there is one. room: [n]
static void arrange(float* row, const int32_t* order, int n, float* room) {
  if (order == nullptr) return;
  __builtin_memcpy(room, row, n * sizeof(float));
  for (int i = 0; i < n; ++i) row[i] = room[order[i]];
}

// Norm of the given rows of x (row i of `out` is row rows[i] of x, or row i where rows is null).
static void norm_rows(const Context& context, const octavo_norm& norm, const int32_t* rows, Rows& out, int tid) {
  const int width = context.config->width;
  float* normed = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  int first, last;
  while (context.pool->claim(tid, tiles_of(out.rows), &first, &last)) {
    for (int index = first; index < last; ++index) {
      const Tile tile = tile_at(out, index);
      for (int m = 0; m < tile.mr; ++m) {
        const int row = rows ? rows[tile.row0 + m] : tile.row0 + m;
        float* to = normed + m * size_t(width);
        norm_row(norm, context.memory->x + size_t(row) * width, width, width, to);
        arrange(to, out.act.order, width, normed + TILE * size_t(width));
      }
      store_rows(out, tile.row0, tile.mr, 0, width, normed, width);
    }
  }
  context.pool->meet(tid);
}

static void norm(const octavo_op& op, const Context& context, Rows& out, int tid) {
  norm_rows(context, op.norm, nullptr, out, tid);
}
