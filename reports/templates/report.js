"use strict";
// Sorting and filtering. The state lives in the fragment (#task=photos&q=jpeg&sort=table-0.3.desc), so a view is a link.
const state = new URLSearchParams(location.hash.slice(1));
const tables = [...document.querySelectorAll("table.sortable")];

function sortKey(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.sort ?? cell.textContent.trim();
  const number = text === "" ? NaN : Number(text);
  return { missing: text === "", number, text };
}

// Missing values stand last whichever way a column is sorted; equal ones keep their order.
function compare(a, b, sign) {
  if (a.missing !== b.missing) return a.missing ? 1 : -1;
  if (!Number.isNaN(a.number) && !Number.isNaN(b.number)) return sign * (a.number - b.number);
  return sign * a.text.localeCompare(b.text, undefined, { numeric: true });
}

function sort(table, column, direction) {
  const heads = [...table.tHead.rows[0].cells];
  if (!heads[column]?.hasAttribute("aria-sort")) return;
  heads.forEach((head) => head.hasAttribute("aria-sort") && head.setAttribute("aria-sort", "none"));
  heads[column].setAttribute("aria-sort", direction === "asc" ? "ascending" : "descending");
  const body = table.tBodies[0];
  const sign = direction === "asc" ? 1 : -1;
  const keyed = [...body.rows].map((row) => ({ row, key: sortKey(row, column) }));
  keyed.sort((a, b) => compare(a.key, b.key, sign));
  body.append(...keyed.map((entry) => entry.row));
}

function filter() {
  const task = document.getElementById("task").value;
  const words = document.getElementById("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  document.querySelectorAll("section.task").forEach((section) => {
    section.hidden = task !== "" && !section.dataset.task.split(" ").includes(task); // retention is of several tasks
    section.querySelectorAll("table.filterable > tbody > tr").forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden && !section.hidden && row.closest("table").classList.contains("leaderboard")) shown += 1;
    });
  });
  document.getElementById("shown").textContent = `${shown} ${shown === 1 ? "row" : "rows"}`;
}

function remember(key, value) {
  if (value) state.set(key, value); else state.delete(key);
  history.replaceState(null, "", state.toString() ? `#${state}` : location.pathname + location.search);
}

for (const table of tables) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = head.dataset.first ?? "asc";
      const direction = now === "none" ? first : now === "ascending" ? "desc" : "asc";
      sort(table, column, direction);
      remember("sort", `${table.id}.${column}.${direction}`);
    });
  });
}

document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("task").addEventListener("change", (event) => { filter(); remember("task", event.target.value); });
document.getElementById("words").addEventListener("input", (event) => { filter(); remember("q", event.target.value); });

document.getElementById("task").value = state.get("task") ?? "";
if (document.getElementById("task").selectedIndex < 0) document.getElementById("task").value = "";
document.getElementById("words").value = state.get("q") ?? "";
const [id, column, direction] = (state.get("sort") ?? "").split(".");
const wanted = tables.find((table) => table.id === id);
if (wanted) sort(wanted, Number(column), direction === "desc" ? "desc" : "asc");
document.querySelector(".controls").hidden = false;
filter();
