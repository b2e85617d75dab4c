// Every operator's schema, nothing else. Kernels: cpu/NAME.cpp, cuda/NAME.cu; Python: neurosens_fast/ops.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(neurosens_fast, m) {
  m.def("pair_statistics(Tensor benign, Tensor adversarial, int channel_dim=1) -> Tensor");
  m.def(
      "accumulate_pair_statistics_(Tensor(a!) sums, Tensor(b!) maxima, Tensor benign, Tensor adversarial, "
      "int channel_dim=1) -> ()");
  m.def(
      "relu_accumulate_pair_statistics_(Tensor(a!) sums, Tensor(b!) maxima, Tensor(c!) pair, int channel_dim=1) "
      "-> ()");
  m.def("neuron_sensitivity(Tensor benign, Tensor adversarial, str norm=\"1\", int channel_dim=1) -> Tensor");
  m.def(
      "neuron_sensitivity_backward(Tensor grad, Tensor benign, Tensor adversarial, str norm, int channel_dim, "
      "bool needs_benign=True, bool needs_adversarial=True) -> (Tensor, Tensor)");
  m.def(
      "paired_sensitivity(Tensor pair, str norm=\"1\", int channel_dim=1, bool detach_benign=False) -> (Tensor, "
      "Tensor)");
  m.def(
      "paired_sensitivity_backward(Tensor grad, Tensor pair, str norm, int channel_dim, bool detach_benign) -> Tensor");
  m.def(
      "relu_tap(Tensor pair, str norm=\"1\", int channel_dim=1, bool detach_benign=False) -> (Tensor, Tensor, Tensor)");
  m.def("relu_tap_(Tensor(a!) pair, str norm=\"1\", int channel_dim=1) -> (Tensor, Tensor)");
  m.def(
      "relu_tap_backward(Tensor grad_out, Tensor grad, Tensor out, str norm, int channel_dim, bool detach_benign) "
      "-> Tensor");
  m.def(
      "sns_loss(Tensor benign, Tensor adversarial, int k, str norm=\"1\", int channel_dim=1, Tensor? neurons=None) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "sns_loss_backward(Tensor grad, Tensor neurons, Tensor benign, Tensor adversarial, str norm, int channel_dim, "
      "bool needs_benign=True, bool needs_adversarial=True) -> (Tensor, Tensor)");
  m.def("topk_neurons(Tensor sensitivity, int k) -> (Tensor, Tensor)");
  m.def(
      "project_step_(Tensor(a!) adversarial, Tensor gradient, Tensor origin, float step_size, float epsilon, "
      "str norm=\"linf\", float low=0.0, float high=1.0) -> ()");
  m.def(
      "momentum_step_(Tensor(a!) adversarial, Tensor(b!) momentum, Tensor gradient, Tensor origin, float step_size, "
      "float epsilon, float decay, str norm=\"linf\", float low=0.0, float high=1.0) -> ()");
  m.def("winograd_weight(Tensor weight, bool transposed=False) -> Tensor");
  m.def("winograd_convolution(Tensor images, Tensor weight, Tensor? bias, int channels, int tile=4) -> Tensor");
  m.def("read_bytes(Tensor benign, Tensor adversarial) -> Tensor");  // the benchmarks' plain read of the same bytes
}
