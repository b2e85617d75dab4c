// What every kernel file shares: the one launch macro, shared memory, wide loads, scratch memory.
//
// Kernels are free of torch headers. The same source is compiled by nvcc and, with NS_EMULATION
// defined, by a host compiler against tests/emulation/cuda_emulation.h.
#pragma once

#include "../math/half.h"

#include <cstddef>
#include <type_traits>

#if defined(NS_EMULATION)
#include "cuda_emulation.h"
#else
#include <cuda_runtime.h>
#define NS_SHARED(type, name, size) __shared__ type name[size]
// NS_LAUNCH((kernel<T, V>), blocks, threads, stream, arguments...); an empty grid launches nothing.
#define NS_LAUNCH(kernel, blocks, threads, stream, ...)                                      \
  do {                                                                                       \
    const int64_t ns_blocks = (blocks);                                                      \
    if (ns_blocks > 0) (kernel)<<<unsigned(ns_blocks), (threads), 0, stream>>>(__VA_ARGS__); \
  } while (0)
#endif

namespace neurosens {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;
// Kernels need at most one block per 64 elements, or two per sample (kMaxSamples): grids stay below 2^31 blocks.
constexpr int64_t kMaxElements = int64_t(1) << 36;
constexpr int64_t kMaxSamples = (int64_t(1) << 30) - 1;

NS_HD int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }
NS_HD int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
NS_HD int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Division of non-negative numbers; the 32-bit one is several times cheaper on a GPU.
NS_HD int64_t divide(int64_t a, int64_t b) { return ((a | b) >> 32) == 0 ? int64_t(uint32_t(a) / uint32_t(b)) : a / b; }

template <int Bytes>
struct Word;
template <>
struct Word<16> {
  using type = uint4;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<4> {
  using type = unsigned int;
};
template <>
struct Word<2> {
  using type = unsigned short;
};

template <typename T, int V>
struct alignas(V * sizeof(T)) Pack {
  T at[V];
};

// V elements as they were loaded. 16-bit ones are unpacked from 32-bit words at their use, so that packs
// in flight hold no more registers than bytes.
template <typename T, int V>
struct Loaded {
  typename Word<V* int(sizeof(T))>::type word;

  __device__ __forceinline__ accumulate_t<T> operator[](int v) const {
    if constexpr (sizeof(T) == 2 && V > 1) {
      const uint32_t pair = bit_copy<Pack<uint32_t, V / 2>>(word).at[v / 2];
      if constexpr (std::is_same_v<T, BFloat16>)
        return bit_copy<float>(v % 2 ? pair & 0xffff0000u : pair << 16);
      else
        return to_float(T{uint16_t(v % 2 ? pair >> 16 : pair)});
    } else {
      return to_float(bit_copy<Pack<T, V>>(word).at[v]);
    }
  }
};

template <int V, typename T>
__device__ __forceinline__ Loaded<T, V> load_word(const T* p) {
  return {__ldg(reinterpret_cast<const decltype(Loaded<T, V>::word)*>(p))};
}

// One access of V elements; the address must be aligned to V elements.
template <int V, typename T>
__device__ __forceinline__ Pack<T, V> load(const T* p) {
  using W = typename Word<V* int(sizeof(T))>::type;
  return bit_copy<Pack<T, V>>(__ldg(reinterpret_cast<const W*>(p)));
}

// The same for memory that the kernel also writes, where the read-only cache must not be used.
template <int V, typename T>
__device__ __forceinline__ Pack<T, V> load_written(const T* p) {
  using W = typename Word<V* int(sizeof(T))>::type;
  return bit_copy<Pack<T, V>>(*reinterpret_cast<const W*>(p));
}

template <int V, typename T>
__device__ __forceinline__ void store(T* p, const Pack<T, V>& pack) {
  using W = typename Word<V* int(sizeof(T))>::type;
  *reinterpret_cast<W*>(p) = bit_copy<W>(pack);
}

// From the accumulation dtype back to the element dtype.
template <typename T, typename A>
NS_HD T narrow(A x) {
  if constexpr (std::is_same_v<T, A>)
    return x;
  else
    return from_float<T>(x);
}

// Elements of one 16-byte access.
template <typename T>
constexpr int kWide = 16 / int(sizeof(T));

template <typename T>
inline bool is_aligned(const T* p, int elements) {
  return reinterpret_cast<uintptr_t>(p) % (sizeof(T) * size_t(elements)) == 0;
}

// What a kernel does with the packs it reads: nothing else, here. `weights` [C], where given, names the channels
// to read, those whose weight is not 0; the others count as empty. `Set` says which statistics are wanted.
template <typename T, typename Set>
struct Read {
  using Statistics = Set;
  static constexpr bool kWrites = false;
  const accumulate_t<T>* weights = nullptr;

  template <int V>
  __device__ __forceinline__ bool wants(int64_t channel) const {
    bool wanted = weights == nullptr;
    for (int v = 0; v < V && !wanted; ++v) wanted = weights[channel + v] != 0;
    return wanted;
  }
  template <int V>
  __device__ __forceinline__ Loaded<T, V> load(const T* p) const {
    return load_word<V>(p);
  }
  template <int V>
  __device__ __forceinline__ Loaded<T, V> take(const T*, const Loaded<T, V>& pack) const {
    return pack;
  }
};

// Reads pairs of packs i, i + step, ... below end, i < step, pack i at z + i * stride and z_adv + i * stride_adv,
// and hands them to `add` in that order. U packs of each tensor are in flight before the first is used.
template <int V, int U, typename Tap, typename T, typename Add>
__device__ __forceinline__ void read_pairs(const Tap& tap, const T* z, int64_t stride, const T* z_adv,
                                           int64_t stride_adv, int64_t i, int64_t end, int64_t step, Add&& add) {
  const auto load = [&](const T* p) { return tap.template load<V>(p); };
  const auto use = [&](int u, const Loaded<T, V>& a, const Loaded<T, V>& b) {
    add(tap.template take<V>(z + u * stride, a), tap.template take<V>(z_adv + u * stride_adv, b));
  };
  z += i * stride;
  z_adv += i * stride_adv;
  stride *= step;
  stride_adv *= step;
  Loaded<T, V> a[U], b[U];
  // All threads leave this loop at once, lest a warp takes both it and the rest.
  for (; end >= U * step; end -= U * step) {
#pragma unroll
    for (int u = 0; u < U; ++u) a[u] = load(z + u * stride), b[u] = load(z_adv + u * stride_adv);
#pragma unroll
    for (int u = 0; u < U; ++u) use(u, a[u], b[u]);
    z += U * stride;
    z_adv += U * stride_adv;
  }
#pragma unroll
  for (int u = 0; u < U; ++u)
    if (i + u * step < end) a[u] = load(z + u * stride), b[u] = load(z_adv + u * stride_adv);
#pragma unroll
  for (int u = 0; u < U; ++u)
    if (i + u * step < end) use(u, a[u], b[u]);
}

// Cuts one allocation into aligned pieces; from a null base it only counts the bytes.
class Arena {
 public:
  explicit Arena(void* base = nullptr) : base_(static_cast<char*>(base)) {}
  template <typename T>
  T* take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += ceil_divide(count * int64_t(sizeof(T)), 256) * 256;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace neurosens
