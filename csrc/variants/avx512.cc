#define OCTAVO_AVX512
#define OCTAVO_NAME "avx512"
#include "variant.inl"

namespace octavo {
const Kernels* const kernels_avx512 = &table;
}
