// What several views need: predictions, class labels with the markers of the plots, lists with a label, short names.
"use strict";

{
  // The classes predicted for all images: benign inputs for which = 0, adversarial ones at level which - 1 else.
  function predicted(model, which) {
    const {data, shape} = model.data.predictions;
    return data.subarray(which * shape[1], (which + 1) * shape[1]);
  }

  // The most probable class other than the true one under attack, for all images at a level.
  function adversarialClasses(model, level) {
    const {data, shape} = model.data.adversarial_classes;
    return data.subarray(level * shape[1], (level + 1) * shape[1]);
  }

  // How Bokeh draws the markers that have corners; the other one is a circle.
  const CORNERS = {
    square: "1.5,1.5 12.5,1.5 12.5,12.5 1.5,12.5",
    triangle: "7,1 13,12 1,12",
    inverted_triangle: "7,13 13,2 1,2",
    diamond: "7,0.5 12,7 7,13.5 2,7",
    hex: "7,1 12.5,4 12.5,10 7,13 1.5,10 1.5,4",
    star: "7,0.5 8.6,5.1 13.5,5.2 9.6,8.2 11,13 7,10.1 3,13 4.4,8.2 0.5,5.2 5.4,5.1",
  };

  // A class in a legend of plain HTML: its marker and its name.
  function classLabel(number) {
    const part = (name, values) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
      return made;
    };
    const points = CORNERS[explorer.page.markers[number]];
    const look = {fill: explorer.page.colours[number], stroke: "#1c2430", "stroke-width": 0.5};
    const marker = part("svg", {viewBox: "0 0 14 14", class: "swatch", "aria-hidden": "true"});
    marker.append(points ? part("polygon", {points, ...look}) : part("circle", {cx: 7, cy: 7, r: 6, ...look}));
    const label = document.createElement("span");
    label.className = "class";
    label.append(marker, explorer.page.classes[number]);
    return label;
  }

  // A list after its label in the bar of form elements of a view; options are [value, text].
  function choice(bar, label, options, act) {
    const list = document.createElement("select");
    for (const [value, name] of options) list.add(new Option(name, value));
    list.autocomplete = "off";
    list.addEventListener("change", act);
    const holder = document.createElement("label");
    holder.append(label, list);
    bar.append(holder);
    return list;
  }

  // The text with an ellipsis in its middle where it is longer than that, as text.py does it.
  function short(text, longest) {
    if (text.length <= longest) return text;
    const end = Math.floor((longest - 1) / 2);
    return `${text.slice(0, longest - 1 - end)}…${text.slice(text.length - end)}`;
  }

  Object.assign(explorer, {short, predicted, adversarialClasses, classLabel, choice});
}
