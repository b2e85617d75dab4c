// Statistics of contiguous rows, lanes = positions. Included inside an instruction set's namespace.
//
// A block of positions that stays in L1 is read once from memory and then again per pass: one pass per
// register-width share of the 16 lanes and per part of a read, one for maxima and counts. The eleven
// accumulators of a pass fit sixteen registers only so: a spilled one costs a store and a reload per step.
// Lane totals of a pass start from zero and are added to the row's totals, so rounding grows with block
// length plus number of blocks, not with the row length.

// Blocks so short that the hardware fetches the next one while the passes compute. Longer ones left the memory
// idle meanwhile, and prefetching in the code was never better than this.
template <typename T>
constexpr int64_t kRowBlock = sizeof(T) == 2 ? 512 : 384;

template <typename A>
struct RowTotals {
  alignas(64) A sum[kRowSums][kLanes];
  alignas(64) A change_max[kLanes];
};

// Rows are cut into groups and a padded rest at the same places on every instruction set.
template <typename T>
constexpr int kGroup = sizeof(T) == 2 ? 32 : 16;

// Adds part i of the lanes [p * width, (p + 1) * width) of `positions` positions, a multiple of the group.
template <typename T>
NS_HD void add_pass(const T* z, const T* z_adv, int64_t positions, int p, int i, RowTotals<accumulate_t<T>>& totals) {
  using A = accumulate_t<T>;
  using V = Vector<A>;
  constexpr int kWide = kWidth<A>, kParts = Elements<T>::kParts;
  RowSums<V> sums = {};
  for (int64_t at = p * kSpan<T>; at < positions; at += kParts * kLanes)
    sums.add(Elements<T>::part(z + at, i), Elements<T>::part(z_adv + at, i));
  for (int k = 0; k < kRowSums; ++k) {
    A* total = totals.sum[k] + p * kWide;
    store(total, load<V>(total) + sums.sum[k]);
  }
  A* peak = totals.change_max + p * kWide;
  store(peak, larger(sums.change_max, load<V>(peak)));
}

// Statistic k of the row goes to out[k * stride].
template <typename T>
void row_statistics(const T* z, const T* z_adv, int64_t positions, accumulate_t<T>* out, int64_t stride) {
  using A = accumulate_t<T>;
  constexpr int kPasses = kLanes / kWidth<A>, kParts = Elements<T>::kParts, kStep = Extremes<T>::kStep;
  RowTotals<A> totals = {};
  Extremes<T> extremes;
  extremes.clear();
  const int64_t whole = positions - positions % kGroup<T>;
  for (int64_t s = 0; s < whole; s += kRowBlock<T>) {
    const int64_t length = whole - s < kRowBlock<T> ? whole - s : kRowBlock<T>;
    for (int p = 0; p < kPasses; ++p)
      for (int i = 0; i < kParts; ++i) add_pass<T>(z + s, z_adv + s, length, p, i, totals);
    for (int64_t i = s; i < s + length; i += kStep) extremes.add(z + i, z_adv + i);
  }
  if (whole < positions) {
    // The rest is padded to a group: zeros add nothing, `padding` is never largest nor positive.
    alignas(64) T rest[kGroup<T>] = {}, rest_adv[kGroup<T>] = {};
    for (int64_t s = whole; s < positions; ++s) rest[s - whole] = z[s], rest_adv[s - whole] = z_adv[s];
    for (int p = 0; p < kPasses; ++p)
      for (int i = 0; i < kParts; ++i) add_pass<T>(rest, rest_adv, kGroup<T>, p, i, totals);
    for (int64_t i = positions - whole; i < kGroup<T>; ++i) rest[i] = rest_adv[i] = Extremes<T>::padding();
    for (int i = 0; i < kGroup<T>; i += kStep) extremes.add(rest + i, rest_adv + i);
  }

  A sums[kRowSums];
  for (int k = 0; k < kRowSums; ++k) sums[k] = fold<kLanes>(totals.sum[k], Add());
  A change_max = positions ? fold<kLanes>(totals.change_max, Largest()) : -__builtin_inff();
  RowExtremes row = extremes.fold_lanes();
  const bool recount = is_nan(sums[kBenignSq]) || is_nan(sums[kAdversarialSq]) || positions > Extremes<T>::kCapacity;
  if (recount) {  // rare: see Extremes16
    row.count = row.count_adv = 0;
    for (int64_t s = 0; s < positions; ++s) row.count += to_float(z[s]) > 0, row.count_adv += to_float(z_adv[s]) > 0;
  }
  // Adding zero turns -0 into +0, so that the order of equal zeros does not show.
  A benign_max = positions ? A(row.benign) + 0 : -__builtin_inff();
  A adversarial_max = positions ? A(row.adversarial) + 0 : -__builtin_inff();
  propagate_nan(sums, change_max, benign_max, adversarial_max);
  for (int k = 0; k < kRowSums; ++k) out[k * stride] = sums[k];
  out[kBenignPositive * stride] = A(row.count);
  out[kAdversarialPositive * stride] = A(row.count_adv);
  out[kChangeMax * stride] = change_max;
  out[kBenignMax * stride] = benign_max;
  out[kAdversarialMax * stride] = adversarial_max;
}
