// Eight elements at a time, on every instruction set. Included inside that set's namespace.

constexpr int kOctet = 8;

template <typename A>
struct Octet {
  static constexpr int kCount = kOctet / kWidth<A>;
  Vector<A> v[kCount];
  NS_HD Octet& operator+=(const Octet& other) {
    for (int i = 0; i < kCount; ++i) v[i] += other.v[i];
    return *this;
  }
};
using Floats = Octet<float>;
using Doubles = Octet<double>;

template <typename A, typename Op>
NS_HD Octet<A> combined(const Octet<A>& a, const Octet<A>& b, Op op) {
  Octet<A> result;
  for (int i = 0; i < Octet<A>::kCount; ++i) result.v[i] = op(a.v[i], b.v[i]);
  return result;
}
template <typename A>
NS_HD Octet<A> operator+(const Octet<A>& a, const Octet<A>& b) {
  return combined(a, b, [](auto x, auto y) { return x + y; });
}
template <typename A>
NS_HD Octet<A> operator-(const Octet<A>& a, const Octet<A>& b) {
  return combined(a, b, [](auto x, auto y) { return x - y; });
}
template <typename A>
NS_HD Octet<A> product(const Octet<A>& a, const Octet<A>& b) {
  return combined(a, b, [](auto x, auto y) { return x * y; });
}
template <typename A>
NS_HD Octet<A> operator/(const Octet<A>& a, const Octet<A>& b) {
  return combined(a, b, [](auto x, auto y) { return Vector<A>{x.v / y.v}; });
}
template <typename A>
NS_HD Octet<A> larger(const Octet<A>& a, const Octet<A>& b) {
  return combined(a, b, [](auto x, auto y) { return larger(x, y); });
}
template <typename A>
NS_HD Octet<A> smaller(const Octet<A>& a, const Octet<A>& b) {
  return combined(a, b, [](auto x, auto y) { return smaller(x, y); });
}
template <typename A>
NS_HD Octet<A> absolute(const Octet<A>& x) {
  return combined(x, x, [](auto y, auto) { return absolute(y); });
}
template <typename A>
NS_HD Octet<A> sign(const Octet<A>& x) {
  return combined(x, x, [](auto y, auto) { return sign(y); });
}
template <typename A>
NS_HD Octet<A> all_of(A x) {
  Octet<A> result;
  for (auto& part : result.v) part = broadcast(x);
  return result;
}
template <typename A>
NS_HD Octet<A> with_sign(const Octet<A>& size, const Octet<A>& x) {
  using M = typename Vector<A>::M;
  return combined(size, x, [](auto a, auto b) {
    const M magnitude = M{} + Native<A>::kMagnitude;
    return Vector<A>{choose(a.v, b.v, magnitude)};
  });
}
template <typename A>
NS_HD Octet<A> where_negative(const Octet<A>& x, const Octet<A>& then, const Octet<A>& otherwise) {
  using M = typename Vector<A>::M;
  Octet<A> result;
  for (int i = 0; i < Octet<A>::kCount; ++i)
    result.v[i].v = choose(then.v[i].v, otherwise.v[i].v, (M)((M)x.v[i].v < 0));
  return result;
}
template <typename A>
NS_HD Octet<A> where_nan(const Octet<A>& x, const Octet<A>& otherwise) {
  using M = typename Vector<A>::M;
  return combined(x, otherwise, [](auto a, auto b) { return Vector<A>{choose(a.v, b.v, (M)(a.v != a.v))}; });
}

template <typename A>
NS_HD Octet<A> without_sign_of_zero(const Octet<A>& x) {
  return x + all_of(A(0));
}

NS_HD Doubles as_double(const Doubles& x) { return x; }
#if defined(NS_AVX2)
NS_HD Doubles as_double(const Floats& x) {
  const __m256 v = (__m256)x.v[0].v;
  return {{{(F64)_mm256_cvtps_pd(_mm256_castps256_ps128(v))}, {(F64)_mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))}}};
}
NS_HD Floats as_float(const Doubles& x) {
  return {{{(F32)_mm256_set_m128(_mm256_cvtpd_ps((__m256d)x.v[1].v), _mm256_cvtpd_ps((__m256d)x.v[0].v))}}};
}
#else
// Converts a pair of elements. Whole vectors: of loops over lanes here GCC 12 makes wrong code.
template <typename E>
struct Pair {
  typedef E V __attribute__((vector_size(2 * sizeof(E))));
};
template <typename To, typename From>
NS_HD void convert_pairs(const From* from, To* to) {
  for (int i = 0; i < kOctet; i += 2)
    store(to + i, __builtin_convertvector(load<typename Pair<From>::V>(from + i), typename Pair<To>::V));
}
NS_HD Doubles as_double(const Floats& x) {
  alignas(64) float from[kOctet];
  alignas(64) double to[kOctet];
  store(from, x);
  convert_pairs(from, to);
  return load<Doubles>(to);
}
NS_HD Floats as_float(const Doubles& x) {
  alignas(64) double from[kOctet];
  alignas(64) float to[kOctet];
  store(from, x);
  convert_pairs(from, to);
  return load<Floats>(to);
}
#endif

// Elements as the integers that their bits are: of T, in as many bits as its accumulation dtype has.
template <typename A>
struct Bits8 {
  using M = typename Vector<A>::M;
  M v[Octet<A>::kCount];
};

#if defined(NS_AVX2)
// Rounded to Half; NaN becomes the one of from_float.
NS_HD __m128i halves_of(__m256 x) {
  const __m256 nan = _mm256_or_ps(_mm256_and_ps(x, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(__builtin_nanf("")));
  const __m256 value = _mm256_blendv_ps(x, nan, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
}
#endif

template <typename T, typename A = accumulate_t<T>>
NS_HD Bits8<A> bits_of(const Octet<A>& x) {
  Bits8<A> bits = {};
  for (int i = 0; i < Octet<A>::kCount; ++i) {
    auto& to = bits.v[i];
    if constexpr (sizeof(T) == sizeof(A)) {
      to = (typename Bits8<A>::M)x.v[i].v;
    } else if constexpr (__is_same(T, BFloat16)) {
      const I32 word = (I32)x.v[i].v;
      to = ((word + 0x7fff + ((word >> 16) & 1)) >> 16) & 0xffff;
    } else {
#if defined(NS_AVX2)
      to = (I32)_mm256_cvtepu16_epi32(halves_of((__m256)x.v[i].v));
#else
      alignas(64) float values[kWidth<float>];
      alignas(64) int32_t words[kWidth<float>];
      store(values, x.v[i]);
      for (int j = 0; j < kWidth<float>; ++j) words[j] = from_float<T>(values[j]).bits;
      to = load<I32>(words);
#endif
    }
  }
  return bits;
}
template <typename T, typename A = accumulate_t<T>>
NS_HD Octet<A> value_of(const Bits8<A>& bits) {
  Octet<A> x;
  for (int i = 0; i < Octet<A>::kCount; ++i) {
    const auto word = bits.v[i];
    if constexpr (sizeof(T) == sizeof(A)) {
      x.v[i].v = (typename Vector<A>::N)word;
    } else if constexpr (__is_same(T, BFloat16)) {
      x.v[i].v = (F32)(word << 16);
    } else {
#if defined(NS_AVX2)
      const __m256i all = (__m256i)word;
      const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
      x.v[i].v = (F32)_mm256_cvtph_ps(halves);
#else
      alignas(64) int32_t words[kWidth<float>];
      alignas(64) float values[kWidth<float>];
      store(words, word);
      for (int j = 0; j < kWidth<float>; ++j) values[j] = to_float(T{uint16_t(words[j])});
      x.v[i] = load<VF>(values);
#endif
    }
  }
  return x;
}

template <typename T>
NS_HD Octet<accumulate_t<T>> load_octet(const T* p) {
  using A = accumulate_t<T>;
  if constexpr (sizeof(T) == sizeof(A)) {
    return load<Octet<A>>(p);
  } else {
    Bits8<A> bits = {};
#if defined(NS_AVX2)
    if constexpr (!__is_same(T, BFloat16)) return {{{(F32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p))}}};
    bits.v[0] = (I32)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
#else
    alignas(64) int32_t words[kOctet];
    for (int i = 0; i < kOctet; ++i) words[i] = p[i].bits;
    bits = load<Bits8<A>>(words);
#endif
    return value_of<T>(bits);
  }
}

template <typename T>
NS_HD Doubles load_doubles(const T* p) {
#if defined(NS_AVX2)
  // Half by half from memory: to take registers apart costs more.
  if constexpr (__is_same(T, float))
    return {{{(F64)_mm256_cvtps_pd(_mm_loadu_ps(p))}, {(F64)_mm256_cvtps_pd(_mm_loadu_ps(p + kOctet / 2))}}};
#endif
  return as_double(load_octet(p));
}

template <typename T>
NS_HD void store_octet(T* p, const Octet<accumulate_t<T>>& x) {
  using A = accumulate_t<T>;
  if constexpr (sizeof(T) == sizeof(A)) {
    store(p, x);
  } else {
#if defined(NS_AVX2)
    if constexpr (!__is_same(T, BFloat16)) {
      _mm_storeu_si128((__m128i*)p, halves_of((__m256)x.v[0].v));
      return;
    }
#endif
    const Bits8<A> bits = bits_of<T>(x);
#if defined(NS_AVX2)
    const __m256i all = (__m256i)bits.v[0];
    _mm_storeu_si128((__m128i*)p, _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
#else
    alignas(64) int32_t words[kOctet];
    store(words, bits);
    for (int i = 0; i < kOctet; ++i) p[i].bits = uint16_t(words[i]);
#endif
  }
}
