// x86-64 with AVX-512 F, BW, VL and DQ (x86-64-v4).
#if defined(__x86_64__)

#include <cstdint>
#include <cstring>
#include <initializer_list>

#include <immintrin.h>

// GCC 12 takes the undefined vectors inside its own intrinsics for a mistake (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,prefer-vector-width=512")
#define NS_AVX512 1
#define NS_ISA avx512
#define NS_TABLE kAvx512Kernels
#include "kernels_impl.h"

#endif
