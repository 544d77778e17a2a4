"use strict";
// Moves the focus in the matrix by arrow keys, and opens the stage that a link leads to. It changes no figure.
(() => {
  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target instanceof HTMLDetailsElement) {
      target.open = true;
      target.querySelector("summary").focus({ preventScroll: true });
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  open();
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const matrix = document.querySelector(".matrix");
  const first = matrix.querySelector("td.same");
  if (first) first.tabIndex = 0;
  matrix.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td");
    const step = steps[event.key];
    if (!cell || !step) return;
    const row = matrix.rows[cell.parentElement.rowIndex + step[0]];
    const next = row && row.cells[cell.cellIndex + step[1]];
    if (!next || next.cellIndex < 2 || next.tagName !== "TD") return;
    event.preventDefault();
    (next.querySelector("a") || next).focus();
  });
})();
