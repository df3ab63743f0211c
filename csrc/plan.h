// An executor: the list of ops, its working memory and its threads. One native call is one step.
#pragma once
#include <memory>
#include <vector>

#include "draw.h"
#include "table.h"
#include "times.h"
#include "work.h"

namespace octavo {

class Executor {
 public:
  Executor(const octavo_config& config, const octavo_op* ops, int count, const Kernels* kernels);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  void bind_pages(uint8_t* pages, int64_t layer_stride);
  void run(const octavo_batch& batch, const octavo_drawn& drawn);

  // One place for each op, in their order, and one for drawing.
  Times& times() { return times_; }

  // Bytes of working memory: all that is ever allocated.
  static size_t workspace(const octavo_config& config, const octavo_op* ops, int count);

 private:
  struct Buffer {  // memory of one `h`
    uint8_t* data;
    float *scale, *sum;
    int32_t *start4, *start8, *front;
  };
  struct Sizes;

  void walk(int tid);
  void embed(const octavo_op& op, const Context& context, int tid) const;
  template <class Wanted, class Held>
  void add_blocks(const octavo_batch& batch, Wanted wanted, Held held);
  void prepare_head(const octavo_batch& batch);
  void head(const octavo_op& op, Step& step, const Context& context, int tid, int place);
  void lap(int tid, int place) {
    if (tid == 0) times_.lap(place);
  }
  void draw(const octavo_op& op, const Context& context, const Rows& in, int tid);
  Rows view(int buffer, octavo_act act, int rows, int cols) const;
  static Rows view(const Buffer& buffer, octavo_act act, int rows, int cols);
  void walk_mixture(const octavo_op& op, const Context& context, int tid) const;

  octavo_config config_;
  std::vector<octavo_op> ops_;
  const Kernels* kernels_;
  Pool pool_;
  Times times_;
  Memory memory_{};
  Buffer buffers_[2]{}, gathered_{};
  void* arena_ = nullptr;
  size_t arena_bytes_ = 0;
  Step step_{};
  std::vector<int32_t> row_page_;
  std::vector<uint8_t> row_last_;
  std::vector<Work> works_;   // one for each sight
  std::vector<int> work_of_;  // of each op the place in works_
  std::vector<DrawScratch> draw_scratch_;
  std::vector<Manner> manners_;  // of each head row
  std::vector<HeadBlock> blocks_;
  std::vector<int32_t> heads_, inputs_;  // what the blocks point to
  std::vector<uint8_t> again_;           // 1: the row must be held to be drawn
  std::atomic<bool> any_again_{false};
};

}  // namespace octavo
