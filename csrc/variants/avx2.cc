// AVX2 with FMA (Intel Haswell on, AMD Zen on).
#define OCTAVO_AVX2
#define OCTAVO_NAME "avx2"
#include "variant.inl"

namespace octavo {
const Kernels* const kernels_avx2 = &table;
}
