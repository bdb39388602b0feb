"use strict";

// A scene that the reader draws: shapes on a ground, seen through the lens and on the sensor that Scenes has too.
{
  const live = window.deeplabLive;
  const NOISE_SIGMA = 5; // gray levels, the middle of what Scenes takes
  const BLOB_RADIUS = 2.6;
  const WIRE_WIDTH = 2;
  const WIRE_LENGTH = 4; // in radii

  // The same noise at every look, so that nothing flickers while a shape is moved.
  const sensorNoise = (count) => {
    let seed = 1;
    const uniform = () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed / 2 ** 32;
    };
    return Float32Array.from({ length: count }, () => {
      const sum = uniform() + uniform() + uniform() + uniform() - 2; // bell-shaped enough, deviation 1 / sqrt(3)
      return sum * Math.sqrt(3) * NOISE_SIGMA;
    });
  };

  // The lens: [1 2 1] x [1 2 1] / 16; the border repeats.
  const photograph = (pixels, noise) => {
    const { width, height, data } = pixels;
    const seen = new ImageData(width, height);
    const at = (row, column, channel) => {
      const y = Math.min(height - 1, Math.max(0, row));
      const x = Math.min(width - 1, Math.max(0, column));
      return data[4 * (y * width + x) + channel];
    };
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        const place = y * width + x;
        for (let channel = 0; channel < 3; channel += 1) {
          let sum = 0;
          for (let dy = -1; dy <= 1; dy += 1) {
            const row = at(y + dy, x - 1, channel) + 2 * at(y + dy, x, channel) + at(y + dy, x + 1, channel);
            sum += (2 - Math.abs(dy)) * row;
          }
          seen.data[4 * place + channel] = sum / 16 + noise[3 * place + channel]; // clamped by its type
        }
        seen.data[4 * place + 3] = 255;
      }
    }
    return seen;
  };

  class Drawing {
    constructor(told, ground, stamps) {
      this.told = told;
      this.ground = ground;
      this.stamps = stamps;
      this.objects = []; // { shape, x, y, radius, angle, color }: places and radii in pixels
      this.noise = sensorNoise(3 * ground.width * ground.height);
      this.scratch = live.contextOf(live.canvasOf(ground.width, ground.height));
    }

    // One object alone, on nothing.
    layOut(context, { shape, x, y, radius, angle, color }) {
      const { width, height } = this.ground;
      context.save();
      context.clearRect(0, 0, width, height);
      context.imageSmoothingQuality = "high";
      context.translate(x, y);
      context.rotate(angle);
      if (shape === "wire") {
        context.fillRect((-WIRE_LENGTH * radius) / 2, -WIRE_WIDTH / 2, WIRE_LENGTH * radius, WIRE_WIDTH);
      } else {
        const stamp = this.stamps.get(shape === "blob" ? "disk" : shape);
        const scale = (shape === "blob" ? BLOB_RADIUS : radius) / this.told.stamp_radius;
        context.scale(scale, scale);
        context.drawImage(stamp, -stamp.width / 2, -stamp.height / 2);
      }
      context.restore();
      context.save();
      context.globalCompositeOperation = "source-in";
      context.fillStyle = color;
      context.fillRect(0, 0, width, height);
      context.restore();
    }

    classOf({ shape, x, y }, truth) {
      const { blob, stamps, wire } = this.told;
      if (shape === "wire") return wire;
      if (shape !== "blob") return stamps[shape];
      const { width, height } = this.ground;
      const row = Math.min(height - 1, Math.max(0, Math.floor(y)));
      const column = Math.min(width - 1, Math.max(0, Math.floor(x)));
      return blob.hosts.includes(truth[row * width + column]) ? blob.object : blob.ground;
    }

    // The picture as the network sees it, and its true labels, with a ring of void around each object as in Scenes.
    render() {
      const { width, height } = this.ground;
      const colors = live.contextOf(live.canvasOf(width, height));
      colors.putImageData(this.ground, 0, 0);
      const truth = new Uint8Array(width * height);
      for (const object of this.objects) {
        this.layOut(this.scratch, object);
        colors.drawImage(this.scratch.canvas, 0, 0);
        const { data } = this.scratch.getImageData(0, 0, width, height);
        const inside = (y, x) => y >= 0 && y < height && x >= 0 && x < width && data[4 * (y * width + x) + 3] >= 128;
        const id = this.classOf(object, truth);
        for (let y = 0; y < height; y += 1) {
          for (let x = 0; x < width; x += 1) {
            if (inside(y, x)) truth[y * width + x] = id;
            else if (data[4 * (y * width + x) + 3] || this.touches(inside, y, x)) truth[y * width + x] = this.told.void.id;
          }
        }
      }
      return { pixels: photograph(colors.getImageData(0, 0, width, height), this.noise), truth };
    }

    touches(inside, y, x) {
      for (let dy = -1; dy <= 1; dy += 1) {
        for (let dx = -1; dx <= 1; dx += 1) {
          if (inside(y + dy, x + dx)) return true;
        }
      }
      return false;
    }
  }

  // A color as vivid as those of objects in Scenes.
  const vividColor = () => {
    const gray = 90 + 100 * Math.random();
    for (;;) {
      const color = [0, 0, 0].map(() => Math.round(gray + 150 * (Math.random() - 0.5)));
      if (Math.max(...color) - Math.min(...color) >= 80) {
        const bounded = color.map((level) => Math.min(255, Math.max(0, level)));
        return `#${bounded.map((level) => level.toString(16).padStart(2, "0")).join("")}`;
      }
    }
  };

  Object.assign(live, { Drawing, vividColor });
}
