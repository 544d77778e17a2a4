// Opens any bytes as an index file, as a map of pairs and as an Annoy file and searches them: must end in an
// answer or a FormatError, never a crash, a hang or a read out of bounds. With clang it is a libFuzzer
// target; with CONSTANN_FUZZ_MAIN it mutates the files it is given by itself, the same way each time:
//
// fuzz_index FIRST COUNT FILE...
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "annoy/nodes.hpp"
#include "core/index.hpp"
#include "core/random.hpp"
#include "kernels/floating_point.hpp"
#include "pairs/pair_map.hpp"

namespace {

using constann::Index, constann::Matrix, constann::Metric;
using Content = std::vector<std::byte>;

constexpr std::uint64_t kSearchedRows = 1 << 16;  // a header may promise any number; more only takes longer

Matrix rows_of(const std::vector<float>& values, Metric metric, std::uint32_t dim) {
    const bool bits = metric == Metric::hamming;
    const std::uint64_t columns = constann::columns_of(metric, dim);
    const std::ptrdiff_t element = bits ? 1 : sizeof(float);
    return {reinterpret_cast<const std::byte*>(values.data()),
            bits ? constann::ElementType::uint8 : constann::ElementType::float32,
            2,
            columns,
            static_cast<std::ptrdiff_t>(columns) * element,
            element};
}

// `part` is run; what it refuses is refused.
template <class Part>
void attempt(const Part& part) {
    try {
        part();
    } catch (const constann::file::FormatError&) {
    } catch (const std::invalid_argument&) {
    }
}

void search(const Index& index) {
    std::vector<float> queries(2 * index.dim(), 0.0f);
    if (index.metric() != Metric::hamming) {
        for (std::size_t i = 0; i < queries.size(); ++i) queries[i] = static_cast<float>(i % 5) - 2.0f;
    }
    const Matrix matrix = rows_of(queries, index.metric(), index.dim());
    const std::vector<std::uint8_t> mask(index.size(), 1);
    for (const std::size_t k : {std::size_t{1}, std::size_t{40}}) {
        std::vector<std::int64_t> ids(2 * k);
        std::vector<float> distances(2 * k);
        constann::SearchRequest request{matrix, k, std::nullopt, 1};
        index.search(request, {}, ids, distances);
        request.allowed = std::span<const std::uint8_t>(mask);
        request.exclude = std::span<const std::int64_t>(ids);
        index.search(request, {}, ids, distances);
    }
}

void look_up(const Index& index) {
    const constann::Ids& ids = index.ids();
    for (const std::int64_t id : {std::int64_t{0}, std::int64_t{-7}, ids.id_of(0)})
        ids.row_of(id, index.size());
    if (ids.kind() != constann::file::IdKind::strings) return;
    for (std::uint64_t row = 0; row < index.size(); ++row) ids.row_of(ids.label_of(row), index.size());
}

// All of them, to the last byte.
void read_vectors(const Index& index) {
    std::uint64_t sum = 0;
    for (std::uint64_t row = 0; row < index.size(); ++row) {
        const std::span<const std::byte> vector(index.rows()[row], index.stride());
        for (const std::byte part : vector) sum += static_cast<std::uint64_t>(part);
    }
    [[maybe_unused]] const volatile std::uint64_t kept = sum;
}

// What saving does; but other bytes may lie there by then, or fewer.
void reopen(Index& index, std::span<const std::byte> bytes) {
    const auto changed = std::make_shared<Content>(bytes.begin(), bytes.end());
    changed->back() ^= std::byte{0x81};
    index.reopen(*changed, changed);
    attempt([&] { search(index); });
    const auto cut = std::make_shared<Content>(bytes.begin(), bytes.end() - 1);
    attempt([&] { index.reopen(*cut, cut); });
    attempt([&] { search(index); });
}

// Annoy's items take memory up to the largest.
bool few_items(const Index& index) {
    for (std::uint64_t row = 0; row < index.size(); ++row) {
        if (index.ids().id_of(static_cast<std::uint32_t>(row)) > 100'000) return false;
    }
    return true;
}

void try_index(std::span<const std::byte> bytes) {
    attempt([&] {
        const std::unique_ptr<Index> index = constann::open(bytes, nullptr);
        if (index->size() > kSearchedRows) return;
        attempt([&] { look_up(*index); });
        attempt([&] { read_vectors(*index); });
        attempt([&] { search(*index); });
        attempt([&] {
            const auto* forest = dynamic_cast<const constann::Forest*>(index.get());
            if (forest != nullptr && few_items(*forest)) constann::annoy::Nodes::from_forest(*forest, {});
        });
        attempt([&] { reopen(*index, bytes); });
    });
}

// As the binding asks for them: of items that are there.
void measure_items(const constann::annoy::Nodes& nodes) {
    const std::uint32_t items = std::min<std::uint32_t>(nodes.items(), 200);
    for (std::uint32_t item = 0; item < items; ++item) {
        const std::span<const std::byte> vector = nodes.vector_of(item);
        const Content copied(vector.begin(), vector.end());
        nodes.distance(item, nodes.items() - 1 - item);
        nodes.is_item(item + 1);
    }
}

// Looked up, changed and written out; each by itself, as a damaged map refuses at any moment.
void try_pairs(std::span<const std::byte> bytes) {
    attempt([&] {
        constann::PairMap map(bytes, nullptr);
        if (map.size() > kSearchedRows) return;
        for (const std::uint32_t user : {0u, 1u, 5u, 7u, 0xffffffffu}) {
            attempt([&] { map.pairs_of(user); });
            attempt([&] { map.find(user, 3); });
        }
        const std::vector<std::uint32_t> users = {5, 0, 7, 5}, items = {3, 1, 0xffffffff, 3};
        const std::vector<std::int64_t> integers = {1, -100, 30'000, 1};
        const std::vector<float> floats = {1.5f, -2.0f, 0.0f, 3e38f};
        const auto column = [](const auto& numbers, constann::NumberType type) {
            return constann::Column(numbers.data(), type, sizeof numbers[0], numbers.size());
        };
        const bool of_floats = map.type() == constann::ValueType::float32;
        const constann::PairUpdates updates{constann::Update::add,
                                            column(users, constann::NumberType::uint32),
                                            column(items, constann::NumberType::uint32),
                                            of_floats ? column(floats, constann::NumberType::float32)
                                                      : column(integers, constann::NumberType::int64),
                                            users.size()};
        attempt([&] { map.apply(updates, [](std::uint64_t) { return std::string(); }); });
        attempt([&] { map.settle(); });
        attempt([&] { map.pairs_of(5); });
    });
}

void try_annoy(Metric metric, std::span<const std::byte> bytes) {
    constexpr std::uint32_t kDim = 5;
    attempt([&] {
        const constann::annoy::Nodes nodes(metric, kDim, bytes, std::make_shared<int>());
        std::vector<std::byte> query(metric == Metric::hamming ? 8 : kDim * sizeof(float), std::byte{0x3f});
        constann::kernels::with_canonical_floating_point([&] {
            attempt([&] {
                constann::annoy::Items found;
                std::vector<float> distances;
                nodes.search(query, 10, 10'000, found, distances);
            });
            attempt([&] { measure_items(nodes); });
            attempt([&] { search(*nodes.to_forest({})); });
        });
    });
}

// The first byte says what the rest is taken for: 0 an index, 1 to 5 Annoy's with that metric.
void try_input(std::span<const std::byte> input) {
    if (input.empty()) return;
    // A copy of exactly this length, so that one byte beyond it is seen.
    const Content content(input.begin() + 1, input.end());
    const auto what = static_cast<std::uint32_t>(input[0]) % 6;
    if (what == 0) {
        try_index(content);
        try_pairs(content);
    } else {
        try_annoy(static_cast<Metric>(what), content);
    }
#if defined(CONSTANN_PLANT_OVERREAD)  // a negative control: the sanitizer must find this
    if (!content.empty() && content.back() == std::byte{0}) {
        const volatile std::byte* beyond = content.data() + content.size();
        std::printf("%d", static_cast<int>(*beyond));
    }
#endif
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try_input(std::as_bytes(std::span(data, size)));
    return 0;
}

#if defined(CONSTANN_FUZZ_MAIN)
namespace {

// Flips, numbers at aligned places (references and lengths lie there), cuts, splices and random bytes.
Content mutated(const std::vector<Content>& files, std::uint64_t number) {
    constann::Random random(0, number);
    Content content = files[random.below(files.size())];
    const std::uint32_t changes = 1 + random.below(4);
    for (std::uint32_t i = 0; i < changes && content.size() > 1; ++i) {
        const std::size_t place = 1 + random.below(content.size() - 1);
        switch (random.below(6)) {
            case 0:
                content[place] ^= static_cast<std::byte>(1u << random.below(8));
                break;
            case 1: {
                const std::uint64_t interesting[] = {0,          1,          0x7fffffff, 0x80000000,
                                                     0xffffffff, 0x7f800000, 0x7fc00000};
                std::uint64_t value = interesting[random.below(7)];
                if (random.below(2) != 0) value = random.below(64);
                const std::size_t at = 1 + (place - 1) / 4 * 4;
                std::memcpy(&content[at], &value,
                            std::min<std::size_t>(random.below(2) != 0 ? 8 : 4, content.size() - at));
                break;
            }
            case 2:
                if (random.below(4) == 0) content.resize(place);
                break;
            case 3: {
                const Content& other = files[random.below(files.size())];
                const std::size_t from = random.below(other.size());
                const std::size_t length =
                    std::min({other.size() - from, content.size() - place, std::size_t{64}});
                std::memcpy(&content[place], &other[from], length);
                break;
            }
            case 4:
                for (std::size_t at = place; at < std::min(content.size(), place + 16); ++at) {
                    content[at] = static_cast<std::byte>(random.below(256));
                }
                break;
            default:
                // The header's early fields decide most.
                content[1 + random.below(std::min<std::size_t>(content.size() - 1, 200))] =
                    static_cast<std::byte>(random.below(8));
        }
    }
    return content;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) {
        std::fprintf(stderr, "usage: %s FIRST COUNT FILE...\n", argv[0]);
        return 2;
    }
    std::vector<Content> files;
    for (int i = 3; i < argc; ++i) {
        std::ifstream in(argv[i], std::ios::binary);
        const std::vector<char> content{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
        const auto bytes = std::as_bytes(std::span(content));
        files.emplace_back(bytes.begin(), bytes.end());
    }
    const std::uint64_t first = std::strtoull(argv[1], nullptr, 10),
                        count = std::strtoull(argv[2], nullptr, 10);
    for (std::uint64_t i = first; i < first + count; ++i) {
        const Content content = mutated(files, i);
        if (std::getenv("CONSTANN_FUZZ_TRACE") != nullptr)
            std::fprintf(stderr, "%llu\n", static_cast<unsigned long long>(i));
        try_input(content);
    }
    std::printf("%llu mutated files were opened and searched\n", static_cast<unsigned long long>(count));
    return 0;
}
#endif
