"use strict";
// The viewer: three linked planes, mouse and keyboard. slices.js draws.

class Viewer {
  constructor(root, data) {
    Object.assign(this, { root, data, point: [...data.point], shown: { reference: true, prediction: true } });
    this.layout = "all";
    this.active = data.planes[0];
    this.channel = 0;
    this.label = data.focus ?? "";
    this.size = data.box.map(([start, stop]) => stop - start);
    this.extent = this.size.map((n, axis) => n * data.spacing[axis]);
    this.loaded = new Map();
  }

  async open() {
    const labels = this.data.labels;
    this.maps = {};
    for (const side of ["reference", "prediction"]) {
      if (labels?.[side]) {
        const buffer = await inflate(labels[side]);
        this.maps[side] = labels.bytes === 2 ? new Uint16Array(buffer) : new Uint8Array(buffer);
      }
    }
    this.build();
    await this.choose(0);
    new ResizeObserver(() => this.draw()).observe(this.root);
    this.root.focus({ preventScroll: true });
  }

  async choose(channel) {
    const { webp, knots, window } = this.data.channels[channel];
    if (!this.loaded.has(channel)) {
      const codes = await codesOf(webp, this.data.image, this.data.colour);
      this.loaded.set(channel, { codes, values: intensities(knots), window: [...window] });
    }
    this.channel = channel;
    this.draw();
  }

  // --- what the user sees and does

  build() {
    const { channels, names, planes, presets } = this.data;
    const make = (tag, properties = {}, ...children) => {
      const element = Object.assign(document.createElement(tag), properties);
      element.append(...children);
      return element;
    };
    const choice = (text, options, onchange) => {
      const select = make("select", { onchange: () => onchange(select.value) });
      options.forEach(([value, name]) => select.append(make("option", { value, textContent: name })));
      return [make("label", {}, text + " ", select), select];
    };
    const box = (side, text) => {
      const input = make("input", { type: "checkbox", checked: true });
      input.onchange = () => { this.shown[side] = input.checked; this.draw(); };
      this.boxes[side] = input;
      const swatch = make("i", { className: "swatch" });
      swatch.style.background = COLOURS[side];
      return make("label", {}, input, swatch, text);
    };
    const number = (text, set) => {
      const input = make("input", { type: "number", step: "any" });
      input.onchange = () => { if (Number.isFinite(input.valueAsNumber)) { set(input.valueAsNumber); this.draw(); } };
      return [make("label", {}, text + " ", input), input];
    };
    this.boxes = {};
    const bar = make("div", { className: "bar" });
    if (channels.length > 1) {
      bar.append(choice("channel", channels.map((c, i) => [i, c.name]), (value) => this.choose(Number(value)))[0]);
    }
    for (const side of Object.keys(this.maps)) bar.append(box(side, side));
    if (names.length > 1 && Object.keys(this.maps).length) {
      const options = [["", "all labels"], ...names.map(([name]) => [name, name])];
      const [label, select] = choice("contours of", options, (value) => { this.label = value; this.draw(); });
      select.value = this.label;
      bar.append(label);
    }
    const [level, levelInput] = number("level", (value) => this.window(value, this.width));
    const [width, widthInput] = number("width", (value) => this.window(this.level, value));
    this.inputs = { level: levelInput, width: widthInput };
    bar.append(level, width);
    if (Object.keys(presets).length) {
      const options = [["", "window…"], ...Object.keys(presets).map((name) => [name, name])];
      const [label, select] = choice("", options, (name) => {
        if (name) this.window(...presets[name]);
        this.draw();
        select.value = "";
      });
      bar.append(label);
    }
    if (planes.length > 1) {
      const options = [["all", "three planes"], ...planes.map((name) => [name, name])];
      const [label, select] = choice("show", options, (value) => this.arrange(value));
      this.layouts = select;
      bar.append(label);
    }
    bar.append(make("button", { type: "button", textContent: "reset", onclick: () => this.reset() }));
    const row = make("div", { className: "planes" });
    this.views = planes.map((name) => {
      const canvas = make("canvas", { role: "img" });
      const axis = PLANES[name].normal;
      const [start, stop] = this.data.box[axis];
      const slider = make("input", { type: "range", min: start, max: stop - 1, step: 1, ariaLabel: `${name} slice` });
      slider.oninput = () => { this.point[axis] = slider.valueAsNumber; this.draw(); };
      slider.hidden = stop - start < 2;
      const part = make("div", { className: "plane" }, canvas, slider);
      part.dataset.plane = name;
      row.append(part);
      const view = { name, canvas, slider, part, plane: PLANES[name] };
      this.listen(view);
      return view;
    });
    this.says = make("output", { className: "says" });
    const slices = this.size.filter((n) => n > 1).length > 2;
    const help = (slices ? "Wheel or arrow keys: slices. Click: go there. " : "")
      + "Drag: level (up and down) and width (left and right). Keys: o contours on and off, r reset"
      + (slices ? ", x cross, 1 2 3 one plane, 0 all." : ".");
    this.root.replaceChildren(bar, row, this.says, make("p", { className: "help", textContent: help }));
    this.root.tabIndex = 0;
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  listen(view) {
    const { canvas, plane } = view;
    let rest = 0;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.active = view.name;
      rest += event.deltaMode === 0 ? event.deltaY / 40 : event.deltaY;
      const steps = Math.abs(event.deltaY) >= 40 ? Math.sign(event.deltaY) : Math.trunc(rest);
      if (steps) { rest = 0; this.step(-steps); }
    }, { passive: false });
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.active = view.name;
      this.root.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      held = { x: event.clientX, y: event.clientY, level: this.level, width: this.width, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      const [x, y] = [event.clientX - held.x, event.clientY - held.y];
      held.moved ||= Math.hypot(x, y) > 4;
      if (!held.moved) return;
      const { window: [low, high] } = this.data.channels[this.channel];
      const unit = (high - low) / 300;
      this.window(held.level - y * unit, held.width + x * unit);
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (held && !held.moved) this.go(plane, event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight);
      held = null;
    });
    canvas.addEventListener("pointercancel", () => { held = null; });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|INPUT)$/.test(event.target.tagName)) return;
    const steps = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 };
    const { planes } = this.data;
    if (event.key in steps) this.step(steps[event.key]);
    else if (event.key === "o") this.toggle();
    else if (event.key === "x") { this.noCross = !this.noCross; this.draw(); }
    else if (event.key === "r") this.reset();
    else if (event.key === "0" && planes.length > 1) this.arrange("all");
    else if (planes.length > 1 && planes[event.key - 1]) this.arrange(planes[event.key - 1]);
    else return;
    event.preventDefault();
  }

  get level() { const [low, high] = this.loaded.get(this.channel).window; return (low + high) / 2; }
  get width() { const [low, high] = this.loaded.get(this.channel).window; return high - low; }

  window(level, width) {
    const { window: [low, high] } = this.data.channels[this.channel];
    width = Math.max(width, (high - low) / 500);
    this.loaded.get(this.channel).window = [level - width / 2, level + width / 2];
  }

  step(count) {
    const axis = PLANES[this.active].normal;
    const [start, stop] = this.data.box[axis];
    this.point[axis] = clamp(this.point[axis] + count, start, stop - 1);
    this.draw();
  }

  go({ across, down }, x, y) {
    for (const [axis, part] of [[across, 1 - x], [down, 1 - y]]) {
      const [start, stop] = this.data.box[axis];
      this.point[axis] = clamp(start + Math.floor(part * (stop - start)), start, stop - 1);
    }
    this.draw();
  }

  toggle() {
    const on = !Object.keys(this.boxes).some((side) => this.shown[side]);
    for (const side of Object.keys(this.boxes)) this.shown[side] = this.boxes[side].checked = on;
    this.draw();
  }

  arrange(layout) {
    this.layout = layout;
    if (layout !== "all") this.active = layout;
    this.layouts.value = layout;
    this.draw();
  }

  reset() {
    this.point = [...this.data.point];
    this.loaded.get(this.channel).window = [...this.data.channels[this.channel].window];
    this.draw();
  }

  // --- drawing

  draw() {
    if (this.waiting || !this.loaded.has(this.channel)) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint(); });
  }

  paint() {
    const views = this.views.filter((view) => this.layout === "all" || view.name === this.layout);
    this.views.forEach((view) => { view.part.hidden = !views.includes(view); });
    const room = this.root.clientWidth - 8 * (views.length - 1) - 2;
    const across = views.reduce((sum, { plane }) => sum + this.extent[plane.across], 0);
    const down = Math.max(...views.map(({ plane }) => this.extent[plane.down]));
    const scale = Math.min(room / across, Math.max(240, innerHeight * (views.length > 1 ? 0.6 : 0.72)) / down);
    for (const view of views) this.paintView(view, scale);
    const { values, codes, window: [low, high] } = this.loaded.get(this.channel);
    const digits = high - low > 20 ? 0 : 3;
    this.inputs.level.value = this.level.toFixed(digits);
    this.inputs.width.value = this.width.toFixed(digits);
    const { image, channels, colour, spacing, letters } = this.data;
    const cell = cellAt(this.data, image, this.point);
    const at = cell[0] + image[0] * (cell[1] + image[1] * cell[2]);
    const { name, unit } = channels[this.channel];
    const value = colour ? "" : `${name} about ${values[codes[0][at]].toFixed(digits)} ${unit}`.trimEnd();
    const said = [value, ...Object.keys(this.maps).map((side) => `${side}: ${this.labelsAt(side) || "nothing"}`)];
    const cut = image.some((n, axis) => n < this.size[axis]);
    const side = image.map((n, axis) => (this.extent[axis] / n).toFixed(1)).filter((_, axis) => this.size[axis] > 1);
    if (letters && cut) said.push(`shown at ${side.join(" × ")} mm, scan ${spacing.map((s) => s.toFixed(1)).join(" × ")} mm`);
    this.says.textContent = said.filter(Boolean).join("  ·  ");
  }

  labelsAt(side) {
    const shape = this.data.labels.shape;
    const [x, y, z] = cellAt(this.data, shape, this.point);
    const value = this.maps[side][x + shape[0] * (y + shape[1] * z)];
    return this.data.names.filter(([, values]) => values.includes(value)).map(([name]) => name).join(" + ");
  }

  paintView({ name, canvas, slider, plane }, scale) {
    const ratio = window.devicePixelRatio || 1;
    const [wide, tall] = [plane.across, plane.down].map((axis) => Math.max(1, Math.round(this.extent[axis] * scale)));
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${tall}px`;
    canvas.width = Math.round(wide * ratio);
    canvas.height = Math.round(tall * ratio);
    slider.style.width = `${wide}px`;
    slider.value = this.point[plane.normal];
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.imageSmoothingQuality = "high";
    const { data, point } = this;
    context.drawImage(sliceCanvas(data, this.loaded.get(this.channel), plane, point), 0, 0, wide, tall);
    const maps = Object.fromEntries(Object.entries(this.maps).filter(([side]) => this.shown[side]));
    if (Object.keys(maps).length) {
      const { shape } = data.labels;
      const wanted = data.names.find(([label]) => label === this.label)?.[1];
      drawContours(context, { shape, maps, wanted }, plane, cellAt(data, shape, point), wide, tall);
    }
    const part = (axis) => 1 - (point[axis] + 0.5 - data.box[axis][0]) / this.size[axis];
    if (!this.noCross && data.planes.length > 1) {
      drawCross(context, part(plane.across) * wide, part(plane.down) * tall, wide, tall);
    }
    const count = data.shape[plane.normal];
    const tilted = data.oblique ? " (oblique)" : "";
    const title = count > 1 ? `${name}${tilted} ${point[plane.normal] + 1}/${count}` : "";
    drawWords(context, title, data.letters ? plane.letters : "", wide, tall, scale);
    canvas.ariaLabel = canvas.dataset.slice = title;
  }
}

for (const stage of document.querySelectorAll(".stage[data-for]")) {
  const button = stage.querySelector("button");
  const root = stage.querySelector(".viewer");
  button.hidden = false;
  const open = async () => {
    button.disabled = true;
    const viewer = new Viewer(root, JSON.parse(document.getElementById(stage.dataset.for).textContent));
    root.hidden = false;
    stage.classList.add("live");
    try {
      await viewer.open();
      root.viewer = viewer;
    } catch (error) {
      stage.classList.remove("live");
      root.hidden = true;
      button.textContent = `The viewer cannot run in this browser (${error.message})`;
    }
  };
  button.addEventListener("click", open);
  stage.querySelector("img").addEventListener("click", open);
}
