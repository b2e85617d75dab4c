// How vectors of each dtype are read. Included inside an instruction set's namespace.
//
// A read yields one vector per part. In a row, which position falls into which of the 8 lanes, and in which
// order, depends on the dtype alone, so every instruction set adds in the same order.

template <typename T>
struct Elements {  // float, double: lane = position mod 8
  using A = accumulate_t<T>;
  static constexpr int kParts = 1;
  static NS_HD Vector<A> part(const T* x, int) { return load<Vector<A>>(x); }
};

template <>
struct Elements<Half> {  // lane = position mod 8
  using A = float;
  static constexpr int kParts = 1;
  static NS_HD VF part(const Half* x, int) { return load_half(x); }
};

template <>
struct Elements<BFloat16> {  // lane = (position / 2) mod 8: the halves of a 32-bit word need no shuffle
  using A = float;
  static constexpr int kParts = 2;
  static NS_HD VF part(const BFloat16* x, int i) {
    const I32 words = load<I32>(x);
    return {(F32)(i == 0 ? words << 16 : words & int32_t(0xffff0000))};
  }
};

template <typename T>
constexpr int kSpan = Elements<T>::kParts * kWidth<accumulate_t<T>>;  // elements that the parts of one read cover

// The parts of one read (or of anything in their order) put back into the order of elements.
template <typename A>
NS_HD void interleave(A* out, Vector<A> first, Vector<A> second) {
  typename Vector<A>::M low, high;
  for (int i = 0; i < kWidth<A>; ++i) {
    low[i] = i / 2 + i % 2 * kWidth<A>;
    high[i] = low[i] + kWidth<A> / 2;
  }
  store(out, __builtin_shuffle(first.v, second.v, low));
  store(out + kWidth<A>, __builtin_shuffle(first.v, second.v, high));
}
template <typename T>
NS_HD void store_in_order(accumulate_t<T>* out, const T* x) {
  if constexpr (Elements<T>::kParts == 1)
    store(out, Elements<T>::part(x, 0));
  else
    interleave(out, Elements<T>::part(x, 0), Elements<T>::part(x, 1));
}

// Maxima and counts of positive elements of both halves, kept in registers over a whole row. The accessors
// give them as registers of A, in any order of lanes.

template <typename T>
struct Extremes {  // float, double
  using A = accumulate_t<T>;
  using V = Vector<A>;
  using M = typename V::M;
  static constexpr int kStep = kWidth<A>;
  static constexpr int64_t kCapacity = int64_t(1) << 24;  // positions whose count is exact in A
  static NS_HD T padding() { return -__builtin_inff(); }
  V max, max_adv;
  M count, count_adv;
  NS_HD void clear() {
    max = max_adv = broadcast<A>(-__builtin_inff());
    count = count_adv = M{};
  }
  NS_HD void add(const T* z, const T* z_adv) {
    const V v = load<V>(z), v_adv = load<V>(z_adv);
    max = larger(v, max);
    max_adv = larger(v_adv, max_adv);
    count -= (M)(v.v > 0);
    count_adv -= (M)(v_adv.v > 0);
  }
  // Adds the lanes' results, in channel order, to kStep maxima and counts.
  NS_HD void add_lanes(A* benign, A* adversarial, A* positive, A* positive_adv) const {
    store(benign, larger(max, load<V>(benign)));
    store(adversarial, larger(max_adv, load<V>(adversarial)));
    store(positive, load<V>(positive) + positives());
    store(positive_adv, load<V>(positive_adv) + positives_adv());
  }
  NS_HD V largest() const { return max; }
  NS_HD V largest_adv() const { return max_adv; }
  NS_HD V positives() const { return {__builtin_convertvector(count, decltype(max.v))}; }
  NS_HD V positives_adv() const { return {__builtin_convertvector(count_adv, decltype(max.v))}; }
};

// 16-bit floats compare as integers: among values >= +0 the largest bits win, among negative ones the
// smallest unsigned bits. A positive NaN counts as positive; the caller counts such rows again.
template <typename T>
struct Extremes16 {
  static constexpr int kStep = kVectorBytes / 2;
  static constexpr int64_t kCapacity = int64_t(32767) * kStep;
  static NS_HD T padding() { return {0xffff}; }
  I16 positive, positive_adv, count, count_adv;
  U16 negative, negative_adv;
  NS_HD void clear() {
    positive = positive_adv = I16{} + int16_t(-32768);
    negative = negative_adv = U16{} + uint16_t(0xffff);
    count = count_adv = I16{};
  }
  NS_HD void add(const T* z, const T* z_adv) {
    const I16 v = load<I16>(z), v_adv = load<I16>(z_adv);
    positive = larger(v, positive);
    positive_adv = larger(v_adv, positive_adv);
    negative = smaller((U16)v, negative);
    negative_adv = smaller((U16)v_adv, negative_adv);
    count -= (I16)(v > 0);
    count_adv -= (I16)(v_adv > 0);
  }
  // The maximum of at least one element.
  static NS_HD float value(int16_t high, uint16_t low) { return to_float(T{high >= 0 ? uint16_t(high) : low}); }
  NS_HD void add_lanes(float* benign, float* adversarial, float* count_positive, float* count_positive_adv) const {
    add_largest(benign, positive, negative);
    add_largest(adversarial, positive_adv, negative_adv);
    alignas(64) int16_t counts[kStep], counts_adv[kStep];
    store(counts, count);
    store(counts_adv, count_adv);
    for (int i = 0; i < kStep; ++i)
      count_positive[i] += float(counts[i]), count_positive_adv[i] += float(counts_adv[i]);
  }
  NS_HD VF largest() const { return largest_of(positive, negative); }
  NS_HD VF largest_adv() const { return largest_of(positive_adv, negative_adv); }
  NS_HD VF positives() const { return sum_pairs(count); }
  NS_HD VF positives_adv() const { return sum_pairs(count_adv); }

 private:
  // The maximum of at least one element per lane.
  static NS_HD I16 bits_of(I16 high, U16 low) { return choose(high, (I16)low, (I16)(high >= 0)); }
  static NS_HD void add_largest(float* largest, I16 high, U16 low) {
    alignas(64) T bits[kStep];
    store(bits, bits_of(high, low));
    alignas(64) float values[kStep];
    for (int i = 0; i < kStep; i += kSpan<T>) store_in_order<T>(values + i, bits + i);
    for (int i = 0; i < kStep; ++i) largest[i] = larger(values[i], largest[i]);
  }
  static NS_HD VF largest_of(I16 high, U16 low) {
    alignas(64) T bits[kStep];
    store(bits, bits_of(high, low));
    constexpr int kParts = Elements<T>::kParts;
    return larger(Elements<T>::part(bits, 0), Elements<T>::part(bits + (kParts == 1 ? kWidth<float> : 0), kParts - 1));
  }
  // Widened before they are added: 16 bits could overflow.
  static NS_HD VF sum_pairs(I16 counts) {
    const I32 words = (I32)counts;
    return {__builtin_convertvector(((words << 16) >> 16) + (words >> 16), F32)};
  }
};
template <>
struct Extremes<Half> : Extremes16<Half> {};
template <>
struct Extremes<BFloat16> : Extremes16<BFloat16> {};
