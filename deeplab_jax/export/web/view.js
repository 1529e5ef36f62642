// What is shown of an answer: the overlay, the legend, the class at a point.

const element = (id) => document.getElementById(id);
const MANY = 30;  // names in one line

// A new element with text, which is never read as HTML: names of classes may
// hold anything.
function make(tag, name, text = "") {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
}

export class View {
  #names;
  #colors;
  #labels = null;
  #width = 0;
  #height = 0;
  #only = null;  // the class that is shown alone

  constructor(names, colors) {
    // Without what would turn or hide the text around it.
    this.#names = names.map((name) => name.replace(/\p{C}/gu, "\ufffd"));
    this.#colors = colors;
    const overlay = element("overlay");
    overlay.addEventListener("pointermove", (event) => this.#hover(event));
    overlay.addEventListener("pointerleave", () => this.#hover(null));
    const opacity = element("opacity");
    const fade = () => {
      overlay.style.opacity = opacity.value / 100;
      element("percent").textContent = `${opacity.value} %`;
    };
    opacity.addEventListener("input", fade);
    fade();
  }

  // Shows a picture, a canvas, and the labels of its pixels.
  show(picture, labels) {
    const shown = element("picture");
    [this.#width, this.#height] = [picture.width, picture.height];
    this.#labels = labels;
    for (const canvas of [shown, element("overlay")]) {
      [canvas.width, canvas.height] = [picture.width, picture.height];
    }
    shown.getContext("2d").drawImage(picture, 0, 0);
    element("frame").classList.remove("empty");
    this.#listClasses();
    this.#paint();
  }

  #paint() {
    const context = element("overlay").getContext("2d");
    const image = context.createImageData(this.#width, this.#height);
    // One number a pixel is set far quicker than four.
    const pixels = new Uint32Array(image.data.buffer);
    const paints = Uint32Array.from(this.#colors, ([r, g, b], index) =>
      this.#only === null || this.#only === index
        ? (255 << 24 | b << 16 | g << 8 | r) >>> 0 : 0);
    this.#labels.forEach((label, i) => pixels[i] = paints[label]);
    context.putImageData(image, 0, 0);
  }

  #listClasses() {
    const counts = new Uint32Array(this.#names.length);
    for (const label of this.#labels) counts[label]++;
    const order = [...counts.keys()].sort((a, b) => counts[b] - counts[a]);
    const present = order.filter((index) => counts[index]);
    if (!present.includes(this.#only)) this.#only = null;
    element("legend").replaceChildren(...present.map((index) =>
      this.#entry(index, counts[index] / this.#labels.length)));
    const absent = order.filter((index) => !counts[index]).sort((a, b) => a - b);
    const names = absent.length > MANY
      ? `${absent.length} of ${counts.length} classes`
      : absent.map((index) => this.#names[index]).join(", ");
    element("absent").textContent = names && `Not seen here: ${names}`;
  }

  #entry(index, share) {
    const button = make("button", "");
    const swatch = make("span", "swatch");
    swatch.style.backgroundColor = `rgb(${this.#colors[index].join(" ")})`;
    button.type = "button";
    button.title = "Show this class alone";
    button.setAttribute("aria-pressed", this.#only === index);
    button.append(swatch, make("span", "name", this.#names[index]),
      make("span", "share", percent(share)));
    button.addEventListener("click", () => {
      this.#only = this.#only === index ? null : index;
      for (const other of element("legend").querySelectorAll("button")) {
        other.setAttribute("aria-pressed",
          other === button && this.#only !== null);
      }
      this.#paint();
    });
    const entry = document.createElement("li");
    entry.append(button);
    return entry;
  }

  // Names the class below the pointer.
  #hover(event) {
    const label = event && this.#labels ? this.#labelAt(event) : undefined;
    element("hover").hidden = label === undefined;
    element("hover").textContent = this.#names[label] ?? "";
  }

  #labelAt(event) {
    const box = event.target.getBoundingClientRect();
    // The canvas is fitted into its box.
    const scale = Math.min(box.width / this.#width, box.height / this.#height);
    const x = Math.floor(
      (event.clientX - box.left - box.width / 2) / scale + this.#width / 2);
    const y = Math.floor(
      (event.clientY - box.top - box.height / 2) / scale + this.#height / 2);
    const inside = x >= 0 && x < this.#width && y >= 0 && y < this.#height;
    return inside ? this.#labels[y * this.#width + x] : undefined;
  }
}

function percent(share) {
  return share < .0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}
