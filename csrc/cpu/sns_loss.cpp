// The SNS loss of one layer on the CPU: one read of both activations gives sensitivities, choice and loss.
// Its gradient is that of the distances of the chosen neurons.
#include "distances.h"
#include "topk.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

namespace neurosens {
namespace {

template <typename A>
A mean_of(const A* distances, const std::vector<int64_t>& neurons) {
  double sum = 0;
  for (int64_t c : neurons) sum += double(distances[c]);
  return A(sum / double(neurons.size()));
}

std::vector<int64_t> checked_neurons(const Tensor& neurons, int64_t channels) {
  STD_TORCH_CHECK(neurons.scalar_type() == ScalarType::Long && neurons.dim() == 1, "neurons must be int64 [k]");
  const Tensor dense = as_contiguous(neurons);
  const int64_t* first = static_cast<const int64_t*>(dense.const_data_ptr());
  const std::vector<int64_t> chosen(first, first + dense.numel());
  for (int64_t c : chosen)
    STD_TORCH_CHECK(c >= 0 && c < channels, "neurons must lie between 0 and ", channels - 1, ", got ", c);
  return chosen;
}

std::tuple<Tensor, Tensor, Tensor> sns_loss(const Tensor& benign, const Tensor& adversarial, int64_t k,
                                            std::string norm, int64_t channel_dim, std::optional<Tensor> neurons) {
  const Pair pair(benign, adversarial, channel_dim);
  const int64_t channels = pair.layout.channels;
  STD_TORCH_CHECK(neurons || (k >= 1 && k <= channels), "k must be between 1 and ", channels, ", got ", k);
  std::vector<int64_t> chosen;
  if (neurons) chosen = checked_neurons(*neurons, channels);
  const Means means = mean_distances(pair, distance_named(norm));
  Tensor loss = new_tensor(means.distances, {});
  with_element_type(means.distances, "distances", [&](auto* type) {
    using A = std::remove_pointer_t<decltype(type)>;
    if constexpr (sizeof(A) >= sizeof(float)) {
      if (!neurons) chosen = largest_first(static_cast<const A*>(means.sensitivity.const_data_ptr()), channels, k);
      *static_cast<A*>(loss.mutable_data_ptr()) =
          mean_of(static_cast<const A*>(means.distances.const_data_ptr()), chosen);
    }
  });
  Tensor indices = new_tensor(means.distances, {int64_t(chosen.size())}, ScalarType::Long);
  std::copy(chosen.begin(), chosen.end(), static_cast<int64_t*>(indices.mutable_data_ptr()));
  return {loss, indices, means.sensitivity};
}

std::tuple<Tensor, Tensor> sns_loss_backward(const Tensor& grad, const Tensor& neurons, const Tensor& benign,
                                             const Tensor& adversarial, std::string norm, int64_t channel_dim,
                                             bool needs_benign, bool needs_adversarial) {
  const Distance distance = distance_named(norm);
  check_pair(benign, adversarial, channel_dim);
  check_loss_gradient(grad, benign);
  const int64_t channels = benign.size(channel_dim);
  const std::vector<int64_t> chosen = checked_neurons(neurons, channels);
  Tensor weights = new_tensor(grad, {channels});
  with_element_type(grad, "grad", [&](auto* type) {
    using A = std::remove_pointer_t<decltype(type)>;
    if constexpr (sizeof(A) >= sizeof(float)) {
      A* weight = static_cast<A*>(weights.mutable_data_ptr());
      std::fill_n(weight, channels, A(0));
      const A share = *static_cast<const A*>(grad.const_data_ptr()) * A(1 / double(chosen.size()));
      for (int64_t c : chosen) weight[c] += share;
    }
  });
  return new_gradients(weights, benign, adversarial, distance, channel_dim, needs_benign, needs_adversarial);
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) {
  m.impl("sns_loss", TORCH_BOX(&neurosens::sns_loss));
  m.impl("sns_loss_backward", TORCH_BOX(&neurosens::sns_loss_backward));
}
