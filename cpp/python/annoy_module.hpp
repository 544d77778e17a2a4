// The bindings of cpp/annoy, for constann.annoy; see annoy_module.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace constann::python {

void bind_annoy(pybind11::module_& module);

}  // namespace constann::python
