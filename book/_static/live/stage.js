"use strict";

// The stage of the page: the picture with the network's labels over it, the truth beside it, the table, the status line.
{
  const live = window.deeplabLive;
  const find = (id) => document.getElementById(`live-${id}`);
  const percent = (part) => `${(100 * part).toFixed(1)} %`;
  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

  class Stage {
    constructor(told, networks) {
      this.told = told;
      this.networks = networks;
      this.canvas = find("picture");
      this.pixels = null;
      this.truth = null; // class ids, where they are known
      this.labels = null; // what the network said
      this.name = "";
      this.cross = null; // where the keyboard is in a drawing
      this.moving = false; // a shape is in the reader's hand
      this.started = false; // the reader has asked for a network
      this.busy = false;
      this.again = false;
    }

    network() {
      const name = document.querySelector('input[name="live-network"]:checked').value;
      return this.told.networks.find((each) => each.name === name);
    }

    say(text, wrong = false) {
      const status = find("status");
      status.textContent = text;
      status.classList.toggle("live-wrong", wrong);
    }

    // Put another picture on the stage. While a shape is moved, the labels of a moment ago stay until the next ones.
    present(pixels, truth, name) {
      this.pixels = pixels;
      this.truth = truth;
      this.name = name;
      if (!(this.moving && this.started)) this.labels = null;
      this.show();
      if (!this.moving) this.showScores();
      if (this.started) this.run();
      else this.offer();
    }

    offer() {
      const network = this.network();
      const size = megabytes(this.networks.missing(network));
      this.say(`“Segment” fetches ${network.title} and the program that runs it from this site: ${size}.`);
    }

    forget() {
      this.labels = null;
      this.show();
      this.showScores();
    }

    show() {
      if (!this.pixels) return;
      const opacity = Number(find("opacity").value) / 100;
      live.paint(this.canvas, this.pixels, this.labels, this.told.palette, opacity);
      if (this.cross) this.drawCross();
      const caption = this.labels ? `${this.name}, and over it the labels of ${this.network().title}` : this.name;
      this.canvas.setAttribute("aria-label", caption);
      find("picture-caption").textContent = caption;
      find("truth-figure").hidden = !this.truth;
      if (this.truth) {
        const colors = [...this.told.palette];
        colors[this.told.void.id] = this.told.void.color;
        live.paint(find("truth"), this.pixels, this.truth, colors, opacity);
      }
    }

    drawCross() {
      const context = live.contextOf(this.canvas);
      const { x, y } = this.cross;
      for (const [color, width] of [["#000", 3], ["#fff", 1]]) {
        Object.assign(context, { strokeStyle: color, lineWidth: width });
        context.beginPath();
        context.moveTo(x - 6, y);
        context.lineTo(x + 6, y);
        context.moveTo(x, y - 6);
        context.lineTo(x, y + 6);
        context.stroke();
      }
    }

    showScores() {
      const count = this.told.classes.length;
      const parts = this.labels ? live.shares(this.labels, count) : [];
      const scores = this.labels && this.truth ? live.score(this.truth, this.labels, count, this.told.void) : null;
      [...find("legend").tBodies[0].rows].forEach((row, id) => {
        row.cells[1].textContent = parts[id] ? percent(parts[id]) : "–";
        row.cells[2].textContent = scores && scores.iou[id] !== null ? percent(scores.iou[id]) : "–";
      });
      find("mean").textContent = scores ? percent(scores.mean) : "–";
      return scores;
    }

    // Segment what is on the stage; what is put there meanwhile is next.
    async run() {
      this.again = this.busy;
      if (this.busy) return;
      this.busy = true;
      try {
        do {
          this.again = false;
          await this.runOnce();
          await new Promise(requestAnimationFrame);
        } while (this.again);
      } catch (error) {
        this.started = false;
        this.say(error.message, true);
      } finally {
        this.busy = false;
      }
    }

    async runOnce() {
      const [pixels, network] = [this.pixels, this.network()];
      const missing = this.networks.missing(network);
      if (missing) this.say(`Fetching ${network.title}, ${megabytes(missing)} …`);
      const { labels, milliseconds } = await this.networks.run(network, pixels);
      if (pixels !== this.pixels || network !== this.network()) {
        this.again = true; // the reader went on
        return;
      }
      this.labels = labels;
      this.show();
      const scores = this.showScores();
      if (this.moving) return; // said at every step, a screen reader would not come to an end
      const worth = scores ? `, mean IoU ${percent(scores.mean)}` : "";
      this.say(`${this.name}: ${network.title} took ${Math.round(milliseconds)} ms${worth}.`);
    }
  }

  Object.assign(live, { find, Stage });
}
