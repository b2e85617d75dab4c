// Convolution 3x3 of stride 1 with padding 1 by Winograd's algorithm on the CPU, and the packing of its weights.
#include "winograd.h"

#include "support.h"

#include <torch/csrc/stable/library.h>

#include <memory>
#include <optional>

namespace neurosens {
namespace {

// Coefficients of the images of one block stay near the core; more tiles share the transform of the weights, of which
// fewer are worth a thread that had nothing to do.
constexpr int64_t kBlockFloats = int64_t(1) << 18;
constexpr int64_t kLeastTiles = 64, kLeastTilesOfThread = 32;

// [K, C, 3, 3] as [panel][C][9][kWinogradPanel], or with `transposed` as the weights of the gradient for the images:
// the channels exchanged, the taps turned round. Channels past the last are zero.
Tensor winograd_weight(const Tensor& weight, bool transposed) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(2) == 3 && weight.size(3) == 3, "weight must be [K, C, 3, 3]");
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float, "weight must be float32");
  const int64_t out = weight.size(transposed ? 1 : 0), in = weight.size(transposed ? 0 : 1);
  const int64_t out_stride = weight.stride(transposed ? 1 : 0), in_stride = weight.stride(transposed ? 0 : 1);
  const int64_t down = weight.stride(2), across = weight.stride(3);
  const int64_t panels = divide_up(out, kWinogradPanel);
  Tensor packed = new_tensor(weight, {panels, in, 9, kWinogradPanel});
  const float* from = static_cast<const float*>(weight.const_data_ptr());
  float* to = static_cast<float*>(packed.mutable_data_ptr());
  parallel_tasks(panels, packed.numel(), [&](int64_t panel) {
    const int64_t first = panel * kWinogradPanel, count = std::min<int64_t>(kWinogradPanel, out - first);
    for (int64_t c = 0; c < in; ++c)
      for (int64_t tap = 0; tap < 9; ++tap) {
        const int64_t at = transposed ? 8 - tap : tap;
        const float* source = from + first * out_stride + c * in_stride + at / 3 * down + at % 3 * across;
        float* line = to + ((panel * in + c) * 9 + tap) * kWinogradPanel;
        for (int64_t k = 0; k < count; ++k) line[k] = source[k * out_stride];
        std::fill(line + count, line + kWinogradPanel, 0.f);
      }
  });
  return packed;
}

// How tiles and panels are dealt to threads: no result depends on it.
struct Partition {
  int64_t blocks, groups;

  Partition(int64_t tiles, int64_t panels, int64_t floats_of_tile) {
    const int64_t threads = torch::stable::get_num_threads();
    const int64_t wanted = std::max(kLeastTiles, kBlockFloats / floats_of_tile);
    blocks = divide_up(tiles, wanted);
    if (blocks > threads) blocks = divide_up(blocks, threads) * threads;
    groups = std::min(panels, std::max<int64_t>(1, threads / blocks));  // not more tasks than threads
    if (blocks * groups < threads) blocks = std::clamp(tiles / kLeastTilesOfThread, blocks, threads / groups);
  }
};

template <typename T>
void convolve(WinogradInput<T> in, int64_t samples, int tile, const WinogradKernels<T>& kernels) {
  const auto kernel = tile == 2 ? kernels.tiles2 : kernels.tiles4;
  const int coefficients = (tile + 2) * (tile + 2);
  in.tiles_down = divide_up(in.height, tile), in.tiles_across = divide_up(in.width, tile);
  const int64_t tiles = samples * in.tiles_down * in.tiles_across, panels = divide_up(in.out_channels, kWinogradPanel);
  if (tiles == 0) return;
  const Partition parts(tiles, panels, coefficients * std::max<int64_t>(in.channels, 1));
  torch::stable::parallel_for(0, parts.blocks * parts.groups, 1, [&](int64_t begin, int64_t end) {
    WinogradBlock block = {};
    block.tiles = divide_up(tiles, parts.blocks);
    const int64_t floats = block.scratch(coefficients, in.channels, in.out_channels);
    const std::unique_ptr<float[]> memory(new float[size_t(floats + kWinogradLine)]);
    const auto address = reinterpret_cast<uintptr_t>(memory.get());
    float* scratch = memory.get() + (-address / sizeof(float)) % kWinogradLine;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / parts.groups, g = task % parts.groups;
      block.first_tile = b * tiles / parts.blocks;
      block.tiles = (b + 1) * tiles / parts.blocks - block.first_tile;
      block.first_panel = g * panels / parts.groups;
      block.panels = (g + 1) * panels / parts.groups - block.first_panel;
      kernel(in, block, scratch);
    }
  });
}

// `images` [N, C, H, W], result [N, K, H, W] of the same dtype in channels_last memory. No view, which what comes next
// could not overwrite where a gradient is wanted.
Tensor winograd_convolution(const Tensor& images, const Tensor& weight, std::optional<Tensor> bias, int64_t channels,
                            int64_t tile) {
  const bool lowered = images.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(images.dim() == 4 && (lowered || images.scalar_type() == ScalarType::Float),
                  "images must be float32 or bfloat16 [N, C, H, W]");
  STD_TORCH_CHECK(tile == 2 || tile == 4, "tile must be 2 or 4, got ", tile);
  const int64_t panels = divide_up(channels, kWinogradPanel);
  STD_TORCH_CHECK(
      channels >= 1 && weight.dim() == 4 && weight.size(0) == panels && weight.size(1) == images.size(1) &&
          weight.size(2) == 9 && weight.size(3) == kWinogradPanel && weight.scalar_type() == ScalarType::Float,
      "weight must come from winograd_weight, for ", images.size(1), " input and ", channels, " output channels");
  STD_TORCH_CHECK(!bias || (bias->dim() == 1 && bias->size(0) == channels && bias->scalar_type() == ScalarType::Float),
                  "bias must be float32 [", channels, "]");
  const Tensor dense = as_contiguous(torch::stable::permute(images, {0, 2, 3, 1}));
  const Tensor packed = as_contiguous(weight);
  if (bias) bias = as_contiguous(*bias);
  Tensor out =
      torch::stable::empty({dense.size(0), channels, dense.size(1), dense.size(2)}, images.scalar_type(), std::nullopt,
                           images.device(), std::nullopt, torch::headeronly::MemoryFormat::ChannelsLast);
  const auto run = [&](auto* type, const auto& of_isa) {
    using T = std::remove_pointer_t<decltype(type)>;
    WinogradInput<T> in = {};
    in.images = static_cast<const T*>(dense.const_data_ptr());
    in.weight = static_cast<const float*>(packed.const_data_ptr());
    in.bias = bias ? static_cast<const float*>(bias->const_data_ptr()) : nullptr;
    in.out = static_cast<T*>(out.mutable_data_ptr());
    in.height = dense.size(1), in.width = dense.size(2), in.channels = dense.size(3), in.out_channels = channels;
    convolve(in, dense.size(0), int(tile), of_isa);
  };
  if (lowered)
    run(static_cast<BFloat16*>(nullptr), kernels().winograd_bf16);
  else
    run(static_cast<float*>(nullptr), kernels().winograd_f32);
  return out;
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) {
  m.impl("winograd_weight", TORCH_BOX(&neurosens::winograd_weight));
  m.impl("winograd_convolution", TORCH_BOX(&neurosens::winograd_convolution));
}
