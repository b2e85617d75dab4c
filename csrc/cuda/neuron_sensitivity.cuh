// The sensitivity of every neuron, [C], and its gradient.
//
// Forward: row statistics (one read, see pair_statistics.cuh), then distances summed over groups of
// samples [G, C] and the groups in order, in float64. Backward: one read and one write of both halves;
// norms whose gradient depends on the whole row read the pair once more for its statistics.
#pragma once

#include "accumulate_pair_statistics.cuh"

namespace neurosens {

template <typename Source>
__global__ void __launch_bounds__(kGroupThreads) group_distance_kernel(Source source,     // rows [N, C]
                                                                       double* partials,  // [G, C]
                                                                       Shape shape, Groups groups, Distance distance) {
  using A = typename Source::type;
  const int64_t i = int64_t(blockIdx.x) * kGroupThreads + threadIdx.x;
  if (i >= groups.count * shape.channels) return;
  const int64_t group = divide(i, shape.channels), c = i - group * shape.channels;
  const int64_t last = least((group + 1) * groups.samples, shape.samples);
  double sum = 0;
  for (int64_t n = group * groups.samples; n < last; ++n) {
    A row[kRowCount];
    source.read(shape, n, c, row);
    sum += double(row_distance(distance, row, A(shape.positions), 1));
  }
  partials[i] = sum;
}

template <typename A>
__global__ void __launch_bounds__(kThreads) mean_distance_kernel(const double* partials,  // [G, C]
                                                                 A* sensitivity,          // [C]
                                                                 Shape shape, int64_t groups) {
  const int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= shape.channels) return;
  double sum = 0;
  for (int64_t g = 0; g < groups; ++g) sum += partials[g * shape.channels + c];
  sensitivity[c] = A(sum / double(shape.samples));
}

template <typename T>
struct SensitivityScratch {
  RowScratch::Pieces<accumulate_t<T>> rows;
  double* partials;
  SensitivityScratch(Arena& arena, const Shape& shape)
      : rows(RowScratch::take<T>(arena, shape)),
        partials(arena.take<double>(sample_groups(shape).count * shape.channels)) {}
};

template <typename T>
void neuron_sensitivity(const View<T>& z,              // [N, C, S]
                        const View<T>& z_adv,          // [N, C, S]
                        accumulate_t<T>* sensitivity,  // [C]
                        const SensitivityScratch<T>& scratch, Distance distance, const Shape& shape,
                        cudaStream_t stream) {
  const Groups groups = sample_groups(shape);
  if (shape.rows() > 0)
    RowScratch::read(z, z_adv, scratch.rows, shape, stream, [&](auto source) {
      NS_LAUNCH((group_distance_kernel<decltype(source)>), ceil_divide(groups.count * shape.channels, kGroupThreads),
                kGroupThreads, stream, source, scratch.partials, shape, groups, distance);
    });
  NS_LAUNCH((mean_distance_kernel<accumulate_t<T>>), ceil_divide(shape.channels, kThreads), kThreads, stream,
            scratch.partials, sensitivity, shape, groups.count);
}

// Whether the gradient of an element depends on its whole row.
inline bool needs_rows(Distance distance) { return distance == Distance::kL2 || distance == Distance::kCosine; }

template <typename Source>
__global__ void __launch_bounds__(kGroupThreads)
    row_gradient_kernel(Source source,                                  // rows [N, C]
                        const typename Source::type* grad,              // [C]
                        RowGradient<typename Source::type>* gradients,  // [N, C]
                        Shape shape, Distance distance) {
  using A = typename Source::type;
  const int64_t i = int64_t(blockIdx.x) * kGroupThreads + threadIdx.x;
  if (i >= shape.rows()) return;
  const int64_t n = divide(i, shape.channels), c = i - n * shape.channels;
  A row[kRowCount];
  source.read(shape, n, c, row);
  const RowGradient<A> g = row_gradient(distance, row, A(shape.positions), 1);
  const A weight = grad[c] / A(shape.samples);
  gradients[i] = {weight * g.change, weight * g.benign, weight * g.adversarial};
}

// Everything an element of the gradient needs.
template <typename T>
struct GradientArguments {
  const T* z;                                     // [N, C, S] or [N, S, C], dense
  const T* z_adv;                                 // as z
  const accumulate_t<T>* grad;                    // [C], read where rows do not matter
  const RowGradient<accumulate_t<T>>* gradients;  // [N, C], read where they do
  T* grad_benign;                                 // as z
  T* grad_adversarial;                            // as z
  Shape shape;
  Distance distance;
};

// V adjacent elements from e on.
template <typename T, int V, bool PerRow>
__device__ __forceinline__ void write_gradient(const GradientArguments<T>& p, int64_t e) {
  using A = accumulate_t<T>;
  Pack<T, V> a = load<V>(p.z + e), b = load<V>(p.z_adv + e);
  Cursor at(p.shape, e);
  RowGradient<A> same = {};
  if constexpr (!PerRow) {
    const A unused[kRowCount] = {};
    same = row_gradient(p.distance, unused, A(p.shape.positions), 1);
    same.change /= A(p.shape.samples);
  }
#pragma unroll
  for (int v = 0; v < V; ++v) {
    RowGradient<A> g = same;
    if constexpr (PerRow)
      g = p.gradients[at.row];
    else
      g.change *= p.grad[at.channel];
    A benign, adversarial;
    element_gradient(p.distance == Distance::kL1, g, to_float(a.at[v]), to_float(b.at[v]), benign, adversarial);
    a.at[v] = narrow<T>(benign);
    b.at[v] = narrow<T>(adversarial);
    if (v + 1 < V) at.next(p.shape);
  }
  store<V>(p.grad_benign + e, a);
  store<V>(p.grad_adversarial + e, b);
}

template <typename T, int V, bool PerRow>
__global__ void __launch_bounds__(kThreads) element_gradient_kernel(GradientArguments<T> p) {
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * V, elements = p.shape.elements();
  if (first + V <= elements)
    write_gradient<T, V, PerRow>(p, first);
  else
    for (int64_t e = first; e < elements; ++e) write_gradient<T, 1, PerRow>(p, e);
}

template <typename T>
struct GradientScratch {
  using A = accumulate_t<T>;
  RowScratch::Pieces<A> rows = {};
  RowGradient<A>* gradients = nullptr;
  GradientScratch(Arena& arena, const Shape& shape, Distance distance) {
    if (!needs_rows(distance)) return;
    rows = RowScratch::take<T>(arena, shape);
    gradients = arena.take<RowGradient<A>>(shape.rows());
  }
};

template <typename T>
void neuron_sensitivity_backward(const accumulate_t<T>* grad,  // [C]
                                 const T* z,                   // [N, C, S] or [N, S, C], dense
                                 const T* z_adv,               // as z
                                 T* grad_benign,               // as z
                                 T* grad_adversarial,          // as z
                                 const GradientScratch<T>& scratch, Distance distance, const Shape& shape,
                                 cudaStream_t stream) {
  if (shape.elements() == 0) return;
  const bool per_row = needs_rows(distance);
  if (per_row)
    RowScratch::read(dense(z, shape), dense(z_adv, shape), scratch.rows, shape, stream, [&](auto source) {
      NS_LAUNCH((row_gradient_kernel<decltype(source)>), ceil_divide(shape.rows(), kGroupThreads), kGroupThreads,
                stream, source, grad, scratch.gradients, shape, distance);
    });
  const GradientArguments<T> p = {z, z_adv, grad, scratch.gradients, grad_benign, grad_adversarial, shape, distance};
  const bool wide = is_aligned(z, kWide<T>) && is_aligned(z_adv, kWide<T>) && is_aligned(grad_benign, kWide<T>) &&
                    is_aligned(grad_adversarial, kWide<T>);
  const int64_t blocks = ceil_divide(shape.elements(), kThreads * (wide ? kWide<T> : 1));
  if (wide && per_row)
    NS_LAUNCH((element_gradient_kernel<T, kWide<T>, true>), blocks, kThreads, stream, p);
  else if (wide)
    NS_LAUNCH((element_gradient_kernel<T, kWide<T>, false>), blocks, kThreads, stream, p);
  else if (per_row)
    NS_LAUNCH((element_gradient_kernel<T, 1, true>), blocks, kThreads, stream, p);
  else
    NS_LAUNCH((element_gradient_kernel<T, 1, false>), blocks, kThreads, stream, p);
}

}  // namespace neurosens
