"use strict";

// One attention head is looked at, in all maps at once; the table of all heads knows what is to be said. That
// one is chosen which was clicked, or come to with the keys: others are looked at in passing.
const output = document.getElementById("reading");
const grids = [...document.querySelectorAll(".map")];
const titles = [...document.querySelectorAll(".heads thead th")].map((each) => each.textContent);
let chosen = [0, 0];

function part(name, ...words) {
  const made = document.createElement(name);
  made.append(...words);
  return made;
}

function mark(name, layer, head) {
  for (const grid of grids) {
    grid.querySelector(name).setAttribute("x", head);
    grid.querySelector(name).setAttribute("y", layer);
  }
}

function read(layer, head) {
  const row = document.getElementById(`head-${layer}.${head}`);
  if (!row) return;
  const cells = [...row.children].map((each) => each.textContent);
  const told = cells.slice(1).map((words, i) => part("span", part("i", `${titles[i + 1]}:`), ` ${words} `));
  output.replaceChildren(part("b", `Layer ${layer}, head ${head} `), ...told);
  mark(".spot", layer, head);
  for (const each of document.querySelectorAll("tr.spot")) each.classList.remove("spot");
  row.classList.add("spot");
}

function choose(layer, head) {
  if (!document.getElementById(`head-${layer}.${head}`)) return;
  chosen = [layer, head];
  mark(".pick", layer, head);
  document.dispatchEvent(new Event("chosen"));
}

function settleOn(layer, head) {
  choose(layer, head);
  read(layer, head);
}

for (const grid of grids) {
  const { layers, heads, cell, left, top } = grid.dataset;
  function under(event) {
    const box = grid.getBoundingClientRect();
    const scale = grid.viewBox.baseVal.width / box.width;
    const place = (offset, margin) => Math.floor((offset * scale - margin) / cell);
    return [place(event.clientY - box.top, top), place(event.clientX - box.left, left)];
  }
  grid.addEventListener("pointermove", (event) => read(...under(event)));
  grid.addEventListener("pointerleave", () => read(...chosen));
  grid.addEventListener("click", (event) => settleOn(...under(event)));
  grid.addEventListener("focus", () => read(...chosen));
  grid.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const within = (value, count) => Math.max(0, Math.min(count - 1, value));
    settleOn(within(chosen[0] + step[0], layers), within(chosen[1] + step[1], heads));
  });
}

const buttons = [...document.querySelectorAll("button.head")];
const headOf = (button) => button.dataset.head.split(".").map(Number);
for (const button of buttons) {
  button.addEventListener("click", () => settleOn(...headOf(button)));
  button.addEventListener("focus", () => read(...headOf(button)));
}
if (buttons.length) choose(...headOf(buttons[0]));
