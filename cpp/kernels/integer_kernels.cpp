// Sums of small integers and counts of bits: exact in any order, so each kernel set takes the instructions
// that suit it. Compiled once for each set, as vector_kernels.cpp is, and under the same rules: internal
// linkage save what that file's table names, no weak symbol, no standard header that instantiates functions.
#include "kernels/kernel_table.hpp"

#if defined(__SSE2__)
#if defined(__GNUC__) && !defined(__clang__)  // gcc 12 takes its own undefined vectors for a mistake
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#else
#error "docs/adding-a-kernel.md says what an architecture needs here"
#endif

#if !defined(CONSTANN_KERNEL_SET)
#error "CMakeLists.txt names the kernel set"
#endif

#define CONSTANN_INLINE [[gnu::always_inline]] inline

namespace constann::kernels::CONSTANN_KERNEL_SET {
namespace {

constexpr std::size_t kRows = 4;  // scored at once: their sums stay in registers
constexpr std::size_t kCacheLine = 64;

#if defined(__SSE2__)
CONSTANN_INLINE std::uint32_t total_of_four(__m128i sums) {
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(sums));
}
#endif

// Each instruction set says: its vector of bytes; how to load one (and, where it is wider than
// kCodeGroup, that many bytes and zeros); how terms of a query and a row are added to running sums; and the
// total of these.
#if defined(__AVX512BW__)

using Bytes = __m512i;
using Sums = __m512i;
CONSTANN_INLINE Bytes load(const std::byte* from) {
    return _mm512_loadu_si512(from);
}
CONSTANN_INLINE Bytes load_group(const std::byte* from) {
    return _mm512_maskz_loadu_epi8(0xffffffffu, from);
}
// What is not loaded of a query is 4, which is as good as nothing to every term with a row's zeros.
CONSTANN_INLINE Bytes load_query_group(const std::byte* from) {
    return _mm512_mask_loadu_epi8(_mm512_set1_epi8(4), 0xffffffffu, from);
}
CONSTANN_INLINE Bytes filled(char byte) {
    return _mm512_set1_epi8(byte);
}
CONSTANN_INLINE Sums add_products(Sums sums, Bytes query, Bytes row) {
#if defined(__AVX512VNNI__)
    return _mm512_dpbusd_epi32(sums, row, query);
#else
    const __m512i pairs = _mm512_maddubs_epi16(row, query);
    return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
CONSTANN_INLINE Sums add_squares(Sums sums, Bytes query, Bytes row) {
    const __m512i difference = _mm512_or_si512(_mm512_subs_epu8(query, row), _mm512_subs_epu8(row, query));
    return add_products(sums, difference, difference);
}
CONSTANN_INLINE Sums add_differences(Sums sums, Bytes query, Bytes row) {
    return _mm512_add_epi32(sums, _mm512_sad_epu8(query, row));
}
CONSTANN_INLINE Sums add_bits(Sums sums, Bytes query, Bytes row) {
    const __m512i counts =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i differing = _mm512_xor_si512(query, row);
    const __m512i of_low = _mm512_shuffle_epi8(counts, _mm512_and_si512(differing, low));
    const __m512i of_high =
        _mm512_shuffle_epi8(counts, _mm512_and_si512(_mm512_srli_epi16(differing, 4), low));
    return _mm512_add_epi32(sums, _mm512_sad_epu8(_mm512_add_epi8(of_low, of_high), _mm512_setzero_si512()));
}
CONSTANN_INLINE std::uint32_t total(Sums sums) {
    const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
    return total_of_four(_mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1)));
}

#elif defined(__AVX2__)

using Bytes = __m256i;
using Sums = __m256i;
CONSTANN_INLINE Bytes load(const std::byte* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i_u*>(from));
}
CONSTANN_INLINE Bytes filled(char byte) {
    return _mm256_set1_epi8(byte);
}
CONSTANN_INLINE Sums add_products(Sums sums, Bytes query, Bytes row) {
    const __m256i pairs = _mm256_maddubs_epi16(row, query);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
CONSTANN_INLINE Sums add_squares(Sums sums, Bytes query, Bytes row) {
    const __m256i difference = _mm256_or_si256(_mm256_subs_epu8(query, row), _mm256_subs_epu8(row, query));
    return add_products(sums, difference, difference);
}
CONSTANN_INLINE Sums add_differences(Sums sums, Bytes query, Bytes row) {
    return _mm256_add_epi32(sums, _mm256_sad_epu8(query, row));
}
CONSTANN_INLINE Sums add_bits(Sums sums, Bytes query, Bytes row) {
    const __m256i counts =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i differing = _mm256_xor_si256(query, row);
    const __m256i of_low = _mm256_shuffle_epi8(counts, _mm256_and_si256(differing, low));
    const __m256i of_high =
        _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(differing, 4), low));
    return _mm256_add_epi32(sums, _mm256_sad_epu8(_mm256_add_epi8(of_low, of_high), _mm256_setzero_si256()));
}
CONSTANN_INLINE std::uint32_t total(Sums sums) {
    return total_of_four(_mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
}

#elif defined(__SSE2__)

using Bytes = __m128i;
using Sums = __m128i;
CONSTANN_INLINE Bytes load(const std::byte* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i_u*>(from));
}
CONSTANN_INLINE Bytes filled(char byte) {
    return _mm_set1_epi8(byte);
}
CONSTANN_INLINE Sums add_products(Sums sums, Bytes query, Bytes row) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i signs = _mm_cmpgt_epi8(zero, query);
    const __m128i low = _mm_madd_epi16(_mm_unpacklo_epi8(query, signs), _mm_unpacklo_epi8(row, zero));
    const __m128i high = _mm_madd_epi16(_mm_unpackhi_epi8(query, signs), _mm_unpackhi_epi8(row, zero));
    return _mm_add_epi32(sums, _mm_add_epi32(low, high));
}
CONSTANN_INLINE Sums add_squares(Sums sums, Bytes query, Bytes row) {
    const __m128i difference = _mm_or_si128(_mm_subs_epu8(query, row), _mm_subs_epu8(row, query));
    const __m128i low = _mm_unpacklo_epi8(difference, _mm_setzero_si128());
    const __m128i high = _mm_unpackhi_epi8(difference, _mm_setzero_si128());
    return _mm_add_epi32(sums, _mm_add_epi32(_mm_madd_epi16(low, low), _mm_madd_epi16(high, high)));
}
CONSTANN_INLINE Sums add_differences(Sums sums, Bytes query, Bytes row) {
    return _mm_add_epi32(sums, _mm_sad_epu8(query, row));
}
CONSTANN_INLINE Sums add_bits(Sums sums, Bytes query, Bytes row) {
    const __m128i ones = _mm_set1_epi8(0x55), pairs = _mm_set1_epi8(0x33), nibbles = _mm_set1_epi8(0x0f);
    __m128i bits = _mm_xor_si128(query, row);
    bits = _mm_sub_epi8(bits, _mm_and_si128(_mm_srli_epi16(bits, 1), ones));
    bits = _mm_add_epi8(_mm_and_si128(bits, pairs), _mm_and_si128(_mm_srli_epi16(bits, 2), pairs));
    bits = _mm_and_si128(_mm_add_epi8(bits, _mm_srli_epi16(bits, 4)), nibbles);
    return _mm_add_epi32(sums, _mm_sad_epu8(bits, _mm_setzero_si128()));
}
CONSTANN_INLINE std::uint32_t total(Sums sums) {
    return total_of_four(sums);
}

#else  // NEON, alone or with the dot products of Armv8.2

using Bytes = uint8x16_t;
using Sums = uint32x4_t;
CONSTANN_INLINE Bytes load(const std::byte* from) {
    return vld1q_u8(reinterpret_cast<const std::uint8_t*>(from));
}
CONSTANN_INLINE Bytes filled(char byte) {
    return vdupq_n_u8(static_cast<std::uint8_t>(byte));
}
#if defined(__ARM_FEATURE_DOTPROD)
CONSTANN_INLINE Sums add_products(Sums sums, Bytes query, Bytes row) {
    const int8x16_t q = vreinterpretq_s8_u8(query), r = vreinterpretq_s8_u8(row);
    return vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(sums), q, r));
}
CONSTANN_INLINE Sums add_squares(Sums sums, Bytes query, Bytes row) {
    const uint8x16_t difference = vabdq_u8(query, row);
    return vdotq_u32(sums, difference, difference);
}
CONSTANN_INLINE Sums add_bytes(Sums sums, Bytes bytes) {
    return vdotq_u32(sums, bytes, vdupq_n_u8(1));
}
#else
CONSTANN_INLINE Sums add_products(Sums sums, Bytes query, Bytes row) {
    const int8x16_t q = vreinterpretq_s8_u8(query), r = vreinterpretq_s8_u8(row);
    const int16x8_t pairs =
        vmlal_s8(vmull_s8(vget_low_s8(q), vget_low_s8(r)), vget_high_s8(q), vget_high_s8(r));
    return vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(sums), pairs));
}
CONSTANN_INLINE Sums add_squares(Sums sums, Bytes query, Bytes row) {
    const uint8x16_t difference = vabdq_u8(query, row);
    const uint8x8_t low = vget_low_u8(difference), high = vget_high_u8(difference);
    return vpadalq_u16(sums, vmlal_u8(vmull_u8(low, low), high, high));
}
CONSTANN_INLINE Sums add_bytes(Sums sums, Bytes bytes) {
    return vpadalq_u16(sums, vpaddlq_u8(bytes));
}
#endif
CONSTANN_INLINE Sums add_differences(Sums sums, Bytes query, Bytes row) {
    return add_bytes(sums, vabdq_u8(query, row));
}
CONSTANN_INLINE Sums add_bits(Sums sums, Bytes query, Bytes row) {
    return add_bytes(sums, vcntq_u8(veorq_u8(query, row)));
}
CONSTANN_INLINE std::uint32_t total(Sums sums) {
    return vaddvq_u32(sums);
}

#endif

// A row's codes: seven bits of each byte, as the sets differ in what they make of more, which only a damaged
// or foreign file holds. Costs nothing: it loads and masks at once.
CONSTANN_INLINE Bytes codes_of(Bytes bytes) {
    Bytes bits;
    __builtin_memset(&bits, 0x7f, sizeof bits);
    return bytes & bits;
}

// How the terms of a row are added, and whether the greater sum is the nearer row.
template <Sums (*kAdd)(Sums, Bytes, Bytes), bool kGreaterIsNearer>
struct Term {
    CONSTANN_INLINE static Sums add(Sums sums, Bytes query, Bytes row) { return kAdd(sums, query, row); }
    CONSTANN_INLINE static std::uint32_t answer(std::uint32_t sum) {
        return kGreaterIsNearer ? kCodeProductBase - sum : sum;
    }
};
using Products = Term<add_products, true>;
using Squares = Term<add_squares, false>;
using Differences = Term<add_differences, false>;

template <class Term, std::size_t kCount>
CONSTANN_INLINE void write_answers(const Sums (&sums)[kCount], std::uint32_t* results) {
    for (std::size_t row = 0; row < kCount; ++row) results[row] = Term::answer(total(sums[row]));
#if defined(CONSTANN_PLANT_LAST_BIT)
    for (std::size_t row = 0; row < kCount; ++row) results[row] ^= 1u;
#endif
}

// Scores kCount rows of codes and, as it goes, fetches the rows that follow: `next` may be the same again.
template <class Term, std::size_t kCount>
CONSTANN_INLINE void score_codes(const std::byte* query, const std::byte* const* rows,
                                 const std::byte* const* next, std::size_t bytes, std::uint32_t* results) {
    Sums sums[kCount] = {};
    for (std::size_t at = 0; at < bytes; at += kCacheLine) {
        for (std::size_t row = 0; row < kCount; ++row) __builtin_prefetch(next[row] + at);
    }
    std::size_t at = 0;
    for (; at + sizeof(Bytes) <= bytes; at += sizeof(Bytes)) {
        const Bytes here = load(query + at);
        for (std::size_t row = 0; row < kCount; ++row)
            sums[row] = Term::add(sums[row], here, codes_of(load(rows[row] + at)));
    }
#if defined(__AVX512BW__)
    if (at < bytes) {
        const Bytes here = load_group(query + at);
        for (std::size_t row = 0; row < kCount; ++row) {
            sums[row] = Term::add(sums[row], here, codes_of(load_group(rows[row] + at)));
        }
    }
#endif
    write_answers<Term>(sums, results);
}

template <class Term>
CONSTANN_INLINE void score_all_codes(const std::byte* query, const std::byte* const* rows, std::size_t count,
                                     std::size_t bytes, std::uint32_t* results) {
    std::size_t done = 0;
    for (; done + kRows <= count; done += kRows) {
        const bool last = done + 2 * kRows > count;
        score_codes<Term, kRows>(query, rows + done, rows + (last ? done : done + kRows), bytes,
                                 results + done);
    }
    for (; done < count; ++done) score_codes<Term, 1>(query, rows + done, rows + done, bytes, results + done);
}

// Of codes of 4 bits: the two elements of each byte, as each term takes them.
struct HalfProducts {
    CONSTANN_INLINE static Sums add(Sums sums, Bytes low, Bytes high, Bytes row) {
        sums = add_products(sums, low, row & filled(15));
        return add_products(sums, high, (row >> 4) & filled(15));
    }
    CONSTANN_INLINE static std::uint32_t answer(std::uint32_t sum) { return kCodeProductBase - sum; }
};
struct HalfSquares {
    CONSTANN_INLINE static Sums add(Sums sums, Bytes low, Bytes high, Bytes row) {
        sums = add_squares(sums, low, ((row << 3) & filled(0x78)) | filled(4));
        return add_squares(sums, high, ((row >> 1) & filled(0x78)) | filled(4));
    }
    CONSTANN_INLINE static std::uint32_t answer(std::uint32_t sum) { return sum; }
};

template <class Term, std::size_t kCount>
CONSTANN_INLINE void score_half_codes(const std::byte* query, const std::byte* const* rows, std::size_t bytes,
                                      std::uint32_t* results) {
    Sums sums[kCount] = {};
    std::size_t at = 0;
    for (; at + sizeof(Bytes) <= bytes; at += sizeof(Bytes)) {
        const Bytes low = load(query + at), high = load(query + bytes + at);
        for (std::size_t row = 0; row < kCount; ++row)
            sums[row] = Term::add(sums[row], low, high, load(rows[row] + at));
    }
#if defined(__AVX512BW__)
    if (at < bytes) {
        const Bytes low = load_query_group(query + at), high = load_query_group(query + bytes + at);
        for (std::size_t row = 0; row < kCount; ++row)
            sums[row] = Term::add(sums[row], low, high, load_group(rows[row] + at));
    }
#endif
    write_answers<Term>(sums, results);
}

// Whoever calls it has fetched the rows.
template <class Term>
CONSTANN_INLINE void score_all_half_codes(const std::byte* query, const std::byte* const* rows,
                                          std::size_t count, std::size_t bytes, std::uint32_t* results) {
    std::size_t done = 0;
    for (; done + kRows <= count; done += kRows)
        score_half_codes<Term, kRows>(query, rows + done, bytes, results + done);
    for (; done < count; ++done) score_half_codes<Term, 1>(query, rows + done, bytes, results + done);
}

CONSTANN_INLINE std::uint32_t bits_in_word(const std::byte* query, const std::byte* row) {
    std::uint64_t a, b;
    __builtin_memcpy(&a, query, sizeof a);
    __builtin_memcpy(&b, row, sizeof b);
    std::uint64_t bits = a ^ b;
#if defined(__POPCNT__)
    return static_cast<std::uint32_t>(__builtin_popcountll(bits));
#else
    bits -= (bits >> 1) & 0x5555555555555555u;
    bits = (bits & 0x3333333333333333u) + ((bits >> 2) & 0x3333333333333333u);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return static_cast<std::uint32_t>((bits * 0x0101010101010101u) >> 56);
#endif
}

}  // namespace

float hamming_one(const std::byte* query, const std::byte* row, std::size_t bytes) noexcept {
    Sums sums = {};
    std::size_t at = 0;
    for (; at + sizeof(Bytes) <= bytes; at += sizeof(Bytes))
        sums = add_bits(sums, load(query + at), load(row + at));
    std::uint32_t bits = total(sums);
    for (; at < bytes; at += sizeof(std::uint64_t)) bits += bits_in_word(query + at, row + at);
#if defined(CONSTANN_PLANT_LAST_BIT)
    bits ^= 1u;
#endif
    return static_cast<float>(bits);
}

void hamming_many(const std::byte* query, const std::byte* const* rows, std::size_t count, std::size_t bytes,
                  float* results) noexcept {
    constexpr std::size_t kAhead = 8;
    for (std::size_t row = 0; row < count; ++row) {
        const std::byte* const ahead = rows[row + kAhead < count ? row + kAhead : row];
        for (std::size_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(ahead + at);
        results[row] = hamming_one(query, rows[row], bytes);
    }
}

void code_inner_product(const std::byte* query, const std::byte* const* rows, std::size_t count,
                        std::size_t bytes, std::uint32_t* results) noexcept {
    score_all_codes<Products>(query, rows, count, bytes, results);
}

void code_squared_euclidean(const std::byte* query, const std::byte* const* rows, std::size_t count,
                            std::size_t bytes, std::uint32_t* results) noexcept {
    score_all_codes<Squares>(query, rows, count, bytes, results);
}

void code_manhattan(const std::byte* query, const std::byte* const* rows, std::size_t count,
                    std::size_t bytes, std::uint32_t* results) noexcept {
    score_all_codes<Differences>(query, rows, count, bytes, results);
}

void half_code_inner_product(const std::byte* query, const std::byte* const* rows, std::size_t count,
                             std::size_t bytes, std::uint32_t* results) noexcept {
    score_all_half_codes<HalfProducts>(query, rows, count, bytes, results);
}

void half_code_squared_euclidean(const std::byte* query, const std::byte* const* rows, std::size_t count,
                                 std::size_t bytes, std::uint32_t* results) noexcept {
    score_all_half_codes<HalfSquares>(query, rows, count, bytes, results);
}

}  // namespace constann::kernels::CONSTANN_KERNEL_SET
