"use strict";

// Pictures and labels as numbers: read, normalize, score, paint. Nothing here knows the page or the network.
{
  const canvasOf = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

  const contextOf = (canvas) => canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });

  // The pixels of a bitmap, reduced or enlarged to a size: bilinear, with the steps between that a large reduction asks.
  const pixelsOf = (bitmap, width = bitmap.width, height = bitmap.height) => {
    const context = contextOf(canvasOf(width, height));
    context.fillStyle = "#fff"; // under what is transparent
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "medium";
    context.drawImage(bitmap, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  };

  // The size at which a picture is shown to the network: its short side as in training, its long side bounded.
  const shownSize = (width, height, short, longest) => {
    const scale = short / Math.min(width, height);
    const bounded = (side) => Math.max(1, Math.min(longest, Math.round(side * scale)));
    return [bounded(width), bounded(height)];
  };

  // Of a file that the reader chose. The middle of one that is longer than three times its height is shown.
  const readFile = async (file, short, longest) => {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      throw new Error(
        `${file.name} is no picture that this browser can read. Choose a PNG, JPEG, WebP or GIF file; ` +
          "if it is one, it is damaged.",
      );
    }
    const [width, height] = shownSize(bitmap.width, bitmap.height, short, longest);
    const scale = short / Math.min(bitmap.width, bitmap.height);
    const [cutWidth, cutHeight] = [Math.min(bitmap.width, width / scale), Math.min(bitmap.height, height / scale)];
    const [left, top] = [(bitmap.width - cutWidth) / 2, (bitmap.height - cutHeight) / 2];
    const context = contextOf(canvasOf(width, height));
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "medium";
    context.drawImage(bitmap, left, top, cutWidth, cutHeight, 0, 0, width, height);
    bitmap.close();
    return context.getImageData(0, 0, width, height);
  };

  // Interleaved bytes [H, W, 4] to normalized planes [3, H, W].
  const toTensor = (pixels, mean, std) => {
    const count = pixels.width * pixels.height;
    const values = new Float32Array(3 * count);
    for (let channel = 0; channel < 3; channel += 1) {
      for (let place = 0; place < count; place += 1) {
        values[channel * count + place] = (pixels.data[4 * place + channel] / 255 - mean[channel]) / std[channel];
      }
    }
    return values;
  };

  // Logits [C, H, W] to class ids [H, W]; of equal ones the first, as in PyTorch.
  const argmax = (logits, classes) => {
    const count = logits.length / classes;
    const labels = new Uint8Array(count);
    const best = logits.slice(0, count);
    for (let id = 1; id < classes; id += 1) {
      for (let place = 0; place < count; place += 1) {
        const value = logits[id * count + place];
        if (value > best[place]) {
          best[place] = value;
          labels[place] = id;
        }
      }
    }
    return labels;
  };

  // A label picture's colors to class ids.
  const toClassIds = (pixels, palette, nothing) => {
    const key = (red, green, blue) => (red << 16) | (green << 8) | blue;
    const ids = new Map(palette.map((color, id) => [key(...color), id]));
    ids.set(key(...nothing.color), nothing.id);
    const labels = new Uint8Array(pixels.width * pixels.height);
    for (let place = 0; place < labels.length; place += 1) {
      const id = ids.get(key(...pixels.data.subarray(4 * place, 4 * place + 3)));
      if (id === undefined) return null; // a browser that changes colors on reading: then there is no truth to compare
      labels[place] = id;
    }
    return labels;
  };

  // IoU by class, as deeplab_lesson.metrics.ConfusionMatrix: null for a class in neither; void counts nowhere.
  const score = (truth, labels, classes, nothing) => {
    const [both, either] = [new Array(classes).fill(0), new Array(classes).fill(0)];
    for (let place = 0; place < truth.length; place += 1) {
      if (truth[place] === nothing.id) continue;
      either[truth[place]] += 1;
      if (truth[place] === labels[place]) both[truth[place]] += 1;
      else either[labels[place]] += 1;
    }
    const iou = both.map((count, id) => (either[id] ? count / either[id] : null));
    const known = iou.filter((value) => value !== null);
    return { iou, mean: known.reduce((sum, value) => sum + value, 0) / known.length };
  };

  // The part of the picture that each class takes.
  const shares = (labels, classes) => {
    const counts = new Array(classes).fill(0);
    for (const id of labels) counts[id] += 1;
    return counts.map((count) => count / labels.length);
  };

  // The picture with the labels' colors over it. Background and void leave it as it is, as in deeplab_lesson's overlay.
  const paint = (canvas, pixels, labels, palette, opacity) => {
    canvas.width = pixels.width;
    canvas.height = pixels.height;
    const mixed = new ImageData(new Uint8ClampedArray(pixels.data), pixels.width, pixels.height);
    for (let place = 0; labels && place < labels.length; place += 1) {
      const color = labels[place] ? palette[labels[place]] : null;
      for (let channel = 0; color && channel < 3; channel += 1) {
        const at = 4 * place + channel;
        mixed.data[at] = Math.round((1 - opacity) * pixels.data[at] + opacity * color[channel]);
      }
    }
    contextOf(canvas).putImageData(mixed, 0, 0);
  };

  window.deeplabLive = { canvasOf, contextOf, pixelsOf, readFile, toTensor, argmax, toClassIds, score, shares, paint };
}
