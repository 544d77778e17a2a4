// Who may touch an index, or a map of pairs, at a moment: one call that changes it, or any number that read
// it. Nobody waits, as a progress callback that waited for its own build would wait for ever: who comes at
// the wrong time is told.
#pragma once

#include <atomic>
#include <stdexcept>
#include <string>
#include <utility>

namespace constann {

class Access {
  public:
    // `what` stands in errors.
    explicit Access(const char* what = "the index") : what_(what) {}

    // Throws std::invalid_argument, as begin_reading() does.
    void begin_change() {
        int nobody = 0;
        if (holders_.compare_exchange_strong(nobody, kChange)) return;
        refuse(nobody == kChange ? "changed" : "read");
    }
    void end_change() { holders_.store(0); }
    void begin_reading() const {
        int holders = holders_.load();
        do {
            if (holders == kChange) refuse("changed");
        } while (!holders_.compare_exchange_weak(holders, holders + 1));
    }
    void end_reading() const { holders_.fetch_sub(1); }

  private:
    [[noreturn]] void refuse(const char* how) const {
        throw std::invalid_argument(std::string(what_) + " is being " + how +
                                    " by another call: wait until it is done");
    }

    static constexpr int kChange = -1;
    const char* what_;
    mutable std::atomic<int> holders_{0};  // kChange, or how many read
};

class Change {
  public:
    explicit Change(Access& access) : access_(&access) { access.begin_change(); }
    ~Change() {
        if (access_ != nullptr) access_->end_change();
    }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;
    // Leaves it to a later call to end the change.
    void keep() { access_ = nullptr; }

  private:
    Access* access_;
};

class Reading {
  public:
    explicit Reading(const Access& access) : access_(&access) { access.begin_reading(); }
    Reading(Reading&& other) noexcept : access_(std::exchange(other.access_, nullptr)) {}
    ~Reading() {
        if (access_ != nullptr) access_->end_reading();
    }
    Reading& operator=(Reading&&) = delete;

  private:
    const Access* access_;
};

}  // namespace constann
