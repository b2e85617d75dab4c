// Statistics of a tile of neighbouring channels, lanes = channels: channels_last maps, tokens, fully
// connected layers, and short rows after a transposition. Included inside an instruction set's namespace.
//
// A block of positions stays in L1 while its passes read it; every channel adds its positions in order
// within a block, and the blocks' totals in order.

constexpr int64_t kColumnBlock = 32;                   // positions of one block
constexpr int64_t kColumnChunk = 1023 * kColumnBlock;  // positions that a 16-bit count can hold

// Adds positions [0, positions) of the channels of one read; channels stay in the order of parts.
template <typename T>
NS_HD void add_columns(const T* z, const T* z_adv, int64_t positions, int64_t stride, int64_t stride_adv, int channel,
                       Tile<accumulate_t<T>>& tile) {
  using A = accumulate_t<T>;
  using V = Vector<A>;
  for (int i = 0; i < Elements<T>::kParts; ++i) {
    RowSums<V> sums = {};
    for (int64_t s = 0; s < positions; ++s)
      sums.add(Elements<T>::part(z + s * stride, i), Elements<T>::part(z_adv + s * stride_adv, i));
    const int at = channel + i * kWidth<A>;
    for (int k = 0; k < kRowSums; ++k) store(tile.row[k] + at, load<V>(tile.row[k] + at) + sums.sum[k]);
    A* peak = tile.row[kChangeMax] + at;
    store(peak, larger(sums.change_max, load<V>(peak)));
  }
}

// Where a tile's blocks come from. `block` returns kColumnBlock or fewer positions, channels adjacent.
template <typename T>
struct Block {
  const T *z, *z_adv;
  int64_t pitch, pitch_adv;
};

// Channels adjacent in memory already; strides between positions, in elements.
template <typename T>
struct ColumnSource : TileInput<T> {
  using type = T;
  using TileInput<T>::z, TileInput<T>::z_adv, TileInput<T>::stride, TileInput<T>::stride_adv, TileInput<T>::channels;
  alignas(64) T copy[2][kColumnBlock * kTile];
  explicit NS_HD ColumnSource(const TileInput<T>& in) : TileInput<T>(in) {}

  NS_HD Block<T> block(int64_t s, int64_t length, int padded) {
    // Whole vectors would read past a partial tile; rows at a large stride evict each other from L1.
    const bool whole = padded == channels;
    if (whole && (sizeof(T) < 4 || stride <= 2 * kTile || length == 1))
      return {z + s * stride, z_adv + s * stride_adv, stride, stride_adv};
    for (int64_t i = 0; i < length; ++i) {
      memcpy(copy[0] + i * kTile, z + (s + i) * stride, size_t(channels) * sizeof(T));
      memcpy(copy[1] + i * kTile, z_adv + (s + i) * stride_adv, size_t(channels) * sizeof(T));
      if (!whole) {
        memset(copy[0] + i * kTile + channels, 0, size_t(padded - channels) * sizeof(T));
        memset(copy[1] + i * kTile + channels, 0, size_t(padded - channels) * sizeof(T));
      }
    }
    return {copy[0], copy[1], kTile, kTile};
  }
  NS_HD T at(int64_t s, int c) const { return z[s * stride + c]; }
  NS_HD T at_adv(int64_t s, int c) const { return z_adv[s * stride_adv + c]; }
};

// Short contiguous rows, transposed block by block; strides between channels, in elements.
template <typename T>
struct RowSource : TileInput<T> {
  using type = accumulate_t<T>;
  using TileInput<T>::z, TileInput<T>::z_adv, TileInput<T>::stride, TileInput<T>::stride_adv, TileInput<T>::channels;
  alignas(64) type copy[2][kColumnBlock * kTile];
  explicit NS_HD RowSource(const TileInput<T>& in) : TileInput<T>(in) {}

  NS_HD Block<type> block(int64_t s, int64_t length, int padded) {
    transpose(z + s, stride, length, channels, copy[0]);
    transpose(z_adv + s, stride_adv, length, channels, copy[1]);
    for (int64_t i = 0; i < length && padded != channels; ++i) {
      memset(copy[0] + i * kTile + channels, 0, size_t(padded - channels) * sizeof(type));
      memset(copy[1] + i * kTile + channels, 0, size_t(padded - channels) * sizeof(type));
    }
    return {copy[0], copy[1], kTile, kTile};
  }
  NS_HD T at(int64_t s, int c) const { return z[c * stride + s]; }
  NS_HD T at_adv(int64_t s, int c) const { return z_adv[c * stride_adv + s]; }
};

// Puts the channels into their order and settles what the fast passes left open.
template <typename Source>
NS_HD void finish_tile(const Source& source, int64_t positions, int padded,
                       Tile<accumulate_t<typename Source::type>>& tile) {
  using T = typename Source::type;
  using A = accumulate_t<T>;
  if constexpr (Elements<T>::kParts == 2) {
    for (int k = 0; k <= kChangeMax; ++k) {
      if (k == kBenignPositive || k == kAdversarialPositive) continue;
      for (int c = 0; c < padded; c += kSpan<T>)
        interleave(tile.row[k] + c, load<Vector<A>>(tile.row[k] + c), load<Vector<A>>(tile.row[k] + c + kWidth<A>));
    }
  }
  int nan = 0;
  for (int c = 0; c < padded; ++c) {
    // Adding zero turns -0 into +0, so that the order of equal zeros does not show.
    A sums[kRowSums];
    for (int k = 0; k < kRowSums; ++k) sums[k] = tile.row[k][c];
    A change_max = positions ? tile.row[kChangeMax][c] : -__builtin_inff();
    A benign_max = tile.row[kBenignMax][c] + 0, adversarial_max = tile.row[kAdversarialMax][c] + 0;
    propagate_nan(sums, change_max, benign_max, adversarial_max);
    tile.row[kChangeMax][c] = change_max;
    tile.row[kBenignMax][c] = benign_max;
    tile.row[kAdversarialMax][c] = adversarial_max;
    nan |= is_nan(sums[kBenignSq]) | is_nan(sums[kAdversarialSq]);
  }
  for (int c = 0; nan && c < source.channels; ++c) {  // rare: see Extremes16
    if (!is_nan(tile.row[kBenignSq][c]) && !is_nan(tile.row[kAdversarialSq][c])) continue;
    int64_t count = 0, count_adv = 0;
    for (int64_t s = 0; s < positions; ++s) {
      count += to_float(source.at(s, c)) > 0;
      count_adv += to_float(source.at_adv(s, c)) > 0;
    }
    tile.row[kBenignPositive][c] = A(count);
    tile.row[kAdversarialPositive][c] = A(count_adv);
  }
}

// At most kTile channels. Lanes past them hold nothing of use.
template <typename Source>
void tile_statistics(Source& source, int64_t positions, Tile<accumulate_t<typename Source::type>>& tile) {
  using T = typename Source::type;
  using A = accumulate_t<T>;
  using E = Extremes<T>;
  constexpr int kStep = E::kStep > kSpan<T> ? E::kStep : kSpan<T>;
  const int padded = (source.channels + kStep - 1) / kStep * kStep;

  for (int k = 0; k < kRowCount; ++k)
    for (int c = 0; c < padded; ++c) tile.row[k][c] = k < kBenignMax ? A(0) : A(-__builtin_inff());
  E extremes[kTile / E::kStep];
  for (int64_t chunk = 0; chunk < positions; chunk += kColumnChunk) {
    const int64_t end = positions - chunk < kColumnChunk ? positions : chunk + kColumnChunk;
    for (auto& e : extremes) e.clear();
    for (int64_t s = chunk; s < end; s += kColumnBlock) {
      const int64_t length = end - s < kColumnBlock ? end - s : kColumnBlock;
      const Block<T> block = source.block(s, length, padded);
      for (int c = 0; c < padded; c += kSpan<T>)
        add_columns<T>(block.z + c, block.z_adv + c, length, block.pitch, block.pitch_adv, c, tile);
      for (int c = 0; c < padded; c += E::kStep) {
        E e = extremes[c / E::kStep];
        for (int64_t i = 0; i < length; ++i)
          e.add(block.z + i * block.pitch + c, block.z_adv + i * block.pitch_adv + c);
        extremes[c / E::kStep] = e;
      }
    }
    for (int c = 0; c < padded; c += E::kStep)
      extremes[c / E::kStep].add_lanes(tile.row[kBenignMax] + c, tile.row[kAdversarialMax] + c,
                                       tile.row[kBenignPositive] + c, tile.row[kAdversarialPositive] + c);
  }
  finish_tile(source, positions, padded, tile);
}
