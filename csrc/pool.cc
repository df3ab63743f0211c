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

constexpr int LONGEST = 2000;  // spins, of about 10-50 ns: longer than any barrier between equal shares
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

}  // namespace

void Barrier::wait(Patience& patience) {
  const uint32_t seen = epoch_.load();
  if (arrived_.fetch_add(1) + 1 == parties_) {
    arrived_.store(0);
    if (parked_.load() > 0) processor_.store(sched_getcpu());
    epoch_.store(seen + 1);
    if (parked_.load() > 0) futex(&epoch_, FUTEX_WAKE_PRIVATE, INT32_MAX);
    return;
  }
  for (int i = 0; i < patience.spins; ++i) {
    if (epoch_.load(std::memory_order_acquire) != seen) return;
    relax();
  }
  if (epoch_.load(std::memory_order_acquire) != seen) return;
  const int processor = sched_getcpu();
  const auto start = std::chrono::steady_clock::now();
  parked_.fetch_add(1);
  while (epoch_.load() == seen) futex(&epoch_, FUTEX_WAIT_PRIVATE, seen);
  parked_.fetch_sub(1);
  const bool paid = processor_.load() != processor && std::chrono::steady_clock::now() - start < SHORT_SLEEP;
  patience.spins = paid ? std::min(2 * patience.spins, LONGEST) : std::max(patience.spins / 2, SHORTEST);
}

Pool::Pool(int threads) : threads_(threads), barrier_(threads), phases_(threads), between_(threads) {
  try {
    workers_.reserve(threads - 1);
    for (int tid = 1; tid < threads; ++tid) workers_.emplace_back([this, tid] { serve(tid); });
  } catch (...) {
    for (int missing = threads - 1 - int(workers_.size()); missing > 0; --missing) barrier_.stand_in();
    end();
    throw;
  }
}

Pool::~Pool() {
  end();
}

void Pool::end() {
  stop_ = true;
  barrier_.wait(between_[0].patience);
  for (std::thread& worker : workers_) worker.join();
}

void Pool::serve(int tid) {
  pthread_setname_np(pthread_self(), "octavo-worker");
  for (;;) {
    barrier_.wait(between_[tid].patience);
    if (stop_) return;
    work_(arg_, tid);
    barrier_.wait(phases_[tid].patience);
  }
}

void Pool::run(void (*work)(void*, int), void* arg) {
  work_ = work;
  arg_ = arg;
  for (Phase& phase : phases_) phase.number = 0;
  for (Counter& counter : counters_) counter.next.store(0);
  barrier_.wait(between_[0].patience);
  work(arg, 0);
  barrier_.wait(phases_[0].patience);
}

bool Pool::claim(int tid, int n, int* first, int* last, int most) {
  std::atomic<int>& next = counters_[phases_[tid].number % 3].next;
  int at = next.load(std::memory_order_relaxed);
  do {
    if (at >= n) return false;
    *first = at;
    *last = at + std::max(1, std::min((n - at) / (2 * threads_), most));
  } while (!next.compare_exchange_weak(at, *last, std::memory_order_relaxed));
  return true;
}

void Pool::meet(int tid) {
  // The counter of the phase after the next one was last used two phases ago, which every thread has left.
  if (tid == 0) counters_[(phases_[tid].number + 2) % 3].next.store(0, std::memory_order_relaxed);
  barrier_.wait(phases_[tid].patience);
  ++phases_[tid].number;
}

}  // namespace octavo
