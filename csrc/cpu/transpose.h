// Rows of any dtype into columns of the accumulation dtype, eight by eight. Included inside an
// instruction set's namespace.

typedef float F8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));

NS_HD F8 load_eight(const float* x) { return load<F8>(x); }
NS_HD F8 load_eight(const BFloat16* x) {
  typedef uint16_t H8 __attribute__((vector_size(16)));
  return (F8)(__builtin_convertvector(load<H8>(x), I8) << 16);
}
NS_HD F8 load_eight(const Half* x) {
#if defined(NS_AVX2)
  return (F8)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)x));
#else
  F8 v;
  for (int i = 0; i < 8; ++i) v[i] = to_float(x[i]);
  return v;
#endif
}

// Row r of the 8 x 8 block starts at x + r * stride; column c goes to out + c * pitch.
template <typename T>
NS_HD void transpose_eight(const T* x, int64_t stride, float* out, int pitch) {
  F8 r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = load_eight(x + i * stride);
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = __builtin_shuffle(r[2 * i], r[2 * i + 1], (I8){0, 8, 1, 9, 4, 12, 5, 13});
    t[2 * i + 1] = __builtin_shuffle(r[2 * i], r[2 * i + 1], (I8){2, 10, 3, 11, 6, 14, 7, 15});
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      r[4 * i + 2 * j] = __builtin_shuffle(t[4 * i + j], t[4 * i + 2 + j], (I8){0, 1, 8, 9, 4, 5, 12, 13});
      r[4 * i + 2 * j + 1] = __builtin_shuffle(t[4 * i + j], t[4 * i + 2 + j], (I8){2, 3, 10, 11, 6, 7, 14, 15});
    }
  }
  for (int i = 0; i < 4; ++i) {
    store(out + i * pitch, __builtin_shuffle(r[i], r[4 + i], (I8){0, 1, 2, 3, 8, 9, 10, 11}));
    store(out + (4 + i) * pitch, __builtin_shuffle(r[i], r[4 + i], (I8){4, 5, 6, 7, 12, 13, 14, 15}));
  }
}

// Row c, x + c * stride, becomes column c of `out`, whose rows are kTile apart.
template <typename T>
NS_HD void transpose(const T* x, int64_t stride, int64_t length, int rows, accumulate_t<T>* out) {
  int64_t length8 = 0;
  int rows8 = 0;
  if constexpr (sizeof(accumulate_t<T>) == 4) {
    length8 = length / 8 * 8, rows8 = rows / 8 * 8;
    for (int c = 0; c < rows8; c += 8)
      for (int64_t s = 0; s < length8; s += 8) transpose_eight(x + c * stride + s, stride, out + s * kTile + c, kTile);
  }
  for (int c = 0; c < rows; ++c)
    for (int64_t s = c < rows8 ? length8 : 0; s < length; ++s) out[s * kTile + c] = to_float(x[c * stride + s]);
}
