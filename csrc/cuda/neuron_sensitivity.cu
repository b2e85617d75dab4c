// neuron_sensitivity and its gradient on CUDA: checks, launch, registration.
#include "neuron_sensitivity.cuh"
#include "tensors.h"

#include <tuple>

namespace neurosens::cuda {
namespace {

Tensor neuron_sensitivity(const Tensor& benign, const Tensor& adversarial, std::string norm, int64_t channel_dim) {
  const Device device(benign);
  const Distance distance = distance_named(norm);
  const Pair pair = pair_of(benign, adversarial, channel_dim);
  Tensor out = new_tensor(benign, {pair.layout.channels}, accumulate_type(benign));
  with_element_type(benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Activations<T> in(pair);
    const Scratch<SensitivityScratch<T>> scratch(benign, in.shape);
    neurosens::neuron_sensitivity(in.z, in.z_adv, mutable_data<accumulate_t<T>>(out), *scratch, distance, in.shape,
                                  device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

bool is_dense(const Layout& l, bool columns) {
  const int64_t other = columns ? l.position_stride : l.channel_stride;
  const int64_t others = columns ? l.positions : l.channels, adjacent = columns ? l.channels : l.positions;
  return (others <= 1 || other == adjacent) && (l.samples <= 1 || l.sample_stride == l.channels * l.positions);
}

// Whether elements of all four tensors meet at equal offsets, with the given axis adjacent.
bool meet(const std::vector<Tensor>& tensors, bool columns) {
  for (const Tensor& x : tensors) {
    Layout l;
    if (!describe(x, 1, l) || !(columns ? l.columns() : l.rows()) || !is_dense(l, columns)) return false;
  }
  return true;
}

template <typename T>
bool take_packs(const std::vector<Tensor>& tensors, const Shape& shape) {
  for (const Tensor& x : tensors)
    if (!takes_packs(dense(data<T>(x), shape), shape, required_packs<T>(shape))) return false;
  return true;
}

std::tuple<Tensor, Tensor> neuron_sensitivity_backward(const Tensor& grad, const Tensor& benign,
                                                       const Tensor& adversarial, std::string norm, int64_t channel_dim,
                                                       bool needs_benign, bool needs_adversarial) {
  const Device device(benign);
  const Distance distance = distance_named(norm);
  const Pair pair = pair_of(benign, adversarial, channel_dim);
  check_device(grad, benign, "grad");
  check_weights(grad, pair.layout.channels, benign);
  const Tensor weights = torch::stable::contiguous(grad);
  Tensor grad_benign = torch::stable::empty_like(benign), grad_adversarial = torch::stable::empty_like(adversarial);
  Tensor view = channel_second(grad_benign, channel_dim), view_adv = channel_second(grad_adversarial, channel_dim);
  with_element_type(benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    // Gradients are written in place where they lie like their inputs, else through contiguous copies.
    Tensor z = channel_second(benign, channel_dim), z_adv = channel_second(adversarial, channel_dim);
    Tensor out = view, out_adv = view_adv;
    const Layout& l = pair.layout;
    Shape shape = {l.samples, l.channels, l.positions, meet({z, z_adv, out, out_adv}, true)};
    const bool direct = (shape.columns || meet({z, z_adv, out, out_adv}, false)) && take_packs<T>({z, z_adv}, shape);
    if (!direct) {
      shape.columns = shape.positions <= 1;  // single positions lie alike either way
      z = torch::stable::clone(torch::stable::contiguous(z));
      z_adv = torch::stable::clone(torch::stable::contiguous(z_adv));
      out = torch::stable::empty_like(z), out_adv = torch::stable::empty_like(z_adv);
    }
    const Scratch<GradientScratch<T>> scratch(benign, shape, distance);
    neurosens::neuron_sensitivity_backward(data<accumulate_t<T>>(weights), data<T>(z), data<T>(z_adv),
                                           mutable_data<T>(out), mutable_data<T>(out_adv), *scratch, distance, shape,
                                           device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (!direct) {
      torch::stable::copy_(view, out);
      torch::stable::copy_(view_adv, out_adv);
    }
  });
  const auto needed = [&](const Tensor& x, bool needs) {
    return needs ? x : torch::stable::new_empty(x, std::vector<int64_t>{0});
  };
  return {needed(grad_benign, needs_benign), needed(grad_adversarial, needs_adversarial)};
}

}  // namespace
}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) {
  m.impl("neuron_sensitivity", TORCH_BOX(&neurosens::cuda::neuron_sensitivity));
  m.impl("neuron_sensitivity_backward", TORCH_BOX(&neurosens::cuda::neuron_sensitivity_backward));
}
