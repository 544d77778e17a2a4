// The binding of the map of pairs. `get`, `set`, `add`, `contains` and `items` are called by users as they
// stand here, with no Python frame between; python/constann/pairs.py opens and saves. Calls keep the GIL: a
// map may be used from several threads.
#include "python/pairs_module.hpp"

#include <pybind11/numpy.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/floating_point.hpp"
#include "pairs/pair_map.hpp"
#include "python/arrays.hpp"
#include "python/calls.hpp"
#include "python/finished_instances.hpp"
#include "python/sections.hpp"

namespace constann::python {
namespace {

using Integers = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;
using Doubles = py::array_t<double, py::array::c_style | py::array::forcecast>;

std::string element_name(std::uint64_t i) {
    return "element " + std::to_string(i);
}

// Elements are named by the line of a file where that begins with `line`.
NameOf names_from(const py::object& line) {
    if (line.is_none()) return element_name;
    const std::uint64_t first = unsigned_of(line, "line", 0);
    return [first](std::uint64_t i) { return "line " + std::to_string(first + i); };
}

std::string type_name(const py::array& array) {
    return py::str(py::object(array.dtype())).cast<std::string>();
}

py::array integer_array(const py::object& object, const char* what) {
    py::array array = array_of(object, what);
    const char kind = array.dtype().kind();
    if (array.size() > 0 && kind != 'i' && kind != 'u')
        throw py::type_error(std::string(what) + " must be integers, not " + type_name(array));
    return array;
}

[[noreturn]] void refuse_id(const py::handle& value, const char* what, const std::string& name) {
    throw py::value_error(name + ": " + what + " " + py::str(value).cast<std::string>() +
                          " is not 0 to 4294967295");
}

std::optional<NumberType> number_type(const py::dtype& type) {
    constexpr NumberType kSigned[] = {NumberType::int8, NumberType::int16, NumberType::int32,
                                      NumberType::int64};
    constexpr NumberType kUnsigned[] = {NumberType::uint8, NumberType::uint16, NumberType::uint32,
                                        NumberType::uint64};
    const auto bytes = static_cast<std::size_t>(type.itemsize());
    const auto which = static_cast<std::size_t>(std::countr_zero(bytes));
    if (type.byteorder() == '>' || !std::has_single_bit(bytes) || which > 3) return std::nullopt;
    if (type.kind() == 'i') return kSigned[which];
    if (type.kind() == 'u') return kUnsigned[which];
    if (type.kind() != 'f' || which < 2) return std::nullopt;
    return which == 2 ? NumberType::float32 : NumberType::float64;
}

// An array as it lies there, or where the core does not read such, a copy; kept alive.
class KeptColumn {
  public:
    // Of integers, or else of any numbers.
    KeptColumn(py::array array, bool integers) : owner_(std::move(array)), column_(nullptr, {}, 0, 0) {
        auto type = number_type(owner_.dtype());
        if (owner_.size() > 0 && !type) {
            owner_ = integers ? py::array(Integers(owner_)) : py::array(Doubles(owner_));
            type = integers ? NumberType::int64 : NumberType::float64;
        }
        if (owner_.ndim() > 1 && (owner_.flags() & py::array::c_style) == 0)
            owner_ = py::array::ensure(owner_, py::array::c_style);
        column_ = Column(owner_.data(), type.value_or(NumberType::int64),
                         owner_.ndim() == 1 ? owner_.strides(0) : owner_.itemsize(),
                         static_cast<std::uint64_t>(owner_.size()));
    }

    const Column& column() const { return column_; }

  private:
    py::array owner_;
    Column column_;
};

// Users or items, kept together with how the core sees them.
class PairIds {
  public:
    PairIds(const py::object& object, const char* what, const NameOf& name) {
        if (PyLong_CheckExact(object.ptr())) {
            int overflow = 0;
            one_ = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
            if (overflow != 0 || one_ < 0 || one_ > UINT32_MAX) refuse_id(object, what, name(0));
            return;
        }
        array_ = integer_array(object, (std::string(what) + "s").c_str());
        kept_.emplace(*array_, true);
        if (const auto bad = column().first_that_is_no_id())
            refuse_id(array_->attr("ravel")()[py::int_(*bad)], what, name(*bad));
    }

    Column column() const { return kept_ ? kept_->column() : Column(&one_, NumberType::int64, 0, 1); }
    std::uint32_t operator[](std::uint64_t i) const {
        return static_cast<std::uint32_t>(kept_ ? kept_->column().integer(i) : one_);
    }
    const std::optional<py::array>& array() const { return array_; }

  private:
    std::int64_t one_ = 0;
    std::optional<py::array> array_;  // as given
    std::optional<KeptColumn> kept_;
};

// Numbers for a map of a type, kept together with how the core sees them.
class PairNumbers {
  public:
    PairNumbers(const py::object& object, ValueType type, const char* what) {
        const bool integers = type != ValueType::float32;
        if (PyLong_CheckExact(object.ptr())) {
            int overflow = 0;
            one_ = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
            if (overflow != 0) one_ = INT64_MAX;  // which no type of integers holds
            if (overflow == 0 || integers) return;
        }
        if (PyFloat_CheckExact(object.ptr()) && !integers) {
            one_real_ = PyFloat_AS_DOUBLE(object.ptr());
            real_ = true;
            return;
        }
        array_ = integers ? integer_array(object, what) : array_of(object, what);
        const char kind = array_->dtype().kind();
        if (array_->size() > 0 && kind != 'f' && kind != 'i' && kind != 'u')
            throw py::type_error(std::string(what) + " must be numbers, not " + type_name(*array_));
        kernels::with_canonical_floating_point([&] { kept_.emplace(*array_, integers); });
    }

    Column column() const {
        if (kept_) return kept_->column();
        return real_ ? Column(&one_real_, NumberType::float64, 0, 1) : Column(&one_, NumberType::int64, 0, 1);
    }
    const std::optional<py::array>& array() const { return array_; }

  private:
    std::int64_t one_ = 0;
    double one_real_ = 0;
    bool real_ = false;
    std::optional<py::array> array_;  // as given
    std::optional<KeptColumn> kept_;
};

// The shape that all the arrays have, save those of one element; nothing where all are plain numbers.
class CommonShape {
  public:
    void add(const std::optional<py::array>& array, const char* what) {
        if (!array || array->ndim() == 0) return;
        const std::vector<py::ssize_t> shape(array->shape(), array->shape() + array->ndim());
        if (!shape_ || count() == 1) {
            shape_ = shape;
        } else if (array->size() != 1 && shape != *shape_) {
            throw py::value_error(std::string(what) + " have shape " +
                                  py::str(array->attr("shape")).cast<std::string>() +
                                  ", which is not that of the others: give as many of each, or one");
        }
    }
    bool scalar() const { return !shape_; }
    std::uint64_t count() const {
        std::uint64_t product = 1;
        if (shape_) {
            for (const py::ssize_t length : *shape_) product *= static_cast<std::uint64_t>(length);
        }
        return product;
    }
    const std::vector<py::ssize_t>& shape() const { return *shape_; }

  private:
    std::optional<std::vector<py::ssize_t>> shape_;
};

py::object as_python(ValueType type, ValueBits bits) {
    if (type == ValueType::float32) return py::float_(static_cast<double>(float_of(bits)));
    return py::int_(integer_of(type, bits));
}

py::array empty_values(ValueType type, std::vector<py::ssize_t> shape) {
    return py::array(py::dtype(name_of(type)), std::move(shape));
}

ValueBits default_bits(ValueType type, const py::object& object) {
    const PairNumbers given(object, type, "default");
    if (given.column().count() != 1) throw py::value_error("default must be one number");
    std::optional<ValueBits> bits;
    kernels::with_canonical_floating_point([&] { bits = updated(type, Update::set, 0, given.column(), 0); });
    if (!bits) {
        throw py::value_error("default " + py::repr(object).cast<std::string>() + " does not fit a map of " +
                              name_of(type));
    }
    return *bits;
}

py::object get(const PairMap& map, const py::object& users, const py::object& items,
               const py::object& fallback) {
    const NameOf name = element_name;
    const PairIds user_ids(users, "user", name), item_ids(items, "item", name);
    CommonShape common;
    common.add(user_ids.array(), "users");
    common.add(item_ids.array(), "items");
    const ValueBits missing = default_bits(map.type(), fallback);
    if (common.scalar()) return as_python(map.type(), map.find(user_ids[0], item_ids[0]).value_or(missing));
    py::array values = empty_values(map.type(), common.shape());
    auto* out = static_cast<std::byte*>(values.mutable_data());
    const std::size_t width = width_of(map.type());
    for (std::uint64_t i = 0; i < common.count(); ++i) {
        const ValueBits bits = map.find(user_ids[i], item_ids[i]).value_or(missing);
        std::memcpy(out + i * width, &bits, width);
    }
    return values;
}

py::object contains(const PairMap& map, const py::object& users, const py::object& items) {
    const NameOf name = element_name;
    const PairIds user_ids(users, "user", name), item_ids(items, "item", name);
    CommonShape common;
    common.add(user_ids.array(), "users");
    common.add(item_ids.array(), "items");
    if (common.scalar()) return py::bool_(map.find(user_ids[0], item_ids[0]).has_value());
    py::array_t<bool> known(common.shape());
    bool* out = known.mutable_data();
    for (std::uint64_t i = 0; i < common.count(); ++i)
        out[i] = map.find(user_ids[i], item_ids[i]).has_value();
    return known;
}

void update(PairMap& map, Update what, const py::object& users, const py::object& items,
            const py::object& numbers, const NameOf& name) {
    const char* const called = what == Update::set ? "values" : "amounts";
    const PairIds user_ids(users, "user", name), item_ids(items, "item", name);
    const PairNumbers given(numbers, map.type(), called);
    CommonShape common;
    common.add(user_ids.array(), "users");
    common.add(item_ids.array(), "items");
    common.add(given.array(), called);
    const PairUpdates updates{what, user_ids.column(), item_ids.column(), given.column(), common.count()};
    kernels::with_canonical_floating_point([&] { map.apply(updates, name); });
}

std::vector<Pair> pairs_of(const PairMap& map, const py::object& user, const char* what) {
    const PairIds wanted(user, "user", element_name);
    if (wanted.column().count() != 1)
        throw py::value_error(std::string(what) + " are given for one user at a time");
    return map.pairs_of(wanted[0]);
}

py::array_t<std::int64_t> items_of(const PairMap& map, const py::object& user) {
    const std::vector<Pair> pairs = pairs_of(map, user, "items");
    py::array_t<std::int64_t> items(static_cast<py::ssize_t>(pairs.size()));
    for (std::size_t i = 0; i < pairs.size(); ++i) items.mutable_data()[i] = pairs[i].item;
    return items;
}

py::array values_of(const PairMap& map, const py::object& user) {
    const std::vector<Pair> pairs = pairs_of(map, user, "values");
    py::array values = empty_values(map.type(), {static_cast<py::ssize_t>(pairs.size())});
    auto* out = static_cast<std::byte*>(values.mutable_data());
    const std::size_t width = width_of(map.type());
    for (std::size_t i = 0; i < pairs.size(); ++i) std::memcpy(out + i * width, &pairs[i].value, width);
    return values;
}

py::array_t<std::uint32_t> all_users(PairMap& map) {
    map.settle();
    const PairTable& table = map.table();
    py::array_t<std::uint32_t> users(static_cast<py::ssize_t>(table.users()));
    for (std::uint64_t i = 0; i < table.users(); ++i) users.mutable_data()[i] = table.user(i);
    return users;
}

// All pairs in order: users, items, values.
py::tuple all_pairs(PairMap& map) {
    map.settle();
    const PairTable& table = map.table();
    const auto count = static_cast<py::ssize_t>(table.pairs());
    py::array_t<std::uint32_t> users(count), items(count);
    py::array values = empty_values(map.type(), {count});
    std::fill_n(users.mutable_data(), count, 0u);
    for (std::uint64_t i = 0; i < table.users(); ++i) {
        const PairTable::Range range = table.range(i);
        std::fill(users.mutable_data() + range.begin, users.mutable_data() + range.end, table.user(i));
    }
    const PartBytes parts = table.parts();
    const auto copy = [&](Part part, void* to) {
        const auto bytes = parts[static_cast<std::size_t>(part)];
        if (!bytes.empty()) std::memcpy(to, bytes.data(), bytes.size());
    };
    copy(Part::items, items.mutable_data());
    copy(Part::values, values.mutable_data());
    return py::make_tuple(std::move(users), std::move(items), std::move(values));
}

// Keeps a map settled and unchanged, until it is let go.
class Held {
  public:
    explicit Held(const py::object& map) : map_(map), reading_(map.cast<PairMap&>().hold()) {}
    void let_go() { reading_.reset(); }

  private:
    py::object map_;
    std::optional<Reading> reading_;
};

constexpr const char* kGetDoc = R"(Look up values; what is not there is not inserted.

Parameters
----------
users, items : int or integer array
    0 to 4294967295. Arrays of the same shape, or one of them a single number.
default : number
    For pairs that the map does not have. It must fit the map's dtype.

Returns
-------
int, float or array
    One value for two plain numbers, otherwise an array of the map's dtype and the shape given.

Raises
------
ValueError
    A user, an item or the default is out of range, or the shapes differ.
TypeError
    Users or items are no integers.
FileFormatError
    The map was opened from a damaged file.
)";

constexpr const char* kContainsDoc = R"(Say which pairs the map has.

Parameters
----------
users, items : int or integer array
    As for `get`.

Returns
-------
bool or bool array
)";

constexpr const char* kSetDoc =
    R"(Give pairs their values, and insert those that are new: all of them, or none where one is bad.

Parameters
----------
users, items : int or integer array
    As for `get`. A pair may occur more than once: its last value holds.
values : number or array
    Of the same shape, or one for all. Integers for a map of integers; for float32 any numbers, rounded to float32
    (-0 becomes 0).

Raises
------
ValueError
    A number is out of range (the first such element is named), the shapes differ, or the map is being saved by
    another thread.
TypeError
    Users, items or values are of another kind.
)";

constexpr const char* kAddDoc =
    R"(Add to the values of pairs, and insert those that are new as if they had been 0.

All of them, or none where a sum does not fit. A pair that occurs more than once is added to each time, in the order
given; for float32 each sum is rounded before the next.

Parameters
----------
users, items : int or integer array
    As for `get`.
amounts : number or array
    As `values` of `set`.

Raises
------
ValueError, TypeError
    As `set`.
)";

constexpr const char* kItemsDoc =
    R"(Return the items of a user, as ids for `allowed` or `exclude` of a search.

Parameters
----------
user : int

Returns
-------
int64 array
    By rising item; empty where the map does not have the user.
)";

constexpr const char* kValuesDoc = R"(Return the values of a user's pairs, in the order of `items(user)`.

Parameters
----------
user : int

Returns
-------
array of the map's dtype
)";

ValueType type_of(const std::string& name) {
    if (const auto type = value_type_named(name)) return *type;
    throw py::value_error("there is no map of " + name +
                          ": use int8, uint8, int16, uint16, int32 or float32");
}

}  // namespace

void bind_pairs(py::module_& module) {
    py::class_<Held>(module, "HeldPairMap").def("let_go", &Held::let_go);
    py::class_<PairMap>(module, "PairMap")
        .def(py::init([](const py::str& dtype) { return std::make_unique<PairMap>(type_of(dtype)); }),
             py::arg("dtype"))
        .def(py::init([](const py::object& buffer) {
                 const auto bytes = std::make_shared<const Bytes>(buffer);
                 return std::make_unique<PairMap>(bytes->span(), bytes);
             }),
             py::arg("buffer"))
        .def("get", &get, py::arg("users"), py::arg("items"), py::arg("default") = 0, kGetDoc)
        .def("contains", &contains, py::arg("users"), py::arg("items"), kContainsDoc)
        .def(
            "set",
            [](PairMap& map, const py::object& users, const py::object& items, const py::object& values) {
                update(map, Update::set, users, items, values, element_name);
            },
            py::arg("users"), py::arg("items"), py::arg("values"), kSetDoc)
        .def(
            "add",
            [](PairMap& map, const py::object& users, const py::object& items, const py::object& amounts) {
                update(map, Update::add, users, items, amounts, element_name);
            },
            py::arg("users"), py::arg("items"), py::arg("amounts") = 1, kAddDoc)
        .def(
            "_load",
            [](PairMap& map, bool add, const py::object& users, const py::object& items,
               const py::object& numbers, const py::object& line) {
                update(map, add ? Update::add : Update::set, users, items, numbers, names_from(line));
            },
            py::arg("add"), py::arg("users"), py::arg("items"), py::arg("numbers"), py::arg("line"))
        .def("items", &items_of, py::arg("user"), kItemsDoc)
        .def("values", &values_of, py::arg("user"), kValuesDoc)
        .def("users", &all_users, "Return the users that have pairs, by rising number.")
        .def("pairs", &all_pairs, "Return all users, items and values, as three arrays, by (user, item).")
        .def("compact", &PairMap::settle,
             "Bring what was inserted lately into the table of all pairs, which takes the least memory.")
        .def("_hold", [](const py::object& self) { return std::make_unique<Held>(self); })
        .def("_contents", &contents<PairMap>)
        .def("_encode_header", &encode_header<PairMap>, py::arg("digests"))
        .def_property_readonly("_changes", &PairMap::changes)
        .def_property_readonly("_dtype", [](const PairMap& map) { return std::string(name_of(map.type())); })
        .def_property_readonly("nbytes", &PairMap::bytes,
                               "Bytes of the pairs, in memory or mapped, without what the allocator adds.")
        .def("__len__", &PairMap::size);
}

}  // namespace constann::python
