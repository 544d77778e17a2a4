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

// Makes every node be reached from every other. Links that are added take free places; only where there are
// none, a link that nothing depends on gives way.
void join_parts(NodeNumbers& links, std::uint32_t degree, const Measure& measure, std::uint64_t nodes);

}  // namespace constann
