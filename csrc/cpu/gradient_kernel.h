// ReLU and the gradients of distances, elementwise. Included inside an instruction set's namespace.
//
// Gradients are formed in the accumulation dtype, one short run of elements at a time, and rounded once.

template <typename T>
NS_HD bool below_zero(T x) {
  if constexpr (sizeof(T) == 2)  // -0 stays, and so does NaN
    return x.bits > 0x8000 && x.bits <= (__is_same(T, BFloat16) ? 0xff80 : 0xfc00);
  else
    return x < 0;
}

template <typename T>
void relu(const T* from, int64_t count, T* to) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) to[i] = below_zero(from[i]) ? T{} : from[i];
}

constexpr int kRun = 128;  // elements whose gradients are in flight

template <typename T>
NS_HD void round_run(const accumulate_t<T>* from, int count, T* to) {
  int i = 0;
#if defined(NS_AVX2)
  if constexpr (__is_same(T, Half)) {
    for (; i + 8 <= count; i += 8) {
      const __m256 x = _mm256_loadu_ps(from + i);
      if (_mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q))) break;  // NaN: the one of from_float
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    }
  }
#endif
#pragma GCC ivdep
  for (int j = i; j < count; ++j) {
    if constexpr (sizeof(T) == sizeof(from[j]))
      to[j] = from[j];
    else
      to[j] = from_float<T>(from[j]);
  }
}

// What a gradient of `count` elements is before a distance adds to it: 0, or that of ReLU for the incoming `base`.
template <typename T>
void base_gradient(const T* relu_out, const T* base, int64_t count, T* grad) {
  if (!base) {
    memset(static_cast<void*>(grad), 0, size_t(count) * sizeof(T));
    return;
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) grad[i] = to_float(relu_out[i]) <= 0 ? T{} : base[i];
}

template <typename T>
NS_HD void write_run(const T* activation, const T* base, T* grad, int64_t at, int count, accumulate_t<T>* change) {
  if (!grad) return;
  if (base) {
#pragma GCC ivdep
    for (int i = 0; i < count; ++i) {
      const accumulate_t<T> total = to_float(base[at + i]) + change[i];
      change[i] = to_float(activation[at + i]) <= 0 ? 0 : total;
    }
  }
  round_run<T>(change, count, grad + at);
}

// One row: its coefficients are shared by all elements.
template <typename T>
void row_gradient(bool signed_change, RowGradient<accumulate_t<T>> g, const GradientRun<T>& run) {
  using A = accumulate_t<T>;
  alignas(64) A a[kRun], b[kRun];
  for (int64_t at = 0; at < run.count; at += kRun) {
    const int count = run.count - at < kRun ? int(run.count - at) : kRun;
    const T *z = run.z + at, *z_adv = run.z_adv + at;
#pragma GCC ivdep
    for (int i = 0; i < count; ++i)
      element_gradient<A>(signed_change, g, to_float(z[i]), to_float(z_adv[i]), a[i], b[i]);
    write_run<T>(run.z, run.base, run.grad, at, count, a);
    write_run<T>(run.z_adv, run.base_adv, run.grad_adv, at, count, b);
  }
}

// One position of neighbouring channels, each with its own coefficients; those that are not chosen get the base alone.
template <typename T>
void column_gradient(bool signed_change, const ChannelGradients<accumulate_t<T>>& g, int first,
                     const GradientRun<T>& run) {
  using A = accumulate_t<T>;
  alignas(64) A a[kRun], b[kRun];
  for (int64_t at = 0; at < run.count; at += kRun) {
    const int count = run.count - at < kRun ? int(run.count - at) : kRun;
    const int64_t c = first + at;
    const T *z = run.z + at, *z_adv = run.z_adv + at;
#pragma GCC ivdep
    for (int i = 0; i < count; ++i) {
      A x, y;
      element_gradient<A>(signed_change, {g.change[c + i], g.benign[c + i], g.adversarial[c + i]}, to_float(z[i]),
                          to_float(z_adv[i]), x, y);
      a[i] = g.chosen[c + i] ? x : 0;
      b[i] = g.chosen[c + i] ? y : 0;
    }
    write_run<T>(run.z, run.base, run.grad, at, count, a);
    write_run<T>(run.z_adv, run.base_adv, run.grad_adv, at, count, b);
  }
}
