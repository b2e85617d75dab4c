// topk_neurons on the CPU: stable, ties to the lowest index, NaN largest.
#include "topk.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace neurosens {
namespace {

std::tuple<Tensor, Tensor> topk_neurons(const Tensor& sensitivity, int64_t k) {
  STD_TORCH_CHECK(sensitivity.dim() == 1, "sensitivity must be [C], got ", sensitivity.dim(), " dimensions");
  const int64_t channels = sensitivity.size(0);
  STD_TORCH_CHECK(k >= 0 && k <= channels, "k must be between 0 and ", channels, ", got ", k);
  const Tensor in = as_contiguous(sensitivity);
  Tensor values = new_tensor(in, {k});
  Tensor indices = new_tensor(in, {k}, ScalarType::Long);
  with_element_type(in, "sensitivity", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* x = static_cast<const T*>(in.const_data_ptr());
    const std::vector<int64_t> order = largest_first(x, channels, k);
    T* value = static_cast<T*>(values.mutable_data_ptr());
    for (int64_t i = 0; i < k; ++i) value[i] = x[order[size_t(i)]];
    std::copy(order.begin(), order.end(), static_cast<int64_t*>(indices.mutable_data_ptr()));
  });
  return {values, indices};
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) { m.impl("topk_neurons", TORCH_BOX(&neurosens::topk_neurons)); }
