#include "work.h"

#include <algorithm>

namespace octavo {

namespace {

// The keys of a tile of rows are split among items only where it is more than this part of a thread's share of a step.
constexpr int SPLIT_SHARE = 4;
// Tiles are joined to items while there are at least about so many for each thread.
constexpr int ITEMS_WANTED = 16;

int blocks_of(int keys) {
  return (keys + BLOCK - 1) / BLOCK;
}

// Attention items of the largest step: each run's tiles of rows for each key head, or those and their parts.
size_t most_items(const octavo_config& c) {
  const size_t tiles = size_t(c.max_tokens) * (c.heads / c.kv_heads / TILE + 1);
  return tiles * c.kv_heads + Work::places(c);
}

}  // namespace

// One run of a step: its rows are (token, head in group).
struct Work::Run {
  int index, position, tokens, group;  // of its first token
  int rows() const { return tokens * group; }
};

// Positions of the keys that some rows see.
struct Work::Keys {
  int first, end;
};

Work::Work(const octavo_config& config, Sight seen) : sight(seen) {
  items.reserve(most_items(config));
  merges.reserve(most_items(config));
}

size_t Work::bytes(const octavo_config& config) {
  return most_items(config) * (sizeof(Item) + sizeof(Merge));
}

size_t Work::places(const octavo_config& config) {
  return size_t(SPLIT_SHARE) * config.threads * blocks_of(config.max_len);
}

Work::Keys Work::keys_of(const Run& run, int row0, int end) const {
  const int last = run.position + (end - 1) / run.group;
  return {sight.first(run.position + row0 / run.group), sight.end(last, run.position + run.tokens)};
}

// Time of attention, in some unit: every key is read once and used by all rows.
int64_t Work::cost_of(const Run& run, int row0, int end) const {
  const Keys keys = keys_of(run, row0, end);
  return int64_t(end - row0 + 4) * (keys.end - keys.first);
}

// The items of one run. total: the cost of all runs' tiles of rows, one by one.
void Work::add_run(const octavo_config& c, const Run& run, int64_t total) {
  const int rows = run.rows(), tiles = tiles_of(rows);
  const Keys last = keys_of(run, tile_start(rows, tiles, tiles - 1), rows);
  const int64_t most = int64_t(tile_start(rows, tiles, 1) + 4) * (last.end - last.first);
  const int64_t fit = total / (ITEMS_WANTED * c.threads) / most;
  const int each = int(std::clamp(fit, int64_t(1), int64_t(ITEM_ROWS / TILE))), count = (tiles + each - 1) / each;
  for (int item = 0; item < count; ++item) {
    const int tile0 = tile_start(tiles, count, item), tile1 = tile_start(tiles, count, item + 1);
    const int row0 = tile_start(rows, tiles, tile0), end = tile_start(rows, tiles, tile1);
    const Keys keys = keys_of(run, row0, end);
    const int block0 = keys.first / BLOCK, block1 = blocks_of(keys.end), blocks = block1 - block0;
    const int page0 = keys.first / PAGE;
    const int64_t cost = cost_of(run, row0, end);
    const bool split = tile1 - tile0 == 1 && blocks > 1 && cost * SPLIT_SHARE * c.threads > total;
    for (int kv_head = 0; kv_head < c.kv_heads; ++kv_head) {
      if (!split) {
        items.push_back({run.index, kv_head, row0, end - row0, block0, block1, page0, -1, cost});
        continue;
      }
      merges.push_back({run.index, kv_head, row0, end - row0, places_, blocks});
      for (int block = block0; block < block1; ++block) {
        const int page = std::max(page0, block * (BLOCK / PAGE));
        items.push_back({run.index, kv_head, row0, end - row0, block, block + 1, page, places_++, cost / blocks});
      }
    }
  }
}

void Work::plan(const octavo_config& c, const octavo_batch& b) {
  const auto run_of = [&](int run) {
    return Run{run, b.positions[b.starts[run]], b.starts[run + 1] - b.starts[run], c.heads / c.kv_heads};
  };
  int64_t total = 0;
  for (int index = 0; index < b.runs; ++index) {
    const Run run = run_of(index);
    const int tiles = tiles_of(run.rows());
    for (int tile = 0; tile < tiles; ++tile)
      total += cost_of(run, tile_start(run.rows(), tiles, tile), tile_start(run.rows(), tiles, tile + 1)) * c.kv_heads;
  }
  items.clear();
  merges.clear();
  places_ = 0;
  for (int index = 0; index < b.runs; ++index) add_run(c, run_of(index), total);
  // The longest first, so that the threads end together.
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.cost > b.cost; });
}

void place_keys(const octavo_config& c, const octavo_batch& b, std::vector<int32_t>& page, std::vector<uint8_t>& last) {
  page.clear();
  last.assign(b.tokens, 0);
  for (int group = 0; group < c.groups; ++group) {
    for (int run = 0; run < b.runs; ++run) {
      const int32_t* table = table_of(c, b, run, group);
      for (int row = b.starts[run]; row < b.starts[run + 1]; ++row) page.push_back(table[b.positions[row] / PAGE]);
    }
  }
  for (int run = 0; run < b.runs; ++run) last[b.starts[run + 1] - 1] = 1;
}

}  // namespace octavo
