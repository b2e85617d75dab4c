// Joined batches [2N, C, *S], benign half first, and their ReLU, on the CPU.
#pragma once

#include "../layout.h"

namespace neurosens {

// The halves of a joined batch, as views.
struct Halves {
  Tensor benign, adversarial;
  explicit Halves(const Tensor& pair) : benign(pair), adversarial(pair) {
    STD_TORCH_CHECK(pair.dim() >= 2, "pair must be [2N, C, *S], got ", pair.dim(), " dimensions");
    STD_TORCH_CHECK(pair.size(0) % 2 == 0, "pair must hold N benign, then N adversarial samples, got an odd batch of ",
                    pair.size(0));
    const int64_t half = pair.size(0) / 2;
    benign = torch::stable::narrow(const_cast<Tensor&>(pair), 0, 0, half);
    adversarial = torch::stable::narrow(const_cast<Tensor&>(pair), 0, half, half);
  }
};

// Whether the halves can be read as they lie, rows or columns, in the order in which a dense copy would be: strided
// positions of a single channel are columns, and rows once they are copied.
inline bool is_readable(const Tensor& half, int64_t channel_dim) {
  Layout layout;
  return describe(half, channel_dim, layout) &&
         (layout.rows() || (layout.columns() && (layout.channels != 1 || layout.positions <= 1)));
}

// Calls use(activations, relu) with the pairs that `pair` and `out` hold; `use` writes the ReLU of the first to the
// second. `out` may be the same tensor. What cannot be walked as it lies goes through one dense copy in the order of
// `out`'s memory, so that sums of it are added in the order in which those of torch's ReLU would be.
template <typename Use>
void with_relu(const Tensor& pair, const Tensor& out, int64_t channel_dim, Use&& use) {
  const Halves halves(pair);
  channel_dim = check_pair(halves.benign, halves.adversarial, channel_dim);
  if (same_strides(pair, out) && is_readable(halves.benign, channel_dim)) {
    const Pair activations(halves.benign, halves.adversarial, channel_dim);
    Pair relu = activations;
    if (&pair != &out) {
      const Halves to(out);
      relu = Pair(to.benign, to.adversarial, channel_dim);
    }
    return use(activations, relu);
  }
  Tensor dense = new_like(pair), from = pair, to = out;
  if (!is_readable(Halves(dense).benign, channel_dim)) {
    from = channel_second(pair, channel_dim), to = channel_second(out, channel_dim), channel_dim = 1;
    std::vector<int64_t> sizes;
    for (int64_t i = 0; i < from.dim(); ++i) sizes.push_back(from.size(i));
    dense = new_tensor(pair, sizes);
  }
  torch::stable::copy_(dense, from);
  const Halves parts(dense);
  const Pair activations(parts.benign, parts.adversarial, channel_dim);
  Pair relu = activations;
  use(activations, relu);
  torch::stable::copy_(to, dense);
}

}  // namespace neurosens
