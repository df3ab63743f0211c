// Any processor: plain C++ that the compiler vectorizes as it can.
#define OCTAVO_PORTABLE
#define OCTAVO_NAME "portable"
#include "variant.inl"

namespace octavo {
const Kernels* const kernels_portable = &table;
}
