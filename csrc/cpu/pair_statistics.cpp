// pair_statistics, accumulate_pair_statistics_ and the latter after a ReLU in the same pass, on the CPU: one read of
// the pair.
#include "joined.h"
#include "support.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <memory>

namespace neurosens {
namespace {

Tensor pair_statistics(const Tensor& benign, const Tensor& adversarial, int64_t channel_dim) {
  const Pair pair(benign, adversarial, channel_dim);
  const Layout& shape = pair.layout;
  Tensor out = new_tensor(benign, {shape.samples, shape.channels, kRowCount}, accumulate_type(benign));
  with_element_type(benign, "benign", [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    using A = accumulate_t<T>;
    const Tiles<T> tiles(pair);
    A* rows = static_cast<A*>(out.mutable_data_ptr());
    const int64_t per_sample = divide_up(shape.channels, tiles.range());
    parallel_tasks(shape.samples * per_sample, benign.numel(), [&](int64_t task) {
      const int64_t n = task / per_sample;
      tiles.statistics(n, task % per_sample * tiles.range(), kEverything,
                       [&](int64_t first, const Tile<A>& tile, int channels) {
                         A* row = rows + (n * shape.channels + first) * kRowCount;
                         for (int c = 0; c < channels; ++c)
                           for (int k = 0; k < kRowCount; ++k) row[c * kRowCount + k] = tile.row[k][c];
                       });
    });
  });
  return out;
}

// How accumulation is cut: samples into groups, channels into ranges. Depends on the shape only, so that
// the order of additions never depends on the number of threads.
struct Partition {
  static constexpr int64_t kTasks = 64;    // enough for the threads of a large machine
  static constexpr int64_t kFewTasks = 8;  // fewer leave threads of a small one without work
  int64_t groups, group, ranges, range;

  Partition(const Layout& s, int64_t channels_per_task) {
    range = channels_per_task;
    ranges = divide_up(s.channels, range);
    // The groups' totals, 17 doubles per channel, must stay small beside the data.
    const int64_t affordable = s.samples * s.positions / 256;
    groups = std::clamp<int64_t>(std::min(kTasks / std::max<int64_t>(ranges, 1), affordable), 1, s.samples);
    group = divide_up(s.samples, groups);
    groups = divide_up(s.samples, group);
    while (groups * ranges < kFewTasks && range > 2 * kTile) {
      range /= 2;
      ranges = divide_up(s.channels, range);
    }
  }
};

constexpr int64_t kTotals = kSumCount + kRowMaxima;

template <typename T>
class Accumulation {
  using A = accumulate_t<T>;

 public:
  // With `relu`, a pair of the same strides, the ReLU of the activations is written there and measured instead.
  explicit Accumulation(const Pair& pair, Pair* relu = nullptr)
      : tiles_(pair, relu),
        shape_(pair.layout),
        unit_(shape_.positions == 1 && !pair.rows()),
        part_(pair.layout, unit_ ? 2 * kTile : tiles_.range()),
        work_(shape_.samples * shape_.channels * shape_.positions),
        partial_(new double[part_.groups * kTotals * shape_.channels]),
        means_(unit_ ? nullptr : new A[2 * shape_.samples * shape_.channels]),
        thresholds_(new A[2 * shape_.samples]) {}

  void run(double* sums, double* maxima) {
    if (unit_) {  // a row's mean is its element: thresholds come first, everything else in the same pass
      find_thresholds();
      reduce_groups();
    } else {
      reduce_groups();
      find_thresholds();
      add_frequencies();
    }
    add_groups(sums, maxima);
  }

 private:
  TermTotals totals(int64_t group) const {
    double* at = partial_.get() + group * kTotals * shape_.channels;
    return {at, at + kSumCount * shape_.channels, shape_.channels};
  }
  int64_t end_of_group(int64_t g) const { return std::min(shape_.samples, (g + 1) * part_.group); }
  int64_t end_of_range(int64_t r) const { return std::min(shape_.channels, (r + 1) * part_.range); }
  A* means(bool adversarial, int64_t sample) const {
    return means_.get() + ((adversarial ? shape_.samples : 0) + sample) * shape_.channels;
  }

  // Stage 1: totals of every group of samples and range of channels.
  void reduce_groups() {
    parallel_tasks(part_.groups * part_.ranges, work_, [&](int64_t task) {
      const int64_t g = task / part_.ranges, r = task % part_.ranges;
      const TermTotals out = totals(g);
      const int64_t first = r * part_.range, count = end_of_range(r) - first;
      for (int k = 0; k < kSumCount; ++k) std::fill_n(out.sums + k * out.pitch + first, count, 0.0);
      for (int k = 0; k < kRowMaxima; ++k)
        std::fill_n(out.maxima + k * out.pitch + first, count, -std::numeric_limits<double>::infinity());
      if (unit_)
        add_units(g, r, out);
      else
        add_rows(g, r, out);
    });
  }
  void add_rows(int64_t g, int64_t r, TermTotals out) {
    for (int64_t n = g * part_.group; n < end_of_group(g); ++n) {
      const auto add = [&](int64_t c, const Tile<A>& tile, int channels) {
        tiles_.kernels_of().add_terms(tile, channels, shape_.positions, out, c, means(false, n) + c,
                                      means(true, n) + c);
      };
      tiles_.statistics(n, r * part_.range, kEverything, add, part_.range);
    }
  }
  void add_units(int64_t g, int64_t r, TermTotals out) {
    const int64_t begin = g * part_.group, samples = end_of_group(g) - begin;
    for (int64_t c = r * part_.range; c < end_of_range(r); c += kTile) {
      TileInput<T> in = tiles_.input(begin, c).after_relu();
      const TileInput<T> next = tiles_.input(begin + 1, c).after_relu();
      in.channels = std::min(in.channels, kTile);
      in.stride = next.z - in.z;
      in.stride_adv = next.z_adv - in.z_adv;
      tiles_.kernels_of().add_units(in, samples, thresholds_.get() + begin, thresholds_.get() + shape_.samples + begin,
                                    out, c);
    }
  }

  // The activation thresholds of every sample, for both halves: they compare its channels. Units, which are read here
  // first, get their ReLU here too.
  void find_thresholds() {
    parallel_tasks(shape_.samples, shape_.samples * shape_.channels, [&](int64_t n) {
      if (unit_) tiles_.kernels_of().write_relu(tiles_.input(n, 0), 0, 0, shape_.channels);
      const TileInput<T> in = tiles_.input(n, 0).after_relu();
      for (const bool adversarial : {false, true}) {
        const A peak = unit_ ? tiles_.kernels_of().largest_finite(adversarial ? in.z_adv : in.z, shape_.channels)
                             : kernels_for<A>(kernels()).largest_finite(means(adversarial, n), shape_.channels);
        const bool none = peak == -std::numeric_limits<A>::infinity();
        thresholds_[(adversarial ? shape_.samples : 0) + n] =
            none ? std::numeric_limits<A>::infinity() : A(kActivationFrequencyShare) * peak;
      }
    });
  }

  void add_frequencies() {
    parallel_tasks(part_.groups * part_.ranges, shape_.samples * shape_.channels, [&](int64_t task) {
      const int64_t g = task / part_.ranges, r = task % part_.ranges;
      for (const bool adversarial : {false, true}) {
        double* sum = totals(g).sums + (adversarial ? kAdversarialFrequency : kBenignFrequency) * shape_.channels;
        const int64_t first = r * part_.range;
        for (int64_t n = g * part_.group; n < end_of_group(g); ++n)
          tiles_.kernels_of().add_frequencies(means(adversarial, n) + first, end_of_range(r) - first,
                                              thresholds_[(adversarial ? shape_.samples : 0) + n], sum + first);
      }
    });
  }

  // Stage 2: the groups' totals, in order, into [C, kSumCount] and [C, kRowMaxima].
  void add_groups(double* sums, double* maxima) {
    parallel_tasks(part_.ranges, part_.groups * shape_.channels * kTotals, [&](int64_t r) {
      const int64_t begin = r * part_.range, end = end_of_range(r);
      const TermTotals all = totals(0);
      for (int64_t g = 1; g < part_.groups; ++g) {
        const TermTotals from = totals(g);
        for (int k = 0; k < kSumCount; ++k)
          for (int64_t c = begin; c < end; ++c) all.sums[k * all.pitch + c] += from.sums[k * all.pitch + c];
        for (int k = 0; k < kRowMaxima; ++k)
          for (int64_t c = begin; c < end; ++c)
            add_maximum(all.maxima[k * all.pitch + c], from.maxima[k * all.pitch + c]);
      }
      for (int64_t c = begin; c < end; ++c) {
        for (int k = 0; k < kSumCount; ++k) sums[c * kSumCount + k] += all.sums[k * all.pitch + c];
        for (int k = 0; k < kRowMaxima; ++k) add_maximum(maxima[c * kRowMaxima + k], all.maxima[k * all.pitch + c]);
      }
    });
  }

  static void add_maximum(double& total, double x) { total = larger_or_nan(x, total); }

  const Tiles<T> tiles_;
  const Layout shape_;
  const bool unit_;  // rows of one element, channels adjacent
  const Partition part_;
  const int64_t work_;
  const std::unique_ptr<double[]> partial_;
  const std::unique_ptr<A[]> means_;
  const std::unique_ptr<A[]> thresholds_;
};

void accumulate(Tensor& sums, Tensor& maxima, const Pair& pair, Pair* relu, const char* name) {
  if (pair.layout.samples == 0 || pair.layout.channels == 0) return;
  with_element_type(pair.benign, name, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    Accumulation<T>(pair, relu)
        .run(static_cast<double*>(sums.mutable_data_ptr()), static_cast<double*>(maxima.mutable_data_ptr()));
  });
}

void accumulate_pair_statistics_(Tensor sums, Tensor maxima, const Tensor& benign, const Tensor& adversarial,
                                 int64_t channel_dim) {
  const Pair pair(benign, adversarial, channel_dim);
  check_totals(sums, pair.layout.channels, kSumCount, "sums");
  check_totals(maxima, pair.layout.channels, kRowMaxima, "maxima");
  accumulate(sums, maxima, pair, nullptr, "benign");
}

void relu_accumulate_pair_statistics_(Tensor sums, Tensor maxima, Tensor pair, int64_t channel_dim) {
  check_overwritable(pair, "pair");
  with_relu(pair, pair, channel_dim, [&](const Pair& activations, Pair& relu) {
    check_totals(sums, activations.layout.channels, kSumCount, "sums");
    check_totals(maxima, activations.layout.channels, kRowMaxima, "maxima");
    accumulate(sums, maxima, activations, &relu, "pair");
  });
}

}  // namespace
}  // namespace neurosens

STABLE_TORCH_LIBRARY_IMPL(neurosens_fast, CPU, m) {
  m.impl("pair_statistics", TORCH_BOX(&neurosens::pair_statistics));
  m.impl("accumulate_pair_statistics_", TORCH_BOX(&neurosens::accumulate_pair_statistics_));
  m.impl("relu_accumulate_pair_statistics_", TORCH_BOX(&neurosens::relu_accumulate_pair_statistics_));
}
