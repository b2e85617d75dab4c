// Over all neurons with a receptive field: where in an image the attack does harm, and whether neurons look there.
"use strict";

// {drawMaps(level, row), drawOcclusion()}; `fields` are those of field_store.js.
explorer.fieldMaps = (model, fields) => {
  const part = (name) => explorer.bokeh(`field-${name}`, model);
  const {pictures} = explorer;
  const imageName = (row) => `image ${explorer.number(model.data.samples.data[row])}`;
  const {list, percent, say} = explorer.words;

  // --- vulnerability maps -------------------------------------------------------------------------------

  function drawMaps(level, row) {
    const all = fields.known(level, row);
    const used = model.neurons === null ? all : all.filter((field) => model.neurons[field.neuron]);
    const image = pictures.picture(model, row);
    const {height, width} = used.length ? used[0].mask : image;
    const sums = {drop: new Float64Array(height * width), rise: new Float64Array(height * width)};
    const counts = new Uint32Array(height * width);
    for (const {mask, drop, rise} of used) {
      const same = mask.height === height && mask.width === width; // a server's may be larger
      for (let i = 0; i < counts.length; i++) {
        if (!(same ? mask.data[i] : pictures.inside(mask, Math.floor(i / width), i % width, height, width))) continue;
        counts[i]++;
        sums.drop[i] += drop;
        sums.rise[i] += rise;
      }
    }
    // Both maps have one scale, which begins at 0 or at what lies below it.
    let low = 0, high = 0;
    const means = {};
    for (const [name, sum] of Object.entries(sums)) {
      means[name] = Float32Array.from(sum, (value, i) => (counts[i] ? value / counts[i] : NaN));
      for (const value of means[name]) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    for (const name of Object.keys(means)) {
      part(`${name}-colours`).setv({low, high: high > low ? high : low + 1e-6});
      pictures.show(part(`${name}-map-source`), pictures.rgba(image), image.height, image.width);
      pictures.show(part(`${name}-values-source`), means[name], height, width);
    }
    const chosen = model.neurons === null ? "" : "selected ";
    say(part("maps-note"), used.length
      ? `<b>Vulnerability maps of ${imageName(row)}</b>: for each pixel, the mean over the ${chosen}neurons whose ` +
        `receptive field covers it of what swapping that field does to the true and to the adversarial class ` +
        `(${explorer.number(used.length)} ${chosen}neurons have a field in this image; no field covers uncoloured pixels).`
      : `<b>Vulnerability maps of ${imageName(row)}</b>: none of the ${chosen}neurons has a receptive field in this ` +
        `image${all.length ? `; neurons ${list(all.map((field) => field.neuron))} have` : ""}, so nothing is coloured.`);
  }

  // --- occlusion against a control ----------------------------------------------------------------------

  function drawOcclusion() {
    if (!model.data.fields_own) return;
    const own = model.data.fields_own.data, control = model.data.fields_control.data;
    const focus = fields.neuronAt.get(model.focus);
    const order = fields.neurons.map((_, s) => s).filter((s) => s !== focus);
    if (focus !== undefined) order.push(focus); // drawn last, above the others
    part("occlusion-source").data = {
      neuron: order.map((s) => fields.neurons[s]),
      own: order.map((s) => own[s]),
      control: order.map((s) => control[s]),
      colour: order.map((s) => (s === focus ? explorer.ADVERSARIAL ?? "#D55E00" : "#c9ced6")),
      size: order.map((s) => (s === focus ? 13 : 7)),
      marker: order.map((s) => (s === focus ? "diamond" : "circle")),
    };
    // Both axes from the same numbers, so that the dashed line is the diagonal.
    const values = [...own, ...control].filter(Number.isFinite);
    const start = values.reduce((low, value) => Math.min(low, value), 0);
    const end = values.reduce((high, value) => Math.max(high, value), 0.05);
    const room = 0.06 * (end - start);
    const ranges = part("occlusion");
    for (const range of [ranges.x_range, ranges.y_range]) range.setv({start: start - room, end: end + room});
    const measured = order.filter((s) => Number.isFinite(own[s]) && Number.isFinite(control[s]));
    const larger = measured.filter((s) => own[s] > control[s]).length;
    const one = focus === undefined || !Number.isFinite(own[focus]) || !Number.isFinite(control[focus])
      ? `It was not measured for neuron ${explorer.number(model.focus)}.`
      : `Greying the field of neuron ${explorer.number(model.focus)} (diamond) lowers it by <b>${percent(own[focus])}</b> on ` +
        `average over images, greying another neuron's by <b>${percent(control[focus])}</b>.`;
    say(
      part("occlusion-said"),
      `${one} Its own field matters more for <b>${larger} of ${measured.length}</b> neurons` +
      `${measured.length ? ` (${percent(larger / measured.length)})` : ""}: points above the dashed line. ` +
      "If fields showed nothing about their neurons, it would be about half of them.",
    );
  }

  return {drawMaps, drawOcclusion};
};
