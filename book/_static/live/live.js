"use strict";

// The page "A DeepLab in your browser": its controls and where its pictures come from.
{
  const live = window.deeplabLive;
  const { find } = live;
  const root = find("deeplab");

  const start = () => {
    const told = JSON.parse(find("told").textContent);
    const folder = new URL(root.dataset.folder, document.baseURI);
    const stage = new live.Stage(told, new live.Networks(told, folder));
    const chosen = (name) => document.querySelector(`input[name="live-${name}"]:checked`)?.value;

    // ---- pictures --------------------------------------------------------------------------------------------------

    const pictureOf = async (name) => {
      const bytes = await live.fetchBytes(new URL(name, folder), "A picture");
      return createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    };

    const tried = (action) => async (value) => {
      try {
        await action(value);
      } catch (error) {
        stage.say(error.message, true);
      }
    };

    const useScene = tried(async () => {
      const index = Number(chosen("scene"));
      const name = told.scenes[index];
      const [image, label] = await Promise.all([`${name}.png`, `${name}_label.png`].map(pictureOf));
      if (chosen("source") !== "scene" || Number(chosen("scene")) !== index) return; // the reader went on
      const truth = live.toClassIds(live.pixelsOf(label), told.palette, told.void);
      stage.present(live.pixelsOf(image), truth, `Scene ${index + 1}`);
    });

    let drawing = null; // made when the reader first draws
    const useDrawing = tried(async () => {
      if (!drawing) {
        const shapes = Object.keys(told.stamps);
        const stamps = await Promise.all(shapes.map((shape) => pictureOf(`stamp_${shape}.png`)));
        const ground = live.pixelsOf(await pictureOf("ground.png"));
        drawing = new live.Drawing(told, ground, new Map(shapes.map((shape, place) => [shape, stamps[place]])));
        drawing.objects.push(
          { shape: "square", x: 42, y: 46, radius: 28, angle: 0.3, color: "#5a8cd2" },
          { shape: "ring", x: 94, y: 86, radius: 24, angle: 0, color: "#d2963c" },
          { shape: "blob", x: 36, y: 42, radius: 0, angle: 0, color: "#d25a5a" },
        );
      }
      if (chosen("source") !== "drawing") return;
      const { pixels, truth } = drawing.render();
      stage.present(pixels, truth, "Your drawing");
    });

    const useFile = tried(async (file) => {
      const pixels = await live.readFile(file, Math.min(...told.size), 3 * Math.max(...told.size));
      document.querySelector('input[name="live-source"][value="file"]').checked = true;
      showPanels();
      stage.present(pixels, null, file.name);
    });

    const showPanels = () => {
      const source = chosen("source");
      for (const panel of root.querySelectorAll("[data-source]")) panel.hidden = panel.dataset.source !== source;
      const draws = source === "drawing";
      stage.canvas.setAttribute("role", draws ? "application" : "img");
      stage.canvas.classList.toggle("live-drawn", draws);
      if (draws) stage.canvas.tabIndex = 0;
      else stage.canvas.removeAttribute("tabindex");
    };

    // ---- controls --------------------------------------------------------------------------------------------------

    const addRadio = (group, name, value, checked, ...content) => {
      const input = Object.assign(document.createElement("input"), { type: "radio", name: `live-${name}`, value, checked });
      const label = document.createElement("label");
      label.append(input, ...content);
      group.append(label);
      return input;
    };

    told.scenes.forEach((_, index) => {
      const picture = document.createElement("span");
      picture.style.backgroundImage = `url("${new URL("thumbnails.jpg", folder)}")`;
      picture.style.backgroundPosition = `${-index * told.thumbnail}px 0`;
      const input = addRadio(find("thumbnails"), "scene", index, index === 0, picture);
      input.setAttribute("aria-label", `scene ${index + 1}`);
    });

    told.networks.forEach(({ name, title }, index) => addRadio(find("networks"), "network", name, index === 0, title));

    const describe = () => {
      const { note, mean_iou } = stage.network();
      find("note").textContent = `${note}. Mean IoU ${mean_iou} % on the 512 test scenes.`;
    };
    describe();

    told.classes.forEach((name, id) => {
      const row = find("legend").tBodies[0].insertRow();
      const head = Object.assign(document.createElement("th"), { scope: "row" });
      const color = document.createElement("span");
      color.className = "live-color";
      color.style.backgroundColor = `rgb(${told.palette[id].join(" ")})`;
      head.append(color, name);
      row.append(head);
      row.insertCell().textContent = "–";
      row.insertCell().textContent = "–";
    });

    find("thumbnails").addEventListener("change", useScene);
    for (const input of document.getElementsByName("live-source")) {
      input.addEventListener("change", () => {
        showPanels();
        if (input.value === "scene") useScene();
        if (input.value === "drawing") useDrawing();
      });
    }
    find("networks").addEventListener("change", () => {
      describe();
      stage.forget();
      if (stage.started) stage.run();
      else stage.offer();
    });
    find("run").addEventListener("click", () => {
      stage.started = true;
      if (stage.pixels) stage.run();
    });
    const valueShown = (name, unit) => (find(`${name}-value`).textContent = `${find(name).value}${unit}`);
    find("radius").addEventListener("input", () => valueShown("radius", ""));
    find("opacity").addEventListener("input", () => {
      valueShown("opacity", " %");
      stage.show();
    });
    valueShown("radius", ""); // a browser may have kept the values of the last visit
    valueShown("opacity", " %");

    find("file").addEventListener("change", ({ target }) => target.files.length && useFile(target.files[0]));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      const [file] = event.dataTransfer.files;
      if (file) useFile(file);
      else stage.say("What you dropped is no file. Drop a picture file from your computer.", true);
    });

    new live.Hand(stage, () => (chosen("source") === "drawing" ? drawing : null), useDrawing);
    document.getElementsByName("live-source")[0].checked = true;
    find("app").hidden = false;
    showPanels();
    useScene();
  };

  if (root && find("told")) {
    const reason = live.obstacle();
    if (reason) {
      const message = Object.assign(document.createElement("p"), { className: "live-message", textContent: reason });
      root.append(message);
    } else {
      start();
    }
  }
}
