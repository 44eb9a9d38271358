"use strict";
// Slices of a reduced scan on canvases, with contours of two label maps. No dependencies, no network.
// Axes are those of the closest RAS+ order; both axes of every picture run backwards (radiological convention).
const PLANES = {
  axial: { normal: 2, across: 0, down: 1, letters: "RLAP" },
  coronal: { normal: 1, across: 0, down: 2, letters: "RLSI" },
  sagittal: { normal: 0, across: 1, down: 2, letters: "APSI" },
};
const COLOURS = { reference: "#3DA5FF", prediction: "#FF9D00", both: "#FFFFFF" };
const CROSS = "rgba(255, 224, 77, 0.75)";
const LONGEST = 16383;

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

async function inflate(text) {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// The codes of all slices of one channel (three for a colour picture), x fastest, then y, then z.
async function codesOf(webp, [nx, ny, nz], colour) {
  const picture = new Image();
  picture.src = "data:image/webp;base64," + webp;
  await picture.decode();
  const columns = Math.max(1, Math.min(nz, Math.round(Math.sqrt((nz * ny) / nx)), Math.floor(LONGEST / nx)));
  const canvas = Object.assign(document.createElement("canvas"), { width: nx, height: ny });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const parts = Array.from({ length: colour ? 3 : 1 }, () => new Uint8Array(nx * ny * nz));
  for (let z = 0; z < nz; z++) {
    context.drawImage(picture, -(z % columns) * nx, -Math.floor(z / columns) * ny);
    const pixels = context.getImageData(0, 0, nx, ny).data;
    parts.forEach((part, c) => {
      const from = parts.length === 1 ? 1 : c;
      for (let i = 0; i < nx * ny; i++) part[z * nx * ny + i] = pixels[4 * i + from];
    });
  }
  return parts;
}

// Intensity of each of the 256 codes: linear between the knots.
function intensities(knots) {
  return Float32Array.from({ length: 256 }, (_, code) => {
    let k = 1;
    while (k < knots.length - 1 && knots[k][1] < code) k++;
    const [[low, from], [high, to]] = [knots[k - 1], knots[k]];
    return low + ((code - from) / (to - from)) * (high - low);
  });
}

// The cell of a lattice over the shown part in which the point lies.
function cellAt({ box }, shape, point) {
  return shape.map((n, axis) => {
    const part = (point[axis] + 0.5 - box[axis][0]) / (box[axis][1] - box[axis][0]);
    return clamp(Math.floor(part * n), 0, n - 1);
  });
}

// One slice as a small canvas, interpolated between the two nearest ones.
function sliceCanvas({ image, box }, { codes, values, window: [low, high] }, { normal, across, down }, point) {
  const stride = [1, image[0], image[0] * image[1]];
  const [columns, rows, count] = [image[across], image[down], image[normal]];
  const [start, stop] = box[normal];
  const place = ((point[normal] + 0.5 - start) / (stop - start)) * count - 0.5;
  const below = clamp(Math.floor(place), 0, count - 1);
  const above = Math.min(below + 1, count - 1);
  const part = clamp(place - below, 0, 1);
  const grey = values.map((value) => clamp(((value - low) / (high - low)) * 255, 0, 255));
  const canvas = Object.assign(document.createElement("canvas"), { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  for (let row = 0, i = 0; row < rows; row++) {
    let at = (rows - 1 - row) * stride[down] + (columns - 1) * stride[across];
    for (let column = 0; column < columns; column++, at -= stride[across], i += 4) {
      for (let c = 0; c < 3; c++) {
        const code = codes[codes.length === 3 ? c : 0];
        const first = grey[code[at + below * stride[normal]]];
        pixels.data[i + c] = first + part * (grey[code[at + above * stride[normal]]] - first);
      }
      pixels.data[i + 3] = 255;
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// The edges of label maps: one colour each, white where both have one. wanted: the values of one label, or none for all.
function drawContours(context, { shape, maps, wanted }, plane, cell, wide, tall) {
  const sides = Object.keys(maps);
  if (!sides.length) return;
  const stride = [1, shape[0], shape[0] * shape[1]];
  const [columns, rows] = [shape[plane.across], shape[plane.down]];
  const base = cell[plane.normal] * stride[plane.normal];
  const cells = sides.map((side) => {
    const cell = new Uint16Array(rows * columns);
    for (let row = 0, i = 0; row < rows; row++) {
      let at = base + (rows - 1 - row) * stride[plane.down] + (columns - 1) * stride[plane.across];
      for (let column = 0; column < columns; column++, at -= stride[plane.across], i++) {
        const value = maps[side][at];
        cell[i] = wanted ? Number(wanted.includes(value)) : value;
      }
    }
    return cell;
  });
  const paths = Object.fromEntries([...sides, "both"].map((side) => [side, new Path2D()]));
  const [w, h] = [wide / columns, tall / rows];
  const edge = (i, j, x0, y0, x1, y1) => {
    const found = sides.filter((_, s) => cells[s][i] !== cells[s][j]);
    if (!found.length) return;
    const path = paths[found.length === 2 ? "both" : found[0]];
    path.moveTo(x0 * w, y0 * h);
    path.lineTo(x1 * w, y1 * h);
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const i = row * columns + column;
      if (column + 1 < columns) edge(i, i + 1, column + 1, row, column + 1, row + 1);
      if (row + 1 < rows) edge(i, i + columns, column, row + 1, column + 1, row + 1);
    }
  }
  context.lineCap = "square";
  for (const [width, colour] of [[3.4, "rgba(0, 0, 0, 0.5)"], [1.7, null]]) {
    context.lineWidth = width;
    for (const [side, path] of Object.entries(paths)) {
      context.strokeStyle = colour ?? COLOURS[side];
      context.stroke(path);
    }
  }
}

// x, y: where the point lies in the picture.
function drawCross(context, x, y, wide, tall) {
  context.strokeStyle = CROSS;
  context.lineWidth = 1;
  context.beginPath();
  for (const [a, b, c, d] of [[x, 0, x, y - 12], [x, y + 12, x, tall], [0, y, x - 12, y], [x + 12, y, wide, y]]) {
    context.moveTo(a, b);
    context.lineTo(c, d);
  }
  context.stroke();
}

// Slice number, letters of the directions, and a scale bar; letters is empty where there are none.
function drawWords(context, title, letters, wide, tall, scale) {
  const write = (text, x, y, align, baseline, size = 12) => {
    context.font = `${size}px system-ui, sans-serif`;
    context.textAlign = align;
    context.textBaseline = baseline;
    context.lineWidth = 3;
    context.strokeStyle = "#000";
    context.strokeText(text, x, y);
    context.fillStyle = "#fff";
    context.fillText(text, x, y);
  };
  write(title, 5, 5, "left", "top");
  if (!letters) return;
  const [left, right, top, bottom] = letters;
  write(left, 5, tall / 2, "left", "middle", 15);
  write(right, wide - 5, tall / 2, "right", "middle", 15);
  write(top, wide / 2, 4, "center", "top", 15);
  write(bottom, wide / 2, tall - 4, "center", "bottom", 15);
  const bar = [100, 50, 20, 10, 5, 2, 1].find((mm) => mm * scale <= wide * 0.3);
  if (!bar) return;
  for (const [width, colour] of [[4, "#000"], [2, "#fff"]]) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.beginPath();
    context.moveTo(wide - 6 - bar * scale, tall - 8);
    context.lineTo(wide - 6, tall - 8);
    context.stroke();
  }
  write(`${bar} mm`, wide - 6, tall - 12, "right", "bottom");
}
