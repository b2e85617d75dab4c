// The order of neurons: stable, ties to the lowest index, NaN largest.
#pragma once

#include "support.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace neurosens {

// Indices of the k largest of x [channels], descending.
template <typename T>
std::vector<int64_t> largest_first(const T* x, int64_t channels, int64_t k) {
  std::vector<int64_t> order(static_cast<size_t>(channels));
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + k, order.end(), [x](int64_t a, int64_t b) {
    const auto u = to_float(x[a]), v = to_float(x[b]);
    if (is_nan(u) != is_nan(v)) return is_nan(u);
    return u > v || (!(u < v) && a < b);
  });
  order.resize(static_cast<size_t>(k));
  return order;
}

}  // namespace neurosens
