// Stands in for csrc/cuda/device.h: the operators take CPU tensors and are registered for them.
#pragma once

#include "layout.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>

namespace neurosens::cuda {

inline void check_device(const Tensor&, const Tensor&, const char*) {}

class Device {
 public:
  explicit Device(const Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};

}  // namespace neurosens::cuda

#undef STD_CUDA_KERNEL_LAUNCH_CHECK
#define STD_CUDA_KERNEL_LAUNCH_CHECK() static_cast<void>(0)
#define CUDA CPU  // the dispatch key of STABLE_TORCH_LIBRARY_IMPL; no torch header follows
