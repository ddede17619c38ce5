"use strict";
const points = JSON.parse(document.getElementById("points").textContent);
const panel = document.getElementById("panel");
const said = document.getElementById("said");
let opener = null;

function make(tag, options, ...inside) {
  const node = Object.assign(document.createElement(tag), options);
  node.append(...inside.filter(part => part !== null));
  return node;
}

function rows(entries) {
  const table = make("table", {});
  for (const entry of entries) table.append(make("tr", {}, ...entry));
  return table;
}

function cell(text, kind = "", title = "") {
  return make("td", { textContent: text, className: kind, title });
}

function heading(text, copied) {
  const head = make("h3", { textContent: text });
  if (copied !== undefined) {
    const button = make("button", { type: "button", textContent: "Copy" });
    button.addEventListener("click", () => copy(copied, button));
    head.append(button);
  }
  return head;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // a page opened as a file may not use the clipboard
    const field = make("textarea", { value: text });
    panel.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.textContent = said.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function bar(share) {
  const outer = make("div", { className: share > 1 ? "cap over" : "cap" });
  const inner = make("span", {});
  inner.style.width = 100 * Math.min(1, share) + "%";
  outer.append(inner);
  return make("td", {}, outer);
}

function* parts(point) {
  if (point.reason) yield make("p", { className: "warning", textContent: point.reason });
  if (point.imported) yield make("p", { className: "soft", textContent: "Trained by the search in " + point.imported });
  if (point.values.length) {
    yield rows(point.values.map(([name, value]) => [cell(name), cell(value, "number")]));
  }
  if (point.command) {
    yield heading("Train it on", point.command);
    yield make("pre", { className: "wrap", textContent: point.command });
  }
  if (point.parameters.length) {
    yield heading("Search parameters");
    yield rows(point.parameters.map(([name, value, path]) => [cell(name, "", path), cell(value, "number")]));
  }
  if (point.moves.length) {
    yield heading("Moves");
    yield make("ul", {}, ...point.moves.map(move => make("li", { textContent: move })));
  }
  yield heading("Costs");
  yield rows(point.costs.map(([name, value, cap, share]) => [
    cell(name), cell(value, "number"), share === null ? cell("") : bar(share), cell(cap ? "of " + cap : "", "soft"),
  ]));
  if (point.seen.length) {
    const names = Object.keys(point.seen[0][1]);
    yield heading("Measured");
    const head = ["tokens", ...names].map(name => make("th", { textContent: name, className: "number" }));
    const body = point.seen.map(([tokens, found]) => [tokens, ...names.map(name => found[name] ?? "")]);
    const table = rows([head, ...body.map(row => row.map(text => cell(text, "number")))]);
    yield make("div", { className: "scroll" }, table);
  }
  if (point.drawing) {
    yield heading("Drawing");
    yield make("img", {
      src: "data:image/svg+xml," + encodeURIComponent(point.drawing), alt: "Drawing of the spec of " + point.title,
    });
  }
  if (point.yaml) {
    yield heading("Spec", point.yaml);
    yield make("pre", { id: "spec", textContent: point.yaml });
  } else {
    yield make("p", { className: "soft", textContent: "Its spec is not written yet." });
  }
}

function show(name) {
  const point = points[name];
  for (const old of document.querySelectorAll(".chosen")) old.classList.remove("chosen");
  if (!point) {
    if (!panel.hidden) { panel.hidden = true; opener?.focus(); }
    document.body.classList.remove("beside");
    return;
  }
  if (!panel.contains(document.activeElement)) opener = document.activeElement;
  const close = make("button", { type: "button", textContent: "Close", id: "close" });
  close.addEventListener("click", hide);
  const title = make("h2", { id: "panel-title", textContent: point.title });
  const status = make("p", { className: "soft", textContent: point.status + ", " + point.tokens + " tokens" });
  panel.replaceChildren(make("div", { className: "top" }, make("div", {}, title, status), close), ...parts(point));
  panel.hidden = false;
  document.body.classList.add("beside");
  panel.scrollTop = 0;
  panel.focus({ preventScroll: true });
  for (const link of document.querySelectorAll(`a[href="#${CSS.escape(name)}"]`)) {
    link.classList.add("chosen");
    link.closest("tbody tr")?.classList.add("chosen");
  }
}

function hide() {
  history.replaceState(null, "", location.pathname + location.search);
  show("");
}

function follow() {
  show(decodeURIComponent(location.hash.slice(1)));
}

document.addEventListener("click", event => {
  const link = event.target.closest("a[href^='#']");
  const name = link && decodeURIComponent(link.getAttribute("href").slice(1));
  if (!name || !points[name]) return;
  // a hash that is there already does not change
  event.preventDefault();
  history.replaceState(null, "", "#" + name);
  show(name);
});
document.addEventListener("keydown", event => { if (event.key === "Escape" && !panel.hidden) hide(); });
addEventListener("hashchange", follow);

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[column].dataset.key;
    const order = (a, b) => {
      // what has no value stands last either way
      if (!key(a) || !key(b)) return Number(!key(a)) - Number(!key(b));
      const [x, y] = [Number(key(a)), Number(key(b))];
      const found = Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b), "en", { numeric: true }) : x - y;
      return down ? -found : found;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    said.textContent = `Sorted by ${head.textContent}, ${down ? "descending" : "ascending"}`;
  }));
}

follow();
