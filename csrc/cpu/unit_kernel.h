// Rows of one element (fully connected layers): terms and totals in one pass, lanes = channels. Included
// inside an instruction set's namespace.
//
// With one position |d| is four of the terms, |d| / |z| two, and 1 - cosine is |sign z' - sign z|, so
// nothing is left of row_terms but a division. Counts stay integers.

// A distance that a loop knows when it is compiled.
template <Distance D>
struct Named {
  static constexpr Distance value = D;
};

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

// The rows of one element of up to kTile neighbouring channels, and what their distances and gradients are made of.
template <typename A>
struct UnitRows {
  int count;
  alignas(64) A z[kTile + kWidth<A>], z_adv[kTile + kWidth<A>], row[kRowSums][kTile];

  template <typename T>
  NS_HD UnitRows(const T* from, const T* from_adv, int64_t channels) : count(channels < kTile ? int(channels) : kTile) {
    widen(from, count, z);
    widen(from_adv, count, z_adv);
  }
  NS_HD void find_moments() {
#pragma GCC ivdep
    for (int c = 0; c < count; ++c) {
      const A d = z_adv[c] - z[c];
      row[kChangeSq][c] = d * d;
      row[kChangeDot][c] = d * z[c];
      row[kBenignSq][c] = z[c] * z[c];
      row[kAdversarialSq][c] = z_adv[c] * z_adv[c];
      row[kPairDot][c] = z[c] * z_adv[c];
    }
  }
};

// Adds the distances of rows of one element, those of one sample, to the sums of their channels; `sum` may be null.
template <typename T>
void add_unit_distances(Distance distance, const T* z, const T* z_adv, int64_t channels, double* sum_l1, double* sum) {
  using A = accumulate_t<T>;
  for (int64_t first = 0; first < channels; first += kTile) {
    UnitRows<A> rows(z + first, z_adv + first, channels - first);
    double *to_l1 = sum_l1 + first, *to = sum + first;
#pragma GCC ivdep
    for (int c = 0; c < rows.count; ++c) to_l1[c] += double(neurosens::absolute(rows.z_adv[c] - rows.z[c]));
    if (!sum) continue;
    rows.find_moments();
    const auto add = [&](auto named) {
#pragma GCC ivdep
      for (int c = 0; c < rows.count; ++c) to[c] += double(row_distance(named.value, &rows.row[0][c], A(1), kTile));
    };
    if (distance == Distance::kMeanSquare) add(Named<Distance::kMeanSquare>());
    if (distance == Distance::kL2) add(Named<Distance::kL2>());
    if (distance == Distance::kCosine) add(Named<Distance::kCosine>());
  }
}

// The gradients of those distances, each times the scale of its channel.
template <typename T>
void unit_gradients(Distance distance, const T* z, const T* z_adv, int64_t channels, const accumulate_t<T>* scale,
                    ChannelGradients<accumulate_t<T>>& gradients) {
  using A = accumulate_t<T>;
  for (int64_t first = 0; first < channels; first += kTile) {
    UnitRows<A> rows(z + first, z_adv + first, channels - first);
    rows.find_moments();
    A *change = gradients.change + first, *benign = gradients.benign + first;
    A* adversarial = gradients.adversarial + first;
    const auto set = [&](auto named) {
#pragma GCC ivdep
      for (int c = 0; c < rows.count; ++c) {
        const RowGradient<A> g = row_gradient(named.value, &rows.row[0][c], A(1), kTile);
        change[c] = g.change * scale[first + c];
        benign[c] = g.benign * scale[first + c];
        adversarial[c] = g.adversarial * scale[first + c];
      }
    };
    if (distance == Distance::kL2) set(Named<Distance::kL2>());
    if (distance == Distance::kCosine) set(Named<Distance::kCosine>());
  }
}

// What a block of samples adds to the channels of one register, in two passes: each fits the registers. Widening costs
// more than adding: the change is formed again from what is widened anyway.
template <typename A>
struct UnitSums {
  Wide<A> change, relative, squared, benign, adversarial;

  NS_HD void add(Vector<A> z, Vector<A> z_adv) {
    using M = typename Vector<A>::M;
    const Vector<A> size = absolute(z_adv - z);
    const M no_size = (M)(z.v == 0) & (M)(size.v == size.v);
    relative += widen(Vector<A>{choose(broadcast<A>(1).v, size.v / absolute(z).v, no_size)});
    const Wide<A> wide = widen(z), wide_adv = widen(z_adv);
    benign += wide;
    adversarial += wide_adv;
    for (int i = 0; i < Wide<A>::kCount; ++i) {
      const VD d = wide_adv.v[i] - wide.v[i];
      change.v[i] += absolute(d);
      squared.v[i] = fused_multiply_add(d, d, squared.v[i]);
    }
  }
};

template <typename A>
struct UnitCounts {
  using M = typename Vector<A>::M;
  M turn, positive, positive_adv, active, active_adv, nan, nan_adv;
  Vector<A> change_max, max, max_adv;

  NS_HD void add(Vector<A> z, Vector<A> z_adv, A threshold, A threshold_adv) {
    const M above = (M)(z.v > 0), above_adv = (M)(z_adv.v > 0);
    const M difference = (above - (M)(z.v < 0)) - (above_adv - (M)(z_adv.v < 0));  // sign z' - sign z
    turn += difference < 0 ? -difference : difference;
    positive -= above;
    positive_adv -= above_adv;
    active -= (M)(z.v > threshold);
    active_adv -= (M)(z_adv.v > threshold_adv);
    nan |= (M)(z.v != z.v);
    nan_adv |= (M)(z_adv.v != z_adv.v);
    change_max = larger(absolute(z_adv - z), change_max);
    max = larger(z, max);
    max_adv = larger(z_adv, max_adv);
  }
};

// What a tile's channels receive, in channel order.
struct UnitTotals {
  double sum[kSumCount][kTile], maximum[kRowMaxima][kTile];

  template <typename A>
  NS_HD void set(int channel, int lane, const UnitSums<A>& u, const UnitCounts<A>& n) {
    const double none = __builtin_nan("");
    const double change = u.change.lane(lane), relative = u.relative.lane(lane);
    for (int k : {kSensitivity, kSensitivityL2, kMeanShift, kActivationShift}) sum[k][channel] = change;
    for (int k : {kRelativeL1, kRelativeL2}) sum[k][channel] = relative;
    sum[kSquaredChange][channel] = u.squared.lane(lane);
    sum[kCosineDistance][channel] = double(n.turn[lane]) + change * 0;  // NaN where an element is not finite
    sum[kBenignMean][channel] = u.benign.lane(lane);
    sum[kAdversarialMean][channel] = u.adversarial.lane(lane);
    sum[kBenignActive][channel] = double(n.positive[lane]);
    sum[kAdversarialActive][channel] = double(n.positive_adv[lane]);
    sum[kBenignFrequency][channel] = n.nan[lane] ? none : double(n.active[lane]);
    sum[kAdversarialFrequency][channel] = n.nan_adv[lane] ? none : double(n.active_adv[lane]);
    maximum[0][channel] = is_nan(change) ? none : double(n.change_max.v[lane]);
    maximum[1][channel] = n.nan[lane] ? none : double(n.max.v[lane]) + 0.0;
    maximum[2][channel] = n.nan_adv[lane] ? none : double(n.max_adv.v[lane]) + 0.0;
  }
  NS_HD void add_to(TermTotals totals, int64_t first, int channels) const {
    for (int k = 0; k < kSumCount; ++k)
      for (int c = 0; c < channels; ++c) totals.sums[k * totals.pitch + first + c] += sum[k][c];
    for (int k = 0; k < kRowMaxima; ++k) {
      double* peak = totals.maxima + k * totals.pitch + first;
      for (int c = 0; c < channels; ++c) peak[c] = larger_or_nan(maximum[k][c], peak[c]);
    }
  }
};

template <typename T>
void add_units(const TileInput<T>& in, int64_t samples, const accumulate_t<T>* threshold,
               const accumulate_t<T>* threshold_adv, TermTotals totals, int64_t first) {
  using A = accumulate_t<T>;
  using E = Elements<T>;
  constexpr int kRegisters = kTile / kWidth<A>;
  const int padded = (in.channels + kSpan<T> - 1) / kSpan<T> * kSpan<T>;
  const ColumnSource<T> source(in);
  alignas(64) typename ColumnSource<T>::Copy copy;
  UnitSums<A> sums[kRegisters] = {};
  UnitCounts<A> counts[kRegisters] = {};
  for (auto& n : counts) n.max = n.max_adv = broadcast<A>(-__builtin_inff());
  for (int64_t begin = 0; begin < samples; begin += source.kBlock) {
    const int64_t length = samples - begin < source.kBlock ? samples - begin : source.kBlock;
    const Block<T> block = source.block(begin, length, padded, copy);
    const Ahead<T> ahead = ColumnSource<T>::ahead(in, 0, 1, begin, length);
    for (int r = 0; r * kWidth<A> < padded; ++r) {
      const int part = r % E::kParts;
      const T *z = block.z + r / E::kParts * kSpan<T>, *z_adv = block.z_adv + r / E::kParts * kSpan<T>;
      UnitSums<A> u = sums[r];
      Prefetch<T, ColumnSource<T>> prefetch(ahead, r, length);
      for (int64_t i = 0; i < length; ++i) {
        prefetch.fetch(i);
        u.add(E::part(z + i * block.pitch, part), E::part(z_adv + i * block.pitch_adv, part));
      }
      sums[r] = u;
      UnitCounts<A> n = counts[r];
      for (int64_t i = 0; i < length; ++i)
        n.add(E::part(z + i * block.pitch, part), E::part(z_adv + i * block.pitch_adv, part), threshold[begin + i],
              threshold_adv[begin + i]);
      counts[r] = n;
    }
  }
  UnitTotals result;
  for (int c = 0; c < in.channels; ++c) {
    const int r = c / kSpan<T> * E::kParts + c % E::kParts;
    result.set(c, c % kSpan<T> / E::kParts, sums[r], counts[r]);
  }
  result.add_to(totals, first, in.channels);
}
