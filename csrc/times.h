// How long each op took, seen from thread 0: what octavo_times gives. One reading of a clock after each op, some 20 ns.
#pragma once
#include <chrono>
#include <cstdint>
#include <vector>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace octavo {

// The cheapest clock there is; what a tick is worth, `Times` learns from the runs it sees.
inline int64_t ticks() {
#if defined(__x86_64__)
  return int64_t(__rdtsc());
#else
  return std::chrono::steady_clock::now().time_since_epoch().count();
#endif
}

class Times {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Times(int places) : spent_(places) {}

  void begin() {
    began_ = Clock::now();
    first_ = last_ = ticks();
  }
  // What passed since the last lap belongs to `place`.
  void lap(int place) {
    const int64_t now = ticks();
    spent_[place] += now - last_;
    last_ = now;
  }
  // What passed since the last lap belongs to no place: it counts for the whole run only.
  void skip() { last_ = ticks(); }
  void end() {
    whole_ += ticks() - first_;
    seconds_ += std::chrono::duration<double>(Clock::now() - began_).count();
    ++runs_;
  }

  // Seconds of each place, then of the runs as a whole; gives the number of runs.
  int64_t read(double* seconds) const {
    const double worth = whole_ > 0 ? seconds_ / double(whole_) : 0;
    for (size_t i = 0; i < spent_.size(); ++i) seconds[i] = double(spent_[i]) * worth;
    seconds[spent_.size()] = seconds_;
    return runs_;
  }
  void reset() { *this = Times(int(spent_.size())); }

 private:
  std::vector<int64_t> spent_;
  Clock::time_point began_;  // of the run at work
  int64_t first_ = 0, last_ = 0, whole_ = 0, runs_ = 0;
  double seconds_ = 0;
};

}  // namespace octavo
