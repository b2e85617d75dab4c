// x86-64 with AVX-512 F, BW, VL and DQ (x86-64-v4): 32 registers, so that no accumulator spills; of 256 bits, and of
// 512 where arithmetic sets the pace.
#if defined(__x86_64__)

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <utility>

#include <immintrin.h>

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,prefer-vector-width=256")
#define NS_AVX2 1
#define NS_ISA avx512
#define NS_WIDE avx512_wide
#define NS_TABLE kAvx512Kernels
#include "kernels_impl.h"

#endif
