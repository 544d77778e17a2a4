// All of this folder that is compiled together; CMakeLists.txt says why.
#include "python/annoy_module.cpp"
#include "python/arrays.cpp"
#include "python/module.cpp"
#include "python/pairs_module.cpp"
