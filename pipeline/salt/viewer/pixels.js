// The pixels of tiles: fetched a batch at a time, the wanted ones alone; the least recently used are forgotten.

const REQUESTS = 2; // at once
const TILES = 32, BATCH = 8e6; // tiles in a request; bytes, where tiles are large
const MEMORY = 256e6; // bytes that are kept

export class Pixels {
  // run: what api/run gives;  ask: fetch, null where it fails;  arrived: called with a tile that has come
  constructor(run, ask, arrived) {
    Object.assign(this, { run, ask, arrived, kept: new Map(), loading: new Set(), wanted: [], requests: 0 });
    this.area = run.height * run.width;
    const bytes = this.area * (3 + run.channels);
    this.capacity = Math.max(64, MEMORY / bytes);
    this.batch = Math.max(1, Math.min(TILES, Math.floor(BATCH / bytes)));
  }

  // { probs, image, truth (null where unknown), black }, undefined where it has not come yet.
  get(tile) {
    const pixels = this.kept.get(tile);
    if (pixels) {
      this.kept.delete(tile);
      this.kept.set(tile, pixels); // now the most recently used
    }
    return pixels;
  }

  // Fetch these, and no longer those that were wanted before.
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
