// See codes.hpp.
#include "core/codes.hpp"

#include <algorithm>
#include <optional>
#include <vector>

#include "core/ordered.hpp"
#include "file/little_endian.hpp"
#include "kernels/floating_point.hpp"

namespace constann {
namespace {

constexpr std::uint64_t kRowsPerTask = 4096;
constexpr float kGreatestCode = 127.0f;
constexpr std::uint64_t kSampledValues = 1 << 20;
constexpr std::uint64_t kClippedShare = 200;  // 1/200 of the values lie below `low`, as many above the top

std::optional<CodeScale> scale_of(const RowsView& rows, std::uint32_t dim) {
    if (rows.size() == 0) return std::nullopt;
    const std::uint64_t wanted = std::max<std::uint64_t>(kSampledValues / dim, 16);
    const std::uint64_t count = std::min(rows.size(), wanted);
    std::vector<std::uint32_t> values;  // as integers of the same order; + 0 makes a -0 +0
    values.reserve(count * dim);
    for (std::uint64_t i = 0; i < count; ++i) {
        const std::byte* row = rows[i * rows.size() / count];
        for (std::uint32_t at = 0; at < dim; ++at) {
            const float value = file::load<float>(row, at) + 0.0f;
            // A NaN, where a rotated row overflows, has another sign on another CPU: it counts as the lowest.
            values.push_back(value == value ? ordered_bits(value) : 0u);
        }
    }
    const auto low = values.begin() + static_cast<std::ptrdiff_t>(values.size() / kClippedShare);
    const auto high = values.end() - 1 - static_cast<std::ptrdiff_t>(values.size() / kClippedShare);
    std::nth_element(values.begin(), low, values.end());
    const float lowest = from_ordered_bits(*low);
    std::nth_element(values.begin(), high, values.end());
    const float range = from_ordered_bits(*high) - lowest;
    const float rate = kGreatestCode / range;
    if (!(range > 0.0f) || !finite(range) || !finite(rate) || !(rate > 0.0f)) return std::nullopt;
    return CodeScale{lowest, rate};
}

void encode_row(const CodeScale& scale, const std::byte* row, std::uint32_t dim, std::span<std::byte> out) {
    for (std::uint32_t i = 0; i < dim; ++i) {
        const float above = file::load<float>(row, i) - scale.low;
        const float code = above * scale.rate;
        const float held = code > 0.0f ? (code < kGreatestCode ? code : kGreatestCode) : 0.0f;
        out[i] = static_cast<std::byte>(static_cast<int>(held + 0.5f));
    }
    std::fill(out.begin() + dim, out.end(), std::byte{0});
}

}  // namespace

CodedRows encode_rows(const RowsView& rows, std::uint32_t dim, unsigned threads, const Watch& watch) {
    std::optional<CodeScale> scale;
    kernels::with_canonical_floating_point([&] { scale = scale_of(rows, dim); });
    if (!scale) return {};
    const std::size_t stride = code_stride(dim);
    Bytes codes(rows.size() * stride);
    run_each(rows.size(), kRowsPerTask, threads, watch, [&](std::uint64_t row) {
        encode_row(*scale, rows[row], dim, std::span(codes).subspan(row * stride, stride));
    });
    const RowsView view(codes, stride);
    return {*scale, std::move(codes), view};
}

void pack_half_codes(std::span<const std::byte> codes, std::span<std::byte> out) {
    for (std::size_t i = 0; i < out.size(); ++i) {
        const std::byte low = i < codes.size() ? codes[i] >> 3 : std::byte{0};
        const std::byte high = out.size() + i < codes.size() ? codes[out.size() + i] >> 3 : std::byte{0};
        out[i] = low | high << 4;
    }
}

double encode_signed(const std::byte* query, std::uint32_t dim, std::span<std::byte> out) {
    float largest = 0.0f;
    for (std::uint32_t i = 0; i < dim; ++i) {
        const float value = file::load<float>(query, i);
        largest = std::max(largest, value < 0.0f ? 0.0f - value : value);
    }
    const double rate = largest > 0.0f ? 127.0 / static_cast<double>(largest) : 0.0;
    for (std::uint32_t i = 0; i < dim; ++i) {
        const double code = static_cast<double>(file::load<float>(query, i)) * rate;
        const double rounded = code < 0.0 ? code - 0.5 : code + 0.5;
        // Written so that a NaN, where a rotated query overflows, is held too.
        const double held = rounded > -127.0 ? (rounded < 127.0 ? rounded : 127.0) : -127.0;
        out[i] = static_cast<std::byte>(static_cast<int>(held));
    }
    std::fill(out.begin() + dim, out.end(), std::byte{0});
    return static_cast<double>(largest) / 127.0;
}

void encode_query(Metric metric, const CodeScale& scale, const std::byte* query, std::uint32_t dim,
                  std::span<std::byte> out) {
    if (metric == Metric::euclidean || metric == Metric::manhattan) {
        encode_row(scale, query, dim, out);
    } else {
        encode_signed(query, dim, out);
    }
}

kernels::ManyCodes code_kernel(const kernels::KernelTable& kernels, Metric metric, bool half) {
    switch (metric) {
        case Metric::euclidean:
            return half ? kernels.half_code_squared_euclidean : kernels.code_squared_euclidean;
        case Metric::manhattan:
            return kernels.code_manhattan;
        default:
            return half ? kernels.half_code_inner_product : kernels.code_inner_product;
    }
}

std::uint64_t least_rerank(std::span<const std::uint64_t> ranks, std::initializer_list<std::uint64_t> choices,
                           std::uint64_t lost_at_most) {
    for (const std::uint64_t rerank : choices) {
        const auto lost = std::ranges::count_if(ranks, [&](std::uint64_t rank) { return rank >= rerank; });
        if (static_cast<std::uint64_t>(lost) * lost_at_most <= ranks.size()) return rerank;
    }
    return 0;
}

}  // namespace constann
