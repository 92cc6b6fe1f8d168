// What this machine is: CPU name and features, and the cores this process may use.
#pragma once

#include <string>
#include <vector>

namespace twofold {

std::string machine_name();
std::vector<std::string> machine_features();  // the ones kernels care about
int machine_cores();                          // see threads.h, physical_cores

}  // namespace twofold
