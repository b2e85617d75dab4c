// Mean distances of every neuron and their gradients: what the sensitivity, the SNS loss and ReLU taps share.
#pragma once

#include "support.h"

#include <optional>
#include <tuple>

namespace neurosens {

struct Means {
  Tensor distances, sensitivity;  // [C]; the sensitivity is the distance of norm 1
};

// Means over the samples of `pair`. With `relu` (of the same strides) the ReLU of the pair is written there and
// measured.
Means mean_distances(const Pair& pair, Distance distance, Pair* relu = nullptr);

// Where the gradient of one half goes, and what it starts from.
struct GradientTarget {
  std::optional<Tensor> grad;  // as the activation; none: this half needs no gradient
  std::optional<Tensor> base;  // the incoming gradient of ReLU's output; none: there is no ReLU
  bool detached = false;       // the distance adds nothing to this half
  bool zero = false;           // `grad` is zero already
};

// Gradients of the mean distances for the incoming `grad` [C]. A neuron whose `grad` is 0 is not read.
void write_gradients(const Tensor& grad, const Tensor& benign, const Tensor& adversarial, GradientTarget to_benign,
                     GradientTarget to_adversarial, Distance distance, int64_t channel_dim);

// New tensors of these gradients; an empty one where none is needed.
std::tuple<Tensor, Tensor> new_gradients(const Tensor& grad, const Tensor& benign, const Tensor& adversarial,
                                         Distance distance, int64_t channel_dim, bool needs_benign,
                                         bool needs_adversarial);

}  // namespace neurosens
