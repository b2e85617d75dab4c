// The requests that main.cpp reads and kernels.cpp answers, one instance of it per dtype.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

enum class Op : int64_t {
  kPairStatistics,
  kAccumulate,
  kReluAccumulate,
  kSensitivity,
  kBackward,
  kReluTap,
  kReluTapBackward,
  kMeanOfNeurons,
  kWeightsOfNeurons,
  kTopk,
  kProject,
  kProjectBall,
  kMomentum,
  kRead,
  kLast,
  kIndices
};

// What the operators of a pair take besides a distance, in bits of the argument above those of it.
enum Flag : int64_t {
  kDistance = 3,
  kJoined = 4,  // the first input holds both halves
  kWithoutBenign = 8,
  kWithoutAdversarial = 16,
  kInPlace = 32,
  kNegativeZero = 64
};

// One input: its storage, and where in it the elements lie.
struct Input {
  int64_t bytes, offset, sample_stride, channel_stride, position_stride;
  std::vector<unsigned char> storage;
};

struct Case {
  int64_t op, dtype, samples, channels, positions, columns, argument, inputs;
  double step_size, epsilon, low, high;
  std::vector<Input> input;
};

using Outputs = std::vector<std::vector<unsigned char>>;

Outputs run_float(const Case&);
Outputs run_double(const Case&);
Outputs run_half(const Case&);
Outputs run_bfloat16(const Case&);
