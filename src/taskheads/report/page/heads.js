"use strict";

// One attention head is looked at, in all maps at once; the table of all heads knows what is to be said.
const output = document.getElementById("reading");
const grids = [...document.querySelectorAll(".map")];
const titles = [...document.querySelectorAll(".heads thead th")].map((each) => each.textContent);
let at = [0, 0];

function part(name, ...words) {
  const made = document.createElement(name);
  made.append(...words);
  return made;
}

function read(layer, head) {
  const row = document.getElementById(`head-${layer}.${head}`);
  if (!row) return;
  at = [layer, head];
  const cells = [...row.children].map((each) => each.textContent);
  const told = cells.slice(1).map((words, i) => part("span", part("i", `${titles[i + 1]}:`), ` ${words} `));
  output.replaceChildren(part("b", `Layer ${layer}, head ${head} `), ...told);
  for (const grid of grids) {
    grid.querySelector(".spot").setAttribute("x", head);
    grid.querySelector(".spot").setAttribute("y", layer);
  }
  for (const each of document.querySelectorAll("tr.spot")) each.classList.remove("spot");
  row.classList.add("spot");
}

for (const grid of grids) {
  const { layers, heads, cell, left, top } = grid.dataset;
  function point(event) {
    const box = grid.getBoundingClientRect();
    const scale = grid.viewBox.baseVal.width / box.width;
    const place = (offset, margin) => Math.floor((offset * scale - margin) / cell);
    read(place(event.clientY - box.top, top), place(event.clientX - box.left, left));
  }
  grid.addEventListener("pointermove", point);
  grid.addEventListener("pointerdown", point);
  grid.addEventListener("focus", () => read(...at));
  grid.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const within = (value, count) => Math.max(0, Math.min(count - 1, value));
    read(within(at[0] + step[0], layers), within(at[1] + step[1], heads));
  });
}

for (const button of document.querySelectorAll("button.head")) {
  const show = () => read(...button.dataset.head.split(".").map(Number));
  button.addEventListener("click", show);
  button.addEventListener("focus", show);
}
