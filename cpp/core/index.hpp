// What all kinds of index share: rows are added, the index is built once, then searched or written out.
// A kind supplies how it builds its structure, searches it, and which parameters and sections it keeps.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/access.hpp"
#include "core/ids.hpp"
#include "core/matrix.hpp"
#include "core/metric.hpp"
#include "core/nearest.hpp"
#include "core/parallel.hpp"
#include "core/row_store.hpp"
#include "core/rows.hpp"
#include "file/format.hpp"

namespace constann {

struct SearchRequest {
    Matrix queries;
    std::size_t k;
    std::optional<std::uint64_t> effort;
    unsigned threads;
    Filter::Given allowed = {};
    Filter::Given exclude = {};
};

// What all searches of one request share.
struct SearchPlan {
    std::size_t k;
    std::uint64_t effort;
    const Filter& filter;
};

// The effort asked for, at least 1, or `otherwise`. Throws std::invalid_argument.
std::uint64_t effort_or(std::uint64_t otherwise, std::optional<std::uint64_t> effort);

class Index {
  public:
    virtual ~Index() = default;
    Index(const Index&) = delete;
    Index& operator=(const Index&) = delete;

    Metric metric() const { return metric_; }
    std::uint32_t dim() const { return dim_; }
    std::uint64_t size() const { return rows_.size(); }
    std::uint64_t seed() const { return seed_; }
    std::uint64_t effort() const { return effort_; }
    bool built() const { return built_.load(std::memory_order_acquire); }

    const Ids& ids() const { return ids_; }
    const RowsView& rows() const { return rows_; }

    // Adds rows; all or, where one is bad, none. Throws std::invalid_argument.
    void add(const Matrix& vectors, const GivenIds& ids = {});

    // Puts the rows into memory of the caller's, such as a mapped file: `region` begins with those added so
    // far, has room for more, and stays as `memory` keeps it. Only before build(). Throws
    // std::invalid_argument.
    void place_rows(std::span<std::byte> region, std::shared_ptr<const void> memory);

    // An index that was built in placed rows answers nobody until publish(): first its file is settled, and
    // whatever fails there, publish() lets it answer from where it then lies.
    //
    // Makes `region`, where its rows lie from `rows_at` on, the whole file beginning with `head`, and uses
    // it: all of that or, where it throws, nothing.
    void become_file(std::span<std::byte> region, std::size_t rows_at, std::span<const std::byte> head,
                     std::shared_ptr<const void> memory);

    // Lets go of what was built and uses the same index in its file. Throws file::FormatError.
    void reopen(std::span<const std::byte> file, std::shared_ptr<const void> memory);

    void publish();
    bool settling() const { return settling_.load(std::memory_order_acquire); }

    // Held while something is read of an index that may not be built yet.
    Reading reading() const { return Reading(access_); }

    std::size_t stride() const { return row_stride(metric_, dim_); }

    // Builds; the result does not depend on `threads`.
    void build(unsigned threads, std::uint64_t seed, const Watch& watch);

    // Writes k ids and distances for each query, nearest first, by (distance, row).
    void search(const SearchRequest& request, const Watch& watch, std::span<std::int64_t> ids,
                std::span<float> distances) const;

    // What the file of this built index holds. The contents stay valid as long as the index.
    file::Header header() const;
    std::vector<file::Content> contents() const;

  protected:
    Index(file::Kind kind, std::uint32_t dim, Metric metric);

    // Takes over the rows of an opened file, which `memory` keeps alive.
    void open_rows(const file::Header& header, std::span<const std::byte> file,
                   std::shared_ptr<const void> memory);

    // Takes over what its kind keeps of an opened file.
    virtual void open_structure(const file::Header& header, std::span<const std::byte> file) = 0;
    virtual void build_structure(unsigned threads, const Watch& watch) = 0;
    // One thread's part of a search: offers each of `queries` (canonical padded rows) what is found, to the
    // set of the same number.
    virtual void find(const RowsView& queries, const SearchPlan& plan,
                      std::span<NearestRows> nearest) const = 0;
    // Of a search that is asked for this one.
    virtual std::uint64_t resolve_effort(std::optional<std::uint64_t> effort) const {
        return effort_or(effort_, effort);
    }
    virtual std::vector<file::Parameter> parameters() const = 0;
    virtual std::vector<file::Content> structure() const = 0;

    std::uint64_t effort_ = 0;  // the usual one; 0 until it is settled

  private:
    friend std::unique_ptr<Index> open(std::span<const std::byte> file, std::shared_ptr<const void> memory);

    void check_built() const;
    void check_settling() const;

    file::Kind kind_;
    Metric metric_;
    std::uint32_t dim_;
    std::uint64_t seed_ = 0;
    Access access_;
    std::atomic<bool> settling_{false};  // built in placed rows, and not published
    std::atomic<bool> built_{false};
    Ids ids_;
    RowStore own_rows_;
    std::span<std::byte> placed_rows_;  // instead, where the caller gave room
    std::shared_ptr<const void> memory_;
    RowsView rows_;
};

// Opens any kind of index over the bytes of a whole file. Throws file::FormatError.
std::unique_ptr<Index> open(std::span<const std::byte> file, std::shared_ptr<const void> memory);

}  // namespace constann
