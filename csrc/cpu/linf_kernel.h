// The Linf step of float32 and 16-bit elements, a register of floats at a time: the bits of project_linf in
// math/project.h, in two thirds of its time and less. Included inside an instruction set's namespace.

// Whether no sum with a float of this size over- or underflows, and few are in doubt.
NS_HD bool suits_registers(const LimitsOf<float>& p) {
  const double rest = p.epsilon - double(float(p.epsilon));
  return p.step >= 0 && p.step < __builtin_inff() && (p.epsilon == 0 || (p.epsilon > 0x1p-60 && p.epsilon < 0x1p60)) &&
         (rest == 0 || neurosens::absolute(rest) > p.epsilon * 0x1p-32);
}

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

// `formula` is called for elements of which a sum does not decide.
template <typename T, typename F>
NS_HD void project_registers(T* adversarial, const T* gradient, const T* origin, int64_t count,
                             const LimitsOf<T>& limits, F&& formula) {
  const Limits<VF, VD> p = in_registers(limits);
  // Sums of two floats that lie at a float are exact, or their rounding leads nowhere else.
  const int32_t bits = limits.epsilon == double(float(limits.epsilon)) ? kNextToFloat : kAtOrNextToFloat;
  by_registers(
      adversarial, gradient, origin, count,
      [&](VF a, VF g, VF x, Doubts& doubts) __attribute__((always_inline)) {
        const VF moved = rounded<T, _MM_FROUND_TO_NEAREST_INT>(a + along(g, p.step)), side = moved - x;
        Wide<float> sum = widen(turned(x, side));
        for (VD& part : sum.v) part += p.epsilon;
        const VF border = float_below<false>(sum);
        doubts |= near_floats(sum, bits) | not_a_number(border);
        // Of two numbers of which one is NaN the second stays.
        return clamped(turned(smaller(rounded_down<T>(border), turned(moved, side)), side), p);
      },
      formula);
}
