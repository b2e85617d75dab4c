// Data overview: colours and places of the points, counts of the matrix, and selection in both.
"use strict";

explorer.view("overview", (model) => {
  const points = explorer.bokeh("points", model);
  if (!points) return null;
  const page = explorer.page;
  const {labels, samples, coordinates, probabilities} = model.data;
  const cells = explorer.bokeh("cells", model);
  const matrix = explorer.bokeh("matrix", model);
  const counts = explorer.bokeh("counts", model);
  const text = explorer.bokeh("cell-text", model);
  const squares = explorer.bokeh("cell-squares", model);
  const [classes] = cells.tags; // the classes of the matrix, in order
  const place = new Map(classes.map((number, i) => [number, i]));
  const n = page.count;
  const predictions = Array.from({length: 1 + page.levels.length}, (_, which) => explorer.predicted(model, which));
  let rowsOf = new Map(); // images of each cell of the matrix

  // --- form elements ------------------------------------------------------------------------------------

  const bar = explorer.controls("overview", model);

  const colour = explorer.choice(bar, "colour points by", [["true", "true label"], ["predicted", "predicted label"]], drawPoints);
  const input = explorer.choice(bar, "matrix of", [["adversarial", "adversarial inputs"], ["benign", "benign inputs"]], () => {
    drawMatrix();
  });
  const any = [["", "any"], ...classes.map((number) => [number, page.classes[number]])];
  // the same as a click on a cell, for the keyboard
  const ofTrue = explorer.choice(bar, "select true label", any, selectNamed);
  const ofPredicted = explorer.choice(bar, "predicted as", any, selectNamed);
  let naming = false;
  legend();

  function selectNamed() {
    const wanted = (list, number) => list.value === "" || Number(list.value) === number;
    const guesses = predictions[input.value === "benign" ? 0 : 1 + page.level];
    const rows = [];
    for (let i = 0; i < n; i++) if (wanted(ofTrue, labels.data[i]) && wanted(ofPredicted, guesses[i])) rows.push(i);
    naming = true;
    explorer.selectImages(ofTrue.value === "" && ofPredicted.value === "" ? null : rows);
    naming = false;
    said.textContent = rows.length ? "" : "There is no such image; all are selected.";
  }

  const said = document.createElement("span");
  said.setAttribute("role", "status");
  bar.append(said);

  function legend() {
    const list = document.createElement("div");
    list.className = "legend";
    if (page.classes.length > new Set(page.colours).size) {
      list.textContent =
        `Colours repeat over the ${explorer.number(page.classes.length)} classes; the tooltip of a point names its ` +
        `class. The matrix has the ${explorer.number(classes.length)} of ` +
        `${explorer.number(page.classes.length)} classes that occur.`;
    } else {
      for (const number of page.classes.keys()) list.append(explorer.classLabel(number));
    }
    const how = document.createElement("span");
    how.className = "legend";
    how.textContent = `Points are placed by ${model.meta.projection}.`;
    bar.append(list, how);
  }

  // --- drawing ------------------------------------------------------------------------------------------

  function drawPoints() {
    const columns = {number: Array.from(samples.data), true: Array.from(labels.data, (label) => page.classes[label])};
    for (const [which, suffix] of [[0, ""], [1 + page.level, "_adversarial"]]) {
      const guesses = predictions[which];
      const shown = colour.value === "true" ? labels.data : guesses;
      const [x, y, p] = [new Float32Array(n), new Float32Array(n), new Float32Array(n)];
      for (let i = 0; i < n; i++) {
        x[i] = coordinates.data[2 * (which * n + i)];
        y[i] = coordinates.data[2 * (which * n + i) + 1];
        p[i] = probabilities.data[(which * n + i) * page.classes.length + guesses[i]];
      }
      Object.assign(columns, {
        [`x${suffix}`]: x,
        [`y${suffix}`]: y,
        [`p${suffix}`]: p,
        [`colour${suffix}`]: Array.from(shown, (number) => page.colours[number]),
        [`marker${suffix}`]: Array.from(shown, (number) => page.markers[number]),
        [`predicted${suffix}`]: Array.from(guesses, (number) => page.classes[number]),
      });
    }
    points.data = columns;
  }

  function drawMatrix() {
    const benign = input.value === "benign";
    const guesses = predictions[benign ? 0 : 1 + page.level];
    rowsOf = new Map();
    for (let i = 0; i < n; i++) {
      const cell = place.get(labels.data[i]) * classes.length + place.get(guesses[i]);
      if (!rowsOf.has(cell)) rowsOf.set(cell, []);
      rowsOf.get(cell).push(i);
    }
    const columns = {x: [], y: [], all: [], chosen: [], true: [], predicted: []};
    const drawn = classes.length <= 20 ? Array(classes.length ** 2).keys() : rowsOf.keys();
    for (const cell of drawn) {
      const [row, column] = [Math.floor(cell / classes.length), cell % classes.length];
      const rows = rowsOf.get(cell) ?? [];
      columns.x.push(column);
      columns.y.push(row);
      columns.all.push(rows.length);
      columns.chosen.push(page.images ? rows.reduce((sum, i) => sum + page.images[i], 0) : rows.length);
      columns.true.push(page.classes[classes[row]]);
      columns.predicted.push(page.classes[classes[column]]);
    }
    const most = Math.max(1, ...columns.all);
    columns.text = columns.all.map((all, i) => written(columns.chosen[i], all));
    columns.ink = columns.chosen.map((chosen) => (chosen > 0.55 * most ? "#ffffff" : "#1c2430"));
    columns.line = columns.all.map((all, i) => (page.images && all && columns.chosen[i] === all ? "#d55e00" : "#e3e6ea"));
    counts.high = most;
    cells.data = columns;
    matrix.below[0].axis_label = `label predicted for the ${benign ? "benign" : "adversarial"} input`;
  }

  // As much as there is room for in a cell.
  function written(chosen, all) {
    const width = explorer.frameWidth(matrix, 0) / classes.length;
    if (!all || width < 15) return "";
    if (width > 7 * `${chosen}/${all}`.length) return `${chosen}/${all}`;
    return width < 26 ? `${chosen}` : `${chosen}\n/${all}`;
  }

  explorer.when(matrix, "inner_width", () => {
    text.glyph.text_font_size = {value: matrix.inner_width / classes.length < 26 ? "9px" : "11px"};
    if (classes.length > 20) {
      // cells of less than 4 pixels would hardly be seen
      squares.glyph.width = {value: Math.max(1, (4 * classes.length) / matrix.inner_width)};
      squares.glyph.height = {value: Math.max(1, (4 * classes.length) / matrix.inner_height)};
    }
    drawMatrix();
  });

  // --- selection ----------------------------------------------------------------------------------------

  let telling = false; // while this script itself changes the selection of the points
  explorer.when(points.selected, "indices", () => {
    if (!telling) explorer.selectImages([...points.selected.indices]);
  });

  explorer.onEvent(matrix, "tap", ({x, y, modifiers}) => {
    const [column, row] = [Math.round(x), Math.round(y)];
    const inside = column >= 0 && column < classes.length && row >= 0 && row < classes.length;
    const rows = inside ? rowsOf.get(row * classes.length + column) : undefined;
    if (!rows) return;
    const chosen = page.images ? explorer.imageRows() : [];
    const whole = page.images !== null && rows.every((i) => page.images[i]);
    if (modifiers.shift) {
      const cell = new Set(rows);
      explorer.selectImages(whole ? chosen.filter((i) => !cell.has(i)) : [...chosen, ...rows]);
    } else {
      explorer.selectImages(whole && chosen.length === rows.length ? null : rows);
    }
  });

  // Bokeh's own reset takes back the selection too.
  for (const name of ["benign-scatter", "adversarial-scatter", "matrix"]) {
    const plot = explorer.bokeh(name, model);
    explorer.onEvent(plot, "reset", () => {
      plot.x_range.reset();
      plot.y_range.reset();
    });
  }

  return {
    update(changes) {
      if (changes.has("level")) drawPoints();
      if (!changes.has("level") && !changes.has("images")) return;
      drawMatrix();
      telling = true;
      points.selected.indices = page.images ? explorer.imageRows() : [];
      telling = false;
      if (changes.has("images") && !naming) {
        ofTrue.value = ofPredicted.value = "";
        said.textContent = "";
      }
    },
  };
});
