// See parallel.hpp.
#include "core/parallel.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/floating_point.hpp"

namespace constann {
namespace {

constexpr auto kWatchInterval = std::chrono::milliseconds(50);

// The tasks of one call and what became of them.
class Work {
  public:
    Work(std::uint64_t count, const Task& task) : count_(count), first_failed_(count), task_(task) {}

    // Takes tasks in order until none is left. Tasks are taken in rising order, so when task i throws, every
    // smaller one has been taken and will finish: the smallest failure does not depend on timing.
    void run_until_empty() {
        for (;;) {
            const std::uint64_t i = next_.fetch_add(1);
            if (i >= first_failed_.load() || stop.requested()) break;
            run_one(i);
        }
    }

    void run_one(std::uint64_t i) {
        try {
            kernels::with_canonical_floating_point([&] { task_(i, stop); });
        } catch (const StopSignal::Stopped&) {
            return;
        } catch (...) {
            const std::lock_guard lock(mutex_);
            if (i < first_failed_.load()) {
                first_failed_.store(i);
                failure_ = std::current_exception();
            }
        }
        done.fetch_add(1);
    }

    void work() {
        run_until_empty();
        const std::lock_guard lock(mutex_);
        ++ended_;
        one_ended_.notify_one();
    }

    void start(std::vector<std::thread>& workers, unsigned count) {
        try {
            while (workers.size() < count) workers.emplace_back([this] { work(); });
        } catch (...) {
            // No more threads, or no memory for one: those that run do the work, or the caller does.
        }
    }

    // Waits for so many workers; where the watch throws, tells them to stop and keeps its exception.
    void wait(std::size_t workers, const Watch& watch) {
        std::unique_lock lock(mutex_);
        while (!one_ended_.wait_for(lock, kWatchInterval, [&] { return ended_ == workers; })) {
            if (!watch || stop.requested()) continue;
            lock.unlock();
            consult(watch);
            lock.lock();
        }
    }

    void consult(const Watch& watch) {
        try {
            watch(done.load(), count_);
        } catch (...) {
            interruption_ = std::current_exception();
            stop.request();
        }
    }

    void rethrow() const {
        if (interruption_) std::rethrow_exception(interruption_);
        if (failure_) std::rethrow_exception(failure_);
    }

    StopSignal stop;
    std::atomic<std::uint64_t> done{0};

  private:
    const std::uint64_t count_;
    std::atomic<std::uint64_t> next_{0};
    std::atomic<std::uint64_t> first_failed_;
    const Task& task_;
    std::mutex mutex_;
    std::condition_variable one_ended_;
    std::size_t ended_ = 0;  // workers
    std::exception_ptr failure_;
    std::exception_ptr interruption_;
};

}  // namespace

void run_tasks(std::uint64_t count, unsigned threads, const Watch& watch, const Task& task) {
    Work work(count, task);
    // With a watch, even one thread works beside the caller, who must stay free to look for Ctrl-C.
    const auto wanted = static_cast<unsigned>(std::min<std::uint64_t>(std::max(threads, 1u), count));
    std::vector<std::thread> workers;
    if (watch || wanted > 1) {
        work.start(workers, wanted);
        work.wait(workers.size(), watch);
        for (std::thread& worker : workers) worker.join();
    }
    if (workers.empty()) work.run_until_empty();
    if (watch && !work.stop.requested()) work.consult(watch);
    work.rethrow();
}

}  // namespace constann
