// What a build says of itself; see build_facts.cpp.
#pragma once

namespace constann::python {

extern const char* const compiler;        // with its version
extern const char* const planted_faults;  // of a negative control; empty in a build for use
extern const char* const tuned_for;       // the oldest CPU of a tuned build; else empty

}  // namespace constann::python
