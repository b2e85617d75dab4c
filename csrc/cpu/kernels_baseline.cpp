// Every machine: plain vector extensions, SSE2 on x86-64 and NEON on Arm.
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <utility>

#define NS_ISA baseline
#define NS_TABLE kBaselineKernels
#include "kernels_impl.h"
