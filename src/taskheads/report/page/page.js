"use strict";

// A link to a task opens it.
function openTarget() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();

// On paper every task is open, as long as it prints.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const each of closed) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of closed) each.open = false;
});

// A confusion matrix says in words what is pointed at.
for (const matrix of document.querySelectorAll(".confusion")) {
  const { labels, cells, totals } = JSON.parse(matrix.querySelector("script").textContent);
  const drawing = matrix.querySelector(".cells");
  const cross = drawing.querySelector(".cross");
  const spot = drawing.querySelector(".spot");
  const output = matrix.querySelector("output");
  const counts = new Map(cells.map(([truth, answer, count]) => [truth * labels.length + answer, count]));
  let at = [0, 0];

  function read(truth, answer) {
    const last = labels.length - 1;
    truth = Math.max(0, Math.min(last, truth));
    answer = Math.max(0, Math.min(last, answer));
    at = [truth, answer];
    const count = counts.get(truth * labels.length + answer) || 0;
    const total = totals[truth];
    const share = total ? ` (${Math.round((100 * count) / total)} %)` : "";
    const what = truth === answer ? "answered right" : `answered “${labels[answer]}”`;
    output.textContent = `“${labels[truth]}”: ${count} of ${total}${share} ${what}`;
    cross.setAttribute("d", `M0 ${truth + 0.5}H${labels.length}M${answer + 0.5} 0V${labels.length}`);
    for (const [name, value] of Object.entries({ x: answer, y: truth, width: 1, height: 1 })) {
      spot.setAttribute(name, value);
    }
  }

  function point(event) {
    const box = drawing.getBoundingClientRect();
    const part = (offset, size) => Math.floor((labels.length * offset) / size);
    read(part(event.clientY - box.top, box.height), part(event.clientX - box.left, box.width));
  }

  drawing.addEventListener("pointermove", point);
  drawing.addEventListener("pointerdown", point);
  drawing.addEventListener("focus", () => read(...at));
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    read(at[0] + step[0], at[1] + step[1]);
  });
}
