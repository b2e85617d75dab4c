// read_bytes on CUDA: checks, launch, registration.
#include "read_bytes.cuh"
#include "tensors.h"

namespace neurosens::cuda {
namespace {

Tensor read_bytes(const Tensor& benign, const Tensor& adversarial) {
  const Device device(benign);
  check_device(adversarial, benign, "adversarial");
  const auto half = [](const Tensor& x) {
    const ReadHalf h = {data<unsigned char>(x), x.numel() * int64_t(x.element_size())};
    STD_TORCH_CHECK(is_dense(x), "benign and adversarial must be dense");
    STD_TORCH_CHECK(is_aligned(h.data, 16), "read_bytes needs storage aligned to 16 bytes");
    return h;
  };
  const ReadHalf z = half(benign), z_adv = half(adversarial);
  Tensor out = new_tensor(benign, {1}, ScalarType::Long);
  Tensor blocks = new_tensor(benign, {z.blocks() + z_adv.blocks()}, ScalarType::Long);
  neurosens::read_bytes(z, z_adv, mutable_data<uint64_t>(out), mutable_data<uint64_t>(blocks), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace
}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) { m.impl("read_bytes", TORCH_BOX(&neurosens::cuda::read_bytes)); }
