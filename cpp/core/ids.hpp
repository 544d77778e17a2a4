// The caller's own ids of rows: row numbers, any int64 or strings, kept as flat arrays that a mapped file
// holds as they are, and found again by binary search. Nothing is parsed on opening; nothing read from a file
// is trusted.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "file/format.hpp"

namespace constann {

using Labels = std::vector<std::string_view>;

// Ids as a caller gives them: none, integers or strings.
using GivenIds = std::variant<std::monostate, std::span<const std::int64_t>, Labels>;

class Ids {
  public:
    file::IdKind kind() const { return kind_; }

    // Appends the ids of `count` new rows, of the kind that the `before` rows there are have. All or none:
    // throws std::invalid_argument.
    void append(const GivenIds& ids, std::uint64_t count, std::uint64_t before);

    // Orders the ids for look-up. Throws std::invalid_argument naming an id that two rows have.
    void settle();

    static Ids open(const file::Header& header, std::span<const std::byte> file);

    // What of it goes into the file; valid as long as this.
    std::vector<file::Content> contents() const;

    // The id a search returns for a row: an int64 id, or else the row's number.
    std::int64_t id_of(std::uint32_t row) const;

    // The greatest that id_of gives for any of so many rows, at least one.
    std::int64_t greatest(std::uint64_t rows) const;

    // Only for strings. Throws file::FormatError where the file is damaged.
    std::string_view label_of(std::uint64_t row) const;

    // The row that has this id, where there is one. `rows` is how many there are.
    std::optional<std::uint32_t> row_of(std::int64_t id, std::uint64_t rows) const;
    std::optional<std::uint32_t> row_of(std::string_view label, std::uint64_t rows) const;

  private:
    std::uint64_t bound(std::uint64_t i) const;
    std::uint32_t ordered(std::uint64_t place, std::uint64_t rows) const;
    template <class Id, class IdOf>
    std::optional<std::uint32_t> find(const Id& id, std::uint64_t rows, const IdOf& id_of) const;
    template <class IdOf>
    void order_by(std::uint64_t rows, const IdOf& id_of);
    void append_labels(const Labels& labels);
    void look_at_own();

    file::IdKind kind_ = file::IdKind::rows;
    std::vector<std::int64_t> own_numbers_;
    std::vector<std::uint32_t> own_bounds_;
    std::vector<std::uint64_t> own_wide_bounds_;  // instead, once the text is over 4 GiB
    std::vector<char> own_text_;
    std::vector<std::uint32_t> own_order_;
    // Views of the above or of a mapped file. `order_` holds row numbers by rising id; it is empty where the
    // rows are in that order already.
    std::span<const std::byte> numbers_, bounds_, text_, order_;
    std::size_t bound_width_ = sizeof(std::uint64_t);
};

// The rows a search may return: all of them, or a set of bits.
class Filter {
  public:
    // As a caller gives it: nothing, one byte for each row (not 0 means in), or ids, of which unknown ones
    // name no row.
    using Given =
        std::variant<std::monostate, std::span<const std::uint8_t>, std::span<const std::int64_t>, Labels>;

    Filter() = default;
    Filter(const Given& allowed, const Given& exclude, const Ids& ids, std::uint64_t rows);

    bool filters() const { return !bits_.empty(); }
    // How many of these are allowed.
    std::uint64_t count_of(std::uint64_t rows) const { return filters() ? count_ : rows; }
    bool allows(std::uint32_t row) const { return bits_.empty() || (bits_[row / 64] >> (row % 64) & 1); }

  private:
    void mark(const Given& given, const Ids& ids, std::uint64_t rows, bool allowed);

    std::vector<std::uint64_t> bits_;
    std::uint64_t count_ = 0;
};

}  // namespace constann
