// See ids.hpp.
#include "core/ids.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <stdexcept>
#include <string>

#include "file/little_endian.hpp"

namespace constann {
namespace {

std::string quoted(std::int64_t id) {
    return std::to_string(id);
}
std::string quoted(std::string_view label) {
    return "'" + std::string(label.substr(0, 100)) + (label.size() > 100 ? "..." : "") + "'";
}

file::IdKind kind_of(const GivenIds& ids) {
    return static_cast<file::IdKind>(ids.index());
}

std::uint64_t count_of(const GivenIds& ids) {
    if (const auto* numbers = std::get_if<1>(&ids)) return numbers->size();
    if (const auto* labels = std::get_if<2>(&ids)) return labels->size();
    return 0;
}

}  // namespace

void Ids::append(const GivenIds& ids, std::uint64_t count, std::uint64_t before) {
    if (kind_of(ids) != file::IdKind::rows && count_of(ids) != count) {
        throw std::invalid_argument("there are " + std::to_string(count_of(ids)) + " ids for " +
                                    std::to_string(count) + " vectors");
    }
    if (count == 0) return;
    if (before != 0 && kind_of(ids) != kind_) {
        throw std::invalid_argument(
            "either all rows have ids, all integers or all strings, or none has: these differ from those "
            "added before");
    }
    kind_ = kind_of(ids);
    if (const auto* numbers = std::get_if<1>(&ids)) {
        own_numbers_.insert(own_numbers_.end(), numbers->begin(), numbers->end());
    } else if (const auto* labels = std::get_if<2>(&ids)) {
        append_labels(*labels);
    }
    look_at_own();
}

void Ids::append_labels(const Labels& labels) {
    std::uint64_t length = own_text_.size();
    for (const std::string_view label : labels) length += label.size();
    if (length > UINT32_MAX && own_wide_bounds_.empty()) {
        own_wide_bounds_.assign(own_bounds_.begin(), own_bounds_.end());
        own_bounds_ = {};
    }
    const auto append = [&]<class Bound>(std::vector<Bound>& bounds) {
        if (bounds.empty()) bounds.push_back(0);
        for (const std::string_view label : labels) {
            own_text_.insert(own_text_.end(), label.begin(), label.end());
            bounds.push_back(static_cast<Bound>(own_text_.size()));
        }
    };
    length > UINT32_MAX ? append(own_wide_bounds_) : append(own_bounds_);
}

void Ids::look_at_own() {
    numbers_ = bytes_of(own_numbers_);
    bounds_ = own_wide_bounds_.empty() ? bytes_of(own_bounds_) : bytes_of(own_wide_bounds_);
    bound_width_ = own_wide_bounds_.empty() ? sizeof(std::uint32_t) : sizeof(std::uint64_t);
    text_ = bytes_of(own_text_);
    order_ = bytes_of(own_order_);
}

template <class IdOf>
void Ids::order_by(std::uint64_t rows, const IdOf& id_of) {
    const auto less = [&](std::uint32_t a, std::uint32_t b) {
        return id_of(a) != id_of(b) ? id_of(a) < id_of(b) : a < b;
    };
    own_order_.resize(rows);
    std::iota(own_order_.begin(), own_order_.end(), 0u);
    if (!std::is_sorted(own_order_.begin(), own_order_.end(), less)) {
        std::sort(own_order_.begin(), own_order_.end(), less);
    }
    for (std::uint64_t i = 1; i < rows; ++i) {
        const std::uint32_t a = own_order_[i - 1], b = own_order_[i];
        if (id_of(a) == id_of(b)) {
            throw std::invalid_argument("rows " + std::to_string(a) + " and " + std::to_string(b) +
                                        " have the same id " + quoted(id_of(a)) +
                                        ": ids must differ; make a new index");
        }
    }
    if (std::is_sorted(own_order_.begin(), own_order_.end())) own_order_ = {};
}

void Ids::settle() {
    if (kind_ == file::IdKind::int64) {
        order_by(own_numbers_.size(), [this](std::uint32_t row) { return own_numbers_[row]; });
    } else if (kind_ == file::IdKind::strings) {
        order_by(bounds_.size() / bound_width_ - 1, [this](std::uint32_t row) { return label_of(row); });
    }
    look_at_own();
}

Ids Ids::open(const file::Header& header, std::span<const std::byte> file) {
    using file::SectionTag;
    Ids ids;
    ids.kind_ = header.ids;
    if (ids.kind_ == file::IdKind::rows) return ids;
    if (ids.kind_ == file::IdKind::int64) {
        ids.numbers_ =
            file::section(header, file, SectionTag::id_numbers, header.rows * sizeof(std::int64_t));
    } else {
        ids.text_ = file::section(header, file, SectionTag::id_text);
        ids.bound_width_ = ids.text_.size() <= UINT32_MAX ? sizeof(std::uint32_t) : sizeof(std::uint64_t);
        ids.bounds_ =
            file::section(header, file, SectionTag::id_bounds, (header.rows + 1) * ids.bound_width_);
    }
    ids.order_ = file::section(header, file, SectionTag::id_order);
    if (!ids.order_.empty()) {
        file::section(header, file, SectionTag::id_order, header.rows * sizeof(std::uint32_t));
    }
    return ids;
}

std::vector<file::Content> Ids::contents() const {
    using file::SectionTag;
    if (kind_ == file::IdKind::rows) return {};
    if (kind_ == file::IdKind::int64)
        return {{SectionTag::id_numbers, numbers_}, {SectionTag::id_order, order_}};
    return {{SectionTag::id_bounds, bounds_}, {SectionTag::id_text, text_}, {SectionTag::id_order, order_}};
}

std::int64_t Ids::id_of(std::uint32_t row) const {
    return kind_ == file::IdKind::int64 ? file::load<std::int64_t>(numbers_.data(), row) : std::int64_t{row};
}

std::int64_t Ids::greatest(std::uint64_t rows) const {
    return id_of(kind_ == file::IdKind::int64 ? ordered(rows - 1, rows)
                                              : static_cast<std::uint32_t>(rows - 1));
}

std::uint64_t Ids::bound(std::uint64_t i) const {
    return bound_width_ == sizeof(std::uint32_t) ? file::load<std::uint32_t>(bounds_.data(), i)
                                                 : file::load<std::uint64_t>(bounds_.data(), i);
}

std::string_view Ids::label_of(std::uint64_t row) const {
    const std::uint64_t begin = bound(row), end = bound(row + 1);
    if (begin > end || end > text_.size()) file::damaged("a string id lies outside its section");
    return {reinterpret_cast<const char*>(text_.data()) + begin, end - begin};
}

std::uint32_t Ids::ordered(std::uint64_t place, std::uint64_t rows) const {
    if (order_.empty()) return static_cast<std::uint32_t>(place);
    const auto row = file::load<std::uint32_t>(order_.data(), place);
    if (row >= rows) file::damaged("the order of ids names a row that does not exist");
    return row;
}

template <class Id, class IdOf>
std::optional<std::uint32_t> Ids::find(const Id& id, std::uint64_t rows, const IdOf& id_of) const {
    std::uint64_t low = 0, high = rows;
    while (low < high) {
        const std::uint64_t middle = low + (high - low) / 2;
        if (id_of(ordered(middle, rows)) < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == rows) return std::nullopt;
    const std::uint32_t row = ordered(low, rows);
    if (id_of(row) != id) return std::nullopt;
    return row;
}

std::optional<std::uint32_t> Ids::row_of(std::int64_t id, std::uint64_t rows) const {
    if (kind_ == file::IdKind::int64) return find(id, rows, [this](std::uint32_t row) { return id_of(row); });
    if (id < 0 || static_cast<std::uint64_t>(id) >= rows) return std::nullopt;
    return static_cast<std::uint32_t>(id);
}

std::optional<std::uint32_t> Ids::row_of(std::string_view label, std::uint64_t rows) const {
    if (kind_ != file::IdKind::strings) throw std::invalid_argument("this index has no string ids");
    return find(label, rows, [this](std::uint32_t row) { return label_of(row); });
}

Filter::Filter(const Given& allowed, const Given& exclude, const Ids& ids, std::uint64_t rows) {
    if (allowed.index() == 0 && exclude.index() == 0) return;
    const bool none_allowed_yet = allowed.index() != 0;
    bits_.assign((rows + 63) / 64, none_allowed_yet ? 0 : ~std::uint64_t{0});
    if (!none_allowed_yet && rows % 64 != 0) bits_.back() = ~std::uint64_t{0} >> (64 - rows % 64);
    mark(allowed, ids, rows, true);
    mark(exclude, ids, rows, false);
    for (const std::uint64_t word : bits_) count_ += static_cast<std::uint64_t>(std::popcount(word));
}

void Filter::mark(const Given& given, const Ids& ids, std::uint64_t rows, bool allowed) {
    const auto set = [&](std::uint64_t row) {
        const std::uint64_t bit = std::uint64_t{1} << (row % 64);
        bits_[row / 64] = allowed ? bits_[row / 64] | bit : bits_[row / 64] & ~bit;
    };
    const auto set_all = [&](const auto& named) {
        for (const auto id : named) {
            if (const auto row = ids.row_of(id, rows)) set(*row);
        }
    };
    if (const auto* mask = std::get_if<1>(&given)) {
        if (mask->size() != rows) {
            throw std::invalid_argument("a row mask has " + std::to_string(mask->size()) + " elements for " +
                                        std::to_string(rows) + " rows");
        }
        for (std::uint64_t row = 0; row < rows; ++row) {
            if ((*mask)[row] != 0) set(row);
        }
    } else if (const auto* numbers = std::get_if<2>(&given)) {
        set_all(*numbers);
    } else if (const auto* labels = std::get_if<3>(&given)) {
        set_all(*labels);
    }
}

}  // namespace constann
