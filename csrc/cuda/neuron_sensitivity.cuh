// The distances and the sensitivity of every neuron, [C], and the gradient of the distances.
//
// Forward: row statistics (one read, see pair_statistics.cuh), then distances summed over groups of
// samples [G, C] and the groups in order, in float64. Backward: one read and one write of both halves;
// norms whose gradient depends on the whole row read the pair once more for its statistics. Channels
// whose incoming gradient is 0 are not read.
#pragma once

#include "accumulate_pair_statistics.cuh"

namespace neurosens {

// The distance of a norm, and after it norm 1, which is the sensitivity, unless both are the same.
inline int distances_of(Distance distance) { return distance == Distance::kL1 ? 1 : 2; }

template <typename Source>
__global__ void __launch_bounds__(kGroupThreads) group_distance_kernel(Source source,     // rows [N, C]
                                                                       double* partials,  // [1 or 2, G, C]
                                                                       Shape shape, Groups groups, Distance distance) {
  using A = typename Source::type;
  // A 64-bit division here would take the registers that loads in flight need.
  const unsigned blocks = unsigned(ceil_divide(shape.channels, kGroupThreads)), group = blockIdx.x / blocks;
  const int64_t c = int64_t(blockIdx.x - group * blocks) * kGroupThreads + threadIdx.x;
  if (c >= shape.channels) return;
  const int64_t last = least((int64_t(group) + 1) * groups.samples, shape.samples);
  double sum = 0, sensitivity = 0;
  for (int64_t n = int64_t(group) * groups.samples; n < last; ++n) {
    A row[kRowCount];
    source.read(shape, n, c, row);
    sum += double(row_distance(distance, row, A(shape.positions), 1));
    sensitivity += double(row_distance(Distance::kL1, row, A(shape.positions), 1));
  }
  partials[group * shape.channels + c] = sum;
  if (distance != Distance::kL1) partials[(groups.count + group) * shape.channels + c] = sensitivity;
}

template <typename A>
__global__ void __launch_bounds__(kThreads) mean_distance_kernel(const double* partials,  // [1 or 2, G, C]
                                                                 A* distances,            // [C]
                                                                 A* sensitivity,          // [C]
                                                                 Shape shape, int64_t groups, Distance distance) {
  const int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= shape.channels) return;
  const auto mean = [&](const double* group) {
    double sum = 0;
    for (int64_t g = 0; g < groups; ++g) sum += group[g * shape.channels + c];
    return A(sum / double(shape.samples));
  };
  distances[c] = mean(partials);
  sensitivity[c] = distance == Distance::kL1 ? distances[c] : mean(partials + groups * shape.channels);
}

template <typename T>
struct SensitivityScratch {
  RowScratch::Pieces<accumulate_t<T>> rows;
  double* partials;
  SensitivityScratch(Arena& arena, const Shape& shape, Distance distance)
      : rows(RowScratch::take<T, Moments>(arena, shape)),
        partials(arena.take<double>(distances_of(distance) * sample_groups(shape).count * shape.channels)) {}
};

template <typename Tap, typename T>
void neuron_sensitivity(const Tap& tap,
                        const View<T>& z,              // [N, C, S]
                        const View<T>& z_adv,          // [N, C, S]
                        accumulate_t<T>* distances,    // [C]
                        accumulate_t<T>* sensitivity,  // [C]
                        const SensitivityScratch<T>& scratch, Distance distance, const Shape& shape,
                        cudaStream_t stream) {
  const Groups groups = sample_groups(shape);
  if (shape.rows() > 0)
    RowScratch::read(tap, z, z_adv, scratch.rows, shape, stream, [&](auto source) {
      NS_LAUNCH((group_distance_kernel<decltype(source)>), groups.count * ceil_divide(shape.channels, kGroupThreads),
                kGroupThreads, stream, source, scratch.partials, shape, groups, distance);
    });
  NS_LAUNCH((mean_distance_kernel<accumulate_t<T>>), ceil_divide(shape.channels, kThreads), kThreads, stream,
            scratch.partials, distances, sensitivity, shape, groups.count, distance);
}

// Whether the gradient of an element depends on its whole row.
inline bool needs_rows(Distance distance) { return distance == Distance::kL2 || distance == Distance::kCosine; }

template <typename Source>
__global__ void __launch_bounds__(kGroupThreads)
    row_gradient_kernel(Source source,                                  // rows [N, C]
                        const typename Source::type* grad,              // [C]
                        RowGradient<typename Source::type>* gradients,  // [N, C], not written where grad is 0
                        Shape shape, Distance distance) {
  using A = typename Source::type;
  const int64_t i = int64_t(blockIdx.x) * kGroupThreads + threadIdx.x;
  if (i >= shape.rows()) return;
  const int64_t n = divide(i, shape.channels), c = i - n * shape.channels;
  if (grad[c] == 0) return;
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
  const accumulate_t<T>* grad;                    // [C]
  const RowGradient<accumulate_t<T>>* gradients;  // [N, C], read where rows matter and grad is not 0
  T* grad_benign;                                 // as z, or none
  T* grad_adversarial;                            // as z, or none
  Shape shape;
  Distance distance;
  accumulate_t<T> change = 0;  // the coefficient of all rows, where they do not matter, over the samples
};

template <typename A>
inline A change_of_all(Distance distance, const Shape& shape) {
  const A unused[kRowCount] = {};
  return row_gradient(distance, unused, A(shape.positions), 1).change / A(shape.samples);
}

// The coefficients of V adjacent elements from e on, and a bit for each whose channel has a gradient.
template <typename T, int V, bool PerRow>
struct PackGradient {
  using A = accumulate_t<T>;
  RowGradient<A> of[V];
  unsigned chosen = 0;

  __device__ __forceinline__ PackGradient(const GradientArguments<T>& p, int64_t e) {
    Cursor at(p.shape, e);
    if (!p.shape.columns && at.within + V <= p.shape.positions) {  // one row
      chosen = look_up(p, at, of[0]) ? (1u << V) - 1 : 0;
#pragma unroll
      for (int v = 1; v < V; ++v) of[v] = of[0];
      return;
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      chosen |= unsigned(look_up(p, at, of[v])) << v;
      if (v + 1 < V) at.next(p.shape);
    }
  }

 private:
  static __device__ __forceinline__ bool look_up(const GradientArguments<T>& p, const Cursor& at, RowGradient<A>& of) {
    const A weight = p.grad[at.channel];
    if constexpr (PerRow)
      of = weight != 0 ? p.gradients[at.row] : RowGradient<A>{};
    else
      of = {p.change * weight, 0, 0};
    return weight != 0;
  }
};

// V adjacent elements from e on. NaN of other channels must not leak: they are left out, not weighed with 0.
template <typename T, int V, bool PerRow>
__device__ __forceinline__ void write_gradient(const GradientArguments<T>& p, int64_t e) {
  using A = accumulate_t<T>;
  const PackGradient<T, V, PerRow> gradient(p, e);
  Pack<T, V> a = {}, b = {};
  if (gradient.chosen != 0) {
    a = load<V>(p.z + e), b = load<V>(p.z_adv + e);
#pragma unroll
    for (int v = 0; v < V; ++v) {
      A benign, adversarial;
      element_gradient(p.distance == Distance::kL1, gradient.of[v], to_float(a.at[v]), to_float(b.at[v]), benign,
                       adversarial);
      const bool chosen = gradient.chosen >> v & 1;
      a.at[v] = chosen ? narrow<T>(benign) : T{};
      b.at[v] = chosen ? narrow<T>(adversarial) : T{};
    }
  }
  if (p.grad_benign) store<V>(p.grad_benign + e, a);
  if (p.grad_adversarial) store<V>(p.grad_adversarial + e, b);
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
    rows = RowScratch::take<T, Moments>(arena, shape);
    gradients = arena.take<RowGradient<A>>(shape.rows());
  }
};

// Computes the coefficients of the rows where the norm has any, or that of all, then calls launch(V, PerRow, blocks):
// elements per access and whether rows matter, as constants, and the blocks that cover all elements.
template <typename T, typename Launch>
void launch_gradient(GradientArguments<T>& p, const GradientScratch<T>& scratch, bool wide, cudaStream_t stream,
                     Launch&& launch) {
  const Shape& shape = p.shape;
  if (shape.elements() == 0) return;
  const bool per_row = needs_rows(p.distance);
  if (per_row)
    RowScratch::read(Read<T, Moments>{p.grad}, dense(p.z, shape), dense(p.z_adv, shape), scratch.rows, shape, stream,
                     [&](auto source) {
                       NS_LAUNCH((row_gradient_kernel<decltype(source)>), ceil_divide(shape.rows(), kGroupThreads),
                                 kGroupThreads, stream, source, p.grad, scratch.gradients, shape, p.distance);
                     });
  else
    p.change = change_of_all<accumulate_t<T>>(p.distance, shape);
  using Wide = std::integral_constant<int, kWide<T>>;
  using One = std::integral_constant<int, 1>;
  const int64_t blocks = ceil_divide(shape.elements(), kThreads * (wide ? kWide<T> : 1));
  if (wide)
    per_row ? launch(Wide(), std::true_type(), blocks) : launch(Wide(), std::false_type(), blocks);
  else
    per_row ? launch(One(), std::true_type(), blocks) : launch(One(), std::false_type(), blocks);
}

template <typename T>
void neuron_sensitivity_backward(const accumulate_t<T>* grad,  // [C]
                                 const T* z,                   // [N, C, S] or [N, S, C], dense
                                 const T* z_adv,               // as z
                                 T* grad_benign,               // as z, or none
                                 T* grad_adversarial,          // as z, or none
                                 const GradientScratch<T>& scratch, Distance distance, const Shape& shape,
                                 cudaStream_t stream) {
  GradientArguments<T> p = {z, z_adv, grad, scratch.gradients, grad_benign, grad_adversarial, shape, distance};
  const bool wide = is_aligned(z, kWide<T>) && is_aligned(z_adv, kWide<T>) && is_aligned(grad_benign, kWide<T>) &&
                    is_aligned(grad_adversarial, kWide<T>);
  launch_gradient(p, scratch, wide, stream, [&](auto vector, auto per_row, int64_t blocks) {
    NS_LAUNCH((element_gradient_kernel<T, decltype(vector)::value, decltype(per_row)::value>), blocks, kThreads, stream,
              p);
  });
}

}  // namespace neurosens
