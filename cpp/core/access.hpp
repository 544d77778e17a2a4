// Who may touch an index, or a map of pairs, at a moment: one call that changes it, or any number that read
// it. Nobody waits, as a progress callback that waited for its own build would wait for ever: who comes at
// the wrong time is told.
#pragma once

#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>

namespace constann {

class Access {
  public:
    // `what` stands in errors.
    explicit Access(const char* what = "the index") : what_(what) {}

    // Throws std::invalid_argument, as lock_shared() does.
    void lock() {
        int nobody = 0;
        if (holders_.compare_exchange_strong(nobody, kChange)) return;
        refuse(nobody == kChange ? "changed" : "read");
    }
    void unlock() { holders_.store(0); }
    void lock_shared() const {
        int holders = holders_.load();
        do {
            if (holders == kChange) refuse("changed");
        } while (!holders_.compare_exchange_weak(holders, holders + 1));
    }
    void unlock_shared() const { holders_.fetch_sub(1); }

  private:
    [[noreturn]] void refuse(const char* how) const {
        throw std::invalid_argument(std::string(what_) + " is being " + how +
                                    " by another call: wait until it is done");
    }

    static constexpr int kChange = -1;
    const char* what_;
    mutable std::atomic<int> holders_{0};  // kChange, or how many read
};

// Held by the call that changes it; release() leaves it to a later call to unlock().
using Change = std::unique_lock<Access>;
using Reading = std::shared_lock<const Access>;

}  // namespace constann
