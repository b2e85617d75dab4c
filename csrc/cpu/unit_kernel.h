// Rows of one element (fully connected layers): terms and totals in one pass, lanes = channels. Included
// inside an instruction set's namespace.
//
// With one position |d| is four of the terms, |d| / |z| two, and 1 - cosine is |sign z' - sign z|, so
// nothing is left of row_terms but a division. Counts stay integers.

template <typename T>
accumulate_t<T> largest_finite(const T* x, int64_t count) {
  using A = accumulate_t<T>;
  A largest = -__builtin_inff();
  if constexpr (sizeof(T) == sizeof(A)) {
    Vector<A> lanes = broadcast<A>(-__builtin_inff());
    int64_t i = 0;
    for (; i + kWidth<A> <= count; i += kWidth<A>) lanes = larger(load<Vector<A>>(x + i), lanes);
    largest = fold_vector<A>(lanes.v, Largest());
    for (; i < count; ++i) largest = larger(x[i], largest);
  } else {
    constexpr int kStep = Extremes<T>::kStep;
    I16 positive = I16{} + int16_t(-32768);
    U16 negative = U16{} + uint16_t(0xffff);
    int64_t i = 0;
    for (; i + kStep <= count; i += kStep) {
      positive = larger(load<I16>(x + i), positive);
      negative = smaller(load<U16>(x + i), negative);
    }
    if (i > 0)
      largest =
          Extremes<T>::value(fold_vector<int16_t>(positive, Largest()), fold_vector<uint16_t>(negative, Smallest()));
    for (; i < count; ++i) largest = larger(accumulate_t<T>(to_float(x[i])), largest);
  }
  if (largest - largest == 0) return largest;
  largest = -__builtin_inff();  // rare: an infinity, or a NaN that compared as an integer
  for (int64_t i = 0; i < count; ++i) {
    const A value = to_float(x[i]);
    if (value - value == 0) largest = larger(value, largest);
  }
  return largest;
}

// What a block of samples adds to the channels of one register.
template <typename A>
struct UnitSums {
  using M = typename Vector<A>::M;
  Wide<A> change, relative, squared, benign, adversarial;
  M cosine, positive, positive_adv, active, active_adv, nan, nan_adv;
  Vector<A> change_max, max, max_adv;

  NS_HD void add(Vector<A> z, Vector<A> z_adv, A threshold, A threshold_adv) {
    const Vector<A> d = z_adv - z, size = absolute(d);
    const M no_change_known = (M)(z.v == 0) & (M)(size.v == size.v);
    const M above = (M)(z.v > 0), above_adv = (M)(z_adv.v > 0);
    const M turn = (above - (M)(z.v < 0)) - (above_adv - (M)(z_adv.v < 0));  // sign z' - sign z
    change.add(size);
    relative.add({choose(broadcast<A>(1).v, size.v / absolute(z).v, no_change_known)});
    squared.add({d.v * d.v});
    benign.add(z);
    adversarial.add(z_adv);
    cosine += turn < 0 ? -turn : turn;
    positive -= above;
    positive_adv -= above_adv;
    active -= (M)(z.v > threshold);
    active_adv -= (M)(z_adv.v > threshold_adv);
    nan |= (M)(z.v != z.v);
    nan_adv |= (M)(z_adv.v != z_adv.v);
    change_max = larger(size, change_max);
    max = larger(z, max);
    max_adv = larger(z_adv, max_adv);
  }
};

template <typename A>
NS_HD void add_unit_totals(const UnitSums<A>& u, int lane, TermTotals totals, int64_t channel) {
  constexpr int kHalf = kWidth<double>;
  const auto wide = [lane](const Wide<A>& w) { return w.v[lane / kHalf].v[lane % kHalf]; };
  const auto add = [&](int k, double x) { totals.sums[k * totals.pitch + channel] += x; };
  const double none = __builtin_nan("");
  const double change = wide(u.change);
  for (int k : {kSensitivity, kSensitivityL2, kMeanShift, kActivationShift}) add(k, change);
  for (int k : {kRelativeL1, kRelativeL2}) add(k, wide(u.relative));
  add(kSquaredChange, wide(u.squared));
  add(kCosineDistance, double(u.cosine[lane]) + change * 0);  // NaN where an element is not finite
  add(kBenignMean, wide(u.benign));
  add(kAdversarialMean, wide(u.adversarial));
  add(kBenignActive, double(u.positive[lane]));
  add(kAdversarialActive, double(u.positive_adv[lane]));
  add(kBenignFrequency, u.nan[lane] ? none : double(u.active[lane]));
  add(kAdversarialFrequency, u.nan_adv[lane] ? none : double(u.active_adv[lane]));
  const double maxima[kRowMaxima] = {is_nan(change) ? none : u.change_max.v[lane],
                                     u.nan[lane] ? none : u.max.v[lane] + 0.0,
                                     u.nan_adv[lane] ? none : u.max_adv.v[lane] + 0.0};
  for (int k = 0; k < kRowMaxima; ++k) {
    double& total = totals.maxima[k * totals.pitch + channel];
    total = larger_or_nan(maxima[k], total);
  }
}

template <typename T>
void add_units(const TileInput<T>& in, int64_t samples, const accumulate_t<T>* threshold,
               const accumulate_t<T>* threshold_adv, TermTotals totals, int64_t first) {
  using A = accumulate_t<T>;
  constexpr int kParts = Elements<T>::kParts, kRegisters = kTile / kWidth<A>;
  const int padded = (in.channels + kSpan<T> - 1) / kSpan<T> * kSpan<T>;
  ColumnSource<T> source(in);
  UnitSums<A> sums[kRegisters] = {};
  for (auto& u : sums) u.max = u.max_adv = broadcast<A>(-__builtin_inff());
  for (int64_t n = 0; n < samples; n += kColumnBlock) {
    const int64_t length = samples - n < kColumnBlock ? samples - n : kColumnBlock;
    const Block<T> block = source.block(n, length, padded);
    for (int r = 0; r * kWidth<A> < padded; ++r) {
      UnitSums<A> u = sums[r];
      const int64_t at = r / kParts * kSpan<T>;
      for (int64_t i = 0; i < length; ++i)
        u.add(Elements<T>::part(block.z + i * block.pitch + at, r % kParts),
              Elements<T>::part(block.z_adv + i * block.pitch_adv + at, r % kParts), threshold[n + i],
              threshold_adv[n + i]);
      sums[r] = u;
    }
  }
  for (int c = 0; c < in.channels; ++c) {
    const int r = c / kSpan<T> * kParts + c % kParts, lane = c % kSpan<T> / kParts;
    add_unit_totals(sums[r], lane, totals, first + c);
  }
}
