// Which variants this processor can run, and the C interface.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "plan.h"

#if defined(__x86_64__) && !defined(OCTAVO_PORTABLE_ONLY)
#define OCTAVO_X86 1
#endif

namespace octavo {

namespace {

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> found;
#ifdef OCTAVO_X86
  __builtin_cpu_init();  // also checks that the system saves the wide registers
  // All that the variants are compiled for: a virtual machine may hide any of it.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("lzcnt");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  // Intel's vdpbf16ps runs at a quarter of the rate of two fused multiply-adds (0.46 a cycle measured): prefer those.
  const bool slow_bf16 = __builtin_cpu_is("intel");
  if (bf16 && !slow_bf16) found.push_back(kernels_avx512bf16);
  if (avx512) found.push_back(kernels_avx512);
  if (bf16 && slow_bf16) found.push_back(kernels_avx512bf16);
  if (avx2) found.push_back(kernels_avx2);
#endif
  found.push_back(kernels_portable);
  return found;
}

}  // namespace

const Kernels* kernels_for(const char* isa) {
  for (const Kernels* kernels : available())
    if (std::strcmp(kernels->name, isa) == 0) return kernels;
  return nullptr;
}

namespace {

struct Shares {
  Pool& pool;
  const std::function<void(int)>& work;
};

double seconds_of(Pool& pool, const std::function<void(int)>& work) {
  double best = 1e9;
  Shares shares{pool, work};
  for (int i = 0; i < 3; ++i) {
    const auto start = std::chrono::steady_clock::now();
    pool.run(
        [](void* arg, int tid) {
          Shares& all = *static_cast<Shares*>(arg);
          int first, last;
          while (all.pool.claim(tid, all.pool.threads(), &first, &last))
            for (int share = first; share < last; ++share) all.work(share);
          all.pool.meet(tid);
        },
        &shares);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

}  // namespace octavo

using octavo::Executor;

const int32_t* octavo_sizes(void) {
  static const int32_t sizes[] = {sizeof(octavo_weight),    sizeof(octavo_act),    sizeof(octavo_norm),
                                  sizeof(octavo_head_norm), sizeof(octavo_expert), sizeof(octavo_routing),
                                  sizeof(octavo_op),        sizeof(octavo_config), sizeof(octavo_batch),
                                  sizeof(octavo_drawn)};
  return sizes;
}

const char* octavo_isas(void) {
  static const std::string names = [] {
    std::string all;
    for (const octavo::Kernels* kernels : octavo::available())
      all += (all.empty() ? "" : " ") + std::string(kernels->name);
    return all;
  }();
  return names.c_str();
}

void* octavo_create(const octavo_config* config, const octavo_op* ops, int32_t count, const char* isa) {
  const octavo::Kernels* kernels = octavo::kernels_for(isa);
  if (kernels == nullptr) return nullptr;
  try {
    return new Executor(*config, ops, count, kernels);
  } catch (const std::exception&) {
    return nullptr;
  }
}

void octavo_destroy(void* executor) {
  delete static_cast<Executor*>(executor);
}

int64_t octavo_workspace(const octavo_config* config, const octavo_op* ops, int32_t count) {
  return int64_t(Executor::workspace(*config, ops, count));
}

void octavo_bind_pages(void* executor, uint8_t* pages, int64_t layer_stride) {
  static_cast<Executor*>(executor)->bind_pages(pages, layer_stride);
}

void octavo_run(void* executor, const octavo_batch* batch, const octavo_drawn* drawn) {
  static_cast<Executor*>(executor)->run(*batch, *drawn);
}

int64_t octavo_times(void* executor, double* seconds, int32_t reset) {
  octavo::Times& times = static_cast<Executor*>(executor)->times();
  const int64_t runs = times.read(seconds);
  if (reset) times.reset();
  return runs;
}

int32_t octavo_measure(const char* isa, int32_t threads, double out[5]) {
  const octavo::Kernels* kernels = octavo::kernels_for(isa);
  if (kernels == nullptr) return -1;
  std::unique_ptr<octavo::Pool> made;
  try {
    made = std::make_unique<octavo::Pool>(threads);
  } catch (const std::exception&) {
    return -1;
  }
  octavo::Pool& pool = *made;
  // Several times the caches, and no more than that of a machine with many cores.
  const size_t share = std::min(size_t(256), std::max(size_t(64), size_t(1024) / threads)) << 20;
  void* memory = mmap(nullptr, share * threads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return -1;
  madvise(memory, share * threads, MADV_HUGEPAGE);
  uint8_t* bytes = static_cast<uint8_t*>(memory);
  octavo::seconds_of(pool, [&](int tid) { std::memset(bytes + share * tid, 1, share); });
  out[0] = double(share) * threads /
           octavo::seconds_of(pool, [&](int tid) { kernels->read(bytes + share * tid, share); }) / 1e9;
  munmap(memory, share * threads);
  const int64_t rounds = 1000000;
  const double dots = 12.0 * double(rounds) * threads;
  out[1] = dots * 128 / octavo::seconds_of(pool, [&](int) { kernels->peak(0, rounds); }) / 1e9;
  const bool pairs = std::strcmp(isa, "avx512bf16") == 0;
  out[2] = dots * (pairs ? 64 : 32) / octavo::seconds_of(pool, [&](int) { kernels->peak(1, rounds); }) / 1e9;
  out[3] = dots * 32 / octavo::seconds_of(pool, [&](int) { kernels->peak(2, rounds); }) / 1e9;
  out[4] = dots * 64 / octavo::seconds_of(pool, [&](int) { kernels->peak(3, rounds); }) / 1e9;
  return 0;
}
