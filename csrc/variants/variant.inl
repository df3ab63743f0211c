// All kernels for one instruction set. Everything is in an anonymous namespace, and nothing of the C++ library's
// templates is used, so that no code compiled for a newer processor can be shared with an older one.
#include "../table.h"

#if defined(__x86_64__) && !defined(OCTAVO_PORTABLE)
#include <immintrin.h>
#endif

namespace octavo {
namespace {

#include "../vec.h"

#include "../kernels/functions.inl"
#include "../kernels/strips.inl"
#include "../kernels/floats.inl"
#include "../kernels/gemm.inl"
#include "../kernels/rows.inl"
#include "../kernels/residual.inl"
#include "../kernels/ffn.inl"
#include "../kernels/route.inl"
#include "../kernels/moe.inl"
#include "../kernels/pages.inl"
#include "../kernels/sight.inl"
#include "../kernels/attend.inl"
#include "../kernels/latent.inl"
#include "../kernels/conv.inl"
#include "../kernels/head.inl"

// Dots or multiply-adds on registers only: what the arithmetic units can do.
void peak(int kind, int64_t rounds) {
  F f[12];
  Short c[12];
  I words[12];
  for (int i = 0; i < 12; ++i) {
    f[i] = f_set(float(i));
    c[i] = short_zero();
    words[i] = i_zero();
  }
  uint8_t bytes[64] = {1};
  int32_t a = 1;
#if defined(OCTAVO_PORTABLE)
  asm volatile("" : : "r"(bytes) : "memory");  // where a dot is plain code: what is known is not computed,
#endif
  const B w = b_load(bytes);
  const F x = f_set(1e-9f);
  for (int64_t round = 0; round < rounds; ++round) {
#if defined(OCTAVO_PORTABLE)
    asm volatile("" : "+r"(a));  // nor what is the same each time
#endif
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      if (kind == 0)
        c[i] = dot4(c[i], w, a);
      else if (kind == 3)
        words[i] = dot16(words[i], w, a);
      else if (kind == 1 && PAIRS)
        f[i] = dot_pairs(f[i], w, a);
      else
        f[i] = f_fma(f[i], x, x);
    }
  }
  float sink[LANES];
  for (int i = 0; i < 12; ++i) {
    f_store(sink, f[i] + i_float(short_sum(c[i]) + words[i]));
    asm volatile("" : : "r"(sink) : "memory");
  }
}

int64_t read(const uint8_t* data, int64_t bytes) {
  F sum[4] = {f_set(0), f_set(0), f_set(0), f_set(0)};
  for (int64_t i = 0; i + 256 <= bytes; i += 256)
    for (int j = 0; j < 4; ++j) sum[j] = sum[j] + f_load(reinterpret_cast<const float*>(data + i + 64 * j));
  return int64_t(f_hsum(sum[0] + sum[1] + sum[2] + sum[3]));
}

const Kernels table = {OCTAVO_NAME, renorm,        norm,        qkv,       attend,       proj,       ffn_in,
                       route,       moe_in,        moe_out,     latent,    latent_query, per_head,   hidden,
                       conv,        head,          head_span,   span_top,  span_mass,    row_masses, row_max,
                       row_exp_sum, row_mass_from, row_collect, row_count, peak,         read};

}  // namespace
}  // namespace octavo
