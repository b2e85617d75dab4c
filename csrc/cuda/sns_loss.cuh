// The mean distance of chosen neurons, what the similarity loss makes of the distances [C], and its gradient.
#pragma once

#include "launch.cuh"

namespace neurosens {

// One block. The order of additions depends on k alone. A neuron out of range makes the loss NaN.
template <typename A>
__global__ void __launch_bounds__(kThreads) mean_of_neurons_kernel(const A* distances,      // [C]
                                                                   const int64_t* neurons,  // [k]
                                                                   int64_t* copy,           // [k] or none
                                                                   A* loss,                 // [1]
                                                                   int64_t channels, int64_t k) {
  NS_SHARED(double, sums, kThreads);
  // 1. Neurons in turn; every thread adds its own.
  double sum = 0;
  for (int64_t i = threadIdx.x; i < k; i += kThreads) {
    const int64_t c = neurons[i];
    sum += c >= 0 && c < channels ? double(distances[c]) : double(__builtin_nanf(""));
    if (copy) copy[i] = c;
  }
  sums[threadIdx.x] = sum;
  __syncthreads();

  // 2. Fold the threads.
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) *loss = A(sums[0] / double(k));
}

template <typename A>
void mean_of_neurons(const A* distances,      // [C]
                     const int64_t* neurons,  // [k]
                     int64_t* copy,           // [k] or none
                     A* loss,                 // [1]
                     int64_t channels, int64_t k, cudaStream_t stream) {
  NS_LAUNCH((mean_of_neurons_kernel<A>), 1, kThreads, stream, distances, neurons, copy, loss, channels, k);
}

// One block. All that is added to a neuron is alike, so the order of additions changes nothing. A neuron out of range
// has no gradient.
template <typename A>
__global__ void __launch_bounds__(kThreads) weights_of_neurons_kernel(const A* grad,           // [1]
                                                                      const int64_t* neurons,  // [k]
                                                                      A* weights,              // [C]
                                                                      int64_t channels, int64_t k) {
  for (int64_t c = threadIdx.x; c < channels; c += kThreads) weights[c] = 0;
  __syncthreads();
  const A share = *grad * A(1 / double(k));
  for (int64_t i = threadIdx.x; i < k; i += kThreads)
    if (const int64_t c = neurons[i]; c >= 0 && c < channels) atomicAdd(weights + c, share);
}

// The gradient of each distance for that of the mean: a share for every time that a neuron was chosen.
template <typename A>
void weights_of_neurons(const A* grad,           // [1]
                        const int64_t* neurons,  // [k]
                        A* weights,              // [C]
                        int64_t channels, int64_t k, cudaStream_t stream) {
  NS_LAUNCH((weights_of_neurons_kernel<A>), 1, kThreads, stream, grad, neurons, weights, channels, k);
}

}  // namespace neurosens
