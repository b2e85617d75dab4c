// Memory for large results: that the system hands out a fresh page costs more than writing it does.
#pragma once

#include <torch/csrc/stable/tensor.h>

namespace neurosens {

struct LargeTensor {
  torch::stable::Tensor tensor;
  bool zero;  // every element is 0 already
};

// An empty tensor like `x`, from torch's allocator. The fresh pages of a large one are fetched at once by all threads.
LargeTensor large_empty_like(const torch::stable::Tensor& x);

}  // namespace neurosens
