(() => {
  const root = document.getElementById("__ID__");
  const frames = root.querySelectorAll(".ictl-slider-stage img");
  const range = root.querySelector("input");
  const shown = root.querySelector("output");
  const names = __LABELS__;
  const pick = () => {
    frames.forEach((frame, i) => { frame.hidden = i !== Number(range.value); });
    shown.textContent = names[range.value];
    range.setAttribute("aria-valuetext", names[range.value]);
  };
  range.hidden = false;
  range.addEventListener("input", pick);
  pick();
})();
