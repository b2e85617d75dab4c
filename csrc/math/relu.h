// The rectifier and its gradient, bit for bit as torch.relu: NaN passes.
#pragma once

#include "half.h"

namespace neurosens {

// torch.relu gives -0 for -0; on CUDA it gave +0 until torch 2.13 (`keeps_negative_zero`).
template <typename T>
NS_HD T relu(T x, bool keeps_negative_zero) {
  const auto value = to_float(x);
  const bool zeroed = (value < 0) | ((value == 0) & !keeps_negative_zero);  // a branch would split wide stores
  return zeroed ? T{} : x;
}

// `gradient` where the rectified value `out` is above 0 or NaN.
template <typename T>
NS_HD T relu_gradient(T out, T gradient) {
  return to_float(out) <= 0 ? T{} : gradient;
}

}  // namespace neurosens
