// The statistics of a pair of rows and the terms derived from them: the one place their formulas
// stand. Column orders equal neurosens_fast/columns.py; a test compares the two.
#pragma once

#include "common.h"

namespace neurosens {

// Row statistics, [N, C, kRowCount]. The first kRowSums are sums of products, then counts, then maxima.
enum Row {
  kChangeL1,
  kChangeSum,
  kChangeSq,
  kChangeDot,
  kBenignSum,
  kAdversarialSum,
  kBenignL1,
  kBenignSq,
  kAdversarialSq,
  kPairDot,
  kBenignPositive,
  kAdversarialPositive,
  kChangeMax,
  kBenignMax,
  kAdversarialMax,
  kRowCount
};
constexpr int kRowSums = kPairDot + 1;
constexpr int kRowMaxima = kRowCount - kChangeMax;

// Totals over samples, [C, kSumCount]; the frequencies compare the channels of one sample and are
// formed from the means in a second step.
enum Sum {
  kSensitivity,
  kSensitivityL2,
  kRelativeL1,
  kRelativeL2,
  kMeanShift,
  kSquaredChange,
  kActivationShift,
  kCosineDistance,
  kBenignMean,
  kAdversarialMean,
  kBenignActive,
  kAdversarialActive,
  kBenignFrequency,
  kAdversarialFrequency,
  kSumCount
};
constexpr int kRowTerms = kBenignFrequency;  // terms that one row alone determines

// A neuron counts as firing above this share of its sample's largest channel mean.
constexpr double kActivationFrequencyShare = 0.01;

// What a reading gathers: every statistic, the change alone (sensitivity), or what distances need.
enum Reading { kEverything, kChange, kMoments, kReadings };

template <Reading R>
NS_HD constexpr bool reads(int row) {
  return R == kEverything || row == kChangeL1 ||
         (R == kMoments &&
          (row == kChangeSq || row == kChangeDot || row == kBenignSq || row == kAdversarialSq || row == kPairDot));
}

// Running sums of one lane; V is a scalar or a vector of lanes.
template <typename V, Reading R = kEverything>
struct RowSums {
  V sum[kRowSums];
  V change_max;

  // The order of these sums decides whether the registers of CUDA and of AVX2 suffice.
  NS_HD void add(V z, V z_adv) {
    const V d = z_adv - z;
    const V size = absolute(d);
    sum[kChangeL1] += size;
    if constexpr (R != kChange) {
      sum[kChangeSq] = fused_multiply_add(d, d, sum[kChangeSq]);
      sum[kChangeDot] = fused_multiply_add(d, z, sum[kChangeDot]);
      sum[kBenignSq] = fused_multiply_add(z, z, sum[kBenignSq]);
      sum[kAdversarialSq] = fused_multiply_add(z_adv, z_adv, sum[kAdversarialSq]);
      sum[kPairDot] = fused_multiply_add(z, z_adv, sum[kPairDot]);
    }
    if constexpr (R == kEverything) {
      sum[kChangeSum] += d;
      sum[kBenignSum] += z;
      sum[kAdversarialSum] += z_adv;
      sum[kBenignL1] += absolute(z);
      change_max = raised(change_max, size);
    }
  }
};

// A maximum that skipped NaN becomes NaN where its sum is NaN. Squares are used for z and z':
// infinities of both signs cancel in a plain sum, never there.
template <typename A>
NS_HD void propagate_nan(const A* sums, A& change_max, A& benign_max, A& adversarial_max) {
  change_max = is_nan(sums[kChangeL1]) ? sums[kChangeL1] : change_max;
  benign_max = is_nan(sums[kBenignSq]) ? sums[kBenignSq] : benign_max;
  adversarial_max = is_nan(sums[kAdversarialSq]) ? sums[kAdversarialSq] : adversarial_max;
}

// 1 - cosine without cancellation for nearly equal rows: (|d|^2 - delta^2) / (2 |z| |z'|), delta = |z'| - |z|.
// Rows further apart than their length use the dot product. 0 where both rows are zero, 1 where one is.
template <typename A>
NS_HD A cosine_distance(A change_sq, A change_dot, A benign_sq, A adversarial_sq, A pair_dot) {
  const A norm = square_root(benign_sq), norm_adv = square_root(adversarial_sq);
  const A product = norm * norm_adv;
  const A delta = (2 * change_dot + change_sq) / (norm + norm_adv);
  const A near = (change_sq - delta * delta) / (2 * product);
  const A far = 1 - pair_dot / product;
  A distance = change_sq <= product ? near : far;
  distance = distance < 0 ? A(0) : distance;
  distance = distance > 2 ? A(2) : distance;
  const A zero_rows = A(benign_sq == 0 ? 1 : 0) + A(adversarial_sq == 0 ? 1 : 0);
  const A degenerate = (2 - zero_rows) + (benign_sq + adversarial_sq) * 0;  // NaN stays NaN
  return zero_rows > 0 ? degenerate : distance;
}

// change / size, and 1 where size is 0 (unless the change is NaN).
template <typename A>
NS_HD A relative_change(A change, A size) {
  const A ratio = change / size;
  return size == 0 ? (is_nan(change) ? change : A(1)) : ratio;
}

// The kRowTerms per-sample terms of one row; row[k * stride] is row statistic k, term[k * stride] is written.
template <typename A>
NS_HD void row_terms(const A* row, A positions, A* term, int64_t stride) {
  const A change_l1 = row[kChangeL1 * stride], change_sum = row[kChangeSum * stride];
  const A change_sq = row[kChangeSq * stride], benign_sum = row[kBenignSum * stride];
  const A benign_sq = row[kBenignSq * stride];
  const A share = 1 / positions;
  const A change_l2 = square_root(change_sq);
  term[kSensitivity * stride] = change_l1 * share;
  term[kSensitivityL2 * stride] = change_l2 * share;
  term[kRelativeL1 * stride] = relative_change(change_l1, row[kBenignL1 * stride]);
  term[kRelativeL2 * stride] = relative_change(change_l2, square_root(benign_sq));
  term[kMeanShift * stride] = absolute(change_sum * share);
  term[kSquaredChange * stride] = change_sq * share;
  term[kActivationShift * stride] = change_l2;
  term[kCosineDistance * stride] = cosine_distance(change_sq, row[kChangeDot * stride], benign_sq,
                                                   row[kAdversarialSq * stride], row[kPairDot * stride]);
  term[kBenignMean * stride] = benign_sum * share;
  term[kAdversarialMean * stride] = row[kAdversarialSum * stride] * share;
  term[kBenignActive * stride] = row[kBenignPositive * stride] * share;
  term[kAdversarialActive * stride] = row[kAdversarialPositive * stride] * share;
}

// The maximum that NaN wins for good.
NS_HD double larger_or_nan(double x, double total) { return x > total || is_nan(x) ? x : total; }

// 1 where a channel mean exceeds its sample's threshold, NaN where it is NaN.
template <typename A>
NS_HD A frequency_term(A mean, A threshold) {
  return is_nan(mean) ? mean : A(mean > threshold ? 1 : 0);
}

// Distances between the two rows of a pair that a similarity loss can use.
enum class Distance { kL1, kMeanSquare, kL2, kCosine };

// What has to be read for a distance and the sensitivity.
NS_HD Reading reading_of(Distance distance) { return distance == Distance::kL1 ? kChange : kMoments; }

template <typename A>
NS_HD A row_distance(Distance distance, const A* row, A positions, int64_t stride) {
  switch (distance) {
    case Distance::kL1:
      return row[kChangeL1 * stride] / positions;
    case Distance::kMeanSquare:
      return row[kChangeSq * stride] / positions;
    case Distance::kL2:
      return square_root(row[kChangeSq * stride]) / positions;
    case Distance::kCosine:
      break;
  }
  return cosine_distance(row[kChangeSq * stride], row[kChangeDot * stride], row[kBenignSq * stride],
                         row[kAdversarialSq * stride], row[kPairDot * stride]);
}

// The gradient of row_distance is linear in the elements of the row:
//   for z': change * e + adversarial * z',   for z: -change * e + benign * z,
// with e = sign(d) for kL1 and e = d otherwise. Where a distance has no gradient (no change for kL2, a
// zero row for kCosine) it is 0, a choice of this package.
template <typename A>
struct RowGradient {
  A change, benign, adversarial;
};

template <typename A>
NS_HD RowGradient<A> row_gradient(Distance distance, const A* row, A positions, int64_t stride) {
  if (distance == Distance::kL1) return {1 / positions, 0, 0};
  if (distance == Distance::kMeanSquare) return {2 / positions, 0, 0};
  const A change_sq = row[kChangeSq * stride];
  if (distance == Distance::kL2) return {change_sq == 0 ? A(0) : 1 / (square_root(change_sq) * positions), 0, 0};
  const A change_dot = row[kChangeDot * stride];
  const A benign_sq = row[kBenignSq * stride], adversarial_sq = row[kAdversarialSq * stride];
  const A product = square_root(benign_sq) * square_root(adversarial_sq);
  if (product == 0) return {0, 0, 0};
  // <d, z'> of nearly equal rows, without the cancellation of |z'|^2 - <z, z'>.
  const A change_dot_adv = change_sq <= product ? change_dot + change_sq : adversarial_sq - row[kPairDot * stride];
  // Quotients in an order that stays in range: products of four elements would leave that of float32.
  return {1 / product, change_dot / benign_sq / product, -(change_dot_adv / adversarial_sq) / product};
}

// The gradient of one element, or of a vector of them. A distance that does not depend on z or z' by itself has the
// coefficient 0 there: infinity times 0 must not make NaN.
template <typename V>
NS_HD void element_gradient(bool signed_change, RowGradient<V> g, V z, V z_adv, V& grad, V& grad_adv) {
  const V d = z_adv - z;
  const V change = g.change * (signed_change ? sign(d) : d);
  grad = where_zero(g.benign, -change, fused_multiply_add(g.benign, z, -change));
  grad_adv = where_zero(g.adversarial, change, fused_multiply_add(g.adversarial, z_adv, change));
}

}  // namespace neurosens
