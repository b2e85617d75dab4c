// The Linf step of float32 and 16-bit elements, a register of floats at a time: the bits of project_linf in
// math/project.h, in two thirds of its time and less. Included inside an instruction set's namespace.
//
// Everything is turned to the side that the step leads to, so that the border is always above. The formula rounds
// origin + epsilon to T and goes one value back where the distance from the origin, in double, exceeds epsilon. That is
// the sum in double rounded down, unless that sum was rounded itself and lies at a float or next to one. Where it may,
// and where an origin is NaN, the formula itself is evaluated.

#if defined(NS_AVX2)
struct LinfLimits {
  VF step, lower, upper;
  VD epsilon;
  I32 suspicious;    // no bit of it is set in 1 + the low word of sums of which the formula must decide
  bool fit = false;  // whether no float of this size over- or underflows, and few sums are suspicious

  explicit LinfLimits(const LimitsOf<float>& p)
      : step(broadcast(p.step)), lower(broadcast(p.low)), upper(broadcast(p.high)), epsilon(broadcast(p.epsilon)) {
    const double rest = p.epsilon - double(float(p.epsilon));
    fit = p.step >= 0 && p.step < __builtin_inff() && (p.epsilon == 0 || (p.epsilon > 0x1p-60 && p.epsilon < 0x1p60)) &&
          (rest == 0 || neurosens::absolute(rest) > p.epsilon * 0x1p-32);
    // Of the 29 bits that floats lack: -1, 1 and, where epsilon is no float, 0 and 2. Sums of floats that lie at a
    // float are exact, or their rounding leads nowhere else.
    suspicious = I32{} + (rest == 0 ? 0x1ffffffd : 0x1ffffffc);
  }
};

// The step: NaN along a gradient of NaN.
NS_HD VF along(VF gradient, VF step) {
#if NS_VECTOR_BYTES == 64
  // By the class of the gradient: NaN of either kind stays, zeros give +0, all else the step.
  const __m512i sign = _mm512_set1_epi32(INT32_MIN), classes = _mm512_set1_epi32(0x811);
  const __m512i towards = _mm512_ternarylogic_epi32((__m512i)gradient.v, sign, (__m512i)step.v, 0xea);
  return {(F32)_mm512_fixupimm_ps((__m512)towards, (__m512)gradient.v, classes, 0)};
#else
  const I32 towards = ((I32)gradient.v & ~Native<float>::kMagnitude) | (I32)step.v;
  const __m256 g = (__m256)gradient.v, nonzero = _mm256_cmp_ps(g, _mm256_setzero_ps(), _CMP_NEQ_UQ);
  return {(F32)_mm256_blendv_ps(_mm256_and_ps((__m256)towards, nonzero), g, _mm256_cmp_ps(g, g, _CMP_UNORD_Q))};
#endif
}

// The largest float that is not above; NaN at a positive zero too. Unless the sum is suspicious.
NS_HD VF rounded_down(const Wide<float>& sum) {
#if NS_VECTOR_BYTES == 64
  constexpr int kDown = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const __m256 low = _mm512_maskz_cvt_roundpd_ps(0xff, (__m512d)sum.v[0].v, kDown);
  const __m256 high = _mm512_maskz_cvt_roundpd_ps(0xff, (__m512d)sum.v[1].v, kDown);
  return {(F32)_mm512_maskz_insertf32x8(0xffff, _mm512_castps256_ps512(low), high, 1)};
#else
  // What lies nearly half a float below is rounded to the nearest.
  const auto down = [](VD x) {
    const I64 half = I64{} + 0x0fffffff;
    const I64 shift = (I64)_mm256_blendv_pd((__m256d)-half, (__m256d)half, (__m256d)x.v);
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
template <int kRounding>
NS_HD VF rounded_to_half(VF x) {
  const auto bits = halves<kRounding>(x);
  return load_half(reinterpret_cast<const Half*>(&bits));
}

// The largest T that is not above.
template <typename T>
NS_HD VF rounded_down(VF x) {
  const I32 bits = (I32)x.v;
  if constexpr (sizeof(T) == 4)
    return x;
  else if constexpr (__is_same(T, BFloat16))
    return {(F32)((bits + ((bits >> 31) & 0xffff)) & ~0xffff)};
  else
    return rounded_to_half<_MM_FROUND_TO_NEG_INF>(x);
}
template <typename T>
NS_HD VF rounded_to_nearest(VF x) {
  const I32 bits = (I32)x.v;
  if constexpr (sizeof(T) == 4)
    return x;
  else if constexpr (__is_same(T, BFloat16))
    return {(F32)((bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff)};
  else
    return rounded_to_half<_MM_FROUND_TO_NEAREST_INT>(x);
}

// Whether the formula must decide on any element.
NS_HD bool doubtful(VF border, const Wide<float>& sum, I32 suspicious) {
#if NS_VECTOR_BYTES == 64
  // The low words of both halves, in any order.
  const __m512i low = _mm512_mask_shuffle_epi32((__m512i)sum.v[0].v, 0xaaaa, (__m512i)sum.v[1].v, _MM_PERM_CCAA);
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)border.v, (__m512)border.v, _CMP_UNORD_Q);
  return !_mm512_kortestz(nan,
                          _mm512_testn_epi32_mask(_mm512_add_epi32(low, _mm512_set1_epi32(1)), (__m512i)suspicious));
#else
  const I32 low = (I32)_mm256_shuffle_ps((__m256)sum.v[0].v, (__m256)sum.v[1].v, _MM_SHUFFLE(2, 0, 2, 0));
  const I32 found = (I32)(((low + 1) & suspicious) == 0) | (I32)(border.v != border.v);
  return _mm256_movemask_ps((__m256)found) != 0;
#endif
}

// x, or -x where `side` is negative.
NS_HD VF turned(VF x, VF side) {
  const I32 sign = I32{} + ~Native<float>::kMagnitude;
#if NS_VECTOR_BYTES == 64
  return {(F32)_mm512_ternarylogic_epi32((__m512i)x.v, (__m512i)side.v, (__m512i)sign, 0x78)};
#else
  return {(F32)((I32)x.v ^ ((I32)side.v & sign))};
#endif
}

// The element after the step; sets `doubt` where it may be wrong.
template <typename T>
NS_HD VF try_projection(VF adversarial, VF gradient, VF origin, const LinfLimits& p, bool& doubt) {
  const VF moved = rounded_to_nearest<T>(adversarial + along(gradient, p.step));
  const VF side = moved - origin;
  Wide<float> sum = widen(turned(origin, side));
  for (VD& part : sum.v) part += p.epsilon;
  const VF border = rounded_down(sum);
  doubt |= doubtful(border, sum, p.suspicious);
  const VF kept = turned(smaller(rounded_down<T>(border), turned(moved, side)), side);
  // Of two numbers of which one is NaN the second stays. A zero is +0.
  return smaller(p.upper, larger(p.lower, kept)) + broadcast(0.0f);
}

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

// `exact` is the formula.
template <typename T, typename F>
NS_HD void project_registers(T* adversarial, const T* gradient, const T* origin, int64_t count,
                             const LinfLimits& limits, F&& exact) {
  by_groups<kSpan<T>, true>(adversarial, gradient, origin, count,
                            [&](T* a, const T* g, const T* x) __attribute__((always_inline)) {
                              bool doubt = false;
                              VF parts[Elements<T>::kParts];
                              for (int i = 0; i < Elements<T>::kParts; ++i)
                                parts[i] = try_projection<T>(Elements<T>::part(a, i), Elements<T>::part(g, i),
                                                             Elements<T>::part(x, i), limits, doubt);
                              if (__builtin_expect(doubt, 0))
                                exact(a, g, x, kSpan<T>);
                              else
                                store_parts(a, parts);
                            });
}
#endif
