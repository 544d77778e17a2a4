// The canonical order of arithmetic, and the table of functions that every kernel set fills in.
// Kernel objects include this file: no inline function, no template and no vector type may enter it.
#pragma once

#include <cstddef>

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

// Rows are bytes because a mapped file promises no alignment. `floats` is the padded length: a multiple of
// kLanes. A result may be a NaN of any payload where infinities cancel; callers collapse it (core/metric).
using OneRow = float (*)(const std::byte* query, const std::byte* row, std::size_t floats) noexcept;
using ManyRows = void (*)(const std::byte* query, const std::byte* const* rows, std::size_t count,
                          std::size_t floats, float* results) noexcept;

struct KernelTable {
    const char* name;
    OneRow inner_product;
    OneRow squared_euclidean;
    ManyRows inner_product_many;
    ManyRows squared_euclidean_many;
};

}  // namespace constann::kernels
