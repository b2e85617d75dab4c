// Vectors of NS_VECTOR_BYTES, as wide as the registers of one instruction set. Included inside that set's namespace
// by a unit that has chosen its target (NS_AVX2 or none); results do not depend on the width, see row_kernel.h.

constexpr int kVectorBytes = NS_VECTOR_BYTES;

constexpr int kLanes = 8;  // accumulation lanes of a row, on every instruction set

typedef float F32 __attribute__((vector_size(kVectorBytes)));
typedef double F64 __attribute__((vector_size(kVectorBytes)));
typedef int32_t I32 __attribute__((vector_size(kVectorBytes)));
typedef int64_t I64 __attribute__((vector_size(kVectorBytes)));
typedef int16_t I16 __attribute__((vector_size(kVectorBytes)));
typedef uint16_t U16 __attribute__((vector_size(kVectorBytes)));

template <typename A>
struct Native;
template <>
struct Native<float> {
  using type = F32;
  using mask = I32;
  static constexpr int32_t kMagnitude = 0x7fffffff;
};
template <>
struct Native<double> {
  using type = F64;
  using mask = I64;
  static constexpr int64_t kMagnitude = 0x7fffffffffffffffLL;
};

template <typename A>
constexpr int kWidth = kVectorBytes / int(sizeof(A));

// A register of A. A struct, so that the formulas in math/ find its operations by their argument.
template <typename A>
struct Vector {
  using N = typename Native<A>::type;
  using M = typename Native<A>::mask;
  N v;
  NS_HD Vector& operator+=(Vector other) {
    v += other.v;
    return *this;
  }
};
template <typename A>
NS_HD Vector<A> operator+(Vector<A> a, Vector<A> b) {
  return {a.v + b.v};
}
template <typename A>
NS_HD Vector<A> operator-(Vector<A> a, Vector<A> b) {
  return {a.v - b.v};
}
template <typename A>
NS_HD Vector<A> operator-(Vector<A> x) {
  return {-x.v};
}
template <typename A>
NS_HD Vector<A> operator*(Vector<A> a, Vector<A> b) {
  return {a.v * b.v};
}
template <typename A>
NS_HD Vector<A> absolute(Vector<A> x) {
  return {(typename Vector<A>::N)((typename Vector<A>::M)x.v & Native<A>::kMagnitude)};
}
template <typename A>
NS_HD Vector<A> broadcast(A x) {
  return {x - typename Vector<A>::N{}};
}

template <typename V>
NS_HD V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <typename V>
NS_HD void store(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

template <typename V, typename M>
NS_HD V choose(V first, V second, M mask) {
  return (V)(((M)first & mask) | ((M)second & ~mask));
}

template <typename A>
NS_HD Vector<A> where_zero(Vector<A> x, Vector<A> then, Vector<A> otherwise) {
  return {choose(then.v, otherwise.v, (typename Vector<A>::M)(x.v == 0))};
}
template <typename A>
NS_HD Vector<A> sign(Vector<A> x) {
  const Vector<A> one = broadcast<A>(1);
  const auto negative = choose((-one).v, x.v, (typename Vector<A>::M)(x.v < 0));
  return {choose(one.v, negative, (typename Vector<A>::M)(x.v > 0))};  // NaN and zero stay
}

// Folds `count` lanes by halving, l with l + count / 2 first, whatever the register width: 16 bytes at a time.
template <int count, typename E, typename Op>
NS_HD E fold(const E* lanes, Op op) {
  constexpr int kChunk = 16 / int(sizeof(E));
  typedef E V __attribute__((vector_size(16)));
  V chunks[count / kChunk];
  for (int i = 0; i < count / kChunk; ++i) chunks[i] = load<V>(lanes + i * kChunk);
  for (int half = count / kChunk / 2; half >= 1; half /= 2)
    for (int i = 0; i < half; ++i) chunks[i] = op(chunks[i], chunks[i + half]);
  V v = chunks[0];
  for (int half = kChunk / 2; half >= 1; half /= 2) {
    decltype(v < v) order;
    for (int i = 0; i < kChunk; ++i) order[i] = i ^ half;
    v = op(v, __builtin_shuffle(v, order));
  }
  return v[0];
}
template <typename E, typename V, typename Op>
NS_HD E fold_vector(V v, Op op) {
  alignas(64) E lanes[sizeof(V) / sizeof(E)];
  store(lanes, v);
  return fold<int(sizeof(V) / sizeof(E))>(lanes, op);
}

// Eight lanes of eight rows are folded to eight values: l with l + 4 first, then l + 2, l + 1.
template <typename A, typename Op>
NS_HD void fold_lanes(const A (*rows)[kLanes], A* out, Op op) {
  typedef A V __attribute__((vector_size(8 * sizeof(A))));
  using I = decltype(V{} > V{});
  V x[4], y[2];
  for (int i = 0; i < 4; ++i) {
    const V a = load<V>(rows[i]), b = load<V>(rows[i + 4]);
    x[i] = op(__builtin_shuffle(a, b, (I){0, 1, 2, 3, 8, 9, 10, 11}),
              __builtin_shuffle(a, b, (I){4, 5, 6, 7, 12, 13, 14, 15}));
  }
  for (int i = 0; i < 2; ++i)
    y[i] = op(__builtin_shuffle(x[2 * i], x[2 * i + 1], (I){0, 1, 8, 9, 4, 5, 12, 13}),
              __builtin_shuffle(x[2 * i], x[2 * i + 1], (I){2, 3, 10, 11, 6, 7, 14, 15}));
  store(out, op(__builtin_shuffle(y[0], y[1], (I){0, 2, 8, 10, 4, 6, 12, 14}),
                __builtin_shuffle(y[0], y[1], (I){1, 3, 9, 11, 5, 7, 13, 15})));
}
struct Add {
  template <typename V>
  NS_HD V operator()(V a, V b) const {
    return a + b;
  }
};
struct Largest {
  template <typename V>
  NS_HD V operator()(V a, V b) const {
    return choose(a, b, a > b);
  }
};
struct Smallest {
  template <typename V>
  NS_HD V operator()(V a, V b) const {
    return choose(a, b, a < b);
  }
};

using VF = Vector<float>;
using VD = Vector<double>;
#if NS_VECTOR_BYTES == 64
NS_HD VF fused_multiply_add(VF a, VF b, VF c) { return {(F32)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v)}; }
NS_HD VD fused_multiply_add(VD a, VD b, VD c) {
  return {(F64)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v)};
}
// With a full mask: the plain functions of GCC 12 read registers that they have not set, as its warnings say.
NS_HD VF larger(VF a, VF b) { return {(F32)_mm512_maskz_max_ps(0xffff, (__m512)a.v, (__m512)b.v)}; }
NS_HD VD larger(VD a, VD b) { return {(F64)_mm512_maskz_max_pd(0xff, (__m512d)a.v, (__m512d)b.v)}; }
NS_HD VF smaller(VF a, VF b) { return {(F32)_mm512_maskz_min_ps(0xffff, (__m512)a.v, (__m512)b.v)}; }
NS_HD VD smaller(VD a, VD b) { return {(F64)_mm512_maskz_min_pd(0xff, (__m512d)a.v, (__m512d)b.v)}; }
NS_HD I16 larger(I16 a, I16 b) { return (I16)_mm512_max_epi16((__m512i)a, (__m512i)b); }
NS_HD U16 smaller(U16 a, U16 b) { return (U16)_mm512_min_epu16((__m512i)a, (__m512i)b); }
NS_HD VF load_half(const Half* p) {
  return {(F32)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i*)p))};
}
#elif defined(NS_AVX2)
NS_HD VF fused_multiply_add(VF a, VF b, VF c) { return {(F32)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v)}; }
NS_HD VD fused_multiply_add(VD a, VD b, VD c) {
  return {(F64)_mm256_fmadd_pd((__m256d)a.v, (__m256d)b.v, (__m256d)c.v)};
}
NS_HD VF larger(VF a, VF b) { return {(F32)_mm256_max_ps((__m256)a.v, (__m256)b.v)}; }
NS_HD VD larger(VD a, VD b) { return {(F64)_mm256_max_pd((__m256d)a.v, (__m256d)b.v)}; }
NS_HD VF smaller(VF a, VF b) { return {(F32)_mm256_min_ps((__m256)a.v, (__m256)b.v)}; }
NS_HD VD smaller(VD a, VD b) { return {(F64)_mm256_min_pd((__m256d)a.v, (__m256d)b.v)}; }
NS_HD I16 larger(I16 a, I16 b) { return (I16)_mm256_max_epi16((__m256i)a, (__m256i)b); }
NS_HD U16 smaller(U16 a, U16 b) { return (U16)_mm256_min_epu16((__m256i)a, (__m256i)b); }
NS_HD VF load_half(const Half* p) { return {(F32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p))}; }
#else
// The portable unit. x86-64-v1 has no fused instruction: fma() then runs lane by lane, correct but slow.
template <typename A>
NS_HD Vector<A> fused_multiply_add(Vector<A> a, Vector<A> b, Vector<A> c) {
  for (int i = 0; i < kWidth<A>; ++i) c.v[i] = neurosens::fused_multiply_add(a.v[i], b.v[i], c.v[i]);
  return c;
}
template <typename A>
NS_HD Vector<A> larger(Vector<A> a, Vector<A> b) {
  return {choose(a.v, b.v, (typename Vector<A>::M)(a.v > b.v))};
}
template <typename A>
NS_HD Vector<A> smaller(Vector<A> a, Vector<A> b) {
  return {choose(a.v, b.v, (typename Vector<A>::M)(a.v < b.v))};
}
NS_HD I16 larger(I16 a, I16 b) { return choose(a, b, (I16)(a > b)); }
NS_HD U16 smaller(U16 a, U16 b) { return choose(a, b, (U16)(a < b)); }
NS_HD VF load_half(const Half* p) {
  VF x;
  for (int i = 0; i < kWidth<float>; ++i) x.v[i] = to_float(p[i]);
  return x;
}
#endif
using neurosens::larger;
using neurosens::sign;
using neurosens::where_zero;

// The lanes of a register as doubles, for sums across samples.
template <typename A>
struct Wide {
  static constexpr int kCount = int(sizeof(double) / sizeof(A));
  VD v[kCount];
  NS_HD double lane(int i) const { return v[i / kWidth<double>].v[i % kWidth<double>]; }
  NS_HD Wide& operator+=(const Wide& x) {
    for (int i = 0; i < kCount; ++i) v[i] += x.v[i];
    return *this;
  }
};
template <typename A>
NS_HD Wide<A> widen(Vector<A> x) {
  if constexpr (Wide<A>::kCount == 1) {
    return {{{(F64)x.v}}};
  } else {
#if NS_VECTOR_BYTES == 64
    __m256 halves[2];
    __builtin_memcpy(halves, &x, sizeof halves);
    return {{{(F64)_mm512_maskz_cvtps_pd(0xff, halves[0])}, {(F64)_mm512_maskz_cvtps_pd(0xff, halves[1])}}};
#elif defined(NS_AVX2)
    return {{{(F64)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)x.v))},
             {(F64)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)x.v, 1))}}};
#else
    Wide<A> w;
    for (int i = 0; i < kWidth<A>; ++i) w.v[i / kWidth<double>].v[i % kWidth<double>] = double(x.v[i]);
    return w;
#endif
  }
}
