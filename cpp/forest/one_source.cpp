// All of this folder that is compiled together; CMakeLists.txt says why.
#include "forest/build_tree.cpp"
#include "forest/forest.cpp"
#include "forest/search.cpp"
