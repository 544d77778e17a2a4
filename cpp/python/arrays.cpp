// See arrays.hpp.
#include "python/arrays.hpp"

#include <string>

#include "kernels/floating_point.hpp"

namespace py = pybind11;

namespace constann::python {
namespace {

ElementType element_type(const py::dtype& type, const char* what) {
    const char order = type.byteorder();
    if (order == '=' || order == '|' || order == '<') {
        switch (type.kind()) {
            case 'f':
                if (type.itemsize() == 2) return ElementType::float16;
                if (type.itemsize() == 4) return ElementType::float32;
                if (type.itemsize() == 8) return ElementType::float64;
                break;
            case 'i':
                if (type.itemsize() == 1) return ElementType::int8;
                if (type.itemsize() == 2) return ElementType::int16;
                break;
            case 'u':
                if (type.itemsize() == 1) return ElementType::uint8;
                if (type.itemsize() == 2) return ElementType::uint16;
                break;
            default:
                break;
        }
    }
    throw py::type_error(
        std::string(what) + " have dtype " + py::str(type).cast<std::string>() +
        "; accepted are float16, float32, float64, int8, uint8, int16 and uint16 in the machine's "
        "byte order: convert with .astype(\"float32\")");
}

std::string shape_of(const py::array& array) {
    return py::str(array.attr("shape")).cast<std::string>();
}

}  // namespace

py::array array_of(const py::object& object, const char* what) {
    if (Py_TYPE(object.ptr()) == py::detail::npy_api::get().PyArray_Type_)
        return py::reinterpret_borrow<py::array>(object);
    py::array array;
    // numpy may have to convert (a list, a table): its arithmetic obeys the process's settings, ours must
    // not.
    kernels::with_canonical_floating_point([&] { array = py::array(object); });
    if (py::hasattr(object, "mask")) {
        throw py::type_error(std::string(what) +
                             " are a masked array: fill the masked elements, or drop their rows");
    }
    return array;
}

Array rows_of(const py::object& object, const char* what, bool one_row_may_be_flat) {
    py::array array = array_of(object, what);
    const ElementType type = element_type(array.dtype(), what);
    const bool flat = array.ndim() == 1 && one_row_may_be_flat;
    if (array.ndim() != 2 && !flat) {
        throw py::value_error(std::string(what) + " must have shape (n, dim)" +
                              (one_row_may_be_flat ? " or (dim,)" : "") + ", not " + shape_of(array));
    }
    const int last = flat ? 0 : 1;
    Matrix matrix{static_cast<const std::byte*>(array.data()),
                  type,
                  flat ? 1u : static_cast<std::uint64_t>(array.shape(0)),
                  static_cast<std::uint64_t>(array.shape(last)),
                  flat ? 0 : array.strides(0),
                  array.strides(last)};
    return {std::move(array), matrix};
}

std::uint64_t unsigned_of(const py::object& object, const char* what, std::uint64_t least,
                          std::uint64_t most) {
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
    if (!number) {
        PyErr_Clear();
        throw py::type_error(std::string(what) + " must be an integer, not " +
                             py::str(py::type::handle_of(object).attr("__name__")).cast<std::string>());
    }
    const std::uint64_t value = PyLong_AsUnsignedLongLong(number.ptr());
    const bool outside = PyErr_Occurred() != nullptr;
    if (outside) PyErr_Clear();
    if (outside || value < least || value > most) {
        const std::string bound = most == UINT64_MAX ? "2^64 - 1" : std::to_string(most);
        throw py::value_error(std::string(what) + " must be " + std::to_string(least) + " to " + bound +
                              ", not " + py::str(number).cast<std::string>());
    }
    return value;
}

std::optional<std::uint64_t> optional_unsigned_of(const py::object& object, const char* what,
                                                  std::uint64_t least, std::uint64_t most) {
    if (object.is_none()) return std::nullopt;
    return unsigned_of(object, what, least, most);
}

}  // namespace constann::python
