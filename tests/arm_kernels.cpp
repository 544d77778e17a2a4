// For tests/unit/test_arm_kernels.py: compares the integer kernels of two sets on every byte that a row of a
// foreign file may hold, and on the largest sums. Leaves with the number of the kernel that differs, or 0.
// Links with no C library, so that it is built in a second.
#include "kernels/kernel_table.hpp"

namespace constann::kernels {

#define CONSTANN_DECLARE_SET(set)                                                                            \
    namespace set {                                                                                          \
    float hamming_one(const std::byte* query, const std::byte* row, std::size_t bytes) noexcept;             \
    void code_inner_product(const std::byte* query, const std::byte* const* rows, std::size_t count,         \
                            std::size_t bytes, std::uint32_t* results) noexcept;                             \
    void code_squared_euclidean(const std::byte* query, const std::byte* const* rows, std::size_t count,     \
                                std::size_t bytes, std::uint32_t* results) noexcept;                         \
    void code_manhattan(const std::byte* query, const std::byte* const* rows, std::size_t count,             \
                        std::size_t bytes, std::uint32_t* results) noexcept;                                 \
    void half_code_inner_product(const std::byte* query, const std::byte* const* rows, std::size_t count,    \
                                 std::size_t bytes, std::uint32_t* results) noexcept;                        \
    void half_code_squared_euclidean(const std::byte* query, const std::byte* const* rows,                   \
                                     std::size_t count, std::size_t bytes, std::uint32_t* results) noexcept; \
    }
CONSTANN_DECLARE_SET(neon)
CONSTANN_DECLARE_SET(neon_dotprod)

namespace {

struct Pair {
    ManyCodes plain, dotted;
    bool signed_query;
};

constexpr Pair kPairs[] = {
    {neon::code_inner_product, neon_dotprod::code_inner_product, true},
    {neon::code_squared_euclidean, neon_dotprod::code_squared_euclidean, false},
    {neon::code_manhattan, neon_dotprod::code_manhattan, false},
    {neon::half_code_inner_product, neon_dotprod::half_code_inner_product, true},
    {neon::half_code_squared_euclidean, neon_dotprod::half_code_squared_euclidean, false},
};
constexpr std::size_t kRows = 7;  // one group of four and three by themselves
constexpr std::size_t kLengths[] = {32, 64, 96, 160, 1536, 65'536};
constexpr std::size_t kLongest = 65'536;

std::byte query[2 * kLongest], stored[kRows][kLongest];
const std::byte* rows[kRows];
std::uint32_t state = 1;

unsigned draw() {
    state = state * 1664525u + 1013904223u;
    return state >> 24;
}

void fill_rows(std::size_t bytes) {
    for (std::size_t row = 0; row < kRows; ++row) {
        rows[row] = stored[row];
        for (std::size_t i = 0; i < bytes; ++i) stored[row][i] = static_cast<std::byte>(draw());
    }
    for (std::size_t i = 0; i < bytes; ++i) stored[0][i] = std::byte{255}, stored[1][i] = std::byte{0};
}

// The largest codes, the smallest, and any.
void fill_query(std::size_t bytes, int kind, bool signed_query) {
    const int smallest = signed_query ? -127 : 0;
    for (std::size_t i = 0; i < 2 * bytes; ++i) {
        const int any = smallest + static_cast<int>(draw()) % (128 - smallest);
        query[i] = static_cast<std::byte>(kind == 0 ? 127 : kind == 1 ? smallest : any);
    }
}

bool same_codes(const Pair& pair, std::size_t bytes) {
    for (int kind = 0; kind < 4; ++kind) {
        fill_query(bytes, kind, pair.signed_query);
        std::uint32_t plain[kRows], dotted[kRows];
        pair.plain(query, rows, kRows, bytes, plain);
        pair.dotted(query, rows, kRows, bytes, dotted);
        for (std::size_t row = 0; row < kRows; ++row) {
            if (plain[row] != dotted[row]) return false;
        }
    }
    return true;
}

long first_difference() {
    constexpr long kHamming = 6;
    for (const std::size_t bytes : kLengths) {
        fill_rows(bytes);
        for (long number = 0; number < kHamming - 1; ++number) {
            if (!same_codes(kPairs[number], bytes)) return number + 1;
        }
        for (const std::byte* row : rows) {
            const std::size_t odd = (bytes < 8192 ? bytes : 8192) - 8;
            if (neon::hamming_one(query, row, odd) != neon_dotprod::hamming_one(query, row, odd))
                return kHamming;
        }
    }
    return 0;
}

}  // namespace
}  // namespace constann::kernels

extern "C" [[noreturn]] void _start() {
    register long result __asm__("x0") = constann::kernels::first_difference();
    register long exit_group __asm__("x8") = 94;
    __asm__ volatile("svc #0" : : "r"(result), "r"(exit_group));
    __builtin_unreachable();
}
