// Asks the system for large pages behind memory that searches jump about in: fewer look-ups of addresses.
// A request and no more: nothing may rely on it, and it changes no answer.
#pragma once

#include <cstddef>

namespace constann {

// For the pages of `bytes` at `block`, where those are many.
void ask_for_large_pages(void* block, std::size_t bytes) noexcept;

}  // namespace constann
