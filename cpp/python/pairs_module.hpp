// The binding of cpp/pairs, for constann.PairMap; see pairs_module.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace constann::python {

void bind_pairs(pybind11::module_& module);

}  // namespace constann::python
