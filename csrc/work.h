// Attention's list of work, made anew for each step, the same for all layers with one sight.
#pragma once
#include <vector>

#include "table.h"

namespace octavo {

class Work {
 public:
  Work(const octavo_config& config, Sight sight);

  // Lists the work of a step. Allocates nothing.
  void plan(const octavo_config& config, const octavo_batch& batch);

  // What one list takes at most, and partial results of the largest step.
  static size_t bytes(const octavo_config& config);
  static size_t places(const octavo_config& config);

  const Sight sight;
  std::vector<Item> items;
  std::vector<Merge> merges;

 private:
  struct Run;
  struct Keys;
  Keys keys_of(const Run& run, int row0, int end) const;
  int64_t cost_of(const Run& run, int row0, int end) const;
  void add_run(const octavo_config& config, const Run& run, int64_t total);

  int places_ = 0;  // partial results so far
};

// Where each row's key goes in each cache group (`page`), and which rows are the last of their run. Allocates nothing.
void place_keys(const octavo_config& config, const octavo_batch& batch, std::vector<int32_t>& page,
                std::vector<uint8_t>& last);

}  // namespace octavo
