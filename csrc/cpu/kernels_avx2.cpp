// x86-64 with AVX2, FMA and F16C (x86-64-v3).
#if defined(__x86_64__)

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <utility>

#include <immintrin.h>

#pragma GCC target("avx2,fma,f16c")
#define NS_AVX2 1
#define NS_ISA avx2
#define NS_TABLE kAvx2Kernels
#include "kernels_impl.h"

#endif
