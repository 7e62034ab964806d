// Sorts the rows of the table by a column, with the buttons in its head.
const table = document.querySelector("table.teams");
const heads = [...table.tHead.rows[0].cells];

// A number in a column of numbers, unless it is empty; a team's name is text, even "12".
function value(row, column) {
  const cell = row.cells[column];
  const text = cell.textContent.trim();
  return cell.classList.contains("number") && text !== "" ? Number(text) : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b));
}

function sort(column) {
  const head = heads[column];
  const down = head.getAttribute("aria-sort") === "ascending";
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => compare(value(one, column), value(other, column)));
  if (down) rows.reverse();
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  table.tBodies[0].append(...rows);
}

heads.forEach((head, column) => {
  head.querySelector("button").addEventListener("click", () => sort(column));
});
