// Image grid: a page of pairs of the selected images. The figure's units are pixels of the screen, from its top left.
"use strict";

explorer.view("grid", (model) => {
  const plot = explorer.bokeh("grid", model);
  if (!plot) return null;
  const PAGE = 12; // pairs on a page
  const LINE = 14; // height of a line of text
  const MARGIN = 20; // for what stands at the left of each row
  const BESIDE = 30; // pixels beside the frame of the figure, about
  const INK = "#1c2430";
  const page = explorer.page;
  const {labels, samples, probabilities, linf, l2, benign} = model.data;
  const {Uint32NDArray} = Bokeh.require("core/util/ndarray");
  const [, height, width] = benign.shape;
  const sources = Object.fromEntries(
    ["frames", "pictures", "bars", "texts"].map((name) => [name, explorer.bokeh(`grid-${name}`, model)]),
  );
  let first = 0; // of the pairs of this page, a place in `rows`
  let rows = []; // selected images in the order in which they are shown
  let cells = []; // {row, left, top, right, bottom} of the pairs on the screen

  // --- form elements ------------------------------------------------------------------------------------

  const bar = explorer.controls("grid", model);
  const button = (text, by) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", () => {
      first += by;
      draw();
    });
    bar.append(made);
    return made;
  };
  const before = button("‹ Previous", -PAGE);
  const said = document.createElement("span");
  said.setAttribute("role", "status");
  said.className = "pages";
  bar.append(said);
  const after = button("Next ›", PAGE);
  const orders = [
    ["data", "order of the data"],
    ["drop", "fall of the true class's probability, largest first"],
    ["size", "size of the perturbation (L2), largest first"],
  ];
  const order = explorer.choice(bar, "sort by", orders, () => {
    sort();
    draw();
  });

  // --- what is shown ------------------------------------------------------------------------------------

  const p = (which, row, number) => probabilities.data[(which * page.count + row) * page.classes.length + number];

  function sort() {
    rows = explorer.imageRows();
    first = 0;
    const keys = {
      drop: (row) => p(0, row, labels.data[row]) - p(1 + page.level, row, labels.data[row]),
      size: (row) => l2.data[page.level * page.count + row],
    };
    const key = keys[order.value];
    if (key) rows.sort((one, other) => key(other) - key(one) || one - other);
  }

  // As many columns as fit and fill whole rows, and how large a picture is then: whole pixels for each of its own.
  function layout(frame) {
    const room = frame - MARGIN;
    const columns = [12, 6, 4, 3, 2].find((count) => room / count >= 100) ?? 1;
    const cell = Math.min(room / columns, 150);
    const scale = Math.min((cell - 18) / width, (cell - 18) / height);
    const times = scale >= 1 ? Math.floor(scale) : scale;
    const [w, h] = [Math.max(1, width * times), Math.max(1, height * times)];
    return {columns, cell, w, h, block: h + 12 + 3 * LINE, total: 2 * LINE + 2 * (h + 12 + 3 * LINE) + 2 * LINE + 22};
  }

  const cut = (text, pixels) => explorer.short(text, Math.max(3, Math.floor(pixels / 6)));

  function draw() {
    const frame = explorer.frameWidth(plot, bar.clientWidth - BESIDE);
    if (!(frame > MARGIN)) return; // not on the screen yet
    const shown = rows.slice(first, first + PAGE);
    const drawing = layout(frame);
    const frames = {x: [], y: [], width: [], height: [], colour: [], number: [], kind: [], true: [], predicted: [],
      p: [], size: []};
    const pictures = {image: [], x: [], y: [], width: [], height: []};
    const bars = {left: [], right: [], top: [], bottom: [], colour: [], alpha: []};
    const texts = {x: [], y: [], text: [], colour: [], align: [], angle: [], style: []};
    const add = (columns, values) => {
      for (const [name, value] of Object.entries(values)) columns[name].push(value);
    };
    const write = (text, x, y, more = {}) =>
      add(texts, {x, y, text, colour: INK, align: "left", angle: 0, style: "normal", ...more});

    // A picture at (left, top) with its frame, the predicted class, and the probabilities of two classes.
    function block(row, left, top, level) {
      const which = level === null ? 0 : 1 + level;
      const kind = level === null ? "benign" : "adversarial";
      const [truth, guess] = [labels.data[row], explorer.predicted(model, which)[row]];
      const {w, h, cell} = drawing;
      add(frames, {
        x: left + w / 2, y: top + h / 2, width: w + 4, height: h + 4, colour: page.colours[guess],
        number: samples.data[row], kind, true: page.classes[truth], predicted: page.classes[guess],
        p: p(which, row, guess), size: sizes(row).join(", "),
      });
      const image = explorer.pictures.rgba(explorer.pictures.picture(model, row, level));
      add(pictures, {image: new Uint32NDArray(image, [height, width]), x: left, y: top, width: w, height: h});
      let y = top + h + 12;
      write(cut(`→ ${page.classes[guess]}`, cell - 14), left - 2, y, {style: "bold"});
      const long = cell - 16;
      for (const number of [truth, explorer.adversarialClasses(model, page.level)[row]]) {
        y += LINE;
        const value = p(which, row, number);
        const edges = {left: left - 2, top: y - LINE / 2 + 1, bottom: y + LINE / 2 - 1};
        add(bars, {...edges, right: left - 2 + long, colour: "#eef0f3", alpha: 1});
        add(bars, {...edges, right: left - 2 + long * value, colour: page.colours[number], alpha: 0.4});
        write(cut(page.classes[number], long - 34), left, y);
        write(value.toFixed(2), left - 4 + long, y, {align: "right"});
      }
    }

    cells = [];
    for (const [i, row] of shown.entries()) {
      const left = MARGIN + (i % drawing.columns) * drawing.cell + 6;
      const top = Math.floor(i / drawing.columns) * drawing.total;
      cells.push({row, left, top, right: left + drawing.cell, bottom: top + drawing.total});
      write(`image ${samples.data[row]}`, left - 2, top + LINE / 2, {style: "bold"});
      write(cut(`true: ${page.classes[labels.data[row]]}`, drawing.cell - 14), left - 2, top + 1.5 * LINE);
      const [upper, lower] = [top + 2 * LINE + 5, top + 2 * LINE + 5 + drawing.block + 8];
      block(row, left, upper, null);
      block(row, left, lower, page.level);
      sizes(row).forEach((text, line) => write(text, left - 2, lower + drawing.block + (line + 0.2) * LINE));
      if (i % drawing.columns === 0) {
        const side = {align: "center", angle: Math.PI / 2, style: "bold"};
        write("benign", 8, upper + drawing.h / 2, {...side, colour: explorer.BENIGN});
        write("adversarial", 8, lower + drawing.h / 2, {...side, colour: explorer.ADVERSARIAL});
      }
    }
    const total = Math.max(1, Math.ceil(shown.length / drawing.columns)) * drawing.total;
    plot.height = Math.round(total);
    plot.x_range.setv({start: 0, end: frame});
    plot.y_range.setv({start: total, end: 0});
    for (const [name, columns] of Object.entries({frames, pictures, bars, texts})) sources[name].data = columns;
    const number = explorer.number;
    const numbers = shown.length > 1 ? `images ${number(first + 1)}–` : "image ";
    said.textContent = `${numbers}${number(first + shown.length)} of ${number(rows.length)}`;
    before.disabled = first === 0;
    after.disabled = first + PAGE >= rows.length;
  }

  function sizes(row) {
    const at = page.level * page.count + row;
    return [`L∞ ${explorer.size(linf.data[at])}`, `L2 ${l2.data[at].toPrecision(3)}`];
  }

  explorer.when(plot, "inner_width", draw);

  explorer.onEvent(plot, "tap", ({x, y}) => {
    const hit = cells.find((one) => x >= one.left && x < one.right && y >= one.top && y < one.bottom);
    if (!hit) return;
    const alone = page.images !== null && rows.length === 1;
    explorer.selectImages(alone ? null : [hit.row]);
  });

  return {
    update(changes) {
      if (changes.has("images") || (changes.has("level") && order.value !== "data")) sort();
      if (changes.has("images") || changes.has("level")) draw();
    },
  };
});
