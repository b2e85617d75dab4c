// The head of the page: a list of attacks and a slider over the strengths of the chosen one, and below it what the page
// does not show in full.
"use strict";

explorer.view("header", (model) => {
  if (model.index > 0) return null; // once for all models
  const page = explorer.page;
  const list = document.getElementById("attack");
  const slider = document.getElementById("eps");
  const attacks = [...new Set(page.levels.map((level) => level.attack))];
  const levelsOf = (attack) =>
    [...page.levels.keys()]
      .filter((number) => page.levels[number].attack === attack)
      .sort((one, other) => page.levels[one].eps - page.levels[other].eps);

  for (const note of page.notes) {
    const line = document.createElement("p");
    line.className = "note";
    line.textContent = note;
    document.getElementById("notes").append(line);
  }
  for (const attack of attacks) list.add(new Option(attack, attack));
  document.getElementById("attack-label").hidden = attacks.length < 2;
  list.addEventListener("change", () => {
    // the strength that is nearest to the one shown now
    const now = page.levels[page.level].eps;
    const far = (number) => Math.abs(page.levels[number].eps - now);
    explorer.setLevel(levelsOf(list.value).reduce((best, number) => (far(number) < far(best) ? number : best)));
  });
  slider.addEventListener("input", () => {
    const level = levelsOf(page.levels[page.level].attack)[slider.valueAsNumber];
    if (level !== page.level) explorer.setLevel(level);
  });

  return {
    update(changes) {
      if (!changes.has("level")) return;
      const chosen = page.levels[page.level];
      const levels = levelsOf(chosen.attack);
      list.value = chosen.attack;
      slider.max = levels.length - 1;
      slider.value = levels.indexOf(page.level);
      const strength = chosen.eps === null ? "" : explorer.size(chosen.eps);
      slider.setAttribute("aria-valuetext", strength);
      document.getElementById("eps-label").hidden = levels.length < 2;
      document.getElementById("eps-value").textContent = strength;
      document.getElementById("level").textContent =
        attacks.length < 2 && levels.length < 2
          ? explorer.levelName(chosen)
          : attacks.length < 2 ? chosen.attack : levels.length < 2 && strength ? `eps ${strength}` : "";
    },
  };
});
