// ReLU of a joined batch with the sensitivity of its output in the same pass, and its gradient, on the CPU.
#include "distances.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace neurosens {
namespace {

// ReLU from `pair` to `out`, which may be the same tensor; both have the same strides, rows or columns.
Means measure_relu(const Tensor& pair, const Tensor& out, Distance distance, int64_t channel_dim) {
  const Halves from(pair), to(out);
  const Pair activations(from.benign, from.adversarial, channel_dim);
  Pair relu(to.benign, to.adversarial, channel_dim);
  return mean_distances(activations, distance, &relu);
}

bool readable(const Tensor& pair, int64_t channel_dim) {
  const Halves halves(pair);
  Layout layout;
  return describe(channel_second(halves.benign, channel_dim), 1, layout) && (layout.rows() || layout.columns());
}

std::tuple<Tensor, Tensor, Tensor> relu_tap(const Tensor& pair, std::string norm, int64_t channel_dim, bool) {
  const Distance distance = distance_named(norm);
  const Halves halves(pair);
  const Pair checked(halves.benign, halves.adversarial, channel_dim);
  Tensor out = torch::stable::empty_like(pair);
  if (is_dense(pair) && readable(pair, channel_dim)) {
    const Means means = measure_relu(pair, out, distance, channel_dim);
    return {out, means.distances, means.sensitivity};
  }
  Tensor view = channel_second(out, channel_dim);
  const Tensor rows = torch::stable::contiguous(channel_second(pair, channel_dim));
  const Tensor result = torch::stable::empty_like(rows);
  const Means means = measure_relu(rows, result, distance, 1);
  torch::stable::copy_(view, result);
  return {out, means.distances, means.sensitivity};
}

std::tuple<Tensor, Tensor> relu_tap_(Tensor& pair, std::string norm, int64_t channel_dim) {
  const Distance distance = distance_named(norm);
  const Halves halves(pair);
  const Pair checked(halves.benign, halves.adversarial, channel_dim);
  if (readable(pair, channel_dim)) {
    const Means means = measure_relu(pair, pair, distance, channel_dim);
    return {means.distances, means.sensitivity};
  }
  Tensor view = channel_second(pair, channel_dim);
  const Tensor rows = torch::stable::contiguous(view);
  const Means means = measure_relu(rows, rows, distance, 1);
  torch::stable::copy_(view, rows);
  return {means.distances, means.sensitivity};
}

Tensor relu_tap_backward(const Tensor& grad_out, const Tensor& grad, const Tensor& out, std::string norm,
                         int64_t channel_dim, bool detach_benign) {
  const Distance distance = distance_named(norm);
  const Halves halves(out);
  const Pair checked(halves.benign, halves.adversarial, channel_dim);
  const Tensor result = torch::stable::empty_like(out);
  const Pair same(grad_out, out, channel_dim);  // checks shape and dtype
  const Halves base(grad_out), to(result);
  write_gradients(grad, halves.benign, halves.adversarial, {to.benign, base.benign, true, true, detach_benign},
                  {to.adversarial, base.adversarial, true, true, false}, distance, channel_dim);
  return result;
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) {
  m.impl("relu_tap", TORCH_BOX(&neurosens::relu_tap));
  m.impl("relu_tap_", TORCH_BOX(&neurosens::relu_tap_));
  m.impl("relu_tap_backward", TORCH_BOX(&neurosens::relu_tap_backward));
}
