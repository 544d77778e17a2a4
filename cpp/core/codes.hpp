// Rows as small integers, 0 to 127 (kernels/kernel_table.hpp): what a search compares first, exact on every
// CPU; forest and graph share them. One step and one offset for all elements, set by quantiles, as a few huge
// values must not ruin all others.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "core/metric.hpp"
#include "core/parallel.hpp"
#include "core/rows.hpp"

namespace constann {

// code = (value - low) * rate, rounded, held within 0..127.
struct CodeScale {
    float low;
    float rate;
};

// Length in bytes of a row of codes.
constexpr std::size_t code_stride(std::uint32_t dim) {
    return rounded_up(dim, kernels::kCodeGroup);
}

// Length in bytes of a row of codes of 4 bits, two in a byte.
constexpr std::size_t half_code_stride(std::uint32_t dim) {
    return code_stride((dim + 1) / 2);
}

// The codes of some rows: their own, or a mapped file's. None where codes do not serve.
struct CodedRows {
    CodeScale scale{};
    Bytes own;
    RowsView rows;
};

// None where codes cannot tell these rows apart. Depends on the rows alone.
CodedRows encode_rows(const RowsView& rows, std::uint32_t dim, unsigned threads, const Watch& watch);

// The upper 4 of the 7 bits of each code, two in a byte, as the kernels take them; `codes` are as many as
// elements.
void pack_half_codes(std::span<const std::byte> codes, std::span<std::byte> out);

// Codes of a query from -127 to 127, with a step of their own, which is returned: element = code * step,
// about.
double encode_signed(const std::byte* query, std::uint32_t dim, std::span<std::byte> out);

// For an inner product a query's codes are signed and have a step of their own: only the order counts.
void encode_query(Metric metric, const CodeScale& scale, const std::byte* query, std::uint32_t dim,
                  std::span<std::byte> out);

// The kernel that compares codes, or half codes, for this metric: not hamming, nor manhattan by half codes.
kernels::ManyCodes code_kernel(const kernels::KernelTable& kernels, Metric metric, bool half = false);

inline constexpr std::uint64_t kUsualK = 10;  // neighbours that codes are tried with

// How many candidates are compared exactly for k neighbours, where `rerank` are for the usual number.
inline std::uint64_t reranked_for(std::uint64_t rerank, std::uint64_t k) {
    return rerank + 2 * (std::max(k, kUsualK) - kUsualK);
}

// How many candidates codes must leave for the exact comparison: the least of `choices` by which at most one
// in `lost_at_most` true neighbours is lost, of which each had so many candidates before it as `ranks` says;
// 0 where none is enough.
std::uint64_t least_rerank(std::span<const std::uint64_t> ranks, std::initializer_list<std::uint64_t> choices,
                           std::uint64_t lost_at_most);

}  // namespace constann
