// The two 16-bit formats as plain storage, with their conversions, free of torch headers.
#pragma once

#include "common.h"

#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace neurosens {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename T>
constexpr uint16_t kNegativeInfinity = 0;
template <>
inline constexpr uint16_t kNegativeInfinity<Half> = 0xfc00;
template <>
inline constexpr uint16_t kNegativeInfinity<BFloat16> = 0xff80;

template <typename To, typename From>
NS_HD To bit_copy(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

NS_HD float to_float(BFloat16 x) { return bit_copy<float>(uint32_t(x.bits) << 16); }

NS_HD float to_float(Half x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(x.bits));
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, magnitude = uint32_t(x.bits & 0x7fffu);
  if (magnitude >= 0x7c00u) return bit_copy<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by 2^112 re-biases the exponent and normalises subnormals, exactly.
  const float scaled = bit_copy<float>(magnitude << 13) * bit_copy<float>(uint32_t(0x77800000u));
  return bit_copy<float>(sign | bit_copy<uint32_t>(scaled));
#endif
}

NS_HD float to_float(float x) { return x; }
NS_HD double to_float(double x) { return x; }

template <typename T>
NS_HD T from_float(float x);

template <>
NS_HD BFloat16 from_float<BFloat16>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  // As a pair: the conversion of one alone may become an instruction of a quarter of the rate.
  return {__bfloat16_as_ushort(__low2bfloat16(__floats2bfloat162_rn(x, 0.0f)))};
#else
  const uint32_t bits = bit_copy<uint32_t>(x);
  if (is_nan(x)) return {uint16_t((bits >> 16) | 0x40u)};
  return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
}

template <>
NS_HD Half from_float<Half>(float x) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(x))};
#else
  const uint32_t bits = bit_copy<uint32_t>(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // rounds to infinity
  if (magnitude < 0x38800000u) {                                    // subnormal: let the adder round at 2^-24
    const float rounded = bit_copy<float>(magnitude) + 0.5f;
    return {uint16_t(sign | (bit_copy<uint32_t>(rounded) - 0x3f000000u))};
  }
  return {uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13))};
#endif
}

template <>
NS_HD float from_float<float>(float x) {
  return x;
}

// The dtype in which rows of T accumulate.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using accumulate_t = typename Accumulate<T>::type;

}  // namespace neurosens
