// What every formula in this folder needs: host and device markers and the scalar primitives.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define NS_HD __host__ __device__ __forceinline__
#else
// always_inline: the instruction-set units must never share one out-of-line copy.
#define NS_HD inline __attribute__((always_inline))
#endif

namespace neurosens {

NS_HD float fused_multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
NS_HD double fused_multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
NS_HD float absolute(float x) { return __builtin_fabsf(x); }
NS_HD double absolute(double x) { return __builtin_fabs(x); }
NS_HD float square_root(float x) { return __builtin_sqrtf(x); }
NS_HD double square_root(double x) { return __builtin_sqrt(x); }

// The maximum of x86: the second operand where the two are equal or unordered.
template <typename T>
NS_HD T larger(T a, T b) {
  return a > b ? a : b;
}

template <typename T>
NS_HD bool is_nan(T x) {
  return !(x == x);
}

// A maximum that is never NaN, raised by an x that may be: NaN does not count. Of two zeros either may stay.
template <typename V>
NS_HD V raised(V maximum, V x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(V) == 4) return fmaxf(maximum, x);  // one instruction
#endif
  return larger(x, maximum);
}

template <typename A>
NS_HD A sign(A x) {
  return x > 0 ? A(1) : x < 0 ? A(-1) : x;  // NaN and zero stay
}

template <typename A>
NS_HD A where_zero(A x, A then, A otherwise) {
  return x == 0 ? then : otherwise;
}

}  // namespace neurosens
