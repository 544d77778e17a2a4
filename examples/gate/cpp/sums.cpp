// One function for numpy arrays: the sum of products, added in the order of the elements.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

static float inner_product(const py::array_t<float, py::array::c_style | py::array::forcecast>& a,
                           const py::array_t<float, py::array::c_style | py::array::forcecast>& b) {
    if (a.size() != b.size()) throw py::value_error("two arrays of the same size are needed");
    float sum = 0;
    for (py::ssize_t i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
    return sum;
}

PYBIND11_MODULE(sums, module) {
    module.def("inner_product", &inner_product);
}
