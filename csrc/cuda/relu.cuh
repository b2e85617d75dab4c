// ReLU while a pair is read: what the kernels that only read take instead of Read to write it as well.
#pragma once

#include "../math/relu.h"
#include "row_state.cuh"

namespace neurosens {

// Stores the ReLU of every pack read, `shift` bytes further on, and hands it on. In place `shift` is 0,
// so the read-only cache must not be used.
template <typename T, typename Set>
struct Relu {
  using Statistics = Set;
  static constexpr bool kWrites = true;
  int64_t shift;
  bool keeps_negative_zero;

  template <int V>
  __device__ __forceinline__ bool wants(int64_t) const {
    return true;
  }
  template <int V>
  __device__ __forceinline__ Loaded<T, V> load(const T* p) const {
    return {bit_copy<decltype(Loaded<T, V>::word)>(load_written<V>(p))};
  }
  template <int V>
  __device__ __forceinline__ Loaded<T, V> take(const T* p, const Loaded<T, V>& pack) const {
    Pack<T, V> out = bit_copy<Pack<T, V>>(pack.word);
#pragma unroll
    for (int v = 0; v < V; ++v) out.at[v] = relu(out.at[v], keeps_negative_zero);
    store<V>(reinterpret_cast<T*>(reinterpret_cast<char*>(const_cast<T*>(p)) + shift), out);
    return {bit_copy<decltype(Loaded<T, V>::word)>(out)};
  }
};

}  // namespace neurosens
