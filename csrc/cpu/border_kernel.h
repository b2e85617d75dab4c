// Borders of balls for float32 and 16-bit elements, a register of floats at a time: the bits of `within` in
// math/project.h. Included inside an instruction set's namespace.
//
// Everything is turned to the side that a step leads to, so that the border is above the origin. `within` rounds
// origin + size to T and goes one value back where the distance from the origin, in double, exceeds the size. That is
// the sum in double rounded down, unless that sum was rounded itself and lies at a float or next to one. Where it may,
// and where something is NaN, an element is in doubt, and the formula itself is evaluated.

// Elements in doubt.
#if NS_VECTOR_BYTES == 64
using Doubts = __mmask16;
NS_HD bool any(Doubts x) { return !_mm512_kortestz(x, x); }
NS_HD Doubts not_a_number(VF x) { return _mm512_cmp_ps_mask((__m512)x.v, (__m512)x.v, _CMP_UNORD_Q); }
#else
using Doubts = I32;
NS_HD bool any(Doubts x) { return _mm256_movemask_ps((__m256)x) != 0; }
NS_HD Doubts not_a_number(VF x) { return (I32)(x.v != x.v); }
#endif

// Of the 29 bits that floats lack: none of them is set in 1 + the bits of a sum next to a float; of one at it too.
constexpr int32_t kNextToFloat = 0x1ffffffd, kAtOrNextToFloat = 0x1ffffffc;

// Where none of the bits is set in 1 + the low word of a sum.
NS_HD Doubts near_floats(const Wide<float>& sum, int32_t bits) {
#if NS_VECTOR_BYTES == 64
  const __m512i low = _mm512_mask_shuffle_epi32((__m512i)sum.v[0].v, 0xaaaa, (__m512i)sum.v[1].v, _MM_PERM_CCAA);
  return _mm512_testn_epi32_mask(_mm512_add_epi32(low, _mm512_set1_epi32(1)), _mm512_set1_epi32(bits));
#else
  const I32 low = (I32)_mm256_shuffle_ps((__m256)sum.v[0].v, (__m256)sum.v[1].v, _MM_SHUFFLE(2, 0, 2, 0));
  return (I32)(((low + 1) & bits) == 0);
#endif
}

// x, or -x where `side` is negative.
template <typename A>
NS_HD Vector<A> turned(Vector<A> x, Vector<A> side) {
  const auto sign = typename Vector<A>::M{} + ~Native<A>::kMagnitude;
  using N = typename Vector<A>::N;
#if NS_VECTOR_BYTES == 64
  return {(N)_mm512_ternarylogic_epi64((__m512i)x.v, (__m512i)side.v, (__m512i)sign, 0x78)};
#else
  using M = typename Vector<A>::M;
  return {(N)((M)x.v ^ ((M)side.v & sign))};
#endif
}

// The largest float that is not above, but for sums next to a float. Without kZeros that of a positive zero is NaN.
template <bool kZeros>
NS_HD VF float_below(const Wide<float>& sum) {
#if NS_VECTOR_BYTES == 64
  constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const __m256 low = _mm512_maskz_cvt_roundpd_ps(0xff, (__m512d)sum.v[0].v, kDown);
  const __m256 high = _mm512_maskz_cvt_roundpd_ps(0xff, (__m512d)sum.v[1].v, kDown);
  return {(F32)_mm512_maskz_insertf32x8(0xffff, _mm512_castps256_ps512(low), high, 1)};
#else
  // What lies nearly half a float below is rounded to the nearest.
  const auto down = [](VD x) {
    const I64 half = I64{} + 0x0fffffff;
    const F64 up = kZeros ? (F64)(x.v <= 0) : x.v;
    const I64 shift = (I64)_mm256_blendv_pd((__m256d)-half, (__m256d)half, (__m256d)up);
    return _mm256_cvtpd_ps((__m256d)((I64)x.v + shift));
  };
  return {(F32)_mm256_set_m128(down(sum.v[1]), down(sum.v[0]))};
#endif
}

template <int kRounding>
NS_HD auto halves(VF x) {
#if NS_VECTOR_BYTES == 64
  return _mm512_maskz_cvtps_ph(0xffff, (__m512)x.v, kRounding | _MM_FROUND_NO_EXC);
#else
  return _mm256_cvtps_ph((__m256)x.v, kRounding);
#endif
}
// Rounded to T: _MM_FROUND_TO_NEAREST_INT or _MM_FROUND_TO_NEG_INF.
template <typename T, int kRounding>
NS_HD VF rounded(VF x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else if constexpr (__is_same(T, BFloat16)) {
    const I32 bits = (I32)x.v;
    const I32 up = kRounding == _MM_FROUND_TO_NEG_INF ? (bits >> 31) & 0xffff : 0x7fff + ((bits >> 16) & 1);
    return {(F32)((bits + up) & ~0xffff)};
  } else {
    const auto bits = halves<kRounding>(x);
    return load_half(reinterpret_cast<const Half*>(&bits));
  }
}
template <typename T>
NS_HD VF rounded_down(VF x) {
  return rounded<T, _MM_FROUND_TO_NEG_INF>(x);
}

NS_HD Limits<VF, VD> in_registers(const LimitsOf<float>& p) {
  return {broadcast(p.step_size), broadcast(p.epsilon), broadcast(p.step), broadcast(p.low), broadcast(p.high)};
}
NS_HD VF without_sign_of_zero(VF x) { return x + broadcast(0.0f); }

// The parts of one read, values of T.
template <typename T>
NS_HD void store_parts(T* p, const VF* parts) {
  if constexpr (sizeof(T) == 4)
    store(p, parts[0]);
  else if constexpr (__is_same(T, BFloat16))
    store(p, (((I32)parts[0].v >> 16) & 0xffff) | (I32)parts[1].v);
  else
    store(p, halves<_MM_FROUND_TO_NEAREST_INT>(parts[0]));
}

// Writes what `attempt` makes of the parts of one read of all three, or `formula` where that has doubts.
template <typename T, typename F, typename G>
NS_HD void by_registers(T* adversarial, const T* gradient, const T* origin, int64_t count, F&& attempt, G&& formula) {
  using E = Elements<T>;
  by_groups<kSpan<T>, true>(adversarial, gradient, origin, count,
                            [&](T* a, const T* g, const T* x) __attribute__((always_inline)) {
                              Doubts doubts = {};
                              VF parts[E::kParts];
                              for (int i = 0; i < E::kParts; ++i)
                                parts[i] = attempt(E::part(a, i), E::part(g, i), E::part(x, i), doubts);
                              if (__builtin_expect(any(doubts), 0))
                                formula(a, g, x, kSpan<T>);
                              else
                                store_parts(a, parts);
                            });
}
