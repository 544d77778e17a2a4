// Links between nodes, built in batches on a schedule of integers: what comes out depends on the order of the
// nodes alone, not on threads.
#pragma once

#include <cstdint>

#include "core/parallel.hpp"
#include "graph/walk.hpp"

namespace constann {

// kLinks for each node, and kUpperLinks for each node of each upper level, the smallest level first.
struct Links {
    NodeNumbers lowest, upper;
};

// `measure` compares nodes with nodes: squared distances, or inner products.
Links build_links(const Measure& measure, std::uint64_t nodes, unsigned threads, const Watch& watch);

}  // namespace constann
