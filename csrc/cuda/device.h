// The device that an operator works on, and the stream.
#pragma once

#include "../layout.h"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

namespace neurosens::cuda {

inline void check_device(const Tensor& x, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(x.is_cuda() && x.get_device_index() == like.get_device_index(), name,
                  " must be on the CUDA device of the other arguments");
}

// Makes the device of a tensor current and holds the stream that torch works on there.
class Device {
 public:
  explicit Device(const Tensor& x) : guard_(index(x)) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  static int32_t index(const Tensor& x) {
    STD_TORCH_CHECK(x.is_cuda(), "all arguments must be on one CUDA device");
    return x.get_device_index();
  }
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace neurosens::cuda
