// Rank agreement of measures: a number in each cell, and a frame around the measure that is shown.
"use strict";

explorer.view("neurons", (model) => {
  const figure = explorer.bokeh("agreement", model);
  if (!figure) return null;
  const {measures} = model.meta;
  const cells = explorer.bokeh("agreement-cells", model);
  const chosen = explorer.bokeh("agreement-chosen", model);

  explorer.onEvent(figure, "tap", ({y}) => {
    const measure = measures[Math.round(y)];
    if (measure && measure.name !== model.measure) explorer.setMeasure(model, measure.name);
  });

  function draw() {
    const columns = {x: [], y: [], value: [], text: [], ink: [], one: [], other: []};
    for (let y = 0, at = explorer.page.level * measures.length ** 2; y < measures.length; y++) {
      for (let x = 0; x < measures.length; x++, at++) {
        const value = model.data.agreement.data[at];
        columns.x.push(x);
        columns.y.push(y);
        columns.value.push(value);
        columns.text.push(Number.isNaN(value) ? "–" : (Math.round(value * 100) / 100 || 0).toFixed(2).replace("-", "−"));
        columns.ink.push(Math.abs(value) > 0.6 ? "white" : "#1c2430");
        columns.one.push(measures[y].label);
        columns.other.push(measures[x].label);
      }
    }
    cells.data = columns;
  }

  return {
    update(changes) {
      if (changes.has("level")) draw();
      if (changes.has("measure")) chosen.data = {y: [explorer.measureNumber(model)]};
    },
  };
});
