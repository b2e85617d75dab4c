// The inputs that stimulate the focused neuron most, with the patch that it sees.
"use strict";

explorer.view("fields", (model) => {
  const sheet = explorer.bokeh("features", model);
  if (!sheet) return null;
  const {page, pictures, short} = explorer;
  const {data, meta} = model;
  const [height, width] = explorer.bokeh("fields", model).tags; // of an image of the figure
  const [, rows, across] = data.benign.shape; // of one in the page, which may have been made smaller, as its patches
  const [space, letters] = sheet.tags;
  const tiles = explorer.bokeh("features-tiles", model);
  const source = explorer.bokeh("features-source", model);
  const note = explorer.bokeh("field-features-note", model);
  const {escaped, say} = explorer.words;

  // Pixels of a picture in the page, among the images or beside them; null where there is none.
  function pixels(row) {
    const [count, high, wide, bands] = data.benign.shape;
    if (row < 0) return null;
    if (row < count) return pictures.picture(model, row);
    if (!data.features_extra) return null;
    const size = high * wide * bands;
    const start = (row - count) * size;
    return {pixels: data.features_extra.data.subarray(start, start + size), height: high, width: wide, bands};
  }

  function draw() {
    const neuron = model.focus;
    const most = data.features_values.shape[1];
    const columns = {left: [], right: [], top: [], bottom: [], x: [], said: [], value: [], sample: [], of: [], patch: []};
    for (const side of ["left", "right", "top", "bottom"]) columns[`frame_${side}`] = [];
    const images = [], places = [];
    let whole = 0, unseen = 0;
    for (let rank = 0; rank < most; rank++) {
      const at = neuron * most + rank;
      const sample = data.features_samples.data[at];
      const value = data.features_values.data[at];
      if (sample < 0 || Number.isNaN(value)) continue;
      const row = data.features_rows.data[at];
      const [top, left, bottom, right] = data.features_patches.data.subarray(4 * at, 4 * at + 4);
      const x = rank * space;
      const found = pixels(row);
      if (found === null) {
        unseen++;
      } else {
        images.push(pictures.array(source, pictures.rgba(found), found.height, found.width));
        places.push(x);
      }
      const of = row >= 0 && row < page.count ? page.classes[data.labels.data[row]] : "";
      const all = top <= 0 && left <= 0 && bottom >= rows && right >= across;
      if (all) whole++;
      columns.left.push(x + (left * width) / across);
      columns.right.push(x + (right * width) / across);
      columns.top.push(height * (1 - top / rows)); // rows are counted from the top
      columns.bottom.push(height * (1 - bottom / rows));
      columns.frame_left.push(x);
      columns.frame_right.push(x + width);
      columns.frame_top.push(height);
      columns.frame_bottom.push(0);
      columns.x.push(x);
      columns.said.push([value.toPrecision(3), `image ${explorer.number(sample)}`, ...(of ? [short(of, letters)] : [])].join("\n"));
      columns.value.push(value);
      columns.sample.push(sample);
      columns.of.push(of || "not known: not among the images of the page");
      columns.patch.push(all ? "the whole image" : `rows ${top} to ${bottom - 1}, columns ${left} to ${right - 1}`);
    }
    source.data = {image: images.length ? images : source.data.image, x: images.length ? places : [NaN]};
    tiles.data = columns;
    const count = columns.x.length;
    const parts = [
      `<b>Inputs that stimulate neuron ${explorer.number(neuron)} most</b>, of ${explorer.number(meta.samples)}: its value, and ` +
        "outlined the pixels that reach the position where it is strongest.",
    ];
    if (count && whole === count) parts.push("Each of these patches is the whole image: the neuron sees all of it.");
    else if (whole) parts.push(`${whole} of these patches are the whole image.`);
    if (unseen) parts.push(`${unseen} of them have no picture in the page.`);
    if (!count) parts.push("There are none: the neuron's values are not finite.");
    if (meta.featuresHow) parts.push(`Patches: ${escaped(meta.featuresHow)}.`);
    say(note, parts.join(" "));
  }

  return {
    update(changes) {
      if (changes.has("focus")) draw();
    },
  };
});
