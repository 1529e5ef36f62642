// The network in its worker. Looks at one picture at a time; of those that come
// meanwhile, only the newest is looked at.

export class Network {
  #worker;
  #opened = null;  // a promise
  #answer;  // what takes the next message of the worker
  #waiting = null;
  #busy = false;

  // Opens model.onnx, once; gives {threads}, or throws what went wrong.
  open() {
    this.#opened ??= this.#startWorker();
    return this.#opened;
  }

  #startWorker() {
    this.#worker = new Worker("worker.js");
    this.#worker.onmessage = ({data}) => this.#answer(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#answer({error: event.message || "worker.js cannot be run"});
    };
    return this.#next();
  }

  // Looks at {pixels, width, height}, pixels RGB of 8 bits, and gives {labels,
  // milliseconds}; null if a newer picture has come. Throws what went wrong.
  async look(task) {
    this.#waiting?.drop();
    const turn = new Promise((start) => {
      this.#waiting = {start, drop: () => start(false)};
    });
    if (!this.#busy) this.#start();
    if (!await turn) return null;
    try {
      await this.open();
      this.#worker.postMessage(task, [task.pixels.buffer]);
      return await this.#next();
    } catch (error) {
      // After a lack of memory it would answer nothing more.
      this.#worker.terminate();
      this.#opened = null;
      throw error;
    } finally {
      this.#busy = false;
      if (this.#waiting) this.#start();
    }
  }

  #start() {
    this.#busy = true;
    const {start} = this.#waiting;
    this.#waiting = null;
    start(true);
  }

  async #next() {
    const data = await new Promise((resolve) => this.#answer = resolve);
    if (data.error) throw new Error(data.error);
    return data;
  }
}
