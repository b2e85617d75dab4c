// ReLU of a joined batch with the sensitivity of its output in the same pass, and its gradient, on the CPU.
#include "distances.h"
#include "joined.h"
#include "large_memory.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace neurosens {
namespace {

Means measure_relu(const Tensor& pair, const Tensor& out, const std::string& norm, int64_t channel_dim) {
  const Distance distance = distance_named(norm);
  Means means;
  with_relu(pair, out, channel_dim,
            [&](const Pair& activations, Pair& relu) { means = mean_distances(activations, distance, &relu); });
  return means;
}

std::tuple<Tensor, Tensor, Tensor> relu_tap(const Tensor& pair, std::string norm, int64_t channel_dim, bool) {
  const Tensor out = new_like(pair);
  const Means means = measure_relu(pair, out, norm, channel_dim);
  return {out, means.distances, means.sensitivity};
}

std::tuple<Tensor, Tensor> relu_tap_(Tensor& pair, std::string norm, int64_t channel_dim) {
  check_overwritable(pair, "pair");
  const Means means = measure_relu(pair, pair, norm, channel_dim);
  return {means.distances, means.sensitivity};
}

Tensor relu_tap_backward(const Tensor& grad_out, const Tensor& grad, const Tensor& out, std::string norm,
                         int64_t channel_dim, bool detach_benign) {
  const Distance distance = distance_named(norm);
  const Halves halves(out);
  check_pair(halves.benign, halves.adversarial, channel_dim);
  const Tensor result = large_empty_like(out).tensor;
  STD_TORCH_CHECK(grad_out.dim() == out.dim() && grad_out.scalar_type() == out.scalar_type(),
                  "grad_out must have the shape and dtype of out");
  for (int64_t i = 0; i < out.dim(); ++i)
    STD_TORCH_CHECK(grad_out.size(i) == out.size(i), "grad_out differs from out in size at dimension ", i);
  const Halves base(grad_out), to(result);
  write_gradients(grad, halves.benign, halves.adversarial, {to.benign, base.benign, detach_benign},
                  {to.adversarial, base.adversarial}, distance, channel_dim);
  return result;
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) {
  m.impl("relu_tap", TORCH_BOX(&neurosens::relu_tap));
  m.impl("relu_tap_", TORCH_BOX(&neurosens::relu_tap_));
  m.impl("relu_tap_backward", TORCH_BOX(&neurosens::relu_tap_backward));
}
