// See index.hpp.
#include "core/index.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "exact/exact.hpp"
#include "forest/forest.hpp"
#include "graph/graph.hpp"
#include "kernels/floating_point.hpp"

namespace constann {
namespace {

// Queries searched together by one thread: they share each tile of rows while it is in cache.
constexpr std::uint64_t kQueriesPerTask = 16;

void check_columns(const Matrix& matrix, Metric metric, std::uint32_t dim, const char* what) {
    const std::uint64_t columns = columns_of(metric, dim);
    if (matrix.columns == columns) return;
    const std::string unit = metric == Metric::hamming ? " columns of 8 bits" : "";
    throw std::invalid_argument(std::string(what) + " have dim " + std::to_string(matrix.columns) + unit +
                                ", the index has dim " + std::to_string(columns) + unit);
}

void read_all(const Matrix& matrix, Metric metric, std::uint32_t dim, std::span<std::byte> out) {
    const std::size_t stride = row_stride(metric, dim);
    kernels::with_canonical_floating_point([&] {
        for (std::uint64_t row = 0; row < matrix.rows; ++row) {
            read_canonical(metric, dim, matrix, row, out.subspan(row * stride, stride));
        }
    });
}

}  // namespace

std::uint64_t effort_or(std::uint64_t otherwise, std::optional<std::uint64_t> effort) {
    if (effort && *effort < 1) throw std::invalid_argument("effort must be at least 1");
    return effort.value_or(otherwise);
}

Index::Index(file::Kind kind, std::uint32_t dim, Metric metric) : kind_(kind), metric_(metric), dim_(dim) {
    if (dim < 1 || dim > kMaxDim) {
        throw std::invalid_argument("dim must be 1 to " + std::to_string(kMaxDim) + ", not " +
                                    std::to_string(dim));
    }
}

void Index::add(const Matrix& vectors, const GivenIds& ids) {
    const Change change(access_);
    if (built())
        throw std::invalid_argument("the index is built: rows are added before build(); make a new index");
    check_columns(vectors, metric_, dim_, "vectors");
    if (vectors.rows > kMaxRows - rows_.size())
        throw std::invalid_argument("an index holds at most 4294967294 rows");
    const std::size_t before = rows_.bytes().size(), after = before + vectors.rows * stride();
    if (!placed_rows_.empty() && after > placed_rows_.size())
        throw std::invalid_argument("there is no room for these rows where they are to lie");
    if (placed_rows_.empty()) own_rows_.resize(after);
    const auto all = placed_rows_.empty() ? own_rows_.bytes() : placed_rows_.first(after);
    // What lies beyond these is not there: where what follows throws, the next rows take its place.
    rows_ = RowsView(all.first(before), stride());
    read_all(vectors, metric_, dim_, all.subspan(before));
    ids_.append(ids, vectors.rows, rows_.size());
    rows_ = RowsView(all, stride());
}

void Index::place_rows(std::span<std::byte> region, std::shared_ptr<const void> memory) {
    const Change change(access_);
    if (built()) throw std::invalid_argument("the index is built: its rows lie where they do");
    if (region.size() < rows_.bytes().size()) throw std::invalid_argument("there is no room for the rows");
    placed_rows_ = region;
    rows_ = RowsView(region.first(rows_.bytes().size()), stride());
    memory_ = std::move(memory);
}

void Index::become_file(std::span<std::byte> region, std::size_t rows_at, std::span<const std::byte> head,
                        std::shared_ptr<const void> memory) {
    check_settling();
    const file::Header header = this->header();
    const std::vector<file::Content> parts = contents();
    const std::size_t end = file::file_length(header), begin = header.sections.front().offset;
    if (region.size() < end || rows_at > region.size() || region.size() - rows_at < parts[0].bytes.size() ||
        head.size() > begin) {
        throw std::invalid_argument("there is no room for the file of this index");
    }
    std::memmove(&region[begin], &region[rows_at], parts[0].bytes.size());
    std::memcpy(region.data(), head.data(), head.size());
    std::ranges::fill(region.subspan(head.size(), begin - head.size()), std::byte{0});
    std::size_t at = begin + parts[0].bytes.size();
    for (std::size_t i = 1; i < parts.size(); ++i) {
        const std::size_t offset = header.sections[i].offset;
        std::ranges::fill(region.subspan(at, offset - at), std::byte{0});
        std::ranges::copy(parts[i].bytes, region.begin() + static_cast<std::ptrdiff_t>(offset));
        at = offset + parts[i].bytes.size();
    }
    reopen(region.first(end), std::move(memory));
}

void Index::reopen(std::span<const std::byte> file, std::shared_ptr<const void> memory) {
    check_settling();
    const file::Header header = file::parse(file);
    file::check_layout(header, this->header());
    open_rows(header, file, std::move(memory));
    open_structure(header, file);
    own_rows_ = RowStore();
    placed_rows_ = {};
}

void Index::publish() {
    check_settling();
    settling_.store(false);
    built_.store(true, std::memory_order_release);
    access_.unlock();
}

void Index::check_settling() const {
    if (!settling_.load())
        throw std::invalid_argument("the index is not built in its file, or is in use already");
}

void Index::build(unsigned threads, std::uint64_t seed, const Watch& watch) {
    Change change(access_);
    if (built()) throw std::invalid_argument("the index is built already: make a new index to build anew");
    if (rows_.size() == 0)
        throw std::invalid_argument("the index holds no vectors: add() some before build()");
    seed_ = seed;
    ids_.settle();
    build_structure(threads, watch);
    if (placed_rows_.empty()) {
        built_.store(true, std::memory_order_release);
    } else {
        settling_.store(true);
        static_cast<void>(change.release());  // publish() ends it
    }
}

void Index::check_built() const {
    if (!built()) throw std::invalid_argument("the index is not built: call build() first");
}

void Index::search(const SearchRequest& request, const Watch& watch, std::span<std::int64_t> ids,
                   std::span<float> distances) const {
    check_built();
    check_columns(request.queries, metric_, dim_, "queries");
    const std::size_t stride = this->stride();
    const std::uint64_t count = request.queries.rows;
    Bytes queries(count * stride);
    read_all(request.queries, metric_, dim_, queries);
    const std::uint64_t tasks = (count + kQueriesPerTask - 1) / kQueriesPerTask;
    const Filter filter(request.allowed, request.exclude, ids_, size());
    const SearchPlan plan{request.k, resolve_effort(request.effort), filter};

    run_tasks(
        tasks, request.threads, tasks > 1 ? watch : Watch{}, [&](std::uint64_t task, const StopSignal& stop) {
            stop.check();
            const std::uint64_t first = task * kQueriesPerTask;
            const std::uint64_t here = std::min(kQueriesPerTask, count - first);
            const auto bytes = std::span<const std::byte>(queries).subspan(first * stride, here * stride);
            const RowsView some(bytes, stride);
            std::vector<NearestRows> nearest(here);
            for (NearestRows& set : nearest) set.reset(std::min<std::uint64_t>(request.k, size()));
            find(some, plan, nearest);
            for (std::uint64_t i = 0; i < here; ++i) {
                const std::size_t at = (first + i) * request.k;
                nearest[i].write(ids_, ids.subspan(at, request.k), distances.subspan(at, request.k));
            }
        });
}

file::Header Index::header() const {
    file::Header header{kind_, metric_, ids_.kind(), dim_, rows_.size(), seed_, parameters(), {}};
    file::place_sections(header, contents());
    return header;
}

std::vector<file::Content> Index::contents() const {
    if (!settling_.load()) check_built();
    std::vector<file::Content> all = {{file::SectionTag::rows, rows_.bytes()}};
    for (const file::Content& content : ids_.contents()) all.push_back(content);
    for (const file::Content& content : structure()) all.push_back(content);
    return all;
}

void Index::open_rows(const file::Header& header, std::span<const std::byte> file,
                      std::shared_ptr<const void> memory) {
    const std::size_t stride = row_stride(header.metric, header.dim);
    rows_ = RowsView(file::section(header, file, file::SectionTag::rows, header.rows * stride), stride);
    ids_ = Ids::open(header, file);
    memory_ = std::move(memory);
    seed_ = header.seed;
}

std::unique_ptr<Index> open(std::span<const std::byte> file, std::shared_ptr<const void> memory) {
    const file::Header header = file::parse(file);
    std::unique_ptr<Index> index;
    switch (header.kind) {
        case file::Kind::exact:
            index = std::make_unique<Exact>(header.dim, header.metric);
            break;
        case file::Kind::forest:
            index = Forest::for_file(header);
            break;
        case file::Kind::graph:
            index = Graph::for_file(header);
            break;
        case file::Kind::pairs:
            throw file::FormatError("the file holds a map of pairs: open it with constann.PairMap.open()");
    }
    index->open_rows(header, file, std::move(memory));
    index->open_structure(header, file);
    index->built_.store(true, std::memory_order_release);
    file::check_layout(header, index->header());
    return index;
}

}  // namespace constann
