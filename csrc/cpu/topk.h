// The order of neurons: stable, ties to the lowest index, NaN largest.
#pragma once

#include "support.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace neurosens {

// The bits of x as an integer that is the lower, the larger x is; 0 for NaN, the same for both zeros.
inline uint32_t descending(float x) {
  if (is_nan(x)) return 0;
  const uint32_t bits = bit_copy<uint32_t>(x + 0.0f);
  return bits >> 31 ? bits : ~(bits | uint32_t(1) << 31);
}
inline uint64_t descending(double x) {
  if (is_nan(x)) return 0;
  const uint64_t bits = bit_copy<uint64_t>(x + 0.0);
  return bits >> 63 ? bits : ~(bits | uint64_t(1) << 63);
}

// Indices of the k largest of x [channels], descending.
template <typename T>
std::vector<int64_t> largest_first(const T* x, int64_t channels, int64_t k) {
  std::vector<std::pair<decltype(descending(to_float(*x))), int64_t>> keys;
  keys.reserve(size_t(channels));
  for (int64_t c = 0; c < channels; ++c) keys.emplace_back(descending(to_float(x[c])), c);
  std::nth_element(keys.begin(), keys.begin() + k, keys.end());
  std::sort(keys.begin(), keys.begin() + k);
  std::vector<int64_t> order;
  order.reserve(size_t(k));
  for (int64_t i = 0; i < k; ++i) order.push_back(keys[size_t(i)].second);
  return order;
}

}  // namespace neurosens
