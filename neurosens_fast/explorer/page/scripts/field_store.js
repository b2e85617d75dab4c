// Receptive fields by level, image and neuron, for the views that draw them.
"use strict";

// Where receptive fields come from: those in the page, and those that a server was asked for.
explorer.fields = (model) => {
  const {data} = model;
  const rows = data.fields_rows ? Array.from(data.fields_rows.data) : [];
  const neurons = data.fields_neurons ? Array.from(data.fields_neurons.data) : [];
  const rowAt = new Map(rows.map((row, place) => [row, place]));
  const neuronAt = new Map(neurons.map((neuron, place) => [neuron, place]));
  const asked = new Map(); // "level/row/neuron" -> {waiting}, {error} or a field

  function precomputed(level, row, neuron) {
    const j = rowAt.get(row), s = neuronAt.get(neuron);
    if (j === undefined || s === undefined) return null;
    const [, , , height, width] = data.fields_masks.shape;
    const place = (level * rows.length + j) * neurons.length + s;
    const size = height * width;
    return {
      neuron,
      mask: {data: data.fields_masks.data.subarray(place * size, (place + 1) * size), height, width},
      drop: data.fields_drop.data[place],
      rise: data.fields_rise.data[place],
      seen: data.fields_seen.data.subarray(place * 4, place * 4 + 4),
    };
  }

  function get(level, row, neuron) {
    return precomputed(level, row, neuron) ?? asked.get(`${level}/${row}/${neuron}`) ?? null;
  }

  async function ask(level, row, neuron) {
    const key = `${level}/${row}/${neuron}`;
    asked.set(key, {waiting: true});
    try {
      const {arrays} = await explorer.ask("field", {model: model.index, level, row, neuron});
      const [height, width] = arrays.mask.shape;
      asked.set(key, {
        neuron,
        mask: {data: arrays.mask.data, height, width},
        drop: arrays.drop.data[0],
        rise: arrays.rise.data[0],
        seen: arrays.seen.data,
      });
    } catch (error) {
      asked.set(key, {error: error.message});
    }
  }

  // All fields that are known in an image.
  function known(level, row) {
    const found = rowAt.has(row) ? neurons.map((neuron) => precomputed(level, row, neuron)) : [];
    const start = `${level}/${row}/`;
    for (const [key, field] of asked) if (key.startsWith(start) && field.mask) found.push(field);
    return found;
  }

  const forget = (level, row, neuron) => asked.delete(`${level}/${row}/${neuron}`);

  return {rows, neurons, rowAt, neuronAt, get, ask, forget, known};
};
