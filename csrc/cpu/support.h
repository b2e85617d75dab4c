// What the CPU operators share: the parallel loop, walking the tiles of a pair.
#pragma once

#include "../arguments.h"
#include "dispatch.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace neurosens {

// Tasks run in any order on any number of threads; how work is cut into tasks depends on shapes only.
// Below kSerialWork elements in all, starting threads costs more than it brings.
constexpr int64_t kSerialWork = 16384;

template <typename F>
void parallel_tasks(int64_t tasks, int64_t work, F&& f) {
  torch::stable::parallel_for(0, tasks, work < kSerialWork ? tasks : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

// The activations of a pair, tile by tile.
template <typename T>
class Tiles {
 public:
  // With `relu`, a pair of the same strides, the ReLU of the activations is written there and measured instead.
  explicit Tiles(const Pair& pair, Pair* relu = nullptr)
      : a_(pair.layout),
        b_(pair.layout_adv),
        rows_(pair.rows()),
        z_(static_cast<const T*>(pair.benign.const_data_ptr())),
        z_adv_(static_cast<const T*>(pair.adversarial.const_data_ptr())),
        relu_(relu ? static_cast<T*>(relu->benign.mutable_data_ptr()) : nullptr),
        relu_adv_(relu ? static_cast<T*>(relu->adversarial.mutable_data_ptr()) : nullptr),
        kernels_(kernels_for<T>(kernels())) {}

  // Channels that one call covers: rows are read tile by tile, columns in the order of memory.
  int64_t range() const { return rows_ ? kTile : kRange; }

  TileInput<T> input(int64_t sample, int64_t channel, int64_t most = kRange) const {
    const int64_t at = sample * a_.sample_stride + channel * a_.channel_stride;
    const int64_t at_adv = sample * b_.sample_stride + channel * b_.channel_stride;
    return {z_ + at,
            z_adv_ + at_adv,
            rows_ ? a_.channel_stride : a_.position_stride,
            rows_ ? b_.channel_stride : b_.position_stride,
            int(std::min({a_.channels - channel, range(), most})),
            relu_ ? relu_ + at : nullptr,
            relu_ ? relu_adv_ + at_adv : nullptr};
  }
  // Row statistics of the range that begins at `channel`, into up to kRangeTiles tiles; `use(c, tile, channels)` is
  // then called for every tile, c its first channel. The range has `most` channels at most.
  template <typename F>
  void statistics(int64_t sample, int64_t channel, Reading reading, F&& use, int64_t most = kRange) const {
    Tile<accumulate_t<T>> tiles[kRangeTiles];
    const TileInput<T> in = input(sample, channel, most);
    (rows_ ? kernels_.rows : kernels_.columns)[reading](in, a_.positions, tiles);
    for (int c = 0; c < in.channels; c += kTile)
      use(channel + c, tiles[c / kTile], in.channels - c < kTile ? in.channels - c : kTile);
  }
  const PairKernels<T>& kernels_of() const { return kernels_; }

 private:
  Layout a_, b_;
  bool rows_;
  const T *z_, *z_adv_;
  T *relu_, *relu_adv_;
  const PairKernels<T>& kernels_;
};

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace neurosens
