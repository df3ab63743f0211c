#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {

namespace {

constexpr int LONGEST = 2000;  // spins, of about 10-50 ns: longer than any wait between equal shares
constexpr int SHORTEST = 32;
constexpr auto SHORT_SLEEP = std::chrono::microseconds(100);  // what sleeping and waking may cost by itself

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  asm volatile("yield" ::: "memory");
#endif
}

void futex(std::atomic<uint32_t>* word, int op, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), op, value, nullptr, nullptr, 0);
}

bool later(uint32_t a, uint32_t b) {  // phases are counted round
  return int32_t(a - b) > 0;
}

}  // namespace

template <class Done>
void Signal::wait(Patience& patience, Done done) {
  for (int i = 0; i < patience.spins; ++i) {
    if (done()) return;
    relax();
  }
  const int processor = sched_getcpu();
  const auto start = std::chrono::steady_clock::now();
  sleepers_.fetch_add(1);
  for (;;) {
    const uint32_t seen = raised_.load();
    if (done()) break;
    futex(&raised_, FUTEX_WAIT_PRIVATE, seen);
  }
  sleepers_.fetch_sub(1);
  const bool paid = processor_.load() != processor && std::chrono::steady_clock::now() - start < SHORT_SLEEP;
  patience.spins = paid ? std::min(2 * patience.spins, LONGEST) : std::max(patience.spins / 2, SHORTEST);
}

void Signal::raise() {
  if (sleepers_.load() == 0) return;  // one that goes to sleep now looks once more first
  processor_.store(sched_getcpu());
  raised_.fetch_add(1);
  futex(&raised_, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

Pool::Pool(int threads) : threads_(threads), phases_(threads) {
  try {
    workers_.reserve(threads - 1);
    for (int tid = 1; tid < threads; ++tid) workers_.emplace_back([this, tid] { serve(tid); });
  } catch (...) {
    end();
    throw;
  }
}

Pool::~Pool() {
  end();
}

void Pool::end() {
  stop_ = true;
  started_.raise();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::serve(int tid) {
  pthread_setname_np(pthread_self(), "octavo-worker");
  Phase& phase = phases_[tid];
  for (uint32_t seen = 0;;) {
    started_.wait(phase.between_runs, [&] { return stop_ || runs_.load() != seen; });
    if (stop_) return;
    inside_.fetch_add(1);
    seen = runs_.load();
    if (open_.load()) {  // then the run stays what it is until this thread has left
      phase.number = first_phase_;
      work_(arg_, tid);
    }
    if (inside_.fetch_sub(1) == 1) left_.raise();
  }
}

void Pool::run(void (*work)(void*, int), void* arg) {
  Phase& phase = phases_[0];
  work_ = work;
  arg_ = arg;
  first_phase_ = phase.number = phase.number + 1;
  open_.store(true);
  runs_.fetch_add(1);
  started_.raise();
  work(arg, 0);
  open_.store(false);
  left_.wait(phase.between_runs, [&] { return inside_.load() == 0; });
}

bool Pool::over(const Phase& phase) const {
  const Count done = done_.load();
  return (done.phase == phase.number && done.value == phase.size) || later(next_.load().phase, phase.number);
}

// Notes that what was claimed is done.
void Pool::finish(Phase& phase) {
  if (phase.claimed == 0) return;
  Count done = done_.load(), more;
  do {
    more = {phase.number, phase.claimed + (done.phase == phase.number ? done.value : 0)};
  } while (!done_.compare_exchange_weak(done, more));
  phase.claimed = 0;
  if (more.value == phase.size) finished_.raise();
}

bool Pool::claim(int tid, int n, int* first, int* last, int most) {
  Phase& phase = phases_[tid];
  finish(phase);
  phase.size = n;
  Count next = next_.load();
  for (;;) {
    if (later(next.phase, phase.number)) return false;
    const int at = next.phase == phase.number ? int(next.value) : 0;
    if (at >= n) return false;
    const int count = std::max(1, std::min((n - at) / (2 * threads_), most));
    if (!next_.compare_exchange_weak(next, {phase.number, uint32_t(at + count)})) continue;
    *first = at;
    *last = at + count;
    phase.claimed = count;
    return true;
  }
}

void Pool::meet(int tid) {
  Phase& phase = phases_[tid];
  if (phase.size > 0) finished_.wait(phase.patience, [&] { return over(phase); });
  ++phase.number;
}

}  // namespace octavo
