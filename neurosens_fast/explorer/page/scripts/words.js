// Text that views write often.
"use strict";

explorer.words = {
  list: (numbers, most = 8) =>
    numbers.slice(0, most).map((one) => explorer.number(one)).join(", ") + (numbers.length > most ? ", …" : ""),

  percent: (value) => `${(100 * value).toFixed(0)} %`,

  escaped: (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;"),

  // Puts HTML into a Bokeh Div. Bokeh itself would lay out all that stands around it anew, which takes long.
  say(div, html) {
    if (div.text === html) return;
    div.setv({text: html}, {silent: true});
    const view = Bokeh.index.find_one(div);
    if (view?.markup_el) view.markup_el.innerHTML = html; // else Bokeh is still to draw it, with the new text
  },

  // Takes a Bokeh layout out of sight and out of the way, for the same reason without Bokeh's "visible".
  fold(layout, folded) {
    Bokeh.index.find_one(layout).el.style.display = folded ? "none" : "";
  },
};
