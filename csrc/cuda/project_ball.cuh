// The steps that need a norm per sample: L2, L1 and momentum.
//
// A sample is cut into parts, a block each. A pass writes one sum per part; every block of the next pass adds the
// parts of its sample in their order. So samples may be few and large or many and small, nothing is atomic and
// nothing waits for the host.
#pragma once

#include "../math/project.h"
#include "launch.cuh"

namespace neurosens {

constexpr int64_t kStepPart = 4096;  // the fewest elements of a part, but for the last
constexpr int kSharedL1Steps = 10;   // Newton steps that all parts of a sample share; further ones take one block

struct StepPlan {
  int64_t samples, count, part, parts;  // elements of a sample, of a part; parts of a sample, at most kThreads
  int64_t blocks() const { return samples * parts; }
};

inline StepPlan step_plan(int64_t samples, int64_t count) {
  const int64_t part = most(kStepPart, ceil_divide(ceil_divide(count, kThreads), kStepPart) * kStepPart);
  return {samples, count, part, ceil_divide(count, part)};
}

template <typename T>
struct StepTensors {
  T* adversarial;     // [N, S]
  const T* gradient;  // [N, S]
  const T* origin;    // [N, S]
};

struct StepScratch {
  double *peaks, *sums;   // [N, parts]: of the gradient
  Excess* excess[2];      // [N, parts]: of the changes; written in turn
  L1Search* searches[2];  // [N]
  StepScratch(Arena& arena, const StepPlan& plan)
      : peaks(arena.take<double>(plan.blocks())),
        sums(arena.take<double>(plan.blocks())),
        excess{arena.take<Excess>(plan.blocks()), arena.take<Excess>(plan.blocks())},
        searches{arena.take<L1Search>(plan.samples), arena.take<L1Search>(plan.samples)} {}
};

// Where a Newton step finds the search and the excess of every sample, and where it leaves them.
struct L1Turn {
  const Excess* excess;      // [N, parts]
  const L1Search* searches;  // [N], null for searches that begin
  Excess* next_excess;
  L1Search* next_searches;
};
inline L1Turn turn_of(const StepScratch& scratch, int step) {
  const int from = step % 2, to = 1 - from;
  return {scratch.excess[from], step > 0 ? scratch.searches[from] : nullptr, scratch.excess[to], scratch.searches[to]};
}

// Blocks of a multiprocessor. Left to itself, ptxas spills a register or two to fit one block more.
constexpr int kBlocksAtOnce = 3;

// The elements of one block: those of a part of a sample, or of a whole one.
struct Piece {
  int64_t sample, part, begin, end;  // elements counted over all samples
};
__device__ __forceinline__ Piece part_of(const StepPlan& plan) {
  const int64_t sample = divide(blockIdx.x, plan.parts), part = blockIdx.x - sample * plan.parts;
  const int64_t first = sample * plan.count;
  return {sample, part, first + part * plan.part, first + least((part + 1) * plan.part, plan.count)};
}
__device__ __forceinline__ Piece whole_sample(const StepPlan& plan) {
  const int64_t sample = blockIdx.x;
  return {sample, 0, sample * plan.count, (sample + 1) * plan.count};
}

// Folds the values of all threads, in an order of its own; every thread gets the result.
template <typename Op>
__device__ __forceinline__ double fold_block(double value, Op op) {
  NS_SHARED(double, values, kThreads);
  values[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) values[threadIdx.x] = op(values[threadIdx.x], values[threadIdx.x + half]);
    __syncthreads();
  }
  value = values[0];
  __syncthreads();
  return value;
}
struct AddUp {
  __device__ __forceinline__ double operator()(double a, double b) const { return a + b; }
};
struct TakeLarger {
  __device__ __forceinline__ double operator()(double a, double b) const { return larger(a, b); }
};
__device__ __forceinline__ Excess sum_block(Excess x) {
  return {fold_block(x.total, AddUp()), fold_block(x.count, AddUp())};
}

// Calls f(e, n) for packs of a piece: n elements from e on, kWide<T> of them but for the last pack.
template <typename T, typename F>
__device__ __forceinline__ void each_pack(const Piece& piece, F&& f) {
  constexpr int64_t kStep = int64_t(kThreads) * kWide<T>;
  for (int64_t e = piece.begin + int64_t(threadIdx.x) * kWide<T>; e < piece.end; e += kStep)
    f(e, int(least(kWide<T>, piece.end - e)));
}

template <bool wide, typename T>
__device__ __forceinline__ Pack<T, kWide<T>> load_some(const T* p, int count) {
  if (wide && count == kWide<T>) return load_written<kWide<T>>(p);
  Pack<T, kWide<T>> pack = {};
#pragma unroll
  for (int v = 0; v < kWide<T>; ++v)
    if (v < count) pack.at[v] = p[v];
  return pack;
}
template <bool wide, typename T>
__device__ __forceinline__ void store_some(T* p, const Pack<T, kWide<T>>& pack, int count) {
  if (wide && count == kWide<T>) return store<kWide<T>>(p, pack);
#pragma unroll
  for (int v = 0; v < kWide<T>; ++v)
    if (v < count) p[v] = pack.at[v];
}

// What a gradient is divided by first, as scaled() says.
template <typename T>
__device__ __forceinline__ double peak_of(const StepScratch& scratch, const StepPlan& plan, int64_t sample) {
  if constexpr (sizeof(T) < 8) {
    return 1;
  } else {
    const double own = threadIdx.x < plan.parts ? scratch.peaks[sample * plan.parts + threadIdx.x] : 0;
    const double peak = fold_block(own, TakeLarger());
    return peak > 0 ? peak : 1;
  }
}
struct Direction {
  double peak, factor;
};
template <typename T>
__device__ __forceinline__ Direction direction_of(const StepScratch& scratch, const StepPlan& plan, int64_t sample,
                                                  double numerator, bool squares) {
  const double peak = peak_of<T>(scratch, plan, sample);
  const double own = threadIdx.x < plan.parts ? scratch.sums[sample * plan.parts + threadIdx.x] : 0;
  const double sum = fold_block(own, AddUp());
  return {peak, over_norm(numerator, squares ? square_root(sum) : sum)};
}

template <bool wide, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce) gradient_peak_kernel(const T* gradient,  // [N, S]
                                                                                StepScratch scratch, StepPlan plan) {
  double peak = 0;
  each_pack<T>(part_of(plan), [&](int64_t e, int n) {
    const auto g = load_some<wide>(gradient + e, n);
#pragma unroll
    for (int v = 0; v < kWide<T>; ++v) peak = larger(absolute(to_double(g.at[v])), peak);
  });
  peak = fold_block(peak, TakeLarger());
  if (threadIdx.x == 0) scratch.peaks[blockIdx.x] = peak;
}

template <bool wide, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    gradient_sum_kernel(const T* gradient,  // [N, S]
                        StepScratch scratch, StepPlan plan, bool squares) {
  const Piece piece = part_of(plan);
  const double peak = peak_of<T>(scratch, plan, piece.sample);
  double sum = 0;
  each_pack<T>(piece, [&](int64_t e, int n) {
    const auto g = load_some<wide>(gradient + e, n);  // zeros past the end
#pragma unroll
    for (int v = 0; v < kWide<T>; ++v) {
      const double size = absolute(scaled<T>(to_double(g.at[v]), peak));
      sum += squares ? product(size, size) : size;
    }
  });
  sum = fold_block(sum, AddUp());
  if (threadIdx.x == 0) scratch.sums[blockIdx.x] = sum;
}

// What a threshold leaves of the changes of a piece, or as the total the sum of their squares.
template <bool wide, typename T>
__device__ __forceinline__ Excess change_sum(const StepTensors<T>& t, const Piece& piece, const Direction& direction,
                                             double threshold, bool squares) {
  Excess sum = {0, 0};
  each_pack<T>(piece, [&](int64_t e, int n) {
    const auto a = load_some<wide>(t.adversarial + e, n);
    const auto g = load_some<wide>(t.gradient + e, n), x = load_some<wide>(t.origin + e, n);
#pragma unroll
    for (int v = 0; v < kWide<T>; ++v) {
      const double change =
          change_of<T>(to_double(a.at[v]), to_double(g.at[v]), to_double(x.at[v]), direction.peak, direction.factor);
      const double rest = rest_of(absolute(change), threshold);
      sum.total += squares ? product(change, change) : rest;
      sum.count += where_zero(rest, 0.0, 1.0);
    }
  });
  return sum_block(sum);
}

template <bool wide, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    change_sum_kernel(StepTensors<T> t, StepScratch scratch, StepPlan plan, double step_size, bool squares) {
  const Piece piece = part_of(plan);
  const Direction direction = direction_of<T>(scratch, plan, piece.sample, step_size, squares);
  const Excess sum = change_sum<wide>(t, piece, direction, 0, squares);
  if (threadIdx.x == 0) scratch.excess[0][blockIdx.x] = sum;
}

__device__ __forceinline__ Excess excess_of(const StepPlan& plan, const Excess* parts, int64_t sample) {
  Excess own = {0, 0};
  if (threadIdx.x < plan.parts) own = parts[sample * plan.parts + threadIdx.x];
  return sum_block(own);
}

// One Newton step of every sample. Where the search has ended, it and its excess are carried over.
template <bool wide, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    l1_step_kernel(StepTensors<T> t, StepScratch scratch, StepPlan plan, double step_size, double radius, L1Turn turn) {
  const Piece piece = part_of(plan);
  L1Search search = {radius};
  if (turn.searches) search = turn.searches[piece.sample];
  if (search.advance(excess_of(plan, turn.excess, piece.sample))) {
    const Direction direction = direction_of<T>(scratch, plan, piece.sample, step_size, false);
    const Excess sum = change_sum<wide>(t, piece, direction, search.threshold, false);
    if (threadIdx.x == 0) turn.next_excess[blockIdx.x] = sum;
  } else if (threadIdx.x == 0) {
    turn.next_excess[blockIdx.x] = turn.excess[blockIdx.x];
  }
  if (threadIdx.x == 0 && piece.part == 0) turn.next_searches[piece.sample] = search;
}

// The rest of the search, one block per sample; usually there is none.
template <bool wide, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    l1_finish_kernel(StepTensors<T> t, StepScratch scratch, StepPlan plan, double step_size, double radius,
                     L1Turn turn) {
  const Piece piece = whole_sample(plan);
  L1Search search = {radius};
  if (turn.searches) search = turn.searches[piece.sample];
  if (search.advance(excess_of(plan, turn.excess, piece.sample))) {
    const Direction direction = direction_of<T>(scratch, plan, piece.sample, step_size, false);
    while (search.advance(change_sum<wide>(t, piece, direction, search.threshold, false))) {
    }
  }
  if (threadIdx.x == 0) turn.next_searches[piece.sample] = search;
}

// `searches` [N] holds what the search for the L1 ball found; without it the ball is that of L2.
template <bool wide, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    write_change_kernel(StepTensors<T> t, StepScratch scratch, StepPlan plan, LimitsOf<T> limits, double radius,
                        const L1Search* searches) {
  const Piece piece = part_of(plan);
  const bool squares = searches == nullptr;
  const Direction direction = direction_of<T>(scratch, plan, piece.sample, limits.step_size, squares);
  double threshold = 0, scale;
  if (squares) {
    scale = scale_to(square_root(excess_of(plan, scratch.excess[0], piece.sample).total), radius);
  } else {
    threshold = searches[piece.sample].threshold;
    scale = searches[piece.sample].scale();
  }
  each_pack<T>(piece, [&](int64_t e, int n) {
    auto a = load_some<wide>(t.adversarial + e, n);
    const auto g = load_some<wide>(t.gradient + e, n), x = load_some<wide>(t.origin + e, n);
#pragma unroll
    for (int v = 0; v < kWide<T>; ++v) {
      const double change =
          change_of<T>(to_double(a.at[v]), to_double(g.at[v]), to_double(x.at[v]), direction.peak, direction.factor);
      a.at[v] = narrow<T>(project_change<T>(change, to_float(x.at[v]), threshold, scale, limits));
    }
    store_some<wide>(t.adversarial + e, a, n);
  });
}

template <bool wide, typename T>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    momentum_step_kernel(StepTensors<T> t,
                         T* momentum,  // [N, S]
                         StepScratch scratch, StepPlan plan, LimitsOf<T> limits, double decay) {
  const Piece piece = part_of(plan);
  const Direction direction = direction_of<T>(scratch, plan, piece.sample, double(plan.count), false);
  each_pack<T>(piece, [&](int64_t e, int n) {
    auto a = load_some<wide>(t.adversarial + e, n), m = load_some<wide>(static_cast<const T*>(momentum) + e, n);
    const auto g = load_some<wide>(t.gradient + e, n), x = load_some<wide>(t.origin + e, n);
#pragma unroll
    for (int v = 0; v < kWide<T>; ++v) {
      const auto sum = momentum_of<T>(to_double(m.at[v]), to_double(g.at[v]), decay, direction.peak, direction.factor);
      m.at[v] = narrow<T>(sum);
      a.at[v] = narrow<T>(project_linf<T>(to_float(a.at[v]), sum, to_float(x.at[v]), limits));
    }
    store_some<wide>(momentum + e, m, n);
    store_some<wide>(t.adversarial + e, a, n);
  });
}

template <bool wide, typename T>
void measure_gradient(const T* gradient, const StepScratch& scratch, const StepPlan& plan, bool squares,
                      cudaStream_t stream) {
  if constexpr (sizeof(T) == 8)
    NS_LAUNCH((gradient_peak_kernel<wide, T>), plan.blocks(), kThreads, stream, gradient, scratch, plan);
  NS_LAUNCH((gradient_sum_kernel<wide, T>), plan.blocks(), kThreads, stream, gradient, scratch, plan, squares);
}

template <bool wide, typename T>
void project_ball(const StepTensors<T>& t, const StepScratch& scratch, const StepPlan& plan, LimitsOf<T> limits,
                  bool squares, cudaStream_t stream) {
  const double radius = reach_of(limits.epsilon, plan.count), step_size = limits.step_size;
  measure_gradient<wide>(t.gradient, scratch, plan, squares, stream);
  NS_LAUNCH((change_sum_kernel<wide, T>), plan.blocks(), kThreads, stream, t, scratch, plan, step_size, squares);
  const L1Search* searches = nullptr;
  if (!squares) {
    const int steps = plan.parts > 1 ? kSharedL1Steps : 0;
    for (int step = 0; step < steps; ++step)
      NS_LAUNCH((l1_step_kernel<wide, T>), plan.blocks(), kThreads, stream, t, scratch, plan, step_size, radius,
                turn_of(scratch, step));
    const L1Turn last = turn_of(scratch, steps);
    NS_LAUNCH((l1_finish_kernel<wide, T>), plan.samples, kThreads, stream, t, scratch, plan, step_size, radius, last);
    searches = last.next_searches;
  }
  NS_LAUNCH((write_change_kernel<wide, T>), plan.blocks(), kThreads, stream, t, scratch, plan, limits, radius,
            searches);
}

// Wide accesses need samples that all begin at their alignment.
template <typename T>
bool steps_wide(const StepTensors<T>& t, const StepPlan& plan) {
  return plan.count % kWide<T> == 0 && is_aligned(t.adversarial, kWide<T>) && is_aligned(t.gradient, kWide<T>) &&
         is_aligned(t.origin, kWide<T>);
}

template <typename T>
void project_ball(const StepTensors<T>& t, const StepScratch& scratch, const StepPlan& plan, LimitsOf<T> limits,
                  bool squares, cudaStream_t stream) {
  if (plan.blocks() == 0) return;
  if (steps_wide(t, plan))
    project_ball<true>(t, scratch, plan, limits, squares, stream);
  else
    project_ball<false>(t, scratch, plan, limits, squares, stream);
}

template <typename T>
void momentum_step(const StepTensors<T>& t,
                   T* momentum,  // [N, S]
                   const StepScratch& scratch, const StepPlan& plan, LimitsOf<T> limits, double decay,
                   cudaStream_t stream) {
  const auto run = [&](auto wide) {
    measure_gradient<wide.value>(t.gradient, scratch, plan, false, stream);
    NS_LAUNCH((momentum_step_kernel<wide.value, T>), plan.blocks(), kThreads, stream, t, momentum, scratch, plan,
              limits, decay);
  };
  if (steps_wide(t, plan) && is_aligned(momentum, kWide<T>))
    run(std::true_type());
  else
    run(std::false_type());
}

}  // namespace neurosens
