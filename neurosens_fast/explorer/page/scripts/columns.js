// Lines and bars over many thousands of neurons, drawn as fast as those over few, and looking the same as all of them.
"use strict";

{
  const SINGLE = 2000; // up to so many neurons are drawn each; more share columns of
  const PIXELS = 1.5; // pixels

  // Neighbours in the order that share a column of the figure, as [first, last]: each alone where there are few.
  function columns(length, figure) {
    if (length <= SINGLE) return Array.from({length}, (_, at) => [at, at]);
    const {start, end} = figure.x_range;
    const first = Math.max(Math.floor(start), 0);
    const last = Math.min(Math.ceil(end), length - 1);
    const step = Math.max((end - start) / Math.max(explorer.frameWidth(figure, 1000) / PIXELS, 1), 1);
    const found = [];
    for (let from = first; from <= last; ) {
      const next = Math.max(Math.ceil((Math.floor(from / step + 1e-9) + 1) * step), from + 1);
      found.push([from, Math.min(next - 1, last)]);
      from = next;
    }
    return found;
  }

  // Where each of `lines` is lowest and highest in each column: a line through these looks like one through all.
  function turns(shared, lines) {
    const found = [];
    for (const [first, last] of shared) {
      if (last - first < 2) {
        for (let at = first; at <= last; at++) found.push(at);
        continue;
      }
      const places = new Set();
      for (const values of lines) {
        let [lowest, highest] = [first, first];
        for (let at = first + 1; at <= last; at++) {
          if (!(values[at] >= values[lowest])) lowest = at;
          if (!(values[at] <= values[highest])) highest = at;
        }
        places.add(lowest).add(highest);
      }
      found.push(...[...places].sort((one, other) => one - other));
    }
    return found;
  }

  const least = (values, [first, last]) => values.subarray(first, last + 1).reduce((one, other) => Math.min(one, other));
  const most = (values, [first, last]) => values.subarray(first, last + 1).reduce((one, other) => Math.max(one, other));

  Object.assign(explorer, {SINGLE, columns, turns, least, most});
}
