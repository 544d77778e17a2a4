// The canonical arithmetic in the vector extensions of GCC and Clang, compiled once for each kernel set with
// that set's instruction flags (see CMakeLists.txt). All of it has internal linkage save the one table: a
// weak symbol here could hand this set's instructions to a caller on a CPU without them. So no standard
// header that instantiates functions, and no vector constant at namespace scope.
#include "kernels/kernel_table.hpp"

#if !defined(CONSTANN_KERNEL_SET) || !defined(CONSTANN_KERNEL_WIDTH) || !defined(CONSTANN_KERNEL_ROWS)
#error "CMakeLists.txt names the kernel set, its vector width in floats and how many rows it scores at once"
#endif

#if defined(__clang__)
#define CONSTANN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CONSTANN_UNROLL _Pragma("GCC unroll 16")
#endif
#define CONSTANN_INLINE [[gnu::always_inline]] inline
#define CONSTANN_TEXT_OF(name) #name
#define CONSTANN_TEXT(name) CONSTANN_TEXT_OF(name)

namespace constann::kernels::CONSTANN_KERNEL_SET {
namespace {

constexpr int kWidth = CONSTANN_KERNEL_WIDTH;
constexpr int kRows = CONSTANN_KERNEL_ROWS;
constexpr int kParts = static_cast<int>(kLanes) / kWidth;

// The native width of the set: a wider type would be split through the stack (gcc 12: 5-18 times slower).
using Vector = float __attribute__((vector_size(kWidth * sizeof(float))));
// A typedef, since Clang passes over `aligned` in an alias and then loads as from aligned memory.
typedef float Unaligned __attribute__((vector_size(kWidth * sizeof(float)), aligned(1), may_alias));
static_assert(alignof(Unaligned) == 1);

template <int... kValues>
struct Numbers {};
template <int kCount, int... kValues>
struct Counting : Counting<kCount - 1, kCount - 1, kValues...> {};
template <int... kValues>
struct Counting<0, kValues...> {
    using Type = Numbers<kValues...>;
};

struct InnerProduct {
    CONSTANN_INLINE static Vector term(Vector query, Vector row) { return query * row; }
};
struct SquaredEuclidean {
    CONSTANN_INLINE static Vector term(Vector query, Vector row) {
        const Vector difference = query - row;
        return difference * difference;
    }
};

struct Manhattan {
    CONSTANN_INLINE static Vector term(Vector query, Vector row) {
        using Bits = int __attribute__((vector_size(sizeof(Vector))));
        const Vector difference = query - row;
        return reinterpret_cast<Vector>(reinterpret_cast<Bits>(difference) & 0x7fffffff);
    }
};

CONSTANN_INLINE Vector load(const std::byte* address) {
    return *reinterpret_cast<const Unaligned*>(address);
}

// Where lane `lane` of a fold finds its lower half, in the concatenation of two vectors cut into blocks.
constexpr int lower_half(int block, int lane) {
    const int out_block = lane / (block / 2);
    return out_block * block + lane % (block / 2);
}

template <int kBlock, int... kLane>
CONSTANN_INLINE Vector fold(Vector a, Vector b, Numbers<kLane...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, lower_half(kBlock, kLane)...) +
           __builtin_shufflevector(a, b, (lower_half(kBlock, kLane) + kBlock / 2)...);
#else
    using Positions = int __attribute__((vector_size(kWidth * sizeof(int))));
    return __builtin_shuffle(a, b, Positions{lower_half(kBlock, kLane)...}) +
           __builtin_shuffle(a, b, Positions{(lower_half(kBlock, kLane) + kBlock / 2)...});
#endif
}

// Adds the halves of each block of kBlock lanes: first a's blocks, then b's, in half as many lanes each.
template <int kBlock>
CONSTANN_INLINE Vector fold(Vector a, Vector b) {
    return fold<kBlock>(a, b, typename Counting<kWidth>::Type{});
}

// The tree within a vector, of `kCount` rows at once: rows are folded in pairs, so that no lane is idle.
template <int kCount, int kBlock>
CONSTANN_INLINE Vector sum_lanes(const Vector* rows) {
    if constexpr (kBlock == 1) {
        return rows[0];
    } else if constexpr (kCount == 1) {
        const Vector folded = fold<kBlock>(rows[0], rows[0]);
        return sum_lanes<1, kBlock / 2>(&folded);
    } else {
        Vector folded[kCount / 2];
        CONSTANN_UNROLL
        for (int i = 0; i < kCount / 2; ++i) folded[i] = fold<kBlock>(rows[2 * i], rows[2 * i + 1]);
        return sum_lanes<kCount / 2, kBlock / 2>(folded);
    }
}

// Scores kCount rows and, as it goes, fetches the rows that follow: `next` may be the same rows again.
template <class Term, int kCount>
CONSTANN_INLINE void score(const std::byte* query, const std::byte* const* rows, const std::byte* const* next,
                           std::size_t bytes, float* results) {
    Vector lanes[kCount][kParts] = {};
    for (std::size_t at = 0; at < bytes; at += kLanes * sizeof(float)) {
        CONSTANN_UNROLL
        for (int row = 0; row < kCount; ++row) {
            if constexpr (kCount > 1) __builtin_prefetch(next[row] + at);
            CONSTANN_UNROLL
            for (int part = 0; part < kParts; ++part) {
                const std::size_t place = at + static_cast<std::size_t>(part) * sizeof(Vector);
                lanes[row][part] += Term::term(load(query + place), load(rows[row] + place));
            }
        }
    }
    Vector sums[kCount];
    CONSTANN_UNROLL
    for (int row = 0; row < kCount; ++row) {
        CONSTANN_UNROLL
        for (int half = kParts / 2; half > 0; half /= 2) {
            CONSTANN_UNROLL
            for (int part = 0; part < half; ++part) lanes[row][part] += lanes[row][part + half];
        }
        sums[row] = lanes[row][0];
    }
    const Vector totals = sum_lanes<kCount, kWidth>(sums);
    CONSTANN_UNROLL
    for (int row = 0; row < kCount; ++row) results[row] = totals[row];
#if defined(CONSTANN_PLANT_LAST_BIT)  // a negative control: the gate must find this set out
    for (int row = 0; row < kCount; ++row) {
        unsigned bits;
        __builtin_memcpy(&bits, &results[row], sizeof bits);
        bits ^= 1u;
        __builtin_memcpy(&results[row], &bits, sizeof bits);
    }
#endif
}

template <class Term>
float one_row(const std::byte* query, const std::byte* row, std::size_t bytes) noexcept {
    float result[1];
    score<Term, 1>(query, &row, &row, bytes, result);
    return result[0];
}

template <class Term>
void many_rows(const std::byte* query, const std::byte* const* rows, std::size_t count, std::size_t bytes,
               float* results) noexcept {
    std::size_t done = 0;
    for (; done + kRows <= count; done += kRows) {
        const bool last = done + 2 * kRows > count;
        score<Term, kRows>(query, rows + done, rows + (last ? done : done + kRows), bytes, results + done);
    }
    for (; done < count; ++done) results[done] = one_row<Term>(query, rows[done], bytes);
}

}  // namespace

// See integer_kernels.cpp, the other source of this set.
OneRowFunction hamming_one;
ManyRowsFunction hamming_many;
ManyCodesFunction code_inner_product, code_squared_euclidean, code_manhattan, half_code_inner_product,
    half_code_squared_euclidean;

extern const KernelTable table;
const KernelTable table = {
    CONSTANN_TEXT(CONSTANN_KERNEL_SET),
    {one_row<InnerProduct>, many_rows<InnerProduct>},
    {one_row<SquaredEuclidean>, many_rows<SquaredEuclidean>},
    {one_row<Manhattan>, many_rows<Manhattan>},
    {hamming_one, hamming_many},
    code_inner_product,
    code_squared_euclidean,
    code_manhattan,
    half_code_inner_product,
    half_code_squared_euclidean,
};

}  // namespace constann::kernels::CONSTANN_KERNEL_SET
