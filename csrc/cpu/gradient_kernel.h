// ReLU and the gradients of distances, elementwise. Included inside an instruction set's namespace.
//
// Gradients are formed in the accumulation dtype, a run of elements at a time, and rounded once.

// math/relu.h on whole registers: to = from, and +0 where `of` is below zero (-0 is not, nor is NaN), or also where it
// is zero.
template <bool or_zero, typename T>
NS_HD void zero_negatives(const T* of, const T* from, int64_t count, T* to) {
  int64_t i = 0;
  if constexpr (sizeof(T) == 2) {
    constexpr int kStep = kVectorBytes / 2;
    for (; i + kStep <= count; i += kStep) {
      const U16 bits = load<U16>(of + i);
      auto negative = (bits > U16{} + uint16_t(0x8000)) & (bits <= U16{} + kNegativeInfinity<T>);
      if (or_zero) negative |= (bits & (U16{} + uint16_t(0x7fff))) == U16{};
      store(to + i, (U16)(load<U16>(from + i) & ~(U16)negative));
    }
  } else {
    using V = Vector<T>;
    for (; i + kWidth<T> <= count; i += kWidth<T>) {
      const auto x = load<V>(of + i).v;
      const auto negative = or_zero ? x <= 0 : x < 0;
      store(to + i, (typename V::M)load<V>(from + i).v & ~negative);
    }
  }
  for (; i < count; ++i) to[i] = or_zero ? relu_gradient(of[i], from[i]) : neurosens::relu(from[i], true);
}

template <typename T>
void relu(const T* from, int64_t count, T* to) {
  zero_negatives<false>(from, from, count, to);
}

// Writes the ReLU of `count` adjacent elements of both halves where the input asks for it.
template <typename T>
NS_HD void write_relu(const TileInput<T>& in, int64_t at, int64_t at_adv, int64_t count) {
  if (!in.relu) return;
  relu(in.z + at, count, in.relu + at);
  relu(in.z_adv + at_adv, count, in.relu_adv + at_adv);
}

// What a gradient is before a distance adds to it: 0, or that of ReLU for the incoming `base`.
template <typename T>
void base_gradient(const T* relu_out, const T* base, int64_t count, T* grad) {
  if (base)
    zero_negatives<true>(relu_out, base, count, grad);
  else
    memset(static_cast<void*>(grad), 0, size_t(count) * sizeof(T));
}

constexpr int kRun = 128;  // elements whose gradients are in flight

template <typename A>
constexpr int kPaddedRun = kRun + kWidth<A>;

// `count` elements in the accumulation dtype, and zeros up to a whole register.
template <typename T>
NS_HD void widen(const T* from, int count, accumulate_t<T>* to) {
  using A = accumulate_t<T>;
  store(to + count, Vector<A>{});
  int i = 0;
  if constexpr (sizeof(T) == 2)
    for (; i + kSpan<T> <= count; i += kSpan<T>) store_in_order(to + i, from + i);
  for (; i < count; ++i) to[i] = to_float(from[i]);
}

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

// The gradients of a run; coefficients(i) are those of the register at element i, as is the mask of chosen(i).
template <typename T, typename Coefficients, typename Chosen>
NS_HD void write_gradient(bool signed_change, const GradientRun<T>& run, int64_t at, int count,
                          const Coefficients& coefficients, const Chosen& chosen) {
  using A = accumulate_t<T>;
  using V = Vector<A>;
  using M = typename V::M;
  // The gradients at element i of the run, for what lies at element `from` of the pointers.
  const auto gradients = [&](int i, const GradientRun<A>& in, int64_t from, M& bits, M& bits_adv) {
    const V x = load<V>(in.z + from), y = load<V>(in.z_adv + from);
    V grad, grad_adv;
    element_gradient(signed_change, coefficients(i), x, y, grad, grad_adv);
    const auto mask = chosen(i);
    bits = (M)grad.v & mask, bits_adv = (M)grad_adv.v & mask;
    if (!in.base) return;
    const V total = load<V>(in.base + from) + V{(typename V::N)bits};
    const V total_adv = load<V>(in.base_adv + from) + V{(typename V::N)bits_adv};
    bits = (M)total.v & ~(x.v <= 0), bits_adv = (M)total_adv.v & ~(y.v <= 0);
  };
  M bits, bits_adv;
  int done = 0;
  if constexpr (sizeof(T) == sizeof(A)) {
    for (; done + kWidth<A> <= count; done += kWidth<A>) {
      gradients(done, run, at + done, bits, bits_adv);
      if (run.grad) store(run.grad + at + done, bits);
      if (run.grad_adv) store(run.grad_adv + at + done, bits_adv);
    }
    if (done == count) return;
  }
  // Other dtypes, and the elements that fill no register, on copies.
  alignas(64) A z[kPaddedRun<A>], z_adv[kPaddedRun<A>], base[kPaddedRun<A>], base_adv[kPaddedRun<A>];
  const int64_t first = at + done;
  const int rest = count - done;
  widen(run.z + first, rest, z);
  widen(run.z_adv + first, rest, z_adv);
  if (run.base) widen(run.base + first, rest, base), widen(run.base_adv + first, rest, base_adv);
  const GradientRun<A> copies = {z, z_adv, rest, run.base ? base : nullptr, base_adv, nullptr, nullptr};
  for (int i = 0; i < rest; i += kWidth<A>) {
    gradients(done + i, copies, i, bits, bits_adv);
    store(z + i, bits);
    store(z_adv + i, bits_adv);
  }
  if (run.grad) round_run<T>(z, rest, run.grad + first);
  if (run.grad_adv) round_run<T>(z_adv, rest, run.grad_adv + first);
}

// One row: its coefficients are shared by all elements.
template <typename T>
void row_gradient(bool signed_change, RowGradient<accumulate_t<T>> g, const GradientRun<T>& run) {
  using A = accumulate_t<T>;
  const RowGradient<Vector<A>> all = {broadcast(g.change), broadcast(g.benign), broadcast(g.adversarial)};
  const auto every = ~typename Vector<A>::M{};
  for (int64_t at = 0; at < run.count; at += kRun) {
    const int count = run.count - at < kRun ? int(run.count - at) : kRun;
    write_gradient(signed_change, run, at, count, [&](int) { return all; }, [&](int) { return every; });
  }
}

// One position of neighbouring channels, each with its own coefficients; those that are not chosen get the base alone.
template <typename T>
void column_gradient(bool signed_change, const ChannelGradients<accumulate_t<T>>& g, const GradientRun<T>& run) {
  using V = Vector<accumulate_t<T>>;
  for (int64_t at = 0; at < run.count; at += kRun) {
    const int count = run.count - at < kRun ? int(run.count - at) : kRun;
    const auto coefficients = [&](int i) {
      return RowGradient<V>{load<V>(g.change + at + i), load<V>(g.benign + at + i), load<V>(g.adversarial + at + i)};
    };
    const auto chosen = [&](int i) { return load<typename V::M>(g.chosen + at + i); };
    write_gradient(signed_change, run, at, count, coefficients, chosen);
  }
}
