// What the steps of attacks take on every device: tensors of one shape, and how they lie.
#pragma once

#include "layout.h"

#include <string>
#include <vector>

namespace neurosens {

enum class Ball { kLinf, kL2, kL1 };

inline Ball ball_named(const std::string& norm) {
  if (norm == "linf") return Ball::kLinf;
  if (norm == "l2") return Ball::kL2;
  STD_TORCH_CHECK(norm == "l1", "norm must be \"linf\", \"l2\" or \"l1\", got \"", norm, "\"");
  return Ball::kL1;
}

inline void check_momentum_norm(const std::string& norm) {
  STD_TORCH_CHECK(norm == "linf", "norm must be \"linf\", the only one with a momentum step, got \"", norm, "\"");
}

inline bool same_shape(const Tensor& x, const Tensor& y) {
  if (x.scalar_type() != y.scalar_type() || x.dim() != y.dim()) return false;
  for (int64_t i = 0; i < x.dim(); ++i)
    if (x.size(i) != y.size(i)) return false;
  return true;
}

// Whether elements of the tensors meet at equal offsets of dense memory; `samples`: each in one piece, in order.
inline bool lie_alike(const std::vector<Tensor>& tensors, bool samples) {
  const Tensor& first = tensors[0];
  if (!is_dense(first)) return false;
  if (samples && first.size(0) > 1 && first.numel() > 0 && first.stride(0) != first.numel() / first.size(0))
    return false;
  for (const Tensor& x : tensors)
    for (int64_t i = 0; i < x.dim(); ++i)
      if (x.size(i) != 1 && x.stride(i) != first.stride(i)) return false;
  return true;
}

inline void check_samples(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() >= 1, "adversarial must be [N, *S], a norm per sample");
}

}  // namespace neurosens
