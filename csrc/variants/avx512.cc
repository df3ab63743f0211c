// AVX-512 with VNNI; bfloat16 by fused multiply-adds (Intel Cascade Lake on, AMD Zen 4 on).
#define OCTAVO_AVX512
#define OCTAVO_NAME "avx512"
#include "variant.inl"

namespace octavo {
const Kernels* const kernels_avx512 = &table;
}
