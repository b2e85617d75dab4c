// ReLU of a joined batch with the sensitivity of its output in the same pass, and its gradient, on the CPU.
#include "distances.h"
#include "large_memory.h"

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

// How the halves of a joined batch can be read as they lie.
enum class Kind { kRows, kColumns, kNeither };
Kind kind_of(const Tensor& pair, int64_t channel_dim) {
  const Halves halves(pair);
  Layout layout;
  if (!describe(channel_second(halves.benign, channel_dim), 1, layout)) return Kind::kNeither;
  return layout.rows() ? Kind::kRows : layout.columns() ? Kind::kColumns : Kind::kNeither;
}

// The same through a dense copy of the same kind, so that the sums are added in the same order.
Means measure_copy(const Tensor& pair, Tensor& out, Distance distance, int64_t channel_dim, Kind kind) {
  const auto arranged = [&](const Tensor& x) {
    return channel_at(x, channel_dim, kind == Kind::kColumns ? x.dim() - 1 : 1);
  };
  const Tensor dense = torch::stable::contiguous(arranged(pair));
  const Tensor result = torch::stable::empty_like(dense);
  const Means means = measure_relu(dense, result, distance, kind == Kind::kColumns ? -1 : 1);
  Tensor view = arranged(out);
  torch::stable::copy_(view, result);
  return means;
}

std::tuple<Tensor, Tensor, Tensor> relu_tap(const Tensor& pair, std::string norm, int64_t channel_dim, bool) {
  const Distance distance = distance_named(norm);
  const Halves halves(pair);
  check_pair(halves.benign, halves.adversarial, channel_dim);
  Tensor out = torch::stable::empty_like(pair);
  const Kind kind = kind_of(pair, channel_dim);
  const Means means = kind != Kind::kNeither && is_dense(pair) ? measure_relu(pair, out, distance, channel_dim)
                                                               : measure_copy(pair, out, distance, channel_dim, kind);
  return {out, means.distances, means.sensitivity};
}

std::tuple<Tensor, Tensor> relu_tap_(Tensor& pair, std::string norm, int64_t channel_dim) {
  const Distance distance = distance_named(norm);
  const Halves halves(pair);
  check_pair(halves.benign, halves.adversarial, channel_dim);
  const Kind kind = kind_of(pair, channel_dim);
  const Means means = kind != Kind::kNeither ? measure_relu(pair, pair, distance, channel_dim)
                                             : measure_copy(pair, pair, distance, channel_dim, kind);
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
