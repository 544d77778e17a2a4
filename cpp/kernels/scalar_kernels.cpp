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

template <class Term>
float sum(const std::byte* query, const std::byte* row, std::size_t bytes) noexcept {
    float lane[kLanes] = {};
    for (std::size_t i = 0; i < bytes / sizeof(float); ++i) {
        const float term = Term::of(float_at(query, i), float_at(row, i));
        lane[i % kLanes] = lane[i % kLanes] + term;
    }
    return tree(lane);
}

struct Product {
    static float of(float query, float row) { return query * row; }
};
struct Square {
    static float of(float query, float row) {
        const float difference = query - row;
        return difference * difference;
    }
};
struct Absolute {
    static float of(float query, float row) { return __builtin_fabsf(query - row); }
};

float differing_bits(const std::byte* query, const std::byte* row, std::size_t bytes) noexcept {
    unsigned count = 0;
    for (std::size_t i = 0; i < bytes; ++i) {
        for (auto left = static_cast<unsigned>(query[i] ^ row[i]); left != 0; left &= left - 1) ++count;
    }
    return static_cast<float>(count);
}

template <float (*kOne)(const std::byte*, const std::byte*, std::size_t) noexcept>
void many(const std::byte* query, const std::byte* const* rows, std::size_t count, std::size_t bytes,
          float* results) noexcept {
    for (std::size_t i = 0; i < count; ++i) results[i] = kOne(query, rows[i], bytes);
}

int code_at(const std::byte* codes, std::size_t i) {
    return static_cast<signed char>(codes[i]);
}

// Seven bits, whatever a foreign file holds.
int row_code_at(const std::byte* codes, std::size_t i) {
    return static_cast<int>(codes[i]) & 127;
}

void code_inner_product(const std::byte* query, const std::byte* const* rows, std::size_t count,
                        std::size_t bytes, std::uint32_t* results) noexcept {
    for (std::size_t row = 0; row < count; ++row) {
        int product = 0;
        for (std::size_t i = 0; i < bytes; ++i) product += code_at(query, i) * row_code_at(rows[row], i);
        results[row] = kCodeProductBase - static_cast<std::uint32_t>(product);
    }
}

void code_squared_euclidean(const std::byte* query, const std::byte* const* rows, std::size_t count,
                            std::size_t bytes, std::uint32_t* results) noexcept {
    for (std::size_t row = 0; row < count; ++row) {
        int total = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
            const int difference = code_at(query, i) - row_code_at(rows[row], i);
            total += difference * difference;
        }
        results[row] = static_cast<std::uint32_t>(total);
    }
}

void code_manhattan(const std::byte* query, const std::byte* const* rows, std::size_t count,
                    std::size_t bytes, std::uint32_t* results) noexcept {
    for (std::size_t row = 0; row < count; ++row) {
        int total = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
            const int difference = code_at(query, i) - row_code_at(rows[row], i);
            total += difference < 0 ? -difference : difference;
        }
        results[row] = static_cast<std::uint32_t>(total);
    }
}

int low_half(std::byte codes) {
    return static_cast<int>(codes & std::byte{15});
}
int high_half(std::byte codes) {
    return static_cast<int>(codes >> 4);
}

void half_code_inner_product(const std::byte* query, const std::byte* const* rows, std::size_t count,
                             std::size_t bytes, std::uint32_t* results) noexcept {
    for (std::size_t row = 0; row < count; ++row) {
        int product = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
            product += code_at(query, i) * low_half(rows[row][i]);
            product += code_at(query, bytes + i) * high_half(rows[row][i]);
        }
        results[row] = kCodeProductBase - static_cast<std::uint32_t>(product);
    }
}

void half_code_squared_euclidean(const std::byte* query, const std::byte* const* rows, std::size_t count,
                                 std::size_t bytes, std::uint32_t* results) noexcept {
    for (std::size_t row = 0; row < count; ++row) {
        int total = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
            const int low = code_at(query, i) - (8 * low_half(rows[row][i]) + 4);
            const int high = code_at(query, bytes + i) - (8 * high_half(rows[row][i]) + 4);
            total += low * low + high * high;
        }
        results[row] = static_cast<std::uint32_t>(total);
    }
}

}  // namespace

extern const KernelTable table;
const KernelTable table = {
    "scalar",
    {sum<Product>, many<sum<Product>>},
    {sum<Square>, many<sum<Square>>},
    {sum<Absolute>, many<sum<Absolute>>},
    {differing_bits, many<differing_bits>},
    code_inner_product,
    code_squared_euclidean,
    code_manhattan,
    half_code_inner_product,
    half_code_squared_euclidean,
};

}  // namespace constann::kernels::scalar
