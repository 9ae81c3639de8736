"use strict";
(() => {
  const table = document.getElementById("best");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");

  const filter = () => {
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = wanted !== "" && !row.cells[1].textContent.toLowerCase().includes(wanted);
      count += !row.hidden;
    }
    shown.textContent = wanted === "" ? "" : `${count} of ${rows.length} shown`;
  };

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };

  const sort = (head) => {
    const rising = head.getAttribute("aria-sort") === "descending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const column = head.cellIndex;
    const sign = rising ? 1 : -1;
    rows.sort((one, two) => {
      const a = value(one, column), b = value(two, column);
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b));
    });
    body.append(...rows);
  };

  search.addEventListener("input", filter);
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head));
  }
  document.getElementById("tools").hidden = false;
})();
