// What the operators of every device take from their arguments: element type, accumulation type, distance.
#pragma once

#include "layout.h"
#include "math/half.h"
#include "math/statistics.h"

#include <string>

namespace neurosens {

// Calls f with a null pointer of the element type; kernels never see torch's own 16-bit classes.
template <typename F>
void with_element_type(const Tensor& x, const char* name, F&& f) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return f(static_cast<float*>(nullptr));
    case ScalarType::Double:
      return f(static_cast<double*>(nullptr));
    case ScalarType::Half:
      return f(static_cast<Half*>(nullptr));
    case ScalarType::BFloat16:
      return f(static_cast<BFloat16*>(nullptr));
    default:
      STD_TORCH_CHECK(false, name, " must be float32, float64, float16 or bfloat16");
  }
}

inline ScalarType accumulate_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_totals(const Tensor& totals, int64_t channels, int64_t columns, const char* name) {
  STD_TORCH_CHECK(totals.scalar_type() == ScalarType::Double && totals.is_contiguous() && totals.dim() == 2 &&
                      totals.size(0) == channels && totals.size(1) == columns,
                  name, " must be a contiguous float64 tensor [", channels, ", ", columns, "]");
}

inline void check_weights(const Tensor& grad, int64_t channels, const Tensor& benign) {
  const bool wide = benign.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(grad.dim() == 1 && grad.size(0) == channels && grad.scalar_type() == accumulate_type(benign),
                  "grad must be ", wide ? "float64" : "float32", " [", channels, "]");
}

inline void check_loss_gradient(const Tensor& grad, const Tensor& benign) {
  const bool wide = benign.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(grad.numel() == 1 && grad.scalar_type() == accumulate_type(benign), "grad must be one ",
                  wide ? "float64" : "float32", " number");
}

inline Distance distance_named(const std::string& norm) {
  if (norm == "1") return Distance::kL1;
  if (norm == "mse") return Distance::kMeanSquare;
  if (norm == "l2") return Distance::kL2;
  STD_TORCH_CHECK(norm == "cosine", "norm must be 1, \"mse\", \"l2\" or \"cosine\", got \"", norm, "\"");
  return Distance::kCosine;
}

}  // namespace neurosens
