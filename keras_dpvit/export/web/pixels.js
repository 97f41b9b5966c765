// A picture as the model takes it, by the arithmetic of Pillow, which read those that it learned from.

const BITS = 22; // of the fixed-point weights

// Weights of Pillow's bilinear filter with support that grows as the picture shrinks.
function weights(from, to) {
  const scale = Math.max(from / to, 1);
  const found = [];
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * (from / to);
    const first = Math.max(Math.trunc(center - scale + 0.5), 0);
    const last = Math.min(Math.trunc(center + scale + 0.5), from);
    const own = [];
    let total = 0;
    for (let x = first; x < last; x++) {
      const weight = Math.max(1 - Math.abs((x - center + 0.5) / scale), 0);
      own.push(weight);
      total += weight;
    }
    const whole = own.map((w) => {
      const part = (w / total) * 2 ** BITS;
      return Math.trunc(part < 0 ? part - 0.5 : part + 0.5);
    });
    found.push({first, whole});
  }
  return found;
}

function rounded(sum) {
  // The sum passes 32 bits: division, not a shift.
  return Math.min(Math.max(Math.floor((sum + 2 ** (BITS - 1)) / 2 ** BITS), 0), 255);
}

// Pixels {data, width, height, channels} at another size: first across, then down.
function resize(pixels, width, height) {
  const {channels} = pixels;
  let {data} = pixels;
  if (width !== pixels.width) {
    const across = weights(pixels.width, width);
    const wide = new Uint8Array(pixels.height * width * channels);
    for (let y = 0; y < pixels.height; y++) {
      for (let x = 0; x < width; x++) {
        const {first, whole} = across[x];
        for (let c = 0; c < channels; c++) {
          let sum = 0;
          for (let k = 0; k < whole.length; k++) {
            sum += data[(y * pixels.width + first + k) * channels + c] * whole[k];
          }
          wide[(y * width + x) * channels + c] = rounded(sum);
        }
      }
    }
    data = wide;
  }
  if (height !== pixels.height) {
    const down = weights(pixels.height, height);
    const tall = new Uint8Array(height * width * channels);
    for (let y = 0; y < height; y++) {
      const {first, whole} = down[y];
      for (let i = 0; i < width * channels; i++) {
        let sum = 0;
        for (let k = 0; k < whole.length; k++) sum += data[(first + k) * width * channels + i] * whole[k];
        tall[y * width * channels + i] = rounded(sum);
      }
    }
    data = tall;
  }
  return {data, width, height, channels};
}

// RGBA of a canvas as gray (ITU-R 601-2) or RGB; transparency is dropped.
function withChannels({data, width, height}, channels) {
  const found = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [r, g, b] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    if (channels === 1) {
      found[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    } else {
      found.set([r, g, b], 3 * i);
    }
  }
  return {data: found, width, height, channels};
}

// RGBA image data -> Uint8Array of (height, width, channels).
export function fitted(image, [height, width, channels]) {
  return resize(withChannels(image, channels), width, height).data;
}
