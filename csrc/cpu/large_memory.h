// Memory for large results. The first write to a fresh page costs the system more than the write itself, and one page
// of 2 MiB far less than 512 small ones.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace neurosens {

// An empty tensor like `x`, on huge pages where the system gives them on request. Only a hint: it never fails.
inline torch::stable::Tensor large_empty_like(const torch::stable::Tensor& x) {
  torch::stable::Tensor out = torch::stable::empty_like(x);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = uintptr_t(1) << 21;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(out.mutable_data_ptr());
  const uintptr_t end = (begin + uintptr_t(out.numel()) * uintptr_t(out.element_size())) & ~(kHugePage - 1);
  const uintptr_t first = (begin + kHugePage - 1) & ~(kHugePage - 1);
  if (end >= first + 4 * kHugePage) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
  return out;
}

}  // namespace neurosens
