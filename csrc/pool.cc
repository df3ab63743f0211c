#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace octavo {

namespace {

constexpr int SPINS = 2000;  // of about 10-40 ns: longer than any barrier between equal shares
constexpr int YIELDS = 50;

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

void pin(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);
}

}  // namespace

void Barrier::wait() {
  const uint32_t seen = epoch_.load();
  if (arrived_.fetch_add(1) + 1 == parties_) {
    arrived_.store(0);
    epoch_.store(seen + 1);
    if (parked_.load() > 0) futex(&epoch_, FUTEX_WAKE_PRIVATE, INT32_MAX);
    return;
  }
  for (int i = 0; epoch_.load(std::memory_order_acquire) == seen; ++i) {
    if (i < SPINS) {
      relax();
    } else if (i < SPINS + YIELDS) {
      sched_yield();
    } else {
      parked_.fetch_add(1);
      futex(&epoch_, FUTEX_WAIT_PRIVATE, seen);
      parked_.fetch_sub(1);
    }
  }
}

Pool::Pool(int threads) : threads_(threads), barrier_(threads), phases_(threads) {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) >= threads) {
    for (int cpu = 0; cpu < CPU_SETSIZE && int(cpus_.size()) < threads; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus_.push_back(cpu);
  }
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
  barrier_.wait();
  for (std::thread& worker : workers_) worker.join();
}

void Pool::serve(int tid) {
  pthread_setname_np(pthread_self(), "octavo-worker");
  if (!cpus_.empty()) pin(cpus_[tid]);
  for (;;) {
    barrier_.wait();
    if (stop_) return;
    work_(arg_, tid);
    barrier_.wait();
  }
}

void Pool::run(void (*work)(void*, int), void* arg) {
  cpu_set_t before;
  const bool pinned = threads_ > 1 && !cpus_.empty() && sched_getaffinity(0, sizeof before, &before) == 0;
  if (pinned) pin(cpus_[0]);
  work_ = work;
  arg_ = arg;
  for (Phase& phase : phases_) phase.number = 0;
  for (Counter& counter : counters_) counter.next.store(0);
  barrier_.wait();
  work(arg, 0);
  barrier_.wait();
  if (pinned) sched_setaffinity(0, sizeof before, &before);
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
  barrier_.wait();
  ++phases_[tid].number;
}

}  // namespace octavo
