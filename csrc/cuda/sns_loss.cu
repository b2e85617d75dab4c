// sns_loss on CUDA: checks, launch, registration.
#include "sns_loss.cuh"

#include "sensitivities.h"

#include <optional>

namespace neurosens::cuda {
namespace {

void check_neurons(const Tensor& neurons, const Tensor& benign) {
  check_device(neurons, benign, "neurons");
  STD_TORCH_CHECK(neurons.dim() == 1 && neurons.scalar_type() == ScalarType::Long,
                  "neurons must be an int64 tensor [k]");
}

std::tuple<Tensor, Tensor, Tensor> sns_loss(const Tensor& benign, const Tensor& adversarial, int64_t k,
                                            std::string norm, int64_t channel_dim, std::optional<Tensor> neurons) {
  const Device device(benign);
  if (neurons) check_neurons(*neurons, benign);
  const auto found = sensitivities(pair_of(benign, adversarial, channel_dim), distance_named(norm));
  const Tensor chosen = neurons ? as_contiguous(*neurons) : std::get<1>(topk_neurons(found.sensitivity, k));
  Tensor copy = neurons ? new_tensor(chosen, {chosen.size(0)}, ScalarType::Long) : chosen;
  Tensor loss = new_tensor(benign, {}, accumulate_type(benign));
  with_element_type(loss, "loss", [&](auto* type) {
    using A = std::remove_pointer_t<decltype(type)>;
    if constexpr (std::is_same_v<A, accumulate_t<A>>)
      mean_of_neurons(data<A>(found.distances), data<int64_t>(chosen), neurons ? mutable_data<int64_t>(copy) : nullptr,
                      mutable_data<A>(loss), found.distances.size(0), chosen.size(0), device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {loss, copy, found.sensitivity};
}

std::tuple<Tensor, Tensor> sns_loss_backward(const Tensor& grad, const Tensor& neurons, const Tensor& benign,
                                             const Tensor& adversarial, std::string norm, int64_t channel_dim,
                                             bool needs_benign, bool needs_adversarial) {
  const Device device(benign);
  check_activation(benign, channel_dim, "benign");
  check_device(grad, benign, "grad");
  check_loss_gradient(grad, benign);
  check_neurons(neurons, benign);
  const Tensor chosen = as_contiguous(neurons);
  Tensor weights = new_tensor(grad, {benign.size(channel_dim)}, grad.scalar_type());
  with_element_type(grad, "grad", [&](auto* type) {
    using A = std::remove_pointer_t<decltype(type)>;
    if constexpr (std::is_same_v<A, accumulate_t<A>>)
      weights_of_neurons(data<A>(grad), data<int64_t>(chosen), mutable_data<A>(weights), weights.size(0),
                         chosen.size(0), device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return new_gradients(weights, benign, adversarial, distance_named(norm), channel_dim, needs_benign,
                       needs_adversarial);
}

}  // namespace
}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) {
  m.impl("sns_loss", TORCH_BOX(&neurosens::cuda::sns_loss));
  m.impl("sns_loss_backward", TORCH_BOX(&neurosens::cuda::sns_loss_backward));
}
