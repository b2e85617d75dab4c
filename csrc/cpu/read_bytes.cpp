// The plain read of a pair's bytes: what the one-read operators are measured against.
#include "support.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace neurosens {
namespace {

// Exclusive or of all 64-bit words, the last one filled with zeros, int64 [1].
Tensor read_bytes(const Tensor& benign, const Tensor& adversarial) {
  constexpr int64_t kChunk = 1 << 18;
  const Tensor halves[2] = {benign, adversarial};
  int64_t tasks[3] = {0, 0, 0}, bytes[2];
  for (int h = 0; h < 2; ++h) {
    STD_TORCH_CHECK(is_dense(halves[h]), "benign and adversarial must be dense");
    bytes[h] = halves[h].numel() * int64_t(halves[h].element_size());
    tasks[h + 1] = tasks[h] + divide_up(bytes[h], kChunk);
  }
  std::vector<uint64_t> partial(static_cast<size_t>(tasks[2]));
  parallel_tasks(tasks[2], bytes[0] + bytes[1], [&](int64_t task) {
    const int h = task >= tasks[1];
    const int64_t begin = (task - tasks[h]) * kChunk;
    const char* at = static_cast<const char*>(halves[h].const_data_ptr()) + begin;
    partial[static_cast<size_t>(task)] = kernels().read(at, std::min(kChunk, bytes[h] - begin));
  });
  uint64_t total = 0;
  for (const uint64_t x : partial) total ^= x;
  Tensor out = new_tensor(benign, {1}, ScalarType::Long);
  *static_cast<int64_t*>(out.mutable_data_ptr()) = int64_t(total);
  return out;
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) { m.impl("read_bytes", TORCH_BOX(&neurosens::read_bytes)); }
