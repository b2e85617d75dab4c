// The functions that exist once per instruction set, as tables; dispatch.h picks one table at load.
#pragma once

#include "../math/project.h"
#include "../math/relu.h"
#include "../math/statistics.h"
#include "winograd.h"

#include <cstdint>
#include <initializer_list>

namespace neurosens {

template <int bytes>
struct Integer;
template <>
struct Integer<2> {
  using type = int16_t;
};
template <>
struct Integer<4> {
  using type = int32_t;
};
template <>
struct Integer<8> {
  using type = int64_t;
};

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
  // Where the ReLU of both goes, at the same strides; what is written is then measured. Null: z is measured as it is.
  T *relu = nullptr, *relu_adv = nullptr;

  // What is measured, once its ReLU is written.
  NS_HD TileInput after_relu() const { return relu ? TileInput{relu, relu_adv, stride, stride_adv, channels} : *this; }
  // The same for `count` channels from an element on, counted in either half.
  NS_HD TileInput from(int64_t at, int64_t at_adv, int count) const {
    return {z + at,
            z_adv + at_adv,
            stride,
            stride_adv,
            count,
            relu ? relu + at : nullptr,
            relu ? relu_adv + at_adv : nullptr};
  }
};

// Adjacent elements whose gradients are wanted. `base` is the incoming gradient that passes where z, a ReLU's
// output, is above 0, and null where there is no ReLU; a null `grad` is not written.
template <typename T>
struct GradientRun {
  const T *z, *z_adv;
  int64_t count;
  const T *base, *base_adv;
  T *grad, *grad_adv;
};

// RowGradient of every channel of a range, and whether the channel was chosen: all bits set, or none.
template <typename A>
struct ChannelGradients {
  using Mask = typename Integer<sizeof(A)>::type;
  alignas(64) A change[kRange] = {}, benign[kRange] = {}, adversarial[kRange] = {};
  alignas(64) Mask chosen[kRange] = {};
};

// Totals of a range of channels, structure of arrays with `pitch` doubles per line.
struct TermTotals {
  double* sums;    // [kSumCount][pitch]
  double* maxima;  // [kRowMaxima][pitch]
  int64_t pitch;
};

// Adjacent elements of one sample: what leads from them to their change, see change_of.
template <typename T>
struct StepInput {
  const T *adversarial, *gradient, *origin;
  double peak, factor;

  StepInput from(int64_t at) const { return {adversarial + at, gradient + at, origin + at, peak, factor}; }
};

template <typename T>
struct PairKernels {
  using A = accumulate_t<T>;
  // Row statistics, one function for each Reading; what it does not gather is not written.
  using Read = void (*)(const TileInput<T>& in, int64_t positions, Tile<A>* out);
  Read rows[kReadings], columns[kReadings];
  // Adds one sample's terms of a tile to totals at channel `first`; stores both channel means for the frequencies.
  void (*add_terms)(const Tile<A>& tile, int channels, int64_t positions, TermTotals totals, int64_t first, A* mean,
                    A* mean_adv);
  // Adds to each channel's sum whether its mean exceeds its sample's threshold.
  void (*add_frequencies)(const A* mean, int64_t channels, A threshold, double* sum);
  // The largest finite element, -inf if there is none.
  A (*largest_finite)(const T* x, int64_t count);
  // Writes the ReLU of `count` adjacent elements of both halves, from `at` and `at_adv` on, where the input asks for
  // it.
  void (*write_relu)(const TileInput<T>& in, int64_t at, int64_t at_adv, int64_t count);
  // Adds the terms of rows of one element each (fully connected layers); in.stride steps through the samples,
  // whose activation thresholds are given.
  void (*add_units)(const TileInput<T>& in, int64_t samples, const A* threshold, const A* threshold_adv,
                    TermTotals totals, int64_t first);
  // Adds the distances of one sample's rows of one element to the sums of their channels: that of norm 1, and another
  // where `sum` is given.
  void (*add_unit_distances)(Distance distance, const T* z, const T* z_adv, int64_t channels, double* sum_l1,
                             double* sum);
  // The gradients of kL2 or kCosine of such rows, each times the scale of its channel.
  void (*unit_gradients)(Distance distance, const T* z, const T* z_adv, int64_t channels, const A* scale,
                         ChannelGradients<A>& gradients);
  // A gradient before any distance adds to it; the other two write whole ones, of one row or of one position.
  void (*base_gradient)(const T* relu_out, const T* base, int64_t count, T* grad);
  void (*row_gradient)(bool signed_change, RowGradient<A> g, const GradientRun<T>& run);
  void (*column_gradient)(bool signed_change, const ChannelGradients<A>& g, const GradientRun<T>& run);
  void (*project)(T* adversarial, const T* gradient, const T* origin, int64_t count, LimitsOf<T> limits);
  // The largest size of a gradient; the sum of its sizes, or of their squares, over `peak`.
  double (*gradient_peak)(const T* gradient, int64_t count);
  double (*gradient_sum)(const T* gradient, int64_t count, double peak, bool squares);
  // What the threshold leaves of the changes; or, as the total, the sum of their squares.
  Excess (*change_sum)(const StepInput<T>& in, int64_t count, double threshold, bool squares);
  void (*write_change)(T* adversarial, const StepInput<T>& in, int64_t count, double threshold, double scale,
                       LimitsOf<T> limits);
  void (*add_momentum)(T* momentum, const T* gradient, int64_t count, double decay, double peak, double factor);
};

struct Kernels {
  PairKernels<float> f32;
  PairKernels<double> f64;
  PairKernels<Half> f16;
  PairKernels<BFloat16> bf16;
  uint64_t (*read)(const char* bytes, int64_t count);  // exclusive or: the plain read of the benchmarks
  WinogradKernels<float> winograd_f32;
  WinogradKernels<BFloat16> winograd_bf16;
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
