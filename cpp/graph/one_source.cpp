// All of this folder that is compiled together; CMakeLists.txt says why.
#include "graph/build_links.cpp"
#include "graph/graph.cpp"
#include "graph/rotation.cpp"
#include "graph/search.cpp"
