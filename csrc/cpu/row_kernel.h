// Statistics of contiguous rows, lanes = positions. Included inside an instruction set's namespace.
//
// A block of positions that stays in L1 is read once from memory and then once more, for maxima and counts:
// eleven accumulators and the operands fill sixteen registers, and a spilled one costs a store and a reload per
// step. Lane totals of a block start from zero and are added to the row's totals, so rounding grows with block
// length plus number of blocks, not with the row length.

// Blocks so short that the hardware fetches the next one while the passes compute. Longer ones left the memory
// idle meanwhile, and prefetching in the code was never better than this.
template <typename T>
constexpr int kRowBlock = sizeof(T) == 2 ? 512 : 384;

// The lanes of everything that one row needs.
template <typename A>
struct RowTotals {
  alignas(64) A sum[kTileRows][kLanes];  // kRowSums sums, then both counts; the rest fills the last fold
  alignas(64) A max[kLanes][kLanes];     // kRowMaxima maxima
};
static_assert(kTileRows == 2 * kLanes && kRowMaxima <= kLanes);

// Rows are cut into groups and a rest at the same places on every instruction set.
template <typename T>
constexpr int kGroup = sizeof(T) == 2 ? 16 : 8;

// Adds `positions` positions, a multiple of the group.
template <typename T>
NS_HD void add_positions(const T* z, const T* z_adv, int64_t positions, RowTotals<accumulate_t<T>>& totals) {
  using A = accumulate_t<T>;
  using V = Vector<A>;
  constexpr int kParts = Elements<T>::kParts;
  for (int lane = 0; lane < kLanes; lane += kWidth<A>) {
    for (int i = 0; i < kParts; ++i) {  // one part after the other: both at once would not fit the registers
      RowSums<V> sums = {};
      for (int64_t at = lane * kParts; at < positions; at += kParts * kLanes)
        sums.add(Elements<T>::part(z + at, i), Elements<T>::part(z_adv + at, i));
      for (int k = 0; k < kRowSums; ++k) store(totals.sum[k] + lane, load<V>(totals.sum[k] + lane) + sums.sum[k]);
      store(totals.max[0] + lane, larger(sums.change_max, load<V>(totals.max[0] + lane)));
    }
  }
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
    const T padding = Extremes<T>::padding();
    Bits bits;
    __builtin_memcpy(&bits, &padding, sizeof bits);
    store(zeroed, elements & mask);
    store(padded, choose(elements, V{} + bits, mask));
  }
};

template <typename T>
NS_HD void store_extremes(const Extremes<T>& extremes, RowTotals<accumulate_t<T>>& totals) {
  store(totals.max[1], extremes.largest());
  store(totals.max[2], extremes.largest_adv());
  store(totals.sum[kBenignPositive], extremes.positives());
  store(totals.sum[kAdversarialPositive], extremes.positives_adv());
}

// The statistics of one row of at least one group, in the order of enum Row, into out[0, kTileRows).
template <typename T>
NS_HD void row_statistics(const TileInput<T>& row, int64_t positions, accumulate_t<T>* out) {
  using A = accumulate_t<T>;
  constexpr int kStep = Extremes<T>::kStep;
  const TileInput<T> read = row.after_relu();
  const T *z = read.z, *z_adv = read.z_adv;
  RowTotals<A> totals = {};
  for (int k = 1; k < kRowMaxima; ++k)
    for (A& lane : totals.max[k]) lane = -__builtin_inff();
  Extremes<T> extremes;
  extremes.clear();
  const int64_t whole = positions - positions % kGroup<T>;
  for (int64_t s = 0; s < whole; s += kRowBlock<T>) {
    const int64_t length = whole - s < kRowBlock<T> ? whole - s : kRowBlock<T>;
    write_relu(row, s, s, length);
    add_positions<T>(z + s, z_adv + s, length, totals);
    for (int64_t i = s; i < s + length; i += kStep) extremes.add(z + i, z_adv + i);
  }
  if (whole < positions) {
    write_relu(row, whole, whole, positions - whole);
    const int64_t last = positions - kGroup<T>;
    const Rest<T> rest(z + last, int(positions - whole)), rest_adv(z_adv + last, int(positions - whole));
    add_positions<T>(rest.zeroed, rest_adv.zeroed, kGroup<T>, totals);
    for (int i = 0; i < kGroup<T>; i += kStep) extremes.add(rest.padded + i, rest_adv.padded + i);
  }
  store_extremes(extremes, totals);
  fold_lanes(totals.sum, out, Add());
  fold_lanes(totals.sum + kLanes, out + kLanes, Add());
  A maxima[kLanes];
  fold_lanes(totals.max, maxima, Largest());
  for (int k = 0; k < kRowMaxima; ++k) out[kChangeMax + k] = maxima[k];
}

// The rows of a tile; eight rows of results at a time become columns of the tile.
template <typename T>
NS_HD void long_rows(const TileInput<T>& in, int64_t positions, Tile<accumulate_t<T>>& tile) {
  using A = accumulate_t<T>;
  alignas(64) A rows[kLanes][kTileRows] = {};
  for (int first = 0; first < in.channels; first += kLanes) {
    const int count = in.channels - first < kLanes ? in.channels - first : kLanes;
    for (int c = 0; c < count; ++c) {
      const int64_t at = first + c;
      row_statistics(in.from(at * in.stride, at * in.stride_adv, 1), positions, rows[c]);
    }
    transpose(rows[0], kTileRows, kTileRows, kLanes, &tile.row[0][first]);
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
  for (int64_t s = 0; s < positions; s += kRowBlock<T>) {
    const int64_t left = positions - s < kRowBlock<T> ? positions - s : kRowBlock<T>;
    write_relu(row, s, s, left);
    if (s < whole) add(z + s, z_adv + s, whole - s < kRowBlock<T> ? whole - s : kRowBlock<T>);
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
