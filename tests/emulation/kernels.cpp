// Runs one case under emulation for the dtype NS_TYPE, and exports it as NS_RUN.
#include "cases.h"

#include <sys/mman.h>

#define NS_ONE_UNIT  // all kernels are compiled here

#include <sanitizer/asan_interface.h>

#include "project_ball.cuh"
#include "project_step.cuh"
#include "read_bytes.cuh"
#include "relu_tap.cuh"
#include "sns_loss.cuh"
#include "topk_neurons.cuh"

using namespace neurosens;
using T = NS_TYPE;
using A = accumulate_t<T>;

namespace {

constexpr size_t kCanary = 64;

// Memory with its own ends: exact for the sanitizer in front, canaries behind; NaN until written.
class Buffer {
 public:
  Buffer(const void* from, size_t bytes) : Buffer(bytes) {
    if (bytes) std::memcpy(data_, from, bytes);
  }
  explicit Buffer(size_t bytes) : bytes_(bytes) {
    const size_t rounded = (bytes + kCanary + 255) / 256 * 256;
    data_ = static_cast<unsigned char*>(std::aligned_alloc(256, rounded));
    std::memset(data_, 0xff, bytes);
    std::memset(data_ + bytes, 0xa5, kCanary);
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  template <typename U>
  U* as() const {
    return reinterpret_cast<U*>(data_);
  }
  std::vector<unsigned char> take() const {
    for (size_t i = 0; i < kCanary; ++i)
      if (data_[bytes_ + i] != 0xa5) emulation::fail("a kernel wrote past the end of its output");
    return {data_, data_ + bytes_};
  }

 private:
  unsigned char* data_;
  size_t bytes_;
};

template <typename S, typename... Arguments>
S with_scratch(std::unique_ptr<Buffer>& memory, Arguments... arguments) {
  Arena measure;
  S{measure, arguments...};
  memory = std::make_unique<Buffer>(size_t(measure.used()));
  Arena arena(memory->as<void>());
  return S{arena, arguments...};
}

struct PartsScratch {
  A* parts;
  PartsScratch(Arena& arena, const Shape& shape) : parts(take_parts<T, AllStatistics>(arena, shape)) {}
};

// Makes every access of dense memory that holds nothing but channels of weight 0 a fault.
void forbid_unweighted(const T* data, const A* weights, const Shape& shape, bool forbid) {
  if (!is_aligned(data, kWide<T>)) return;
  for (int64_t e = 0; e + kWide<T> <= shape.elements(); e += kWide<T>) {
    bool weighted = false;
    for (int64_t i = e; i < e + kWide<T>; ++i)
      weighted |= weights[shape.columns ? i % shape.channels : i / shape.positions % shape.channels] != 0;
    if (weighted) continue;
    if (forbid)
      __asan_poison_memory_region(data + e, 16);
    else
      __asan_unpoison_memory_region(data + e, 16);
  }
}

Outputs run(const Case& request) {
  const Shape shape = {request.samples, request.channels, request.positions, request.columns != 0};
  std::vector<std::unique_ptr<Buffer>> inputs;
  for (const Input& input : request.input)
    inputs.push_back(std::make_unique<Buffer>(input.storage.data(), input.storage.size()));
  const auto view = [&](size_t i) {
    const Input& input = request.input[i];
    return View<T>{inputs[i]->as<T>() + input.offset, input.sample_stride, input.channel_stride, input.position_stride};
  };
  const auto require_packs = [&](const View<T>& v) {
    if (!takes_packs(v, shape, required_packs<T>(shape))) emulation::fail("the caller would have copied this view");
  };
  const Distance distance = Distance(request.argument & kDistance);
  const bool joined = request.argument & kJoined;
  const auto second_view = [&] {
    if (!joined) return view(1);
    View<T> v = view(0);
    v.data += shape.samples * v.sample_stride;
    return v;
  };
  const size_t a = sizeof(A), t = sizeof(T), channels = size_t(shape.channels), elements = size_t(shape.elements());
  const LimitsOf<T> limits = limits_of<T>(request.step_size, request.epsilon, request.low, request.high);
  const StepPlan plan = step_plan(shape.samples, shape.channels * shape.positions);
  std::unique_ptr<Buffer> memory;
  switch (Op(request.op)) {
    case Op::kPairStatistics: {
      const View<T> z = view(0), z_adv = view(1);
      require_packs(z), require_packs(z_adv);
      const auto scratch = with_scratch<PartsScratch>(memory, shape);
      Buffer out(size_t(shape.rows()) * kRowCount * a);
      pair_statistics(Read<T, AllStatistics>{}, z, z_adv, out.as<A>(), scratch.parts, shape, nullptr);
      memory->take();
      return {out.take()};
    }
    case Op::kAccumulate: {
      const View<T> z = view(0), z_adv = view(1);
      require_packs(z), require_packs(z_adv);
      const auto scratch = with_scratch<AccumulateScratch<T>>(memory, shape);
      accumulate_pair_statistics(Read<T, AllStatistics>{}, z, z_adv, inputs[2]->as<double>(), inputs[3]->as<double>(),
                                 scratch, shape, nullptr);
      memory->take();
      return {inputs[2]->take(), inputs[3]->take()};
    }
    case Op::kReluAccumulate: {
      const View<T> z = view(0), z_adv = second_view();
      require_packs(z), require_packs(z_adv);
      const auto scratch = with_scratch<AccumulateScratch<T>>(memory, shape);
      const Relu<T, AllStatistics> in_place = {0, (request.argument & kNegativeZero) != 0};
      accumulate_pair_statistics(in_place, z, z_adv, inputs[1]->as<double>(), inputs[2]->as<double>(), scratch, shape,
                                 nullptr);
      memory->take();
      return {inputs[0]->take(), inputs[1]->take(), inputs[2]->take()};
    }
    case Op::kSensitivity: {
      const View<T> z = view(0), z_adv = second_view();
      require_packs(z), require_packs(z_adv);
      const auto scratch = with_scratch<SensitivityScratch<T>>(memory, shape, distance);
      Buffer distances(channels * a), sensitivity(channels * a);
      neuron_sensitivity(Read<T, Moments>{}, z, z_adv, distances.as<A>(), sensitivity.as<A>(), scratch, distance, shape,
                         nullptr);
      memory->take();
      return {distances.take(), sensitivity.take()};
    }
    case Op::kBackward: {
      const auto scratch = with_scratch<GradientScratch<T>>(memory, shape, distance);
      const bool without = request.argument & kWithoutBenign, without_adv = request.argument & kWithoutAdversarial;
      const T *z = view(0).data, *z_adv = second_view().data;
      const A* grad = inputs.back()->as<A>();
      Buffer benign(without ? 0 : elements * t), adversarial(without_adv ? 0 : elements * t);
      for (const T* half : {z, z_adv}) forbid_unweighted(half, grad, shape, true);
      neuron_sensitivity_backward(grad, z, z_adv, without ? nullptr : benign.as<T>(),
                                  without_adv ? nullptr : adversarial.as<T>(), scratch, distance, shape, nullptr);
      for (const T* half : {z, z_adv}) forbid_unweighted(half, grad, shape, false);
      memory->take();
      return {benign.take(), adversarial.take()};
    }
    case Op::kReluTap: {
      const View<T> z = view(0), z_adv = second_view();
      require_packs(z), require_packs(z_adv);
      const auto scratch = with_scratch<SensitivityScratch<T>>(memory, shape, distance);
      const Buffer other(request.input[0].storage.size());
      const Buffer& out = request.argument & kInPlace ? *inputs[0] : other;
      Buffer distances(channels * a), sensitivity(channels * a);
      relu_tap(z, z_adv, out.as<T>() + request.input[0].offset, distances.as<A>(), sensitivity.as<A>(),
               (request.argument & kNegativeZero) != 0, scratch, distance, shape, nullptr);
      memory->take();
      return {out.take(), distances.take(), sensitivity.take()};
    }
    case Op::kReluTapBackward: {
      const auto scratch = with_scratch<GradientScratch<T>>(memory, shape, distance);
      Buffer gradient(2 * elements * t);
      relu_tap_backward(view(1).data, inputs[2]->as<A>(), view(0).data, gradient.as<T>(),
                        (request.argument & kWithoutBenign) != 0, scratch, distance, shape, nullptr);
      memory->take();
      return {gradient.take()};
    }
    case Op::kMeanOfNeurons: {
      const size_t bytes = request.input[1].storage.size();
      Buffer copy(bytes), loss(a);
      mean_of_neurons(inputs[0]->as<A>(), inputs[1]->as<int64_t>(), request.argument ? copy.as<int64_t>() : nullptr,
                      loss.as<A>(), shape.channels, int64_t(bytes / sizeof(int64_t)), nullptr);
      return {loss.take(), copy.take()};
    }
    case Op::kWeightsOfNeurons: {
      const int64_t k = int64_t(request.input[1].storage.size() / sizeof(int64_t));
      Buffer weights(channels * a);
      weights_of_neurons(inputs[0]->as<A>(), inputs[1]->as<int64_t>(), weights.as<A>(), shape.channels, k, nullptr);
      return {weights.take()};
    }
    case Op::kTopk: {
      Buffer values(size_t(request.argument) * t), indices(size_t(request.argument) * sizeof(int64_t));
      topk_neurons(view(0).data, values.as<T>(), indices.as<int64_t>(), shape.channels, request.argument, nullptr);
      return {values.take(), indices.take()};
    }
    case Op::kProject: {
      T* adversarial = inputs[0]->as<T>() + request.input[0].offset;
      project_step(adversarial, view(1).data, view(2).data, shape.elements(), limits, nullptr);
      return {inputs[0]->take()};
    }
    case Op::kProjectBall: {
      const auto scratch = with_scratch<StepScratch>(memory, plan);
      const StepTensors<T> t = {inputs[0]->as<T>() + request.input[0].offset, view(1).data, view(2).data};
      project_ball(t, scratch, plan, limits, request.argument != 0, nullptr);
      memory->take();
      return {inputs[0]->take()};
    }
    case Op::kMomentum: {
      const auto scratch = with_scratch<StepScratch>(memory, plan);
      const StepTensors<T> t = {inputs[0]->as<T>() + request.input[0].offset, view(2).data, view(3).data};
      momentum_step(t, inputs[1]->as<T>() + request.input[1].offset, scratch, plan, limits,
                    double(request.argument) / 10, nullptr);
      memory->take();
      return {inputs[0]->take(), inputs[1]->take()};
    }
    case Op::kRead: {
      const ReadHalf benign = {inputs[0]->as<unsigned char>(), request.input[0].bytes};
      const ReadHalf adversarial = {inputs[1]->as<unsigned char>(), request.input[1].bytes};
      Buffer result(8), blocks(size_t(benign.blocks() + adversarial.blocks()) * 8);
      read_bytes(benign, adversarial, result.as<uint64_t>(), blocks.as<uint64_t>(), nullptr);
      blocks.take();
      return {result.take()};
    }
    case Op::kLast: {
      // Buffers far larger than memory: pages that nobody touches cost nothing. Only the last block of
      // each launch runs, on the last row, whose values are given; its statistics come back.
      const auto reserve = [](size_t bytes) {
        void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) emulation::fail("no address space");
        return p;
      };
      Arena measure;
      take_parts<T, AllStatistics>(measure, shape);
      const size_t out_bytes = size_t(shape.rows()) * kRowCount * a, scratch_bytes = size_t(measure.used()) + 256;
      void *z = reserve(elements * t), *z_adv = reserve(elements * t), *out = reserve(out_bytes);
      void* scratch = reserve(scratch_bytes);
      const View<T> to = dense(static_cast<T*>(z), shape), to_adv = dense(static_cast<T*>(z_adv), shape);
      const int64_t count = request.input[0].bytes / int64_t(t);
      // Written out here, so that an error in View does not cancel: the end of a row is the end of the
      // memory, the last channel of a column its last position.
      const int64_t step = shape.columns ? shape.channels : 1;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = shape.samples * shape.channels * shape.positions - 1 - (count - 1 - i) * step;
        static_cast<T*>(z)[at] = inputs[0]->as<T>()[i];
        static_cast<T*>(z_adv)[at] = inputs[1]->as<T>()[i];
      }
      emulation::only_last_block = true;
      pair_statistics(Read<T, AllStatistics>{}, to, to_adv, static_cast<A*>(out), static_cast<A*>(scratch), shape,
                      nullptr);
      emulation::only_last_block = false;
      const unsigned char* row = static_cast<unsigned char*>(out) + out_bytes - kRowCount * a;
      Outputs outputs = {{row, row + kRowCount * a}};
      munmap(z, elements * t), munmap(z_adv, elements * t), munmap(out, out_bytes), munmap(scratch, scratch_bytes);
      return outputs;
    }
    case Op::kIndices: {
      // Where the kernels look for element `argument` of dense memory, and for the one after it.
      Cursor at(shape, request.argument);
      const int64_t n = at.row / shape.channels;
      const int64_t s = shape.columns ? at.within - n * shape.positions : at.within;
      const View<T> view = dense(static_cast<const T*>(nullptr), shape);
      Buffer out(6 * sizeof(int64_t));
      const int64_t first[] = {at.row, at.channel, view.offset(n, at.channel, s), shape.row(n, at.channel)};
      at.next(shape);
      const int64_t second[] = {at.row, at.channel};
      std::copy_n(first, 4, out.as<int64_t>());
      std::copy_n(second, 2, out.as<int64_t>() + 4);
      return {out.take()};
    }
  }
  emulation::fail("unknown operator");
}

}  // namespace

// Every case runs in three orders of threads and blocks, which must agree in every bit.
Outputs NS_RUN(const Case& request) {
  emulation::order = emulation::Order::kForward;
  Outputs forward = run(request);
  if (Op(request.op) == Op::kLast) return forward;
  for (auto order : {emulation::Order::kBackward, emulation::Order::kShuffled}) {
    emulation::order = order;
    if (run(request) != forward) emulation::fail("the result depends on the order in which threads run");
  }
  return forward;
}
