// Fetch the pixels of the wanted tiles in batches, and keep them; the least recently used are dropped first.

const REQUESTS = 2; // most requests at once
const TILES = 32, BATCH = 8e6; // most tiles in a request; most bytes, if tiles are large
const MEMORY = 256e6; // most bytes kept

export class Pixels {
  // run: the content of api/run;  ask: fetch that gives null on failure;  arrived: called with each tile that arrives
  constructor(run, ask, arrived) {
    Object.assign(this, { run, ask, arrived, kept: new Map(), loading: new Set(), wanted: [], requests: 0 });
    this.area = run.height * run.width;
    const bytes = this.area * (3 + run.channels);
    this.capacity = Math.max(64, MEMORY / bytes);
    this.batch = Math.max(1, Math.min(TILES, Math.floor(BATCH / bytes)));
  }

  // { probs, image, truth (null if unknown), black } of a tile; undefined if it has not arrived yet.
  get(tile) {
    const pixels = this.kept.get(tile);
    if (pixels) {
      this.kept.delete(tile);
      this.kept.set(tile, pixels); // at the end: the most recently used
    }
    return pixels;
  }

  // Fetch these tiles, and no longer the ones wanted before.
  want(tiles) {
    this.wanted = tiles;
    this.load();
  }

  async load() {
    const { area, run: { channels, tiles } } = this;
    const missing = this.wanted.filter((tile) => !this.kept.has(tile) && !this.loading.has(tile)).slice(0, this.batch);
    if (!missing.length || this.requests === REQUESTS) return;
    this.requests++;
    missing.forEach((tile) => this.loading.add(tile));
    const answer = await this.ask(`api/pixels?tiles=${missing}`), buffer = answer && await answer.arrayBuffer();
    missing.forEach((tile) => this.loading.delete(tile));
    this.requests--;
    if (!buffer) return;
    const images = 2 * area * missing.length, truths = images + channels * area * missing.length;
    missing.forEach((tile, i) => {
      this.kept.set(tile, {
        probs: new Uint16Array(buffer, 2 * area * i, area),
        image: new Uint8Array(buffer, images + channels * area * i, channels * area),
        truth: tiles.coverage[tile] === null ? null : new Uint8Array(buffer, truths + area * i, area),
        black: tiles.black[tile],
      });
      this.arrived(tile);
    });
    while (this.kept.size > this.capacity) this.kept.delete(this.kept.keys().next().value);
    this.load();
  }
}
