// The requests that main.cpp reads and kernels.cpp answers, one instance of it per dtype.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

enum class Op : int64_t {
  kPairStatistics,
  kAccumulate,
  kSensitivity,
  kBackward,
  kTopk,
  kProject,
  kRead,
  kLast,
  kIndices
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
