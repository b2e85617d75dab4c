// The steps of attacks with their projections: the one place the formulas stand.
//
// V is an element or a register of them in the accumulation dtype, D the same in double. The operations on
// single elements stand here, those on registers in cpu/project_kernel.h.
#pragma once

#include "half.h"

namespace neurosens {

// What to_double and from_double round through is part of the result: 16-bit formats go through float.
template <typename T>
NS_HD T from_double(double x) {
  return from_float<T>(float(x));
}
template <>
NS_HD double from_double<double>(double x) {
  return x;
}
template <typename T>
NS_HD double to_double(T x) {
  return double(to_float(x));
}

template <typename T>
struct Bits {
  using type = uint16_t;
};
template <>
struct Bits<float> {
  using type = uint32_t;
};
template <>
struct Bits<double> {
  using type = uint64_t;
};

// The neighbour of a finite x towards +infinity (up) or -infinity, as nextafter gives it.
template <typename T>
NS_HD T neighbour(T x, bool up) {
  using B = typename Bits<T>::type;
  constexpr B kSign = B(B(1) << (8 * sizeof(B) - 1));
  const B bits = bit_copy<B>(x);
  const B magnitude = B(bits & B(~kSign));
  const bool negative = (bits & kSign) != 0;
  if (magnitude == 0) return bit_copy<T>(B(up ? 1 : (kSign | 1)));
  return bit_copy<T>(B(negative == up ? bits - 1 : bits + 1));
}

NS_HD double as_double(float x) { return double(x); }
NS_HD double as_double(double x) { return x; }
template <typename V>
NS_HD V smaller(V a, V b) {
  return a < b ? a : b;
}
// By the sign bit, which NaN has too.
NS_HD bool is_negative(float x) { return bit_copy<uint32_t>(x) >> 31 != 0; }
NS_HD bool is_negative(double x) { return bit_copy<uint64_t>(x) >> 63 != 0; }
NS_HD double with_sign(double size, double x) {
  constexpr uint64_t kSign = uint64_t(1) << 63;
  return bit_copy<double>((bit_copy<uint64_t>(size) & ~kSign) | (bit_copy<uint64_t>(x) & kSign));
}
// The same without a conversion of x, which takes a GPU as long as eight additions: its sign bit is all that counts.
template <typename V, typename D>
NS_HD D on_the_side_of(V x, D size) {
  if constexpr (sizeof(V) == sizeof(float))
    return with_sign(size, bit_copy<double>(uint64_t(bit_copy<uint32_t>(x)) << 32));
  else
    return with_sign(size, as_double(x));
}
template <typename V>
NS_HD V where_negative(V x, V then, V otherwise) {
  return is_negative(x) ? then : otherwise;
}
template <typename V>
NS_HD V where_nan(V x, V otherwise) {
  return is_nan(x) ? x : otherwise;
}

NS_HD float without_sign_of_zero(float x) { return x + 0.0f; }
NS_HD double without_sign_of_zero(double x) { return x + 0.0; }

// Never fused with the addition that follows: changes are formed in several passes, which must agree.
NS_HD float product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
NS_HD double product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// Rounds to T.
template <typename T>
NS_HD accumulate_t<T> rounded(double x) {
  return to_float(from_double<T>(x));
}

// The T next to x + reach whose distance from x, computed in double, is within |reach|.
template <typename T>
NS_HD accumulate_t<T> within(double x, double reach) {
  const T border = from_double<T>(x + reach);
  const bool outside = absolute(to_double(border) - x) > absolute(reach);
  return to_float(outside ? neighbour(border, reach < 0) : border);
}

template <typename V, typename D>
struct Limits {
  D step_size, epsilon;
  V step, low, high;  // `step` is the step size in the accumulation dtype
};
template <typename T>
using LimitsOf = Limits<accumulate_t<T>, double>;

// low and high are rounded to T, which clamps its values as the doubles do.
template <typename T>
NS_HD LimitsOf<T> limits_of(double step_size, double epsilon, double low, double high) {
  return {step_size, epsilon, accumulate_t<T>(step_size), rounded<T>(low), rounded<T>(high)};
}

// A zero is +0, whatever led there.
template <typename V, typename D>
NS_HD V clamped(V x, const Limits<V, D>& p) {
  return without_sign_of_zero(smaller(p.high, larger(p.low, x)));
}

// A value of the accumulation dtype rounded to T.
template <typename T>
NS_HD double narrowed(double x) {
  return x;
}
template <typename T>
NS_HD float narrowed(float x) {
  return to_float(from_float<T>(x));
}

// One step along the sign of the gradient: the step,
template <typename T, typename V, typename D>
NS_HD V stepped(V adversarial, V gradient, const Limits<V, D>& p) {
  return narrowed<T>(adversarial + product(sign(gradient), p.step));
}
// the border of the ball on the side of the step, the only one that it can cross,
template <typename T, typename V, typename D>
NS_HD V border_of(V stepped, V origin, const Limits<V, D>& p) {
  return within<T>(as_double(origin), on_the_side_of(stepped - origin, p.epsilon));
}
// and the projection. NaN stays.
template <typename V, typename D>
NS_HD V bounded(V stepped, V border, V origin, const Limits<V, D>& p) {
  const V kept = where_negative(stepped - origin, larger(border, stepped), smaller(border, stepped));
  return where_nan(origin, clamped(kept, p));
}

template <typename T, typename V, typename D>
NS_HD V project_linf(V adversarial, V gradient, V origin, const Limits<V, D>& p) {
  const V moved = stepped<T>(adversarial, gradient, p);
  return bounded(moved, border_of<T>(moved, origin, p), origin, p);
}

// A gradient of double is divided by its largest element first: its squares and sums could leave the range.
template <typename T, typename D>
NS_HD D scaled(D gradient, D peak) {
  if constexpr (sizeof(T) == 8)
    return gradient / peak;
  else
    return gradient;
}

// numerator / norm; 0 for a zero gradient, NaN where it is not finite.
NS_HD double over_norm(double numerator, double norm) { return norm == 0 ? 0.0 : numerator / norm + (norm - norm); }

// Epsilon less what sums of `count` doubles, ours and any other, may be off by in any order.
NS_HD double reach_of(double epsilon, int64_t count) { return epsilon * (1 - double(count + 32) * 0x1p-52); }

// What brings a change of this length into the ball; NaN stays.
NS_HD double scale_to(double length, double radius) { return length <= radius ? 1.0 : radius / length; }

// How far the step leads from the origin; `factor` is the step size over the norm of the gradient.
template <typename T, typename D>
NS_HD D change_of(D adversarial, D gradient, D origin, D peak, D factor) {
  return (adversarial - origin) + product(scaled<T>(gradient, peak), factor);
}

// What the threshold leaves of a size; NaN stays.
template <typename D>
NS_HD D rest_of(D size, D threshold) {
  return larger(size - size, size - threshold);
}

// The projection of a change: its size lowered by `threshold` (0 in the L2 ball), then scaled, rounded to T within.
template <typename T, typename V, typename D>
NS_HD V project_change(D change, V origin, D threshold, D scale, const Limits<V, D>& p) {
  const D size = product(rest_of(absolute(change), threshold), scale);
  return clamped(within<T>(as_double(origin), with_sign(size, change)), p);
}

// `factor` is 1 over the mean size of the gradient.
template <typename T, typename D>
NS_HD auto momentum_of(D momentum, D gradient, D decay, D peak, D factor) {
  return rounded<T>(product(decay, momentum) + product(scaled<T>(gradient, peak), factor));
}

// Sum of what a threshold leaves, and the number of changes above it.
struct Excess {
  double total, count;
};

// Newton's method from the left on the sum of rests, piecewise linear in the threshold (Michelot, JOTA 50:195, 1986):
// it grows until the changes above it stay the same. The first excess is that of a threshold of 0.
struct L1Search {
  double radius, threshold = 0, above = __builtin_inf();
  Excess now = {0, 0};

  // Takes the excess at the threshold; false where that one stands.
  NS_HD bool advance(Excess excess) {
    now = excess;
    const double moved = threshold + (now.total - radius) / now.count;
    if (!(now.total > radius && now.count < above && moved > threshold && radius > 0)) return false;
    threshold = moved;
    above = now.count;
    return true;
  }
  // Scales away what rounding left above the radius; NaN stays.
  NS_HD double scale() const { return scale_to(now.total, radius); }
};

}  // namespace neurosens
