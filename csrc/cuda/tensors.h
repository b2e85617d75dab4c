// The torch side that the CUDA operators share: device and stream, views, scratch memory.
#pragma once

#include "../arguments.h"
#include "pair_statistics.cuh"

#include <torch/csrc/stable/library.h>

#include <string>
#include <vector>

#if defined(NS_EMULATION)
#include "emulated_device.h"
#else
#include "device.h"
#endif

namespace neurosens::cuda {

inline void check_like(const Tensor& x, const Tensor& like, const char* name, const char* like_name) {
  check_device(x, like, name);
  bool alike = x.scalar_type() == like.scalar_type() && x.dim() == like.dim();
  for (int64_t i = 0; alike && i < x.dim(); ++i) alike = x.size(i) == like.size(i);
  STD_TORCH_CHECK(alike, name, " must have the dtype and shape of ", like_name);
}

template <typename T>
const T* data(const Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}
template <typename T>
T* mutable_data(Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// Contiguous memory of its own, whatever x is a view of.
inline Tensor contiguous_copy(const Tensor& x) {
  std::vector<int64_t> sizes;
  for (int64_t i = 0; i < x.dim(); ++i) sizes.push_back(x.size(i));
  Tensor copy = new_tensor(x, sizes, x.scalar_type());
  torch::stable::copy_(copy, x);
  return copy;
}

// Pieces of type S, measured first and then cut from one allocation of torch's.
template <typename S>
class Scratch {
 public:
  template <typename... Arguments>
  explicit Scratch(const Tensor& like, const Arguments&... arguments)
      : memory_(new_tensor(like, {measure(arguments...)}, ScalarType::Byte)),
        arena_(memory_.mutable_data_ptr()),
        pieces_(arena_, arguments...) {}
  const S& operator*() const { return pieces_; }

 private:
  template <typename... Arguments>
  static int64_t measure(const Arguments&... arguments) {
    Arena arena;
    S{arena, arguments...};
    return arena.used();
  }
  Tensor memory_;
  Arena arena_;
  S pieces_;
};

template <typename T>
View<T> view_of(const Tensor& x, const Layout& l) {
  return {data<T>(x), l.sample_stride, l.channel_stride, l.position_stride};
}

// The benign and the adversarial half of a batch [2N, ...], as views.
struct Halves {
  Tensor benign, adversarial;

  explicit Halves(Tensor pair) {
    STD_TORCH_CHECK(pair.dim() >= 2 && pair.size(0) % 2 == 0, "pair must be [2N, C, *S]");
    const int64_t samples = pair.size(0) / 2;
    benign = torch::stable::narrow(pair, 0, 0, samples);
    adversarial = torch::stable::narrow(pair, 0, samples, samples);
  }
};

// Both halves of a joined batch with its channel at dimension 1 as kernels walk them in place, where its layout allows
// that; all of their elements are as far from one another as in the batch.
template <typename T>
struct JoinedViews {
  bool walkable = false;
  Shape shape;
  View<T> z, z_adv;

  explicit JoinedViews(const Tensor& pair) {
    Layout half;
    if (!describe(pair, 1, half) || !(half.rows() || half.columns())) return;
    half.samples /= 2;
    shape = {half.samples, half.channels, half.positions, !half.rows()};
    z = view_of<T>(pair, half), z_adv = z;
    z_adv.data += half.samples * half.sample_stride;
    const int packs = required_packs<T>(shape);
    walkable = takes_packs(z, shape, packs) && takes_packs(z_adv, shape, packs);
  }
};

// torch.relu of -0 on CUDA is +0 before torch 2.13 and -0 from there on.
inline bool keeps_negative_zero() { return aoti_torch_abi_version() >= uint64_t(0x020d) << 48; }

inline void check_activation(const Tensor& x, int64_t channel_dim, const char* name) {
  const int64_t dim = x.dim();
  STD_TORCH_CHECK(dim >= 2, name, " must be [N, C, *S]");
  STD_TORCH_CHECK(channel_dim >= -dim && channel_dim < dim && channel_dim % dim != 0, "channel_dim ", channel_dim,
                  " must name a dimension other than the first");
  STD_TORCH_CHECK(x.numel() <= kMaxElements, "at most 2^36 elements, got ", x.numel());
}

// A checked pair with its channel at dimension 1.
inline Pair pair_of(const Tensor& benign, const Tensor& adversarial, int64_t channel_dim) {
  check_activation(benign, channel_dim, "benign");
  check_like(adversarial, benign, "adversarial", "benign");
  return Pair(channel_second(benign, channel_dim), channel_second(adversarial, channel_dim), 1);
}

inline Shape shape_of(const Pair& pair) {
  return {pair.layout.samples, pair.layout.channels, pair.layout.positions, !pair.rows()};
}

// Both halves as the kernels read them; rows that their wide loads cannot read are copied.
template <typename T>
struct Activations {
  Shape shape;
  Tensor benign, adversarial;
  View<T> z, z_adv;

  explicit Activations(const Pair& pair)
      : shape(shape_of(pair)),
        benign(pair.benign),
        adversarial(pair.adversarial),
        z(readable(benign, pair.layout)),
        z_adv(readable(adversarial, pair.layout_adv)) {}

 private:
  View<T> readable(Tensor& x, const Layout& layout) const {
    const View<T> view = view_of<T>(x, layout);
    if (takes_packs(view, shape, required_packs<T>(shape))) return view;
    x = contiguous_copy(x);
    return dense(data<T>(x), shape);
  }
};

// Whether tensors [N, C, *S] of one shape are dense with the given axis adjacent: elements meet at equal offsets.
inline bool meet(const std::vector<Tensor>& tensors, bool columns) {
  for (const Tensor& x : tensors) {
    Layout l;
    if (!describe(x, 1, l) || !(columns ? l.columns() : l.rows())) return false;
    const int64_t other = columns ? l.position_stride : l.channel_stride;
    const int64_t others = columns ? l.positions : l.channels, adjacent = columns ? l.channels : l.positions;
    if (others > 1 && other != adjacent) return false;
    if (l.samples > 1 && l.sample_stride != l.channels * l.positions) return false;
  }
  return true;
}

template <typename T>
bool take_packs(const std::vector<Tensor>& tensors, const Shape& shape) {
  for (const Tensor& x : tensors)
    if (!takes_packs(dense(data<T>(x), shape), shape, required_packs<T>(shape))) return false;
  return true;
}

}  // namespace neurosens::cuda
