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

// Those of this build that this CPU can run, the plainest first and the best last. The first call asks the system for
// the tiles where there are any.
const std::vector<Isa>& isas();

// The same, and before them those that imitate instructions of other CPUs: slow, for tests only.
const std::vector<Isa>& testable_isas();

}  // namespace twofold
