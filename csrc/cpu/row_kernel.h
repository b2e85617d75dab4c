// Statistics of contiguous rows, lanes = positions. Included inside an instruction set's namespace.
//
// One pass gathers everything: on AVX2 its twelve or thirteen accumulators and the operands just fill sixteen
// registers, and a spilled one would cost more than the sum it holds. Hence two sums are derived from others, and
// 16-bit maxima are those of integers; a row that this does not suit is in L1 still and is read again. Lane totals of
// a block start from zero and are added to the row's totals, so rounding grows with block length plus number of
// blocks, not with the row length.

constexpr int64_t kRowBlock = 512;  // positions

// Rows are cut into groups and a rest at the same places on every instruction set.
template <typename T>
constexpr int kGroup = sizeof(T) == 2 ? 16 : 8;
template <typename T>
constexpr int kGroupParts = kGroup<T> / kLanes;  // elements of a group that share a lane

// The elements of one part of a group that belong to the lanes from `lane` on.
template <typename T>
NS_HD Vector<accumulate_t<T>> part_of_group(const T* group, int lane, int i) {
  if constexpr (__is_same(T, Half))
    return load_half(group + i * kLanes + lane);
  else
    return Elements<T>::part(group + kGroupParts<T> * lane, i);
}

// The last group of a row, which ends with it, without the elements that were added before: zeros add nothing to
// sums, `padding` is never largest nor positive.
template <typename T>
struct Rest {
  alignas(64) T zeroed[kGroup<T>], padded[kGroup<T>];
  NS_HD Rest(const T* group, int fresh) {
    using Bits = typename Integer<sizeof(T)>::type;
    typedef Bits V __attribute__((vector_size(kGroup<T> * sizeof(T))));
    V place;
    for (int i = 0; i < kGroup<T>; ++i) place[i] = Bits(i);
    const V mask = place >= V{} + Bits(kGroup<T> - fresh), elements = load<V>(group);
    store(zeroed, elements & mask);
    store(padded, choose(elements, V{} + padding(), mask));
  }

 private:
  static NS_HD auto padding() {
    typename Integer<sizeof(T)>::type bits = -32768;  // -0, the smallest integer
    if constexpr (sizeof(T) == sizeof(accumulate_t<T>)) {
      const T lowest = -__builtin_inff();
      __builtin_memcpy(&bits, &lowest, sizeof bits);
    }
    return bits;
  }
};

// Maxima and counts of 16-bit floats of a block, taken as signed integers: right for rows that have a value >= +0,
// negative for others.
template <typename T>
struct SignedExtremes {
  I16 max, max_adv;
  PairCounts count;
  NS_HD void clear() {
    max = max_adv = I16{} + int16_t(-32768);
    count = PairCounts{};
  }
  NS_HD void add(const T* z, const T* z_adv) {
    const I16 v = load<I16>(z), v_adv = load<I16>(z_adv);
    max = larger(v, max);
    max_adv = larger(v_adv, max_adv);
    count.add((I16)(v > 0), (I16)(v_adv > 0));
  }
  NS_HD VF largest() const { return fold_parts(max); }
  NS_HD VF largest_adv() const { return fold_parts(max_adv); }
  NS_HD VF positives() const { return count.first(); }
  NS_HD VF positives_adv() const { return count.second(); }

 private:
  static NS_HD VF fold_parts(I16 bits) {
    alignas(64) T values[kVectorBytes / 2];
    store(values, bits);
    constexpr int kParts = Elements<T>::kParts;
    return larger(Elements<T>::part(values, 0),
                  Elements<T>::part(values + (kParts == 1 ? kWidth<float> : 0), kParts - 1));
  }
};
template <typename T>
struct RowExtremes : Extremes<T> {};
template <>
struct RowExtremes<Half> : SignedExtremes<Half> {};
template <>
struct RowExtremes<BFloat16> : SignedExtremes<BFloat16> {};

// Lanes of the statistics of eight rows, each folded for all of them at once.
template <typename A>
struct RowLanes {
  alignas(64) A of[kRowCount][kLanes][kLanes];

  // A block's lanes join those of the blocks before, if there are any.
  NS_HD void add(int statistic, int row, int lane, Vector<A> block, bool first) {
    A* to = of[statistic][row] + lane;
    const Vector<A> before = load<Vector<A>>(to);
    store(to, first ? block : statistic < kChangeMax ? before + block : larger(block, before));
  }
};

// What the one pass over a row gathers, and where it leaves it.
template <typename T>
struct RowPass {
  using A = accumulate_t<T>;
  RowSums<Vector<A>> sums;
  RowExtremes<T> extremes;

  NS_HD RowPass() : sums{} { extremes.clear(); }
  NS_HD void add(const T* z, const T* z_adv, int lane) { add(z, z_adv, z, z_adv, lane); }
  NS_HD void add(const Rest<T>& z, const Rest<T>& z_adv, int lane) {
    add(z.zeroed, z_adv.zeroed, z.padded, z_adv.padded, lane);
  }
  NS_HD void store_block(RowLanes<A>& to, int row, int lane, bool first) const {
    for (int k = 0; k < kRowSums; ++k)
      if (k != kAdversarialSq && k != kPairDot) to.add(k, row, lane, sums.sum[k], first);
    to.add(kBenignPositive, row, lane, extremes.positives(), first);
    to.add(kAdversarialPositive, row, lane, extremes.positives_adv(), first);
    to.add(kChangeMax, row, lane, sums.change_max, first);
    to.add(kBenignMax, row, lane, extremes.largest(), first);
    to.add(kAdversarialMax, row, lane, extremes.largest_adv(), first);
  }

 private:
  NS_HD void add(const T* z, const T* z_adv, const T* v, const T* v_adv, int lane) {
    for (int i = 0; i < kGroupParts<T>; ++i) {
      sums.add_underived(part_of_group(z, lane, i), part_of_group(z_adv, lane, i));
      asm volatile("" ::: "memory");  // parts mixed by the compiler would not fit the registers
    }
    extremes.add(v + kGroupParts<T> * lane, v_adv + kGroupParts<T> * lane);
  }
};

// The two sums that RowPass leaves to be derived.
template <typename T>
struct MomentsPass {
  using A = accumulate_t<T>;
  RowSums<Vector<A>, kMoments> sums = {};

  NS_HD void add(const T* z, const T* z_adv, int lane) {
    for (int i = 0; i < kGroupParts<T>; ++i) sums.add_derived(part_of_group(z, lane, i), part_of_group(z_adv, lane, i));
  }
  NS_HD void add(const Rest<T>& z, const Rest<T>& z_adv, int lane) { add(z.zeroed, z_adv.zeroed, lane); }
  NS_HD void store_block(RowLanes<A>& to, int row, int lane, bool first) const {
    for (int k : {kAdversarialSq, kPairDot}) to.add(k, row, lane, sums.sum[k], first);
  }
};

// Reads one row of at least one group, the same way in every pass.
template <typename Pass, typename T>
NS_HD void read_row(const TileInput<T>& row, int64_t positions, int index, RowLanes<accumulate_t<T>>& lanes) {
  const TileInput<T> in = row.after_relu();
  const int rest = int(positions % kGroup<T>);
  const int64_t whole = positions - rest;
  for (int64_t s = 0; s < whole; s += kRowBlock) {
    const bool last = whole - s <= kRowBlock;  // and takes the rest: every lane of a block has an element
    write_relu(row, s, s, last ? positions - s : kRowBlock);
    const int64_t end = last ? whole : s + kRowBlock;
    for (int lane = 0; lane < kLanes; lane += kWidth<accumulate_t<T>>) {
      Pass pass;
      const T *z = in.z, *z_adv = in.z_adv;
      for (int64_t i = s; i < end; i += kGroup<T>) pass.add(z + i, z_adv + i, lane);
      if (last && rest) {
        const int64_t group = positions - kGroup<T>;
        pass.add(Rest<T>(in.z + group, rest), Rest<T>(in.z_adv + group, rest), lane);
      }
      pass.store_block(lanes, index, lane, s == 0);
    }
  }
}

// The largest of negative 16-bit floats, at least one group of them.
template <typename T>
NS_HD float largest_negative(const T* x, int64_t count) {
  constexpr int kStep = kVectorBytes / 2;
  U16 low = load<U16>(x + count - kStep);  // may overlap the others
  for (int64_t i = 0; i + kStep <= count; i += kStep) low = smaller(load<U16>(x + i), low);
  return to_float(T{fold_vector<uint16_t>(low, Smallest())});
}

// The rows of a tile, eight at a time.
template <typename T>
NS_HD void long_rows(const TileInput<T>& in, int64_t positions, Tile<accumulate_t<T>>& tile) {
  using A = accumulate_t<T>;
  for (int first = 0; first < in.channels; first += kLanes) {
    const int count = in.channels - first < kLanes ? in.channels - first : kLanes;
    const auto row_at = [&](int c) {
      const int64_t at = first + c;
      return in.from(at * in.stride, at * in.stride_adv, 1);
    };
    RowLanes<A> lanes;
    for (int c = 0; c < count; ++c) read_row<RowPass<T>>(row_at(c), positions, c, lanes);
    const auto fold_rows = [&](int k) {
      if (k < kChangeMax)
        fold_lanes(lanes.of[k], &tile.row[k][first], Add());
      else
        fold_lanes(lanes.of[k], &tile.row[k][first], Largest());
    };
    for (int k = 0; k < kRowCount; ++k)
      if (k != kAdversarialSq && k != kPairDot) fold_rows(k);

    int again[kLanes], any = 0;
    for (int c = 0; c < kLanes; ++c) {
      const int at = first + c;
      again[c] = !derive_moments(tile.row[kChangeSq][at], tile.row[kChangeDot][at], tile.row[kBenignSq][at],
                                 tile.row[kPairDot][at], tile.row[kAdversarialSq][at]);
    }
    for (int c = 0; c < count; ++c) any |= again[c];
    if (any) {
      for (int c = 0; c < count; ++c) {
        if (!again[c]) continue;
        read_row<MomentsPass<T>>(row_at(c).after_relu(), positions, c, lanes);
        for (int k : {kAdversarialSq, kPairDot}) tile.row[k][first + c] = fold<kLanes>(lanes.of[k][c], Add());
      }
    }
    if constexpr (sizeof(T) != sizeof(A)) {
      for (int c = 0; c < count; ++c) {
        const TileInput<T> row = row_at(c).after_relu();
        if (tile.row[kBenignMax][first + c] < 0) tile.row[kBenignMax][first + c] = largest_negative(row.z, positions);
        if (tile.row[kAdversarialMax][first + c] < 0)
          tile.row[kAdversarialMax][first + c] = largest_negative(row.z_adv, positions);
      }
    }
  }
}

// Lane sums of what R gathers of one row of at least one group; `sums` holds kLanes lanes for each statistic.
template <Reading R, typename T>
NS_HD void row_sums(const TileInput<T>& row, int64_t positions, accumulate_t<T> (*sums)[kLanes][kLanes], int index) {
  using A = accumulate_t<T>;
  using V = Vector<A>;
  constexpr int kParts = Elements<T>::kParts;
  const TileInput<T> read = row.after_relu();
  const T *z = read.z, *z_adv = read.z_adv;
  const auto add = [&](const T* x, const T* y, int64_t count) {
    for (int lane = 0; lane < kLanes; lane += kWidth<A>) {
      RowSums<V, R> part[kParts] = {};
      for (int64_t at = lane * kParts; at < count; at += kParts * kLanes)
        for (int i = 0; i < kParts; ++i) part[i].add(Elements<T>::part(x + at, i), Elements<T>::part(y + at, i));
      for (int k = 0; k < kRowSums; ++k) {
        A* to = sums[k][index] + lane;
        for (int i = 0; reads<R>(k) && i < kParts; ++i) store(to, load<V>(to) + part[i].sum[k]);
      }
    }
  };
  const int64_t whole = positions - positions % kGroup<T>;
  for (int64_t s = 0; s < positions; s += kRowBlock) {
    const int64_t left = positions - s < kRowBlock ? positions - s : kRowBlock;
    write_relu(row, s, s, left);
    if (s < whole) add(z + s, z_adv + s, whole - s < kRowBlock ? whole - s : kRowBlock);
  }
  if (whole == positions) return;
  const int64_t last = positions - kGroup<T>;
  const Rest<T> rest(z + last, int(positions - whole)), rest_adv(z_adv + last, int(positions - whole));
  add(rest.zeroed, rest_adv.zeroed, kGroup<T>);
}

// The sums of the rows of a tile, eight rows at a time.
template <Reading R, typename T>
NS_HD void long_row_sums(const TileInput<T>& in, int64_t positions, Tile<accumulate_t<T>>& tile) {
  using A = accumulate_t<T>;
  for (int first = 0; first < in.channels; first += kLanes) {
    alignas(64) A sums[kRowSums][kLanes][kLanes];
    for (int k = 0; k < kRowSums; ++k)
      if (reads<R>(k)) memset(sums[k], 0, sizeof sums[k]);
    for (int c = 0; c < kLanes && first + c < in.channels; ++c) {
      const int64_t at = first + c;
      row_sums<R>(in.from(at * in.stride, at * in.stride_adv, 1), positions, sums, c);
    }
    for (int k = 0; k < kRowSums; ++k)
      if (reads<R>(k)) fold_lanes(sums[k], &tile.row[k][first], Add());
  }
}
