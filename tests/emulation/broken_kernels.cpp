// Kernels with one fault each, to show that the emulation notices it. Usage: broken_kernels NAME
#include "cuda_emulation.h"

#include <string>

namespace {

constexpr int kThreads = 64;

// Every thread reads what its mirror image wrote.
void mirror(int* out, bool barrier) {
  NS_SHARED(int, values, kThreads);
  values[threadIdx.x] = int(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
}

void overflow(int* out, int past) {
  NS_SHARED(int, values, kThreads);
  values[threadIdx.x + past] = 1;
  out[threadIdx.x] = values[threadIdx.x];
}

void uninitialised(float* out) {
  NS_SHARED(float, values, kThreads);
  out[threadIdx.x] = values[threadIdx.x];
}

void divergent_barrier() {
  if (threadIdx.x > 0) __syncthreads();
}

void divergent_shuffle(int* out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, int(threadIdx.x), 1);
}

void run(const std::string& name, std::vector<int>& out) {
  if (name == "correct" || name == "missing barrier")
    NS_LAUNCH((mirror), 2, kThreads, nullptr, out.data(), name == "correct");
  else if (name == "shared memory overflow")
    NS_LAUNCH((overflow), 1, kThreads, nullptr, out.data(), 1);
  else if (name == "output overflow")
    NS_LAUNCH((mirror), 1, kThreads, nullptr, out.data() + 1, true);
  else if (name == "divergent barrier")
    NS_LAUNCH((divergent_barrier), 1, kThreads, nullptr);
  else if (name == "divergent shuffle")
    NS_LAUNCH((divergent_shuffle), 1, kThreads, nullptr, out.data());
}

}  // namespace

int main(int, char** argv) {
  const std::string name = argv[1];
  if (name == "uninitialised shared memory") {
    std::vector<float> out(kThreads);
    NS_LAUNCH((uninitialised), 1, kThreads, nullptr, out.data());
    for (float x : out)
      if (x != x) emulation::fail("NaN from memory that nobody wrote");
    return 0;
  }
  std::vector<int> first;
  using emulation::Order;
  for (Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
    emulation::order = order;
    std::vector<int> out(kThreads, -1);
    run(name, out);
    if (first.empty()) first = out;
    if (out != first) emulation::fail("the result depends on the order in which threads run");
  }
  return 0;
}
