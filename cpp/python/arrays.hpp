// From Python's objects to the core's plain types: arrays as they lie in memory, and numbers with their
// ranges. Nothing is converted here: the core reads every accepted element type itself, under its
// floating-point guard.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "core/ids.hpp"
#include "core/matrix.hpp"
#include "core/metric.hpp"

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

// Raises TypeError where rows of this metric cannot have this element type: hamming takes packed uint8.
void check_element_type(Metric metric, const Matrix& matrix);

// Ids or a row mask as a caller gives them, kept alive together with how the core sees them: None, integers,
// strings, or booleans. Raises TypeError for anything else, ValueError for integers beyond int64.
class KeptIds {
  public:
    KeptIds(const pybind11::object& object, const char* what);

    GivenIds ids() const;  // raises TypeError for a mask
    Filter::Given filter() const;

  private:
    const char* what_;
    pybind11::object numbers_;  // an int64 array, or none
    pybind11::object mask_;     // a bool array, or none
    pybind11::object texts_;    // a list of str, or none
    Labels labels_;
};

// A Python integer from `least` to `most`; raises TypeError or ValueError that names it.
std::uint64_t unsigned_of(const pybind11::object& object, const char* what, std::uint64_t least,
                          std::uint64_t most = UINT64_MAX);
std::optional<std::uint64_t> optional_unsigned_of(const pybind11::object& object, const char* what,
                                                  std::uint64_t least, std::uint64_t most = UINT64_MAX);

}  // namespace constann::python
