// The canonical kernels behind C functions, so that a benchmark calls them and their peer in the same way.
#include <cstddef>
#include <exception>

#include "kernels/dispatch.hpp"
#include "kernels/floating_point.hpp"

// The set of that name, or null where this CPU cannot run it. Asking takes long (CPUID): ask once.
extern "C" const void* find_kernels(const char* set) {
    try {
        return &constann::kernels::named(set);
    } catch (const std::exception&) {
        return nullptr;
    }
}

extern "C" void canonical(const void* kernels, int product, const float* query, const float* const* rows,
                          std::size_t count, std::size_t floats, float* results) {
    const auto* table = static_cast<const constann::kernels::KernelTable*>(kernels);
    const auto kernel = product ? table->inner_product.many : table->squared_euclidean.many;
    constann::kernels::with_canonical_floating_point([&] {
        kernel(reinterpret_cast<const std::byte*>(query), reinterpret_cast<const std::byte* const*>(rows),
               count, floats * sizeof(float), results);
    });
}
