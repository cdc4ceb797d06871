// The keys t, m and p toggle the layers on the tiles; a click enlarges a tile. The page is complete without scripts.
const tiles = [...document.querySelectorAll("main .tile")];
const dialog = document.querySelector("dialog");
const switches = { t: "show-truth", m: "show-predicted", p: "show-heat" };
let shown = 0;

function enlarge(i) {
  shown = (i + tiles.length) % tiles.length;
  const figure = tiles[shown].parentElement.cloneNode(true);
  for (const name of ["tabindex", "role"]) figure.querySelector(".tile").removeAttribute(name);
  dialog.querySelector(".enlarged").replaceChildren(figure);
  if (!dialog.open) dialog.showModal();
}

document.documentElement.classList.add("scripted");
tiles.forEach((tile, i) => {
  tile.tabIndex = 0;
  tile.setAttribute("role", "button");
  tile.addEventListener("click", () => enlarge(i));
  tile.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    enlarge(i);
  });
});

dialog.addEventListener("click", (event) => {
  const step = event.target.value;
  if (event.target === dialog || step === "0") dialog.close();
  else if (step) enlarge(shown + Number(step));
});
dialog.addEventListener("close", () => tiles[shown].focus());

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (switches[event.key]) document.getElementById(switches[event.key]).click();
  else if (dialog.open && event.key === "ArrowLeft") enlarge(shown - 1);
  else if (dialog.open && event.key === "ArrowRight") enlarge(shown + 1);
});
