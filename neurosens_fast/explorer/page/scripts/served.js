// Questions to the server that sent this page, for what is not in the page. Not part of a page that is a file.
"use strict";

(() => {
  const waiting = new Map(); // the number of a question -> {resolve, reject}
  let count = 0;
  let sources = null;
  let lost = false;

  function lose() {
    lost = true;
    for (const {reject} of waiting.values()) reject(gone());
    waiting.clear();
  }

  const gone = () => new Error("The server that sent this page has ended. Start it again, then reload the page.");

  function connect() {
    const question = explorer.bokeh("question");
    const answer = explorer.bokeh("answer");
    explorer.when(answer, "data", () => receive(answer.data));
    Bokeh.documents[0].on_event("connection_lost", lose);
    return {question, answer};
  }

  function receive(data) {
    const {number, text} = data instanceof Map ? Object.fromEntries(data) : data;
    for (let i = 0; i < number.length; i++) {
      const asked = waiting.get(number[i]);
      if (asked === undefined) continue;
      waiting.delete(number[i]);
      const {arrays, error} = JSON.parse(text[i]);
      if (error === undefined) explorer.unpackAll(arrays).then((found) => asked.resolve({arrays: found}), asked.reject);
      else asked.reject(new Error(error));
    }
  }

  // A promise of {arrays: {name: {data, shape}}}; an error says in one sentence why there are none.
  explorer.ask = (kind, payload) => {
    sources ??= connect();
    if (lost) return Promise.reject(gone());
    return new Promise((resolve, reject) => {
      count += 1;
      waiting.set(count, {resolve, reject});
      sources.question.data = {number: [count], text: [JSON.stringify({...payload, kind})]};
    });
  };
})();
