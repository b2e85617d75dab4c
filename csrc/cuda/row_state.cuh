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
    benign_max = raised(benign_max, z);
    adversarial_max = raised(adversarial_max, z_adv);
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
    // Maxima take the NaN that they skipped; adding zero hides which of +0 and -0 came first.
    propagate_nan(row, row[kChangeMax], row[kBenignMax], row[kAdversarialMax]);
#pragma unroll
    for (int k = kChangeMax; k < kRowCount; ++k) row[k] += A(0);
  }
};

// Folds `x` into the total of the i-th statistic of a set; NaN wins a maximum for good.
template <typename Set, typename A>
NS_HD A combine(int i, A total, A x) {
  const bool peak = Set::kMaxima && Set::at(i) >= kChangeMax;
  const A most = bool((x > total) | is_nan(x)) ? x : total, sum = total + x;
  return peak ? most : sum;
}

// Totals of `Lanes` neighbouring threads. At every step a thread hands half of its statistics to a neighbour and
// folds the other half, so that few values are exchanged and each thread ends with some of the totals.
template <int Lanes, typename Set, typename A>
struct LaneTotals {
  static constexpr int kPadded = Set::kCount > 8 ? 16 : 8;
  static constexpr int kEach = kPadded > Lanes ? kPadded / Lanes : 1;
  static constexpr int kApart = kPadded / kEach;  // so that neighbouring threads end with neighbouring statistics
  A total[kPadded];  // kEach of them, kApart apart, are those of statistics first, first + kApart, ...
  int first = 0;
  bool stores;  // one of the threads that hold the same

  __device__ __forceinline__ LaneTotals(const A (&row)[kRowCount], int lane)
      : stores(lane % (Lanes * kEach / kPadded) == 0) {
#pragma unroll
    for (int i = 0; i < kPadded; ++i) total[i] = i < Set::kCount ? row[Set::at(i)] : A(0);
    exchange<Lanes / 2, kApart / 2>(lane);
  }

 private:
  template <int Mask, int Width>
  __device__ __forceinline__ void exchange(int lane) {
    const bool upper = Width > 0 && (lane & Mask) != 0;
    first += upper ? Width : 0;
#pragma unroll
    for (int part = 0; part < kPadded; part += kApart) {
#pragma unroll
      for (int i = part; i < part + (Width > 0 ? Width : 1); ++i) {
        const A other = upper ? total[i] : total[i + Width], own = upper ? total[i + Width] : total[i];
        total[i] = combine<Set>(first + i, own, __shfl_xor_sync(kFullMask, other, Mask));
      }
    }
    if constexpr (Mask > 1) exchange<Mask / 2, Width / 2>(lane);
  }
};

}  // namespace neurosens
