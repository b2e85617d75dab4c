// Totals over samples, added in place to sums [C, 14] and maxima [C, 3] in float64.
//
//   1. row statistics [N, C, 15] into scratch; layers of few positions skip this and are read by step 2
//   2. per group of samples and channel: sums of terms and maxima [G, 15, C], and the means [2, N, C]
//   3. per sample: the threshold of the activation frequency [2, N]
//   4. groups and frequencies in order into the totals
#pragma once

#include "pair_statistics.cuh"

namespace neurosens {

constexpr int kPartials = kRowTerms + kRowMaxima;    // per group: sums of terms, then maxima
constexpr int kTotalSlots = kSumCount + kRowMaxima;  // per channel: all sums, then maxima

// Row statistics from where pair_statistics left them.
template <typename A, typename Set>
struct StoredRows {
  using type = A;
  const A* statistics;  // [N, C, M]
  __device__ __forceinline__ void read(const Shape& shape, int64_t n, int64_t c, A (&row)[kRowCount]) const {
#pragma unroll
    for (int i = 0; i < Set::kCount; ++i) row[Set::at(i)] = statistics[shape.row(n, c) * Set::kCount + i];
  }
};

// Row statistics straight from columns of few positions, which are shorter than their statistics.
template <typename T, typename Tap>
struct ColumnRows {
  using type = accumulate_t<T>;
  Tap tap;
  View<T> z, z_adv;  // [N, C, S], C adjacent
  __device__ __forceinline__ void read(const Shape& shape, int64_t n, int64_t c, type (&row)[kRowCount]) const {
    read_column(tap, z, z_adv, shape, n, c, row);
  }
};

// Hands `use` the source that suits the shape, after computing row statistics where it needs them.
struct RowScratch {
  template <typename A>
  struct Pieces {
    A *statistics, *parts;
  };
  static bool direct(const Shape& shape) { return shape.columns && shape.positions <= kThreadPositions; }
  template <typename T, typename Set>
  static Pieces<accumulate_t<T>> take(Arena& arena, const Shape& shape) {
    if (direct(shape)) return {nullptr, nullptr};
    return {arena.take<accumulate_t<T>>(shape.rows() * Set::kCount), take_parts<T, Set>(arena, shape)};
  }
  template <typename Tap, typename T, typename Use>
  static void read(const Tap& tap, const View<T>& z, const View<T>& z_adv, const Pieces<accumulate_t<T>>& pieces,
                   const Shape& shape, cudaStream_t stream, Use&& use) {
    if (direct(shape)) return use(ColumnRows<T, Tap>{tap, z, z_adv});
    pair_statistics(tap, z, z_adv, pieces.statistics, pieces.parts, shape, stream);
    use(StoredRows<accumulate_t<T>, typename Tap::Statistics>{pieces.statistics});
  }
};

constexpr int kGroupThreads = 128;
// Blocks of a multiprocessor. Left to itself, ptxas spills a register or two to fit one block more.
constexpr int kGroupsAtOnce = 3;

template <typename Source>
__global__ void __launch_bounds__(kGroupThreads, kGroupsAtOnce)
    group_terms_kernel(Source source,                 // rows [N, C]
                       typename Source::type* means,  // [2, N, C]
                       double* partials,              // [G, 15, C]
                       Shape shape, Groups groups) {
  using A = typename Source::type;
  // 1. One channel of one group of samples per thread.
  const int64_t i = int64_t(blockIdx.x) * kGroupThreads + threadIdx.x;
  if (i >= groups.count * shape.channels) return;
  const int64_t group = divide(i, shape.channels), c = i - group * shape.channels;
  double sum[kRowTerms] = {}, peak[kRowMaxima];
#pragma unroll
  for (int m = 0; m < kRowMaxima; ++m) peak[m] = -__builtin_inf();

  // 2. Terms of each sample, in order.
  const int64_t last = least((group + 1) * groups.samples, shape.samples);
  for (int64_t n = group * groups.samples; n < last; ++n) {
    A row[kRowCount], term[kRowTerms];
    source.read(shape, n, c, row);
    row_terms(row, A(shape.positions), term, 1);
#pragma unroll
    for (int k = 0; k < kRowTerms; ++k) sum[k] += double(term[k]);
#pragma unroll
    for (int m = 0; m < kRowMaxima; ++m) peak[m] = larger_or_nan(double(row[kChangeMax + m]), peak[m]);
    means[shape.row(n, c)] = term[kBenignMean];
    means[shape.rows() + shape.row(n, c)] = term[kAdversarialMean];
  }

  // 3. Store.
  double* out = partials + group * kPartials * shape.channels + c;
#pragma unroll
  for (int k = 0; k < kRowTerms; ++k) out[k * shape.channels] = sum[k];
#pragma unroll
  for (int m = 0; m < kRowMaxima; ++m) out[(kRowTerms + m) * shape.channels] = peak[m];
}

template <typename A>
__global__ void __launch_bounds__(kThreads) frequency_threshold_kernel(const A* means,  // [2 * N, C]
                                                                       A* thresholds,   // [2 * N]
                                                                       int64_t channels) {
  NS_SHARED(A, warps, kThreads / kWarp);
  // 1. Largest finite mean; a maximum does not depend on the order.
  A most = -A(__builtin_inff());
  for (int64_t c = threadIdx.x; c < channels; c += kThreads) {
    const A mean = means[blockIdx.x * channels + c];
    if (absolute(mean) < A(__builtin_inff())) most = larger(mean, most);
  }
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) most = larger(__shfl_xor_sync(kFullMask, most, mask), most);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = most;
  __syncthreads();
  // 2. No finite channel: a threshold that nothing exceeds.
  if (threadIdx.x > 0) return;
  for (int w = 1; w < kThreads / kWarp; ++w) most = larger(warps[w], most);
  const bool none = most == -A(__builtin_inff());
  thresholds[blockIdx.x] = none ? A(__builtin_inff()) : A(kActivationFrequencyShare) * most;
}

template <typename A>
__global__ void __launch_bounds__(kThreads) add_totals_kernel(const double* partials,  // [G, 15, C]
                                                              const A* means,          // [2, N, C]
                                                              const A* thresholds,     // [2, N]
                                                              double* sums,            // [C, 14]
                                                              double* maxima,          // [C, 3]
                                                              Shape shape, Groups groups) {
  constexpr int kSlices = kThreads / kWarp;
  NS_SHARED(double, staged, kThreads);  // [slices, 32 channels]
  // 1. One slot of 32 channels per block; the slices take turns along groups or samples.
  const int64_t tile = blockIdx.x / kTotalSlots, slot = blockIdx.x % kTotalSlots;
  const int lane = threadIdx.x % kWarp, slice = threadIdx.x / kWarp;
  const int64_t c = tile * kWarp + lane, channels = shape.channels;
  const bool peak = slot >= kSumCount;
  double total = peak ? -__builtin_inf() : 0.0;
  if (c < channels && slot >= kRowTerms && !peak) {
    const int64_t branch = (slot - kRowTerms) * shape.samples;
    for (int64_t n = slice; n < shape.samples; n += kSlices)
      total += double(frequency_term(means[(branch + n) * channels + c], thresholds[branch + n]));
  } else if (c < channels) {
    const int64_t at = peak ? slot - kSumCount + kRowTerms : slot;
    for (int64_t g = slice; g < groups.count; g += kSlices) {
      const double x = partials[(g * kPartials + at) * channels + c];
      total = peak ? larger_or_nan(x, total) : total + x;
    }
  }
  staged[threadIdx.x] = total;
  __syncthreads();

  // 2. Slices first to last, then into the totals.
  if (slice > 0 || c >= channels) return;
  for (int w = 1; w < kSlices; ++w) {
    const double x = staged[w * kWarp + lane];
    total = peak ? larger_or_nan(x, total) : total + x;
  }
  if (peak) {
    double& to = maxima[c * kRowMaxima + slot - kSumCount];
    to = larger_or_nan(to, total);
  } else {
    sums[c * kSumCount + slot] += total;
  }
}

template <typename T>
struct AccumulateScratch {
  using A = accumulate_t<T>;
  RowScratch::Pieces<A> rows;
  A *means, *thresholds;
  double* partials;
  AccumulateScratch(Arena& arena, const Shape& shape)
      : rows(RowScratch::take<T, AllStatistics>(arena, shape)),
        means(arena.take<A>(2 * shape.rows())),
        thresholds(arena.take<A>(2 * shape.samples)),
        partials(arena.take<double>(sample_groups(shape).count * kPartials * shape.channels)) {}
};

template <typename Tap, typename T>
void accumulate_pair_statistics(const Tap& tap,        // of AllStatistics
                                const View<T>& z,      // [N, C, S]
                                const View<T>& z_adv,  // [N, C, S]
                                double* sums,          // [C, 14]
                                double* maxima,        // [C, 3]
                                const AccumulateScratch<T>& scratch, const Shape& shape, cudaStream_t stream) {
  using A = accumulate_t<T>;
  if (shape.rows() == 0) return;
  const Groups groups = sample_groups(shape);
  RowScratch::read(tap, z, z_adv, scratch.rows, shape, stream, [&](auto source) {
    NS_LAUNCH((group_terms_kernel<decltype(source)>), ceil_divide(groups.count * shape.channels, kGroupThreads),
              kGroupThreads, stream, source, scratch.means, scratch.partials, shape, groups);
  });
  NS_LAUNCH((frequency_threshold_kernel<A>), 2 * shape.samples, kThreads, stream, scratch.means, scratch.thresholds,
            shape.channels);
  NS_LAUNCH((add_totals_kernel<A>), ceil_divide(shape.channels, kWarp) * kTotalSlots, kThreads, stream,
            scratch.partials, scratch.means, scratch.thresholds, sums, maxima, shape, groups);
}

}  // namespace neurosens
