// The transforms of Winograd's algorithm F(m x m, 3x3) along one line of m + 2 pixels. Included inside an instruction
// set's namespace; rows and columns of a tile are lines.
//
// F(4): the points are 0, +-2/3, +-3/2 and infinity. Rounding errors are 2 to 5 times smaller than at the usual 0, +-1,
// +-2 (choice of this package, by trying). F(2): 0, +-1 and infinity.
// Source: Lavin and Gray, CVPR 2016; points after Barabasz et al., ACM TOMS 46:37, 2020.

namespace winograd {

NS_HD VF scaled(float factor, VF x) { return broadcast(factor) * x; }
NS_HD VF multiply_add(float factor, VF x, VF y) { return fused_multiply_add(broadcast(factor), x, y); }

// images: m + 2 pixels, `step` registers apart, as coefficients; weights: 3 of them; outputs: coefficients as m pixels.
template <int m>
struct Line;

template <>
struct Line<4> {
  static constexpr float kA = 2.f / 3, kB = 3.f / 2, kA2 = 4.f / 9, kB2 = 9.f / 4;  // the points; kA * kB = 1

  static NS_HD void images(const VF* d, VF* out, int step) {
    const VF d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step];
    const VF even_a = multiply_add(-kB2, d2, d4), odd_a = multiply_add(-kB2, d1, d3);
    const VF even_b = multiply_add(-kA2, d2, d4), odd_b = multiply_add(-kA2, d1, d3);
    out[0] = multiply_add(-(kA2 + kB2), d2, d[0] + d4);
    out[step] = multiply_add(kA, odd_a, even_a);
    out[2 * step] = multiply_add(-kA, odd_a, even_a);
    out[3 * step] = multiply_add(kB, odd_b, even_b);
    out[4 * step] = multiply_add(-kB, odd_b, even_b);
    out[5 * step] = multiply_add(-(kA2 + kB2), d3, d1 + d[5 * step]);
  }
  static NS_HD void weights(VF w0, VF w1, VF w2, VF* out, int step) {
    constexpr float kScaleA = 1 / (2 * kA2 * (kA2 - kB2)), kScaleB = 1 / (2 * kB2 * (kB2 - kA2));
    const VF even_a = scaled(kScaleA, multiply_add(kA2, w2, w0));
    const VF even_b = scaled(kScaleB, multiply_add(kB2, w2, w0));
    out[0] = w0;
    out[step] = multiply_add(kA * kScaleA, w1, even_a);
    out[2 * step] = multiply_add(-kA * kScaleA, w1, even_a);
    out[3 * step] = multiply_add(kB * kScaleB, w1, even_b);
    out[4 * step] = multiply_add(-kB * kScaleB, w1, even_b);
    out[5 * step] = w2;
  }
  static NS_HD void outputs(const VF* p, VF* out, int step) {
    const VF sum_a = p[step] + p[2 * step], change_a = p[step] - p[2 * step];
    const VF sum_b = p[3 * step] + p[4 * step], change_b = p[3 * step] - p[4 * step];
    out[0] = p[0] + sum_a + sum_b;
    out[step] = multiply_add(kA, change_a, scaled(kB, change_b));
    out[2 * step] = multiply_add(kA2, sum_a, scaled(kB2, sum_b));
    out[3 * step] = multiply_add(kA2 * kA, change_a, multiply_add(kB2 * kB, change_b, p[5 * step]));
  }
};

template <>
struct Line<2> {
  static NS_HD void images(const VF* d, VF* out, int step) {
    const VF d1 = d[step], d2 = d[2 * step];
    out[0] = d[0] - d2;
    out[step] = d1 + d2;
    out[2 * step] = d2 - d1;
    out[3 * step] = d1 - d[3 * step];
  }
  static NS_HD void weights(VF w0, VF w1, VF w2, VF* out, int step) {
    const VF even = scaled(0.5f, w0 + w2);
    out[0] = w0;
    out[step] = multiply_add(0.5f, w1, even);
    out[2 * step] = multiply_add(-0.5f, w1, even);
    out[3 * step] = w2;
  }
  static NS_HD void outputs(const VF* p, VF* out, int step) {
    const VF p1 = p[step], p2 = p[2 * step];
    out[0] = p[0] + (p1 + p2);
    out[step] = (p1 - p2) - p[3 * step];
  }
};

}  // namespace winograd
