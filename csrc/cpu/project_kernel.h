// The steps of attacks, eight elements at a time: math/project.h on registers. Included inside an instruction
// set's namespace. Sums have eight lanes, element i in lane i mod 8, folded by halving.

#include "octet.h"

template <typename T>
NS_HD Doubles narrowed(const Doubles& x) {
  return x;
}
template <typename T>
NS_HD Floats narrowed(const Floats& x) {
  return value_of<T>(bits_of<T>(x));
}

template <typename T>
NS_HD Octet<accumulate_t<T>> rounded(const Doubles& x) {
  if constexpr (sizeof(T) == 8)
    return x;
  else if constexpr (sizeof(T) == 4)
    return as_float(x);
  else
    return value_of<T>(bits_of<T>(as_float(x)));
}

// By how many values of their dtype elements move towards +infinity: 1 or -1, against `reach`, where outside.
template <typename A>
NS_HD Bits8<A> inwards(const Doubles& distance, const Doubles& reach) {
  Bits8<double> wide;
  for (int i = 0; i < Doubles::kCount; ++i) {
    const I64 outside = (I64)(distance.v[i].v > absolute(reach.v[i]).v), up = (I64)(reach.v[i].v < 0);
    wide.v[i] = outside & ((up & 2) - 1);
  }
  Bits8<A> moves;
  if constexpr (sizeof(A) == 8) {
    for (int i = 0; i < Doubles::kCount; ++i) moves.v[i] = wide.v[i];
  } else {
#if defined(NS_AVX2)
    const __m256 even = _mm256_shuffle_ps((__m256)wide.v[0], (__m256)wide.v[1], _MM_SHUFFLE(2, 0, 2, 0));
    moves.v[0] = (I32)_mm256_permute4x64_epi64((__m256i)even, _MM_SHUFFLE(3, 1, 2, 0));
#else
    alignas(64) int64_t from[kOctet];
    alignas(64) int32_t to[kOctet];
    store(from, wide);
    convert_pairs(from, to);
    moves = load<Bits8<A>>(to);
#endif
  }
  return moves;
}

template <typename T>
NS_HD Octet<accumulate_t<T>> within(const Doubles& x, const Doubles& reach) {
  using A = accumulate_t<T>;
  using M = typename Vector<A>::M;
  constexpr auto kSign = typename Integer<sizeof(A)>::type(uint64_t(1) << (8 * sizeof(T) - 1));
  Bits8<A> bits;
  if constexpr (sizeof(T) == 8)
    bits = bits_of<T>(x + reach);
  else
    bits = bits_of<T>(as_float(x + reach));
  const Doubles distance = absolute(as_double(value_of<T>(bits)) - x);
  const Bits8<A> moves = inwards<A>(distance, reach);
  for (int i = 0; i < Octet<A>::kCount; ++i) {
    const M word = bits.v[i], move = moves.v[i];
    const M negative = (M)((word & kSign) != 0);
    const M across = (M)((word & ~kSign) == 0) & (M)(move != 0);  // the neighbours of zero
    bits.v[i] = choose((move & kSign) | 1, word + ((move ^ negative) - negative), across);
  }
  return value_of<T>(bits);
}

template <bool kWrites, typename T, typename F>
NS_HD void by_octets(T* first, const T* second, const T* third, int64_t count, F&& f) {
  by_groups<kOctet, kWrites>(first, second, third, count, f);
}

template <typename T>
NS_HD Limits<Octet<accumulate_t<T>>, Doubles> spread(const LimitsOf<T>& p) {
  return {all_of(p.step_size), all_of(p.epsilon), all_of(p.step), all_of(p.low), all_of(p.high)};
}

// In three loops over blocks that stay in the cache: the chain of one element's operations is too long for a processor
// to work on many of them at once.
template <typename T>
void project_in_stages(T* adversarial, const T* gradient, const T* origin, int64_t count, const LimitsOf<T>& limits) {
  constexpr int64_t kBlock = 512;
  alignas(64) T borders[kBlock];
  const auto all = spread<T>(limits);
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t length = count - at < kBlock ? count - at : kBlock;
    T* const moved = adversarial + at;
    const T* const centre = origin + at;
    by_octets<true>(moved, gradient + at, gradient + at, length,
                    [&](T* a, const T* g, const T*) { store_octet(a, stepped<T>(load_octet(a), load_octet(g), all)); });
    by_octets<true>(borders, moved, centre, length, [&](T* border, const T* a, const T* x) {
      store_octet(border, border_of<T>(load_octet(a), load_octet(x), all));
    });
    by_octets<true>(moved, borders, centre, length, [&](T* a, const T* border, const T* x) {
      store_octet(a, bounded(load_octet(a), load_octet(border), load_octet(x), all));
    });
  }
}

template <typename T>
void project(T* adversarial, const T* gradient, const T* origin, int64_t count, LimitsOf<T> limits) {
#if defined(NS_AVX2)
  if constexpr (sizeof(T) <= sizeof(float))
    if (NS_WIDE::suits_registers(limits))
      return NS_WIDE::project_registers(adversarial, gradient, origin, count, limits,
                                        [&](T* a, const T* g, const T* x, int64_t few) __attribute__((noinline, cold)) {
                                          project_in_stages(a, g, x, few, limits);
                                        });
#endif
  project_in_stages(adversarial, gradient, origin, count, limits);
}

NS_HD double folded(const Doubles& x) {
  alignas(64) double lanes[kOctet];
  store(lanes, x);
  return fold<kOctet>(lanes, Add());
}

template <typename T>
double gradient_peak(const T* gradient, int64_t count) {
  Doubles peak = all_of(0.0);
  by_octets<false>(const_cast<T*>(gradient), gradient, gradient, count,
                   [&](const T* g, const T*, const T*) { peak = larger(absolute(load_doubles(g)), peak); });
  alignas(64) double lanes[kOctet];
  store(lanes, peak);
  return fold<kOctet>(lanes, Largest());
}

template <typename T>
double gradient_sum(const T* gradient, int64_t count, double peak, bool squares) {
  Doubles sum = all_of(0.0);
  const Doubles all = all_of(peak);
  by_octets<false>(const_cast<T*>(gradient), gradient, gradient, count, [&](const T* g, const T*, const T*) {
    const Doubles size = absolute(scaled<T>(load_doubles(g), all));
    sum += squares ? product(size, size) : size;
  });
  return folded(sum);
}

template <typename T>
NS_HD Doubles change_at(const T* a, const T* g, const T* x, const Doubles& peak, const Doubles& factor) {
  return change_of<T>(load_doubles(a), load_doubles(g), load_doubles(x), peak, factor);
}

template <typename T>
Excess change_sum(const StepInput<T>& in, int64_t count, double threshold, bool squares) {
  Doubles total = all_of(0.0), above = all_of(0.0);
  const Doubles peak = all_of(in.peak), factor = all_of(in.factor), least = all_of(threshold);
  by_octets<false>(const_cast<T*>(in.adversarial), in.gradient, in.origin, count,
                   [&](const T* a, const T* g, const T* x) {
                     const Doubles change = change_at(a, g, x, peak, factor);
                     if (squares) {
                       total += product(change, change);
                       return;
                     }
                     const Doubles rest = rest_of(absolute(change), least);
                     total += rest;
                     for (int i = 0; i < Doubles::kCount; ++i)
                       above.v[i] += where_zero(rest.v[i], broadcast(0.0), broadcast(1.0));
                   });
  return {folded(total), folded(above)};
}

template <typename T>
void write_change_in_octets(T* adversarial, const StepInput<T>& in, int64_t count, double threshold, double scale,
                            const LimitsOf<T>& limits) {
  const auto all = spread<T>(limits);
  const Doubles peak = all_of(in.peak), factor = all_of(in.factor), least = all_of(threshold), share = all_of(scale);
  by_octets<true>(adversarial, in.gradient, in.origin, count, [&](T* a, const T* g, const T* x) {
    store_octet(a, project_change<T>(change_at(a, g, x, peak, factor), load_octet(x), least, share, all));
  });
}

template <typename T>
void write_change(T* adversarial, const StepInput<T>& in, int64_t count, double threshold, double scale,
                  LimitsOf<T> limits) {
#if defined(NS_AVX2)
  if constexpr (sizeof(T) <= sizeof(float))
    return NS_WIDE::write_registers(adversarial, in, count, threshold, scale, limits,
                                    [&](T* a, const T* g, const T* x, int64_t few) __attribute__((noinline, cold)) {
                                      const StepInput<T> some = {a, g, x, in.peak, in.factor};
                                      write_change_in_octets(a, some, few, threshold, scale, limits);
                                    });
#endif
  write_change_in_octets(adversarial, in, count, threshold, scale, limits);
}

template <typename T>
void add_momentum(T* momentum, const T* gradient, int64_t count, double decay, double peak, double factor) {
  const Doubles kept = all_of(decay), all = all_of(peak), share = all_of(factor);
  by_octets<true>(momentum, gradient, gradient, count, [&](T* m, const T* g, const T*) {
    store_octet(m, momentum_of<T>(load_doubles(m), load_doubles(g), kept, all, share));
  });
}
