// The canonical arithmetic in plain loops: what the lane order of kernel_table.hpp says, as directly as C++
// can say it. Written apart from the vector source so that the two check each other: share no code with it.
#include "kernels/kernel_table.hpp"

namespace constann::kernels::scalar {
namespace {

float float_at(const std::byte* values, std::size_t i) {
    float value;
    __builtin_memcpy(&value, values + i * sizeof(float), sizeof value);
    return value;
}

float tree(const float* lane) {
    float eight[8], four[4];
    for (int l = 0; l < 8; ++l) eight[l] = lane[l] + lane[l + 8];
    for (int l = 0; l < 4; ++l) four[l] = eight[l] + eight[l + 4];
    const float even = four[0] + four[2];
    const float odd = four[1] + four[3];
    return even + odd;
}

float inner_product(const std::byte* query, const std::byte* row, std::size_t floats) noexcept {
    float lane[kLanes] = {};
    for (std::size_t i = 0; i < floats; ++i) {
        const float product = float_at(query, i) * float_at(row, i);
        lane[i % kLanes] = lane[i % kLanes] + product;
    }
    return tree(lane);
}

float squared_euclidean(const std::byte* query, const std::byte* row, std::size_t floats) noexcept {
    float lane[kLanes] = {};
    for (std::size_t i = 0; i < floats; ++i) {
        const float difference = float_at(query, i) - float_at(row, i);
        const float square = difference * difference;
        lane[i % kLanes] = lane[i % kLanes] + square;
    }
    return tree(lane);
}

void inner_product_many(const std::byte* query, const std::byte* const* rows, std::size_t count,
                        std::size_t floats, float* results) noexcept {
    for (std::size_t i = 0; i < count; ++i) results[i] = inner_product(query, rows[i], floats);
}

void squared_euclidean_many(const std::byte* query, const std::byte* const* rows, std::size_t count,
                            std::size_t floats, float* results) noexcept {
    for (std::size_t i = 0; i < count; ++i) results[i] = squared_euclidean(query, rows[i], floats);
}

}  // namespace

extern const KernelTable table;
const KernelTable table = {
    "scalar", inner_product, squared_euclidean, inner_product_many, squared_euclidean_many,
};

}  // namespace constann::kernels::scalar
