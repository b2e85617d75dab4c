// What a block of a Winograd convolution is given; see winograd_kernel.h.
#pragma once

#include <cstdint>

namespace neurosens {

constexpr int kWinogradPanel = 32;  // output channels whose weights lie side by side
constexpr int kWinogradChunk = 64;  // input channels whose coefficients are multiplied at a time
constexpr int kWinogradLine = 16;   // floats of a cache line

// Images [N, height, width, channels] and outputs [N, height, width, out_channels]; `weight` is packed
// [panel][channels][9][kWinogradPanel]; `bias` may be null.
template <typename T>
struct WinogradInput {
  const T* images;
  const float *weight, *bias;
  T* out;
  int64_t height, width, channels, out_channels;
  int64_t tiles_down, tiles_across;  // of m x m outputs, per image
};

struct WinogradBlock {
  int64_t first_tile, tiles, first_panel, panels;

  // Floats from one coefficient to the next. An odd number of cache lines: all coefficients are read or written at
  // once, and would otherwise fall into a few sets of the cache.
  int64_t image_plane() const { return tiles * kWinogradChunk + kWinogradLine; }
  int64_t product_plane() const { return tiles * kWinogradPanel + kWinogradLine; }
  static constexpr int64_t weight_plane() { return kWinogradChunk * kWinogradPanel + kWinogradLine; }

  // Floats that a block works on: coefficients of the images, of the weights of a chunk, products, and a pixel each of
  // what lies outside of an image.
  int64_t scratch(int coefficients, int64_t channels, int64_t out_channels) const {
    const int64_t chunks = (channels + kWinogradChunk - 1) / kWinogradChunk;
    return coefficients * (chunks * image_plane() + weight_plane() + product_plane()) + channels + out_channels;
  }
};

template <typename T>
struct WinogradKernels {
  // Convolves the tiles of a block, of m x m outputs each, with the weights of its panels.
  using Block = void (*)(const WinogradInput<T>& in, WinogradBlock block, float* scratch);
  Block tiles2, tiles4;
};

}  // namespace neurosens
