// pair_statistics and accumulate_pair_statistics_ on CUDA: checks, launch, registration.
#include "accumulate_pair_statistics.cuh"
#include "tensors.h"

namespace neurosens {

NS_ALL_PAIR_STATISTICS(, AllStatistics);

}  // namespace neurosens

namespace neurosens::cuda {
namespace {

template <typename T>
struct PartsScratch {
  accumulate_t<T>* parts;
  PartsScratch(Arena& arena, const Shape& shape) : parts(take_parts<T, AllStatistics>(arena, shape)) {}
};

Tensor pair_statistics(const Tensor& benign, const Tensor& adversarial, int64_t channel_dim) {
  const Device device(benign);
  const Pair pair = pair_of(benign, adversarial, channel_dim);
  const Layout& l = pair.layout;
  Tensor out = new_tensor(benign, {l.samples, l.channels, kRowCount}, accumulate_type(benign));
  with_element_type(benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Activations<T> in(pair);
    const Scratch<PartsScratch<T>> scratch(benign, in.shape);
    neurosens::pair_statistics(Read<T, AllStatistics>{}, in.z, in.z_adv, mutable_data<accumulate_t<T>>(out),
                               (*scratch).parts, in.shape, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

void accumulate_pair_statistics_(Tensor sums, Tensor maxima, const Tensor& benign, const Tensor& adversarial,
                                 int64_t channel_dim) {
  const Device device(benign);
  const Pair pair = pair_of(benign, adversarial, channel_dim);
  const int64_t channels = pair.layout.channels;
  check_device(sums, benign, "sums");
  check_device(maxima, benign, "maxima");
  check_totals(sums, channels, kSumCount, "sums");
  check_totals(maxima, channels, kRowMaxima, "maxima");
  STD_TORCH_CHECK(pair.layout.samples <= kMaxSamples, "at most 2^30 - 1 samples, got ", pair.layout.samples);
  with_element_type(benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Activations<T> in(pair);
    const Scratch<AccumulateScratch<T>> scratch(benign, in.shape);
    accumulate_pair_statistics(Read<T, AllStatistics>{}, in.z, in.z_adv, mutable_data<double>(sums),
                               mutable_data<double>(maxima), *scratch, in.shape, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace
}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) {
  m.impl("pair_statistics", TORCH_BOX(&neurosens::cuda::pair_statistics));
  m.impl("accumulate_pair_statistics_", TORCH_BOX(&neurosens::cuda::accumulate_pair_statistics_));
}
