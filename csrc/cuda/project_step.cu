// project_step_ on CUDA: checks, launch, registration.
#include "project_step.cuh"
#include "tensors.h"

#include <algorithm>
#include <utility>

namespace neurosens::cuda {
namespace {

void project_step_(Tensor adversarial, const Tensor& gradient, const Tensor& origin, double step_size, double epsilon,
                   std::string norm, double low, double high) {
  STD_TORCH_CHECK(norm == "linf", "norm must be \"linf\", got \"", norm, "\"");
  const Device device(adversarial);
  check_like(gradient, adversarial, "gradient", "adversarial");
  check_like(origin, adversarial, "origin", "adversarial");
  STD_TORCH_CHECK(adversarial.numel() <= kMaxElements, "at most 2^36 elements, got ", adversarial.numel());
  // Elements meet at equal offsets: either all tensors lie alike, or contiguous copies do.
  const bool direct = is_dense(adversarial) && same_strides(gradient, adversarial) && same_strides(origin, adversarial);
  Tensor target = direct ? adversarial : contiguous_copy(adversarial);
  const Tensor g = direct ? gradient : torch::stable::contiguous(gradient);
  const Tensor x = direct ? origin : torch::stable::contiguous(origin);
  with_element_type(adversarial, "adversarial", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    project_step(mutable_data<T>(target), data<T>(g), data<T>(x), target.numel(),
                 LinfStep{step_size, epsilon, low, high}, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  if (!direct) torch::stable::copy_(adversarial, target);
}

}  // namespace
}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) {
  m.impl("project_step_", TORCH_BOX(&neurosens::cuda::project_step_));
}
