// The Linf step of float32 and 16-bit elements in float32 alone: the bits of project_linf in math/project.h, for half
// of its time and less. Included inside an instruction set's namespace.
//
// Everything is turned to the side that the step leads to, so that the border is always above. Epsilon is a sum of two
// floats, high + low, and the error of the first addition is kept, so that the exact border is known to about 2^-18 of
// the last place. Where that does not decide the rounding (one element in many thousands; origins that are no numbers
// too) `unsure` is set and the formula itself is evaluated.

#if defined(NS_AVX2)
struct FloatLimits {
  __m256 step, high, low;
  __m256 doubt;    // relative to the correction; 0 where epsilon is a float, so that nothing is lost
  __m256 least;    // what a remainder must exceed to be sure of its sign: double may lose less
  __m256 certain;  // a remainder that is sure all the same: 0 where epsilon is a float
  __m256 lower, upper;
  bool fit = false;  // whether floats of this size neither over- nor underflow, and low is not lost either

  FloatLimits(float step_size, double epsilon, float lowest, float highest) {
    const float rounded = float(epsilon), rest = float(epsilon - double(rounded));
    fit = !(epsilon < 0) && step_size >= 0 && step_size < __builtin_inff() &&
          (epsilon == 0 || (epsilon > 0x1p-60 && epsilon < 0x1p60)) &&
          (rest == 0 || double(neurosens::absolute(rest)) > epsilon * 0x1p-32);
    step = _mm256_set1_ps(step_size);
    high = _mm256_set1_ps(rounded);
    low = _mm256_set1_ps(rest);
    doubt = _mm256_set1_ps(rest == 0 ? 0.0f : 0x1p-18f);
    least = _mm256_set1_ps(rest == 0 ? float(epsilon * 0x1p-50) : neurosens::absolute(rest) * 0x1p-18f);
    certain = _mm256_set1_ps(rest == 0 ? 0.0f : __builtin_nanf(""));
    lower = _mm256_set1_ps(lowest);
    upper = _mm256_set1_ps(highest);
  }
};

struct Attempt {
  __m256 value, unsure;
};

NS_HD __m256 size_of(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// The rounding error of sum = a + b (Knuth).
NS_HD __m256 addition_error(__m256 a, __m256 b, __m256 sum) {
  const __m256 part = _mm256_sub_ps(sum, a);
  return _mm256_add_ps(_mm256_sub_ps(a, _mm256_sub_ps(sum, part)), _mm256_sub_ps(b, part));
}

// The largest T that is not above a float.
template <typename T>
NS_HD __m256 rounded_down(__m256 x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else if constexpr (__is_same(T, BFloat16)) {
    // Towards zero for what is positive; the magnitude of what is negative and has bits below grows.
    const __m256i bits = _mm256_castps_si256(x), low = _mm256_set1_epi32(0xffff);
    const __m256i away = _mm256_srai_epi32(bits, 31);
    return _mm256_castsi256_ps(_mm256_andnot_si256(low, _mm256_add_epi32(bits, _mm256_and_si256(away, low))));
  } else {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEG_INF));
  }
}

// The outermost T in the ball above x.
template <typename T>
NS_HD Attempt try_border(__m256 x, const FloatLimits& limits) {
  const __m256 sum = _mm256_add_ps(x, limits.high);
  const __m256 rest = _mm256_add_ps(addition_error(x, limits.high, sum), limits.low);
  const __m256 border = _mm256_add_ps(sum, rest);
  const __m256 beyond = _mm256_sub_ps(rest, _mm256_sub_ps(border, sum));  // the exact border less the rounded one
  const __m256 least = _mm256_fmadd_ps(size_of(rest), limits.doubt, limits.least);
  const __m256 close = _mm256_cmp_ps(size_of(beyond), least, _CMP_NGT_UQ);
  const __m256 unsure = _mm256_and_ps(close, _mm256_cmp_ps(beyond, limits.certain, _CMP_NEQ_UQ));
  // Outside: one value back. A little more than half the spacing is subtracted, which rounds to a whole one.
  const __m256 outside = _mm256_cmp_ps(beyond, _mm256_setzero_ps(), _CMP_LT_OQ);
  const __m256 back = _mm256_and_ps(_mm256_set1_ps(0x1.00001p-24f), outside);
  return {rounded_down<T>(_mm256_fnmadd_ps(back, size_of(border), border)), unsure};
}

template <typename T>
NS_HD Attempt try_projection(__m256 adversarial, __m256 gradient, __m256 origin, const FloatLimits& limits) {
  const __m256 sign_bit = _mm256_set1_ps(-0.0f);
  const __m256 nonzero = _mm256_cmp_ps(gradient, _mm256_setzero_ps(), _CMP_NEQ_UQ);
  const __m256 step = _mm256_and_ps(nonzero, _mm256_or_ps(limits.step, _mm256_and_ps(gradient, sign_bit)));
  const __m256 nan = _mm256_cmp_ps(gradient, gradient, _CMP_UNORD_Q);
  const Floats sum = {{{(F32)_mm256_blendv_ps(_mm256_add_ps(adversarial, step), gradient, nan)}}};
  const __m256 moved = registers(narrowed<T>(sum));
  const __m256 side = _mm256_and_ps(_mm256_sub_ps(moved, origin), sign_bit);
  const Attempt border = try_border<T>(_mm256_xor_ps(origin, side), limits);
  // Of two numbers of which one is NaN these instructions give the second.
  const __m256 kept = _mm256_xor_ps(_mm256_min_ps(border.value, _mm256_xor_ps(moved, side)), side);
  const __m256 clamped = _mm256_min_ps(limits.upper, _mm256_max_ps(limits.lower, kept));
  return {_mm256_add_ps(clamped, _mm256_setzero_ps()), border.unsure};  // a zero is +0
}
#endif
