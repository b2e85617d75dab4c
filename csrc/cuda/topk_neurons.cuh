// The k largest of [C], descending; ties go to the lowest index and NaN is largest.
//
// The place of an element is the number of elements before it in that order. Each is counted on its own,
// without sorting, so nothing depends on timing; the work grows with C^2, which a layer's width allows.
#pragma once

#include "launch.cuh"

namespace neurosens {

// Integers in the order of the floats; -0 equals +0, all NaN are equal and largest.
NS_HD uint32_t order_key(float x) {
  if (is_nan(x)) return 0xffffffffu;
  const uint32_t bits = bit_copy<uint32_t>(x + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
NS_HD uint64_t order_key(double x) {
  if (is_nan(x)) return ~uint64_t(0);
  const uint64_t bits = bit_copy<uint64_t>(x + 0.0);
  return bits >> 63 ? ~bits : bits | uint64_t(1) << 63;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) topk_neurons_kernel(const T* sensitivity,  // [C]
                                                                T* values,             // [k]
                                                                int64_t* indices,      // [k]
                                                                int64_t channels, int64_t k) {
  using Key = decltype(order_key(accumulate_t<T>()));
  constexpr int kSlices = kThreads / kWarp;
  NS_SHARED(Key, tile, kThreads);       // keys of the elements compared with
  NS_SHARED(int64_t, ranks, kThreads);  // [slices, 32 elements]

  // 1. 32 elements per block; each slice compares them with its part of every tile.
  const int lane = threadIdx.x % kWarp, slice = threadIdx.x / kWarp;
  const int64_t i = int64_t(blockIdx.x) * kWarp + lane;
  const T value = sensitivity[least(i, channels - 1)];
  const Key key = order_key(to_float(value));
  int64_t rank = 0;
  for (int64_t first = 0; first < channels; first += kThreads) {
    const int64_t j = first + threadIdx.x;
    if (j < channels) tile[threadIdx.x] = order_key(to_float(sensitivity[j]));
    __syncthreads();
    const int begin = slice * kWarp, end = int(least(begin + kWarp, channels - first));
    for (int t = begin; t < end; ++t) rank += tile[t] > key || (tile[t] == key && first + t < i);
    __syncthreads();
  }

  // 2. Add the slices and scatter.
  ranks[threadIdx.x] = rank;
  __syncthreads();
  if (slice > 0 || i >= channels) return;
  for (int w = 1; w < kSlices; ++w) rank += ranks[w * kWarp + lane];
  if (rank < k) {
    values[rank] = value;
    indices[rank] = i;
  }
}

template <typename T>
void topk_neurons(const T* sensitivity,  // [C]
                  T* values,             // [k]
                  int64_t* indices,      // [k]
                  int64_t channels, int64_t k, cudaStream_t stream) {
  if (k == 0) return;
  NS_LAUNCH((topk_neurons_kernel<T>), ceil_divide(channels, kWarp), kThreads, stream, sensitivity, values, indices,
            channels, k);
}

}  // namespace neurosens
