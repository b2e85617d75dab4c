// One signed-gradient step with its projection: the one place the formula stands.
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

struct LinfStep {
  double step_size, epsilon, low, high;
};

// The border of the ball is the outermost T whose distance from x, computed in double, is within epsilon.
template <typename T>
NS_HD T project_linf(T adversarial, T gradient, T origin, LinfStep p) {
  const double x = to_double(origin), g = to_double(gradient);
  const double direction = g > 0 ? 1.0 : g < 0 ? -1.0 : g;  // NaN stays NaN
  T upper = from_double<T>(x + p.epsilon), lower = from_double<T>(x - p.epsilon);
  upper = to_double(upper) - x > p.epsilon ? neighbour(upper, false) : upper;
  lower = x - to_double(lower) > p.epsilon ? neighbour(lower, true) : lower;
  double stepped = to_double(from_double<T>(to_double(adversarial) + p.step_size * direction));
  stepped = stepped < to_double(lower) ? to_double(lower) : stepped;
  stepped = stepped > to_double(upper) ? to_double(upper) : stepped;
  stepped = stepped < p.low ? p.low : stepped;
  stepped = stepped > p.high ? p.high : stepped;
  return from_double<T>(is_nan(x) ? x : stepped);
}

}  // namespace neurosens
