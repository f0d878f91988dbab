// The page works on what the filter leaves: table, charts, samples and failures show the same runs.
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);
const rowOf = new Map(all("#table tbody tr").map((row) => [row.dataset.run, row]));
const words = new Map(data.rows.map((run) => [
  run.run, `${run.run} ${run.cell} ${run.status} seed=${run.seed}`.toLowerCase().split(/\s+/),
]));
// A word with a value is meant whole (div.k=1 is not div.k=10), another one may be a part.
const has = (run, word) => words.get(run).some((own) => (/=./.test(word) ? own === word : own.includes(word)));
let shown = new Set(rowOf.keys());

// ---- charts
const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const config = () => {
  const ink = isDark() ? "#e6e9ed" : "#1b1f24", line = isDark() ? "#343b44" : "#d5dae0";
  const text = { labelColor: ink, titleColor: ink };
  return {
    background: "transparent", view: { stroke: line }, axis: { ...text, gridColor: line, domainColor: line, tickColor: line },
    legend: text, header: text, style: { cell: { stroke: line } }, text: { color: ink },
  };
};
const views = new Map(), asked = new Map();
async function draw(id, spec, values) {
  const turn = (asked.get(id) ?? 0) + 1;
  asked.set(id, turn);
  views.get(id)?.finalize();
  views.delete(id);
  const place = document.getElementById(id);
  if (!spec || !values.length) {
    place.textContent = "Nothing to draw for these runs.";
    return;
  }
  const result = await vegaEmbed(place, { ...spec, data: { values } }, { actions: false, renderer: "canvas", config: config(), tooltip: { theme: isDark() ? "dark" : "light" } });
  if (asked.get(id) === turn) views.set(id, result);
  else result.finalize(); // something newer was asked for meanwhile
}

const visible = () => data.rows.filter((run) => shown.has(run.run));
const scored = () => visible().filter((run) => run.score !== null).map((run) => ({ ...run })); // a view keeps what it gets
const selects = (kind) => all("select", one(`[data-kind="${kind}"]`));
function drawGrid(kind) {
  const chosen = selects(kind).map((select) => select.value);
  const placed = scored().filter((run) => chosen.every((axis) => run[`a${axis}`] !== "-")); // GP has no k
  return draw(kind, data.charts[kind][chosen.join(",")], placed);
}

const pressed = () => new Set(all('.toggle[aria-pressed="true"]').map((toggle) => toggle.dataset.cell));
function drawLines() {
  const name = one("#measured").value, cells = pressed(), values = [];
  for (const run of visible()) {
    if (!cells.has(run.cell)) continue;
    for (const [images, value] of data.curves[run.run]?.[name] ?? []) {
      values.push({ run: run.run, cell: run.cell, seed: run.seed, images, value });
    }
  }
  const spec = structuredClone(data.lines);
  spec.encoding.y.title = name;
  return draw("lines", spec, values);
}
const drawAll = () => Promise.all([drawGrid("heat"), drawGrid("strip"), drawLines()]);

function fill(select, options, value) {
  select.replaceChildren(...options.map(([id, text]) => new Option(text, id, false, String(id) === String(value))));
}
const axes = data.axes.map((name, index) => [index, name]);
for (const kind of ["heat", "strip"]) {
  const usual = data.usual[kind].split(","), chosen = selects(kind);
  chosen.forEach((select, index) => fill(select, axes, usual[index]));
  let before = chosen.map((select) => select.value);
  const changed = () => {
    if (new Set(chosen.map((select) => select.value)).size < chosen.length) {
      chosen.forEach((select, index) => { select.value = before[1 - index]; }); // two axes change places
    }
    before = chosen.map((select) => select.value);
    drawGrid(kind);
  };
  for (const select of chosen) select.addEventListener("change", changed);
  if (!data.usual[kind]) one(`[data-kind="${kind}"]`).hidden = true;
}
const measured = [...new Set(Object.values(data.curves).flatMap(Object.keys))].sort();
const isCurve = Object.values(data.curves).some((curves) => (curves[data.metric]?.length ?? 0) > 1);
fill(one("#measured"), measured.map((name) => [name, name]), isCurve ? data.metric : "wasserstein");
one("#measured").addEventListener("change", drawLines);
for (const toggle of all(".toggle")) {
  toggle.addEventListener("click", () => {
    toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
    drawLines();
  });
}
for (const [id, state] of [["all", "true"], ["none", "false"]]) {
  document.getElementById(id).addEventListener("click", () => {
    for (const toggle of all(".toggle")) toggle.setAttribute("aria-pressed", state);
    drawLines();
  });
}

// ---- the table
const number = (text) => (text.trim() === "" ? NaN : Number(text));
function sortBy(heading) {
  const index = [...heading.parentElement.children].indexOf(heading);
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentElement.children) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.children[index].dataset.value ?? row.children[index].textContent.trim();
  const order = (left, right) => {
    const [a, b] = [value(left), value(right)], [x, y] = [number(a), number(b)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last, either way
    return (down ? -1 : 1) * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
  };
  one("#table tbody").append(...[...rowOf.values()].sort(order));
}
for (const heading of all("#table th[aria-sort]")) one("button", heading).addEventListener("click", () => sortBy(heading));

let waiting;
function filter() {
  const wanted = one("#filter").value.toLowerCase().split(/\s+/).filter(Boolean), status = one("#status").value;
  shown = new Set(data.rows.filter((run) =>
    (!status || run.status === status) && wanted.every((word) => has(run.run, word))).map((run) => run.run));
  for (const element of all("[data-run]")) element.hidden = !shown.has(element.dataset.run);
  for (const cell of all(".cell")) cell.hidden = !one("figure:not([hidden])", cell) && Boolean(one("figure", cell));
  one("#count").textContent = `${shown.size} of ${data.rows.length} runs`;
  clearTimeout(waiting);
  waiting = setTimeout(drawAll, 150);
}
one("#filter").addEventListener("input", filter);
one("#status").addEventListener("change", filter);

// ---- differences
function compare() {
  const chosen = all(".chosen").filter((box) => box.checked).map((box) => box.closest("tr").dataset.run);
  const place = one("#difference");
  if (chosen.length < 2) {
    place.innerHTML = '<p class="note">Choose two runs or more in the table.</p>';
    return;
  }
  const keys = [...new Set(chosen.flatMap((run) => Object.keys(data.settings[run])))];
  const differing = keys.filter((key) => new Set(chosen.map((run) => data.settings[run][key])).size > 1);
  const table = document.createElement("table");
  const line = (cells, tag) => {
    const row = table.insertRow();
    for (const text of cells) row.append(Object.assign(document.createElement(tag), { textContent: text }));
  };
  line(["key", ...chosen], "th");
  for (const key of differing) line([key, ...chosen.map((run) => data.settings[run][key] ?? "–")], "td");
  place.replaceChildren(table);
}
for (const box of all(".chosen")) box.addEventListener("change", compare);

// ---- light or dark
one("#theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

filter();
clearTimeout(waiting);
await drawAll();
await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
document.body.dataset.ready = "true"; // for whoever waits for it
