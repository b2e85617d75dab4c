// Convolution 3x3 of stride 1 by Winograd's algorithm: a tile of m x m outputs takes (m + 2)^2 products for each pair
// of channels in the place of 9 m^2: a quarter for m = 4, 4 / 9 for m = 2. Included inside an instruction set's
// namespace. Every result is summed over the input channels in their order, so that it depends on its tile and its
// panel alone, not on the width of the registers.

constexpr int kRegisters = 2;                          // of one row of outputs, side by side
constexpr int kStrip = kRegisters * kWidth<float>;     // output channels of one product
constexpr int kRows = NS_VECTOR_BYTES == 64 ? 14 : 6;  // tiles of one product: 28 of 32 registers, or 12 of 16
static_assert(kWinogradPanel % kStrip == 0 && kWinogradChunk % kWidth<float> == 0, "");

namespace winograd {

// The first `count` elements of a register, in any dtype.
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
typedef uint16_t Bits __attribute__((vector_size(kVectorBytes / 2)));
NS_HD VF load_some(const BFloat16* p, int64_t count) {
  Bits bits = {};
  __builtin_memcpy(&bits, p, count >= kWidth<float> ? sizeof bits : size_t(count) * sizeof(BFloat16));
  return {(F32)(__builtin_convertvector(bits, I32) << 16)};
}
// To the nearest even, as from_float<BFloat16> does.
NS_HD void store_some(BFloat16* p, VF x, int64_t count) {
  typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
  const Words words = (Words)x.v;
  const Words rounded = (words + 0x7fffu + ((words >> 16) & 1u)) >> 16;
  const Bits bits = __builtin_convertvector(choose(rounded, (words >> 16) | 0x40u, (Words)(x.v == x.v)), Bits);
  __builtin_memcpy(p, &bits, count >= kWidth<float> ? sizeof bits : size_t(count) * sizeof(BFloat16));
}

// The position of a tile's first output.
template <int m, typename T>
struct Place {
  const WinogradInput<T>& in;
  int64_t image, top, left;
  Place(const WinogradInput<T>& input, int64_t tile)
      : in(input),
        image(tile / (in.tiles_down * in.tiles_across)),
        top(tile / in.tiles_across % in.tiles_down * m),
        left(tile % in.tiles_across * m) {}
  // The pixel `down` and `across` from there, or `otherwise` where the image has ended.
  template <typename P>
  P* pixel(P* first, int64_t channels, int down, int across, P* otherwise) const {
    const int64_t y = top + down, x = left + across;
    const bool inside = y >= 0 && y < in.height && x >= 0 && x < in.width;
    return inside ? first + ((image * in.height + y) * in.width + x) * channels : otherwise;
  }
};

template <int m, typename T>
NS_HD void read_channels(const T* const* from, int64_t c, int64_t count, int64_t plane, float* to) {
  constexpr int kSide = m + 2;
  VF d[kSide * kSide], rows[kSide * kSide];
#pragma GCC unroll 36
  for (int i = 0; i < kSide * kSide; ++i) d[i] = load_some(from[i] + c, count);
#pragma GCC unroll 6
  for (int i = 0; i < kSide; ++i) Line<m>::images(d + i, rows + i, kSide);
#pragma GCC unroll 6
  for (int i = 0; i < kSide; ++i) {
    Line<m>::images(rows + kSide * i, d + kSide * i, 1);
    for (int j = kSide * i; j < kSide * (i + 1); ++j) store(to + j * plane, d[j]);
  }
}

// A tile's pixels as coefficients of all channels: [chunk][coefficient][tiles][kWinogradChunk], `plane` floats from one
// coefficient to the next. `zeros` stand for what lies outside.
template <int m, typename T>
void read_tile(const WinogradInput<T>& in, int64_t tile, int64_t slot, int64_t plane, const T* zeros,
               float* coefficients) {
  constexpr int kSide = m + 2;
  const Place<m, T> place(in, tile);
  const T* from[kSide * kSide];
  for (int i = 0; i < kSide * kSide; ++i)
    from[i] = place.pixel(in.images, in.channels, i / kSide - 1, i % kSide - 1, zeros);
  for (int64_t c = 0; c < in.channels; c += kWidth<float>) {
    float* to = coefficients + c / kWinogradChunk * kSide * kSide * plane + slot * kWinogradChunk + c % kWinogradChunk;
    if (c + kWidth<float> <= in.channels)
      read_channels<m>(from, c, kWidth<float>, plane, to);
    else
      read_channels<m>(from, c, in.channels - c, plane, to);
  }
}

// The weights of up to kWinogradChunk input channels as coefficients [coefficient][kWinogradChunk][kWinogradPanel].
template <int m>
void read_weights(const float* weight, int64_t channels, float* coefficients) {
  constexpr int kSide = m + 2;
  for (int64_t c = 0; c < channels; ++c)
    for (int k = 0; k < kWinogradPanel; k += kWidth<float>) {
      VF w[9], columns[3 * kSide], out[kSide * kSide];
      for (int i = 0; i < 9; ++i) w[i] = load<VF>(weight + (c * 9 + i) * kWinogradPanel + k);
      for (int i = 0; i < 3; ++i) Line<m>::weights(w[i], w[3 + i], w[6 + i], columns + i, 3);
      for (int i = 0; i < kSide; ++i)
        Line<m>::weights(columns[3 * i], columns[3 * i + 1], columns[3 * i + 2], out + kSide * i, 1);
      for (int i = 0; i < kSide * kSide; ++i)
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

template <int m, typename T>
NS_HD void write_channels(const float* products, int64_t plane, const float* bias, int64_t count, int64_t k,
                          T* const* to) {
  constexpr int kSide = m + 2;
  VF p[kSide * kSide], rows[m * kSide];
#pragma GCC unroll 36
  for (int i = 0; i < kSide * kSide; ++i) p[i] = load<VF>(products + i * plane);
#pragma GCC unroll 6
  for (int i = 0; i < kSide; ++i) Line<m>::outputs(p + i, rows + i, kSide);
  const VF added = bias ? load_some(bias + k, count) : VF{};
#pragma GCC unroll 4
  for (int i = 0; i < m; ++i) {
    VF out[m];
    Line<m>::outputs(rows + kSide * i, out, 1);
    for (int j = 0; j < m; ++j) store_some(to[m * i + j] + k, out[j] + added, count);
  }
}

// The outputs of one tile in one panel, from its products [coefficient][plane]; `unused` takes those outside.
template <int m, typename T>
void write_tile(const WinogradInput<T>& in, int64_t tile, int64_t plane, const float* products, int64_t panel,
                T* unused) {
  const Place<m, T> place(in, tile);
  const int64_t first = panel * kWinogradPanel, end = first + kWinogradPanel;
  T* to[m * m];
  for (int i = 0; i < m * m; ++i) to[i] = place.pixel(in.out, in.out_channels, i / m, i % m, unused);
  for (int64_t k = first; k < end && k < in.out_channels; k += kWidth<float>) {
    if (k + kWidth<float> <= in.out_channels)
      write_channels<m>(products + k - first, plane, in.bias, kWidth<float>, k, to);
    else
      write_channels<m>(products + k - first, plane, in.bias, in.out_channels - k, k, to);
  }
}

}  // namespace winograd

template <int m, typename T>
void winograd_block(const WinogradInput<T>& in, WinogradBlock block, float* scratch) {
  constexpr int kCoefficients = (m + 2) * (m + 2);
  const int64_t chunks = (in.channels + kWinogradChunk - 1) / kWinogradChunk;
  float* images = scratch;
  float* weights = images + chunks * kCoefficients * block.image_plane();
  float* products = weights + kCoefficients * block.weight_plane();
  T* zeros = reinterpret_cast<T*>(products + kCoefficients * block.product_plane());
  T* unused = zeros + in.channels;
  __builtin_memset(zeros, 0, size_t(in.channels) * sizeof(T));
  if (chunks == 0) __builtin_memset(products, 0, size_t(kCoefficients * block.product_plane()) * sizeof(float));
  for (int64_t t = 0; t < block.tiles; ++t)
    winograd::read_tile<m>(in, block.first_tile + t, t, block.image_plane(), zeros, images);
  for (int64_t panel = block.first_panel; panel < block.first_panel + block.panels; ++panel) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t c = chunk * kWinogradChunk, left = in.channels - c;
      const int64_t channels = left < kWinogradChunk ? left : kWinogradChunk;
      winograd::read_weights<m>(in.weight + (panel * in.channels + c) * 9 * kWinogradPanel, channels, weights);
      for (int i = 0; i < kCoefficients; ++i)
        winograd::multiply(images + (chunk * kCoefficients + i) * block.image_plane(),
                           weights + i * block.weight_plane(), channels, block.tiles, chunk == 0,
                           products + i * block.product_plane());
    }
    for (int64_t t = 0; t < block.tiles; ++t)
      winograd::write_tile<m>(in, block.first_tile + t, block.product_plane(), products + t * kWinogradPanel, panel,
                              unused);
  }
}
