// Paint a tile's layers over one another on a canvas.

const TRUTH = [255, 176, 0], MASK = [53, 200, 255]; // the report's colours
const EDGE = 243; // opacity of a mask's edge, out of 256
const ONE = 0x3c00; // bits of the float16 1.0

// Colour and opacity of each probability, indexed by its float16 bits: transparent at 0 and for NaN; violet, then red,
// then yellow at 1.
const STOPS = [[60, 20, 120], [150, 30, 140], [230, 70, 80], [255, 165, 40], [255, 245, 150]];
const RAMP = new Uint8Array(4 * 0x10000);
for (let bits = 0; bits <= ONE; bits++) {
  const p = float16(bits), at = p * (STOPS.length - 1), low = Math.min(Math.floor(at), STOPS.length - 2);
  for (let c = 0; c < 3; c++) RAMP[4 * bits + c] = STOPS[low][c] + (at - low) * (STOPS[low + 1][c] - STOPS[low][c]);
  RAMP[4 * bits + 3] = 165 * Math.sqrt(p);
}

function float16(bits) {
  const exponent = bits >> 10, fraction = (bits & 1023) / 1024;
  return exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
}

// The mask that a submission would have (H * W, 0 or 1): the pixels whose probability is above the threshold, after the
// rules. The bits of float16 numbers in [0, 1] ascend with the numbers; those of NaN are above ONE.
export function maskOf(tile, firstBits, rules) {
  const probs = tile.probs, mask = new Uint8Array(probs.length);
  if (tile.black && rules.black_empty) return mask;
  let found = 0, sure = false;
  for (let i = 0; i < mask.length; i++) {
    if (probs[i] >= firstBits && probs[i] <= ONE) mask[i] = 1, found++, sure ||= probs[i] >= rules.peak_bits;
  }
  return !sure || (found === mask.length && rules.full_empty) ? mask.fill(0) : mask;
}

// Paint the layers (a Set of 'image', 'truth', 'probability', 'mask') on a canvas, resized to the tile's size.
export function paint(canvas, tile, { width, height, channels, firstBits, rules, layers }) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true }); // keeps the canvas in main memory
  const picture = context.createImageData(width, height), out = picture.data;
  const green = channels > 1 ? 1 : 0, blue = channels > 1 ? 2 : 0, { image, probs } = tile;
  if (layers.has("image")) {
    for (let i = 0, o = 0, at = 0; i < probs.length; i++, o += 4, at += channels) {
      out[o] = image[at], out[o + 1] = image[at + green], out[o + 2] = image[at + blue];
    }
  }
  for (let o = 3; o < out.length; o += 4) out[o] = 255;
  if (layers.has("probability")) {
    for (let i = 0; i < probs.length; i++) {
      const at = 4 * probs[i];
      blend(out, 4 * i, RAMP[at], RAMP[at + 1], RAMP[at + 2], RAMP[at + 3]);
    }
  }
  const tint = layers.has("image") || layers.has("probability") ? 56 : 154;
  if (layers.has("truth") && tile.truth) shade(out, tile.truth, width, height, TRUTH, tint);
  if (layers.has("mask")) shade(out, maskOf(tile, firstBits, rules), width, height, MASK, tint);
  context.putImageData(picture, 0, 0);
}

// Paint a mask as a tint with an edge one pixel wide.
function shade(out, mask, width, height, [red, green, blue], tint) {
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      const inside = (x === 0 || mask[i - 1]) && (x === width - 1 || mask[i + 1]) &&
        (y === 0 || mask[i - width]) && (y === height - 1 || mask[i + width]);
      blend(out, 4 * i, red, green, blue, inside ? tint : EDGE);
    }
  }
}

function blend(out, at, red, green, blue, opacity) {
  out[at] += (opacity * (red - out[at])) >> 8;
  out[at + 1] += (opacity * (green - out[at + 1])) >> 8;
  out[at + 2] += (opacity * (blue - out[at + 2])) >> 8;
}
