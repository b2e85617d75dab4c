// The functions that exist once per instruction set, as tables; dispatch.h picks one table at load.
#pragma once

#include "../math/project.h"
#include "../math/statistics.h"

#include <cstdint>
#include <initializer_list>

namespace neurosens {

constexpr int kTile = 64;       // channels that a tile of results holds
constexpr int kRangeTiles = 8;  // tiles that one call on columns covers, in the order of memory
constexpr int kRange = kRangeTiles * kTile;

constexpr int kTileRows = (kRowCount + 7) / 8 * 8;  // rows of results are transposed eight by eight

// Results of one tile, structure of arrays; lanes past the channels hold nothing of use.
template <typename A>
struct Tile {
  alignas(64) A row[kTileRows][kTile];
};

// A pair of activations of one sample: up to kTile channels of rows, kRange of columns; strides in elements.
template <typename T>
struct TileInput {
  const T *z, *z_adv;
  int64_t stride, stride_adv;  // between channels of rows, between positions of columns
  int channels;
};

// Totals of a range of channels, structure of arrays with `pitch` doubles per line.
struct TermTotals {
  double* sums;    // [kSumCount][pitch]
  double* maxima;  // [kRowMaxima][pitch]
  int64_t pitch;
};

template <typename T>
struct PairKernels {
  using A = accumulate_t<T>;
  void (*rows)(const TileInput<T>& in, int64_t positions, Tile<A>* out);
  void (*columns)(const TileInput<T>& in, int64_t positions, Tile<A>* out);
  // Adds one sample's terms of a tile to totals at channel `first`; stores both channel means for the frequencies.
  void (*add_terms)(const Tile<A>& tile, int channels, int64_t positions, TermTotals totals, int64_t first, A* mean,
                    A* mean_adv);
  // Adds to each channel's sum whether its mean exceeds its sample's threshold.
  void (*add_frequencies)(const A* mean, int64_t channels, A threshold, double* sum);
  // The largest finite element, -inf if there is none.
  A (*largest_finite)(const T* x, int64_t count);
  // Adds the terms of rows of one element each (fully connected layers); in.stride steps through the samples,
  // whose activation thresholds are given.
  void (*add_units)(const TileInput<T>& in, int64_t samples, const A* threshold, const A* threshold_adv,
                    TermTotals totals, int64_t first);
  // Gradients of one row (shared coefficients) or of one position of neighbouring channels (one per element).
  void (*row_gradient)(bool signed_change, RowGradient<A> g, const T* z, const T* z_adv, int64_t count, T* grad,
                       T* grad_adv);
  void (*column_gradient)(bool signed_change, const RowGradient<A>* g, const T* z, const T* z_adv, int64_t count,
                          T* grad, T* grad_adv);
  void (*project)(T* adversarial, const T* gradient, const T* origin, int64_t count, LinfStep step);
};

struct Kernels {
  PairKernels<float> f32;
  PairKernels<double> f64;
  PairKernels<Half> f16;
  PairKernels<BFloat16> bf16;
  uint64_t (*read)(const char* bytes, int64_t count);  // exclusive or: the plain read of the benchmarks
};

template <typename T>
const PairKernels<T>& kernels_for(const Kernels& k) {
  if constexpr (sizeof(T) == 8)
    return k.f64;
  else if constexpr (sizeof(T) == 4)
    return k.f32;
  else if constexpr (__is_same(T, Half))
    return k.f16;
  else
    return k.bf16;
}

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels, kAvx512Kernels;
#endif

}  // namespace neurosens
