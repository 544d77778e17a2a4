// Builds with many threads, and searches one index from many: for ThreadSanitizer, which must find nothing.
#include <cstdio>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "../drawn_rows.hpp"
#include "exact/exact.hpp"
#include "forest/forest.hpp"
#include "graph/graph.hpp"

namespace {

using constann::Metric;

constexpr std::uint32_t kDim = 24;
constexpr std::uint64_t kRows = 3000;
constexpr std::uint64_t kGraphRows = 13'000;  // so many that batches of nodes are shared by threads
constexpr std::size_t kQueries = 20, kNearest = 10;
constexpr unsigned kThreads = 8;

#if defined(CONSTANN_PLANT_RACE)  // a negative control: the sanitizer must find this
std::size_t searches = 0;
#endif

void run(constann::Index& index, const std::vector<float>& values, std::uint64_t count) {
    const constann::Matrix rows = constann::rows_at(values.data(), index.metric(), kDim, count);
    index.add(rows);
    index.build(kThreads, 1, {});
    constann::Matrix queries = rows;
    queries.rows = kQueries;
    std::vector<std::vector<std::int64_t>> ids(kThreads, std::vector<std::int64_t>(kQueries * kNearest));
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i) {
        threads.emplace_back([&, i] {
            std::vector<float> distances(ids[i].size());
            index.search({queries, kNearest, std::nullopt, i % 3 + 1}, {}, ids[i], distances);
#if defined(CONSTANN_PLANT_RACE)
            ++searches;
#endif
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const auto& each : ids) {
        if (each != ids[0]) std::printf("threads found different neighbours\n");
    }
}

}  // namespace

int main() {
    const std::vector<float> values = constann::drawn_values(kGraphRows * kDim);
    for (const Metric metric :
         {Metric::cosine, Metric::euclidean, Metric::manhattan, Metric::dot, Metric::hamming}) {
        run(*std::make_unique<constann::Exact>(kDim, metric), values, kRows);
        run(*std::make_unique<constann::Forest>(kDim, metric, 16, std::nullopt), values, kRows);
    }
    run(*std::make_unique<constann::Graph>(kDim, Metric::cosine, 16), values, kGraphRows);
    run(*std::make_unique<constann::Graph>(kDim, Metric::euclidean, 16, 7), values, kRows);
    run(*std::make_unique<constann::Graph>(kDim, Metric::dot, 16, 0), values, kRows);
    std::printf("done\n");
    return 0;
}
