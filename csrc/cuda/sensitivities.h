// Operators of one family that other families build on.
#pragma once

#include "tensors.h"

#include <tuple>

namespace neurosens::cuda {

struct Sensitivities {
  Tensor distances, sensitivity;  // [C]; the second in norm 1
};
Sensitivities sensitivities(const Pair& pair, Distance distance);

// The k largest of [C] and their indices.
std::tuple<Tensor, Tensor> topk_neurons(const Tensor& sensitivity, int64_t k);

}  // namespace neurosens::cuda
