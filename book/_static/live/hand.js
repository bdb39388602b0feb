"use strict";

// Drawing on the stage: with mouse, pen or finger, and by keyboard.
{
  const live = window.deeplabLive;
  const STEP = 4; // pixels an arrow key moves the cross; 1 with Shift
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  class Hand {
    // `drawing` gives the drawing while the reader draws, else null; `changed` is called after each change.
    constructor(stage, drawing, changed) {
      Object.assign(this, { stage, drawing, changed, held: null });
      const canvas = stage.canvas;
      canvas.addEventListener("keydown", (event) => this.press(event));
      canvas.addEventListener("focus", () => this.arrive());
      canvas.addEventListener("blur", () => this.leave());
      canvas.addEventListener("pointerdown", (event) => this.take(event));
      canvas.addEventListener("pointermove", (event) => this.move(event));
      canvas.addEventListener("pointerup", () => this.letGo());
      canvas.addEventListener("pointercancel", () => this.letGo());
      live.find("undo").addEventListener("click", () => this.remove(1));
      live.find("clear").addEventListener("click", () => this.remove(Infinity));
    }

    put(x, y) {
      const object = {
        shape: live.find("shape").value,
        radius: Number(live.find("radius").value),
        color: live.find("color").value,
        angle: 2 * Math.PI * Math.random(),
        x,
        y,
      };
      this.drawing().objects.push(object);
      return object;
    }

    remove(count) {
      const objects = this.drawing()?.objects;
      if (!objects?.length) return;
      objects.splice(Math.max(0, objects.length - count));
      this.changed();
    }

    // Pointer: a shape is placed where it is let go.
    place(event) {
      const { canvas } = this.stage;
      const box = canvas.getBoundingClientRect();
      const across = (event.clientX - box.left) / box.width;
      const down = (event.clientY - box.top) / box.height;
      return [across * canvas.width, down * canvas.height];
    }

    take(event) {
      if (!this.drawing() || event.button !== 0) return;
      this.stage.canvas.setPointerCapture(event.pointerId);
      this.stage.cross = null;
      this.stage.moving = true;
      this.held = this.put(...this.place(event));
      this.changed();
    }

    move(event) {
      if (!this.held) return;
      [this.held.x, this.held.y] = this.place(event);
      this.changed();
    }

    letGo() {
      if (!this.held) return;
      this.held = null;
      this.stage.moving = false;
      this.finish();
    }

    finish() {
      live.find("color").value = live.vividColor(); // the next object has another one
      this.changed();
    }

    // Keyboard: a cross stands where the next shape will be.
    arrive() {
      const { canvas } = this.stage;
      if (!this.drawing() || !canvas.matches(":focus-visible")) return;
      this.stage.cross = { x: canvas.width / 2, y: canvas.height / 2 };
      this.stage.show();
    }

    leave() {
      if (!this.stage.cross) return;
      this.stage.cross = null;
      this.stage.show();
    }

    press(event) {
      if (!this.drawing() || event.altKey || event.ctrlKey || event.metaKey) return;
      const { canvas } = this.stage;
      const cross = (this.stage.cross ??= { x: canvas.width / 2, y: canvas.height / 2 });
      if (event.key in STEPS) {
        const [across, down] = STEPS[event.key].map((way) => way * (event.shiftKey ? 1 : STEP));
        cross.x = Math.min(canvas.width - 1, Math.max(0, cross.x + across));
        cross.y = Math.min(canvas.height - 1, Math.max(0, cross.y + down));
        this.stage.show();
      } else if (event.key === "Enter" || event.key === " ") {
        this.put(cross.x, cross.y);
        this.finish();
      } else if (event.key === "Backspace" || event.key === "Delete") {
        this.remove(1);
      } else {
        return;
      }
      event.preventDefault();
    }
  }

  live.Hand = Hand;
}
