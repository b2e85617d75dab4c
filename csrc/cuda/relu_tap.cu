// relu_tap, relu_tap_ and their gradient on CUDA: checks, launch, registration.
#include "relu_tap.cuh"

#include "sensitivities.h"

namespace neurosens::cuda {
namespace {

// Reads `from` [2N, C, *S] and writes `to`, which lies alike or is the same; false where their layout does not allow
// it.
template <typename T>
bool tap(const Tensor& from, Tensor& to, Distance distance, Sensitivities& found, cudaStream_t stream) {
  using A = accumulate_t<T>;
  const JoinedViews<T> in(from);
  if (!in.walkable || !is_aligned(data<T>(to), required_packs<T>(in.shape))) return false;
  const Scratch<SensitivityScratch<T>> scratch(from, in.shape, distance);
  neurosens::relu_tap(in.z, in.z_adv, mutable_data<T>(to), mutable_data<A>(found.distances),
                      mutable_data<A>(found.sensitivity), keeps_negative_zero(), *scratch, distance, in.shape, stream);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return true;
}

// The same for any layout: what the kernels cannot work on is copied there and back.
Sensitivities tap(const Tensor& pair, const Tensor& out, const std::string& norm, int64_t channel_dim) {
  const Device device(pair);
  check_activation(pair, channel_dim, "pair");
  STD_TORCH_CHECK(pair.size(0) % 2 == 0, "pair must be [2N, C, *S], got an odd batch of ", pair.size(0));
  const Distance distance = distance_named(norm);
  const Tensor from = channel_second(pair, channel_dim);
  Tensor to = channel_second(out, channel_dim);
  const ScalarType type = accumulate_type(pair);
  Sensitivities found = {new_tensor(pair, {from.size(1)}, type), new_tensor(pair, {from.size(1)}, type)};
  with_element_type(pair, "pair", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (tap<T>(from, to, distance, found, device.stream())) return;
    Tensor copy = contiguous_copy(from);
    tap<T>(copy, copy, distance, found, device.stream());
    torch::stable::copy_(to, copy);
  });
  return found;
}

std::tuple<Tensor, Tensor, Tensor> relu_tap(const Tensor& pair, std::string norm, int64_t channel_dim, bool) {
  Tensor out = new_like(pair);
  const bool alike = same_strides(pair, out);
  if (!alike) torch::stable::copy_(out, pair);
  const Sensitivities found = tap(alike ? pair : out, out, norm, channel_dim);
  return {out, found.distances, found.sensitivity};
}

std::tuple<Tensor, Tensor> relu_tap_(Tensor pair, std::string norm, int64_t channel_dim) {
  check_overwritable(pair, "pair");
  const Sensitivities found = tap(pair, pair, norm, channel_dim);
  return {found.distances, found.sensitivity};
}

Tensor relu_tap_backward(const Tensor& grad_out, const Tensor& grad, const Tensor& out, std::string norm,
                         int64_t channel_dim, bool detach_benign) {
  const Device device(out);
  check_activation(out, channel_dim, "out");
  STD_TORCH_CHECK(out.size(0) % 2 == 0, "out must be [2N, C, *S], got an odd batch of ", out.size(0));
  check_like(grad_out, out, "grad_out", "out");
  check_device(grad, out, "grad");
  check_weights(grad, out.size(channel_dim), out);
  const Distance distance = distance_named(norm);
  const Tensor weights = as_contiguous(grad), gradient = new_like(out);
  with_element_type(out, "out", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    Tensor x = channel_second(out, channel_dim), target = channel_second(gradient, channel_dim), to = target;
    Tensor incoming = channel_second(grad_out, channel_dim);
    Layout l;
    describe(x, 1, l);
    Shape shape = {l.samples / 2, l.channels, l.positions, meet({x, to}, true)};
    const bool direct = (shape.columns || meet({x, to}, false)) && take_packs<T>({x}, shape);
    if (!direct) {
      shape.columns = shape.positions <= 1;  // single positions lie alike either way
      x = contiguous_copy(x), to = new_like(x);
    }
    if (!meet({incoming}, shape.columns)) {
      const Tensor other = incoming;
      incoming = new_like(x);
      torch::stable::copy_(incoming, other);
    }
    const Scratch<GradientScratch<T>> scratch(out, shape, distance);
    neurosens::relu_tap_backward(data<T>(incoming), data<accumulate_t<T>>(weights), data<T>(x), mutable_data<T>(to),
                                 detach_benign, *scratch, distance, shape, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (!direct) torch::stable::copy_(target, to);
  });
  return gradient;
}

}  // namespace
}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) {
  m.impl("relu_tap", TORCH_BOX(&neurosens::cuda::relu_tap));
  m.impl("relu_tap_", TORCH_BOX(&neurosens::cuda::relu_tap_));
  m.impl("relu_tap_backward", TORCH_BOX(&neurosens::cuda::relu_tap_backward));
}
