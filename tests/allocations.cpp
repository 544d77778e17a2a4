// Counts what searches take from the heap. Prints, for each metric of a forest and of a graph, the
// allocations of a call with few candidates and of one with many, which must be as many: nothing is allocated
// in the loop. With an argument, as a negative control, the second takes one more.
#include <cstdio>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "drawn_rows.hpp"
#include "forest/forest.hpp"
#include "graph/graph.hpp"

namespace {

std::size_t allocations = 0;

void* allocate(std::size_t size, std::size_t alignment) {
    ++allocations;
    const std::size_t whole = (size + alignment - 1) / alignment * alignment;
    void* const found = std::aligned_alloc(alignment, whole == 0 ? alignment : whole);
    if (found == nullptr) std::abort();
    return found;
}

}  // namespace

// Not inlined: compilers would take malloc's memory, freed by delete, for a mistake.
[[gnu::noinline]] void* operator new(std::size_t size) {
    return allocate(size, alignof(std::max_align_t));
}
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
    return allocate(size, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}

namespace {

using constann::Metric;

constexpr std::uint32_t kDim = 32;
constexpr std::uint64_t kRows = 4000, kQueries = 10;
constexpr std::size_t kNearest = 50;

std::size_t allocations_of(const constann::Index& index, const constann::Matrix& queries,
                           std::uint64_t effort, bool planted) {
    std::vector<std::int64_t> ids(kQueries * kNearest);
    std::vector<float> distances(ids.size());
    const std::size_t before = allocations;
    index.search({queries, kNearest, effort, 1}, {}, ids, distances);
    if (planted) ::operator delete(::operator new(1));  // which no compiler leaves out
    return allocations - before;
}

void print(constann::Index& index, const std::vector<float>& values, std::uint64_t few, std::uint64_t many,
           bool planted) {
    index.add(constann::rows_at(values.data(), index.metric(), kDim, kRows));
    index.build(1, 1, {});
    const constann::Matrix queries = constann::rows_at(values.data(), index.metric(), kDim, kQueries);
    allocations_of(index, queries, many, false);  // a thread's buffers grow once
    const std::size_t of_few = allocations_of(index, queries, few, false);
    std::printf("%zu %zu\n", of_few, allocations_of(index, queries, many, planted));
}

}  // namespace

int main(int count, char**) {
    const bool planted = count > 1;
    const std::vector<float> values = constann::drawn_values(kRows * kDim);
    for (const Metric metric :
         {Metric::cosine, Metric::euclidean, Metric::manhattan, Metric::dot, Metric::hamming}) {
        constann::Forest forest(kDim, metric, 8, std::nullopt);
        print(forest, values, 200, 4000, planted);
    }
    // With codes and without; more effort would scan the rows.
    for (const Metric metric : {Metric::cosine, Metric::euclidean, Metric::dot}) {
        for (const std::uint64_t code_bits : {0u, 4u}) {
            constann::Graph graph(kDim, metric, std::nullopt, code_bits);
            print(graph, values, 60, 450, planted);
        }
    }
    return 0;
}
