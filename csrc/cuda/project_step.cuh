// One signed-gradient step and its projection onto the epsilon ball and [low, high], in place: one pass.
#pragma once

#include "../math/project.h"
#include "launch.cuh"

namespace neurosens {

template <typename T, int V>
__device__ __forceinline__ void project_pack(T* adversarial, const T* gradient, const T* origin, LimitsOf<T> limits) {
  Pack<T, V> a = load_written<V>(adversarial);
  const Pack<T, V> g = load<V>(gradient), x = load<V>(origin);
#pragma unroll
  for (int v = 0; v < V; ++v)
    a.at[v] = narrow<T>(project_linf<T>(to_float(a.at[v]), to_float(g.at[v]), to_float(x.at[v]), limits));
  store<V>(adversarial, a);
}

template <typename T, int V>
__global__ void __launch_bounds__(kThreads) project_step_kernel(T* adversarial,     // [E]
                                                                const T* gradient,  // [E]
                                                                const T* origin,    // [E]
                                                                int64_t elements, LimitsOf<T> limits) {
  const int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * V;
  if (first + V <= elements)
    project_pack<T, V>(adversarial + first, gradient + first, origin + first, limits);
  else
    for (int64_t e = first; e < elements; ++e) project_pack<T, 1>(adversarial + e, gradient + e, origin + e, limits);
}

template <typename T>
void project_step(T* adversarial,     // [E]
                  const T* gradient,  // [E]
                  const T* origin,    // [E]
                  int64_t elements, LimitsOf<T> limits, cudaStream_t stream) {
  const bool wide = is_aligned(adversarial, kWide<T>) && is_aligned(gradient, kWide<T>) && is_aligned(origin, kWide<T>);
  if (wide)
    NS_LAUNCH((project_step_kernel<T, kWide<T>>), ceil_divide(elements, kThreads * kWide<T>), kThreads, stream,
              adversarial, gradient, origin, elements, limits);
  else
    NS_LAUNCH((project_step_kernel<T, 1>), ceil_divide(elements, kThreads), kThreads, stream, adversarial, gradient,
              origin, elements, limits);
}

}  // namespace neurosens
