// Enough of CUDA for the kernels of csrc/cuda to run on the CPU: one fiber per thread, one block at a time.
//
// A fiber runs until it waits for others, so a missing barrier shows as soon as the order in which
// fibers run changes: NS_LAUNCH takes that order from `order`. Shared memory lies on the heap, where the
// address sanitizer sees its ends, and starts out as NaN. A barrier or shuffle that some thread never
// reaches ends the program with a message.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
using cudaStream_t = void*;

namespace emulation {

struct Index {
  unsigned x;
};
enum class Order { kForward, kBackward, kShuffled };

inline Index thread_index, block_index;
inline Order order = Order::kForward;
inline bool only_last_block = false;  // for buffers larger than memory
inline std::minstd_rand shuffler;

// The emulation itself needs no sanitizing; its stack switches are what takes the time.
#define NS_PLAIN __attribute__((no_sanitize("address", "undefined")))

constexpr unsigned kLanes = 32;
// Not a power of two: stacks that start at equal cache sets would evict each other at every switch.
constexpr size_t kStackBytes = (64 << 10) + 17 * 64;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s (block %u, thread %u)\n", what, block_index.x, thread_index.x);
  std::abort();
}

// Switching stacks. ucontext saves the signal mask with a system call, ten times the price of the rest.
#if defined(__x86_64__) && !defined(NS_EMULATION_UCONTEXT)
extern "C" void ns_emulation_switch(void** save, void* load);
asm(R"(
.text
.weak ns_emulation_switch
.type ns_emulation_switch, @function
ns_emulation_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");
struct Context {
  void* stack_pointer = nullptr;
  void start(char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + kStackBytes) - 2;
    *top = reinterpret_cast<void*>(entry);  // where the first switch returns to
    stack_pointer = top - 6;
  }
  NS_PLAIN void switch_to(Context& to) { ns_emulation_switch(&stack_pointer, to.stack_pointer); }
};
#else
struct Context {
  ucontext_t context;
  void start(char* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  NS_PLAIN void switch_to(Context& to) { swapcontext(&context, &to.context); }
};
#endif

// Threads that wait for each other: those of a block, or those of a warp.
struct Barrier {
  unsigned members = 0, arrived = 0;
  uint64_t generation = 0;
};

struct Warp {
  Barrier barrier;
  // A thread can be one shuffle ahead of another, not two, so two sets of slots are enough.
  unsigned char slots[2][kLanes][8];
};

struct Fiber {
  Context context;
  bool done = false;
  const Barrier* waiting = nullptr;
  uint64_t generation = 0;
  unsigned shuffles = 0;
};

struct Block {
  const std::function<void()>* body;
  Fiber* fibers;
  Warp* warps;
  Barrier barrier;
  std::map<int, std::pair<std::unique_ptr<unsigned char[]>, size_t>> shared;
};

inline Block* block = nullptr;
inline Context scheduler;

NS_PLAIN inline Fiber& current() { return block->fibers[thread_index.x]; }

inline void run_fiber() {
  (*block->body)();
  current().done = true;
  current().context.switch_to(scheduler);
  fail("a finished thread was resumed");
}

NS_PLAIN inline void wait(Barrier& barrier) {
  Fiber& fiber = current();
  fiber.generation = barrier.generation;
  if (++barrier.arrived == barrier.members) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  fiber.waiting = &barrier;
  fiber.context.switch_to(scheduler);
  fiber.waiting = nullptr;
}

template <typename T>
NS_PLAIN T shuffle_xor(unsigned mask, T value, unsigned lane_mask) {
  static_assert(sizeof(T) <= 8, "at most 8 bytes");
  if (mask != 0xffffffffu) fail("only whole warps are emulated");
  const unsigned lane = thread_index.x % kLanes;
  Warp& warp = block->warps[thread_index.x / kLanes];
  auto& slots = warp.slots[current().shuffles++ % 2];
  std::memcpy(slots[lane], &value, sizeof(T));
  wait(warp.barrier);
  std::memcpy(&value, slots[lane ^ lane_mask], sizeof(T));
  return value;
}

inline void* shared_memory(int site, size_t bytes) {
  auto& piece = block->shared[site];
  if (!piece.first) {
    piece = {std::unique_ptr<unsigned char[]>(new unsigned char[bytes]), bytes};
    std::memset(piece.first.get(), 0xff, bytes);
  }
  if (piece.second != bytes) fail("threads disagree about the size of shared memory");
  return piece.first.get();
}

NS_PLAIN inline void schedule(Block& state, unsigned threads, unsigned* sequence) {
  for (unsigned left = threads; left > 0;) {
    if (order == Order::kShuffled) std::shuffle(sequence, sequence + threads, shuffler);
    bool progress = false;
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = state.fibers[sequence[i]];
      if (fiber.done || (fiber.waiting && fiber.waiting->generation == fiber.generation)) continue;
      thread_index.x = sequence[i];
      scheduler.switch_to(fiber.context);
      progress = true;
      left -= fiber.done;
    }
    if (!progress) fail("a barrier or shuffle is not reached by all threads");
  }
}

inline void run_block(unsigned index, unsigned threads, const std::function<void()>& body) {
  static std::vector<char> stacks;
  if (stacks.size() < threads * kStackBytes) stacks.resize(threads * kStackBytes);
  std::vector<Fiber> fibers(threads);
  std::vector<Warp> warps((threads + kLanes - 1) / kLanes);
  std::vector<unsigned> sequence(threads);
  block_index.x = index;
  Block state = {&body, fibers.data(), warps.data(), {}, {}};
  block = &state;
  state.barrier.members = threads;
  for (size_t w = 0; w < warps.size(); ++w)
    warps[w].barrier.members = std::min<unsigned>(kLanes, threads - unsigned(w) * kLanes);
  for (unsigned t = 0; t < threads; ++t) {
    sequence[t] = order == Order::kBackward ? threads - 1 - t : t;
    fibers[t].context.start(stacks.data() + t * kStackBytes, run_fiber);
  }
  schedule(state, threads, sequence.data());
  block = nullptr;
}

inline void launch(int64_t blocks, unsigned threads, const std::function<void()>& body) {
  if (blocks > INT32_MAX || threads == 0 || threads > 1024) fail("no GPU takes this grid");
  std::vector<unsigned> sequence;
  for (int64_t b = only_last_block ? std::max<int64_t>(0, blocks - 1) : 0; b < blocks; ++b)
    sequence.push_back(unsigned(b));
  if (order == Order::kBackward) std::reverse(sequence.begin(), sequence.end());
  if (order == Order::kShuffled) std::shuffle(sequence.begin(), sequence.end(), shuffler);
  for (unsigned b : sequence) run_block(b, threads, body);
}

}  // namespace emulation

#define threadIdx ::emulation::thread_index
#define blockIdx ::emulation::block_index
#define __syncthreads() ::emulation::wait(::emulation::block->barrier)
#define __shfl_xor_sync(mask, value, lane_mask) ::emulation::shuffle_xor(mask, value, lane_mask)
#define NS_SHARED(type, name, size) \
  type* const name = static_cast<type*>(::emulation::shared_memory(__COUNTER__, sizeof(type) * size_t(size)))
#define NS_LAUNCH(kernel, blocks, threads, stream, ...) \
  ::emulation::launch(blocks, unsigned(threads), [&] { (void)(stream), (kernel)(__VA_ARGS__); })

template <typename T>
inline T __ldg(const T* p) {
  return *p;
}
template <typename T>
inline T atomicAdd(T* p, T value) {
  const T before = *p;
  *p = before + value;
  return before;
}
