// Which instruction set's kernels run.
#pragma once

#include "kernels.h"

#include <string>
#include <vector>

namespace neurosens {

// The best table this CPU can run, or the one that the environment variable NEUROSENS_FAST_ISA names
// (baseline, avx2, avx512). Raises where that one is unknown or the CPU lacks it.
const Kernels& kernels();

std::vector<std::string> compiled_instruction_sets();
std::vector<std::string> supported_instruction_sets();
std::string instruction_set_in_use();

}  // namespace neurosens
