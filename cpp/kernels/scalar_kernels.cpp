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

// A term of floats or of codes; for codes, what the sum answers and what a code of 4 bits counts as.
struct Product {
    template <class T>
    static T of(T query, T row) {
        return query * row;
    }
    static std::uint32_t answer(int sum) { return kCodeProductBase - static_cast<std::uint32_t>(sum); }
    static int half(int code) { return code; }
};
struct Square {
    template <class T>
    static T of(T query, T row) {
        const T difference = query - row;
        return difference * difference;
    }
    static std::uint32_t answer(int sum) { return static_cast<std::uint32_t>(sum); }
    static int half(int code) { return 8 * code + 4; }
};
struct Absolute {
    static float of(float query, float row) { return __builtin_fabsf(query - row); }
    static int of(int query, int row) { return query < row ? row - query : query - row; }
    static std::uint32_t answer(int sum) { return static_cast<std::uint32_t>(sum); }
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

template <class Term>
void many_codes(const std::byte* query, const std::byte* const* rows, std::size_t count, std::size_t bytes,
                std::uint32_t* results) noexcept {
    for (std::size_t row = 0; row < count; ++row) {
        int sum = 0;
        for (std::size_t i = 0; i < bytes; ++i) sum += Term::of(code_at(query, i), row_code_at(rows[row], i));
        results[row] = Term::answer(sum);
    }
}

template <class Term>
void many_half_codes(const std::byte* query, const std::byte* const* rows, std::size_t count,
                     std::size_t bytes, std::uint32_t* results) noexcept {
    for (std::size_t row = 0; row < count; ++row) {
        int sum = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
            const auto both = static_cast<int>(rows[row][i]);
            sum += Term::of(code_at(query, i), Term::half(both & 15));
            sum += Term::of(code_at(query, bytes + i), Term::half(both >> 4));
        }
        results[row] = Term::answer(sum);
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
    many_codes<Product>,
    many_codes<Square>,
    many_codes<Absolute>,
    many_half_codes<Product>,
    many_half_codes<Square>,
};

}  // namespace constann::kernels::scalar
