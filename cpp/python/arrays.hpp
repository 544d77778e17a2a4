// From Python's objects to the core's plain types: arrays as they lie in memory, and numbers with their
// ranges. Nothing is converted here: the core reads every accepted element type itself, under its
// floating-point guard.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>

#include "core/matrix.hpp"

namespace constann::python {

// An array kept alive together with how the core sees it.
struct Array {
    pybind11::array owner;
    Matrix matrix;
};

// `object` as an array: itself, or what numpy makes of it. Errors of the making pass through.
pybind11::array array_of(const pybind11::object& object, const char* what);

// `object` as rows; a single row may have one axis where `one_row_may_be_flat`. `what` names it in errors.
// Raises TypeError for an element type that is not accepted, ValueError for a wrong shape.
Array rows_of(const pybind11::object& object, const char* what, bool one_row_may_be_flat);

// A Python integer from `least` to `most`; raises TypeError or ValueError that names it.
std::uint64_t unsigned_of(const pybind11::object& object, const char* what, std::uint64_t least,
                          std::uint64_t most = UINT64_MAX);
std::optional<std::uint64_t> optional_unsigned_of(const pybind11::object& object, const char* what,
                                                  std::uint64_t least, std::uint64_t most = UINT64_MAX);

}  // namespace constann::python
