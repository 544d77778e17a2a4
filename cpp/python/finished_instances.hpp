// Refuses objects whose __init__ did not end well, such as those that a debugger shows in its frames:
// pybind11 would hand out raw memory for them. Include it before binding the classes named at the end.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "annoy/nodes.hpp"
#include "exact/exact.hpp"
#include "forest/forest.hpp"
#include "graph/graph.hpp"
#include "pairs/pair_map.hpp"

namespace constann::python {

template <typename Bound>
class FinishedInstance : public pybind11::detail::type_caster_base<Bound> {
  public:
    bool load(pybind11::handle source, bool convert) {
        if (!pybind11::detail::type_caster_base<Bound>::load(source, convert)) return false;
        if (source.is_none()) return true;
        pybind11::detail::values_and_holders parts(
            reinterpret_cast<pybind11::detail::instance*>(source.ptr()));
        for (const auto& part : parts)
            if (!part.holder_constructed() && !parts.is_redundant_value_and_holder(part))
                throw pybind11::type_error(std::string(Py_TYPE(source.ptr())->tp_name) +
                                           " was not initialised: its __init__ failed or was not called");
        return true;
    }
};

}  // namespace constann::python

namespace pybind11::detail {

template <>
class type_caster<constann::Index> : public constann::python::FinishedInstance<constann::Index> {};
template <>
class type_caster<constann::Exact> : public constann::python::FinishedInstance<constann::Exact> {};
template <>
class type_caster<constann::Forest> : public constann::python::FinishedInstance<constann::Forest> {};
template <>
class type_caster<constann::Graph> : public constann::python::FinishedInstance<constann::Graph> {};
template <>
class type_caster<constann::annoy::Nodes>
    : public constann::python::FinishedInstance<constann::annoy::Nodes> {};
template <>
class type_caster<constann::PairMap> : public constann::python::FinishedInstance<constann::PairMap> {};

}  // namespace pybind11::detail
