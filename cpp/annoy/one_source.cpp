// All of this folder that is compiled together; CMakeLists.txt says why.
#include "annoy/convert.cpp"
#include "annoy/nodes.cpp"
#include "annoy/search.cpp"
