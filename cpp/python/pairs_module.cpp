// The binding of the map of pairs. `get`, `set`, `add`, `contains` and `items` are called by users as they
// stand here, with no Python frame between; python/constann/pairs.py opens and saves. Calls keep the GIL: a
// map may be used from several threads.
#include "python/pairs_module.hpp"

#include <pybind11/numpy.h>

#include <algorithm>
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

// Users or items, kept together with how the core sees them.
class PairIds {
  public:
    PairIds(const py::object& object, const char* what, const NameOf& name) {
        if (PyLong_CheckExact(object.ptr())) {
            int overflow = 0;
            const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
            if (overflow != 0 || value < 0 || value > UINT32_MAX) refuse_id(object, what, name(0));
            one_ = static_cast<std::uint32_t>(value);
            return;
        }
        array_ = integer_array(object, (std::string(what) + "s").c_str());
        const auto& array = *array_;
        if (array.dtype().kind() == 'u' && array.itemsize() == sizeof(std::uint32_t) &&
            (array.flags() & py::array::c_style) != 0 && array.dtype().byteorder() != '>') {
            return;
        }
        const Integers wide(array);
        narrow_.resize(static_cast<std::size_t>(wide.size()));
        for (std::size_t i = 0; i < narrow_.size(); ++i) {
            const std::int64_t value = wide.data()[i];
            if (value < 0 || value > UINT32_MAX) refuse_id(array.attr("ravel")()[py::int_(i)], what, name(i));
            narrow_[i] = static_cast<std::uint32_t>(value);
        }
    }

    std::span<const std::uint32_t> span() const {
        if (!array_) return {&one_, 1};
        if (!narrow_.empty() || array_->size() == 0) return narrow_;
        return {static_cast<const std::uint32_t*>(array_->data()), static_cast<std::size_t>(array_->size())};
    }
    const std::optional<py::array>& array() const { return array_; }

  private:
    std::uint32_t one_ = 0;
    std::optional<py::array> array_;
    std::vector<std::uint32_t> narrow_;
};

// Numbers for a map of a type, kept together with how the core sees them.
class PairNumbers {
  public:
    PairNumbers(const py::object& object, ValueType type, const char* what) : type_(type) {
        if (PyLong_CheckExact(object.ptr()) && type != ValueType::float32) {
            int overflow = 0;
            const long long value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
            integers_ = {overflow == 0 ? value : INT64_MAX};  // which no type holds
            return;
        }
        const py::array array =
            type == ValueType::float32 ? array_of(object, what) : integer_array(object, what);
        array_ = array;
        if (type == ValueType::float32) {
            read_floats(array, what);
        } else {
            read_integers(array);
        }
    }

    Numbers numbers() const {
        if (type_ == ValueType::float32) return std::span<const float>(floats_);
        return std::span<const std::int64_t>(integers_);
    }
    std::size_t size() const { return type_ == ValueType::float32 ? floats_.size() : integers_.size(); }
    const std::optional<py::array>& array() const { return array_; }

  private:
    void read_integers(const py::array& array) {
        const bool wide = array.dtype().kind() == 'u' && array.itemsize() == 8;
        const Integers values(array);
        integers_.assign(values.data(), values.data() + values.size());
        if (!wide) return;
        for (std::int64_t& value : integers_) {
            if (value < 0) value = INT64_MAX;  // beyond int64: no type holds it
        }
    }

    void read_floats(const py::array& array, const char* what) {
        const char kind = array.dtype().kind();
        if (array.size() > 0 && kind != 'f' && kind != 'i' && kind != 'u')
            throw py::type_error(std::string(what) + " must be numbers, not " + type_name(array));
        kernels::with_canonical_floating_point([&] {
            const Doubles values(array);
            floats_.resize(static_cast<std::size_t>(values.size()));
            for (std::size_t i = 0; i < floats_.size(); ++i)
                floats_[i] = static_cast<float>(values.data()[i]);
        });
    }

    ValueType type_;
    std::optional<py::array> array_;
    std::vector<std::int64_t> integers_;
    std::vector<float> floats_;
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
    if (given.size() != 1) throw py::value_error("default must be one number");
    std::optional<ValueBits> bits;
    kernels::with_canonical_floating_point([&] { bits = updated(type, Update::set, 0, given.numbers(), 0); });
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
    const auto given_users = user_ids.span(), given_items = item_ids.span();
    const ValueBits missing = default_bits(map.type(), fallback);
    if (common.scalar())
        return as_python(map.type(), map.find(given_users[0], given_items[0]).value_or(missing));
    py::array values = empty_values(map.type(), common.shape());
    auto* out = static_cast<std::byte*>(values.mutable_data());
    const std::size_t width = width_of(map.type());
    for (std::uint64_t i = 0; i < common.count(); ++i) {
        const auto found = map.find(given_users[given_users.size() == 1 ? 0 : i],
                                    given_items[given_items.size() == 1 ? 0 : i]);
        const ValueBits bits = found.value_or(missing);
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
    const auto given_users = user_ids.span(), given_items = item_ids.span();
    if (common.scalar()) return py::bool_(map.find(given_users[0], given_items[0]).has_value());
    py::array_t<bool> known(common.shape());
    bool* out = known.mutable_data();
    for (std::uint64_t i = 0; i < common.count(); ++i) {
        out[i] = map.find(given_users[given_users.size() == 1 ? 0 : i],
                          given_items[given_items.size() == 1 ? 0 : i])
                     .has_value();
    }
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
    const PairUpdates updates{what, user_ids.span(), item_ids.span(), given.numbers(), common.count()};
    kernels::with_canonical_floating_point([&] { map.apply(updates, name); });
}

py::array_t<std::int64_t> items_of(const PairMap& map, const py::object& user) {
    const PairIds wanted(user, "user", element_name);
    if (wanted.span().size() != 1) throw py::value_error("items are given for one user at a time");
    const std::vector<Pair> pairs = map.pairs_of(wanted.span()[0]);
    py::array_t<std::int64_t> items(static_cast<py::ssize_t>(pairs.size()));
    for (std::size_t i = 0; i < pairs.size(); ++i) items.mutable_data()[i] = pairs[i].item;
    return items;
}

py::array values_of(const PairMap& map, const py::object& user) {
    const PairIds wanted(user, "user", element_name);
    if (wanted.span().size() != 1) throw py::value_error("values are given for one user at a time");
    const std::vector<Pair> pairs = map.pairs_of(wanted.span()[0]);
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
