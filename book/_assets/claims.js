/* Sorting and filtering of the table of claims; the page reads well without it. */
"use strict";
(() => {
  const table = document.querySelector("table.claims");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const filters = [...document.querySelectorAll("select[data-filter]")];
  const shown = document.querySelector(".claims-shown");

  const filter = () => {
    let count = 0;
    for (const row of rows) {
      row.hidden = filters.some((f) => f.value && row.dataset[f.dataset.filter] !== f.value);
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${rows.length} claims`;
  };

  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent;
    const number = Number.parseFloat(text);
    return Number.isNaN(number) ? text.toLowerCase() : number;
  };

  const compare = (a, b, down) => {
    if ((a === "") !== (b === "")) return a === "" ? 1 : -1; // empty cells last, up and down
    const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    return down ? -order : order;
  };

  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = [...rows].sort((a, b) => compare(key(a, column), key(b, column), down));
      body.append(...sorted);
    });
  });

  for (const f of filters) f.addEventListener("change", filter);
  filter();
})();
