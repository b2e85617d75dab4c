// The last pass of the steps in the L2 and the L1 ball for float32 and 16-bit elements, a register of floats at a time:
// the bits of project_change in math/project.h, in half of its time and less. Included inside an instruction
// set's namespace.

NS_HD VD product(VD a, VD b) { return a * b; }

// Floats with the signs of doubles.
NS_HD VF signs_of(const Wide<float>& x) {
#if NS_VECTOR_BYTES == 64
  const __m512i high = _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  return {(F32)_mm512_permutex2var_epi32((__m512i)x.v[0].v, high, (__m512i)x.v[1].v)};
#else
  const __m256 high = _mm256_shuffle_ps((__m256)x.v[0].v, (__m256)x.v[1].v, _MM_SHUFFLE(3, 1, 3, 1));
  return {(F32)_mm256_permute4x64_pd((__m256d)high, _MM_SHUFFLE(3, 1, 2, 0))};
#endif
}

// Borders that float_below may have missed, as sizes have no bounds here: without registers of 64 bytes it rounds
// subnormal floats to the nearest, and what exceeds all floats to infinity.
NS_HD Doubts out_of_range(VF border) {
#if NS_VECTOR_BYTES == 64
  return not_a_number(border);
#else
  const __m256i size = _mm256_and_si256((__m256i)border.v, _mm256_set1_epi32(INT32_MAX));
  const __m256i less = _mm256_sub_epi32(size, _mm256_set1_epi32(1));  // a zero is far above
  const I32 small = (I32)_mm256_cmpeq_epi32(_mm256_min_epu32(less, _mm256_set1_epi32(0x007fffff)), less);
  return small | not_a_number(border - border);
#endif
}

// Whether any sum that near_floats finds is in doubt: next to a float, or at one and further away than the size.
NS_HD bool any_rounded_up(const Wide<float>& origin, const Wide<float>& size, const Wide<float>& sum) {
  I64 found = {};
  for (int i = 0; i < Wide<float>::kCount; ++i) {
    const I64 low = (I64)sum.v[i].v & 0x1fffffff;
    const I64 exact = (I64)(low == 0) & (I64)((sum.v[i] - origin.v[i]).v <= size.v[i].v);
    found |= ~exact & (I64)(((low + 1) & kAtOrNextToFloat) == 0);
  }
  return fold_vector<int64_t>(found, [](auto a, auto b) { return a | b; }) != 0;
}

// `formula` is called for elements of which a sum does not decide.
template <typename T, typename F>
NS_HD void write_registers(T* adversarial, const StepInput<T>& in, int64_t count, double threshold, double scale,
                           const LimitsOf<T>& limits, F&& formula) {
  const Limits<VF, VD> p = in_registers(limits);
  const VD peak = broadcast(in.peak), factor = broadcast(in.factor), least = broadcast(threshold),
           share = broadcast(scale);
  by_registers(
      adversarial, in.gradient, in.origin, count,
      [&](VF a, VF g, VF x, Doubts& doubts) __attribute__((always_inline)) {
        const Wide<float> from = widen(a), along = widen(g);
        Wide<float> origin = widen(x), change, size, sum;
        for (int i = 0; i < Wide<float>::kCount; ++i) {
          change.v[i] = change_of<T>(from.v[i], along.v[i], origin.v[i], peak, factor);
          size.v[i] = product(rest_of(absolute(change.v[i]), least), share);
          origin.v[i] = turned(origin.v[i], change.v[i]);
          sum.v[i] = origin.v[i] + size.v[i];
        }
        const VF border = float_below<true>(sum);
        doubts |= out_of_range(border);
        const Doubts near = near_floats(sum, kAtOrNextToFloat);
        if (__builtin_expect(any(near), 0) && any_rounded_up(origin, size, sum)) doubts |= near;
        return clamped(turned(rounded_down<T>(border), signs_of(change)), p);
      },
      formula);
}
