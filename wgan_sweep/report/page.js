// Table, charts, samples and failures all show the runs that match the filter.
const data = JSON.parse(document.getElementById("data").textContent);
const queryAll = (selector, within = document) => [...within.querySelectorAll(selector)];
const query = (selector, within = document) => within.querySelector(selector);
const rowByRun = new Map(queryAll("#table tbody tr").map((row) => [row.dataset.run, row]));
const wordsByRun = new Map(data.rows.map((run) => [
  run.run, `${run.run} ${run.cell} ${run.status} seed=${run.seed}`.toLowerCase().split(/\s+/),
]));
// A search word with a value must match a whole word (div.k=1 does not match div.k=10); others may match a part.
const matches = (run, word) => wordsByRun.get(run).some((candidate) => (
  /=./.test(word) ? candidate === word : candidate.includes(word)
));
let shown = new Set(rowByRun.keys());

// ---- charts
const isDark = () => {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
const config = () => {
  const color = isDark() ? "#e6e9ed" : "#1b1f24", line = isDark() ? "#343b44" : "#d5dae0";
  const text = { labelColor: color, titleColor: color };
  return {
    background: "transparent", view: { stroke: line }, axis: { ...text, gridColor: line, domainColor: line, tickColor: line },
    legend: text, header: text, style: { cell: { stroke: line } }, text: { color },
  };
};
const views = new Map(), requests = new Map();
async function draw(id, spec, values) {
  const request = (requests.get(id) ?? 0) + 1;
  requests.set(id, request);
  views.get(id)?.finalize();
  views.delete(id);
  const container = document.getElementById(id);
  if (!spec || !values.length) {
    container.textContent = "No data for these runs.";
    return;
  }
  const result = await vegaEmbed(container, { ...spec, data: { values } }, { actions: false, renderer: "canvas", config: config(), tooltip: { theme: isDark() ? "dark" : "light" } });
  if (requests.get(id) === request) views.set(id, result);
  else result.finalize(); // a newer request has replaced this one
}

const visible = () => data.rows.filter((run) => shown.has(run.run));
// Vega modifies and keeps the rows that it is given, hence the copies.
const withValues = () => visible().filter((run) => run.value !== null).map((run) => ({ ...run }));
const selects = (kind) => queryAll("select", query(`[data-kind="${kind}"]`));
function drawGrid(kind) {
  const selected = selects(kind).map((select) => select.value);
  const rows = withValues().filter((run) => selected.every((axis) => run[`a${axis}`] !== "-")); // a gradient penalty has no k
  return draw(kind, data.charts[kind][selected.join(",")], rows);
}

const shownCells = () => new Set(queryAll('.toggle[aria-pressed="true"]').map((toggle) => toggle.dataset.cell));
function drawLines() {
  const name = query("#curve-metric").value, cells = shownCells(), values = [];
  const end = query("#whole").checked ? Infinity : data.ends[name] ?? Infinity;
  query("#cut").hidden = !(name in data.ends);
  for (const run of visible()) {
    if (!cells.has(run.cell)) continue;
    for (const [images, value] of data.curves[run.run]?.[name] ?? []) {
      if (images <= end) values.push({ run: run.run, cell: run.cell, label: run.label, seed: run.seed, images, value });
    }
  }
  const spec = structuredClone(data.lines);
  spec.encoding.y.title = data.names[name] ?? name;
  return draw("lines", spec, values);
}
const drawAll = () => Promise.all([drawGrid("heat"), drawGrid("strip"), drawLines()]);

function fill(select, options, value) {
  select.replaceChildren(...options.map(([id, text]) => new Option(text, id, false, String(id) === String(value))));
}
const axes = data.axes.map((name, index) => [index, name]);
for (const kind of ["heat", "strip"]) {
  const defaults = data.defaults[kind].split(","), axisSelects = selects(kind);
  axisSelects.forEach((select, index) => fill(select, axes, defaults[index]));
  let previous = axisSelects.map((select) => select.value);
  const onChange = () => {
    if (new Set(axisSelects.map((select) => select.value)).size < axisSelects.length) {
      axisSelects.forEach((select, index) => { select.value = previous[1 - index]; }); // swap the two axes
    }
    previous = axisSelects.map((select) => select.value);
    drawGrid(kind);
  };
  for (const select of axisSelects) select.addEventListener("change", onChange);
  if (!data.defaults[kind]) query(`[data-kind="${kind}"]`).hidden = true;
}
const curveMetrics = [...new Set(Object.values(data.curves).flatMap(Object.keys))].sort();
const hasMetricCurve = Object.values(data.curves).some((curves) => (curves[data.metric]?.length ?? 0) > 1);
fill(query("#curve-metric"), curveMetrics.map((name) => [name, name]), hasMetricCurve ? data.metric : "wasserstein");
query("#curve-metric").addEventListener("change", drawLines);
query("#whole").addEventListener("change", drawLines);
for (const toggle of queryAll(".toggle")) {
  toggle.addEventListener("click", () => {
    toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
    drawLines();
  });
}
for (const [id, state] of [["all", "true"], ["none", "false"]]) {
  document.getElementById(id).addEventListener("click", () => {
    for (const toggle of queryAll(".toggle")) toggle.setAttribute("aria-pressed", state);
    drawLines();
  });
}

// ---- table
const toNumber = (text) => (text.trim() === "" ? NaN : Number(text));
function sortBy(heading) {
  const index = [...heading.parentElement.children].indexOf(heading);
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const cell of heading.parentElement.children) if (cell.hasAttribute("aria-sort")) cell.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (row) => row.children[index].dataset.value ?? row.children[index].textContent.trim();
  const order = (left, right) => {
    const [a, b] = [value(left), value(right)], [x, y] = [toNumber(a), toNumber(b)];
    if (a === "" || b === "") return (a === "") - (b === ""); // empty cells come last in both orders
    return (descending ? -1 : 1) * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
  };
  query("#table tbody").append(...[...rowByRun.values()].sort(order));
}
for (const heading of queryAll("#table th[aria-sort]")) query("button", heading).addEventListener("click", () => sortBy(heading));

let redrawTimer;
function filter() {
  const words = query("#filter").value.toLowerCase().split(/\s+/).filter(Boolean), status = query("#status").value;
  shown = new Set(data.rows.filter((run) =>
    (!status || run.status === status) && words.every((word) => matches(run.run, word))).map((run) => run.run));
  for (const element of queryAll("[data-run]")) element.hidden = !shown.has(element.dataset.run);
  for (const cell of queryAll(".cell")) cell.hidden = !query("figure:not([hidden])", cell) && Boolean(query("figure", cell));
  query("#count").textContent = `${shown.size} of ${data.rows.length} runs`;
  clearTimeout(redrawTimer);
  redrawTimer = setTimeout(drawAll, 150);
}
query("#filter").addEventListener("input", filter);
query("#status").addEventListener("change", filter);

// ---- differences
function compare() {
  const selected = queryAll(".selected").filter((box) => box.checked).map((box) => box.closest("tr").dataset.run);
  const container = query("#difference");
  if (selected.length < 2) {
    container.innerHTML = '<p class="note">Select two or more runs in the table.</p>';
    return;
  }
  const keys = [...new Set(selected.flatMap((run) => Object.keys(data.settings[run])))];
  const differing = keys.filter((key) => new Set(selected.map((run) => data.settings[run][key])).size > 1);
  const table = document.createElement("table");
  const addRow = (cells, tag) => {
    const row = table.insertRow();
    for (const text of cells) row.append(Object.assign(document.createElement(tag), { textContent: text }));
  };
  addRow(["key", ...selected], "th");
  for (const key of differing) addRow([key, ...selected.map((run) => data.settings[run][key] ?? "–")], "td");
  container.replaceChildren(table);
}
for (const box of queryAll(".selected")) box.addEventListener("change", compare);

// ---- theme
query("#theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

filter();
clearTimeout(redrawTimer);
await drawAll();
await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
document.body.dataset.ready = "true"; // tests wait for this
