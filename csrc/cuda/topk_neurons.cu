// topk_neurons on CUDA: checks, launch, registration.
#include "topk_neurons.cuh"

#include "sensitivities.h"

namespace neurosens::cuda {

std::tuple<Tensor, Tensor> topk_neurons(const Tensor& sensitivity, int64_t k) {
  STD_TORCH_CHECK(sensitivity.dim() == 1, "sensitivity must be [C], got ", sensitivity.dim(), " dimensions");
  const int64_t channels = sensitivity.size(0);
  STD_TORCH_CHECK(k >= 0 && k <= channels, "k must be between 0 and ", channels, ", got ", k);
  const Device device(sensitivity);
  const Tensor in = as_contiguous(sensitivity);
  Tensor values = new_tensor(in, {k}, in.scalar_type()), indices = new_tensor(in, {k}, ScalarType::Long);
  with_element_type(in, "sensitivity", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    neurosens::topk_neurons(data<T>(in), mutable_data<T>(values), mutable_data<int64_t>(indices), channels, k,
                            device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {values, indices};
}

}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) {
  m.impl("topk_neurons", TORCH_BOX(&neurosens::cuda::topk_neurons));
}
