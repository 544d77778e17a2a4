// The peer of the canonical kernels: the same loop with the compiler free to reorder and fuse, for the same
// instruction set. Built with -O3 -ffast-math, for benchmarks alone; never linked into the library.
#include <cstddef>

#define FREE_ORDER_NAME(set) free_order_##set
#define FREE_ORDER_OF(set) FREE_ORDER_NAME(set)

extern "C" void FREE_ORDER_OF(CONSTANN_KERNEL_SET)(int product, const float* query, const float* const* rows,
                                                   std::size_t count, std::size_t floats, float* results) {
    for (std::size_t row = 0; row < count; ++row) {
        const float* values = rows[row];
        float sum = 0;
        if (product) {
            for (std::size_t i = 0; i < floats; ++i) sum += query[i] * values[i];
        } else {
            for (std::size_t i = 0; i < floats; ++i) sum += (query[i] - values[i]) * (query[i] - values[i]);
        }
        results[row] = sum;
    }
}
