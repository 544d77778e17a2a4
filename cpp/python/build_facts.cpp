// What CMakeLists.txt tells of a build, and nothing else: another fault or compiler compiles this file anew,
// not the binding.
#include "python/build_facts.hpp"

namespace constann::python {

const char* const compiler = CONSTANN_COMPILER;
const char* const planted_faults = CONSTANN_PLANTED_FAULTS;
const char* const tuned_for = CONSTANN_TUNED_FOR;

}  // namespace constann::python
