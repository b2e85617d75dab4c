// What is chosen on the page, once for all views. Views register with explorer.view and are told what changed;
// whatever a person chooses in one of them goes through here, so that all of them agree.
"use strict";

const explorer = (() => {
  const makers = [];
  const views = [];
  const page = {models: [], count: 0, level: 0, images: null, served: false};

  // --- data ---------------------------------------------------------------------------------------------

  const types = {Uint8Array, Int32Array, Float32Array, Uint16Array};

  function fromBase64(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const letters = atob(text);
    const raw = new Uint8Array(letters.length);
    for (let i = 0; i < raw.length; i++) raw[i] = letters.charCodeAt(i);
    return raw;
  }

  async function bytes(text) {
    const raw = fromBase64(text);
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  // {type, shape, text} as packing.py makes it -> {data: typed array, shape}
  async function unpack(entry) {
    const buffer = await bytes(entry.text);
    if (entry.type === "bits") {
      const bits = new Uint8Array(buffer);
      const size = entry.shape.reduce((product, length) => product * length, 1);
      const data = new Uint8Array(size);
      for (let i = 0; i < size; i++) data[i] = (bits[i >> 3] >> (i & 7)) & 1;
      return {data, shape: entry.shape};
    }
    if (entry.type === "spread") {
      const steps = new Uint16Array(buffer);
      const low = (await unpack(entry.low)).data;
      const step = (await unpack(entry.step)).data;
      const data = new Float32Array(steps.length);
      for (let i = 0, c = 0; i < steps.length; i++) {
        data[i] = steps[i] === 65535 ? NaN : low[c] + steps[i] * step[c];
        if (++c === low.length) c = 0;
      }
      return {data, shape: entry.shape};
    }
    return {data: new types[entry.type](buffer), shape: entry.shape};
  }

  // An entry {same: true} is the array of that name in ``others``.
  async function unpackAll(entries, others = {}) {
    const names = Object.keys(entries);
    const arrays = await Promise.all(names.map((name) => (entries[name].same ? others[name] : unpack(entries[name]))));
    return Object.fromEntries(names.map((name, i) => [name, arrays[i]]));
  }

  // --- choices ------------------------------------------------------------------------------------------

  // A mask (Uint8Array) of what is chosen, or null for everything; an empty choice is everything too.
  function mask(length, chosen) {
    if (chosen === null || chosen.length === 0) return null;
    const found = new Uint8Array(length);
    for (const place of chosen) found[place] = 1;
    return found;
  }

  function places(length, chosen) {
    const found = [];
    for (let i = 0; i < length; i++) if (chosen === null || chosen[i]) found.push(i);
    return found;
  }

  function changed(...what) {
    const changes = new Set(what);
    for (const view of views) {
      try {
        view.update(changes);
      } catch (error) {
        reportError(error); // the other views are still told
      }
    }
    tell();
    remember();
  }

  function selectImages(rows) {
    page.images = mask(page.count, rows);
    changed("images");
  }

  function selectNeurons(model, neurons) {
    model.neurons = mask(model.meta.neurons, neurons);
    changed("neurons");
  }

  function focusNeuron(model, neuron) {
    model.focus = neuron;
    changed("focus");
  }

  function pinNeurons(model, neurons) {
    model.pins = mask(model.meta.neurons, neurons);
    changed("pins");
  }

  function setLevel(level) {
    page.level = level;
    changed("level");
  }

  function setMeasure(model, name) {
    model.measure = name;
    changed("measure");
  }

  function reset() {
    page.images = null;
    for (const model of page.models) model.neurons = null;
    changed("images", "neurons");
  }

  const imageRows = () => places(page.count, page.images);
  const neuronPlaces = (model) => places(model.meta.neurons, model.neurons);

  // --- what is said and remembered ----------------------------------------------------------------------

  const number = (value) => value.toLocaleString("en-US");

  // Of a perturbation, in the units of the inputs: "8/255" for steps of a picture of 256 levels, else three digits.
  function size(value) {
    const short = Number(value.toPrecision(3));
    const steps = Math.round(value * 255);
    const plain = Math.abs(Number(value.toPrecision(2)) - value) < 1e-6;
    return !plain && steps > 0 && steps < 255 && Math.abs(value * 255 - steps) < 1e-3 ? `${steps}/255` : `${short}`;
  }

  // A level as a person calls it: "PGD, eps 8/255".
  const levelName = ({attack, eps}) => (eps === null ? attack : `${attack}, eps ${size(eps)}`);

  function tell() {
    const images = imageRows().length;
    const parts = [`${number(images)} of ${number(page.count)} images`];
    for (const model of page.models) {
      const of = page.models.length > 1 ? ` of ${model.meta.name}` : "";
      parts.push(`${number(neuronPlaces(model).length)} of ${number(model.meta.neurons)} neurons${of}`);
    }
    document.getElementById("selected").textContent = `${parts.join(" · ")} selected`;
  }

  function bits(chosen) {
    if (chosen === null) return "";
    const packed = new Uint8Array(Math.ceil(chosen.length / 8));
    for (let i = 0; i < chosen.length; i++) if (chosen[i]) packed[i >> 3] |= 1 << (i & 7);
    return btoa(String.fromCharCode(...packed)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  function fromBits(text, length) {
    if (!text || text.length !== Math.ceil((Math.ceil(length / 8) * 4) / 3)) return null;
    const raw = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    const found = new Uint8Array(length);
    for (let i = 0; i < length; i++) found[i] = (raw.charCodeAt(i >> 3) >> (i & 7)) & 1;
    return found.some((one) => one) ? found : null;
  }

  const LONGEST = 8192; // characters of an address that browsers and mail programs take
  const PAUSE = 300; // ms: browsers refuse more than about a hundred changes of the address in 30 s
  let later = 0;

  function choice() {
    const choice = new URLSearchParams();
    if (page.level !== page.firstLevel) choice.set("level", page.level);
    if (page.images) choice.set("images", bits(page.images));
    for (const model of page.models) {
      if (model.measure !== model.firstMeasure) choice.set(`measure${model.index}`, model.measure);
      if (model.focus !== model.firstFocus) choice.set(`neuron${model.index}`, model.focus);
      if (model.neurons) choice.set(`neurons${model.index}`, bits(model.neurons));
      if (model.pins) choice.set(`pins${model.index}`, bits(model.pins));
    }
    return choice;
  }

  function remember() {
    clearTimeout(later);
    later = setTimeout(() => {
      let text = choice().toString();
      if (text.length > LONGEST) text = "";
      try {
        history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
      } catch {
        // a page inside of another one, as in a notebook, has no address of its own
      }
    }, PAUSE);
  }

  // The mask in a part of the address, null for one that was cut off or belongs to another page.
  function maskFrom(text, length) {
    try {
      return fromBits(text, length);
    } catch {
      return null;
    }
  }

  function recall() {
    const choice = new URLSearchParams(location.hash.slice(1));
    const within = (name, below) => {
      const value = Number(choice.get(name) || NaN);
      return Number.isInteger(value) && value >= 0 && value < below ? value : null;
    };
    page.level = within("level", page.levels.length) ?? page.firstLevel;
    page.images = maskFrom(choice.get("images"), page.count);
    for (const model of page.models) {
      const measure = choice.get(`measure${model.index}`);
      model.measure = model.meta.measures.some((one) => one.name === measure) ? measure : model.firstMeasure;
      model.focus = within(`neuron${model.index}`, model.meta.neurons) ?? model.firstFocus;
      model.neurons = maskFrom(choice.get(`neurons${model.index}`), model.meta.neurons);
      model.pins = maskFrom(choice.get(`pins${model.index}`), model.meta.neurons);
    }
  }

  // --- beginning ----------------------------------------------------------------------------------------

  // Registers make(model), which fills the Bokeh models of a section and returns {update(changes)}, or null where
  // they are not on the page. What is filled before it is drawn is laid out once only; `drawn` is for a script that
  // needs Bokeh's views, and runs when they are there.
  function view(section, make, {drawn = false} = {}) {
    makers.push({section, make, drawn});
  }

  // The Bokeh model that Python called "name-index"; null where the view is not on the page.
  function bokeh(name, model) {
    const whole = model === undefined ? name : `${name}-${model.index}`;
    return Bokeh.documents[0].get_model_by_name(whole);
  }

  // The width of a figure's frame in pixels; `room` is what to take it for until the figure is drawn.
  function frameWidth(figure, room) {
    return figure.properties.inner_width.is_unset ? room : figure.inner_width;
  }

  // Calls act() when the property of a Bokeh model changes.
  function when(model, property, act) {
    model.properties[property].change.connect(() => act());
  }

  // Calls act(event) on an event of a Bokeh model such as "tap", whose event has {x, y, modifiers: {shift, ...}}.
  function onEvent(model, event, act) {
    model.on_event(event, act);
    model._update_event_callbacks(); // else Bokeh looks for callbacks only when the document is made
  }

  // The element of plain HTML above a view, for its form elements.
  function controls(section, model) {
    return document.getElementById(`${section}-controls-${model.index}`);
  }

  const moment = () => new Promise((resolve) => setTimeout(resolve, 10));

  // Until the browser has painted; a click or a scroll that waits comes first.
  const rest = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));

  const EVERYTHING = ["images", "neurons", "level", "measure", "focus", "pins"];

  function begin({make}, model) {
    try {
      const made = make(model);
      if (!made) return;
      views.push(made);
      made.update(new Set(EVERYTHING));
    } catch (error) {
      reportError(error); // the other views are still made
    }
  }

  // Draws the views of a section, of all models.
  async function draw(section) {
    const own = makers.filter((maker) => maker.section === section);
    for (const model of page.models) for (const maker of own) if (!maker.drawn) begin(maker, model);
    const made = [];
    for (const model of page.models) {
      const place = document.getElementById(`${section}-view-${model.index}`);
      if (!place) continue;
      const view = await Bokeh.documents[0].views_manager.build_view(bokeh(section, model));
      view.build(place);
      Bokeh.index.add(view);
      made.push(view);
    }
    for (const model of page.models) for (const maker of own) if (maker.drawn) begin(maker, model);
    while (!made.every((view) => view.has_finished())) await moment();
  }

  function onScreen(section) {
    const {top, bottom} = document.getElementById(section).getBoundingClientRect();
    return top < innerHeight && bottom > 0;
  }

  // Section after section: those on the screen first, then the others from the top; the page is in use meanwhile.
  async function drawAll() {
    const waiting = [...document.querySelectorAll("main > section")].map(({id}) => id);
    while (waiting.length) {
      const next = waiting.find(onScreen) ?? waiting[0];
      if (!onScreen(next)) document.body.dataset.ready = "true";
      await draw(next).catch(reportError);
      waiting.splice(waiting.indexOf(next), 1);
      await rest();
    }
    document.body.dataset.ready = document.body.dataset.complete = "true";
  }

  async function start() {
    const content = JSON.parse(document.getElementById("content").textContent);
    Object.assign(page, content.page, {firstLevel: content.page.level});
    for (const [index, {meta, arrays}] of content.models.entries()) {
      const data = await unpackAll(arrays, page.models[0]?.data);
      const measure = meta.measures[0].name;
      page.models.push({
        index, meta, data, measure, firstMeasure: measure, focus: meta.focus, firstFocus: meta.focus, neurons: null, pins: null,
      });
    }
    while (!(window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].views_manager)) await moment();
    recall();
    await draw("header");
    tell();
    document.getElementById("reset").addEventListener("click", reset);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.defaultPrevented) reset();
    });
    window.addEventListener("hashchange", () => {
      recall();
      changed(...EVERYTHING);
    });
    await drawAll();
  }

  window.addEventListener("DOMContentLoaded", () => {
    start().catch((error) => {
      document.getElementById("selected").textContent = `The page could not be built: ${error.message}`;
      throw error;
    });
  });

  return {
    BENIGN: "#0072B2", ADVERSARIAL: "#D55E00", // as in colours.py
    page, view, bokeh, frameWidth, when, onEvent, controls, unpack, unpackAll, number, size, levelName, imageRows, neuronPlaces,
    selectImages, selectNeurons, focusNeuron, pinNeurons, setLevel, setMeasure, reset,
  };
})();
