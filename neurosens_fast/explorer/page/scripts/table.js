// The table of all neurons. Bokeh's table draws the rows that are in sight; which there are and in which order is
// found here, over typed arrays, so that pinned neurons stay on top and 50,000 rows sort at once.
"use strict";

(() => {
  const orders = new WeakMap(); // the source of a table -> its rows in the order for [{sortCol, sortAsc}]

  // Bokeh's own sorting makes an object of each row and knows no pins.
  function takeOver(provider) {
    const type = Object.getPrototypeOf(provider);
    if (type.ordered) return;
    const plain = type.sort;
    type.ordered = true;
    type.sort = function sort(columns) {
      const order = orders.get(this.source);
      if (order) this.index = order(columns);
      else plain.call(this, columns);
    };
  }

  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  // Nine digits are enough for any float32 to be read back as it is.
  const exact = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(9))) : "");

  function download(text, name) {
    const address = URL.createObjectURL(new Blob([text], {type: "text/csv;charset=utf-8"}));
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  explorer.view("table", (model) => {
    const table = explorer.bokeh("table-grid", model);
    if (!table) return null;
    const part = (name) => explorer.bokeh(`table-${name}`, model);
    const {page, number} = explorer;
    const {meta, data} = model;
    const count = meta.neurons;
    const source = part("source");
    const view = Bokeh.index.find_one(table);
    let pinned = new Set();
    let columns = {};
    let searched = ""; // the last search that could be read
    let found = null; // mask of what the search finds, null for all
    let shown = []; // neurons in the order of the rows
    let sorted = {field: "neuron", rising: true};
    let wrong = ""; // what is wrong with the search
    let busy = false; // while this view itself selects rows

    takeOver(view.data);
    view.grid.focus = () => {}; // rows that another view marks would take the keyboard from it
    orders.set(source, (chosen) => {
      if (chosen.length) sorted = {field: chosen.at(-1).sortCol.field, rising: chosen.at(-1).sortAsc};
      order();
      return shown;
    });

    // --- columns and rows ---------------------------------------------------------------------------------

    const values = (level, place) => {
      const start = (level * meta.measures.length + place) * count;
      return data.measures.data.subarray(start, start + count);
    };
    const top = Float64Array.from({length: count}, (_, neuron) => {
      const sample = data.features_samples ? data.features_samples.data[neuron * data.features_samples.shape[1]] : -1;
      return sample < 0 ? NaN : sample;
    });
    const mark = new Array(count).fill("");

    function fill() {
      columns = {neuron: Int32Array.from({length: count}, (_, neuron) => neuron), mark};
      for (const [place, measure] of meta.measures.entries()) columns[measure.name] = values(page.level, place);
      columns.top = top;
      source.data = columns;
    }

    function markAll() {
      for (let neuron = 0; neuron < count; neuron++) {
        if (neuron !== model.focus && model.neurons === null && pinned.size === 0) {
          mark[neuron] = "";
          continue;
        }
        const said = [];
        if (pinned.has(neuron)) said.push("pinned");
        if (model.neurons !== null && model.neurons[neuron]) said.push("selected");
        if (neuron === model.focus) said.push("focused");
        mark[neuron] = said.join(", ");
      }
    }

    function order() {
      const rest = [];
      for (let neuron = 0; neuron < count; neuron++) {
        if (pinned.has(neuron)) continue;
        if ((model.neurons === null || model.neurons[neuron]) && (found === null || found[neuron])) rest.push(neuron);
      }
      const column = columns[sorted.field];
      const sign = sorted.rising ? 1 : -1;
      const compare = (one, other) => {
        const a = column[one], b = column[other];
        if (a === b) return one - other;
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b) || one - other; // last, always
        return a < b ? -sign : sign;
      };
      shown = [...[...pinned].sort(compare), ...rest.sort(compare)];
    }

    // --- drawing ------------------------------------------------------------------------------------------

    function pick(neurons) {
      busy = true;
      source.selected.indices = neurons;
      busy = false;
    }

    function redraw() {
      markAll();
      order();
      const there = new Set(shown);
      pick(source.selected.indices.filter((neuron) => there.has(neuron)));
      view.updateGrid();
      tell();
    }

    const picked = () => source.selected.indices;
    // What the buttons act on: several rows, else what was searched for, else the focused neuron.
    const acted = () => (picked().length ? picked() : [model.focus]);
    const toSelect = () => (picked().length > 1 || found === null ? acted() : shown.filter((neuron) => found[neuron]));

    function tell() {
      const outside = [...pinned].filter(
        (neuron) => (model.neurons && !model.neurons[neuron]) || (found && !found[neuron]),
      ).length;
      const said = [`<b>${number(shown.length - outside)} of ${number(count)} neurons</b>`];
      if (pinned.size) said.push(`${number(pinned.size)} pinned on top${outside ? `, ${number(outside)} of them besides` : ""}`);
      said.push(`measures at ${explorer.levelName(page.levels[page.level])}`);
      if (shown.length === 0) said.push("no neuron fits; clear the search to see all");
      const {say, escaped} = explorer.words;
      say(part("said"), said.join(" · ") + (wrong && `<br><b role="alert">${escaped(wrong)}</b>`));
      const on = acted();
      const unpin = on.every((neuron) => pinned.has(neuron));
      part("pin").label = `${unpin ? "Unpin" : "Pin"} ${on.length === 1 ? `neuron ${number(on[0])}` : `${number(on.length)} rows`}`;
      const chosen = toSelect();
      part("select").label = chosen.length === 1 ? `Select neuron ${number(chosen[0])}` : `Select these ${number(chosen.length)} neurons`;
      part("select").disabled = chosen.length === 0;
    }

    function sortBy(field, rising) {
      sorted = {field, rising};
      const column = view.grid.getColumns().find((one) => one.field === field);
      view.grid.setSortColumns([{columnId: column.id, sortAsc: rising}]);
      redraw();
      view.grid.scrollRowToTop(0);
      showSort();
    }

    const showSort = () => {
      if (part("sort").options.some(([field]) => field === sorted.field)) part("sort").value = sorted.field;
    };

    function search(text, complain) {
      const {mask, error} = explorer.searchNeurons(model, text);
      if (error && !complain) return; // it is not written to the end
      wrong = error ?? "";
      if (error) {
        tell();
        return;
      }
      found = mask;
      searched = text;
      redraw();
      view.grid.scrollRowToTop(0);
    }

    // --- export -------------------------------------------------------------------------------------------

    function csv(levels) {
      const several = page.models.length > 1;
      const names = meta.measures.map((measure) => measure.name);
      const head = ["neuron", "pinned", "attack", "eps", ...names, "top_image"];
      const lines = [(several ? ["model", ...head] : head).map(quoted).join(",")];
      for (const level of levels) {
        const {attack, eps} = page.levels[level];
        const all = names.map((_, place) => values(level, place));
        for (const neuron of shown) {
          const cells = [
            neuron, pinned.has(neuron) ? "yes" : "no", quoted(attack), eps === null ? "" : eps,
            ...all.map((column) => exact(column[neuron])), Number.isNaN(top[neuron]) ? "" : top[neuron],
          ];
          lines.push((several ? [quoted(meta.name), ...cells] : cells).join(","));
        }
      }
      return `${lines.join("\r\n")}\r\n`;
    }

    // --- what people do -----------------------------------------------------------------------------------

    explorer.when(source.selected, "indices", () => {
      if (busy) return;
      const rows = picked();
      if (rows.length === 1 && rows[0] !== model.focus) explorer.focusNeuron(model, rows[0]);
      else tell();
    });
    view.grid.onSort.subscribe(() => {
      view.grid.scrollRowToTop(0);
      showSort();
    });
    explorer.when(part("sort"), "value", () => {
      const field = part("sort").value;
      if (field !== sorted.field) sortBy(field, field === "neuron" || field === "top");
    });
    explorer.onEvent(part("reverse"), "button_click", () => sortBy(sorted.field, !sorted.rising));
    explorer.onEvent(part("pin"), "button_click", () => {
      const on = acted();
      const unpin = on.every((neuron) => pinned.has(neuron));
      explorer.pinNeurons(model, unpin ? [...pinned].filter((neuron) => !on.includes(neuron)) : [...pinned, ...on]);
    });
    explorer.onEvent(part("select"), "button_click", () => explorer.selectNeurons(model, toSelect()));
    explorer.when(part("search"), "value_input", () => search(part("search").value_input, false));
    explorer.when(part("search"), "value", () => search(part("search").value, true));
    explorer.onEvent(part("export"), "button_click", () => {
      const all = part("levels").value === "all";
      download(csv(all ? [...page.levels.keys()] : [page.level]), "neurons.csv");
    });
    const many = page.levels.length > 1;
    part("levels").options = many ? [["this", "this level"], ["all", `all ${page.levels.length} levels`]] : [["this", "this level"]];
    part("levels").value = "this";
    part("levels").visible = many;

    return {
      update(changes) {
        if (changes.has("pins")) {
          pinned = new Set(model.pins ? [...model.pins.keys()].filter((neuron) => model.pins[neuron]) : []);
          if (!changes.has("level")) {
            redraw();
            view.grid.scrollRowToTop(0);
          }
        }
        if (changes.has("level")) {
          fill();
          found = explorer.searchNeurons(model, searched).mask;
        }
        if (changes.has("measure")) sortBy(model.measure, false);
        else if (changes.has("level") || changes.has("neurons")) redraw();
        if (!changes.has("focus")) return;
        markAll();
        if (picked().length < 2) pick(shown.includes(model.focus) ? [model.focus] : []);
        view.grid.invalidate();
        const row = shown.indexOf(model.focus);
        if (row >= 0) view.grid.scrollRowIntoView(row);
        tell();
      },
    };
  }, {drawn: true});
})();
