// From row statistics to totals. Included inside an instruction set's namespace.

template <typename A>
NS_HD void add_terms_of(const Tile<A>& tile, int channels, int64_t positions, TermTotals totals, int64_t first, A* mean,
                        A* mean_adv) {
  alignas(64) A term[kRowTerms][kTile];
#pragma GCC ivdep
  for (int c = 0; c < channels; ++c) row_terms(&tile.row[0][c], A(positions), &term[0][c], kTile);
  for (int k = 0; k < kRowTerms; ++k) {
    double* sum = totals.sums + k * totals.pitch + first;
#pragma GCC ivdep
    for (int c = 0; c < channels; ++c) sum[c] += double(term[k][c]);
  }
  for (int k = 0; k < kRowMaxima; ++k) {
    double* peak = totals.maxima + k * totals.pitch + first;
#pragma GCC ivdep
    for (int c = 0; c < channels; ++c) peak[c] = larger_or_nan(double(tile.row[kChangeMax + k][c]), peak[c]);
  }
  memcpy(mean, term[kBenignMean], size_t(channels) * sizeof(A));
  memcpy(mean_adv, term[kAdversarialMean], size_t(channels) * sizeof(A));
}

template <typename T>
void add_terms(const Tile<accumulate_t<T>>& tile, int channels, int64_t positions, TermTotals totals, int64_t first,
               accumulate_t<T>* mean, accumulate_t<T>* mean_adv) {
  if (channels == kTile)  // a known number of channels: the loops have no rest
    add_terms_of(tile, kTile, positions, totals, first, mean, mean_adv);
  else
    add_terms_of(tile, channels, positions, totals, first, mean, mean_adv);
}

template <typename A>
void add_frequencies(const A* mean, int64_t channels, A threshold, double* sum) {
#pragma GCC ivdep
  for (int64_t c = 0; c < channels; ++c) sum[c] += double(frequency_term(mean[c], threshold));
}
