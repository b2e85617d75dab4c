// The receptive field of the focused neuron in one image: what is in it, and what the attack does there.
"use strict";

(() => {
  // The image that is looked at, the same for both models where both have it.
  let shown = null;
  const redraws = [];

  const {list, percent, escaped, say, fold} = explorer.words;
  const {short} = explorer;
  const plain = (value) => `${value < 0 ? "−" : ""}${Math.abs(value).toFixed(3)}`;
  const signed = (value) => `${value < 0 ? "" : "+"}${plain(value)}`;

  explorer.view("fields", (model) => {
    if (!explorer.bokeh("fields", model)) return null;
    const part = (name) => explorer.bokeh(`field-${name}`, model);
    const fields = explorer.fields(model);
    const {drawMaps, drawOcclusion} = explorer.fieldMaps(model, fields);
    const {page, pictures} = explorer;
    const {samples, labels, probabilities} = model.data;
    const served = () => Boolean(page.served && explorer.ask);
    const imageName = (row) => `image ${explorer.number(samples.data[row])}`;
    let mend = () => {};
    let waiting = null;
    let drawShown = () => {};

    // Images that can be looked at now.
    function rows() {
      const chosen = explorer.imageRows();
      if (!served()) return chosen.filter((row) => fields.rowAt.has(row));
      return [...chosen.filter((row) => fields.rowAt.has(row)), ...chosen.filter((row) => !fields.rowAt.has(row))];
    }

    function move(step) {
      const all = rows();
      if (!all.length) return;
      shown = all[(all.indexOf(current(all)) + step + all.length) % all.length];
      for (const redraw of redraws) redraw();
    }

    // Whether what a part of the view shows is not what it showed before.
    const before = new Map();
    function differs(name, ...what) {
      const same = before.get(name)?.every((value, place) => value === what[place]);
      before.set(name, what);
      return !same;
    }

    const current = (all) => (all.includes(shown) ? shown : all[0] ?? null);

    // Both classes that count, and the model's probabilities of them: [image][class].
    function classes(level, row) {
      const [, count, size] = probabilities.shape;
      const of = (image) => probabilities.data.subarray((image * count + row) * size, (image * count + row + 1) * size);
      const benign = of(0), adversarial = of(1 + level);
      const truth = labels.data[row];
      const turned = explorer.adversarialClasses(model, level)[row];
      const predicted = explorer.predicted(model, 1 + level)[row];
      const p = [[benign[truth], benign[turned]], [adversarial[truth], adversarial[turned]]];
      return {truth, turned, predicted, p, names: [page.classes[truth], page.classes[turned]]};
    }

    // --- pictures and bars --------------------------------------------------------------------------------

    function bars(name, both, first, second, saidFirst, saidSecond) {
      const colours = [both.truth, both.turned].map((k) => page.colours?.[k] ?? "#888888");
      const column = {y: [4, 3, 1, 0], p: [], said: [], colour: [], fill: [], of: [], what: []};
      for (let side = 0; side < 2; side++) {
        for (const [values, said, fill] of [[first, saidFirst, 0.95], [second, saidSecond, 0.35]]) {
          column.p.push(values === null ? NaN : values[side]);
          column.said.push(values === null ? "" : `${values[side].toFixed(2)} ${said}`);
          column.colour.push(colours[side]);
          column.fill.push(fill);
          column.of.push(both.names[side]);
          column.what.push(said);
        }
      }
      part(`${name}-bars-source`).data = column;
      part(`${name}-names-source`).data = {
        y: [3.5, 0.5],
        said: [`${short(both.names[0], 14)}\n(true)`, `${short(both.names[1], 14)}\n(adversarial)`],
      };
    }

    function drawPictures(level, row, field) {
      const both = classes(level, row);
      const benign = pictures.picture(model, row), adversarial = pictures.picture(model, row, level);
      const {height, width} = benign;
      const visibility = part("visibility").value;
      const draw = (name, picture, faded) => pictures.show(
        part(`${name}-source`), pictures.rgba(picture, faded, visibility), height, width,
      );
      draw("benign", benign, field.mask);
      draw("adversarial", adversarial, field.mask);
      draw("swapped", pictures.swapped(benign, adversarial, field.mask), null);
      const {seen, drop, rise} = field;
      bars("benign", both, both.p[0], [seen[0], seen[1]], "whole", "field only");
      bars("adversarial", both, both.p[1], [seen[2], seen[3]], "whole", "field only");
      const after = [both.p[0][0] - drop, both.p[0][1] + rise];
      bars("swapped", both, both.p[0], after, "benign", "swapped");
      sayField(both, field, row, after);
    }

    function sayField(both, field, row, after) {
      const size = field.mask.data.length;
      const inside = field.mask.data.reduce((sum, one) => sum + one, 0);
      const share = model.meta.fieldShare;
      const small = page.factor > 1 && field.mask.height === model.data.benign.shape[1]; // a server's is not
      const counted = small ? ` (counted in pictures at 1/${page.factor} of their size)` : "";
      const which = share === null ? "with the largest influence on it" : `that together have ${percent(share)} of the influence on it`;
      const [truth, turned] = both.names.map(escaped);
      const other = both.truth === both.turned
        ? "There is no other class."
        : `p(${turned}), the adversarial class, changes by <b>${signed(field.rise)}</b> ` +
          `(${plain(both.p[0][1])} → ${plain(after[1])}).` +
          (both.predicted === both.truth
            ? ` The attack leaves the prediction of this image right: ${turned} is the most probable of the other classes.`
            : "");
      say(
        part("swap"),
        `<b>Neuron ${explorer.number(field.neuron)}</b> in ${imageName(row)}: its receptive field is the ` +
        `${explorer.number(inside)} of ${explorer.number(size)} pixels${counted} ${which}. With the adversarial pixels put in there, ` +
        `p(${truth}), the true class, changes by <b>${signed(-field.drop)}</b> ` +
        `(${plain(both.p[0][0])} → ${plain(after[0])}). ${other}`,
      );
    }

    // --- what can be shown --------------------------------------------------------------------------------

    function available() {
      if (!fields.rows.length) {
        return served() ? "Receptive fields are computed when they are looked at." : escaped(model.meta.missing.fields ?? "");
      }
      const images = fields.rows.map((row) => samples.data[row]);
      return (
        `Precomputed for ${explorer.number(images.length)} images (${list(images)}) and the ` +
        `${explorer.number(fields.neurons.length)} most vulnerable neurons` +
        `${served() ? "; others are computed when they are looked at" : ""}.`
      );
    }

    function nearest() {
      const inside = fields.neurons.filter((neuron) => model.neurons === null || model.neurons[neuron]);
      return (inside.length ? inside : fields.neurons)[0];
    }

    function options() {
      const found = fields.neurons.map((neuron, place) => [String(neuron), `${place + 1}. neuron ${explorer.number(neuron)}`]);
      if (!fields.neuronAt.has(model.focus)) {
        found.unshift([String(model.focus), `neuron ${explorer.number(model.focus)} (not precomputed)`]);
      }
      return found;
    }

    // A sentence in place of the pictures, and a button if something is to be done.
    function problem(text, label = "", act = () => {}) {
      say(part("problem"), text);
      fold(part("mend"), label === "");
      part("mend").label = label || "–";
      mend = act;
    }

    function request(level, row) {
      // Somebody who runs through neurons asks only for the one at which they stop.
      const neuron = model.focus;
      waiting = setTimeout(async () => {
        const asking = fields.ask(level, row, neuron);
        redraw();
        await asking;
        redraw();
      }, 150);
    }

    function fieldOrProblem(level, row) {
      if (row === null) {
        const images = fields.rows.map((one) => samples.data[one]);
        problem(
          `No selected image has a receptive field in the page; images ${list(images)} have.`,
          "Select the images with receptive fields", () => explorer.selectImages(fields.rows),
        );
        return null;
      }
      const field = fields.get(level, row, model.focus);
      const name = `neuron ${explorer.number(model.focus)}`;
      if (field?.mask) return field;
      if (served()) {
        if (field?.error) {
          problem(
            `The receptive field of ${name} could not be computed: ${escaped(field.error)}`,
            "Try again", () => {
              fields.forget(level, row, model.focus);
              redraw();
            },
          );
        } else problem(`Computing the receptive field of ${name} in ${imageName(row)} …`);
        if (field === null) request(level, row);
        return null;
      }
      const next = nearest();
      problem(
        `No receptive field of ${name} is in the page; neurons ${list(fields.neurons)} have theirs.`,
        `Go to neuron ${explorer.number(next)}`, () => explorer.focusNeuron(model, next),
      );
      return null;
    }

    function redraw() {
      clearTimeout(waiting);
      say(part("note"), available());
      const some = fields.rows.length > 0 || served();
      fold(part("controls"), !some);
      const all = some ? rows() : [];
      const row = current(all);
      const {level} = page;
      const field = some ? fieldOrProblem(level, row) : null;
      const maps = row !== null && fields.known(level, row).length > 0;
      fold(part("without"), !some || field !== null);
      fold(part("pictures"), field === null);
      fold(part("maps"), !maps);
      for (const name of ["previous", "next"]) part(name).disabled = all.length < 2;
      const select = part("neuron");
      select.options = options();
      select.value = String(model.focus);
      if (row === null) {
        say(part("image"), "no image");
      } else {
        const both = classes(level, row);
        say(
          part("image"),
          `<b>${imageName(row)}</b> (${all.indexOf(row) + 1} of ${explorer.number(all.length)})<br>` +
          `${escaped(short(both.names[0], 18))} → ${escaped(short(both.names[1], 18))}`,
        );
      }
      drawShown = field === null ? () => {} : () => drawPictures(level, row, field);
      if (differs("pictures", level, row, field && model.focus)) drawShown();
      if (!maps) return;
      if (differs("maps", level, row, model.neurons, fields.known(level, row).length)) drawMaps(level, row);
      if (differs("occlusion", model.focus)) drawOcclusion();
    }

    redraws.push(redraw);
    explorer.onEvent(part("previous"), "button_click", () => move(-1));
    explorer.onEvent(part("next"), "button_click", () => move(1));
    explorer.onEvent(part("mend"), "button_click", () => mend());
    explorer.when(part("neuron"), "value", () => {
      const neuron = Number(part("neuron").value);
      if (neuron !== model.focus) explorer.focusNeuron(model, neuron);
    });
    explorer.when(part("visibility"), "value", () => drawShown());
    explorer.when(part("opacity"), "value", () => {
      for (const name of ["drop", "rise"]) part(`${name}-renderer`).glyph.global_alpha = part("opacity").value;
    });
    const points = part("occlusion-source");
    explorer.when(points.selected, "indices", () => {
      const [place] = points.selected.indices;
      if (place === undefined) return;
      const neuron = points.data.neuron[place];
      points.selected.indices = [];
      if (neuron !== model.focus) explorer.focusNeuron(model, neuron);
    });

    return {
      update(changes) {
        if (["images", "neurons", "level", "focus"].some((what) => changes.has(what))) redraw();
      },
    };
  }, {drawn: true});
})();
