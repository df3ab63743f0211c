#define OCTAVO_AVX512BF16
#define OCTAVO_NAME "avx512bf16"
#include "variant.inl"

namespace octavo {
const Kernels* const kernels_avx512bf16 = &table;
}
