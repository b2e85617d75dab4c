// Convolution 3x3 of stride 1 by Winograd's algorithm F(4x4, 3x3): a tile of 4x4 outputs takes 36 products for each
// pair of channels in the place of 144. Included inside an instruction set's namespace. Every result is summed over the
// input channels in their order, so that it depends on its tile and its panel alone, not on the width of the registers.
//
// The points are 0, +-2/3, +-3/2 and infinity: rounding errors are 2 to 5 times smaller than at the usual 0, +-1, +-2,
// choice of this package, by trying. Source: Lavin and Gray, CVPR 2016; transforms after Barabasz et al., ACM TOMS
// 2020.

constexpr int kRegisters = 2;                          // of one row of outputs, side by side
constexpr int kStrip = kRegisters * kWidth<float>;     // output channels of one product
constexpr int kRows = NS_VECTOR_BYTES == 64 ? 14 : 6;  // tiles of one product: 28 of 32 registers, or 12 of 16
static_assert(kWinogradPanel % kStrip == 0 && kWinogradChunk % kWidth<float> == 0, "");

namespace winograd {

constexpr float kA = 2.f / 3, kB = 3.f / 2, kA2 = 4.f / 9, kB2 = 9.f / 4;  // the points; kA * kB = 1

NS_HD VF multiply(float factor, VF x) { return broadcast(factor) * x; }
NS_HD VF multiply_add(float factor, VF x, VF y) { return fused_multiply_add(broadcast(factor), x, y); }

// Six images of a line, `step` registers apart, as six coefficients.
NS_HD void transform_images(const VF* d, VF* out, int step) {
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

// Three weights of a line as six coefficients.
NS_HD void transform_weights(VF w0, VF w1, VF w2, VF* out, int step) {
  constexpr float kScaleA = 1 / (2 * kA2 * (kA2 - kB2)), kScaleB = 1 / (2 * kB2 * (kB2 - kA2));
  const VF even_a = multiply(kScaleA, multiply_add(kA2, w2, w0));
  const VF even_b = multiply(kScaleB, multiply_add(kB2, w2, w0));
  out[0] = w0;
  out[step] = multiply_add(kA * kScaleA, w1, even_a);
  out[2 * step] = multiply_add(-kA * kScaleA, w1, even_a);
  out[3 * step] = multiply_add(kB * kScaleB, w1, even_b);
  out[4 * step] = multiply_add(-kB * kScaleB, w1, even_b);
  out[5 * step] = w2;
}

// Six coefficients of a line as four outputs.
NS_HD void transform_outputs(const VF* m, VF* out, int step) {
  const VF sum_a = m[step] + m[2 * step], change_a = m[step] - m[2 * step];
  const VF sum_b = m[3 * step] + m[4 * step], change_b = m[3 * step] - m[4 * step];
  out[0] = m[0] + sum_a + sum_b;
  out[step] = multiply_add(kA, change_a, multiply(kB, change_b));
  out[2 * step] = multiply_add(kA2, sum_a, multiply(kB2, sum_b));
  out[3 * step] = multiply_add(kA2 * kA, change_a, multiply_add(kB2 * kB, change_b, m[5 * step]));
}

// The first `count` elements of a register.
NS_HD VF load_some(const float* p, int64_t count) {
  if (count >= kWidth<float>) return load<VF>(p);
  VF x = {};
  __builtin_memcpy(&x, p, size_t(count) * sizeof(float));
  return x;
}
NS_HD void store_some(float* p, VF x, int64_t count) {
  if (count >= kWidth<float>)
    store(p, x);
  else
    __builtin_memcpy(p, &x, size_t(count) * sizeof(float));
}

// The position of a tile's first output.
struct Place {
  int64_t image, top, left;
  Place(const WinogradInput& in, int64_t tile)
      : image(tile / (in.tiles_down * in.tiles_across)),
        top(tile / in.tiles_across % in.tiles_down * 4),
        left(tile % in.tiles_across * 4) {}
  // The pixel `down` and `across` from there, or `otherwise` where the image has ended.
  template <typename P>
  P* pixel(const WinogradInput& in, P* first, int64_t channels, int down, int across, P* otherwise) const {
    const int64_t y = top + down, x = left + across;
    const bool inside = y >= 0 && y < in.height && x >= 0 && x < in.width;
    return inside ? first + ((image * in.height + y) * in.width + x) * channels : otherwise;
  }
};

NS_HD void read_channels(const float* const* from, int64_t c, int64_t count, int64_t plane, float* to) {
  VF d[36], rows[36];
#pragma GCC unroll 36
  for (int i = 0; i < 36; ++i) d[i] = load_some(from[i] + c, count);
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) transform_images(d + i, rows + i, 6);
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) {
    transform_images(rows + 6 * i, d + 6 * i, 1);
    for (int j = 6 * i; j < 6 * i + 6; ++j) store(to + j * plane, d[j]);
  }
}

// The tile's 6x6 images as coefficients of all channels: [chunk][36][tiles][kWinogradChunk], 36 of `plane` floats.
// `zeros` stand for what lies outside.
inline void read_tile(const WinogradInput& in, int64_t tile, int64_t slot, int64_t plane, const float* zeros,
                      float* coefficients) {
  const Place place(in, tile);
  const float* from[36];
  for (int i = 0; i < 36; ++i) from[i] = place.pixel(in, in.images, in.channels, i / 6 - 1, i % 6 - 1, zeros);
  for (int64_t c = 0; c < in.channels; c += kWidth<float>) {
    float* to = coefficients + c / kWinogradChunk * 36 * plane + slot * kWinogradChunk + c % kWinogradChunk;
    if (c + kWidth<float> <= in.channels)
      read_channels(from, c, kWidth<float>, plane, to);
    else
      read_channels(from, c, in.channels - c, plane, to);
  }
}

// The weights of up to kWinogradChunk input channels as coefficients [36][kWinogradChunk][kWinogradPanel].
inline void read_weights(const float* weight, int64_t channels, float* coefficients) {
  for (int64_t c = 0; c < channels; ++c)
    for (int k = 0; k < kWinogradPanel; k += kWidth<float>) {
      VF w[9], columns[18], out[36];
      for (int i = 0; i < 9; ++i) w[i] = load<VF>(weight + (c * 9 + i) * kWinogradPanel + k);
      for (int i = 0; i < 3; ++i) transform_weights(w[i], w[3 + i], w[6 + i], columns + i, 3);
      for (int i = 0; i < 6; ++i)
        transform_weights(columns[3 * i], columns[3 * i + 1], columns[3 * i + 2], out + 6 * i, 1);
      for (int i = 0; i < 36; ++i)
        store(coefficients + i * WinogradBlock::weight_plane() + c * kWinogradPanel + k, out[i]);
    }
}

// products [rows][panel] (+)= images [rows][chunk] times weights [chunk][panel], for one strip of the panel.
template <int rows>
void multiply_rows(const float* images, const float* weights, int64_t channels, bool first, float* products) {
  VF sums[rows][kRegisters];
#pragma GCC unroll 14
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < kRegisters; ++j)
      sums[r][j] = first ? VF{} : load<VF>(products + r * kWinogradPanel + j * kWidth<float>);
  for (int64_t c = 0; c < channels; ++c) {
    VF w[kRegisters];
    for (int j = 0; j < kRegisters; ++j) w[j] = load<VF>(weights + c * kWinogradPanel + j * kWidth<float>);
#pragma GCC unroll 14
    for (int r = 0; r < rows; ++r) {
      const VF x = broadcast(images[r * kWinogradChunk + c]);
      for (int j = 0; j < kRegisters; ++j) sums[r][j] = fused_multiply_add(x, w[j], sums[r][j]);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < kRegisters; ++j) store(products + r * kWinogradPanel + j * kWidth<float>, sums[r][j]);
}
using MultiplyRows = void (*)(const float*, const float*, int64_t, bool, float*);
template <int... rows>
constexpr MultiplyRows multiply_of(int count, std::integer_sequence<int, rows...>) {
  constexpr MultiplyRows table[] = {multiply_rows<rows + 1>...};
  return table[count - 1];
}

// All rows, in groups of nearly one size.
inline void multiply(const float* images, const float* weights, int64_t channels, int64_t tiles, bool first,
                     float* products) {
  const int64_t groups = (tiles + kRows - 1) / kRows;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * tiles / groups, end = (g + 1) * tiles / groups;
    const MultiplyRows rows = multiply_of(int(end - begin), std::make_integer_sequence<int, kRows>{});
    for (int strip = 0; strip < kWinogradPanel; strip += kStrip)
      rows(images + begin * kWinogradChunk, weights + strip, channels, first,
           products + begin * kWinogradPanel + strip);
  }
}

NS_HD void write_channels(const float* products, int64_t plane, const float* bias, int64_t count, int64_t k,
                          float* const* to) {
  VF m[36], rows[24];
#pragma GCC unroll 36
  for (int i = 0; i < 36; ++i) m[i] = load<VF>(products + i * plane);
#pragma GCC unroll 6
  for (int i = 0; i < 6; ++i) transform_outputs(m + i, rows + i, 6);
  const VF added = bias ? load_some(bias + k, count) : VF{};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    VF out[4];
    transform_outputs(rows + 6 * i, out, 1);
    for (int j = 0; j < 4; ++j) store_some(to[4 * i + j] + k, out[j] + added, count);
  }
}

// The outputs of one tile in one panel, from its products [36][plane]; `unused` takes those outside.
inline void write_tile(const WinogradInput& in, int64_t tile, int64_t plane, const float* products, int64_t panel,
                       float* unused) {
  const Place place(in, tile);
  const int64_t first = panel * kWinogradPanel, end = first + kWinogradPanel;
  float* to[16];
  for (int i = 0; i < 16; ++i) to[i] = place.pixel(in, in.out, in.out_channels, i / 4, i % 4, unused);
  for (int64_t k = first; k < end && k < in.out_channels; k += kWidth<float>) {
    if (k + kWidth<float> <= in.out_channels)
      write_channels(products + k - first, plane, in.bias, kWidth<float>, k, to);
    else
      write_channels(products + k - first, plane, in.bias, in.out_channels - k, k, to);
  }
}

}  // namespace winograd

inline void winograd_block(const WinogradInput& in, WinogradBlock block, float* scratch) {
  const int64_t chunks = (in.channels + kWinogradChunk - 1) / kWinogradChunk;
  float* images = scratch;
  float* weights = images + chunks * 36 * block.image_plane();
  float* products = weights + 36 * block.weight_plane();
  float* zeros = products + 36 * block.product_plane();
  float* unused = zeros + in.channels;
  __builtin_memset(zeros, 0, size_t(in.channels) * sizeof(float));
  if (chunks == 0) __builtin_memset(products, 0, size_t(36 * block.product_plane()) * sizeof(float));
  for (int64_t t = 0; t < block.tiles; ++t)
    winograd::read_tile(in, block.first_tile + t, t, block.image_plane(), zeros, images);
  for (int64_t panel = block.first_panel; panel < block.first_panel + block.panels; ++panel) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t c = chunk * kWinogradChunk, left = in.channels - c;
      const int64_t channels = left < kWinogradChunk ? left : kWinogradChunk;
      winograd::read_weights(in.weight + (panel * in.channels + c) * 9 * kWinogradPanel, channels, weights);
      for (int i = 0; i < 36; ++i)
        winograd::multiply(images + (chunk * 36 + i) * block.image_plane(), weights + i * block.weight_plane(),
                           channels, block.tiles, chunk == 0, products + i * block.product_plane());
    }
    for (int64_t t = 0; t < block.tiles; ++t)
      winograd::write_tile(in, block.first_tile + t, block.product_plane(), products + t * kWinogradPanel, panel,
                           unused);
  }
}
