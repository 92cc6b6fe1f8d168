// Which ISA's kernels are in use.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace twofold {

struct Isa {
    std::string name;
    const Kernels* kernels;
};

// Those of this build that this CPU can run, the plainest first and the best last.
const std::vector<Isa>& isas();

}  // namespace twofold
