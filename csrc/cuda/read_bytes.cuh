// Reads memory and does nothing else: the roofline that other kernels are measured against.
#pragma once

#include "launch.cuh"

namespace neurosens {

constexpr int kReadPacks = 8;  // 16-byte loads in flight per thread

// The exclusive or of 64-bit words: cheap, and the reads cannot be left out.
NS_HD uint64_t fold_word(uint4 w) { return (uint64_t(w.y ^ w.w) << 32) | (w.x ^ w.z); }

__device__ __forceinline__ uint64_t fold_block(uint64_t word, uint64_t* warps) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    word ^= __shfl_xor_sync(kFullMask, static_cast<unsigned long long>(word), mask);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = word;
  __syncthreads();
  uint64_t total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) total ^= warps[w];
  return total;
}

struct ReadHalf {
  const unsigned char* data;  // [bytes], aligned to 16
  int64_t bytes;
  NS_HD int64_t words() const { return bytes / 16; }
  NS_HD int64_t blocks() const { return ceil_divide(words(), kThreads * kReadPacks); }
};

static __global__ void __launch_bounds__(kThreads)
    read_kernel(ReadHalf benign, ReadHalf adversarial,
                uint64_t* blocks) {  // [blocks of benign, blocks of adversarial]
  NS_SHARED(uint64_t, warps, kThreads / kWarp);
  // 1. All loads of a thread before the first use.
  const bool second = blockIdx.x >= benign.blocks();
  const int64_t words = second ? adversarial.words() : benign.words();
  const int64_t block = blockIdx.x - (second ? benign.blocks() : 0);
  const int64_t first = block * kThreads * kReadPacks + threadIdx.x;
  const auto* data = reinterpret_cast<const uint4*>(second ? adversarial.data : benign.data);
  uint4 w[kReadPacks] = {};
#pragma unroll
  for (int u = 0; u < kReadPacks; ++u)
    if (first + u * kThreads < words) w[u] = __ldg(data + first + u * kThreads);
  // 2. Fold.
  uint64_t mine = 0;
#pragma unroll
  for (int u = 0; u < kReadPacks; ++u) mine ^= fold_word(w[u]);
  const uint64_t total = fold_block(mine, warps);
  if (threadIdx.x == 0) blocks[blockIdx.x] = total;
}

static __global__ void __launch_bounds__(kThreads) read_fold_kernel(ReadHalf benign, ReadHalf adversarial,
                                                                    const uint64_t* blocks,  // [blocks]
                                                                    uint64_t* result) {      // [1]
  NS_SHARED(uint64_t, warps, kThreads / kWarp);
  uint64_t mine = 0;
  for (int64_t i = threadIdx.x; i < benign.blocks() + adversarial.blocks(); i += kThreads) mine ^= blocks[i];
  for (const ReadHalf& half : {benign, adversarial}) {  // what does not fill 16 bytes
    const int64_t i = half.words() * 16 + threadIdx.x;
    if (i < half.bytes) mine ^= uint64_t(half.data[i]) << (threadIdx.x % 8 * 8);
  }
  const uint64_t total = fold_block(mine, warps);
  if (threadIdx.x == 0) *result = total;
}

inline void read_bytes(const ReadHalf& benign, const ReadHalf& adversarial,
                       uint64_t* result,  // [1]
                       uint64_t* blocks,  // [blocks of both]
                       cudaStream_t stream) {
  NS_LAUNCH((read_kernel), benign.blocks() + adversarial.blocks(), kThreads, stream, benign, adversarial, blocks);
  NS_LAUNCH((read_fold_kernel), 1, kThreads, stream, benign, adversarial, blocks, result);
}

}  // namespace neurosens
