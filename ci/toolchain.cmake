# Tells CMake to cross-compile with the wrappers that ci/zig.py writes; the facts come from the environment it sets.
# No optimisation, warning or arithmetic flag belongs here: those are the project's, the same for every compiler.

set(CMAKE_SYSTEM_NAME $ENV{CONSTANN_CROSS_SYSTEM})
set(CMAKE_SYSTEM_PROCESSOR $ENV{CONSTANN_CROSS_ARCHITECTURE})

set(CMAKE_C_COMPILER $ENV{CONSTANN_CROSS_TOOLS}/cc)
set(CMAKE_CXX_COMPILER $ENV{CONSTANN_CROSS_TOOLS}/c++)
set(CMAKE_AR $ENV{CONSTANN_CROSS_TOOLS}/ar)
set(CMAKE_RANLIB $ENV{CONSTANN_CROSS_TOOLS}/ranlib)

# A linked trial program would make zig compile a whole standard library with flags that nothing else uses.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

# Libraries and headers of the building machine are not for the target; programs are, and Python's headers come by their path.
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

# CMake would look through C++20 sources for modules with a tool that belongs to Clang and that zig does not bring.
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)

# Without it pybind11 asks the running Python for its own extension suffix, and the file is named for the wrong machine.
set(PYBIND11_USE_CROSSCOMPILING ON)

if(CMAKE_SYSTEM_NAME STREQUAL "Darwin")
  # What CMake would ask Apple's tools for, which are not here: the compiler is told its target by the wrapper.
  set(CMAKE_OSX_SYSROOT "" CACHE STRING "")
  set(CMAKE_OSX_DEPLOYMENT_TARGET "" CACHE STRING "")
  set(CMAKE_INSTALL_NAME_TOOL true)
endif()

if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  # Keeps the symbol table, drops debug information: see the linker script.
  set(CMAKE_MODULE_LINKER_FLAGS_INIT "\"-Wl,-T,$ENV{CONSTANN_CROSS_TOOLS}/no-debug.lds\"")
  set(CMAKE_SHARED_LINKER_FLAGS_INIT "${CMAKE_MODULE_LINKER_FLAGS_INIT}")
endif()
