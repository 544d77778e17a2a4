// All of this folder that is compiled together; CMakeLists.txt says why.
#include "pairs/column.cpp"
#include "pairs/pair_map.cpp"
#include "pairs/pair_table.cpp"
#include "pairs/pair_updates.cpp"
#include "pairs/pair_value.cpp"
#include "pairs/recent_pairs.cpp"
