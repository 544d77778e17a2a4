// The canonical order of arithmetic, and the table of functions that every kernel set fills in.
// Kernel objects include this file: no inline function, no template and no vector type may enter it.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__FAST_MATH__)
#error "-ffast-math changes results: Constann is never built with it"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "float arithmetic must be rounded to float at each step: leave out -mfpmath=387"
#endif

namespace constann::kernels {

// THE LANE ORDER. A sum over a row runs in 16 lanes that start at +0. Lane `i % 16` adds term `i`, each
// term rounded after its multiplication and again after its addition. Then the lanes are added as a tree:
// lane l with l + 8, then l + 4, l + 2, l + 1. Rows and queries are zero-padded to a multiple of 16 floats;
// as a lane that started at +0 never becomes -0, adding the +0 of a padded term changes nothing.
inline constexpr std::size_t kLanes = 16;

// Rows are bytes because a mapped file promises no alignment. `bytes` is the length of a padded row: whole
// groups of lanes for floats, whole 64-bit words for bits, whole groups of kCodeGroup for codes. A result may
// be a NaN of any payload where infinities cancel; callers collapse it (core/metric).
using OneRowFunction = float(const std::byte* query, const std::byte* row, std::size_t bytes) noexcept;
using ManyRowsFunction = void(const std::byte* query, const std::byte* const* rows, std::size_t count,
                              std::size_t bytes, float* results) noexcept;
using OneRow = OneRowFunction*;
using ManyRows = ManyRowsFunction*;

struct Kernel {
    OneRow one;
    ManyRows many;
};

// CODES are rows of small integers, 0 to 127, one byte for each element: exact in any order of addition. The
// answer is an unsigned integer that is smaller the nearer a row is. For the inner product the query's
// elements are signed, -127 to 127, and the answer is kCodeProductBase less the product.
using ManyCodesFunction = void(const std::byte* query, const std::byte* const* rows, std::size_t count,
                               std::size_t bytes, std::uint32_t* results) noexcept;
using ManyCodes = ManyCodesFunction*;

// Codes of 4 bits lie two in a byte: byte i of a row holds element i below and element `bytes` + i above. The
// query is as long as twice that, with codes as above: for squared_euclidean 0 to 127, and a row's code c
// counts as 8 c + 4; for the inner product signed, and c counts as c.
inline constexpr std::size_t kCodeGroup = 32;
inline constexpr std::uint32_t kCodeProductBase = 0x80000000u;

struct KernelTable {
    const char* name;
    Kernel inner_product;
    Kernel squared_euclidean;
    Kernel manhattan;
    Kernel hamming;  // differing bits, exact: a row has at most 65,536
    ManyCodes code_inner_product;
    ManyCodes code_squared_euclidean;
    ManyCodes code_manhattan;
    ManyCodes half_code_inner_product;
    ManyCodes half_code_squared_euclidean;
};

}  // namespace constann::kernels
