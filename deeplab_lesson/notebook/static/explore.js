// Drives every figure.deeplab-explore whose controls are not driven yet. A page of the book loads this file; in a
// notebook each figure carries it along. Nothing is kept outside of the figure's own elements.
(() => {
  "use strict";

  const start = (figure) => {
    if (figure.dataset.driven) return;
    figure.dataset.driven = "yes";
    const controls = [...figure.querySelectorAll(".explore-control input, .explore-control select")];
    const frames = [...figure.querySelectorAll(".explore-frames img")];
    const line = figure.querySelector(".explore-label");
    const lines = line ? JSON.parse(line.dataset.texts) : [];

    const show = () => {
      let place = 0; // the last control changes fastest
      for (const control of controls) {
        if (control.type !== "range") {
          place = place * control.options.length + control.selectedIndex;
          continue;
        }
        const texts = JSON.parse(control.dataset.texts);
        const text = texts[Number(control.value)];
        control.setAttribute("aria-valuetext", text);
        control.parentElement.querySelector(".explore-value").textContent = text;
        place = place * texts.length + Number(control.value);
      }
      frames.forEach((frame, index) => {
        frame.hidden = index !== place;
      });
      if (line && line.textContent !== lines[place]) line.textContent = lines[place];
    };

    for (const control of controls) {
      control.disabled = false;
      control.addEventListener("input", show);
    }
    // Where the frames are files that wait until they are seen, a hand near the slider lets them come.
    const fetchAll = () => frames.forEach((frame) => frame.removeAttribute("loading"));
    for (const approach of ["pointerenter", "focusin"]) figure.addEventListener(approach, fetchAll, { once: true });
    show();
  };

  const script = document.currentScript;
  const own = script && script.closest(".deeplab-explore");
  const startAll = () => document.querySelectorAll(".deeplab-explore").forEach(start);
  if (own) start(own);
  else if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", startAll);
  else startAll(); // some notebooks run a script from elsewhere in the page
})();
