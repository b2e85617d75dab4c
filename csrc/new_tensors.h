// New tensors. torch's dispatcher takes longer for each than the kernels do for a small layer; these go past it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <vector>

namespace neurosens {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Uninitialised, on the device of `like`.
inline Tensor new_strided(const Tensor& like, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                          ScalarType type) {
  int32_t device = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), dtype,
                                                         device, like.get_device_index(), &made));
  return Tensor(made);
}

inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& sizes, ScalarType type) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) strides[i] = stride, stride *= sizes[i] > 1 ? sizes[i] : 1;
  return new_strided(like, sizes, strides, type);
}

inline Tensor new_tensor(const Tensor& like, const std::vector<int64_t>& sizes) {
  return new_tensor(like, sizes, like.scalar_type());
}

// Of the strides that torch's would have.
inline Tensor new_like(const Tensor& x) {
  if (!x.is_contiguous()) return torch::stable::empty_like(x);
  std::vector<int64_t> sizes, strides;
  for (int64_t i = 0; i < x.dim(); ++i) sizes.push_back(x.size(i)), strides.push_back(x.stride(i));
  return new_strided(x, sizes, strides, x.scalar_type());
}

// `x` itself where it is contiguous, else a copy.
inline Tensor as_contiguous(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

}  // namespace neurosens
