// Neuron vulnerability: lines of what each neuron adds to a class, benign and adversarial, and a measure below them.
"use strict";

explorer.view("neurons", (model) => {
  const find = (name) => explorer.bokeh(`neurons-${name}`, model);
  const figure = find("lines");
  if (!figure) return null;
  const {page, short, turns, least, most} = explorer;
  const {data, meta} = model;
  const [, kept, count] = data.values.shape;
  const MOST_CLASSES = 5; // with lines of their own
  const BESIDE = 110; // pixels beside the frame of the figures, about
  const MARKED = 150, APART = 300; // up to so many neurons have markers, and gaps between bars
  const ORDERS = [["measure", "the measure, largest first"], ["number", "their number"]];
  if (data.clusters_order) ORDERS.push(["clusters", "the cluster tree"]);
  const BANDS = [
    ["deviation", "± 1 standard deviation", "± 1 standard deviation over them"],
    ["confidence", "95 % confidence of the mean", "95 % confidence interval of the mean (± 1.96 standard errors)"],
    ["none", "none"],
  ];
  const WEIGHTS = data.weights
    ? [["true", "true class of each image"], ["adversarial", "adversarial class of each image"]]
    : [["none", "none, activations alone"]];
  if (data.weights) WEIGHTS.push(...page.classes.map((name, number) => [number, `class ${name}`]));

  // --- form elements --------------------------------------------------------------------------------------

  const bar = explorer.controls("neurons", model);
  const measure = explorer.choice(bar, "measure", meta.measures.map((one) => [one.name, one.label]), () => {
    explorer.setMeasure(model, measure.value);
  });
  const sorting = explorer.choice(bar, "sort by", ORDERS, () => draw({order: true}));
  const weight = explorer.choice(bar, "weight of", WEIGHTS, () => draw({means: true}));
  weight.disabled = WEIGHTS.length < 2;
  const band = explorer.choice(bar, "band", BANDS, () => draw({}));
  const present = [...new Set(data.labels.data.subarray(0, kept))].sort((one, other) => one - other);
  const offered = [["", "choose a class"], ...present.map((number) => [number, page.classes[number]])];
  const adding = explorer.choice(bar, "add lines for images of", offered, () => setClasses([...classes, Number(adding.value)]));
  const chips = bar.appendChild(document.createElement("span"));
  chips.style.cssText = "display: flex; flex-wrap: wrap; gap: .3rem";
  const all = bar.appendChild(document.createElement("button"));
  all.type = "button";
  all.textContent = "Show all neurons";
  all.addEventListener("click", () => explorer.selectNeurons(model, null));
  const note = bar.appendChild(document.createElement("p"));
  note.className = "note";
  note.setAttribute("role", "status");
  note.style.cssText = "flex-basis: 100%; margin: 0";
  let classes = [];

  function setClasses(numbers) {
    classes = [...new Set(numbers)];
    adding.value = "";
    adding.disabled = classes.length >= MOST_CLASSES;
    chips.replaceChildren(
      ...classes.map((number) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.title = `Remove the lines of class ${page.classes[number]}`;
        chip.append(explorer.classLabel(number), " ×");
        chip.addEventListener("click", () => setClasses(classes.filter((other) => other !== number)));
        return chip;
      }),
    );
    draw({means: true});
  }

  // --- means over images ----------------------------------------------------------------------------------

  let found = null; // of all images that are chosen, and of those of some classes
  let order = null; // the neurons that are shown

  function compute() {
    const rows = explorer.imageRows().filter((row) => row < kept);
    const means = (some) => [0, 1 + page.level].map((state) => explorer.contributions(model, some, state, weight.value));
    found = {
      rows,
      means: means(rows),
      classes: classes.map((number) => {
        const own = rows.filter((row) => data.labels.data[row] === number);
        return {number, rows: own, means: means(own)};
      }),
    };
  }

  const hasBand = (rows) => rows.length > 1 && band.value !== "none";

  // Heights of a line and of the ends of its band, by place in the order; 0 without images, when nothing is drawn.
  function line({mean, deviation, images}) {
    const times = band.value === "confidence" ? 1.96 / Math.sqrt(images) : 1;
    const [middle, low, high] = [0, 0, 0].map(() => new Float64Array(order.length));
    for (let at = 0; at < order.length; at++) {
      const half = images > 1 ? times * deviation[order[at]] : 0;
      middle[at] = images > 0 ? mean[order[at]] : 0;
      low[at] = middle[at] - half;
      high[at] = middle[at] + half;
    }
    return {middle, low, high};
  }

  // --- drawing --------------------------------------------------------------------------------------------

  const KINDS = ["benign", "adversarial"];
  // Names that were cut off may be alike, and the legend leaves out what it has already.
  const named = (number) => {
    const name = page.classes[number];
    return name.length > 24 ? `${short(name, 16)} (class ${number})` : name;
  };

  function drawLines() {
    const values = explorer.measureValues(model);
    const shared = explorer.columns(order.length, figure);
    const both = found.means.map(line);
    const at = turns(shared, both.map(({middle}) => middle));
    const points = {x: at, neuron: at.map((one) => order[one]), measure: at.map((one) => values[order[one]])};
    for (const [state, kind] of KINDS.entries()) {
      points[kind] = at.map((one) => both[state].middle[one]);
      find(`${kind}-line`).visible = found.rows.length > 0;
      find(`${kind}-dots`).visible = found.rows.length > 0 && order.length <= MARKED;
    }
    const lines = {xs: [], ys: [], colour: [], dash: [], alpha: [], label: []};
    const bands = {xs: [], ys: [], colour: []};
    const addBand = ({low, high}, colour) => {
      const x = shared.map(([first, last]) => (first + last) / 2);
      bands.xs.push([...x, ...x.toReversed()]);
      bands.ys.push([...shared.map((one) => least(low, one)), ...shared.map((one) => most(high, one)).toReversed()]);
      bands.colour.push(colour);
    };
    if (hasBand(found.rows)) {
      addBand(both[0], explorer.BENIGN);
      addBand(both[1], explorer.ADVERSARIAL);
    }
    for (const {number, rows, means} of found.classes) {
      if (rows.length === 0) continue;
      for (const [state, kind] of KINDS.entries()) {
        const own = line(means[state]);
        const there = turns(shared, [own.middle]);
        const dashed = state === 1 && order.length <= explorer.SINGLE;
        lines.xs.push(there);
        lines.ys.push(there.map((one) => own.middle[one]));
        lines.colour.push(page.colours[number]);
        lines.dash.push(dashed ? [6, 3] : []);
        lines.alpha.push(state === 1 && !dashed ? 0.5 : 1);
        lines.label.push(`${named(number)}, ${kind}`);
        if (hasBand(rows)) addBand(own, page.colours[number]);
      }
    }
    // As many names beside each other as there is room for; the figure grows with their rows. Before the data, since
    // another height is drawn at once, and lines that are still being taken in would be drawn half.
    const names = lines.label.concat("adversarial, all selected images");
    const wide = 45 + 5.8 * Math.max(...names.map((name) => name.length));
    const ncols = Math.min(Math.max(Math.floor(explorer.frameWidth(figure, bar.clientWidth - BESIDE) / wide), 1), names.length + 1);
    if (find("legend").ncols !== ncols) find("legend").ncols = ncols;
    figure.height = 300 + 22 * Math.ceil((names.length + 1) / ncols);
    find("order").data = {neuron: order};
    find("source").data = points;
    find("class-source").data = lines;
    find("band-source").data = bands;
  }

  function drawBars() {
    const values = explorer.measureValues(model);
    const heights = Float64Array.from(order, (neuron) => (Number.isFinite(values[neuron]) ? values[neuron] : 0));
    const shared = explorer.columns(order.length, figure);
    const gap = shared.length <= APART ? 0.1 : 0;
    const bars = {x: [], low: [], high: []};
    for (const column of shared) {
      const [low, high] = [Math.min(least(heights, column), 0), Math.max(most(heights, column), 0)];
      const [left, right] = [column[0] - 0.5 + gap, column[1] + 0.5 - gap];
      bars.x.push(left, left, right, right);
      bars.low.push(0, low, low, 0);
      bars.high.push(0, high, high, 0);
    }
    const at = turns(shared, [heights]);
    find("bars-source").data = bars;
    find("tops-source").data = {
      x: at, neuron: at.map((one) => order[one]), measure: at.map((one) => values[order[one]]),
    };
  }

  function drawFocus() {
    const at = order.indexOf(model.focus);
    for (const name of ["lines", "bars"]) find(`${name}-span`).setv({location: Math.max(at, 0), visible: at >= 0});
    const right = at > 0.85 * order.length;
    find("label").setv({
      x: Math.max(at, 0), text: `neuron ${model.focus}`, visible: at >= 0,
      text_align: right ? "right" : "left", x_offset: right ? -5 : 5,
    });
  }

  function drawAxes() {
    const {label} = meta.measures[explorer.measureNumber(model)];
    const sorted = ORDERS.find(([value]) => value === sorting.value)[1];
    find("lines-y").axis_label = data.weights ? "mean activation × weight" : "mean activation";
    find("bars-y").axis_label = short(label, 30);
    find("bars-x").axis_label = `neuron (its number), sorted by ${sorted.replace("the measure", label)}`;
    const value = [label, "@measure{%.4g}"];
    find("hover").tooltips = [...find("hover").tooltips.slice(0, 3), value];
    find("bars-hover").tooltips = [["neuron", "@neuron"], value];
    // another order is seen as a whole first
    const [start, end] = [-0.5, order.length - 0.5];
    figure.x_range.setv({start, end, reset_start: start, reset_end: end});
  }

  function say() {
    const {number} = explorer;
    const images = explorer.imageRows().length;
    const parts = [];
    if (model.neurons !== null) parts.push(`${number(order.length)} of ${number(count)} neurons, selected.`);
    if (!order.includes(model.focus)) parts.push(`Neuron ${model.focus}, in focus, is not one of them.`);
    if (found.rows.length === 0) {
      const first = kept === 1 ? "the first image has" : `the first ${number(kept)} images have`;
      parts.push(
        `No selected image has the values of its neurons in this page; only ${first}. Select some of those to see lines.`,
      );
    } else {
      const those = found.rows.length < images ? `, those with the values of their neurons in this page` : "";
      const of = `${number(found.rows.length)} of ${number(images)} selected image${images > 1 ? "s" : ""}`;
      const around = hasBand(found.rows) ? `; band: ${BANDS.find(([value]) => value === band.value)[2]}` : "";
      parts.push(`Means over ${of}${those}${around}.`);
      if (found.rows.length === 1 && band.value !== "none") parts.push("One image has no band.");
    }
    if (order.length > explorer.SINGLE) {
      parts.push("Where neurons share a pixel, their lowest and highest values are drawn; zoom in to see each.");
    }
    const without = found.classes.filter(({rows}) => rows.length === 0).map((one) => page.classes[one.number]);
    if (without.length && found.rows.length) parts.push(`None of them is of class ${without.join(", ")}.`);
    const values = explorer.measureValues(model);
    const missing = order.reduce((sum, neuron) => sum + (Number.isFinite(values[neuron]) ? 0 : 1), 0);
    if (missing) parts.push(`${number(missing)} neurons shown have no value of this measure.`);
    if (!data.weights && meta.missing.weights) parts.push(meta.missing.weights.replace(/\.?$/, "."));
    note.textContent = parts.join(" ");
  }

  // --- choosing in the figures ----------------------------------------------------------------------------

  for (const name of ["lines", "bars"]) {
    explorer.onEvent(find(name), "tap", ({x}) => {
      explorer.focusNeuron(model, order[Math.min(Math.max(Math.round(x), 0), order.length - 1)]);
    });
    explorer.onEvent(find(name), "selectiongeometry", ({geometry, final}) => {
      if (!final || geometry.type !== "rect") return;
      const [low, high] = [Math.min(geometry.x0, geometry.x1), Math.max(geometry.x0, geometry.x1)];
      const chosen = [...order.filter((_, at) => low <= at && at <= high)];
      if (chosen.length) explorer.selectNeurons(model, chosen);
    });
  }

  // Columns are others after a zoom; drawn once for all that changes before the next frame.
  let waiting = false;
  function zoomed(must) {
    if (waiting || order === null || !(must || order.length > explorer.SINGLE)) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawLines();
      drawBars();
    });
  }
  for (const end of ["start", "end"]) explorer.when(figure.x_range, end, () => zoomed(false));
  explorer.when(figure, "inner_width", () => zoomed(true));

  function draw(what) {
    if (what.means) compute();
    if (what.order) {
      order = explorer.orderedNeurons(model, sorting.value);
      if (model.neurons !== null) order = order.filter((neuron) => model.neurons[neuron]);
      drawFocus();
      drawAxes();
      drawBars();
    }
    drawLines();
    say();
  }

  return {
    update(changes) {
      measure.value = model.measure;
      all.disabled = model.neurons === null;
      const means = changes.has("images") || changes.has("level");
      const places = changes.has("neurons") || changes.has("level") || changes.has("measure");
      if (means || places) draw({means, order: places});
      if (changes.has("focus")) {
        drawFocus();
        say();
      }
    },
  };
});
