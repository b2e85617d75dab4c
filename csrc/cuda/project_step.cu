// project_step_ and momentum_step_ on CUDA: checks, launch, registration.
#include "project_step.cuh"

#include "../step_arguments.h"
#include "project_ball.cuh"
#include "tensors.h"

#include <utility>

namespace neurosens::cuda {
namespace {

// Tensors as the kernels read them, those that are mutated first: as they are, or copied where they do not lie alike.
class Steps {
 public:
  Steps(std::vector<Tensor> tensors, bool samples) : tensors_(std::move(tensors)) {
    const Tensor& adversarial = tensors_[0];
    for (const Tensor& x : tensors_) check_like(x, adversarial, "gradient, origin and momentum", "adversarial");
    STD_TORCH_CHECK(adversarial.numel() <= kMaxElements, "at most 2^36 elements, got ", adversarial.numel());
    copied_ = !lie_alike(tensors_, samples);
    for (Tensor& x : tensors_) used_.push_back(copied_ ? contiguous_copy(x) : x);
    if (!samples) return;
    const int64_t n = adversarial.size(0);
    STD_TORCH_CHECK(n <= kMaxSamples, "at most 2^30 - 1 samples, got ", n);
    plan_ = step_plan(n, n ? adversarial.numel() / n : 0);
  }
  Tensor& operator[](size_t i) { return used_[i]; }
  const StepPlan& plan() const { return plan_; }
  void write_back(size_t mutated) {
    if (copied_)
      for (size_t i = 0; i < mutated; ++i) torch::stable::copy_(tensors_[i], used_[i]);
  }

 private:
  std::vector<Tensor> tensors_, used_;
  StepPlan plan_ = {0, 0, 0, 0};
  bool copied_;
};

void project_step_(Tensor adversarial, const Tensor& gradient, const Tensor& origin, double step_size, double epsilon,
                   std::string norm, double low, double high) {
  const Ball ball = ball_named(norm);
  if (ball != Ball::kLinf) check_samples(adversarial);
  const Device device(adversarial);
  Steps x({adversarial, gradient, origin}, ball != Ball::kLinf);
  with_element_type(adversarial, "adversarial", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const LimitsOf<T> limits = limits_of<T>(step_size, epsilon, low, high);
    T* to = mutable_data<T>(x[0]);
    if (ball == Ball::kLinf) {
      project_step(to, data<T>(x[1]), data<T>(x[2]), x[0].numel(), limits, device.stream());
    } else {
      const Scratch<StepScratch> scratch(adversarial, x.plan());
      project_ball(StepTensors<T>{to, data<T>(x[1]), data<T>(x[2])}, *scratch, x.plan(), limits, ball == Ball::kL2,
                   device.stream());
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  x.write_back(1);
}

void momentum_step_(Tensor adversarial, Tensor momentum, const Tensor& gradient, const Tensor& origin, double step_size,
                    double epsilon, double decay, std::string norm, double low, double high) {
  check_momentum_norm(norm);
  check_samples(adversarial);
  const Device device(adversarial);
  Steps x({adversarial, momentum, gradient, origin}, true);
  with_element_type(adversarial, "adversarial", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Scratch<StepScratch> scratch(adversarial, x.plan());
    momentum_step(StepTensors<T>{mutable_data<T>(x[0]), data<T>(x[2]), data<T>(x[3])}, mutable_data<T>(x[1]), *scratch,
                  x.plan(), limits_of<T>(step_size, epsilon, low, high), decay, device.stream());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  x.write_back(2);
}

}  // namespace
}  // namespace neurosens::cuda

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CUDA, m) {
  m.impl("project_step_", TORCH_BOX(&neurosens::cuda::project_step_));
  m.impl("momentum_step_", TORCH_BOX(&neurosens::cuda::momentum_step_));
}
