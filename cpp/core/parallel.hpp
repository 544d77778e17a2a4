// Runs numbered tasks on threads that start and end within the call. Which thread runs a task, and when, must
// never reach a result: tasks write to places of their own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace constann {

// Asks whether the caller wants to stop (Ctrl-C); called on the calling thread only, and may throw: the
// exception then ends the work. `done` of `total` tasks are finished.
using Watch = std::function<void(std::uint64_t done, std::uint64_t total)>;

// Passed to long tasks, which call check() now and then.
class StopSignal {
  public:
    struct Stopped {};  // thrown by check() in a worker after the watch threw on the calling thread
    void request() { requested_.store(true, std::memory_order_relaxed); }
    bool requested() const { return requested_.load(std::memory_order_relaxed); }
    void check() const {
        if (requested()) throw Stopped{};
    }

  private:
    std::atomic<bool> requested_{false};
};

using Task = std::function<void(std::uint64_t task, const StopSignal& stop)>;

// Runs tasks 0..count-1 on at most `threads` threads, each under the canonical floating-point environment.
// Where tasks throw, the exception of the smallest task that threw reaches the caller.
void run_tasks(std::uint64_t count, unsigned threads, const Watch& watch, const Task& task);

// Calls each(i) for 0..count-1, so many to a task, and heeds a wish to stop before each.
template <class Each>
void run_each(std::uint64_t count, std::uint64_t per_task, unsigned threads, const Watch& watch,
              const Each& each) {
    const auto run = [&](std::uint64_t task, const StopSignal& stop) {
        for (std::uint64_t i = task * per_task; i < std::min(count, (task + 1) * per_task); ++i) {
            stop.check();
            each(i);
        }
    };
    run_tasks((count + per_task - 1) / per_task, threads, watch, run);
}

// What a thread's tasks use again and again. Behind a pointer: where the address is a thread's own, gcc asks
// for it again and again in the loops.
template <class Scratch>
Scratch& scratch_of_this_thread() {
    thread_local const auto scratch = std::make_unique<Scratch>();
    return *scratch;
}

}  // namespace constann
