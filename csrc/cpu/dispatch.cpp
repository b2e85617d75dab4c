#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace neurosens {
namespace {

struct InstructionSet {
  const char* name;
  const Kernels* table;
  bool supported;
};

// From the narrowest to the widest.
const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> sets = [] {
    std::vector<InstructionSet> found = {{"baseline", &kBaselineKernels, true}};
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    found.push_back({"avx2", &kAvx2Kernels, avx2});
    found.push_back({"avx512", &kAvx512Kernels, avx512});
#endif
    return found;
  }();
  return sets;
}

std::vector<std::string> names(bool supported_only) {
  std::vector<std::string> result;
  for (const auto& set : instruction_sets())
    if (set.supported || !supported_only) result.emplace_back(set.name);
  return result;
}

const InstructionSet& choose() {
  const char* wanted = std::getenv("NEUROSENS_FAST_ISA");
  const InstructionSet* best = nullptr;
  for (const auto& set : instruction_sets())
    if (set.supported && (!wanted || !*wanted || wanted == std::string(set.name))) best = &set;
  if (best) return *best;
  std::string usable;
  for (const auto& name : names(true)) usable += (usable.empty() ? "" : ", ") + name;
  throw std::runtime_error("NEUROSENS_FAST_ISA=" + std::string(wanted) +
                           " names no instruction set that this build and this CPU have; choose one of " + usable);
}

const InstructionSet& chosen() {
  static const InstructionSet& set = choose();
  return set;
}

}  // namespace

const Kernels& kernels() { return *chosen().table; }
std::vector<std::string> compiled_instruction_sets() { return names(false); }
std::vector<std::string> supported_instruction_sets() { return names(true); }
std::string instruction_set_in_use() { return chosen().name; }

}  // namespace neurosens
