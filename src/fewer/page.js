// What every page has: light or dark, and tables that sort.  Loaded in the head, so that the theme is there before
// anything is drawn.
"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  // What the reader chose lasts as long as the storage does; local files may have none.
  try {
    const theme = localStorage.getItem("fewer-theme");
    if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  } catch {}

  function change() {
    const now = root.dataset.theme ?? (system.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("fewer-theme", root.dataset.theme);
    } catch {}
  }

  // A cell sorts by its data-value, a number where it has one; cells without a value come last either way.
  function sort(table, header) {
    const column = [...header.parentElement.children].indexOf(header);
    const first = header.dataset.first ?? "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = header.getAttribute("aria-sort") === first ? other : first;
    for (const each of header.parentElement.children) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const value = (row) => row.children[column].dataset.value ?? "";
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const numbers = header.dataset.kind === "number";
      return sign * (numbers ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
    });
    table.tBodies[0].append(...rows);
  }

  addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll(".theme")) {
      button.hidden = false;
      button.addEventListener("click", change);
    }
    for (const header of document.querySelectorAll("table.sortable th[data-kind]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(header.closest("table"), header));
    }
  });
})();
