// The SNS loss of one layer on the CPU: one read of both activations gives sensitivities, choice and loss.
// Its gradient is that of neuron_sensitivity for the chosen neurons.
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
  const Tensor dense = torch::stable::contiguous(neurons);
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
  Tensor loss = torch::stable::new_empty(means.distances, std::vector<int64_t>{});
  with_element_type(means.distances, "distances", [&](auto* type) {
    using A = std::remove_pointer_t<decltype(type)>;
    if constexpr (sizeof(A) >= sizeof(float)) {
      if (!neurons) chosen = largest_first(static_cast<const A*>(means.sensitivity.const_data_ptr()), channels, k);
      *static_cast<A*>(loss.mutable_data_ptr()) =
          mean_of(static_cast<const A*>(means.distances.const_data_ptr()), chosen);
    }
  });
  Tensor indices =
      torch::stable::new_empty(means.distances, std::vector<int64_t>{int64_t(chosen.size())}, ScalarType::Long);
  std::copy(chosen.begin(), chosen.end(), static_cast<int64_t*>(indices.mutable_data_ptr()));
  return {loss, indices, means.sensitivity};
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) { m.impl("sns_loss", TORCH_BOX(&neurosens::sns_loss)); }
