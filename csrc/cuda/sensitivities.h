// Operators of one family that other families build on.
#pragma once

#include "tensors.h"

#include <tuple>

namespace neurosens::cuda {

struct Sensitivities {
  Tensor distances, sensitivity;  // [C]; the second in norm 1
};
Sensitivities sensitivities(const Pair& pair, Distance distance);

// The gradients of `distances` for the incoming `grad` [C]; an empty one where none is needed.
std::tuple<Tensor, Tensor> new_gradients(const Tensor& grad, const Tensor& benign, const Tensor& adversarial,
                                         Distance distance, int64_t channel_dim, bool needs_benign,
                                         bool needs_adversarial);

// The k largest of [C] and their indices.
std::tuple<Tensor, Tensor> topk_neurons(const Tensor& sensitivity, int64_t k);

}  // namespace neurosens::cuda
