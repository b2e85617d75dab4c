// Row statistics of a pair of activations: one read of both, [N, C, M] out.
//
//   rows     8 threads, a warp or a block per row, by the length of the row
//   columns  a thread per row (few positions), or a block per tile of channels and part of the positions
//
// Where several blocks share a row, fold_parts_kernel adds their parts in order.
#pragma once

#include "row_state.cuh"
#include "shape.cuh"

namespace neurosens {

template <typename T, int V, int Lanes, typename Tap>
__global__ void __launch_bounds__(kThreads) row_statistics_kernel(Tap tap, View<T> z,           // [N, C, S], S adjacent
                                                                  View<T> z_adv,                // [N, C, S], S adjacent
                                                                  accumulate_t<T>* statistics,  // [P, N, C, M]
                                                                  Shape shape, int64_t parts, int64_t part_length) {
  using A = accumulate_t<T>;
  using Set = typename Tap::Statistics;
  constexpr int kGroup = Lanes < kWarp ? Lanes : kWarp;                   // threads that fold by shuffles
  constexpr int kInFlight = V == 1 ? 8 : Tap::kWrites && V == 8 ? 2 : 4;  // what is written takes registers too

  // 1. The row and the part of its positions. Threads past the end read nothing but take part in the folds.
  const int lane = int(threadIdx.x) % Lanes;
  const int64_t unit = int64_t(blockIdx.x) * (kThreads / Lanes) + int(threadIdx.x) / Lanes;
  const int64_t part = parts == 1 ? 0 : divide(unit, shape.rows());
  const int64_t row_index = unit - part * shape.rows();
  const bool active = unit < shape.rows() * parts;
  const int64_t begin = part * part_length, end = active ? least(begin + part_length, shape.positions) : begin;

  // 2. Read both tensors once.
  RowState<A> state;
  if (active) {
    const int64_t n = divide(row_index, shape.channels), c = row_index - n * shape.channels;
    const auto add = [&](const Loaded<T, V>& a, const Loaded<T, V>& b) {
#pragma unroll
      for (int v = 0; v < V; ++v) state.add(a[v], b[v]);
    };
    if (tap.template wants<1>(c))
      read_pairs<V, kInFlight>(tap, z.at(n, c, begin), V, z_adv.at(n, c, begin), V, lane, (end - begin) / V, Lanes,
                               add);
  }

  // 3. Fold the threads of a row, in a fixed order, and store.
  A row[kRowCount];
  state.write(row);
  const LaneTotals<kGroup, Set, A> totals(row, lane);
  A* out = statistics + unit * Set::kCount;
  if constexpr (Lanes > kWarp) {
    constexpr int kWarps = Lanes / kWarp;
    NS_SHARED(A, warps, kWarps * Set::kCount);  // [warps, M]
    if (totals.stores && totals.first < Set::kCount) warps[lane / kWarp * Set::kCount + totals.first] = totals.total[0];
    __syncthreads();
    if (lane >= Set::kCount) return;
    A total = warps[lane];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) total = combine<Set>(lane, total, warps[w * Set::kCount + lane]);
    out[lane] = total;
  } else if (active && totals.stores) {
#pragma unroll
    for (int i = 0; i < totals.kPadded; i += totals.kApart)
      if (totals.first + i < Set::kCount) out[totals.first + i] = totals.total[i];
  }
}

// The statistics of one row by one thread that walks along a column.
template <typename T, typename Tap>
__device__ __forceinline__ void read_column(const Tap& tap, const View<T>& z, const View<T>& z_adv, const Shape& shape,
                                            int64_t n, int64_t c, accumulate_t<T> (&row)[kRowCount]) {
  constexpr int kInFlight = (Tap::kWrites ? 16 : 32) / int(sizeof(accumulate_t<T>));
  RowState<accumulate_t<T>> state;
  const auto add = [&](const Loaded<T, 1>& a, const Loaded<T, 1>& b) { state.add(a[0], b[0]); };
  if (tap.template wants<1>(c))
    read_pairs<1, kInFlight>(tap, z.at(n, c, 0), z.position_stride, z_adv.at(n, c, 0), z_adv.position_stride, 0,
                             shape.positions, 1, add);
  state.write(row);
}

template <typename T, typename Tap>
__global__ void __launch_bounds__(kThreads)
    column_thread_statistics_kernel(Tap tap, View<T> z,           // [N, C, S], C adjacent
                                    View<T> z_adv,                // [N, C, S], C adjacent
                                    accumulate_t<T>* statistics,  // [N, C, M]
                                    Shape shape) {
  using A = accumulate_t<T>;
  using Set = typename Tap::Statistics;
  constexpr int kPitch = Set::kCount | 1;  // odd, so that a column of `staged` spreads over all banks
  NS_SHARED(A, staged, kThreads * kPitch);

  // 1. One row per thread.
  const int64_t first = int64_t(blockIdx.x) * kThreads, row_index = first + threadIdx.x;
  const int64_t count = least(kThreads, shape.rows() - first);
  if (row_index < shape.rows()) {
    const int64_t n = divide(row_index, shape.channels);
    A row[kRowCount];
    read_column(tap, z, z_adv, shape, n, row_index - n * shape.channels, row);
#pragma unroll
    for (int i = 0; i < Set::kCount; ++i) staged[threadIdx.x * kPitch + i] = row[Set::at(i)];
  }
  __syncthreads();

  // 2. The rows of a block are adjacent in the output.
  for (int i = threadIdx.x; i < int(count) * Set::kCount; i += kThreads)
    statistics[first * Set::kCount + i] = staged[i / Set::kCount * kPitch + i % Set::kCount];
}

template <typename T, int V, typename Tap>
__global__ void __launch_bounds__(kThreads)
    column_block_statistics_kernel(Tap tap, View<T> z,           // [N, C, S], C adjacent
                                   View<T> z_adv,                // [N, C, S], C adjacent
                                   accumulate_t<T>* statistics,  // [P, N, C, M]
                                   Shape shape, int64_t part_length, int lanes) {
  using A = accumulate_t<T>;
  using Set = typename Tap::Statistics;
  // What is written takes registers too.
  constexpr int kInFlight = sizeof(T) == 2 && V == 2 ? 8 : Tap::kWrites && V == 1 ? 2 : 4;
  constexpr int kFewestLanes = 4;
  const int slices = kThreads / lanes, pitch = lanes + 1;  // an odd pitch spreads columns over all banks
  NS_SHARED(A, staged, Set::kCount * (kThreads + kThreads / kFewestLanes));  // [slices, M, pitch]

  // 1. A tile of channels of one sample; `slices` threads per channel take turns along the part.
  const int64_t tiles = ceil_divide(shape.channels, lanes * V), unit = divide(blockIdx.x, tiles);
  const int64_t part = divide(unit, shape.samples), n = unit - part * shape.samples;
  const int64_t tile = (blockIdx.x - unit * tiles) * lanes * V;
  const int lane = threadIdx.x % lanes, slice = threadIdx.x / lanes;
  const int64_t channel = tile + lane * V;
  const int64_t begin = part * part_length, length = least(part_length, shape.positions - begin);

  // 2. Read both tensors once.
  RowState<A> state[V];
  if (channel < shape.channels && tap.template wants<V>(channel)) {
    const auto add = [&](const Loaded<T, V>& a, const Loaded<T, V>& b) {
#pragma unroll
      for (int v = 0; v < V; ++v) state[v].add(a[v], b[v]);
    };
    read_pairs<V, kInFlight>(tap, z.at(n, channel, begin), z.position_stride, z_adv.at(n, channel, begin),
                             z_adv.position_stride, slice, length, slices, add);
  }

#pragma unroll
  for (int v = 0; v < V; ++v) {
    // 3. Fold the slices, first to last.
    A row[kRowCount];
    state[v].write(row);
#pragma unroll
    for (int i = 0; i < Set::kCount; ++i) staged[(slice * Set::kCount + i) * pitch + lane] = row[Set::at(i)];
    __syncthreads();
    for (int i = threadIdx.x; i < Set::kCount * lanes; i += kThreads) {
      const int at = i / lanes * pitch + i % lanes;
      A total = staged[at];
      for (int w = 1; w < slices; ++w) total = combine<Set>(i / lanes, total, staged[w * Set::kCount * pitch + at]);
      staged[at] = total;  // no other thread reads or writes it in this stage
    }
    __syncthreads();

    // 4. Store the tile, M adjacent values per channel.
    for (int i = threadIdx.x; i < Set::kCount * lanes; i += kThreads) {
      const int64_t c = tile + i / Set::kCount * V + v;
      const int k = i % Set::kCount;
      if (c < shape.channels)
        statistics[(part * shape.rows() + shape.row(n, c)) * Set::kCount + k] = staged[k * pitch + i / Set::kCount];
    }
    __syncthreads();
  }
}

constexpr int kFoldRows = 16;

template <typename A, typename Set>
__global__ void __launch_bounds__(kFoldRows* Set::kCount) fold_parts_kernel(const A* parts,  // [P, N * C, M]
                                                                            A* statistics,   // [N * C, M]
                                                                            int64_t rows, int64_t count) {
  // One statistic of one row per thread, parts in order, in double.
  const int64_t at = int64_t(blockIdx.x) * kFoldRows * Set::kCount + threadIdx.x;
  if (at >= rows * Set::kCount) return;
  parts += at;
  double total = double(*parts);
  for (int64_t p = 1; p < count; ++p) {
    parts += rows * Set::kCount;
    total = combine<Set>(int(threadIdx.x) % Set::kCount, total, double(*parts));
  }
  statistics[at] = A(total);
}

// Where the parts of rows go before they are added; nothing where no row is shared.
template <typename T, typename Set>
inline accumulate_t<T>* take_parts(Arena& arena, const Shape& shape) {
  const int64_t parts = plan<T>(shape).parts;
  return parts > 1 ? arena.take<accumulate_t<T>>(parts * shape.rows() * Set::kCount) : nullptr;
}

// Elements that rows are read by; where a view does not allow it (takes_packs), the caller copies it.
template <typename T>
inline int required_packs(const Shape& shape) {
  return shape.columns ? 1 : plan<T>(shape).vector;
}

template <int V, typename Tap, typename T>
inline void launch_row_statistics(const Tap& tap, const View<T>& z, const View<T>& z_adv, accumulate_t<T>* out,
                                  const Shape& shape, const Plan& plan, cudaStream_t stream) {
  const int64_t units = shape.rows() * plan.parts, blocks = ceil_divide(units, kThreads / plan.lanes);
  if (plan.lanes == 8)
    NS_LAUNCH((row_statistics_kernel<T, V, 8, Tap>), blocks, kThreads, stream, tap, z, z_adv, out, shape, plan.parts,
              plan.part_length);
  else if (plan.lanes == kWarp)
    NS_LAUNCH((row_statistics_kernel<T, V, kWarp, Tap>), blocks, kThreads, stream, tap, z, z_adv, out, shape,
              plan.parts, plan.part_length);
  else
    NS_LAUNCH((row_statistics_kernel<T, V, kThreads, Tap>), blocks, kThreads, stream, tap, z, z_adv, out, shape,
              plan.parts, plan.part_length);
}

template <typename Tap, typename T>
void pair_statistics(const Tap& tap,
                     const View<T>& z,             // [N, C, S]
                     const View<T>& z_adv,         // [N, C, S]
                     accumulate_t<T>* statistics,  // [N, C, M]
                     accumulate_t<T>* parts,       // take_parts
                     const Shape& shape, cudaStream_t stream) {
  if (shape.rows() == 0) return;
  const Plan plan = neurosens::plan<T>(shape);
  accumulate_t<T>* out = plan.parts > 1 ? parts : statistics;
  if (shape.columns && plan.lanes == 0) {
    NS_LAUNCH((column_thread_statistics_kernel<T, Tap>), ceil_divide(shape.rows(), kThreads), kThreads, stream, tap, z,
              z_adv, out, shape);
  } else if (shape.columns) {
    // Wider packs change which thread adds a channel, not the order in which it is added.
    constexpr int kWider = sizeof(T) == 8 ? 1 : 2;
    const bool wide = shape.channels > plan.lanes && takes_packs(z, shape, kWider) && takes_packs(z_adv, shape, kWider);
    const int64_t units = shape.samples * plan.parts;
    if (wide)
      NS_LAUNCH((column_block_statistics_kernel<T, kWider, Tap>),
                units * ceil_divide(shape.channels, plan.lanes * kWider), kThreads, stream, tap, z, z_adv, out, shape,
                plan.part_length, plan.lanes);
    else
      NS_LAUNCH((column_block_statistics_kernel<T, 1, Tap>), units * ceil_divide(shape.channels, plan.lanes), kThreads,
                stream, tap, z, z_adv, out, shape, plan.part_length, plan.lanes);
  } else if (plan.vector == kWide<T>) {
    launch_row_statistics<kWide<T>>(tap, z, z_adv, out, shape, plan, stream);
  } else if (plan.vector == kWide<T> / 2) {
    launch_row_statistics<kWide<T> / 2>(tap, z, z_adv, out, shape, plan, stream);
  } else if (plan.vector == kWide<T> / 4) {
    if constexpr (kWide<T> >= 4) launch_row_statistics<kWide<T> / 4>(tap, z, z_adv, out, shape, plan, stream);
  } else {
    if constexpr (kWide<T> >= 8) launch_row_statistics<1>(tap, z, z_adv, out, shape, plan, stream);
  }
  using Set = typename Tap::Statistics;
  if (plan.parts > 1)
    NS_LAUNCH((fold_parts_kernel<accumulate_t<T>, Set>), ceil_divide(shape.rows(), kFoldRows), kFoldRows * Set::kCount,
              stream, parts, statistics, shape.rows(), plan.parts);
}

// The kernels that only read are compiled once per set: all statistics in pair_statistics.cu, moments in
// neuron_sensitivity.cu.
#if !defined(NS_ONE_UNIT)
#define NS_PAIR_STATISTICS(linkage, T, Set)                                                                    \
  linkage template void pair_statistics(const Read<T, Set>&, const View<T>&, const View<T>&, accumulate_t<T>*, \
                                        accumulate_t<T>*, const Shape&, cudaStream_t)
#define NS_ALL_PAIR_STATISTICS(linkage, Set) \
  NS_PAIR_STATISTICS(linkage, float, Set);   \
  NS_PAIR_STATISTICS(linkage, double, Set);  \
  NS_PAIR_STATISTICS(linkage, Half, Set);    \
  NS_PAIR_STATISTICS(linkage, BFloat16, Set)
NS_ALL_PAIR_STATISTICS(extern, AllStatistics);
NS_ALL_PAIR_STATISTICS(extern, Moments);
#endif

}  // namespace neurosens
