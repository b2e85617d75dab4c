// Element by element, in groups. Included inside an instruction set's namespace.

// Calls f with pointers to `kGroup` elements of each tensor; the last ones are copied, zeros behind them. What f writes
// to the first reaches it.
template <int kGroup, bool kWrites, typename T, typename F>
NS_HD void by_groups(T* first, const T* second, const T* third, int64_t count, F&& f) {
  int64_t i = 0;
  for (; i + kGroup <= count; i += kGroup) f(first + i, second + i, third + i);
  if (i == count) return;
  const size_t rest = size_t(count - i) * sizeof(T);
  alignas(64) T copies[3][kGroup] = {};
  memcpy(static_cast<void*>(copies[0]), first + i, rest);
  memcpy(static_cast<void*>(copies[1]), second + i, rest);
  memcpy(static_cast<void*>(copies[2]), third + i, rest);
  f(copies[0], copies[1], copies[2]);
  if (kWrites) memcpy(static_cast<void*>(first + i), copies[0], rest);
}
