// neuron_sensitivity and its gradient on the CPU.
#include "support.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>
#include <tuple>

namespace neurosens {
namespace {

Tensor neuron_sensitivity(const Tensor& benign, const Tensor& adversarial, std::string norm, int64_t channel_dim) {
  const Pair pair(benign, adversarial, channel_dim);
  const Layout& shape = pair.layout;
  const Distance distance = distance_named(norm);
  Tensor out = torch::stable::new_empty(benign, std::vector<int64_t>{shape.channels}, accumulate_type(benign));
  with_element_type(benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using A = accumulate_t<T>;
    const Tiles<T> tiles(pair);
    const std::unique_ptr<A[]> rows(new A[shape.samples * shape.channels]);
    const int64_t per_sample = divide_up(shape.channels, tiles.range());
    parallel_tasks(shape.samples * per_sample, benign.numel(), [&](int64_t task) {
      const int64_t n = task / per_sample;
      tiles.statistics(n, task % per_sample * tiles.range(), [&](int64_t first, const Tile<A>& tile, int channels) {
        for (int c = 0; c < channels; ++c)
          rows[n * shape.channels + first + c] = row_distance(distance, &tile.row[0][c], A(shape.positions), kTile);
      });
    });
    A* sensitivity = static_cast<A*>(out.mutable_data_ptr());
    parallel_tasks(divide_up(shape.channels, kTile), shape.samples * shape.channels, [&](int64_t t) {
      const int64_t first = t * kTile, count = std::min<int64_t>(kTile, shape.channels - first);
      double sum[kTile] = {};
      for (int64_t n = 0; n < shape.samples; ++n)
        for (int64_t c = 0; c < count; ++c) sum[c] += double(rows[n * shape.channels + first + c]);
      for (int64_t c = 0; c < count; ++c) sensitivity[first + c] = A(sum[c] / double(shape.samples));
    });
  });
  return out;
}

template <typename T>
void write_gradients(const Pair& pair, const Pair& target, Distance distance, const accumulate_t<T>* grad) {
  using A = accumulate_t<T>;
  const Tiles<T> tiles(pair), targets(target);
  const Layout& shape = pair.layout;
  const int64_t per_sample = divide_up(shape.channels, tiles.range());
  const bool signed_change = distance == Distance::kL1;
  const bool needs_statistics = distance == Distance::kL2 || distance == Distance::kCosine;
  parallel_tasks(shape.samples * per_sample, pair.benign.numel(), [&](int64_t task) {
    const int64_t n = task / per_sample, first = task % per_sample * tiles.range();
    const TileInput<T> in = tiles.input(n, first), to = targets.input(n, first);
    T *to_z = const_cast<T*>(to.z), *to_adv = const_cast<T*>(to.z_adv);
    RowGradient<A> g[kRange];
    const auto coefficients = [&](int64_t channel, const Tile<A>& tile, int channels) {
      for (int c = 0; c < channels; ++c) {
        const A scale = grad[channel + c] / A(shape.samples);
        const RowGradient<A> row = row_gradient(distance, &tile.row[0][c], A(shape.positions), kTile);
        g[channel - first + c] = {row.change * scale, row.benign * scale, row.adversarial * scale};
      }
    };
    if (needs_statistics)  // the data stays in the cache for the second read
      tiles.statistics(n, first, coefficients);
    else
      for (int c = 0; c < in.channels; c += kTile) coefficients(first + c, Tile<A>{}, std::min(in.channels - c, kTile));
    const auto& kernels = tiles.kernels_of();
    if (pair.rows()) {
      for (int c = 0; c < in.channels; ++c)
        kernels.row_gradient(signed_change, g[c], in.z + c * in.stride, in.z_adv + c * in.stride_adv, shape.positions,
                             to_z + c * to.stride, to_adv + c * to.stride_adv);
    } else {
      for (int64_t s = 0; s < shape.positions; ++s)
        kernels.column_gradient(signed_change, g, in.z + s * in.stride, in.z_adv + s * in.stride_adv, in.channels,
                                to_z + s * to.stride, to_adv + s * to.stride_adv);
    }
  });
}

std::tuple<Tensor, Tensor> neuron_sensitivity_backward(const Tensor& grad, const Tensor& benign,
                                                       const Tensor& adversarial, std::string norm, int64_t channel_dim,
                                                       bool needs_benign, bool needs_adversarial) {
  Tensor z = channel_second(benign, channel_dim), z_adv = channel_second(adversarial, channel_dim);
  Tensor grad_benign = torch::stable::empty_like(benign), grad_adversarial = torch::stable::empty_like(adversarial);
  Tensor out = channel_second(grad_benign, channel_dim), out_adv = channel_second(grad_adversarial, channel_dim);
  // Written in place where inputs and gradients are all rows or all columns, else through contiguous copies.
  bool all_rows = true, all_columns = true;
  for (const Tensor& x : {z, z_adv, out, out_adv}) {
    Layout layout;
    const bool known = describe(x, 1, layout);
    all_rows = all_rows && known && layout.rows();
    all_columns = all_columns && known && layout.columns();
  }
  const bool direct = all_rows || all_columns;
  if (!direct) {
    z = torch::stable::contiguous(z), z_adv = torch::stable::contiguous(z_adv);
    out = torch::stable::empty_like(z), out_adv = torch::stable::empty_like(z_adv);
  }
  Pair pair(z, z_adv, 1), target(out, out_adv, 1);
  if (direct) pair.by_rows = target.by_rows = all_rows;
  const Distance distance = distance_named(norm);
  check_weights(grad, pair.layout.channels, benign);
  const Tensor weights = torch::stable::contiguous(grad);
  with_element_type(benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    write_gradients<T>(pair, target, distance, static_cast<const accumulate_t<T>*>(weights.const_data_ptr()));
  });
  if (!direct) {
    Tensor view = channel_second(grad_benign, channel_dim), view_adv = channel_second(grad_adversarial, channel_dim);
    torch::stable::copy_(view, out);
    torch::stable::copy_(view_adv, out_adv);
  }
  const auto needed = [&](const Tensor& x, bool needs) {
    return needs ? x : torch::stable::new_empty(x, std::vector<int64_t>{0});
  };
  return {needed(grad_benign, needs_benign), needed(grad_adversarial, needs_adversarial)};
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) {
  m.impl("neuron_sensitivity", TORCH_BOX(&neurosens::neuron_sensitivity));
  m.impl("neuron_sensitivity_backward", TORCH_BOX(&neurosens::neuron_sensitivity_backward));
}
