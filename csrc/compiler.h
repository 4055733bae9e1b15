// What differs between compilers: how to force or prevent inlining, and what a build is called.
#pragma once

// Functions, and member functions, that must be inlined
#if defined(__CUDACC__)
#define BO_INLINE static __host__ __device__ __forceinline__
#define BO_INLINE_MEMBER __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define BO_INLINE static __forceinline
#define BO_INLINE_MEMBER __forceinline
#else
#define BO_INLINE static inline __attribute__((always_inline))
#define BO_INLINE_MEMBER inline __attribute__((always_inline))
#endif

// BO_INLINE_LAMBDA: the same for lambdas, after their parameters. A lambda that is called, not inlined, must reload
//   what it captured after every vector store, which the compiler has to assume may alias.
// BO_NOINLINE_MEMBER: for member functions that run once: g++ 12 may take minutes to inline and unroll them.
// BO_PREFETCH: prefetches a cache line; the address may be invalid.
// BO_KEEP_LOOP: in a loop over a few vectors, keeps the compiler from calling memset or memcpy instead.
#if defined(_MSC_VER)
#define BO_INLINE_LAMBDA
#define BO_NOINLINE_MEMBER __declspec(noinline)
#define BO_RESTRICT __restrict
#define BO_PREFETCH(p) ((void)(p))
#define BO_KEEP_LOOP ((void)0)
#else
#define BO_INLINE_LAMBDA __attribute__((always_inline))
#define BO_NOINLINE_MEMBER __attribute__((noinline))
#define BO_RESTRICT __restrict__
#define BO_PREFETCH(p) __builtin_prefetch(p)
#define BO_KEEP_LOOP asm volatile("")
#endif

// The namespace of the instruction set. Without it, the linker could replace the baseline's copy of an inline function
// by one that was compiled for a newer processor.
#ifndef BO_ISA
#define BO_ISA baseline
#endif

// 1 where a fused multiply-add is one instruction; elsewhere it is a library call.
#if defined(BO_SIMD_AVX2) || defined(BO_SIMD_AVX512) || defined(__FMA__) || defined(__aarch64__) || \
    defined(_M_ARM64) || defined(__CUDA_ARCH__)
#define BO_HAS_FMA 1
#else
#define BO_HAS_FMA 0
#endif

#define BO_STRINGIZE_(x) #x
#define BO_STRINGIZE(x) BO_STRINGIZE_(x)
#if defined(__clang__)
#define BO_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define BO_COMPILER "g++ " BO_STRINGIZE(__GNUC__) "." BO_STRINGIZE(__GNUC_MINOR__) "." BO_STRINGIZE(__GNUC_PATCHLEVEL__)
#elif defined(_MSC_VER)
#define BO_COMPILER "MSVC " BO_STRINGIZE(_MSC_VER)
#else
#define BO_COMPILER "unknown"
#endif
