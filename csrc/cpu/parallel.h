// Threads. The only file, with parallel.cpp, that knows about them.
//
// Kernels cut their work into units that don't depend on the number of threads, so neither do the results.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bilateral_ops {

int num_threads();
void set_num_threads(int n);

// Calls body(context, unit) once for every unit in [0, units), on up to num_threads() threads, the caller's among them.
// May be called from many threads at once. An exception thrown by a unit is thrown on to the caller when all have
// ended.
void parallel_for(int64_t units, void (*body)(void* context, int64_t unit), void* context);

// Memory that a kernel needs while it runs, aligned to a cache line; throws std::bad_alloc. Declared here so that the
// files compiled for one instruction set include nothing of the standard library.
void* scratch_allocate(size_t bytes, bool zeroed);
void scratch_free(void* memory);

}  // namespace bilateral_ops
