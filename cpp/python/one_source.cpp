// All of this folder that is compiled, as one source: reading the standard headers again for each file took
// half of the time. A file of the tree, not one that CMake writes at each build, because compilers' caches
// know it again.
#include "python/annoy_module.cpp"
#include "python/arrays.cpp"
#include "python/module.cpp"
#include "python/pairs_module.cpp"
