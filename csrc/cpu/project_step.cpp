// project_step_ on the CPU: three reads and one write per element.
#include "support.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace neurosens {
namespace {

void project_step_(Tensor adversarial, const Tensor& gradient, const Tensor& origin, double step_size, double epsilon,
                   std::string norm, double low, double high) {
  STD_TORCH_CHECK(norm == "linf", "norm must be \"linf\", got \"", norm, "\"");
  const auto same = [&](const Tensor& t) {
    if (t.scalar_type() != adversarial.scalar_type() || t.dim() != adversarial.dim()) return false;
    for (int64_t i = 0; i < t.dim(); ++i)
      if (t.size(i) != adversarial.size(i)) return false;
    return true;
  };
  STD_TORCH_CHECK(same(gradient) && same(origin), "adversarial, gradient and origin must have one shape and dtype");
  const auto lies_alike = [&](const Tensor& t) {
    for (int64_t i = 0; i < t.dim(); ++i)
      if (t.size(i) != 1 && t.stride(i) != adversarial.stride(i)) return false;
    return true;
  };
  // Elements meet at equal offsets: either all tensors lie alike, or contiguous copies do.
  const bool direct = is_dense(adversarial) && lies_alike(gradient) && lies_alike(origin);
  Tensor target = direct ? adversarial : torch::stable::clone(torch::stable::contiguous(adversarial));
  const Tensor g = direct ? gradient : torch::stable::contiguous(gradient);
  const Tensor x = direct ? origin : torch::stable::contiguous(origin);
  with_element_type(adversarial, "adversarial", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int64_t kChunk = 16384;
    const int64_t count = target.numel();
    T* to = static_cast<T*>(target.mutable_data_ptr());
    const T *from = static_cast<const T*>(g.const_data_ptr()), *centre = static_cast<const T*>(x.const_data_ptr());
    parallel_tasks(divide_up(count, kChunk), count, [&](int64_t i) {
      const int64_t begin = i * kChunk, length = std::min(kChunk, count - begin);
      kernels_for<T>(kernels()).project(to + begin, from + begin, centre + begin, length,
                                        {step_size, epsilon, low, high});
    });
  });
  if (!direct) torch::stable::copy_(adversarial, target);
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) { m.impl("project_step_", TORCH_BOX(&neurosens::project_step_)); }
