// An activation as the kernels see it, and where its elements are; all offsets are 64-bit.
#pragma once

#include "launch.cuh"

namespace neurosens {

// Rows: the positions of a channel are adjacent. Columns: the channels of a position are.
struct Shape {
  int64_t samples, channels, positions;
  bool columns;

  NS_HD int64_t rows() const { return samples * channels; }
  NS_HD int64_t elements() const { return rows() * positions; }
  NS_HD int64_t row(int64_t n, int64_t c) const { return n * channels + c; }
};

// One tensor of that shape with its strides in elements; the adjacent axis has stride 1.
template <typename T>
struct View {
  const T* data;
  int64_t sample_stride, channel_stride, position_stride;

  NS_HD int64_t offset(int64_t n, int64_t c, int64_t s) const {
    return n * sample_stride + c * channel_stride + s * position_stride;
  }
  NS_HD const T* at(int64_t n, int64_t c, int64_t s) const { return data + offset(n, c, s); }
};

template <typename T>
NS_HD View<T> dense(const T* data, const Shape& shape) {
  const int64_t c = shape.channels, s = shape.positions;
  if (shape.columns) return {data, c * s, 1, c};
  return {data, c * s, s, 1};
}

// Whether packs of `vector` elements along the adjacent axis are aligned throughout.
template <typename T>
inline bool takes_packs(const View<T>& view, const Shape& shape, int vector) {
  const int64_t other = shape.columns ? view.position_stride : view.channel_stride;
  const int64_t others = shape.columns ? shape.positions : shape.channels;
  const int64_t adjacent = shape.columns ? shape.channels : shape.positions;
  return is_aligned(view.data, vector) && adjacent % vector == 0 &&
         (shape.samples <= 1 || view.sample_stride % vector == 0) && (others <= 1 || other % vector == 0);
}

// The row and channel of element e of dense memory, followed from element to element without further divisions.
struct Cursor {
  int64_t row, channel, within;  // `within`: position of a row, or index n * S + s of a column

  NS_HD Cursor(const Shape& shape, int64_t e) {
    if (shape.columns) {
      within = divide(e, shape.channels);
      channel = e - within * shape.channels;
      row = shape.row(divide(within, shape.positions), channel);
    } else {
      row = divide(e, shape.positions);
      within = e - row * shape.positions;
      channel = row - divide(row, shape.channels) * shape.channels;
    }
  }
  NS_HD void next(const Shape& shape) {
    if (shape.columns) {
      ++row;
      if (++channel < shape.channels) return;
      channel = 0;
      ++within;
      row = shape.row(divide(within, shape.positions), 0);
    } else {
      if (++within < shape.positions) return;
      within = 0;
      ++row;
      channel = channel + 1 < shape.channels ? channel + 1 : 0;
    }
  }
};

// How the positions of one row are shared out. Depends on the shape and the dtype alone, never on
// the device or on alignment, so the order of additions does not either.
struct Plan {
  int lanes;            // rows: threads per row and part; columns: channels per block, 0 = a thread per row
  int vector;           // rows: elements per access
  int64_t parts;        // blocks that share a row; their sums are combined in a second kernel
  int64_t part_length;  // positions per part, a multiple of `vector`
};

constexpr int64_t kThreadPositions = 64;  // columns up to here: one thread walks a row alone
constexpr int64_t kGroupPositions = 256;  // rows up to here: 8 threads
constexpr int64_t kWarpPositions = 4096;  // rows up to here: a warp; above: a block
constexpr int64_t kEnoughBlocks = 2048;   // several waves on the largest GPU
constexpr int64_t kLongestPart = 65536;   // rounding grows with the length of a part
constexpr int64_t kMostParts = 1024;

template <typename T>
inline Plan plan(const Shape& shape) {
  Plan plan = {0, 1, 1, shape.positions};
  int64_t blocks, least_length;
  if (shape.columns) {
    if (shape.positions <= kThreadPositions) return plan;
    for (plan.lanes = 4; plan.lanes < kWarp && plan.lanes < shape.channels;) plan.lanes *= 2;
    blocks = shape.samples * ceil_divide(shape.channels, 2 * plan.lanes);
    least_length = 64;
  } else {
    for (plan.vector = kWide<T>; shape.positions % plan.vector;) plan.vector /= 2;
    plan.lanes = shape.positions <= kGroupPositions ? 8 : shape.positions <= kWarpPositions ? kWarp : kThreads;
    if (plan.lanes < kThreads) return plan;
    blocks = shape.rows();
    least_length = kWarpPositions;
  }
  const int64_t wanted = most(ceil_divide(shape.positions, kLongestPart), ceil_divide(kEnoughBlocks, most(blocks, 1)));
  const int64_t parts = least(most(least(wanted, shape.positions / least_length), 1), kMostParts);
  plan.part_length = ceil_divide(ceil_divide(shape.positions, parts), plan.vector) * plan.vector;
  plan.parts = ceil_divide(shape.positions, plan.part_length);
  return plan;
}

// Samples are summed in groups, in order within a group, then the groups in order.
struct Groups {
  int64_t count, samples;  // samples per group; the last may have fewer
};

inline Groups sample_groups(const Shape& shape) {
  const int64_t wanted = most(1, least(least(shape.samples, 64), ceil_divide(1 << 16, most(shape.channels, 1))));
  const int64_t per_group = most(1, ceil_divide(shape.samples, wanted));
  return {ceil_divide(shape.samples, per_group), per_group};
}

}  // namespace neurosens
