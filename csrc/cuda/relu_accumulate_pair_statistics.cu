// relu_accumulate_pair_statistics_ on CUDA: checks, launch, registration. Its kernels are those of
// accumulate_pair_statistics_ that write what they read, see relu.cuh.
#include "accumulate_pair_statistics.cuh"
#include "relu.cuh"
#include "tensors.h"

namespace neurosens::cuda {
namespace {

// False where the layout of `pair`, with its channel at dimension 1, does not allow it.
template <typename T>
bool relu_accumulate(const Tensor& pair, Tensor& sums, Tensor& maxima, cudaStream_t stream) {
  const JoinedViews<T> in(pair);
  if (!in.walkable) return false;
  const Scratch<AccumulateScratch<T>> scratch(pair, in.shape);
  const Relu<T, AllStatistics> in_place = {0, keeps_negative_zero()};
  accumulate_pair_statistics(in_place, in.z, in.z_adv, mutable_data<double>(sums), mutable_data<double>(maxima),
                             *scratch, in.shape, stream);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return true;
}

void relu_accumulate_pair_statistics_(Tensor sums, Tensor maxima, Tensor pair, int64_t channel_dim) {
  const Device device(pair);
  check_activation(pair, channel_dim, "pair");
  STD_TORCH_CHECK(pair.size(0) % 2 == 0, "pair must be [2N, C, *S], got an odd batch of ", pair.size(0));
  STD_TORCH_CHECK(pair.size(0) / 2 <= kMaxSamples, "at most 2^30 - 1 samples, got ", pair.size(0) / 2);
  check_overwritable(pair, "pair");
  Tensor x = channel_second(pair, channel_dim);
  check_device(sums, pair, "sums");
  check_device(maxima, pair, "maxima");
  check_totals(sums, x.size(1), kSumCount, "sums");
  check_totals(maxima, x.size(1), kRowMaxima, "maxima");
  with_element_type(pair, "pair", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (relu_accumulate<T>(x, sums, maxima, device.stream())) return;
    const Tensor copy = contiguous_copy(x);
    relu_accumulate<T>(copy, sums, maxima, device.stream());
    torch::stable::copy_(x, copy);
  });
}

}  // namespace
}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) {
  m.impl("relu_accumulate_pair_statistics_", TORCH_BOX(&neurosens::cuda::relu_accumulate_pair_statistics_));
}
