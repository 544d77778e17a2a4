// All of this folder that is compiled, as one source: reading the standard headers again for each file took
// half of the time. A file of the tree, not one that CMake writes at each build, because compilers' caches
// know it again.
#include "core/codes.cpp"
#include "core/ids.cpp"
#include "core/index.cpp"
#include "core/large_pages.cpp"
#include "core/matrix.cpp"
#include "core/metric.cpp"
#include "core/parallel.cpp"
#include "core/row_store.cpp"
#include "core/scan.cpp"
