// ReLU of a pair with the distances and the sensitivity of the result, [C], in the same pass, and their
// joint gradient in one pass.
#pragma once

#include "neuron_sensitivity.cuh"
#include "relu.cuh"

namespace neurosens {

template <typename T>
void relu_tap(const View<T>& z,      // [N, C, S]
              const View<T>& z_adv,  // [N, C, S]
              T* out,                // where the first element of z goes, aligned like it; all others lie as far away
              accumulate_t<T>* distances,    // [C]
              accumulate_t<T>* sensitivity,  // [C]
              bool keeps_negative_zero, const SensitivityScratch<T>& scratch, Distance distance, const Shape& shape,
              cudaStream_t stream) {
  const auto address = [](const T* p) { return int64_t(reinterpret_cast<uintptr_t>(p)); };
  const Relu<T, Moments> tap = {address(out) - address(z.data), keeps_negative_zero};
  neuron_sensitivity(tap, z, z_adv, distances, sensitivity, scratch, distance, shape, stream);
}

template <typename T>
struct ReluGradientArguments {
  GradientArguments<T> distances;  // z and z_adv are what relu_tap returned
  const T* grad_out;               // as z
  const T* grad_out_adv;           // as z
  bool detach_benign;
};

// V adjacent elements from e on.
template <typename T, int V, bool PerRow>
__device__ __forceinline__ void write_relu_gradient(const ReluGradientArguments<T>& p, int64_t e) {
  using A = accumulate_t<T>;
  const PackGradient<T, V, PerRow> gradient(p.distances, e);
  const Pack<T, V> a = load<V>(p.distances.z + e), b = load<V>(p.distances.z_adv + e);
  Pack<T, V> to = load<V>(p.grad_out + e), to_adv = load<V>(p.grad_out_adv + e);
#pragma unroll
  for (int v = 0; v < V; ++v) {
    A benign, adversarial;
    element_gradient(p.distances.distance == Distance::kL1, gradient.of[v], to_float(a.at[v]), to_float(b.at[v]),
                     benign, adversarial);
    const bool chosen = gradient.chosen >> v & 1;
    if (chosen && !p.detach_benign) to.at[v] = narrow<T>(to_float(to.at[v]) + benign);
    if (chosen) to_adv.at[v] = narrow<T>(to_float(to_adv.at[v]) + adversarial);
    to.at[v] = relu_gradient(a.at[v], to.at[v]);
    to_adv.at[v] = relu_gradient(b.at[v], to_adv.at[v]);
  }
  store<V>(p.distances.grad_benign + e, to);
  store<V>(p.distances.grad_adversarial + e, to_adv);
}

template <typename T, int V, bool PerRow>
__global__ void __launch_bounds__(kThreads) relu_gradient_kernel(ReluGradientArguments<T> p) {
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * V, elements = p.distances.shape.elements();
  if (first + V <= elements)
    write_relu_gradient<T, V, PerRow>(p, first);
  else
    for (int64_t e = first; e < elements; ++e) write_relu_gradient<T, 1, PerRow>(p, e);
}

template <typename T>
void relu_tap_backward(const T* grad_out,            // [2N, C, S] or [2N, S, C], dense
                       const accumulate_t<T>* grad,  // [C]
                       const T* out,                 // as grad_out: what relu_tap returned
                       T* gradient,                  // as grad_out
                       bool detach_benign, const GradientScratch<T>& scratch, Distance distance,
                       const Shape& shape,  // of one half
                       cudaStream_t stream) {
  const int64_t half = shape.elements();
  ReluGradientArguments<T> p = {{out, out + half, grad, scratch.gradients, gradient, gradient + half, shape, distance},
                                grad_out,
                                grad_out + half,
                                detach_benign};
  const bool wide = half % kWide<T> == 0 && is_aligned(grad_out, kWide<T>) && is_aligned(out, kWide<T>) &&
                    is_aligned(gradient, kWide<T>);
  launch_gradient(p.distances, scratch, wide, stream, [&](auto vector, auto per_row, int64_t blocks) {
    NS_LAUNCH((relu_gradient_kernel<T, decltype(vector)::value, decltype(per_row)::value>), blocks, kThreads, stream,
              p);
  });
}

}  // namespace neurosens
