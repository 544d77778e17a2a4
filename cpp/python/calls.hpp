// What every binding needs around a call: names and numbers from Python, the GIL, Ctrl-C, buffers that
// outlive it.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <span>
#include <string>
#include <thread>

#include "core/metric.hpp"
#include "core/parallel.hpp"
#include "kernels/floating_point.hpp"
#include "python/arrays.hpp"

namespace constann::python {

namespace py = pybind11;

inline Metric metric_of(const std::string& name) {
    if (const auto metric = metric_named(name)) return *metric;
    throw py::value_error("there is no metric '" + name +
                          "': use 'cosine', 'euclidean', 'manhattan', 'dot' or 'hamming'");
}

inline std::uint32_t dim_of(const py::object& dim) {
    return static_cast<std::uint32_t>(unsigned_of(dim, "dim", 1, kMaxDim));
}

// None means the CPUs this process may use, which the package knows (processors.py).
inline unsigned threads_of(const py::object& threads) {
    const std::uint64_t wanted =
        threads.is_none() ? unsigned_of(py::module_::import("constann.processors").attr("available")(),
                                        "available processors", 1)
                          : unsigned_of(threads, "threads", 1);
    return static_cast<unsigned>(std::min<std::uint64_t>(wanted, 4096));
}

// Thrown by a watch while the interpreter ends: nothing may touch Python from then on.
struct InterpreterEnds {};

inline bool interpreter_ends() {
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

// Looks for Ctrl-C, and tells `progress` (a callable or None) how far the work is. Under the guard, for what
// runs there (that callable, a signal's handler) must not leave the thread in another floating-point mode.
inline Watch watch_for(const py::object& progress) {
    return [callback = py::handle(progress)](std::uint64_t done, std::uint64_t total) {
        if (interpreter_ends()) throw InterpreterEnds();
        kernels::with_canonical_floating_point([&] {
            const py::gil_scoped_acquire gil;
            if (PyErr_CheckSignals() != 0) throw py::error_already_set();
            if (!callback.is_none()) callback(done, total);
        });
    };
}

// Runs `work` without the GIL. In a daemon thread that the interpreter has left behind, it never returns: to
// take the GIL then would end the whole process.
template <class Work>
void without_gil(Work&& work) {
    const py::gil_scoped_release release;
    try {
        work();
    } catch (const InterpreterEnds&) {
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
}

// A buffer's bytes, which must lie one after another; held until this is destroyed, on any thread.
class Bytes {
  public:
    explicit Bytes(const py::object& object, int flags = PyBUF_SIMPLE) {
        if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw py::error_already_set();
    }
    ~Bytes() {
        const py::gil_scoped_acquire gil;
        PyBuffer_Release(&view_);
    }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    std::span<const std::byte> span() const {
        return {static_cast<const std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
    }
    // Only where asked for with PyBUF_WRITABLE.
    std::span<std::byte> writable() {
        return {static_cast<std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
    }

  private:
    Py_buffer view_{};
};

}  // namespace constann::python
