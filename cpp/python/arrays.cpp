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

void check_element_type(Metric metric, const Matrix& matrix) {
    if (metric == Metric::hamming && matrix.type != ElementType::uint8) {
        throw py::type_error("hamming takes packed rows of uint8, as numpy.packbits makes them");
    }
}

namespace {

// The texts as UTF-8, which live in their str objects.
Labels labels_in(const py::list& texts, const char* what) {
    Labels labels;
    labels.reserve(texts.size());
    for (const py::handle text : texts) {
        if (!PyUnicode_Check(text.ptr())) {
            throw py::type_error(std::string(what) + " must be all integers or all strings");
        }
        py::ssize_t length = 0;
        const char* utf8 = PyUnicode_AsUTF8AndSize(text.ptr(), &length);
        if (utf8 == nullptr) {
            PyErr_Clear();
            throw py::value_error(std::string(what) + " hold a string that UTF-8 cannot express: " +
                                  py::repr(text).cast<std::string>());
        }
        labels.emplace_back(utf8, static_cast<std::size_t>(length));
    }
    return labels;
}

bool is_list_of_texts(const py::object& object) {
    if (!py::isinstance<py::list>(object) && !py::isinstance<py::tuple>(object)) return false;
    const auto all = py::reinterpret_borrow<py::sequence>(object);
    return all.size() > 0 && PyUnicode_Check(py::object(all[0]).ptr()) != 0;
}

bool one_dimensional(const py::array& array) {
    return array.ndim() == 1;
}

}  // namespace

KeptIds::KeptIds(const py::object& object, const char* what) : what_(what) {
    if (object.is_none()) return;
    if (py::isinstance<py::str>(object) || py::isinstance<py::bytes>(object)) {
        throw py::type_error(std::string(what) + " must be a sequence, not one string");
    }
    if (is_list_of_texts(object)) {  // which numpy would cut at trailing zeros
        texts_ = py::list(object);
        labels_ = labels_in(py::reinterpret_borrow<py::list>(texts_), what);
        return;
    }
    const py::array array = array_of(object, what);
    if (!one_dimensional(array)) throw py::value_error(std::string(what) + " must have shape (n,)");
    const char kind = array.dtype().kind();
    if (kind == 'b') {
        mask_ = py::array_t<bool, py::array::c_style | py::array::forcecast>(array);
    } else if (kind == 'i' || kind == 'u') {
        if (kind == 'u' && array.itemsize() == 8 && array.size() > 0) {
            const auto wide = py::array_t<std::uint64_t, py::array::c_style | py::array::forcecast>(array);
            for (py::ssize_t i = 0; i < wide.size(); ++i) {
                if (wide.data()[i] > INT64_MAX) {
                    throw py::value_error(std::string(what) + ": " + std::to_string(wide.data()[i]) +
                                          " is beyond int64");
                }
            }
        }
        numbers_ = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>(array);
    } else if (array.size() == 0) {
        numbers_ = py::array_t<std::int64_t>(0);
    } else if (kind == 'U' || kind == 'O' || kind == 'T') {
        texts_ = array.attr("tolist")();
        labels_ = labels_in(py::reinterpret_borrow<py::list>(texts_), what);
    } else {
        throw py::type_error(std::string(what) + " must be integers or strings, not " +
                             py::str(array.dtype()).cast<std::string>());
    }
}

GivenIds KeptIds::ids() const {
    if (mask_) throw py::type_error(std::string(what_) + " must be integers or strings, not bool");
    if (texts_) return labels_;
    if (!numbers_) return {};
    const auto numbers = py::reinterpret_borrow<py::array_t<std::int64_t>>(numbers_);
    return std::span<const std::int64_t>(numbers.data(), static_cast<std::size_t>(numbers.size()));
}

Filter::Given KeptIds::filter() const {
    if (mask_) {
        const auto mask = py::reinterpret_borrow<py::array_t<bool>>(mask_);
        return std::span<const std::uint8_t>(reinterpret_cast<const std::uint8_t*>(mask.data()),
                                             static_cast<std::size_t>(mask.size()));
    }
    const GivenIds given = ids();
    if (const auto* numbers = std::get_if<1>(&given)) return *numbers;
    if (const auto* labels = std::get_if<2>(&given)) return *labels;
    return {};
}

}  // namespace constann::python
