// Does every operation of cpu/simd/ and matrix34.h compute what its definition says, in every lane? Compiled once per
// instruction set.
#include "lanes_arithmetic.inl"
#include "lanes_formats.inl"
#include "lanes_indices.inl"
#include "lanes_memory.inl"

namespace bilateral_ops {
inline namespace BO_ISA {

void check_lanes(char* edge) {
  arithmetic();
  memory(edge);
  indices(edge);
  bits();
  format<F16>(edge, "load_as float16, all bits", "store_as float16, as formulas.h rounds");
  format<BF16>(edge, "load_as bfloat16, all bits", "store_as bfloat16, as formulas.h rounds");
  format<U8>(edge, "load_as uint8, all bits", "store_as uint8, as formulas.h rounds");
  loads<Levels8>(edge, "load_as levels of uint8, all bits");
  loads<Levels16>(edge, "load_as levels of uint16, all bits");
  format<U16>(edge, "load_as uint16, all bits", "store_as uint16, as formulas.h rounds");
  if (kSearchedKnots<float> < kNever) searches();
  next_indices<8>();
  next_indices<16>();
  lookups<8>(edge);
  lookups<16>(edge);
}

}  // namespace BO_ISA
}  // namespace bilateral_ops
