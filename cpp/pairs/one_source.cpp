// All of this folder that is compiled, as one source: reading the standard headers again for each file took
// half of the time. A file of the tree, not one that CMake writes at each build, because compilers' caches
// know it again.
#include "pairs/column.cpp"
#include "pairs/pair_map.cpp"
#include "pairs/pair_table.cpp"
#include "pairs/pair_updates.cpp"
#include "pairs/pair_value.cpp"
#include "pairs/recent_pairs.cpp"
