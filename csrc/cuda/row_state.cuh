// What a thread gathers of one row, which of it is kept, and how threads fold theirs.
#pragma once

#include "../math/statistics.h"
#include "launch.cuh"

namespace neurosens {

// Which statistics of a row are kept, in the order they are stored in: M of them. What is not kept costs nothing.
struct AllStatistics {
  static constexpr int kCount = kRowCount;
  static constexpr bool kMaxima = true;
  static NS_HD constexpr int at(int i) { return i; }
};
struct Moments {  // what the distances and their gradients are made of
  static constexpr int kCount = 6;
  static constexpr bool kMaxima = false;
  static NS_HD constexpr int at(int i) {
    return i == 0   ? kChangeL1
           : i == 1 ? kChangeSq
           : i == 2 ? kChangeDot
           : i == 3 ? kBenignSq
           : i == 4 ? kAdversarialSq
                    : kPairDot;
  }
};

constexpr bool keeps_moments(int row) {
  for (int i = 0; i < Moments::kCount; ++i)
    if (Moments::at(i) == row) return true;
  return false;
}
constexpr bool moments_agree() {
  for (int k = 0; k < kRowSums; ++k)
    if (keeps_moments(k) != reads<kMoments>(k)) return false;
  return true;
}
static_assert(moments_agree());

// What one thread gathers of one row.
template <typename A>
struct RowState {
  RowSums<A> sums;
  A benign_max, adversarial_max;
  unsigned positive, positive_adv;

  __device__ __forceinline__ RowState() {
#pragma unroll
    for (int k = 0; k < kRowSums; ++k) sums.sum[k] = 0;
    sums.change_max = benign_max = adversarial_max = -A(__builtin_inff());
    positive = positive_adv = 0;
  }
  __device__ __forceinline__ void add(A z, A z_adv) {
    sums.add(z, z_adv);
    benign_max = larger(z, benign_max);
    adversarial_max = larger(z_adv, adversarial_max);
    positive += z > 0;
    positive_adv += z_adv > 0;
  }
  __device__ __forceinline__ void write(A (&row)[kRowCount]) const {
#pragma unroll
    for (int k = 0; k < kRowSums; ++k) row[k] = sums.sum[k];
    row[kBenignPositive] = A(positive);  // exact below 2^24 positions of a part
    row[kAdversarialPositive] = A(positive_adv);
    row[kChangeMax] = sums.change_max;
    row[kBenignMax] = benign_max;
    row[kAdversarialMax] = adversarial_max;
  }
};

template <typename A>
NS_HD A combine(int statistic, A a, A b) {
  return statistic < kChangeMax ? a + b : larger(a, b);
}

// Maxima take the NaN that they skipped; adding zero hides which of +0 and -0 came first.
template <typename Set, typename A>
NS_HD void finish_row(A* row) {
  if constexpr (Set::kMaxima) {
    propagate_nan(row, row[kChangeMax], row[kBenignMax], row[kAdversarialMax]);
    for (int k = kChangeMax; k < kRowCount; ++k) row[k] += A(0);
  }
}

// Totals of `lanes` neighbouring threads, the same in each of them.
template <int Lanes, typename Set, typename A>
__device__ __forceinline__ void fold_lanes(A (&row)[kRowCount]) {
#pragma unroll
  for (int mask = Lanes / 2; mask > 0; mask /= 2) {
#pragma unroll
    for (int i = 0; i < Set::kCount; ++i) {
      const int k = Set::at(i);
      row[k] = combine(k, row[k], __shfl_xor_sync(kFullMask, row[k], mask));
    }
  }
}

}  // namespace neurosens
