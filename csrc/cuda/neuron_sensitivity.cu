// neuron_sensitivity, paired_sensitivity and their gradients on CUDA: checks, launch, registration.
#include "neuron_sensitivity.cuh"
#include "sensitivities.h"

namespace neurosens {

NS_ALL_PAIR_STATISTICS(, Moments);

}  // namespace neurosens

namespace neurosens::cuda {
namespace {

// Gradients are written in place where they lie like their inputs, else through contiguous copies. A half
// whose gradient is not needed has no tensor to write to.
void write_gradients(const Tensor& grad, const Tensor& benign, const Tensor& adversarial, Distance distance,
                     int64_t channel_dim, const Tensor& to_benign, const Tensor& to_adversarial) {
  const Device device(benign);
  check_activation(benign, channel_dim, "benign");
  check_like(adversarial, benign, "adversarial", "benign");
  check_device(grad, benign, "grad");
  check_weights(grad, benign.size(channel_dim), benign);
  if (!to_benign.defined() && !to_adversarial.defined()) return;
  const Tensor weights = as_contiguous(grad);
  const auto channel_second_of = [&](const Tensor& x) { return x.defined() ? channel_second(x, channel_dim) : x; };
  const Tensor targets[] = {channel_second_of(to_benign), channel_second_of(to_adversarial)};
  with_element_type(benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    Tensor z = channel_second(benign, channel_dim), z_adv = channel_second(adversarial, channel_dim);
    Tensor to[] = {targets[0], targets[1]};
    std::vector<Tensor> all = {z, z_adv};
    for (const Tensor& x : to)
      if (x.defined()) all.push_back(x);
    Layout l;
    describe(z, 1, l);
    Shape shape = {l.samples, l.channels, l.positions, meet(all, true)};
    const bool direct = (shape.columns || meet(all, false)) && take_packs<T>({z, z_adv}, shape);
    if (!direct) {
      shape.columns = shape.positions <= 1;  // single positions lie alike either way
      z = contiguous_copy(z), z_adv = contiguous_copy(z_adv);
      for (Tensor& x : to)
        if (x.defined()) x = new_like(z);
    }
    const auto written = [](Tensor& x) { return x.defined() ? mutable_data<T>(x) : nullptr; };
    const Scratch<GradientScratch<T>> scratch(benign, shape, distance);
    neurosens::neuron_sensitivity_backward(data<accumulate_t<T>>(weights), data<T>(z), data<T>(z_adv), written(to[0]),
                                           written(to[1]), *scratch, distance, shape, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    for (int half = 0; half < 2 && !direct; ++half)
      if (Tensor target = targets[half]; target.defined()) torch::stable::copy_(target, to[half]);
  });
}

Tensor neuron_sensitivity(const Tensor& benign, const Tensor& adversarial, std::string norm, int64_t channel_dim) {
  return sensitivities(pair_of(benign, adversarial, channel_dim), distance_named(norm)).distances;
}

std::tuple<Tensor, Tensor> neuron_sensitivity_backward(const Tensor& grad, const Tensor& benign,
                                                       const Tensor& adversarial, std::string norm, int64_t channel_dim,
                                                       bool needs_benign, bool needs_adversarial) {
  return new_gradients(grad, benign, adversarial, distance_named(norm), channel_dim, needs_benign, needs_adversarial);
}

std::tuple<Tensor, Tensor> paired_sensitivity(const Tensor& pair, std::string norm, int64_t channel_dim, bool) {
  const Halves half(pair);
  const auto result = sensitivities(pair_of(half.benign, half.adversarial, channel_dim), distance_named(norm));
  return {result.distances, result.sensitivity};
}

Tensor paired_sensitivity_backward(const Tensor& grad, const Tensor& pair, std::string norm, int64_t channel_dim,
                                   bool detach_benign) {
  const Halves half(pair);
  const Tensor gradient = new_like(pair);
  Halves to(gradient);
  write_gradients(grad, half.benign, half.adversarial, distance_named(norm), channel_dim,
                  detach_benign ? Tensor() : to.benign, to.adversarial);
  if (detach_benign) torch::stable::zero_(to.benign);
  return gradient;
}

}  // namespace

Sensitivities sensitivities(const Pair& pair, Distance distance) {
  const Device device(pair.benign);
  const ScalarType type = accumulate_type(pair.benign);
  Sensitivities out = {new_tensor(pair.benign, {pair.layout.channels}, type),
                       new_tensor(pair.benign, {pair.layout.channels}, type)};
  with_element_type(pair.benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using A = accumulate_t<T>;
    const Activations<T> in(pair);
    const Scratch<SensitivityScratch<T>> scratch(pair.benign, in.shape, distance);
    neurosens::neuron_sensitivity(Read<T, Moments>{}, in.z, in.z_adv, mutable_data<A>(out.distances),
                                  mutable_data<A>(out.sensitivity), *scratch, distance, in.shape, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

std::tuple<Tensor, Tensor> new_gradients(const Tensor& grad, const Tensor& benign, const Tensor& adversarial,
                                         Distance distance, int64_t channel_dim, bool needs_benign,
                                         bool needs_adversarial) {
  Tensor to_benign, to_adversarial;
  if (needs_benign) to_benign = new_like(benign);
  if (needs_adversarial) to_adversarial = new_like(adversarial);
  write_gradients(grad, benign, adversarial, distance, channel_dim, to_benign, to_adversarial);
  if (!needs_benign) to_benign = new_tensor(benign, {0}, benign.scalar_type());
  if (!needs_adversarial) to_adversarial = new_tensor(adversarial, {0}, adversarial.scalar_type());
  return {to_benign, to_adversarial};
}

}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) {
  m.impl("neuron_sensitivity", TORCH_BOX(&neurosens::cuda::neuron_sensitivity));
  m.impl("neuron_sensitivity_backward", TORCH_BOX(&neurosens::cuda::neuron_sensitivity_backward));
  m.impl("paired_sensitivity", TORCH_BOX(&neurosens::cuda::paired_sensitivity));
  m.impl("paired_sensitivity_backward", TORCH_BOX(&neurosens::cuda::paired_sensitivity_backward));
}
