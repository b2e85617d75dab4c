// Neuron clusters: the tree, its cut, and selection of the neurons below a link.
"use strict";

explorer.view("clusters", (model) => {
  const find = (name) => explorer.bokeh(`clusters-${name}`, model);
  const figure = find("tree");
  if (!figure) return null;
  const {data, meta} = model;
  const count = meta.neurons;
  const leaf = data.clusters_leaf.data;
  const order = data.clusters_order.data;
  const linkage = data.clusters_linkage.data;
  const leaves = order.length;
  const links = leaves - 1;
  // Told apart by the colour-blind, and none that means benign or adversarial; neighbours always differ.
  const COLOURS = ["#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#882255", "#999933"];
  const ABOVE = "#8a94a3", CHOSEN = "#1c2430", SOME = "#7b8494";
  const MOST_NAMED = 40; // clusters with a number in the figure
  const MOST_LISTED = 500; // and in the list
  const NEAR = 12; // pixels from a link that a click may be
  const ROOM = 14; // pixels that the number of a leaf takes
  const BESIDE = 110; // pixels beside the frame of the figure, about

  // --- the tree -------------------------------------------------------------------------------------------

  // Every leaf and, from `leaves` on, every link covers the leaves from low to high, in the order that is drawn.
  const place = new Int32Array(leaves);
  for (let at = 0; at < leaves; at++) place[order[at]] = at;
  const low = new Int32Array(leaves + links);
  const high = new Int32Array(leaves + links);
  low.set(place);
  high.set(place);
  const child = (link, side) => linkage[4 * link + side];
  const distance = (link) => linkage[4 * link + 2];
  const xs = [], ys = [];
  for (let link = 0; link < links; link++) {
    low[leaves + link] = Math.min(low[child(link, 0)], low[child(link, 1)]);
    high[leaves + link] = Math.max(high[child(link, 0)], high[child(link, 1)]);
    xs.push(data.clusters_segments.data.subarray(8 * link, 8 * link + 4));
    ys.push(data.clusters_segments.data.subarray(8 * link + 4, 8 * link + 8));
  }
  const at = Int32Array.from(leaf, (one) => place[one]); // of each neuron
  const sizes = sums(null); // sizes[i]: neurons of the leaves before i
  const first = new Int32Array(leaves).fill(-1);
  for (let neuron = 0; neuron < count; neuron++) if (first[at[neuron]] < 0) first[at[neuron]] = neuron;
  const highest = links ? distance(links - 1) : 0;

  function sums(chosen) {
    const found = new Int32Array(leaves + 1);
    for (let neuron = 0; neuron < count; neuron++) if (chosen === null || chosen[neuron]) found[at[neuron] + 1]++;
    for (let i = 0; i < leaves; i++) found[i + 1] += found[i];
    return found;
  }

  // The nodes that a cut leaves whole, from left to right.
  function whole(cut) {
    const found = [];
    const open = [leaves + links - 1];
    while (open.length) {
      const node = open.pop();
      if (node >= leaves && distance(node - leaves) > cut) open.push(child(node - leaves, 0), child(node - leaves, 1));
      else found.push(node);
    }
    return found.sort((one, other) => low[one] - low[other]);
  }

  // --- form elements --------------------------------------------------------------------------------------

  const bar = explorer.controls("clusters", model);
  const STEPS = 1000;
  const slider = document.createElement("input");
  Object.assign(slider, {type: "range", min: 0, max: STEPS, step: 1, autocomplete: "off", disabled: highest === 0});
  slider.style.width = "16rem";
  const cutAt = document.createElement("output");
  cutAt.style.minWidth = "5ch";
  const cutLabel = bar.appendChild(document.createElement("label"));
  cutLabel.append("cut at distance", slider, cutAt);
  const cutSays = bar.appendChild(document.createElement("span"));
  slider.addEventListener("input", () => draw({cut: true}));
  const list = explorer.choice(bar, "select cluster", [], () => list.value && choose(clusters[Number(list.value)]));
  const modes = bar.appendChild(document.createElement("fieldset"));
  modes.style.cssText = "display: flex; flex-wrap: wrap; gap: .2rem .9rem; border: 0; margin: 0; padding: 0; min-width: 0";
  modes.append("a click");
  for (const [value, text] of [
    ["replace", "replaces the selection"], ["union", "adds to it (union)"], ["intersection", "keeps what is in both (intersection)"],
  ]) {
    const radio = document.createElement("input");
    Object.assign(radio, {type: "radio", name: `clusters-mode-${model.index}`, value, checked: value === "replace", autocomplete: "off"});
    modes.appendChild(document.createElement("label")).append(radio, text);
  }
  const all = bar.appendChild(document.createElement("button"));
  Object.assign(all, {type: "button", textContent: "Show all neurons"});
  all.addEventListener("click", () => explorer.selectNeurons(model, null));
  const [says, how] = ["status", "note"].map((role) => {
    const text = bar.appendChild(document.createElement("p"));
    text.setAttribute("role", role);
    text.style.cssText = "flex-basis: 100%; margin: 0";
    return text;
  });
  how.className = "note";
  how.textContent = meta.clustersHow;

  // --- drawing --------------------------------------------------------------------------------------------

  let clusters = [];
  let refused = false; // whether the last click left nothing

  function cut() {
    return (highest * slider.valueAsNumber) / STEPS;
  }

  function drawCut() {
    clusters = whole(cut());
    cutAt.textContent = Number(cut().toPrecision(3));
    find("cut").setv({location: cut(), visible: highest > 0});
    const neurons = clusters.map((node) => sizes[high[node] + 1] - sizes[low[node]]);
    const smallest = neurons.reduce((one, other) => Math.min(one, other));
    const largest = neurons.reduce((one, other) => Math.max(one, other));
    const number = explorer.number;
    const range = smallest === largest ? number(smallest) : `${number(smallest)} to ${number(largest)}`;
    const each = clusters.length > 1 && smallest === largest ? " each" : "";
    cutSays.textContent =
      `${number(clusters.length)} cluster${clusters.length > 1 ? "s" : ""} of ${range} neuron${largest > 1 ? "s" : ""}${each}`;
    slider.setAttribute("aria-valuetext", `${cutAt.textContent}: ${cutSays.textContent}`);
    const listed = clusters.length <= MOST_LISTED;
    list.replaceChildren(new Option(listed ? "choose one" : `too many to list`, ""));
    list.disabled = !listed;
    if (listed) neurons.forEach((size, i) => list.add(new Option(`${i + 1}: ${number(size)} neuron${size > 1 ? "s" : ""}`, i)));
    const named = clusters.length <= MOST_NAMED ? clusters : [];
    find("names").data = {
      x: named.map((node) => (node < leaves ? place[node] : (xs[node - leaves][0] + xs[node - leaves][3]) / 2)),
      y: named.map(cut),
      text: named.map((_, i) => String(i + 1)),
      colour: named.map(() => CHOSEN),
    };
  }

  function drawLinks() {
    const colours = new Array(leaves + links).fill(ABOVE);
    for (const [i, node] of clusters.entries()) colours[node] = COLOURS[i % COLOURS.length];
    for (let link = links - 1; link >= 0; link--) {
      if (colours[leaves + link] === ABOVE) continue;
      for (const side of [0, 1]) colours[child(link, side)] = colours[leaves + link];
    }
    const chosen = model.neurons === null ? null : sums(model.neurons);
    const below = (sum, node) => sum[high[node] + 1] - sum[low[node]];
    const columns = {xs, ys, colour: colours.slice(leaves), width: [], distance: [], neurons: []};
    for (let link = 0; link < links; link++) {
      const size = below(sizes, leaves + link);
      columns.distance.push(distance(link));
      columns.neurons.push(size);
      columns.width.push(chosen !== null && below(chosen, leaves + link) === size ? 3.5 : 1.3);
    }
    find("links").data = columns;
    const strip = {left: [], right: [], label: [], chosen: []};
    const marks = {left: [], right: [], colour: []};
    const half = leaves <= 100 ? 0.42 : 0.5;
    for (let i = 0; i < leaves; i++) {
      const size = below(sizes, order[i]);
      const of = chosen === null ? size : below(chosen, order[i]);
      strip.left.push(i - half);
      strip.right.push(i + half);
      strip.label.push(size > 1 ? `${first[i]} +${explorer.number(size - 1)}` : String(first[i]));
      strip.chosen.push(`${explorer.number(of)} of ${explorer.number(size)}`);
      if (chosen === null || of === 0) continue;
      marks.left.push(i - half);
      marks.right.push(i + half);
      marks.colour.push(of < size ? SOME : CHOSEN);
    }
    find("leaves").data = strip;
    find("chosen").data = marks;
  }

  function drawFocus() {
    const x = at[model.focus];
    const right = x > 0.85 * leaves;
    find("span").setv({location: x, visible: true});
    find("label").setv({
      x, text: `neuron ${model.focus}`, visible: true, text_align: right ? "right" : "left", x_offset: right ? -5 : 5,
    });
  }

  // Numbers of as many of the leaves in view as there is room for.
  function drawTicks() {
    const {start, end} = figure.x_range;
    const from = Math.max(Math.ceil(start), 0), to = Math.min(Math.floor(end), leaves - 1);
    const step = Math.max(Math.ceil((ROOM * (end - start)) / Math.max(explorer.frameWidth(figure, bar.clientWidth - BESIDE), 1)), 1);
    const ticks = [];
    for (let i = Math.ceil(from / step) * step; i <= to; i += step) ticks.push(i);
    if (ticks.join() !== find("ticks").ticks.join()) find("ticks").ticks = ticks;
  }

  function say() {
    const {number} = explorer;
    const LISTED = 60;
    if (model.neurons === null) {
      says.textContent = 
        `${count > 1 ? `All ${number(count)} neurons are` : "The only neuron is"} shown. ` +
        "Click a link of the tree to select the neurons below it, or a mark below to select one leaf.";
    } else {
      const chosen = explorer.neuronPlaces(model);
      const more = chosen.length > LISTED ? ` and ${number(chosen.length - LISTED)} more` : "";
      const those = chosen.slice(0, LISTED).join(", ");
      says.textContent = `${number(chosen.length)} of ${number(count)} neurons selected: ${those}${more}`;
    }
    if (refused) says.textContent = `No selected neuron is in there, so the selection stays. ${says.textContent}`;
  }

  // --- choosing -------------------------------------------------------------------------------------------

  function choose(node) {
    const mode = modes.querySelector("input:checked").value;
    const chosen = [];
    for (let neuron = 0; neuron < count; neuron++) {
      const inside = at[neuron] >= low[node] && at[neuron] <= high[node];
      const before = model.neurons !== null && mode !== "replace" ? model.neurons[neuron] === 1 : null;
      if (before === null ? inside : mode === "union" ? inside || before : inside && before) chosen.push(neuron);
    }
    refused = chosen.length === 0;
    if (refused) say();
    else explorer.selectNeurons(model, chosen.length === count ? null : chosen);
  }

  // The link that is nearest to a point, null where none is near; a leg of a link is part of it.
  function nearest(x, y) {
    const {x_range, y_range, inner_width, inner_height} = figure;
    const [wide, tall] = [inner_width / (x_range.end - x_range.start), inner_height / (y_range.end - y_range.start)];
    const outside = (value, from, to) => Math.max(from - value, value - to, 0);
    let best = {link: null, away: NEAR};
    for (let link = 0; link < links; link++) {
      const [left, , , right] = xs[link];
      const [foot, top, , other] = ys[link];
      const away = Math.min(
        Math.hypot(outside(x, left, right) * wide, (y - top) * tall),
        Math.hypot((x - left) * wide, outside(y, foot, top) * tall),
        Math.hypot((x - right) * wide, outside(y, other, top) * tall),
      );
      if (away < best.away) best = {link, away};
    }
    return best.link;
  }

  explorer.onEvent(figure, "tap", ({x, y}) => {
    const i = Math.round(x);
    if (y < 0) {
      if (i < 0 || i >= leaves) return;
      choose(order[i]);
      explorer.focusNeuron(model, first[i]);
      return;
    }
    const link = nearest(x, y);
    if (link !== null) choose(leaves + link);
  });
  for (const end of ["start", "end"]) explorer.when(figure.x_range, end, drawTicks);
  explorer.when(figure, "inner_width", drawTicks);

  function draw(what) {
    if (what.cut) drawCut();
    drawLinks();
    say();
  }

  // At first five clusters, or as many as there are.
  const some = Math.min(5, leaves);
  if (highest > 0 && some > 1) {
    const between = (distance(links - some + 1) + (links >= some ? distance(links - some) : 0)) / 2;
    slider.value = Math.round((STEPS * between) / highest);
  }
  drawCut();
  drawTicks();

  return {
    update(changes) {
      all.disabled = model.neurons === null;
      if (changes.has("neurons")) {
        refused = false;
        draw({});
      }
      if (changes.has("focus")) drawFocus();
    },
  };
});
