// What neurons add to a class over some images, and the order in which neurons are shown.
"use strict";

{
  const measureNumber = (model) => model.meta.measures.findIndex((one) => one.name === model.measure);

  // The chosen measure of every neuron at the level shown.
  function measureValues(model) {
    const {data, shape: [, measures, count]} = model.data.measures;
    const start = (explorer.page.level * measures + measureNumber(model)) * count;
    return data.subarray(start, start + count);
  }

  const known = new Map(); // the last order of each model

  // All neurons by "measure" (largest first, those without one last), "number", or "clusters" (leaves of the tree).
  function orderedNeurons(model, by) {
    const key = by === "measure" ? `${explorer.page.level} ${model.measure}` : by;
    if (known.get(model)?.key === key) return known.get(model).order;
    const order = Int32Array.from({length: model.meta.neurons}, (_, neuron) => neuron);
    if (by === "measure") {
      const height = Float64Array.from(measureValues(model), (value) => (Number.isNaN(value) ? -Infinity : value));
      order.sort((one, other) => (height[one] === height[other] ? one - other : height[other] - height[one]));
    } else if (by === "clusters") {
      const leaf = model.data.clusters_leaf.data;
      const place = new Int32Array(model.data.clusters_order.data.length);
      for (const [at, one] of model.data.clusters_order.data.entries()) place[one] = at;
      order.sort((one, other) => place[leaf[one]] - place[leaf[other]] || one - other);
    }
    known.set(model, {key, order});
    return order;
  }

  // Means and standard deviations of each neuron over the images `rows`, benign (state 0) or at level state - 1, of
  // activation × weight of a class: "true", "adversarial" (that of each image at the level shown), or a number;
  // "none" for the activation alone.
  function contributions(model, rows, state, by) {
    const {data, shape: [, kept, count]} = model.data.values;
    let classOf = () => Number(by);
    if (by === "true") classOf = (row) => model.data.labels.data[row];
    if (by === "adversarial") {
      const turned = explorer.adversarialClasses(model, explorer.page.level);
      classOf = (row) => turned[row];
    }
    const weights = by === "none" ? new Float32Array(count).fill(1) : model.data.weights.data;
    const mean = new Float64Array(count);
    const deviation = new Float64Array(count);
    for (const row of rows) {
      const start = (state * kept + row) * count;
      const of = by === "none" ? 0 : classOf(row) * count;
      for (let n = 0; n < count; n++) {
        const value = data[start + n] * weights[of + n];
        mean[n] += value;
        deviation[n] += value * value; // its square, until all have been added
      }
    }
    for (let n = 0; n < count; n++) {
      mean[n] /= rows.length;
      const squares = Math.max(deviation[n] - rows.length * mean[n] * mean[n], 0);
      deviation[n] = Math.sqrt(squares / (rows.length - 1));
    }
    return {mean, deviation, images: rows.length};
  }

  Object.assign(explorer, {measureNumber, measureValues, orderedNeurons, contributions});
}
