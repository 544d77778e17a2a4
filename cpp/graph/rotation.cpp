// See rotation.hpp.
#include "graph/rotation.hpp"

#include <bit>
#include <cmath>
#include <cstring>

#include "core/random.hpp"
#include "kernels/floating_point.hpp"

namespace constann {
namespace {

constexpr std::uint64_t kStream = 0x726f74617465;  // of random choices: no other part uses it

void transform(std::span<float> values) {
    for (std::size_t half = 1; half < values.size(); half *= 2) {
        for (std::size_t first = 0; first < values.size(); first += 2 * half) {
            for (std::size_t i = first; i < first + half; ++i) {
                const float a = values[i], b = values[i + half];
                values[i] = a + b;
                values[i + half] = a - b;
            }
        }
    }
}

}  // namespace

Rotation::Rotation(std::uint32_t dim, std::uint64_t seed)
    : dim_(dim), block_(std::bit_floor(dim)), signs_(2 * std::size_t{block_}) {
    // Opening a file comes here too, in whatever mode the caller's thread is.
    kernels::with_canonical_floating_point(
        [&] { scale_ = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block_))); });
    Random random(seed, kStream);
    for (float& sign : signs_) sign = random.below(2) != 0 ? 1.0f : -1.0f;
}

void Rotation::turn(const std::byte* row, std::span<float> out) const {
    std::memcpy(out.data(), row, out.size_bytes());
    for (std::size_t part = 0; part < 2; ++part) {
        const auto block = out.subspan(part * (dim_ - block_), block_);
        for (std::size_t i = 0; i < block.size(); ++i) block[i] *= signs_[part * block_ + i];
        transform(block);
        for (float& value : block) value *= scale_;
    }
}

}  // namespace constann
