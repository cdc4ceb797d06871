// The viewer's page: a grid in which only the visible rows exist, one enlarged tile, and a link that holds the state.
// Text that comes from the run is written with textContent only, never as HTML.

import { maskOf, paint } from "./paint.js";
import { Pixels } from "./pixels.js";

const OVERSCAN = 2; // rows that exist above and below the visible ones
const SPLITS = { oof: "out of fold", test: "test" };
const LAYERS = { i: "image", t: "truth", p: "probability", m: "mask" }; // key that toggles a layer -> its name
const DEFAULTS = { sort: "score", order: "up", split: "oof", fold: "", salt_class: "", layers: "itm", tile: "" };

const $ = (id) => document.getElementById(id);
const grid = $("grid"), large = $("large");
const run = await (await fetch("api/run")).json();
const { tiles, thresholds } = run, total = tiles.id.length;
const indexOf = new Map(tiles.id.map((id, i) => [id, i]).reverse());
const nothing = Array(total).fill(null);

const state = {}; // the keys of DEFAULTS, and threshold: its index in `thresholds`
const scores = { score: nothing, predicted: nothing, pooled: {} }; // at this threshold, from the server
let shown = []; // tiles that pass the filters, sorted
let selected = -1; // index in `shown`

// ---- the state and its link

function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  for (const [name, value] of Object.entries(DEFAULTS)) state[name] = link.get(name) ?? value;
  for (const name of ["sort", "order", "split", "fold", "salt_class"]) {
    $(name).value = state[name];
    if ($(name).selectedIndex < 0) $(name).value = state[name] = DEFAULTS[name]; // the link has an unknown value
  }
  const wanted = parseFloat(link.get("threshold") ?? thresholds[run.start].value);
  const distance = thresholds.map(({ value }) => Math.abs(value - wanted));
  state.threshold = Number.isFinite(wanted) ? distance.indexOf(Math.min(...distance)) : run.start;
  for (const box of $("layers").querySelectorAll("input")) box.checked = state.layers.includes(box.value);
}

function linkTo(changes = {}) {
  const link = new URLSearchParams(), all = { ...state, ...changes };
  for (const [name, value] of Object.entries(DEFAULTS)) if (all[name] !== value) link.set(name, all[name]);
  if (all.threshold !== run.start) link.set("threshold", thresholds[all.threshold].value);
  return "#" + link;
}

const writeLink = () => history.replaceState(null, "", linkTo());

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

async function ask(path) {
  try {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  } catch (error) {
    notice(`The server does not answer (${error.message}). Is python -m pipeline.tools.view still running?`);
    return null;
  }
}

// ---- which tiles, in which order

function arrange() {
  const keep = selected >= 0 ? shown[selected] : -1;
  const column = sortColumn(), sign = state.order === "up" ? 1 : -1;
  shown = [...Array(total).keys()].filter((i) => ["split", "fold", "salt_class"].every(
    (name) => state[name] === "" || String(tiles[name][i]) === state[name]));
  shown.sort((a, b) => { // unknown values come last in either order
    const x = column[a], y = column[b];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    return sign * ((x > y) - (x < y)) || a - b;
  });
  selected = shown.indexOf(keep);
  layOut();
}

const sortColumn = () => scores[state.sort] ?? tiles[state.sort];

// ---- scores at the threshold

let asked = null; // the threshold requested from the server; one request at a time, the latest threshold wins

async function moveThreshold(index) {
  state.threshold = index;
  $("threshold").value = index;
  $("threshold-value").textContent = thresholds[index].value;
  repaint();
  if (asked !== null) return;
  do {
    asked = state.threshold;
    const answer = await ask(`api/scores?threshold=${thresholds[asked].value}`);
    Object.assign(scores, answer ? await answer.json() : {});
  } while (asked !== state.threshold);
  asked = null;
  document.body.dataset.threshold = thresholds[state.threshold].value; // the threshold of the scores on the page
  for (const split in SPLITS) $(`score-${split}`).textContent = number(scores.pooled[split]);
  if (!dragging) arrange();
  showScores();
}

function showScores() {
  const known = shown.map((i) => scores.score[i]).filter((score) => score !== null);
  $("count").textContent = `${shown.length.toLocaleString("en")} ${shown.length === 1 ? "tile" : "tiles"}`;
  $("score-shown").textContent = number(known.length ? known.reduce((a, b) => a + b) / known.length : null);
  for (const [tile, cell] of cells) caption(cell, tile);
  showLarge();
}

const number = (x, digits = 4) => x === null || x === undefined ? "–" : x.toFixed(digits);
const percent = (x) => x === null ? "–" : `${(100 * x).toFixed(1)} %`;

// ---- the grid

const pixels = new Pixels(run, ask, (tile) => {
  if (cells.has(tile)) draw(cells.get(tile), tile);
  if (state.tile === tiles.id[tile]) showLarge();
});
const cells = new Map(), free = []; // tile -> its element; elements to reuse
const size = { cell: 150, caption: 24, gap: 10, columns: 1 };

function layOut() {
  const height = Math.round(size.cell * run.height / run.width);
  size.columns = Math.max(1, Math.floor((grid.clientWidth - size.gap) / (size.cell + size.gap)));
  size.row = height + size.caption + size.gap;
  size.left = Math.floor((grid.clientWidth - size.columns * (size.cell + size.gap) + size.gap) / 2);
  $("canvas").style.height = `${Math.ceil(shown.length / size.columns) * size.row + size.gap}px`;
  grid.style.setProperty("--cell", `${size.cell}px`);
  grid.style.setProperty("--height", `${height}px`);
  showVisible();
}

function showVisible() {
  const top = Math.max(0, Math.floor(grid.scrollTop / size.row) - OVERSCAN) * size.columns;
  const end = (Math.ceil((grid.scrollTop + grid.clientHeight) / size.row) + OVERSCAN) * size.columns;
  const visible = new Map(shown.slice(top, end).map((tile, i) => [tile, top + i]));
  for (const [tile, cell] of cells) {
    if (!visible.has(tile)) {
      cells.delete(tile);
      free.push(cell);
    }
  }
  for (const [tile, place] of visible) {
    let cell = cells.get(tile);
    if (!cell) {
      cell = free.pop() ?? newCell();
      cells.set(tile, cell);
      cell.dataset.tile = tile;
      cell.id = `tile-${tile}`;
      draw(cell, tile);
      caption(cell, tile);
    }
    cell.dataset.place = place;
    const x = size.left + (place % size.columns) * (size.cell + size.gap);
    const y = size.gap + Math.floor(place / size.columns) * size.row;
    cell.style.transform = `translate(${x}px, ${y}px)`;
    cell.setAttribute("aria-selected", place === selected);
  }
  for (const cell of free.splice(0)) cell.remove();
  grid.setAttribute("aria-activedescendant", selected >= 0 ? `tile-${shown[selected]}` : "");
  pixels.want([...visible.keys()]);
}

function newCell() {
  const cell = document.createElement("div");
  cell.setAttribute("role", "option");
  cell.append(...["canvas", "b", "span", "i"].map((name) => document.createElement(name)));
  $("canvas").append(cell);
  return cell;
}

function look(keys = state.layers) {
  const layers = new Set([...keys].map((key) => LAYERS[key]));
  return { ...run, firstBits: thresholds[state.threshold].first_bits, layers };
}

function draw(cell, tile) {
  const own = pixels.get(tile);
  cell.classList.toggle("empty", !own);
  if (own) paint(cell.firstChild, own, look());
}

function caption(cell, tile) {
  const [, score, id, value] = cell.children, column = state.sort, sorted = sortColumn()[tile];
  score.textContent = number(scores.score[tile], 1);
  score.style.setProperty("--score", scores.score[tile] ?? 0);
  score.classList.toggle("unknown", scores.score[tile] === null);
  id.textContent = tiles.id[tile];
  value.textContent = ["score", "id"].includes(column) || sorted === null ? ""
    : ["coverage", "predicted", "disagreement"].includes(column) ? percent(sorted)
    : column === "uncertainty" ? number(sorted, 3) : `${column} ${sorted}`;
  cell.setAttribute("aria-label", `${tiles.id[tile]}, score ${score.textContent}`);
}

let painting = 0;

function repaint() { // at most once per frame
  cancelAnimationFrame(painting);
  painting = requestAnimationFrame(() => {
    for (const [tile, cell] of cells) draw(cell, tile);
    showLarge();
  });
}

function select(place) {
  if (!shown.length) return;
  selected = Math.min(Math.max(place, 0), shown.length - 1);
  const top = Math.floor(selected / size.columns) * size.row, lowest = top + size.row + size.gap - grid.clientHeight;
  grid.scrollTop = Math.max(lowest, Math.min(top, grid.scrollTop)); // no further than needed
  showVisible();
  if (large.open) open(shown[selected]);
}

// ---- one tile, enlarged

function open(tile) {
  state.tile = tiles.id[tile];
  if (shown[selected] !== tile) {
    let place = shown.indexOf(tile);
    if (place < 0) { // the filters hide it
      for (const name of ["split", "fold", "salt_class"]) $(name).value = state[name] = "";
      arrange();
      showScores();
      place = shown.indexOf(tile);
    }
    select(place);
  }
  writeLink();
  if (!large.open) large.showModal();
  showLarge();
}

function showLarge() {
  const tile = indexOf.get(state.tile);
  if (!large.open || tile === undefined) return;
  $("large-id").textContent = tiles.id[tile];
  $("large-id").href = linkTo();
  const own = pixels.get(tile), facts = {
    score: number(scores.score[tile], 1),
    IoU: own ? "–" : "…", // "…" while its pixels are being fetched
    "salt in truth": percent(tiles.coverage[tile]),
    "salt predicted": percent(scores.predicted[tile]),
    tiles: SPLITS[tiles.split[tile]],
    fold: tiles.fold[tile] ?? "–",
    depth: tiles.z[tile] ?? "–",
    uncertainty: number(tiles.uncertainty[tile], 3),
    "disagreement between folds": percent(tiles.disagreement[tile]),
    position: `${(selected + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`,
  };
  if (own) {
    paint($("large-canvas"), own, look());
    for (const canvas of $("single").querySelectorAll("canvas")) {
      canvas.parentNode.hidden = canvas.dataset.layer === "t" && !own.truth;
      paint(canvas, own, look(canvas.dataset.layer));
    }
    if (own.truth) facts.IoU = iou(maskOf(own, look().firstBits, run.rules), own.truth);
  }
  $("large-facts").replaceChildren(...Object.entries(facts).map(([name, value]) => {
    const row = document.createElement("div");
    row.append(document.createElement("dt"), document.createElement("dd"));
    row.firstChild.textContent = name;
    row.lastChild.textContent = value;
    return row;
  }));
}

function iou(mask, truth) {
  let both = 0, either = 0;
  for (let i = 0; i < mask.length; i++) {
    both += mask[i] & truth[i];
    either += mask[i] | truth[i];
  }
  return either ? (both / either).toFixed(3) : "both empty";
}

// ---- from the link to the page

function follow() {
  readLink();
  notice("");
  moveThreshold(state.threshold).then(() => {
    const tile = indexOf.get(state.tile);
    if (tile !== undefined) return open(tile);
    if (state.tile) notice(`This run has no tile ${JSON.stringify(state.tile)}.`);
    if (large.open) large.close();
  });
}

// ---- user input

let dragging = false;

$("threshold").addEventListener("input", (event) => {
  dragging = true;
  moveThreshold(Number(event.target.value));
});
$("threshold").addEventListener("change", (event) => { // the slider was released: now the order may change
  dragging = false;
  moveThreshold(Number(event.target.value)).then(writeLink);
});
$("reset").addEventListener("click", () => moveThreshold(run.start).then(writeLink));

for (const name of ["sort", "order", "split", "fold", "salt_class"]) {
  $(name).addEventListener("change", (event) => {
    state[name] = event.target.value;
    if (name === "sort" && state.sort === "disagreement") { // labelled tiles are predicted by one model only
      state.split = $("split").value = "test";
    }
    selected = -1;
    grid.scrollTop = 0;
    arrange();
    showScores();
    writeLink();
  });
}

$("layers").addEventListener("change", () => {
  state.layers = [...$("layers").querySelectorAll("input:checked")].map((box) => box.value).join("");
  writeLink();
  repaint();
});

grid.addEventListener("click", (event) => {
  const cell = event.target.closest("[data-tile]");
  if (cell) open(Number(cell.dataset.tile));
});
$("close").addEventListener("click", () => large.close());
large.addEventListener("click", (event) => event.target === large && large.close()); // a click beside the dialog
large.addEventListener("close", () => {
  state.tile = "";
  writeLink();
  grid.focus();
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -size.columns, ArrowDown: size.columns };
  if (LAYERS[event.key]) $(`layer-${LAYERS[event.key]}`).querySelector("input").click();
  else if (event.target === $("threshold")) return; // arrow keys move the slider
  else if (moves[event.key]) select(selected < 0 ? 0 : selected + moves[event.key]);
  else if (event.key === "Home") select(0);
  else if (event.key === "End") select(shown.length - 1);
  else if (event.key === "Enter" && event.target.matches("body, #grid") && selected >= 0) open(shown[selected]);
  else return;
  event.preventDefault();
});

let scrolling = false;

grid.addEventListener("scroll", () => { // at most once per frame
  if (!scrolling) requestAnimationFrame(() => {
    scrolling = false;
    showVisible();
  });
  scrolling = true;
}, { passive: true });
new ResizeObserver(layOut).observe(grid);
addEventListener("hashchange", follow);

// ---- start

function options(select, values, label = String) {
  for (const value of [...new Set(values)].filter((value) => value !== null).sort((a, b) => a - b)) {
    select.append(new Option(label(value), value));
  }
}

document.title = `${run.name}: tiles`;
$("name").textContent = run.name;
$("about").textContent = run.about;
options($("fold"), tiles.fold);
options($("salt_class"), tiles.salt_class, (number) => number ? `to ${10 * number} %` : "none");
$("threshold").max = thresholds.length - 1;
$("submitted").append(new Option("", run.start));
for (const [key, layer] of Object.entries(LAYERS)) {
  const figure = document.createElement("figure");
  figure.append(document.createElement("canvas"), document.createElement("figcaption"));
  figure.firstChild.dataset.layer = key;
  figure.lastChild.textContent = layer;
  $("single").append(figure);
}
follow();
