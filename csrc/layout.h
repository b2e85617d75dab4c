// An activation seen as [N, C, S]: N samples, C channels, S positions, with int64 strides in elements.
#pragma once

#include "new_tensors.h"

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace neurosens {

struct Layout {
  int64_t samples, channels, positions;
  int64_t sample_stride, channel_stride, position_stride;
  bool rows() const { return position_stride == 1 && positions > 1; }    // positions adjacent
  bool columns() const { return channel_stride == 1 || channels == 1; }  // channels adjacent
};

// False where no single stride steps through the positions.
inline bool describe(const Tensor& x, int64_t channel_dim, Layout& layout) {
  layout = {x.size(0), x.size(channel_dim), 1, x.stride(0), x.stride(channel_dim), 1};
  bool one_stride = true, first = true;
  for (int64_t i = x.dim() - 1; i >= 1; --i) {
    if (i == channel_dim || x.size(i) == 1) continue;
    if (first) {
      layout.position_stride = x.stride(i);
      first = false;
    } else if (x.stride(i) != layout.position_stride * layout.positions) {
      one_stride = false;
    }
    layout.positions *= x.size(i);
  }
  return one_stride;
}

// Both rows, or both columns.
inline bool same_kind(const Tensor& a, const Tensor& b, int64_t channel_dim = 1) {
  Layout x, y;
  return describe(a, channel_dim, x) && describe(b, channel_dim, y) &&
         ((x.rows() && y.rows()) || (x.columns() && y.columns()));
}

// Whether every element has an offset of its own below numel.
inline bool is_dense(const Tensor& x) {
  std::vector<std::pair<int64_t, int64_t>> strides;
  for (int64_t i = 0; i < x.dim(); ++i)
    if (x.size(i) != 1) strides.emplace_back(x.stride(i), x.size(i));
  std::sort(strides.begin(), strides.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : strides) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// Elements of both are as far from the first.
inline bool same_strides(const Tensor& x, const Tensor& y) {
  for (int64_t i = 0; i < x.dim(); ++i)
    if (x.size(i) != 1 && x.stride(i) != y.stride(i)) return false;
  return true;
}

// A view with the channel at dimension 1, all others in their order.
inline Tensor channel_second(const Tensor& x, int64_t channel_dim) {
  if (channel_dim < 0) channel_dim += x.dim();
  if (channel_dim == 1) return x;
  std::vector<int64_t> order;
  for (int64_t i = 0; i < x.dim(); ++i)
    if (i != channel_dim) order.push_back(i);
  order.insert(order.begin() + 1, channel_dim);
  return torch::stable::permute(x, order);
}

// Raises for an expanded tensor, as torch does, before anything is written.
inline void check_overwritable(const Tensor& x, const char* name) {
  for (int64_t i = 0; i < x.dim(); ++i)
    STD_TORCH_CHECK(x.size(i) < 2 || x.stride(i) != 0, name,
                    " has elements that share memory, as expand makes them, and cannot be overwritten; clone it first");
}

// Raises unless the two are of one shape and dtype with a channel; returns the channel counted from the front.
inline int64_t check_pair(const Tensor& z, const Tensor& z_adv, int64_t channel_dim) {
  STD_TORCH_CHECK(z.dim() >= 2, "benign must be [N, C, *S], got ", z.dim(), " dimensions");
  STD_TORCH_CHECK(channel_dim >= -z.dim() && channel_dim < z.dim(), "channel_dim ", channel_dim,
                  " is out of range for ", z.dim(), " dimensions");
  if (channel_dim < 0) channel_dim += z.dim();
  STD_TORCH_CHECK(channel_dim != 0, "channel_dim must not be the sample dimension 0");
  STD_TORCH_CHECK(z.dim() == z_adv.dim() && z.scalar_type() == z_adv.scalar_type(),
                  "benign and adversarial must have one shape and dtype");
  for (int64_t i = 0; i < z.dim(); ++i)
    STD_TORCH_CHECK(z.size(i) == z_adv.size(i), "benign and adversarial differ in size at dimension ", i);
  return channel_dim;
}

// A pair whose two halves share one layout kind; copied once where theirs cannot be read as it is.
struct Pair {
  Tensor benign, adversarial;
  Layout layout, layout_adv;
  bool by_rows;  // both are rows; what is rows and columns at once is read as rows

  Pair(const Tensor& z, const Tensor& z_adv, int64_t channel_dim) : benign(z), adversarial(z_adv) {
    channel_dim = check_pair(z, z_adv, channel_dim);
    if (!same_kind(benign, adversarial, channel_dim)) {
      benign = as_contiguous(channel_second(benign, channel_dim));
      adversarial = as_contiguous(channel_second(adversarial, channel_dim));
      channel_dim = 1;
    }
    describe(benign, channel_dim, layout);
    describe(adversarial, channel_dim, layout_adv);
    by_rows = layout.rows() && layout_adv.rows();
  }

  bool rows() const { return by_rows; }
};

}  // namespace neurosens
