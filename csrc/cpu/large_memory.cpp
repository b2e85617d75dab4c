// Fetching the pages of large results: in one call for many pages, and zeroed by the system, so that nobody needs to
// write zeros again. Pages that nobody touches would cost nothing, but a consumer that adds to such a gradient in place
// then pays two faults for every page, and the second one stops all threads.
#include "large_memory.h"

#include <cstdint>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace neurosens {
namespace {

#if defined(__linux__) && defined(MADV_FREE) && defined(MADV_POPULATE_WRITE)

// glibc keeps smaller blocks when they are freed, so that their pages are there already the next time.
constexpr int64_t kLarge = int64_t(32) << 20;

constexpr int64_t kFetched = int64_t(1) << 20;  // bytes of one call

// Whether these pages are now zero when they are next touched. Only memory of this process alone becomes so, and that
// alone takes MADV_FREE.
bool forget_pages(char* first, int64_t bytes) {
  return madvise(first, size_t(bytes), MADV_FREE) == 0 && madvise(first, size_t(bytes), MADV_DONTNEED) == 0;
}

// Fetches the pages; true if all `bytes` are zero. Memory that is there already stays as it is.
bool fetch_zeros(char* data, int64_t bytes) {
  if (bytes < kLarge) return false;
  const int64_t page = sysconf(_SC_PAGESIZE);
  const int64_t before = int64_t(-reinterpret_cast<uintptr_t>(data) % uintptr_t(page));
  const int64_t inner = (bytes - before) / page * page;
  char* first = data + before;
  unsigned char resident = 0;
  if (mincore(first + inner / 2 / page * page, size_t(page), &resident) != 0 || (resident & 1)) return false;
  const bool zero = forget_pages(first, inner);
  torch::stable::parallel_for(0, (inner + kFetched - 1) / kFetched, 1, [&](int64_t begin, int64_t end) {
    const int64_t from = begin * kFetched, to = end * kFetched < inner ? end * kFetched : inner;
    madvise(first + from, size_t(to - from), MADV_POPULATE_WRITE);  // a hint: without it they come one by one
  });
  if (!zero) return false;
  std::memset(data, 0, size_t(before));
  std::memset(first + inner, 0, size_t(bytes - before - inner));
  return true;
}

#else

bool fetch_zeros(char*, int64_t) { return false; }

#endif

}  // namespace

LargeTensor large_empty_like(const Tensor& x) {
  Tensor out = new_like(x);
  const int64_t bytes = out.numel() * int64_t(out.element_size());
  const bool zero = fetch_zeros(static_cast<char*>(out.mutable_data_ptr()), bytes);
  return {out, zero};
}

}  // namespace neurosens
