// The kernels of one instruction set. A unit chooses its target, names its namespace NS_ISA and its table
// NS_TABLE, and includes this once. Standard headers come before the target is chosen: their inline
// functions are shared between units and must run everywhere.
#include "kernels.h"

// A unit with registers of 64 bytes names a second namespace, NS_WIDE, for what arithmetic sets the pace of, while
// the memory does everywhere else: Winograd's products, and all statistics of 16-bit elements in lanes that are
// channels. The lanes of rows are fixed, see row_kernel.h.
#if defined(NS_WIDE)
#define NS_VECTOR_BYTES 64
namespace neurosens {
namespace NS_WIDE {

#include "simd.h"
//
#include "elements.h"
//
#include "gradient_kernel.h"
//
#include "groups.h"
//
#include "border_kernel.h"
//
#include "linf_kernel.h"
//
#include "change_kernel.h"
//
#include "transpose.h"
//
#include "column_kernel.h"
//
#include "unit_kernel.h"
//
#include "winograd_transforms.h"
//
#include "winograd_kernel.h"

}  // namespace NS_WIDE
}  // namespace neurosens
#undef NS_VECTOR_BYTES
#else
#define NS_WIDE NS_ISA
#define NS_BORDERS NS_AVX2  // in the widest registers alone, so that a call finds one of them
#endif

#if defined(NS_AVX2)
#define NS_VECTOR_BYTES 32
#else
#define NS_VECTOR_BYTES 16
#endif
namespace neurosens {
namespace NS_ISA {

#include "simd.h"
//
#include "elements.h"
//
#include "gradient_kernel.h"
//
#include "groups.h"
#if NS_BORDERS
#include "border_kernel.h"
//
#include "linf_kernel.h"
//
#include "change_kernel.h"
#endif
//
#include "transpose.h"
//
#include "row_kernel.h"
//
#include "column_kernel.h"
//
#include "terms_kernel.h"
//
#include "unit_kernel.h"
//
#include "project_kernel.h"
//
#include "winograd_transforms.h"
//
#include "winograd_kernel.h"

// Rows shorter than this are transposed: folding the lanes of every statistic would cost more.
constexpr int64_t kLongRow = 56;

// Short rows as they are to be read: their ReLU where that is wanted.
template <typename T>
TileInput<T> relu_of_rows(const TileInput<T>& in, int64_t positions) {
  for (int c = 0; c < in.channels; ++c) write_relu(in, c * in.stride, c * in.stride_adv, positions);
  return in.after_relu();
}

template <Reading R, typename T>
constexpr bool kColumns16 = R == kEverything && sizeof(T) == 2;

template <Reading R, typename T>
void rows(const TileInput<T>& in, int64_t positions, Tile<accumulate_t<T>>* out) {
  if (positions < (R == kEverything ? kLongRow : kGroup<T>)) {
    const TileInput<T> read = relu_of_rows(in, positions);
    if constexpr (kColumns16<R, T>)
      NS_WIDE::tile_statistics<R, NS_WIDE::RowSource<T>>(read, positions, out);
    else
      tile_statistics<R, RowSource<T>>(read, positions, out);
  } else if constexpr (R != kEverything) {
    long_row_sums<R>(in, positions, *out);
  } else {
    long_rows(in, positions, *out);
    finish_tile<R>(RowSource<T>(in.after_relu()), positions, in.channels, positions > Extremes<T>::kCapacity, *out);
  }
}

template <Reading R, typename T>
void columns(const TileInput<T>& in, int64_t positions, Tile<accumulate_t<T>>* out) {
  if constexpr (kColumns16<R, T>)
    NS_WIDE::tile_statistics<R, NS_WIDE::ColumnSource<T>>(in, positions, out);
  else
    tile_statistics<R, ColumnSource<T>>(in, positions, out);
}

template <typename T>
void units(const TileInput<T>& in, int64_t samples, const accumulate_t<T>* threshold,
           const accumulate_t<T>* threshold_adv, TermTotals totals, int64_t first) {
  if constexpr (kColumns16<kEverything, T>)
    NS_WIDE::add_units(in, samples, threshold, threshold_adv, totals, first);
  else
    add_units(in, samples, threshold, threshold_adv, totals, first);
}

uint64_t read(const char* bytes, int64_t count) {
  constexpr int kUnroll = 4;
  I64 x[kUnroll] = {};
  int64_t i = 0;
  for (; i + kUnroll * kVectorBytes <= count; i += kUnroll * kVectorBytes)
    for (int j = 0; j < kUnroll; ++j) x[j] ^= load<I64>(bytes + i + j * kVectorBytes);
  const I64 all = (x[0] ^ x[1]) ^ (x[2] ^ x[3]);
  uint64_t result = 0;
  for (unsigned j = 0; j < sizeof(I64) / 8; ++j) result ^= uint64_t(all[j]);
  for (; i < count; ++i) result ^= uint64_t(static_cast<unsigned char>(bytes[i])) << i % 8 * 8;
  return result;
}

template <typename T>
constexpr PairKernels<T> table() {
  return {{rows<kEverything, T>, rows<kChange, T>, rows<kMoments, T>},
          {columns<kEverything, T>, columns<kChange, T>, columns<kMoments, T>},
          add_terms<T>,
          add_frequencies<accumulate_t<T>>,
          largest_finite<T>,
          write_relu<T>,
          units<T>,
          add_unit_distances<T>,
          unit_gradients<T>,
          base_gradient<T>,
          row_gradient<T>,
          column_gradient<T>,
          project<T>,
          gradient_peak<T>,
          gradient_sum<T>,
          change_sum<T>,
          write_change<T>,
          add_momentum<T>};
}

}  // namespace NS_ISA

const Kernels NS_TABLE = {NS_ISA::table<float>(),
                          NS_ISA::table<double>(),
                          NS_ISA::table<Half>(),
                          NS_ISA::table<BFloat16>(),
                          NS_ISA::read,
                          {NS_WIDE::winograd_block<2, float>, NS_WIDE::winograd_block<4, float>},
                          {NS_WIDE::winograd_block<2, BFloat16>, NS_WIDE::winograd_block<4, BFloat16>}};

}  // namespace neurosens
