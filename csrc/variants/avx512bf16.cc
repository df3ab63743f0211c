// AVX-512 with VNNI and bfloat16 dots (AMD Zen 4 on, Intel Cooper Lake and Sapphire Rapids on).
#define OCTAVO_AVX512BF16
#define OCTAVO_NAME "avx512bf16"
#include "variant.inl"

namespace octavo {
const Kernels* const kernels_avx512bf16 = &table;
}
