// Mean distances of every neuron and their gradients on the CPU.
#include "distances.h"

#include "large_memory.h"

#include <memory>

namespace neurosens {
namespace {

// Mean over the samples of rows [N, C], added in double in the order of the samples.
template <typename A>
void mean_of_rows(const A* rows, const Layout& shape, A* mean) {
  parallel_tasks(divide_up(shape.channels, kTile), shape.samples * shape.channels, [&](int64_t t) {
    const int64_t first = t * kTile, count = std::min<int64_t>(kTile, shape.channels - first);
    double sum[kTile] = {};
    for (int64_t n = 0; n < shape.samples; ++n)
      for (int64_t c = 0; c < count; ++c) sum[c] += double(rows[n * shape.channels + first + c]);
    for (int64_t c = 0; c < count; ++c) mean[first + c] = A(sum[c] / double(shape.samples));
  });
}

// The means of rows of one element: channels side by side, samples in their order as in mean_of_rows.
template <typename T>
void write_unit_means(const Tiles<T>& tiles, const Layout& shape, Distance distance, Means& means) {
  using A = accumulate_t<T>;
  A* sensitivity = static_cast<A*>(means.sensitivity.mutable_data_ptr());
  A* mean = static_cast<A*>(means.distances.mutable_data_ptr());
  const bool same = distance == Distance::kL1;
  const int64_t range = std::clamp<int64_t>(divide_up(divide_up(shape.channels, 8), kTile) * kTile, kTile, kRange);
  parallel_tasks(divide_up(shape.channels, range), shape.samples * shape.channels, [&](int64_t task) {
    const int64_t first = task * range, count = std::min(range, shape.channels - first);
    double sum_l1[kRange] = {}, sum[kRange] = {};
    for (int64_t n = 0; n < shape.samples; ++n) {
      const TileInput<T> in = tiles.input(n, first, range);
      tiles.kernels_of().write_relu(in, 0, 0, count);
      const TileInput<T> read = in.after_relu();
      tiles.kernels_of().add_unit_distances(distance, read.z, read.z_adv, count, sum_l1, same ? nullptr : sum);
    }
    for (int64_t c = 0; c < count; ++c) {
      sensitivity[first + c] = A(sum_l1[c] / double(shape.samples));
      mean[first + c] = A((same ? sum_l1 : sum)[c] / double(shape.samples));
    }
  });
}

template <typename T>
void write_means(const Pair& pair, Distance distance, Pair* relu, Means& means) {
  using A = accumulate_t<T>;
  const Layout& shape = pair.layout;
  const Tiles<T> tiles(pair, relu);
  if (shape.positions == 1 && !pair.rows()) return write_unit_means(tiles, shape, distance, means);
  const bool same = distance == Distance::kL1;
  const std::unique_ptr<A[]> rows(new A[(same ? 1 : 2) * shape.samples * shape.channels]);
  A *sensitivities = rows.get(), *distances = same ? nullptr : sensitivities + shape.samples * shape.channels;
  const int64_t per_sample = divide_up(shape.channels, tiles.range());
  parallel_tasks(shape.samples * per_sample, pair.benign.numel(), [&](int64_t task) {
    const int64_t n = task / per_sample;
    tiles.statistics(n, task % per_sample * tiles.range(), reading_of(distance),
                     [&](int64_t first, const Tile<A>& tile, int channels) {
                       for (int c = 0; c < channels; ++c) {
                         const int64_t at = n * shape.channels + first + c;
                         sensitivities[at] = row_distance(Distance::kL1, &tile.row[0][c], A(shape.positions), kTile);
                         if (!same) distances[at] = row_distance(distance, &tile.row[0][c], A(shape.positions), kTile);
                       }
                     });
  });
  A* sensitivity = static_cast<A*>(means.sensitivity.mutable_data_ptr());
  A* mean = static_cast<A*>(means.distances.mutable_data_ptr());
  mean_of_rows(sensitivities, shape, sensitivity);
  if (same)
    std::copy_n(sensitivity, shape.channels, mean);
  else
    mean_of_rows(distances, shape, mean);
}

// One tensor of the gradient with its channel at dimension 1; rows or columns, with strides of its own.
template <typename T>
class Plane {
 public:
  Plane(const std::optional<Tensor>& x, bool rows)
      : data_(x ? static_cast<T*>(const_cast<void*>(x->const_data_ptr())) : nullptr), rows_(rows) {
    if (x) describe(*x, 1, layout_);
  }
  // The first element of a range, and of its row or position i; null without a tensor.
  T* at(int64_t n, int64_t c, int64_t i) const {
    const int64_t step = rows_ ? layout_.channel_stride : layout_.position_stride;
    return data_ ? data_ + n * layout_.sample_stride + c * layout_.channel_stride + i * step : nullptr;
  }

 private:
  T* data_;
  bool rows_;
  Layout layout_ = {};
};

template <typename T>
class GradientWriter {
  using A = accumulate_t<T>;

 public:
  GradientWriter(const A* weights, const Pair& pair, const GradientTarget& benign, const GradientTarget& adversarial,
                 Distance distance)
      : weights_(weights),
        shape_(pair.layout),
        rows_(pair.rows()),
        distance_(distance),
        detached_(benign.detached),
        detached_adv_(adversarial.detached),
        done_(benign.zero && !benign.base),
        done_adv_(adversarial.zero && !adversarial.base),
        tiles_(pair),
        kernels_(kernels_for<T>(kernels())),
        z_(pair.benign, rows_),
        z_adv_(pair.adversarial, rows_),
        base_(benign.base, rows_),
        base_adv_(adversarial.base, rows_),
        grad_(benign.grad, rows_),
        grad_adv_(adversarial.grad, rows_) {}

  void write() const {
    const int64_t ranges = divide_up(shape_.channels, tiles_.range());
    const int64_t group = rows_ ? 1 : divide_up(kPositions, std::max<int64_t>(1, shape_.positions));
    const int64_t groups = divide_up(shape_.samples, group);
    parallel_tasks(groups * ranges, shape_.samples * shape_.channels * shape_.positions, [&](int64_t task) {
      const int64_t begin = task / ranges * group, first = task % ranges * tiles_.range();
      const int64_t count = std::min(tiles_.range(), shape_.channels - first);
      if (rows_)
        for (int64_t c = first; c < first + count; ++c) write_row(begin, c);
      else
        write_columns(begin, std::min(begin + group, shape_.samples), first, count);
    });
  }

 private:
  // Of columns one task writes, so that what is the same for all samples is found once for many positions.
  static constexpr int64_t kPositions = 32;

  bool chosen(int64_t c) const { return weights_[c] != 0; }  // NaN is

  A scale_of(int64_t c) const { return weights_[c] / A(shape_.samples); }

  // Coefficients of a row with those statistics, which norms that need none do not read.
  RowGradient<A> weighted(int64_t c, const A* row, int64_t stride) const {
    const RowGradient<A> g = row_gradient(distance_, row, A(shape_.positions), stride);
    const A scale = scale_of(c);
    return {g.change * scale, g.benign * scale, g.adversarial * scale};
  }
  bool needs_statistics() const { return distance_ == Distance::kL2 || distance_ == Distance::kCosine; }

  // Row or position i of the range at channel c, of `count` elements; a half to which the distance adds nothing is
  // left out and gets its base alone.
  GradientRun<T> run(int64_t n, int64_t c, int64_t i, int64_t count) const {
    return {z_.at(n, c, i),
            z_adv_.at(n, c, i),
            count,
            base_.at(n, c, i),
            base_adv_.at(n, c, i),
            detached_ ? nullptr : grad_.at(n, c, i),
            detached_adv_ ? nullptr : grad_adv_.at(n, c, i)};
  }
  void write_base(int64_t n, int64_t c, int64_t i, int64_t count, bool all) const {
    if (T* grad = grad_.at(n, c, i); grad && !done_ && (all || detached_))
      kernels_.base_gradient(z_.at(n, c, i), base_.at(n, c, i), count, grad);
    if (T* grad = grad_adv_.at(n, c, i); grad && !done_adv_ && (all || detached_adv_))
      kernels_.base_gradient(z_adv_.at(n, c, i), base_adv_.at(n, c, i), count, grad);
  }

  void write_row(int64_t n, int64_t c) const {
    const bool all = !chosen(c);
    write_base(n, c, 0, shape_.positions, all);
    if (all) return;
    RowGradient<A> g;
    const auto coefficients = [&](int64_t, const Tile<A>& tile, int) { g = weighted(c, &tile.row[0][0], kTile); };
    if (needs_statistics())  // the row stays in the cache for the second read
      tiles_.statistics(n, c, kMoments, coefficients, 1);
    else
      g = weighted(c, nullptr, 0);
    kernels_.row_gradient(distance_ == Distance::kL1, g, run(n, c, 0, shape_.positions));
  }

  void write_columns(int64_t begin, int64_t end, int64_t first, int64_t count) const {
    bool any = false;
    for (int64_t c = first; c < first + count; ++c) any = any || chosen(c);
    ChannelGradients<A> g;
    A scale[kRange];
    for (int64_t c = 0; c < count && any; ++c) g.chosen[c] = chosen(first + c) ? -1 : 0, scale[c] = scale_of(first + c);
    const auto set = [&](int64_t at, const RowGradient<A>& row) {
      g.change[at] = row.change, g.benign[at] = row.benign, g.adversarial[at] = row.adversarial;
    };
    const auto coefficients = [&](int64_t channel, const Tile<A>& tile, int channels) {
      for (int c = 0; c < channels; ++c) {
        set(channel - first + c, weighted(channel + c, &tile.row[0][c], kTile));
      }
    };
    if (any && !needs_statistics())
      for (int64_t c = 0; c < count; ++c) set(c, weighted(first + c, nullptr, 0));
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t s = 0; s < shape_.positions; ++s) write_base(n, first, s, count, !any);
      if (!any) continue;
      if (needs_statistics() && shape_.positions == 1)
        kernels_.unit_gradients(distance_, z_.at(n, first, 0), z_adv_.at(n, first, 0), count, scale, g);
      else if (needs_statistics())
        tiles_.statistics(n, first, kMoments, coefficients);
      for (int64_t s = 0; s < shape_.positions; ++s)
        kernels_.column_gradient(distance_ == Distance::kL1, g, run(n, first, s, count));
    }
  }

  const A* weights_;
  Layout shape_;
  bool rows_;
  Distance distance_;
  bool detached_, detached_adv_;
  bool done_, done_adv_;  // what a gradient is before the distance adds to it is there
  Tiles<T> tiles_;
  const PairKernels<T>& kernels_;
  Plane<T> z_, z_adv_, base_, base_adv_, grad_, grad_adv_;
};

}  // namespace

Means mean_distances(const Pair& pair, Distance distance, Pair* relu) {
  const std::vector<int64_t> size = {pair.layout.channels};
  const auto empty = [&] { return new_tensor(pair.benign, size, accumulate_type(pair.benign)); };
  Means means = {empty(), empty()};
  with_element_type(pair.benign, "benign", [&](auto* type) {
    write_means<std::remove_pointer_t<decltype(type)>>(pair, distance, relu, means);
  });
  return means;
}

void write_gradients(const Tensor& grad, const Tensor& benign, const Tensor& adversarial, GradientTarget to_benign,
                     GradientTarget to_adversarial, Distance distance, int64_t channel_dim) {
  if (!to_benign.grad && !to_adversarial.grad) return;
  Tensor z = channel_second(benign, channel_dim), z_adv = channel_second(adversarial, channel_dim);
  std::vector<Tensor> all = {z, z_adv};
  for (auto* x : {&to_benign.grad, &to_benign.base, &to_adversarial.grad, &to_adversarial.base}) {
    if (!*x) continue;
    *x = channel_second(**x, channel_dim);
    all.push_back(**x);
  }
  // Written in place where everything is rows or everything is columns, else through contiguous copies.
  bool all_rows = true, all_columns = true;
  for (const Tensor& x : all) {
    Layout layout;
    const bool known = describe(x, 1, layout);
    all_rows = all_rows && known && layout.rows();
    all_columns = all_columns && known && layout.columns();
  }
  const bool direct = all_rows || all_columns;
  GradientTarget out = to_benign, out_adv = to_adversarial;
  if (!direct) {
    z = as_contiguous(z), z_adv = as_contiguous(z_adv);
    for (GradientTarget* to : {&out, &out_adv}) {
      if (to->grad) to->grad = new_like(z), to->zero = false;
      if (to->base) to->base = as_contiguous(*to->base);
    }
  }
  Pair pair(z, z_adv, 1);
  if (direct) pair.by_rows = all_rows;
  check_weights(grad, pair.layout.channels, benign);
  const Tensor weights = as_contiguous(grad);
  with_element_type(benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    GradientWriter<T>(static_cast<const accumulate_t<T>*>(weights.const_data_ptr()), pair, out, out_adv, distance)
        .write();
  });
  if (direct) return;
  if (out.grad) torch::stable::copy_(*to_benign.grad, *out.grad);
  if (out_adv.grad) torch::stable::copy_(*to_adversarial.grad, *out_adv.grad);
}

std::tuple<Tensor, Tensor> new_gradients(const Tensor& grad, const Tensor& benign, const Tensor& adversarial,
                                         Distance distance, int64_t channel_dim, bool needs_benign,
                                         bool needs_adversarial) {
  const auto target = [](const Tensor& x, bool needed) {
    if (!needed) return GradientTarget{};
    const LargeTensor out = large_empty_like(x);
    return GradientTarget{out.tensor, std::nullopt, false, out.zero};
  };
  const GradientTarget to = target(benign, needs_benign), to_adv = target(adversarial, needs_adversarial);
  write_gradients(grad, benign, adversarial, to, to_adv, distance, channel_dim);
  const auto nothing = [&] { return new_tensor(benign, {0}); };
  return {to.grad ? *to.grad : nothing(), to_adv.grad ? *to_adv.grad : nothing()};
}

}  // namespace neurosens
