// Rows of float32 into the form a projection reads, and norms.

// Where the codes of one row's group go, and what belongs to them. Rows lie `mr` apart.
struct Coded {
  uint8_t* data;
  float *scale, *sum;
  int32_t *start4, *start8;
  int32_t* front;  // null: not wanted
  int mr;
};

// One group of one row as int8 codes. The scale of a group that is not all finite is NaN: integers would lose the
// fault.
static void store_group(const float* x, int group, const Coded& to) {
  const F largest = f_set(3.4028234e38f);
  F top = f_set(0);
  uint32_t finite = 0xFFFF;
  for (int i = 0; i < group; i += LANES) {
    const F size = f_abs(f_load(x + i));
    top = f_max(top, size);
    finite &= f_from(largest, size);
  }
  const float amax = f_hmax(top);
  const F inverse = f_set(amax > LEAST_AMAX ? 127.f / amax : 0.f);
  *to.scale = finite == 0xFFFF ? amax / 127.f : __builtin_nanf("");
  for (int i = 0, at = 0; i < group; i += DOT_BLOCK, at += to.mr) {
    I sum = i_zero();
    for (int j = i; j < group && j < i + DOT_BLOCK; j += LANES) {
      const I code = finite == 0xFFFF ? f_round(f_load(x + j) * inverse) : i_zero();
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

// Stores inputs [k0, k0 + n) of `mr` rows (src[m * lds + k]) into a tile. n is a multiple of the group (bits 8) or of
// 2, but for the last inputs.
static void store_rows(const Rows& out, int row0, int mr, int k0, int n, const float* src, long lds) {
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

// y = x / sqrt(mean(x^2) + eps) * weight
static void rms_row(const float* x, const float* weight, float eps, int n, float* y) {
  F squares = f_set(0);
  int i = 0;
  for (; i + LANES <= n; i += LANES) squares = f_fma(f_load(x + i), f_load(x + i), squares);
  float sum = f_hsum(squares);
  for (; i < n; ++i) sum += x[i] * x[i];
  const float factor = 1.f / __builtin_sqrtf(sum / float(n) + eps);
  const F by = f_set(factor);
  for (i = 0; i + LANES <= n; i += LANES) f_store(y + i, f_load(x + i) * by * f_load(weight + i));
  for (; i < n; ++i) y[i] = x[i] * factor * weight[i];
}

// Norm of the given rows of x (row i of `out` is row rows[i] of x, or row i where rows is null).
static void norm_rows(const Context& context, const float* weight, float eps, const int32_t* rows, Rows& out, int tid) {
  const int width = context.config->width;
  float* normed = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  int first, last;
  while (context.pool->claim(tid, tiles_of(out.rows), &first, &last)) {
    for (int index = first; index < last; ++index) {
      const Tile tile = tile_at(out, index);
      for (int m = 0; m < tile.mr; ++m) {
        const int row = rows ? rows[tile.row0 + m] : tile.row0 + m;
        rms_row(context.memory->x + size_t(row) * width, weight, eps, width, normed + m * size_t(width));
      }
      store_rows(out, tile.row0, tile.mr, 0, width, normed, width);
    }
  }
  context.pool->meet(tid);
}

static void norm(const octavo_op& op, const Context& context, Rows& out, int tid) {
  norm_rows(context, op.vec[0], op.eps, nullptr, out, tid);
}

// h = silu(G h + bg) * (U h + bu), in units of whole groups of the next projection's inputs.
static void ffn_in(const octavo_op& op, const Context& context, const Rows& in, Rows& out, int tid) {
  const int inner = op.weight[0].rows;
  const int unit_cols = ffn_unit(op);
  float* gate = reinterpret_cast<float*>(context.memory->scratch + tid * context.memory->scratch_bytes);
  float* up = gate + BLOCK_TILES * TILE * unit_cols;
  const F log2e = f_set(-LOG2E), one = f_set(1.f);
  for_units(context, (inner + unit_cols - 1) / unit_cols, in, tid, [&](int unit, const Block& block) {
    const int first = unit * unit_cols, cols = inner - first < unit_cols ? inner - first : unit_cols;
    const int row0 = block.row0(), rows = block.rows();
    for (int c = 0; c < cols; c += PANEL) {
      panel(op.weight[0], (first + c) / PANEL, block, gate + c, unit_cols);
      panel(op.weight[1], (first + c) / PANEL, block, up + c, unit_cols);
    }
    add_bias(gate, unit_cols, rows, op.vec[0] ? op.vec[0] + first : nullptr, cols);
    add_bias(up, unit_cols, rows, op.vec[1] ? op.vec[1] + first : nullptr, cols);
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; c += LANES) {
        float* at = gate + r * unit_cols + c;
        const F z = f_load(at);
        f_store(at, z * f_reciprocal(one + f_exp2(z * log2e)) * f_load(up + r * unit_cols + c));
      }
    for (int index = block.first; index < block.end; ++index) {
      const Tile tile = tile_at(out, index);
      store_rows(out, tile.row0, tile.mr, first, cols, gate + (tile.row0 - row0) * unit_cols, unit_cols);
    }
  });
}
