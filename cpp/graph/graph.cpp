// See graph.hpp: choosing codes by trying them, grouping equal rows, building, and what of it goes into the
// file.
#include "graph/graph.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/random.hpp"
#include "core/scan.hpp"
#include "file/little_endian.hpp"
#include "kernels/dispatch.hpp"
#include "kernels/floating_point.hpp"

namespace constann {
namespace {

constexpr std::uint64_t kOrderStream = 0x6f72646572;  // of random choices: the order of the nodes
constexpr std::uint64_t kTrialStream = 0x747269616c;
constexpr std::uint64_t kRowsPerTask = 4096;
constexpr std::uint64_t kTrialQueries = 128;
constexpr std::uint64_t kQueriesPerTask = 8;
constexpr std::uint64_t kTrialK = 11;       // a row that is a query finds itself, and ten others
constexpr std::uint64_t kLostAtMost = 700;  // one in so many true neighbours may fall behind the reranked
constexpr std::uint64_t kMaxRerank = 1 << 20;
constexpr std::uint64_t kRerankOfFloats = 10;
// Codes of 4 bits win where they leave no more; else of all forms the one that leaves fewest, codes of 7 bits
// counted twice.
constexpr std::uint64_t kFewReranked = 32;

std::uint64_t hash_of(std::span<const std::byte> bytes) {
    std::uint64_t hash = 0x9e3779b97f4a7c15u;
    for (std::size_t at = 0; at < bytes.size(); at += sizeof hash) {
        hash = (hash ^ file::load<std::uint64_t>(bytes.data() + at)) * 0xbf58476d1ce4e5b9u;
        hash ^= hash >> 29;
    }
    return hash;
}

// Whether the row's bytes come first or, where they are equal, its number.
bool lies_before(const RowsView& rows, std::uint32_t a, std::uint32_t b) {
    const int compared = std::memcmp(rows[a], rows[b], rows.stride());
    return compared != 0 ? compared < 0 : a < b;
}

// Of so many rows or nodes.
Bytes halved(const Bytes& codes, std::uint64_t count, std::uint32_t dim, unsigned threads) {
    const std::size_t wide = code_stride(dim), stride = half_code_stride(dim);
    Bytes halves(count * stride);
    run_each(count, kRowsPerTask, threads, {}, [&](std::uint64_t i) {
        pack_half_codes(std::span(codes).subspan(i * wide, dim),
                        std::span(halves).subspan(i * stride, stride));
    });
    return halves;
}

}  // namespace

Graph::Graph(std::uint32_t dim, Metric metric, std::optional<std::uint64_t> effort,
             std::optional<std::uint64_t> code_bits)
    : Index(file::Kind::graph, dim, metric), wanted_code_bits_(code_bits) {
    if (metric == Metric::manhattan || metric == Metric::hamming) {
        throw std::invalid_argument(std::string("a graph takes cosine, euclidean or dot, not ") +
                                    name_of(metric) + ": use kind='forest' or kind='exact'");
    }
    effort_ = effort_or(0, effort);
    if (code_bits && *code_bits != 0 && *code_bits != 4 && *code_bits != 7)
        throw std::invalid_argument("code_bits must be 0, 4 or 7, not " + std::to_string(*code_bits));
}

void Graph::build_structure(unsigned threads, const Watch& watch) {
    const Truth truth = true_neighbours(threads, watch);
    Bytes codes = choose_codes(truth, threads);
    const kernels::KernelTable& kernels = kernels::active();
    group_rows(form_.bits != 0 ? RowsView(codes, code_stride(dim())) : rows());
    std::vector<std::uint32_t> bias_of_nodes;
    Measure between;
    if (form_.bits != 0) {
        codes = codes_by_node(codes);
        if (metric() == Metric::dot) bias_of_nodes = bias();
        between = {.codes = kernels.code_squared_euclidean,
                   .table = RowsView(codes, code_stride(dim())),
                   .bias = bias_of_nodes};
    } else {
        between = measure(kernels);
    }
    kernels::with_canonical_floating_point(
        [&] { own_links_ = build_links(between, node_rows_.nodes, threads, watch); });
    own_codes_ = form_.bits == 4 ? halved(codes, node_rows_.nodes, dim(), threads) : std::move(codes);
    look_at_own();
    if (effort_ == 0) effort_ = settled_effort(truth, threads);
}

// Rows to try as queries, no two of them equal: many zero rows must not stand for all.
std::vector<std::uint32_t> Graph::trial_rows() const {
    std::vector<std::uint32_t> chosen;
    Random random(seed(), kTrialStream);
    for (std::uint64_t draw = 0; draw < 4 * kTrialQueries && chosen.size() < kTrialQueries; ++draw) {
        const std::uint32_t row = random.below(size());
        const bool known = std::any_of(chosen.begin(), chosen.end(), [&](std::uint32_t other) {
            return std::memcmp(rows()[other], rows()[row], rows().stride()) == 0;
        });
        if (!known) chosen.push_back(row);
    }
    return chosen;
}

Graph::Truth Graph::true_neighbours(unsigned threads, const Watch& watch) const {
    const std::size_t stride = rows().stride();
    const std::vector<std::uint32_t> chosen = trial_rows();
    const std::uint64_t count = chosen.size();
    Truth truth{Bytes(count * stride), std::vector<std::vector<std::uint64_t>>(count)};
    for (std::uint64_t i = 0; i < count; ++i)
        std::memcpy(&truth.queries[i * stride], rows()[chosen[i]], stride);
    const Filter all;
    const Watch still = watch ? [&](std::uint64_t, std::uint64_t) { watch(0, size()); } : Watch{};
    run_tasks((count + kQueriesPerTask - 1) / kQueriesPerTask, threads, still,
              [&](std::uint64_t task, const StopSignal& stop) {
                  stop.check();
                  const std::uint64_t first = task * kQueriesPerTask;
                  const std::uint64_t here = std::min(kQueriesPerTask, count - first);
                  std::vector<NearestRows> nearest(here);
                  for (NearestRows& set : nearest) set.reset(std::min(kTrialK, size()));
                  const auto queries = std::span(truth.queries).subspan(first * stride, here * stride);
                  scan(metric(), rows(), all, RowsView(queries, stride), nearest);
                  for (std::uint64_t i = 0; i < here; ++i)
                      truth.nearest[first + i] = nearest[i].take_sorted();
              });
    return truth;
}

void CodeForm::encode(Metric metric, const std::byte* query, std::uint32_t dim, Floats& turned,
                      Bytes& codes) const {
    if (rotation) {
        turned.resize(row_stride(metric, dim) / sizeof(float));
        rotation->turn(query, turned);
        query = bytes_of(turned).data();
    }
    codes.resize(stride(dim) * (bits == 4 ? 2 : 1));
    encode_query(metric, scale, query, dim, codes);
}

// Codes of 7 bits by row to build on; form_ says what a search compares. None where no codes serve.
Bytes Graph::choose_codes(const Truth& truth, unsigned threads) {
    form_ = {.rerank = kRerankOfFloats};
    if (wanted_code_bits_ == 0) return {};
    Bytes best;
    std::uint64_t least = UINT64_MAX;
    bool few = false;
    for (int rotated = 0; rotated < 2 && !few; ++rotated) {
        CodeForm form;
        if (rotated) form.rotation.emplace(dim(), seed());
        CodedRows codes = codes_of_rows(form.rotation, threads);
        if (codes.rows.size() == 0) continue;
        form.scale = codes.scale;
        bool better = false;
        for (const unsigned bits : {4u, 7u}) {
            if (few || wanted_code_bits_.value_or(bits) != bits) continue;
            form.bits = bits;
            form.rerank = rerank_needed(form, codes.own, truth, threads);
            const std::uint64_t cost = bits == 4 ? form.rerank : 2 * form.rerank;
            few = bits == 4 && form.rerank != 0 && form.rerank <= kFewReranked;
            if (form.rerank == 0 || cost >= least) continue;
            least = cost;
            form_ = form;
            better = true;
        }
        if (better) best = std::move(codes.own);
    }
    return best;
}

CodedRows Graph::codes_of_rows(const std::optional<Rotation>& rotation, unsigned threads) const {
    if (!rotation) return encode_rows(rows(), dim(), threads, {});
    const std::size_t length = rows().stride() / sizeof(float);
    Floats turned(size() * length);
    run_each(size(), kRowsPerTask, threads, {}, [&](std::uint64_t row) {
        rotation->turn(rows()[row], std::span(turned).subspan(row * length, length));
    });
    return encode_rows(RowsView(bytes_of(turned), rows().stride()), dim(), threads, {});
}

// How many nodes the codes, given in 7 bits, must leave for the exact comparison, so that hardly any of the
// true nearest is lost; 0 where codes cannot serve.
std::uint64_t Graph::rerank_needed(const CodeForm& form, const Bytes& codes_of_7, const Truth& truth,
                                   unsigned threads) const {
    const bool half = form.bits == 4;
    const kernels::ManyCodes kernel = code_kernel(kernels::active(), compared_as(), half);
    const Bytes halves = half ? halved(codes_of_7, size(), dim(), threads) : Bytes();
    const RowsView codes(half ? halves : codes_of_7, form.stride(dim()));
    std::vector<std::uint64_t> ranks(truth.nearest.size() * kTrialK);
    run_each(truth.nearest.size(), 1, threads, {}, [&](std::uint64_t i) {
        Floats turned;
        Bytes query;
        form.encode(compared_as(), &truth.queries[i * rows().stride()], dim(), turned, query);
        std::vector<const std::byte*> addresses(size());
        std::vector<std::uint32_t> answers(size());
        for (std::uint64_t row = 0; row < size(); ++row) addresses[row] = codes[row];
        kernel(query.data(), addresses.data(), size(), codes.stride(), answers.data());
        for (std::size_t j = 0; j < truth.nearest[i].size(); ++j) {
            const auto row = static_cast<std::uint32_t>(truth.nearest[i][j]);
            std::uint64_t& rank = ranks[i * kTrialK + j];
            for (std::uint64_t other = 0; other < size(); ++other) {
                if (answers[other] > answers[row]) continue;
                // Equal rows are compared once, but others with the same answer take a place.
                rank += answers[other] < answers[row] ||
                        std::memcmp(rows()[other], rows()[row], rows().stride()) != 0;
            }
        }
    });
    return least_rerank(ranks, {16, 24, 32, 48, 64}, kLostAtMost);
}

// See Measure. In steps of a code; lengths beyond what codes can show count as that.
std::vector<std::uint32_t> Graph::bias() const {
    constexpr double kLargest = 1 << 30;
    std::vector<std::uint32_t> bias(node_rows_.nodes);
    kernels::with_canonical_floating_point([&] {
        const double rate = static_cast<double>(form_.scale.rate);
        Floats values(rows().stride() / sizeof(float));
        for (std::uint32_t node = 0; node < node_rows_.nodes; ++node) {
            const std::uint32_t row = node_rows_.row(node_rows_.of(node).first, size());
            std::memcpy(values.data(), rows()[row], rows().stride());
            const double square = squared_norm(values) * rate * rate;
            bias[node] = static_cast<std::uint32_t>(square < kLargest ? square : kLargest);
        }
    });
    const std::uint32_t largest = *std::max_element(bias.begin(), bias.end());
    for (std::uint32_t& each : bias) each = largest - each;
    return bias;
}

// Rows that are equal in what is compared become one node; nodes come in a random order.
void Graph::group_rows(const RowsView& compared) {
    const std::uint64_t count = size();
    const std::size_t stride = compared.stride();
    std::vector<std::pair<std::uint64_t, std::uint32_t>> order(count);
    for (std::uint64_t row = 0; row < count; ++row)
        order[row] = {hash_of({compared[row], stride}), static_cast<std::uint32_t>(row)};
    std::sort(order.begin(), order.end(), [&](const auto& a, const auto& b) {
        return a.first != b.first ? a.first < b.first : lies_before(compared, a.second, b.second);
    });
    struct Group {
        std::uint32_t row;  // the smallest
        std::uint64_t begin, end;
    };
    std::vector<Group> groups;
    for (std::uint64_t i = 0; i < count; ++i) {
        const bool same = i > 0 && order[i].first == order[i - 1].first &&
                          std::memcmp(compared[order[i].second], compared[order[i - 1].second], stride) == 0;
        if (!same) groups.push_back({order[i].second, i, i});
        groups.back().end = i + 1;
    }
    std::ranges::sort(groups, {}, &Group::row);
    Random random(seed(), kOrderStream);
    for (std::size_t i = groups.size(); i > 1; --i) std::swap(groups[i - 1], groups[random.below(i)]);
    own_node_rows_.clear();
    own_node_bounds_.assign(1, 0);
    for (const Group& group : groups) {
        const auto begin = static_cast<std::ptrdiff_t>(own_node_rows_.size());
        for (std::uint64_t i = group.begin; i < group.end; ++i) own_node_rows_.push_back(order[i].second);
        // Equal rows lie together, in order, so that a search can leave most of them out.
        std::sort(own_node_rows_.begin() + begin, own_node_rows_.end(),
                  [&](std::uint32_t a, std::uint32_t b) { return lies_before(rows(), a, b); });
        own_node_bounds_.push_back(static_cast<std::uint32_t>(own_node_rows_.size()));
    }
    if (groups.size() == count) own_node_bounds_.clear();
    node_rows_ = {groups.size(), bytes_of(own_node_rows_), bytes_of(own_node_bounds_)};
}

Bytes Graph::codes_by_node(const Bytes& by_row) {
    const std::size_t stride = code_stride(dim());
    Bytes codes(node_rows_.nodes * stride);
    for (std::uint32_t node = 0; node < node_rows_.nodes; ++node) {
        const std::uint32_t row = node_rows_.row(node_rows_.of(node).first, size());
        std::memcpy(&codes[node * stride], &by_row[row * stride], stride);
    }
    return codes;
}

void Graph::look_at_own() {
    codes_ = form_.bits == 0 ? RowsView() : RowsView(own_codes_, form_.stride(dim()));
    links_ = bytes_of(own_links_.lowest);
    look_at_upper(bytes_of(own_links_.upper));
}

void Graph::look_at_upper(std::span<const std::byte> links) {
    upper_links_ = links;
    upper_.clear();
    for (const std::uint64_t nodes : upper_sizes(node_rows_.nodes)) {
        const std::uint64_t bytes = nodes * kUpperLinks * sizeof(std::uint32_t);
        upper_.push_back({links.first(bytes), kUpperLinks, nodes});
        links = links.subspan(bytes);
    }
}

std::unique_ptr<Graph> Graph::for_file(const file::Header& header) {
    using file::ParameterTag;
    if (header.metric == Metric::manhattan || header.metric == Metric::hamming)
        throw file::FormatError("a graph has no such metric");
    const std::uint64_t effort = file::parameter(header, ParameterTag::effort, 1, UINT64_MAX);
    const std::uint64_t bits = file::code_bits(header, ParameterTag::code_bits, {0, 4, 7});
    file::parameter(header, ParameterTag::links, kLinks, kLinks);
    file::parameter(header, ParameterTag::upper_links, kUpperLinks, kUpperLinks);
    auto index = std::make_unique<Graph>(header.dim, header.metric, effort);
    index->form_.bits = bits;
    index->form_.rerank = file::parameter(header, ParameterTag::rerank, 1, kMaxRerank);
    index->node_rows_.nodes = file::parameter(header, ParameterTag::nodes, 1, header.rows);
    if (bits == 0) return index;
    index->form_.scale = {file::float_parameter(header, ParameterTag::code_low),
                          file::float_parameter(header, ParameterTag::code_rate)};
    if (file::parameter(header, ParameterTag::rotated, 0, 1) != 0)
        index->form_.rotation.emplace(header.dim, header.seed);
    return index;
}

void Graph::open_structure(const file::Header& header, std::span<const std::byte> file) {
    using file::SectionTag;
    const std::uint64_t nodes = node_rows_.nodes;
    constexpr std::uint64_t kNumber = sizeof(std::uint32_t);
    NodeRows node_rows{nodes, file::section(header, file, SectionTag::node_rows, header.rows * kNumber), {}};
    if (nodes != header.rows)
        node_rows.bounds = file::section(header, file, SectionTag::node_bounds, (nodes + 1) * kNumber);
    const auto links = file::section(header, file, SectionTag::links, nodes * kLinks * kNumber);
    const auto upper_links =
        file::section(header, file, SectionTag::upper_links, upper_link_count(nodes) * kNumber);
    const std::size_t stride = form_.stride(header.dim);
    const auto codes = form_.bits == 0
                           ? RowsView()
                           : RowsView(file::section(header, file, SectionTag::codes, nodes * stride), stride);
    own_codes_ = {};
    own_links_ = {};
    own_node_rows_ = {};
    own_node_bounds_ = {};
    codes_ = codes;
    node_rows_ = node_rows;
    links_ = links;
    look_at_upper(upper_links);
}

std::vector<file::Parameter> Graph::parameters() const {
    using file::ParameterTag;
    std::vector<file::Parameter> all = {{ParameterTag::effort, effort_},
                                        {ParameterTag::code_bits, form_.bits}};
    if (form_.bits != 0) {
        all.push_back({ParameterTag::code_low, std::bit_cast<std::uint32_t>(form_.scale.low)});
        all.push_back({ParameterTag::code_rate, std::bit_cast<std::uint32_t>(form_.scale.rate)});
    }
    all.push_back({ParameterTag::rerank, form_.rerank});
    all.push_back({ParameterTag::nodes, node_rows_.nodes});
    all.push_back({ParameterTag::links, kLinks});
    all.push_back({ParameterTag::upper_links, kUpperLinks});
    if (form_.bits != 0) all.push_back({ParameterTag::rotated, rotated() ? 1u : 0u});
    return all;
}

std::vector<file::Content> Graph::structure() const {
    using file::SectionTag;
    std::vector<file::Content> all = {{SectionTag::node_rows, node_rows_.rows}};
    if (!node_rows_.bounds.empty()) all.push_back({SectionTag::node_bounds, node_rows_.bounds});
    all.push_back({SectionTag::links, links_});
    all.push_back({SectionTag::upper_links, upper_links_});
    if (form_.bits != 0) all.push_back({SectionTag::codes, codes_.bytes()});
    return all;
}

}  // namespace constann
