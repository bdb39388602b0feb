"use strict";

// Whatever scrolls sideways by itself can be reached with Tab and scrolled with the arrow keys. The theme does this for
// code and printed text only.
{
  const scrolling = ".formula-block, .pst-scrollable-table-container";
  const update = () => {
    for (const element of document.querySelectorAll(scrolling)) {
      const wide = element.scrollWidth > element.clientWidth;
      if (wide) element.tabIndex = 0;
      else element.removeAttribute("tabindex");
    }
  };
  addEventListener("load", update);
  addEventListener("resize", update);

  // A slider's hidden frames are fetched when the reader turns to it.
  for (const slider of document.querySelectorAll(".deeplab-explore")) {
    const fetchFrames = () => slider.querySelectorAll("img").forEach((frame) => (frame.loading = "eager"));
    slider.addEventListener("pointerenter", fetchFrames, { once: true });
    slider.addEventListener("focusin", fetchFrames, { once: true });
    slider.addEventListener("touchstart", fetchFrames, { once: true, passive: true });
  }
}

// Paper is white: a page that is read in dark is printed in light.
{
  const root = document.documentElement;
  let theme = root.dataset.theme;
  addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
  });
  addEventListener("afterprint", () => (root.dataset.theme = theme));
}
