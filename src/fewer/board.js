// The front page of the claims board: search as one types, filters, sorting.  Its state lives in the address after "#",
// so that any view can be linked; what is not set there is not filtered.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const list = document.querySelector(".papers");
  const groups = [...list.querySelectorAll(".group")];
  const papers = [...list.querySelectorAll(".paper")];
  const search = document.querySelector("#search");
  const selects = { state: document.querySelector("#state"), sort: document.querySelector("#sort") };
  const buttons = [...document.querySelectorAll("button[data-filter]")];
  const found = document.querySelector(".found p");
  const clear = document.querySelector("#clear");
  const none = document.querySelector(".none");
  const NAMES = ["q", "scarce", "verdict", "state", "sort"];
  let view = {};

  const plain = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
  const texts = new Map(papers.map((paper) => [paper, plain(`${paper.textContent} ${paper.dataset.scarce} ${paper.dataset.room}`)]));
  const inOrder = [...list.children];
  const bySlug = [...papers].sort((a, b) => a.dataset.slug.localeCompare(b.dataset.slug, "en"));
  const byDate = [...papers].sort((a, b) => b.dataset.published.localeCompare(a.dataset.published));
  const orders = { name: [...bySlug, ...groups], date: [...byDate, ...groups] };

  function show() {
    const words = plain(view.q ?? "").split(/\s+/).filter(Boolean);
    let count = 0;
    const filled = new Map();
    for (const paper of papers) {
      const fits =
        (!view.scarce || paper.dataset.scarce === view.scarce) &&
        (!view.verdict || paper.dataset.verdict === view.verdict) &&
        (!view.state || paper.dataset.state === view.state) &&
        words.every((word) => texts.get(paper).includes(word));
      paper.hidden = !fits;
      if (fits) {
        count += 1;
        filled.set(paper.dataset.scarce, (filled.get(paper.dataset.scarce) ?? 0) + 1);
      }
    }
    for (const group of groups) {
      group.hidden = Boolean(orders[view.sort]) || !filled.has(group.dataset.scarce);
      group.querySelector("span").textContent = filled.get(group.dataset.scarce);
    }
    list.append(...(orders[view.sort] ?? inOrder));
    none.hidden = count > 0;
    const filtered = ["q", "scarce", "verdict", "state"].some((name) => view[name]);
    clear.hidden = !filtered;
    found.textContent = filtered ? `${count} of ${papers.length} papers` : `${papers.length} papers`;
    for (const button of buttons) {
      const chosen = view[button.dataset.filter];
      button.setAttribute("aria-pressed", String(chosen === button.dataset.value));
      button.classList.toggle("other", Boolean(chosen) && chosen !== button.dataset.value);
    }
    for (const name in selects) selects[name].value = view[name] ?? "";
    if (search.value.trim() !== (view.q ?? "").trim()) search.value = view.q ?? "";
  }

  function change(name, value) {
    view[name] = value;
    const kept = NAMES.filter((each) => view[each]).map((each) => [each, view[each]]);
    const hash = new URLSearchParams(kept).toString();
    // replaced, not pushed: "back" leaves the board instead of undoing letters
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    show();
  }

  function restore() {
    const given = new URLSearchParams(location.hash.slice(1));
    view = Object.fromEntries(NAMES.filter((name) => given.get(name)).map((name) => [name, given.get(name)]));
    for (const name in selects) {
      const known = [...selects[name].options].map((option) => option.value);
      if (!known.includes(view[name])) delete view[name];
    }
    show();
  }

  search.addEventListener("input", () => change("q", search.value));
  for (const name in selects) selects[name].addEventListener("change", () => change(name, selects[name].value));
  for (const button of buttons) {
    const { filter, value } = button.dataset;
    button.addEventListener("click", () => change(filter, view[filter] === value ? "" : value));
  }
  clear.addEventListener("click", () => {
    for (const name of ["q", "scarce", "verdict", "state"]) view[name] = "";
    change("q", "");
    search.focus();
  });
  addEventListener("hashchange", restore);
  addEventListener("keydown", (pressed) => {
    const typing = pressed.target.closest("input, select, textarea");
    if (pressed.key === "/" && !typing && !pressed.ctrlKey && !pressed.metaKey && !pressed.altKey) {
      pressed.preventDefault();
      search.focus();
      search.select();
    }
  });
  restore();
});
