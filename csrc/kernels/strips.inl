// Rows of inputs by tiles, and the strips of them that a kernel takes.

constexpr int WORD_BITS = 13;  // of inputs that are int16 codes

// The bytes of one tile of `in`, `unit` bytes an input.
INLINE const uint8_t* tile_data(const Rows& in, int row0) {
  const size_t cols = in.act.bits == 8 ? in.cols : padded(in.cols, 2);
  const size_t unit = in.act.bits == 8 ? 1 : in.act.bits == WORD_BITS || (in.act.bits == 16 && PAIRS) ? 2 : 4;
  return in.data + row0 * cols * unit;
}

// Some rows, as if there were no others: a tile of theirs ends where they do.
INLINE Rows part_of(const Rows& all, int row0, int rows) {
  const size_t r = row0, codes = all.act.bits == 8;
  const size_t scales = codes || all.act.bits == WORD_BITS ? r * (all.cols / all.act.group) : 0;
  const size_t sums = codes ? r * sums_of(all.cols, all.act.group) : 0;
  uint8_t* data = const_cast<uint8_t*>(tile_data(all, row0));
  return {
      all.act,         rows, all.cols, data, all.scale + scales, all.sum + sums, all.start4 + sums, all.start8 + sums,
      all.front + sums};
}

// Consecutive tiles of equally many rows, and which of their rows a kernel takes: `strips` times N from row m0 of each.
struct Strips {
  const Rows& in;
  int row0, mr, tiles, m0, strips;
};
