// Memory for large results: that the system hands out a fresh page costs more than writing it does.
#pragma once

#include "../new_tensors.h"

namespace neurosens {

struct LargeTensor {
  Tensor tensor;
  bool zero;  // every element is 0 already
};

// An empty tensor like `x`, from torch's allocator. The fresh pages of a large one are fetched at once by all threads.
LargeTensor large_empty_like(const Tensor& x);

}  // namespace neurosens
