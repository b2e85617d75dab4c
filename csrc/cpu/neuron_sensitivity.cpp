// The sensitivity of every neuron and its gradient on the CPU, of two activations and of a joined batch.
#include "distances.h"
#include "joined.h"
#include "large_memory.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace neurosens {
namespace {

Tensor neuron_sensitivity(const Tensor& benign, const Tensor& adversarial, std::string norm, int64_t channel_dim) {
  return mean_distances(Pair(benign, adversarial, channel_dim), distance_named(norm)).distances;
}

std::tuple<Tensor, Tensor> neuron_sensitivity_backward(const Tensor& grad, const Tensor& benign,
                                                       const Tensor& adversarial, std::string norm, int64_t channel_dim,
                                                       bool needs_benign, bool needs_adversarial) {
  const Distance distance = distance_named(norm);
  check_pair(benign, adversarial, channel_dim);
  return new_gradients(grad, benign, adversarial, distance, channel_dim, needs_benign, needs_adversarial);
}

std::tuple<Tensor, Tensor> paired_sensitivity(const Tensor& pair, std::string norm, int64_t channel_dim, bool) {
  const Halves halves(pair);
  const Means means = mean_distances(Pair(halves.benign, halves.adversarial, channel_dim), distance_named(norm));
  return {means.distances, means.sensitivity};
}

Tensor paired_sensitivity_backward(const Tensor& grad, const Tensor& pair, std::string norm, int64_t channel_dim,
                                   bool detach_benign) {
  const Distance distance = distance_named(norm);
  const Halves halves(pair);
  check_pair(halves.benign, halves.adversarial, channel_dim);
  const LargeTensor out = large_empty_like(pair);
  const Halves to(out.tensor);
  write_gradients(grad, halves.benign, halves.adversarial, {to.benign, std::nullopt, detach_benign, out.zero},
                  {to.adversarial, std::nullopt, false, out.zero}, distance, channel_dim);
  return out.tensor;
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) {
  m.impl("neuron_sensitivity", TORCH_BOX(&neurosens::neuron_sensitivity));
  m.impl("neuron_sensitivity_backward", TORCH_BOX(&neurosens::neuron_sensitivity_backward));
  m.impl("paired_sensitivity", TORCH_BOX(&neurosens::paired_sensitivity));
  m.impl("paired_sensitivity_backward", TORCH_BOX(&neurosens::paired_sensitivity_backward));
}
