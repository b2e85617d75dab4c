// The mean distance of chosen neurons: what the similarity loss makes of the distances [C].
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

}  // namespace neurosens
