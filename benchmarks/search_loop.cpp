// Builds one forest and searches it so many times, for instruction counters:
// search_loop KERNELS QUERIES METRIC CODE_BITS
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "../tests/drawn_rows.hpp"
#include "forest/forest.hpp"
#include "kernels/dispatch.hpp"

int main(int argc, char** argv) {
    if (argc != 5) {
        std::fprintf(stderr, "usage: %s KERNELS QUERIES METRIC CODE_BITS\n", argv[0]);
        return 2;
    }
    const std::string name = argv[3];
    const bool bits = name == "hamming";
    const constann::Metric metric = bits               ? constann::Metric::hamming
                                    : name == "cosine" ? constann::Metric::cosine
                                                       : constann::Metric::euclidean;
    std::optional<std::uint64_t> code_bits;
    if (!bits) code_bits = std::strtoull(argv[4], nullptr, 10);
    constexpr std::uint32_t kDim = 96;
    constexpr std::uint64_t kRows = 5000;
    constann::kernels::use(argv[1]);
    const std::vector<float> values = constann::drawn_values(kRows * kDim);
    const auto rows_from = [&](std::uint64_t first, std::uint64_t count) {
        return constann::rows_at(&values[first * kDim], metric, kDim, count);
    };
    constann::Forest forest(kDim, metric, 8, std::nullopt, code_bits);
    forest.add(rows_from(0, kRows));
    forest.build(1, 0, {});
    std::vector<std::int64_t> ids(10);
    std::vector<float> distances(10);
    for (int i = 0; i < std::atoi(argv[2]); ++i) {
        forest.search({rows_from(static_cast<std::uint64_t>(i) % kRows, 1), 10, std::nullopt, 1}, {}, ids,
                      distances);
    }
    std::printf("%lld\n", static_cast<long long>(ids[0]));
    return 0;
}
