// Runs code under the canonical floating-point environment: rounding to nearest, denormals kept, exceptions
// masked, whatever another library set in this process or thread; the caller's setting is put back after.
#pragma once

#include <memory>
#include <type_traits>

namespace constann::kernels {

namespace detail {
void run_canonically(void (*task)(void*), void* argument);
}

// Calls `task()`; an exception passes through. The call goes by pointer through another translation unit, so
// that no compiler can move arithmetic out of the guarded part.
template <class Task>
void with_canonical_floating_point(Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    detail::run_canonically([](void* argument) { (*static_cast<Plain*>(argument))(); },
                            const_cast<void*>(static_cast<const void*>(std::addressof(task))));
}

}  // namespace constann::kernels
