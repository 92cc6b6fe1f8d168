// The table of one ISA: the order is that of the list in kernels.h.
#include "kernels.h"

namespace twofold::TWOFOLD_ISA {

#define TWOFOLD_ENTRY(result, name, arguments) name,
const Kernels kernels{TWOFOLD_KERNELS(TWOFOLD_ENTRY)};
#undef TWOFOLD_ENTRY

}  // namespace twofold::TWOFOLD_ISA
