// Statistics of a tile of neighbouring channels, lanes = channels: channels_last maps, tokens, fully
// connected layers, and short rows after a transposition. Included inside an instruction set's namespace.
//
// A block of positions stays in L1 while its passes read it; every channel adds its positions in order
// within a block, and the blocks' totals in order.

// Positions whose blocks add up in one tile before that is added to the result: a multiple of any block, and
// few enough for 16-bit counts.
constexpr int64_t kColumnChunk = 2048;

// A block of positions, channels adjacent, and where the memory lies that will be wanted next.
template <typename T>
struct Block {
  const T *z, *z_adv;
  int64_t pitch, pitch_adv;  // from one position to the next
};

// Memory that is wanted next: prefetched over the passes of this block, as all at once would stall, and the strided
// passes alone do not make the hardware fetch ahead.
template <typename T>
struct Ahead {
  const T *z, *z_adv;
  int64_t stride, stride_adv;
};

// The cache lines of the next block that one pass fetches, one at each step in the order of addresses.
template <typename T, typename Source>
struct Prefetch {
  static constexpr int kPasses = kTile / kWidth<accumulate_t<typename Source::type>>;
  static constexpr int kLines = kTile * int(sizeof(T)) / 64;  // of one position of one half
  static_assert(kPasses % (2 * kLines) == 0);
  const char* at;
  int64_t gap;  // from the end of a position to the next one

  NS_HD Prefetch(const Ahead<T>& ahead, int pass, int64_t positions) {
    const int share = pass * 2 * kLines / kPasses;  // passes that share lines repeat them at no cost
    const bool adversarial = share >= kLines;
    const int64_t stride = (adversarial ? ahead.stride_adv : ahead.stride) * int64_t(sizeof(T));
    at = reinterpret_cast<const char*>(adversarial ? ahead.z_adv : ahead.z) +
         share % kLines * positions / kLines * stride;
    gap = stride - kLines * 64;
  }
  NS_HD void fetch(int64_t step) {
    __builtin_prefetch(at);
    at += 64 + ((step + 1) % kLines == 0 ? gap : 0);
  }
};

// Adds positions [0, positions) of the channels of one read; channels stay in the order of parts.
template <Reading R, typename Source, typename T, typename U>
NS_HD void add_columns(const Block<T>& block, int64_t positions, int channel, const Ahead<U>& ahead,
                       Tile<accumulate_t<T>>& tile) {
  using A = accumulate_t<T>;
  using V = Vector<A>;
  for (int i = 0; i < Elements<T>::kParts; ++i) {
    const int at = channel + i * kWidth<A>;
    Prefetch<U, Source> prefetch(ahead, at / kWidth<A>, positions);
    RowSums<V, R> sums = {};
    const T *z = block.z + channel, *z_adv = block.z_adv + channel;
    for (int64_t s = 0; s < positions; ++s, z += block.pitch, z_adv += block.pitch_adv) {
      prefetch.fetch(s);
      sums.add(Elements<T>::part(z, i), Elements<T>::part(z_adv, i));
    }
    for (int k = 0; k < kRowSums; ++k)
      if (reads<R>(k)) store(tile.row[k] + at, load<V>(tile.row[k] + at) + sums.sum[k]);
    if constexpr (R == kEverything) {
      A* peak = tile.row[kChangeMax] + at;
      store(peak, larger(sums.change_max, load<V>(peak)));
    }
  }
}

// Maxima and counts in a pass of their own: with the sums they would not fit the registers.
template <typename T>
NS_HD void add_extremes(const Block<T>& block, int64_t positions, int channel, Extremes<T>& extremes) {
  Extremes<T> e = extremes;
  const T *z = block.z + channel, *z_adv = block.z_adv + channel;
  for (int64_t s = 0; s < positions; ++s, z += block.pitch, z_adv += block.pitch_adv) e.add(z, z_adv);
  extremes = e;
}

// Where a tile's blocks come from; `block` returns the positions [s, s + length).

// Channels adjacent in memory already; strides between positions, in elements.
template <typename T>
struct ColumnSource : TileInput<T> {
  using type = T;
  // 2 KiB of each half: short enough that the memory is never idle for long.
  static constexpr int64_t kBlock = 2048 / (kTile * int64_t(sizeof(T)));
  using TileInput<T>::z, TileInput<T>::z_adv, TileInput<T>::stride, TileInput<T>::stride_adv, TileInput<T>::channels,
      TileInput<T>::relu;
  using Copy = T[2][kBlock * kTile];
  static constexpr int kTiles = kRangeTiles;
  ColumnSource() = default;
  explicit NS_HD ColumnSource(const TileInput<T>& in) : TileInput<T>(in) {}

  static NS_HD ColumnSource tile_of(const TileInput<T>& in, int first, int channels) {
    return ColumnSource(in.from(first, first, channels));
  }

  NS_HD Block<T> block(int64_t s, int64_t length, int padded, Copy& copy) const {
    // Whole vectors would read past a partial tile; rows at such strides evict each other from L1.
    const bool whole = padded == channels;
    const bool evict = stride * int64_t(sizeof(T)) % 4096 == 0 && length > 1;
    const bool as_it_lies = whole && !evict;
    const TileInput<T> in = this->after_relu();
    for (int64_t i = 0; i < length && (relu || !as_it_lies); ++i) {
      write_relu<T>(*this, (s + i) * stride, (s + i) * stride_adv, channels);
      if (as_it_lies) continue;
      copy_row(copy[0] + i * kTile, in.z + (s + i) * stride, padded);
      copy_row(copy[1] + i * kTile, in.z_adv + (s + i) * stride_adv, padded);
    }
    if (as_it_lies) return {in.z + s * stride, in.z_adv + s * stride_adv, stride, stride_adv};
    return {copy[0], copy[1], kTile, kTile};
  }
  // What tile t of `count` fetches while it reads its block at s; past the end it is the next sample. Few tiles share
  // the next block in the order of memory, in which the hardware goes on by itself; of many it would not stay in L1.
  static NS_HD Ahead<T> ahead(const TileInput<T>& in, int t, int count, int64_t s, int64_t length) {
    const bool dense = in.stride == in.channels && in.stride_adv == in.channels;
    if (dense && count <= 4) {
      const int64_t at = (s + length) * in.channels + t * length * kTile;
      return {in.z + at, in.z_adv + at, kTile, kTile};
    }
    const int64_t position = t + 1 < count ? s : s + length, channel = (t + 1) % count * kTile;
    return {in.z + position * in.stride + channel, in.z_adv + position * in.stride_adv + channel, in.stride,
            in.stride_adv};
  }
  NS_HD T at(int64_t s, int c) const { return this->after_relu().z[s * stride + c]; }
  NS_HD T at_adv(int64_t s, int c) const { return this->after_relu().z_adv[s * stride_adv + c]; }

 private:
  NS_HD void copy_row(T* to, const T* from, int padded) const {
    if (channels == kTile) {  // in whole registers, which can be read again at once
      for (int i = 0; i < kTile; i += kVectorBytes / int(sizeof(T))) store(to + i, load<I64>(from + i));
    } else {
      memcpy(to, from, size_t(channels) * sizeof(T));
      memset(to + channels, 0, size_t(padded - channels) * sizeof(T));
    }
  }
};

// Short contiguous rows, transposed block by block; strides between channels, in elements.
template <typename T>
struct RowSource : TileInput<T> {
  using type = accumulate_t<T>;
  static constexpr int64_t kBlock = 32;
  using TileInput<T>::z, TileInput<T>::z_adv, TileInput<T>::stride, TileInput<T>::stride_adv, TileInput<T>::channels;
  using Copy = type[2][kBlock * kTile];
  static constexpr int kTiles = 1;
  RowSource() = default;
  explicit NS_HD RowSource(const TileInput<T>& in) : TileInput<T>(in) {}

  static NS_HD RowSource tile_of(const TileInput<T>& in, int, int) { return RowSource(in); }

  NS_HD Block<type> block(int64_t s, int64_t length, int padded, Copy& copy) const {
    transpose(z + s, stride, length, channels, copy[0]);
    transpose(z_adv + s, stride_adv, length, channels, copy[1]);
    for (int64_t i = 0; i < length && padded != channels; ++i) {
      memset(copy[0] + i * kTile + channels, 0, size_t(padded - channels) * sizeof(type));
      memset(copy[1] + i * kTile + channels, 0, size_t(padded - channels) * sizeof(type));
    }
    return {copy[0], copy[1], kTile, kTile};
  }
  // The same share of the next tile, taken as one run of memory.
  static NS_HD Ahead<T> ahead(const TileInput<T>& in, int, int, int64_t s, int64_t) {
    return {in.z + kTile * (in.stride + s), in.z_adv + kTile * (in.stride_adv + s), kTile, kTile};
  }
  NS_HD T at(int64_t s, int c) const { return z[c * stride + s]; }
  NS_HD T at_adv(int64_t s, int c) const { return z_adv[c * stride_adv + s]; }
};

// Puts the channels into their order and settles what the fast passes left open; `recount` says that no count of
// positive elements can be relied on.
template <Reading R, typename Source>
NS_HD void finish_tile(const Source& source, int64_t positions, int padded, bool recount,
                       Tile<accumulate_t<typename Source::type>>& tile) {
  using T = typename Source::type;
  using A = accumulate_t<T>;
  if constexpr (Elements<T>::kParts == 2) {
    for (int k = 0; k <= kChangeMax; ++k) {
      if (k == kBenignPositive || k == kAdversarialPositive || !reads<R>(k)) continue;
      for (int c = 0; c < padded; c += kSpan<T>)
        interleave(tile.row[k] + c, load<Vector<A>>(tile.row[k] + c), load<Vector<A>>(tile.row[k] + c + kWidth<A>));
    }
  }
  if (R != kEverything) return;
  int nan = recount;
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
    if (!recount && !is_nan(tile.row[kBenignSq][c]) && !is_nan(tile.row[kAdversarialSq][c])) continue;
    int64_t count = 0, count_adv = 0;
    for (int64_t s = 0; s < positions; ++s) {
      count += to_float(source.at(s, c)) > 0;
      count_adv += to_float(source.at_adv(s, c)) > 0;
    }
    tile.row[kBenignPositive][c] = A(count);
    tile.row[kAdversarialPositive][c] = A(count_adv);
  }
}

// What one tile carries from block to block.
template <Reading R, typename Source>
struct TileState {
  using T = typename Source::type;
  using A = accumulate_t<T>;
  using E = Extremes<T>;
  static constexpr int kStep = E::kStep > kSpan<T> ? E::kStep : kSpan<T>;

  Source source;
  int padded;  // channels, rounded up to whole reads
  Tile<A>* out;
  Tile<A> part;  // the sums of one chunk of many
  E extremes[kTile / E::kStep];

  NS_HD void start(Tile<A>& result) {
    out = &result;
    padded = (source.channels + kStep - 1) / kStep * kStep;
    clear(result);
  }
  NS_HD void clear(Tile<A>& tile) const {
    for (int k = 0; k < kRowCount; ++k)
      for (int c = 0; reads<R>(k) && c < padded; ++c) tile.row[k][c] = k < kBenignMax ? A(0) : A(-__builtin_inff());
  }
  NS_HD void start_chunk(bool many) {
    for (auto& e : extremes) e.clear();
    if (many) clear(part);
  }
  template <typename U>
  NS_HD void add_block(int64_t s, int64_t length, bool many, const Ahead<U>& ahead, typename Source::Copy& copy) {
    const Block<T> block = source.block(s, length, padded, copy);
    for (int c = 0; c < padded; c += kSpan<T>) add_columns<R, Source>(block, length, c, ahead, many ? part : *out);
    for (int c = 0; R == kEverything && c < padded; c += E::kStep)
      add_extremes(block, length, c, extremes[c / E::kStep]);
  }
  NS_HD void end_chunk(bool many) {
    Tile<A>& tile = *out;
    for (int c = 0; c < padded && many; ++c) {
      for (int k = 0; k < kRowSums; ++k)
        if (reads<R>(k)) tile.row[k][c] += part.row[k][c];
      if (R == kEverything) tile.row[kChangeMax][c] = larger(part.row[kChangeMax][c], tile.row[kChangeMax][c]);
    }
    for (int c = 0; R == kEverything && c < padded; c += E::kStep)
      extremes[c / E::kStep].add_lanes(tile.row[kBenignMax] + c, tile.row[kAdversarialMax] + c,
                                       tile.row[kBenignPositive] + c, tile.row[kAdversarialPositive] + c);
  }
};

// The change alone is one sum, and fits L1 for all channels of a range: a block is then read in the order of memory.
template <Reading R, typename Source>
struct InOrder {
  static constexpr bool kPossible = false;
};
template <typename T>
struct InOrder<kChange, ColumnSource<T>> {
  using A = accumulate_t<T>;
  using V = Vector<A>;
  static constexpr bool kPossible = true;
  static constexpr int64_t kAhead = 8192 / int64_t(sizeof(T));  // elements, by trying

  static bool suits(const TileInput<T>& in) { return !in.relu && in.channels % kSpan<T> == 0; }

  // Adds positions [s, s + length), a block, to the sums of their channels.
  void add_block(const TileInput<T>& in, int64_t s, int64_t length, TileState<kChange, ColumnSource<T>>* state,
                 bool many) {
    const int64_t next = ahead(in.channels, in.stride), next_adv = ahead(in.channels, in.stride_adv);
    for (int64_t i = 0; i < length; ++i) {
      const T *z = in.z + (s + i) * in.stride, *z_adv = in.z_adv + (s + i) * in.stride_adv;
      for (int c = 0; c < in.channels; c += kSpan<T>) {
        __builtin_prefetch(z + c + next);
        __builtin_prefetch(z_adv + c + next_adv);
        for (int part = 0; part < Elements<T>::kParts; ++part) {
          A* sum = sum_ + c + part * kWidth<A>;
          RowSums<V, kChange> sums = {};
          if (i > 0) sums.sum[kChangeL1] = load<V>(sum);
          sums.add(Elements<T>::part(z + c, part), Elements<T>::part(z_adv + c, part));
          store(sum, sums.sum[kChangeL1]);
        }
      }
    }
    for (int c = 0; c < in.channels; c += kWidth<A>) {
      auto& own = state[c / kTile];
      A* total = (many ? own.part : *own.out).row[kChangeL1] + c % kTile;
      store(total, load<V>(total) + load<V>(sum_ + c));
    }
  }

 private:
  // From an element to the one to fetch; of other channels in between only whole positions are passed.
  static int64_t ahead(int64_t channels, int64_t stride) {
    return stride <= channels ? kAhead : (kAhead / stride > 1 ? kAhead / stride : 1) * stride;
  }
  alignas(64) A sum_[kRange];  // of one block
};

// The tiles of neighbouring channels, `in.channels` in all. Every block goes through all tiles before the next
// one, which follows the order of the memory of columns. Lanes past the channels hold nothing of use.
template <Reading R, typename Source, typename T>
void tile_statistics(const TileInput<T>& in, int64_t positions, Tile<accumulate_t<T>>* tiles) {
  const int count = (in.channels + kTile - 1) / kTile;
  TileState<R, Source> state[Source::kTiles];
  for (int t = 0; t < count; ++t) {
    const int left = in.channels - t * kTile;
    state[t].source = Source::tile_of(in, t * kTile, left < kTile ? left : kTile);
    state[t].start(tiles[t]);
  }
  alignas(64) typename Source::Copy copy;
  const bool many = positions > kColumnChunk;
  InOrder<R, Source> in_order;
  bool ordered = false;
  if constexpr (in_order.kPossible) ordered = in_order.suits(in);
  for (int64_t chunk = 0; chunk < positions; chunk += kColumnChunk) {
    const int64_t end = positions - chunk < kColumnChunk ? positions : chunk + kColumnChunk;
    for (int t = 0; t < count; ++t) state[t].start_chunk(many);
    for (int64_t s = chunk; s < end; s += Source::kBlock) {
      const int64_t length = end - s < Source::kBlock ? end - s : Source::kBlock;
      if constexpr (in_order.kPossible) {
        if (ordered) {
          in_order.add_block(in, s, length, state, many);
          continue;
        }
      }
      for (int t = 0; t < count; ++t) state[t].add_block(s, length, many, Source::ahead(in, t, count, s, length), copy);
    }
    for (int t = 0; t < count; ++t) state[t].end_chunk(many);
  }
  for (int t = 0; t < count; ++t) finish_tile<R>(state[t].source, positions, state[t].padded, false, tiles[t]);
}
