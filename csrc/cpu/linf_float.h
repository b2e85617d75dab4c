// The border of the Linf ball of float32 and 16-bit elements in float32 alone: the bits of border_of in math/project.h
// but for the sign of a zero, for half of its time and less. Included inside an instruction set's namespace.
//
// Epsilon is a sum of two floats, high + low, and the error of the first addition is kept, so that the exact border is
// known to about 2^-18 of the last place. Where that does not decide the rounding (one element in many thousands; NaN
// and infinity too) `unsure` is set and the formula itself is evaluated.

#if defined(NS_AVX2)
struct Parted {
  __m256 high, low;
  __m256 doubt;      // relative to the correction; 0 where the number is a float, so that nothing is lost
  __m256 least;      // what a remainder must exceed to be sure of its sign
  __m256 certain;    // a remainder that is sure all the same: 0 where the number is a float
  bool fit = false;  // whether floats of this size neither over- nor underflow, and low is not lost either

  explicit Parted(double x) {
    const float rounded = float(x), rest = float(x - double(rounded));
    const double size = neurosens::absolute(x);
    fit = !(x < 0) && (x == 0 || (size > 0x1p-60 && size < 0x1p60)) &&
          (rest == 0 || double(neurosens::absolute(rest)) > size * 0x1p-32);
    high = _mm256_set1_ps(rounded);
    low = _mm256_set1_ps(rest);
    doubt = _mm256_set1_ps(rest == 0 ? 0.0f : 0x1p-18f);
    least = _mm256_set1_ps(rest == 0 ? float(size * 0x1p-50) : neurosens::absolute(rest) * 0x1p-18f);
    certain = _mm256_set1_ps(rest == 0 ? 0.0f : __builtin_nanf(""));
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

// A float rounded to T, up where `sign_bit` is set and down elsewhere: what leads from the outermost float in the ball
// to the outermost T.
template <typename T>
NS_HD __m256 directed(__m256 x, __m256 sign_bit) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else if constexpr (__is_same(T, BFloat16)) {
    // Down is towards zero for what is positive. Else a magnitude that has bits below grows.
    const __m256i bits = _mm256_castps_si256(x), low = _mm256_set1_epi32(0xffff);
    const __m256i away = _mm256_srai_epi32(_mm256_castps_si256(_mm256_xor_ps(x, sign_bit)), 31);
    return _mm256_castsi256_ps(_mm256_andnot_si256(low, _mm256_add_epi32(bits, _mm256_and_si256(away, low))));
  } else {
    const __m256 down = _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEG_INF));
    return _mm256_blendv_ps(down, _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_POS_INF)), sign_bit);
  }
}

template <typename T>
NS_HD Attempt try_border(__m256 moved, __m256 x, const Parted& epsilon) {
  const __m256 sign_bit = _mm256_and_ps(_mm256_sub_ps(moved, x), _mm256_set1_ps(-0.0f));
  const __m256 high = _mm256_xor_ps(epsilon.high, sign_bit), low = _mm256_xor_ps(epsilon.low, sign_bit);
  const __m256 sum = _mm256_add_ps(x, high);
  const __m256 rest = _mm256_add_ps(addition_error(x, high, sum), low);
  const __m256 border = _mm256_add_ps(sum, rest);
  const __m256 beyond = _mm256_sub_ps(rest, _mm256_sub_ps(border, sum));  // the exact border less the rounded one
  const __m256 least = _mm256_fmadd_ps(size_of(rest), epsilon.doubt, epsilon.least);
  const __m256 close = _mm256_cmp_ps(size_of(beyond), least, _CMP_NGT_UQ);
  const __m256 unsure = _mm256_and_ps(close, _mm256_cmp_ps(beyond, epsilon.certain, _CMP_NEQ_UQ));
  // Outside: one value back. A little more than half the spacing is subtracted, which rounds to a whole one.
  const __m256 outside = _mm256_cmp_ps(_mm256_xor_ps(beyond, sign_bit), _mm256_setzero_ps(), _CMP_LT_OQ);
  const __m256 back = _mm256_and_ps(_mm256_xor_ps(_mm256_set1_ps(0x1.00001p-24f), sign_bit), outside);
  return {directed<T>(_mm256_fnmadd_ps(back, size_of(border), border), sign_bit), unsure};
}

// A step of 16-bit elements, before its rounding to T: that needs no more than a float, except beside the middle of two
// values of T, which is the float with these bits.
template <typename T>
NS_HD Attempt try_step(__m256 adversarial, __m256 sign, const Parted& step) {
  constexpr int kLost = __is_same(T, BFloat16) ? 16 : 13, kMiddle = 1 << (kLost - 1);
  const __m256 high = _mm256_mul_ps(sign, step.high), low = _mm256_mul_ps(sign, step.low);
  const __m256 sum = _mm256_add_ps(adversarial, high);
  const __m256 moved = _mm256_add_ps(sum, _mm256_add_ps(addition_error(adversarial, high, sum), low));
  const __m256i past = _mm256_and_si256(_mm256_add_epi32(_mm256_castps_si256(moved), _mm256_set1_epi32(1 - kMiddle)),
                                        _mm256_set1_epi32((1 << kLost) - 1));
  __m256 unsure = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(3), past));
  unsure = _mm256_or_ps(unsure, _mm256_cmp_ps(moved, moved, _CMP_UNORD_Q));
  // Values of Half that are small lie otherwise.
  if constexpr (!__is_same(T, BFloat16))
    unsure = _mm256_or_ps(unsure, _mm256_cmp_ps(size_of(moved), _mm256_set1_ps(0x1p-13f), _CMP_LT_OQ));
  return {moved, unsure};
}

NS_HD bool sure(const Attempt& attempt) { return _mm256_movemask_ps(attempt.unsure) == 0; }
NS_HD Floats floats(__m256 x) { return {{{(F32)x}}}; }
NS_HD __m256 registers(const Floats& x) { return (__m256)x.v[0].v; }
#endif
