// What this machine is: CPU name and features, and the cores this process may use.
#pragma once

#include <string>
#include <vector>

namespace twofold {

std::string machine_name();
std::vector<std::string> machine_features();  // the ones kernels care about
int machine_cores();                          // see threads.h, physical_cores

// Whether this process may use the tiles of AMX, with int8 products. The first call asks the system: Linux gives their
// 8 KB of state per thread only to who asks (arch_prctl, since 5.16), and saves them only if it was built to (XCR0).
enum class TileState { kNone, kNotSaved, kRefused, kGranted };
TileState tile_state();

}  // namespace twofold
