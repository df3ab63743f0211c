// Threads that walk the same list of work and meet at barriers. The caller is thread 0.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace octavo {

// How long one thread spins before it sleeps. It learns: a brief sleep would have been cheaper spent spinning; but
// where the last to arrive ran on the sleeper's own processor, or much later, spinning only kept it from running.
struct Patience {
  int spins = 1000;
};

// A counting barrier: spins a little, then sleeps. It never yields: a thread that yields among busy processes gives up
// whole time slices, where a thread that wakes from sleep soon runs.
class Barrier {
 public:
  explicit Barrier(int parties) : parties_(parties) {}
  void wait(Patience& patience);
  // Arrives in the place of a party that will never come, before the caller itself waits.
  void stand_in() { arrived_.fetch_add(1); }

 private:
  const int parties_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  std::atomic<int> parked_{0};
  std::atomic<int> processor_{-1};  // where the last to arrive ran, when it last woke others
};

class Pool {
 public:
  // The threads are free to move: a pinned one waits while another process holds its processor, and so do all that meet
  // it. Throws std::system_error where the system gives no more threads.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Calls work(arg, tid) on every thread and returns when all are done.
  void run(void (*work)(void*, int), void* arg);

  // Inside `run`: all threads call these in the same order.
  // The next range of [0, n) to work on, or false. Ranges shrink towards the end, so that a late thread costs little;
  // none is longer than `most`.
  bool claim(int tid, int n, int* first, int* last, int most = INT32_MAX);
  // Ends the phase: everything claimed since the last `meet` is done on return.
  void meet(int tid);

 private:
  void serve(int tid);
  void end();

  struct alignas(64) Counter {
    std::atomic<int> next{0};
  };
  struct alignas(64) Phase {
    int number = 0;
    Patience patience;
  };

  const int threads_;
  Barrier barrier_;
  Counter counters_[3];
  std::vector<Phase> phases_;   // of each thread; patience within a run
  std::vector<Phase> between_;  // patience from one run to the next
  void (*work_)(void*, int) = nullptr;
  void* arg_ = nullptr;
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace octavo
