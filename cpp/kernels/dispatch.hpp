// The kernel sets compiled into this library, which of them this CPU can run, and the one in use.
// An unknown or unsupported name is an error: nothing here falls back.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "kernels/kernel_table.hpp"

namespace constann::kernels {

struct Implementation {
    const KernelTable* table;
    const char* description;
    const char* requires_features;  // of cpu_features(): all that its flags let the compiler use
};

// All that were compiled in, from the plainest to the fastest.
std::span<const Implementation> implementations() noexcept;

// The first required feature that this CPU lacks, or an empty text.
std::string missing_feature(const Implementation& implementation);

bool supported(const Implementation& implementation);

// The set in use: the fastest this CPU can run, unless use() chose another.
const KernelTable& active();

// Forces the set of that name for the whole process from the next call on.
// Throws std::invalid_argument where it is unknown or this CPU cannot run it.
void use(std::string_view name);

// Back to the fastest set this CPU can run.
void use_fastest() noexcept;

// The set of that name; throws as use() does.
const KernelTable& named(std::string_view name);

}  // namespace constann::kernels
