// project_step_ and momentum_step_ on the CPU.
//
// Bytes: Linf reads three tensors and writes one. The others read a sample several times, out of the cache where it
// fits: many samples are taken one by one, each by one thread; of few, all threads share every pass.
#include "../step_arguments.h"
#include "support.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace neurosens {
namespace {

constexpr int64_t kPart = 16384;     // elements whose sum is formed at once; parts are added in their order
constexpr int64_t kManySamples = 8;  // from which on threads take samples rather than parts of one

// The parts of one sample, one after the other or in parallel; the sum is the same.
struct Parts {
  int64_t count;
  bool parallel;

  template <typename F>
  void each(F&& f) const {
    const auto part = [&](int64_t i) { f(i * kPart, std::min(kPart, count - i * kPart)); };
    if (parallel) return parallel_tasks(divide_up(count, kPart), count, part);
    for (int64_t i = 0; i < divide_up(count, kPart); ++i) part(i);
  }
  template <typename F>
  Excess sum(F&& f) const {
    std::vector<Excess> partial(size_t(divide_up(count, kPart)));
    each([&](int64_t begin, int64_t length) { partial[size_t(begin / kPart)] = f(begin, length); });
    Excess total = {0, 0};
    for (const Excess& x : partial) total = {total.total + x.total, total.count + x.count};
    return total;
  }
};

// The largest size of a gradient where it is divided by that, else 1.
template <typename T>
double peak_of(const T* gradient, const Parts& parts) {
  if (sizeof(T) < 8) return 1;
  std::vector<double> peaks(size_t(divide_up(parts.count, kPart)));
  parts.each([&](int64_t begin, int64_t length) {
    peaks[size_t(begin / kPart)] = kernels_for<T>(kernels()).gradient_peak(gradient + begin, length);
  });
  const double peak = *std::max_element(peaks.begin(), peaks.end());
  return peak > 0 ? peak : 1;
}

template <typename T>
double gradient_sum(const T* gradient, const Parts& parts, double peak, bool squares) {
  return parts
      .sum([&](int64_t begin, int64_t length) {
        return Excess{kernels_for<T>(kernels()).gradient_sum(gradient + begin, length, peak, squares), 0};
      })
      .total;
}

// One step of one sample in the L2 or the L1 ball.
template <typename T>
void project_sample(T* adversarial, const T* gradient, const T* origin, const Parts& parts, Ball ball,
                    const LimitsOf<T>& limits) {
  const PairKernels<T>& k = kernels_for<T>(kernels());
  const bool squares = ball == Ball::kL2;
  const double peak = peak_of(gradient, parts), sum = gradient_sum(gradient, parts, peak, squares);
  const double factor = over_norm(limits.step_size, squares ? square_root(sum) : sum);
  const StepInput<T> in = {adversarial, gradient, origin, peak, factor};
  const double radius = reach_of(limits.epsilon, parts.count);
  const auto excess = [&](double threshold) {
    return parts.sum(
        [&](int64_t begin, int64_t length) { return k.change_sum(in.from(begin), length, threshold, squares); });
  };
  double threshold = 0, scale;
  if (squares) {
    scale = scale_to(square_root(excess(0).total), radius);
  } else {
    L1Search search = {radius};
    while (search.advance(excess(search.threshold))) {
    }
    threshold = search.threshold;
    scale = search.scale();
  }
  parts.each([&](int64_t begin, int64_t length) {
    k.write_change(adversarial + begin, in.from(begin), length, threshold, scale, limits);
  });
}

template <typename T>
void project_elements(T* adversarial, const T* gradient, const T* origin, const Parts& parts,
                      const LimitsOf<T>& limits) {
  parts.each([&](int64_t begin, int64_t length) {
    kernels_for<T>(kernels()).project(adversarial + begin, gradient + begin, origin + begin, length, limits);
  });
}

template <typename F>
void each_sample(const Tensor& x, F&& f) {
  const int64_t samples = x.size(0), count = samples ? x.numel() / samples : 0;
  if (count == 0) return;
  const bool many = samples >= kManySamples;
  const Parts parts = {count, !many};
  parallel_tasks(many ? samples : 1, many ? x.numel() : 0, [&](int64_t i) {
    for (int64_t n = many ? i : 0; n < (many ? i + 1 : samples); ++n) f(n * count, parts);
  });
}

// Tensors as the kernels read them: as they are, or copied where they do not lie alike.
std::vector<Tensor> readable(const std::vector<Tensor>& tensors, size_t mutated, bool samples, bool& copied) {
  for (const Tensor& x : tensors)
    STD_TORCH_CHECK(same_shape(x, tensors[0]),
                    "adversarial, gradient, origin and momentum must have one shape and dtype");
  copied = !lie_alike(tensors, samples);
  if (!copied) return tensors;
  std::vector<Tensor> copies;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor x = as_contiguous(tensors[i]);
    copies.push_back(i < mutated ? torch::stable::clone(x) : x);
  }
  return copies;
}

void project_step_(Tensor adversarial, const Tensor& gradient, const Tensor& origin, double step_size, double epsilon,
                   std::string norm, double low, double high) {
  const Ball ball = ball_named(norm);
  if (ball != Ball::kLinf) check_samples(adversarial);
  bool copied = false;
  std::vector<Tensor> x = readable({adversarial, gradient, origin}, 1, ball != Ball::kLinf, copied);
  with_element_type(adversarial, "adversarial", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const LimitsOf<T> limits = limits_of<T>(step_size, epsilon, low, high);
    T* to = static_cast<T*>(x[0].mutable_data_ptr());
    const T *g = static_cast<const T*>(x[1].const_data_ptr()), *centre = static_cast<const T*>(x[2].const_data_ptr());
    if (ball == Ball::kLinf) return project_elements(to, g, centre, {x[0].numel(), true}, limits);
    each_sample(x[0], [&](int64_t at, const Parts& parts) {
      project_sample(to + at, g + at, centre + at, parts, ball, limits);
    });
  });
  if (copied) torch::stable::copy_(adversarial, x[0]);
}

void momentum_step_(Tensor adversarial, Tensor momentum, const Tensor& gradient, const Tensor& origin, double step_size,
                    double epsilon, double decay, std::string norm, double low, double high) {
  check_momentum_norm(norm);
  check_samples(adversarial);
  bool copied = false;
  std::vector<Tensor> x = readable({adversarial, momentum, gradient, origin}, 2, true, copied);
  with_element_type(adversarial, "adversarial", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const LimitsOf<T> limits = limits_of<T>(step_size, epsilon, low, high);
    T *to = static_cast<T*>(x[0].mutable_data_ptr()), *m = static_cast<T*>(x[1].mutable_data_ptr());
    const T *g = static_cast<const T*>(x[2].const_data_ptr()), *centre = static_cast<const T*>(x[3].const_data_ptr());
    const PairKernels<T>& k = kernels_for<T>(kernels());
    each_sample(x[0], [&](int64_t at, const Parts& parts) {
      const double peak = peak_of(g + at, parts), sum = gradient_sum(g + at, parts, peak, false);
      const double factor = over_norm(double(parts.count), sum);
      parts.each([&](int64_t begin, int64_t length) {
        begin += at;
        k.add_momentum(m + begin, g + begin, length, decay, peak, factor);
        k.project(to + begin, m + begin, centre + begin, length, limits);
      });
    });
  });
  if (!copied) return;
  torch::stable::copy_(adversarial, x[0]);
  torch::stable::copy_(momentum, x[1]);
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) {
  m.impl("project_step_", TORCH_BOX(&neurosens::project_step_));
  m.impl("momentum_step_", TORCH_BOX(&neurosens::momentum_step_));
}
