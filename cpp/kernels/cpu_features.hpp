// What the CPU that runs this process offers, asked of the CPU itself (CPUID, HWCAP), never of a file.
// It names features as Linux does in /proc/cpuinfo; it decides nothing.
#pragma once

#include <string>
#include <vector>

namespace constann::kernels {

// Sorted names of the features known to this file. A vector extension is listed only where the operating
// system also saves its registers.
std::vector<std::string> cpu_features();

}  // namespace constann::kernels
