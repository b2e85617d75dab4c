// topk_neurons on the CPU: stable, ties to the lowest index, NaN largest.
#include "support.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <numeric>
#include <tuple>

namespace neurosens {
namespace {

std::tuple<Tensor, Tensor> topk_neurons(const Tensor& sensitivity, int64_t k) {
  STD_TORCH_CHECK(sensitivity.dim() == 1, "sensitivity must be [C], got ", sensitivity.dim(), " dimensions");
  const int64_t channels = sensitivity.size(0);
  STD_TORCH_CHECK(k >= 0 && k <= channels, "k must be between 0 and ", channels, ", got ", k);
  const Tensor in = torch::stable::contiguous(sensitivity);
  Tensor values = torch::stable::new_empty(in, std::vector<int64_t>{k});
  Tensor indices = torch::stable::new_empty(in, std::vector<int64_t>{k}, ScalarType::Long);
  with_element_type(in, "sensitivity", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* x = static_cast<const T*>(in.const_data_ptr());
    std::vector<int64_t> order(static_cast<size_t>(channels));
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + k, order.end(), [x](int64_t a, int64_t b) {
      const auto u = to_float(x[a]), v = to_float(x[b]);
      if (is_nan(u) != is_nan(v)) return is_nan(u);
      return u > v || (!(u < v) && a < b);
    });
    T* value = static_cast<T*>(values.mutable_data_ptr());
    for (int64_t i = 0; i < k; ++i) value[i] = x[order[static_cast<size_t>(i)]];
    std::copy_n(order.begin(), k, static_cast<int64_t*>(indices.mutable_data_ptr()));
  });
  return {values, indices};
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) { m.impl("topk_neurons", TORCH_BOX(&neurosens::topk_neurons)); }
