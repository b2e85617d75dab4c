// What a person types to find neurons: "12", "10-20", "3, 5, 8", "activation change > 0.1 and drop < 0".
"use strict";

{
  const HELP = "Write numbers such as 12, 10-20 or 3, 5, 8, or a measure and a limit such as";
  const CONDITION = /^\s*(.+?)\s*(<=|>=|≤|≥|<|>|=)\s*([-+−]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(?:(?:and|&)\s*(?=\S)|$)/i;
  const HOLDS = {
    "<": (value, limit) => value < limit,
    ">": (value, limit) => value > limit,
    "=": (value, limit) => value === limit,
    "<=": (value, limit) => value <= limit,
    ">=": (value, limit) => value >= limit,
  };

  const quoted = (text) => `“${text.trim()}”`;

  function numbers(text, count) {
    const found = new Uint8Array(count);
    for (const part of text.split(/[,;]/)) {
      if (part.trim() === "") continue;
      const read = part.match(/^\s*(\d+)\s*(?:[-–]\s*(\d+)\s*)?$/);
      if (!read) return {error: `${quoted(part)} is neither a number nor a range such as 10-20.`};
      const first = Number(read[1]), last = Number(read[2] ?? read[1]);
      if (first > last) return {error: `${quoted(part)} is no range: the smaller number comes first.`};
      if (last >= count) {
        return {error: `There is no neuron ${last}: they go from 0 to ${explorer.number(count - 1)}.`};
      }
      found.fill(1, first, last + 1);
    }
    return {mask: found};
  }

  // The place of a measure of which the whole label or name, or a part that no other has, is given.
  function measure(model, text) {
    const wanted = text.trim().toLowerCase();
    const all = model.meta.measures;
    const names = all.map((one) => [one.label.toLowerCase(), one.name.toLowerCase()]);
    const exact = names.findIndex((both) => both.includes(wanted));
    if (exact >= 0) return {place: exact};
    const like = [...names.keys()].filter((place) => names[place].some((name) => name.includes(wanted)));
    const labels = (places) => places.map((place) => all[place].label).join("; ");
    if (like.length === 1) return {place: like[0]};
    if (like.length) return {error: `${quoted(text)} may be one of: ${labels(like)}. Write more of it.`};
    return {error: `No measure is called ${quoted(text)}. There are: ${labels([...all.keys()])}.`};
  }

  function conditions(model, text) {
    const count = model.meta.neurons;
    const of = model.meta.measures.length;
    const found = new Uint8Array(count).fill(1);
    let rest = text;
    while (rest !== "") {
      const read = rest.match(CONDITION);
      if (!read) return {error: `${quoted(rest)} cannot be read. ${HELP} ${model.meta.measures[0].label} > 0.1.`};
      const {place, error} = measure(model, read[1]);
      if (error) return {error};
      const holds = HOLDS[read[2].replace("≤", "<=").replace("≥", ">=")];
      const limit = Math.fround(Number(read[3].replace("−", "-"))); // measures are float32 in the page
      const start = (explorer.page.level * of + place) * count;
      const values = model.data.measures.data.subarray(start, start + count);
      for (let neuron = 0; neuron < count; neuron++) if (!holds(values[neuron], limit)) found[neuron] = 0;
      rest = rest.slice(read[0].length);
    }
    return {mask: found};
  }

  // {mask: Uint8Array or null for all} of neurons at the level shown, or {error: what is wrong, in a sentence}.
  explorer.searchNeurons = (model, text) => {
    if (text.trim() === "") return {mask: null};
    return /^[\d\s,;–-]+$/.test(text) ? numbers(text, model.meta.neurons) : conditions(model, text.trim());
  };
}
