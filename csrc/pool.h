// Threads that walk the same list of work. The caller is thread 0.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace octavo {

// How long one thread spins before it sleeps. It learns: a brief sleep would have been cheaper spent spinning; but
// where the one that woke it ran on its own processor, or came much later, spinning only kept that one from running.
struct Patience {
  int spins = 1000;
};

// Where threads wait for what another does. They spin a little, then sleep. They never yield: a thread that yields
// among busy processes gives up whole time slices, where a thread that wakes from sleep soon runs.
class Signal {
 public:
  // Returns when done() is true. Whoever makes it true calls `raise` afterwards.
  template <class Done>
  void wait(Patience& patience, Done done);
  void raise();

 private:
  alignas(64) std::atomic<uint32_t> raised_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<int> processor_{-1};  // where `raise` was last called for a sleeper
};

// A phase of work ends when all of it is done, not when all threads are there: whoever is late, since another process
// has its processor, finds the phase over and goes on. Only what a thread has claimed is waited for.
class Pool {
 public:
  // The threads are free to move: a pinned one waits while another process holds its processor, and so do all that wait
  // for it. Throws std::system_error where the system gives no more threads.
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Calls work(arg, tid) on this thread, and on every other that comes before it is over; returns when all that came
  // are back. `work` must leave all that others see to what it has claimed.
  void run(void (*work)(void*, int), void* arg);

  // Inside `run`: all threads call these in the same order, `claim` until it gives no more, then `meet`.
  // The next range of [0, n) to work on, or false. Ranges shrink towards the end, so that a late thread costs little;
  // none is longer than `most`, or than 1.
  bool claim(int tid, int n, int* first, int* last, int most = INT32_MAX);
  // Ends the phase: all of its range is done on return.
  void meet(int tid);

 private:
  // A count within a phase, in one word. Counts of an older phase are as good as 0.
  struct Count {
    uint32_t phase, value;
  };
  struct alignas(64) Phase {  // what one thread knows of the phase it is in
    uint32_t number = 0;
    uint32_t size = 0, claimed = 0;  // of all work; of what it has claimed and not yet done
    Patience patience, between_runs;
  };

  void serve(int tid);
  void end();
  bool over(const Phase& phase) const;
  void finish(Phase& phase);

  const int threads_;
  alignas(64) std::atomic<Count> next_{Count{0, 0}};  // the first that is not claimed
  alignas(64) std::atomic<Count> done_{Count{0, 0}};
  Signal finished_, started_, left_;
  std::vector<Phase> phases_;
  uint32_t first_phase_ = 1;  // of the run at work
  std::atomic<uint32_t> runs_{0};
  std::atomic<bool> open_{false};  // whether threads may still come to the run
  std::atomic<int> inside_{0};     // threads that came, but for thread 0
  void (*work_)(void*, int) = nullptr;
  void* arg_ = nullptr;
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace octavo
